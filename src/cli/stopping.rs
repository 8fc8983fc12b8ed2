//! What signals ask of a server: to stop, to reload, to report.

use std::process;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use tracing::error;

use super::signals::{LAST_WORDS, Signals};
use super::{Error, SUCCESS};
use crate::errors::reason;
use crate::net::Stoppable;

/// What a signal asks of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// SIGINT or SIGTERM: end, politely at first; the second time at once.
    Stop,
    /// SIGHUP: read again what may have changed.
    Reload,
    /// SIGUSR1: log the totals.
    Report,
}

impl Request {
    fn of(signal: Signal) -> Self {
        match signal {
            Signal::SIGHUP => Self::Reload,
            Signal::SIGUSR1 => Self::Report,
            _ => Self::Stop,
        }
    }

    /// The signals that ask for it.
    fn signals(self) -> &'static [Signal] {
        match self {
            Self::Stop => &[Signal::SIGINT, Signal::SIGTERM],
            Self::Reload => &[Signal::SIGHUP],
            Self::Report => &[Signal::SIGUSR1],
        }
    }
}

/// Keeps the signals of these requests back, and those that stop a server, until [`stop_on`] hears them; all others do
/// what they always do. To be called before there is another thread.
pub fn block(requests: &[Request]) -> Signals {
    let signals: Vec<Signal> = requests.iter().flat_map(|request| request.signals()).copied().collect();
    Signals::block(&signals)
}

/// Stops `server` on SIGINT and SIGTERM; `told` hears of every request.
///
/// The first signal closes the door. The second one, or the end of the grace time, resets the connections that are left.
/// If the server does not end then, because a file or a pipe does not answer, the process does.
///
/// # Errors
/// The system gives no thread.
pub fn stop_on(
    signals: Signals,
    grace: Duration,
    server: impl Stoppable,
    told: impl Fn(Request) + Send + Sync + 'static,
) -> Result<(), Error> {
    let (stop, stops) = mpsc::channel();
    // Started now: when it is needed there may be no thread to be had.
    let body = move || {
        if stops.recv().is_ok() {
            if !server.is_closing() {
                server.close();
                let _ = stops.recv_timeout(grace);
            }
            server.abort();
            thread::sleep(LAST_WORDS);
            process::exit(SUCCESS.into());
        }
    };
    let cannot = |error| Error::cannot("start", "a thread", &error);
    thread::Builder::new().name("stop".to_owned()).spawn(body).map_err(cannot)?;
    let told: Told = Arc::new(told);
    let mut asides = Asides::default();
    let on_signal = move |signal| match Request::of(signal) {
        Request::Stop => {
            let _ = stop.send(());
            told(Request::Stop);
        }
        request => asides.tell(request, signal, &told),
    };
    signals.watch(on_signal).map_err(cannot)
}

type Told = Arc<dyn Fn(Request) + Send + Sync>;

/// A thread for each request that takes its time, so that the next one, which may be to stop, is heard meanwhile.
#[derive(Default)]
struct Asides(Vec<(Request, mpsc::SyncSender<()>)>);

impl Asides {
    fn tell(&mut self, request: Request, signal: Signal, told: &Told) {
        if let Some((_, aside)) = self.0.iter().find(|(known, _)| *known == request) {
            // Full: a run is queued already; coalesce.
            let _ = aside.try_send(());
            return;
        }
        let (aside, requests) = mpsc::sync_channel(1);
        let told = Arc::clone(told);
        let body = move || requests.into_iter().for_each(|()| told(request));
        match thread::Builder::new().name(signal.as_str().to_lowercase()).spawn(body) {
            Ok(_) => {
                let _ = aside.try_send(());
                self.0.push((request, aside));
            }
            Err(error) => error!("Cannot start a thread: {}; {signal} is ignored", reason(&error)),
        }
    }
}
