//! poetryd: the async servers as one service, in the foreground and in the background, by hand and under systemd.

mod background;
mod config;
mod log;
mod lossless;
mod metrics;
mod program;
mod start;
mod systemd;
mod user;

use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use rustix::process::{PidfdFlags, pidfd_open};
use tempfile::TempDir;

use crate::harness::{Finished, poem_file, program, read_out, run};

/// The programs that can be services.
const PROGRAMS: [&str; 10] = [
    "fastpoetry",
    "transformedpoetry",
    "poetry-proxy",
    "poetry-chaos",
    "poetry-broker",
    "tcp-charfinder",
    "http-charfinder",
    "poetry-monitor",
    "poetry-library",
    "poetry-anthology",
];

/// A directory that no process of its test outlives: a service in the background is nobody's child here.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        // Services that become other users read their poems here.
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).expect("set");
        Self(directory)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The same, as a word of a command line.
    fn word(&self, name: &str) -> String {
        self.path(name).to_str().expect("UTF-8").to_owned()
    }

    fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).expect("written");
        self.word(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// The processes with this place in their command lines. Those that have ended have none.
    fn processes(&self) -> Vec<i32> {
        let place = self.0.path().as_os_str().as_bytes();
        let is_here = |pid: &i32| {
            let words = fs::read(format!("/proc/{pid}/cmdline"));
            words.is_ok_and(|words| words.windows(place.len()).any(|part| part == place))
        };
        let entries = fs::read_dir("/proc").expect("mounted");
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).filter(is_here).collect()
    }

    /// Starts a service in the background, with a pid file and a log file here.
    fn start(&self, args: &[&str]) -> (Finished, Background<'_>) {
        let files = ["--pid-file", &self.word("pid"), "--log-file", &self.word("log")];
        let finished = run("poetryd", [&["--daemon"], &files[..], args].concat());
        assert_eq!((finished.code(), finished.stderr.as_str()), (0, ""), "{finished:?}");
        let pid = self.read("pid").trim_end().parse().expect("a pid");
        assert_eq!(self.processes(), [pid]);
        (finished, Background { place: self, pid })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for pid in self.processes() {
            end(pid, Signal::SIGKILL);
        }
    }
}

/// Ends a process that is nobody's child here, and waits until all that it had is free.
fn end(pid: i32, signal: Signal) {
    let Ok(process) = pidfd_open(rustix::process::Pid::from_raw(pid).expect("a pid"), PidfdFlags::empty()) else {
        return;
    };
    // It may have ended by itself.
    let _ = kill(Pid::from_raw(pid), signal);
    let ended = poll(&mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)], 60_000u16);
    assert_eq!(ended, Ok(1), "process {pid} goes on");
}

/// A service in the background.
struct Background<'a> {
    place: &'a Place,
    pid: i32,
}

impl Background<'_> {
    fn end(self, signal: Signal) {
        assert_eq!(self.place.processes(), [self.pid]);
        end(self.pid, signal);
    }

    fn stop(self) {
        self.end(Signal::SIGTERM);
    }
}

fn poetryd(args: &[&str]) -> Command {
    let mut command = program("poetryd");
    command.args(args);
    command
}

fn poem() -> String {
    poem_file("science.txt").to_str().expect("UTF-8").to_owned()
}

fn text() -> Vec<u8> {
    fs::read(poem()).expect("the poem")
}

/// An address of this machine where no other test has ports.
fn own_interface() -> IpAddr {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let number = process::id() % (1 << 14) * 256 + NEXT.fetch_add(1, Ordering::Relaxed);
    Ipv4Addr::from_bits(Ipv4Addr::new(127, 64, 0, 0).to_bits() + number).into()
}

/// The values of a field in proc_pid_status(5).
fn status(task: &Path, field: &str) -> Vec<String> {
    let status = fs::read_to_string(task.join("status")).expect("a task");
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.expect("a field").split_whitespace().map(str::to_owned).collect()
}

fn tasks(pid: u32) -> Vec<PathBuf> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("a process");
    tasks.map(|task| task.expect("a task").path()).collect()
}

fn is_root() -> bool {
    let root = geteuid().is_root();
    if !root {
        writeln!(io::stderr(), "skipped: not root").expect("told");
    }
    root
}

/// Expects one line on stderr, nothing on stdout, and this exit status.
fn refused(finished: &Finished, code: i32, complaint: &str) {
    assert_eq!(finished.complaint(), format!("poetryd: {complaint}"));
    assert_eq!((finished.code(), &finished.stdout[..]), (code, &b""[..]), "{finished:?}");
}

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/poetry.toml")
}

/// poetryd with this listening socket, as systemd passes it.
fn activated(listener: &TcpListener, args: &[&str]) -> Command {
    let script = "export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$@\" 3<&0 </dev/null";
    let service = poetryd(args);
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(service.get_program()).args(args).env_remove("LISTEN_FDNAMES");
    for (name, value) in service.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.stdin(OwnedFd::from(listener.try_clone().expect("a descriptor")));
    command
}

/// What a server replies to a request.
fn ask(address: SocketAddr, request: &str) -> String {
    let mut client = TcpStream::connect(address).expect("a server");
    client.write_all(request.as_bytes()).expect("sent");
    String::from_utf8(read_out(client).expect("a reply")).expect("UTF-8")
}
