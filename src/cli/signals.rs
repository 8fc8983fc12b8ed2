//! Signals as messages to a thread, so that no code has to be safe inside a signal handler.

use std::fs;
use std::io;
use std::process;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

/// Signals kept back until somebody [watches](Self::watch) them.
#[derive(Debug)]
pub struct Signals(SigSet);

impl Signals {
    /// Keeps SIGINT and SIGTERM, and these others, from ending the process. To be called before there is another
    /// thread: threads inherit this from the one that starts them. (Child processes do not:
    /// [`std::process::Command`] undoes it.)
    pub fn block(others: &[Signal]) -> Self {
        let mut set: SigSet = others.iter().copied().collect();
        set.add(Signal::SIGINT);
        set.add(Signal::SIGTERM);
        // Cannot fail for a valid set, see pthread_sigmask(3).
        let _ = set.thread_block();
        // A file that may not grow is a file that cannot be written, and no reason to die.
        let _ = SigSet::from(Signal::SIGXFSZ).thread_block();
        Self(set)
    }

    /// Like [`block`](Self::block), with SIGHUP for the end of the terminal, unless whoever started the program wants
    /// it to outlive that (nohup(1)).
    pub fn block_with_hangup() -> Self {
        if is_ignored(Signal::SIGHUP) { Self::block(&[]) } else { Self::block(&[Signal::SIGHUP]) }
    }

    /// Calls `tell` for each signal from now on, on a thread of its own.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn watch(self, mut tell: impl FnMut(Signal) + Send + 'static) -> io::Result<()> {
        let body = move || {
            while let Ok(signal) = self.0.wait() {
                tell(signal);
            }
        };
        thread::Builder::new().name("signals".to_owned()).spawn(body).map(|_| ())
    }
}

/// Whether the process was started with this signal ignored, see proc_pid_status(5).
fn is_ignored(signal: Signal) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap_or_default();
    u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask >> (signal as i32 - 1) & 1 == 1)
}

/// What a server may take to say and write down how thousands of clients ended that were just reset, on a machine that is
/// busy. Whoever waits for a file, or a pipe that does not answer, is not waited for any longer.
pub const LAST_WORDS: Duration = Duration::from_secs(3);

/// Ends the process after so long, whatever its threads wait for then: a full pipe, a dead disk.
pub fn exit_at_the_latest(after: Duration, status: u8) {
    let body = move || {
        thread::sleep(after);
        process::exit(status.into());
    };
    // Without a thread the end has to come by itself.
    let _ = thread::Builder::new().name("deadline".to_owned()).spawn(body);
}

/// The exit status of a program that a signal stopped, as shells have it: 130 for Ctrl-C.
pub fn exit_status(signal: Signal) -> u8 {
    128 + u8::try_from(signal as i32).unwrap_or(0)
}
