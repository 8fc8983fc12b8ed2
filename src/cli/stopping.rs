//! What signals ask of a server: to stop, to reload, to report.
//!
//! All servers have one rule. SIGINT and SIGTERM stop them; SIGHUP reloads what can be reloaded and SIGUSR1 logs the
//! totals, and neither ends a server. But a server that was started on a terminal which is gone gets SIGHUP, too: then it
//! stops, unless nohup(1) has started it.

use std::fs::File;
use std::process;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use tracing::{info, warn};

use super::signals::{LAST_WORDS, Signals, exit_at_the_latest, hear_pending, is_ignored};
use super::{Error, journal};
use crate::errors::reason;
use crate::net::Stoppable;
use crate::sync::lock;

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

/// Signals to a server, which wait until [`stop_on`] hears them.
#[derive(Debug)]
pub struct Blocked {
    signals: Signals,
    hangup: Hangup,
}

/// What SIGHUP asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hangup {
    /// The server has a terminal: it stops if that is gone, and reloads if it is not.
    OfTerminal,
    /// The server has none, or does not care (nohup(1)).
    Reload,
}

/// Signals that never end a server, unless its terminal is gone.
const ASIDES: [Signal; 2] = [Signal::SIGHUP, Signal::SIGUSR1];

/// Keeps SIGHUP and SIGUSR1 back: for a time in which SIGINT and SIGTERM are to end the process as they always do.
pub fn hold_back() {
    Signals::hold_back(&ASIDES);
}

/// Keeps the signals that ask something of a server back, until [`stop_on`] hears them. To be called before there is
/// another thread.
pub fn block() -> Blocked {
    let is_cared_for = !is_ignored(Signal::SIGHUP) && File::open(TERMINAL).is_ok();
    let hangup = if is_cared_for { Hangup::OfTerminal } else { Hangup::Reload };
    Blocked { signals: Signals::block(&ASIDES), hangup }
}

/// For what is left to do at the end of a process whose main thread does not answer.
const FAREWELL: Duration = Duration::from_secs(1);

/// The controlling terminal, see tty(4).
const TERMINAL: &str = "/dev/tty";

/// From the SIGHUP of a session whose leader has ended to the moment when the terminal is nobody's any more.
const PARTING: Duration = Duration::from_millis(20);

impl Hangup {
    fn request(self, is_gone: impl Fn() -> bool) -> Request {
        match self {
            Self::Reload => Request::Reload,
            Self::OfTerminal if is_gone() => Request::Stop,
            Self::OfTerminal => Request::Reload,
        }
    }
}

/// Whether the controlling terminal of this process is gone: hung up, or without the leader of its session.
fn is_terminal_gone() -> bool {
    let is_gone = || match File::open(TERMINAL) {
        Err(error) => [Errno::ENXIO, Errno::EIO].iter().any(|&gone| error.raw_os_error() == Some(gone as i32)),
        Ok(_) => false,
    };
    is_gone() || {
        thread::sleep(PARTING);
        is_gone()
    }
}

/// A server that hears signals. Drop it when the server has ended: that waits, not for long, until everything that a
/// signal has asked for by then is done and said, and then does what is left to do [at the end](Self::at_the_end).
#[must_use = "the process would end while its last words are being said"]
pub struct Stopping {
    words: Arc<Words>,
    end: Arc<End>,
    companion: Arc<Companion>,
    trigger: Trigger,
}

impl Stopping {
    /// Does this at the end of the process, whichever thread ends it: the last thing first.
    pub fn at_the_end(&self, last: impl FnOnce() + Send + 'static) {
        lock(&self.end.left).push(Box::new(last));
    }

    /// Has somebody else hear, from now on, of each signal that asks for a stop, and of those that have done so already.
    pub fn accompany(&self, mut told: impl FnMut(Signal) + Send + 'static) {
        let mut companion = lock(&self.companion.0);
        companion.asked.iter().for_each(|&signal| told(signal));
        companion.told = Some(Box::new(told));
    }

    /// Stops the server as signals do.
    pub fn trigger(&self) -> Trigger {
        self.trigger.clone()
    }

