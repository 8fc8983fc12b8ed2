//! Tests that need a process of their own: the test program executes itself for one test.

use std::env;
use std::fs;
use std::process::{self, Command, Stdio};
use std::thread;

/// Environment variable of such a process: the test, and the part that the process plays in it.
const PART: &str = "POETRY_SUITE_PART";

/// The exit status of a part played to its end. Not 0, which a test that is not found ends with.
pub(crate) const DONE: i32 = 42;

/// The command that plays `part` in `test` (`daemon::module::tests::name`).
pub(crate) fn again(test: &str, part: &str) -> Command {
    let mut command = Command::new(env::current_exe().expect("this program"));
    command.args([test, "--exact", "--nocapture", "--quiet"]).stdin(Stdio::null());
    command.env(PART, format!("{test} {part}"));
    command
}

/// The part that this process plays in `test`; `None` in the test proper.
pub(crate) fn part(test: &str) -> Option<String> {
    env::var(PART).ok()?.strip_prefix(test)?.strip_prefix(' ').map(str::to_owned)
}

/// Runs the body of `test` in a process of its own.
pub(crate) fn alone(test: &str, body: impl FnOnce()) {
    if part(test).is_some() {
        // While the main thread still starts something, a change of ids can kill it.
        wait_for_main_thread();
        body();
        // A change of ids is a signal to it, which it handles on a stack that exit(3) takes away.
        wait_for_main_thread();
        process::exit(DONE);
    }
    let ended = again(test, "alone").output().expect("run again");
    let said = [ended.stdout, ended.stderr].concat();
    assert_eq!(ended.status.code(), Some(DONE), "{}: {}", ended.status, String::from_utf8_lossy(&said));
}

/// Waits until the main thread sleeps.
fn wait_for_main_thread() {
    while !fs::read_to_string("/proc/self/stat").expect("a process").contains(") S ") {
        thread::yield_now();
    }
}

/// Whether the test runs as root; if not, says on stderr that it is skipped.
pub(crate) fn is_root(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        use std::io::Write as _;
        // Written directly: output through `eprintln!` is captured and dropped when a test succeeds.
        let _ = writeln!(std::io::stderr(), "skipped, as only root can do this: {test}");
    }
    root
}
