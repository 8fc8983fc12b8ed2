//! Signals as messages to a thread, so that no code has to be safe inside a signal handler.

use std::fs;
use std::io;
use std::process;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

/// Blocked signals, which wait until a thread [watches](Self::watch) them.
#[derive(Debug)]
pub struct Signals(SigSet);

impl Signals {
    /// Blocks SIGINT, SIGTERM and these others, see pthread_sigmask(3). Call it before other threads are started: they
    /// inherit the mask from the thread that starts them, and so do child processes.
    pub fn block(others: &[Signal]) -> Self {
        let mut set: SigSet = others.iter().copied().collect();
        set.add(Signal::SIGINT);
        set.add(Signal::SIGTERM);
        // Cannot fail for a valid set, see pthread_sigmask(3).
        let _ = set.thread_block();
        // Blocked, SIGXFSZ leaves write(2) to fail with EFBIG, which is handled like any other error of a file.
        let _ = SigSet::from(Signal::SIGXFSZ).thread_block();
        Self(set)
    }

    /// Blocks only these signals, which have to wait for the [`block`](Self::block) of all.
    pub(super) fn hold_back(signals: &[Signal]) {
        let set: SigSet = signals.iter().copied().collect();
        // Cannot fail for a valid set.
        let _ = set.thread_block();
    }

    /// [`block`](Self::block), with SIGHUP for the end of the terminal, unless SIGHUP was ignored at the start (nohup(1)).
    pub fn block_with_hangup() -> Self {
        if is_ignored(Signal::SIGHUP) { Self::block(&[]) } else { Self::block(&[Signal::SIGHUP]) }
    }

    /// Starts a thread that waits for the signals (sigwait(3)) and calls `tell` for each.
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

/// Whether this signal was ignored when the process started: `SigIgn` of proc_pid_status(5).
pub(super) fn is_ignored(signal: Signal) -> bool {
    is_in("SigIgn:", signal)
}

/// Hears this signal, which is blocked, if it has come already: `ShdPnd` of proc_pid_status(5). To be called by the only
/// thread that hears it.
pub(super) fn hear_pending(signal: Signal) -> bool {
    is_in("ShdPnd:", signal) && SigSet::from(signal).wait().is_ok()
}

/// Whether a mask of proc_pid_status(5) has this signal. If it cannot be read, it has not.
fn is_in(mask: &str, signal: Signal) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix(mask)).unwrap_or_default();
    u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask >> (signal as i32 - 1) & 1 == 1)
}

/// Longest time from the reset of the last clients to the exit: enough for log lines about thousands of them on a busy
/// machine. A thread that waits for a file or a full pipe then is not waited for.
pub const LAST_WORDS: Duration = Duration::from_secs(3);

/// Ends the process after this time, whatever its threads wait for then: a full pipe, a dead disk.
pub fn exit_at_the_latest(after: Duration, status: u8) {
    let body = move || {
        thread::sleep(after);
        process::exit(status.into());
    };
    // If no thread can be started, the process ends without a deadline.
    let _ = thread::Builder::new().name("deadline".to_owned()).spawn(body);
}

/// The exit status of a program that a signal stopped, as shells have it: 130 for Ctrl-C.
pub fn exit_status(signal: Signal) -> u8 {
    128 + u8::try_from(signal as i32).unwrap_or(0)
}