    /// The server has ended: from now on the process is not ended because it does not.
    pub fn server_is_over(&self) {
        self.end.is_server_over.store(true, Relaxed);
    }
}

/// Stops a server that hears signals in their place.
#[derive(Clone)]
pub struct Trigger {
    stop: mpsc::Sender<()>,
    end: Arc<End>,
}

impl Trigger {
    /// Stops it as a first signal does, if nothing has done so yet. If it does not end then, the process does, with this
    /// status.
    pub fn stop(&self, status: u8) {
        self.end.status.store(status, Relaxed);
        if !self.end.is_stopping.swap(true, Relaxed) {
            self.hurry();
        }
    }

    /// Resets the connections that are left, as a second signal does.
    pub fn hurry(&self) {
        // A server that hears nothing any more is over.
        let _ = self.stop.send(());
    }
}

/// Somebody beside the server who hears of its stop.
#[derive(Default)]
struct Companion(Mutex<Heard>);

#[derive(Default)]
struct Heard {
    /// The signals that have asked for a stop.
    asked: Vec<Signal>,
    told: Option<Box<dyn FnMut(Signal) + Send>>,
}

impl Companion {
    fn tell(&self, signal: Signal) {
        let mut heard = lock(&self.0);
        heard.asked.push(signal);
        if let Some(told) = &mut heard.told {
            told(signal);
        }
    }
}

impl Drop for Stopping {
    fn drop(&mut self) {
        self.words.wait(LAST_WORDS);
        self.end.come();
    }
}

/// The end of the process.
#[derive(Default)]
struct End {
    /// What is left to do.
    left: Mutex<Vec<Box<dyn FnOnce() + Send>>>,
    is_stopping: AtomicBool,
    is_server_over: AtomicBool,
    /// The exit status, if it is not the main thread that ends it.
    status: AtomicU8,
}

impl End {
    /// Does it, once; when this returns, it is done.
    fn come(&self) {
        let mut left = lock(&self.left);
        while let Some(last) = left.pop() {
            last();
        }
    }
}

/// Things that threads have begun to say, or to do, and that the end of the process must not cut off.
#[derive(Default)]
struct Words {
    under_way: Mutex<usize>,
    said: Condvar,
}

/// One of them, until it is dropped.
struct Word(Arc<Words>);

impl Words {
    fn begin(self: &Arc<Self>) -> Word {
        *lock(&self.under_way) += 1;
        Word(Arc::clone(self))
    }

