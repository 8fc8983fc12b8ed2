//! SIGINT and SIGTERM as messages to a thread, so that no code has to be safe inside a signal handler.

use std::thread;

use nix::sys::signal::{SigSet, Signal};

/// The signals that ask a program to stop, kept back until somebody [watches](Self::watch) them.
#[derive(Debug)]
pub struct StopSignals(SigSet);

impl StopSignals {
    /// Keeps the signals from ending the process. To be called before there is another thread: threads inherit
    /// this from the one that starts them. (Child processes do not: [`std::process::Command`] undoes it.)
    pub fn block() -> Self {
        let mut set = SigSet::empty();
        set.add(Signal::SIGINT);
        set.add(Signal::SIGTERM);
        // Cannot fail for a valid set, see pthread_sigmask(3).
        let _ = set.thread_block();
        Self(set)
    }

    /// Calls `tell` for each signal from now on, on a thread of its own.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn watch(self, mut tell: impl FnMut(Signal) + Send + 'static) -> std::io::Result<()> {
        let body = move || {
            while let Ok(signal) = self.0.wait() {
                tell(signal);
            }
        };
        thread::Builder::new().name("signals".to_owned()).spawn(body).map(|_| ())
    }
}

/// The exit status of a program that a signal stopped, as shells have it: 130 for Ctrl-C.
pub fn exit_status(signal: Signal) -> u8 {
    128 + u8::try_from(signal as i32).unwrap_or(0)
}