    /// Waits until none is under way, at most for the time `limit`.
    fn wait(&self, limit: Duration) {
        let wait = self.said.wait_timeout_while(lock(&self.under_way), limit, |under_way| *under_way > 0);
        drop(wait.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Word {
    fn drop(&mut self) {
        *lock(&self.0.under_way) -= 1;
        self.0.said.notify_all();
    }
}

/// Stops `server` on SIGINT and SIGTERM; `told` hears of every request.
///
/// The first signal closes the door. The second one, or the end of the grace time, resets the connections that are left.
/// If the server does not end then, because a file or a pipe does not answer, the process does.
///
/// # Errors
/// The system gives no thread.
pub fn stop_on(
    Blocked { signals, hangup }: Blocked,
    grace: Duration,
    server: impl Stoppable,
    told: impl Fn(Request) + Send + Sync + 'static,
) -> Result<Stopping, Error> {
    let (words, end) = (Arc::<Words>::default(), Arc::<End>::default());
    let (stop, stops) = mpsc::channel();
    let last = Arc::clone(&end);
    // Started now: when it is needed there may be no thread to be had.
    let body = move || {
        if stops.recv().is_ok() {
            if !server.is_closing() {
                server.close();
                let _ = stops.recv_timeout(grace);
            }
            server.abort();
            thread::sleep(LAST_WORDS);
            if last.is_server_over.load(Relaxed) {
                return;
            }
            let status = last.status.load(Relaxed);
            // Files and pipes that do not answer must not hold up this end, either.
            exit_at_the_latest(FAREWELL, status);
            last.come();
            journal::flush(FAREWELL);
            process::exit(status.into());
        }
    };
    let cannot = |error| Error::no_thread(&error);
    thread::Builder::new().name("stop".to_owned()).spawn(body).map_err(cannot)?;
    let told: Told = Arc::new(told);
    let mut asides = Asides::default();
    let trigger = Trigger { stop: stop.clone(), end: Arc::clone(&end) };
    let companion = Arc::<Companion>::default();
    let (accompanied, stopped) = (Arc::clone(&companion), Arc::clone(&end));
    let begun = Arc::clone(&words);
    let on_signal = move |signal| {
        // First of all: what is asked for before the stop is done before the end.
        let word = begun.begin();
        let request = match signal {
            Signal::SIGHUP => hangup.request(is_terminal_gone),
            Signal::SIGUSR1 => Request::Report,
            _ => Request::Stop,
        };
        if request != Request::Stop {
            return asides.tell(request, signal, &told, word);
        }
        if signal == Signal::SIGHUP && !stopped.is_stopping.load(Relaxed) {
            info!("The terminal is gone: stopping");
        }
        // SIGINT has a smaller number, and is heard first although it came later.
        if hear_pending(Signal::SIGUSR1) {
            told(Request::Report);
        }
        accompanied.tell(signal);
        stopped.is_stopping.store(true, Relaxed);
        let _ = stop.send(());
        told(Request::Stop);
        drop(word);
    };
    signals.watch(on_signal).map_err(cannot)?;
    Ok(Stopping { words, end, companion, trigger })
}

type Told = Arc<dyn Fn(Request) + Send + Sync>;

/// A thread for each request that takes its time, so that the next one, which may be to stop, is heard meanwhile.
#[derive(Default)]
struct Asides(Vec<(Request, mpsc::SyncSender<Word>)>);

impl Asides {
    fn tell(&mut self, request: Request, signal: Signal, told: &Told, word: Word) {
        if let Some((_, aside)) = self.0.iter().find(|(known, _)| *known == request) {
            // Full: a run is queued already; coalesce.
            let _ = aside.try_send(word);
            return;
        }
        let (aside, requests) = mpsc::sync_channel(1);
        let its = Arc::clone(told);
        let body = move || requests.into_iter().for_each(|_word: Word| its(request));
        match thread::Builder::new().name(signal.as_str().to_lowercase()).spawn(body) {
            Ok(_) => {
                let _ = aside.try_send(word);
                self.0.push((request, aside));
            }
            Err(error) => {
                warn!("Cannot start a thread: {}; no other signal is heard until {signal} is done", reason(&error));
                told(request);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

    use super::*;

    #[test]
    fn a_hangup_stops_what_has_lost_its_terminal_and_reloads_all_else() {
        for (hangup, is_gone, request) in [
            (Hangup::OfTerminal, true, Request::Stop),
            (Hangup::OfTerminal, false, Request::Reload),
            (Hangup::Reload, true, Request::Reload),
            (Hangup::Reload, false, Request::Reload),
        ] {
            assert_eq!(hangup.request(|| is_gone), request, "{hangup:?} {is_gone}");
        }
    }

    #[test]
    fn the_end_waits_for_what_has_begun_and_not_for_ever() {
        let words = Arc::<Words>::default();
        words.wait(Duration::MAX);
        let said = Arc::new(AtomicBool::new(false));
        let word = words.begin();
        let talk = thread::spawn({
            let said = Arc::clone(&said);
            move || {
                thread::yield_now();
                said.store(true, SeqCst);
                drop(word);
            }
        });
        words.wait(Duration::from_secs(60));
        assert!(said.load(SeqCst));
        talk.join().expect("no panic");
        let _endless = words.begin();
        words.wait(Duration::from_millis(1));
    }

    #[test]
    fn what_is_left_is_done_once_and_the_last_thing_first() {
        let end = End::default();
        let (tell, told) = mpsc::channel();
        for number in 1..=3 {
            let tell = tell.clone();
            lock(&end.left).push(Box::new(move || tell.send(number).expect("heard")));
        }
        end.come();
        end.come();
        let count = Cell::new(0);
        assert_eq!(told.try_iter().inspect(|_| count.set(count.get() + 1)).collect::<Vec<_>>(), [3, 2, 1]);
        assert_eq!(count.get(), 3);
    }
}
