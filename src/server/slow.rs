//! The deliberately blocking server: one thread, one client at a time, the others wait in the listen queue.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use socket2::SockRef;
use tracing::{debug, error, info, warn};

use super::close;
use crate::pace::{Next, Pace, Walk};
use crate::poem::Poem;
use crate::reason::{lock, reason};
use crate::timing::{human, micros};

/// The pause after a failed accept(2): what is short (descriptors, memory) may come back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A server that gives out one file at a set pace.
#[derive(Debug)]
pub struct SlowServer {
    /// Opened afresh for every client.
    pub file: PathBuf,
    /// When to send how much.
    pub pace: Arc<Pace>,
    /// A client that takes nothing for so long is dropped; it may take up to twice as long if it took something
    /// in between. `None`: never.
    pub write_timeout: Option<Duration>,
    /// Serve so many clients, then stop. `None`: any number.
    pub clients: Option<u64>,
}

/// Stops a [`SlowServer`] from another thread.
#[derive(Debug, Clone)]
pub struct Stopper(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    listener: TcpListener,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    closing: bool,
    aborting: bool,
    client: Option<Arc<TcpStream>>,
}

/// How a transfer ended before its end.
enum Cut {
    Gone(io::Error),
    Stalled(Duration),
    Aborted,
}

impl Stopper {
    /// What stops a server that will run on `listener`.
    pub fn new(listener: TcpListener) -> Self {
        // Whatever happens before the whole poem is sent, and be it the end of the process, it is a reset. Sockets inherit
        // that from now on; to those that wait in the queue already it is said when they are accepted.
        close::abruptly(&SockRef::from(&listener));
        Self(Arc::new(Shared { listener, state: Mutex::default(), changed: Condvar::new() }))
    }

    /// Closes the door: whoever comes now, or waits in the queue, is refused. The client being served is served to
    /// the end.
    pub fn close(&self) {
        self.0.lock().closing = true;
        // On a listening socket this ends the listening, and an accept(2) that waits.
        let _ = SockRef::from(&self.0.listener).shutdown(std::net::Shutdown::Both);
        self.0.changed.notify_all();
    }

    /// Resets the client being served, whatever its thread waits for.
    pub fn abort(&self) {
        self.close();
        let mut state = self.0.lock();
        state.aborting = true;
        if let Some(client) = state.client.take() {
            close::reset_now(&client);
        }
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Makes this the client to be reset on [`Stopper::abort`]; false if it is too late for that.
    fn admit(&self, client: &Arc<TcpStream>) -> bool {
        let mut state = self.lock();
        state.client = Some(Arc::clone(client));
        !state.aborting
    }

    /// Sleeps, unless `over` is or becomes true.
    fn sleep(&self, duration: Duration, over: impl Fn(&State) -> bool) {
        let wait = self.changed.wait_timeout_while(self.lock(), duration, |state| !over(state));
        drop(wait.unwrap_or_else(PoisonError::into_inner));
    }
}

impl SlowServer {
    /// Serves one client after the other until it is stopped or has served as many as it should.
    pub fn run(&self, stopper: &Stopper) {
        let shared = &stopper.0;
        let mut served = 0;
        while self.clients.is_none_or(|clients| served < clients) && !shared.lock().closing {
            match shared.listener.accept() {
                Ok((stream, peer)) => {
                    served += 1;
                    self.serve(stream, peer, shared);
                }
                Err(_) if shared.lock().closing => {}
                Err(error) => {
                    warn!("Cannot accept a client: {}; trying again", reason(&error));
                    shared.sleep(ACCEPT_PAUSE, |state| state.closing);
                }
            }
        }
    }

    fn serve(&self, stream: TcpStream, peer: SocketAddr, shared: &Shared) {
        info!(%peer, "Somebody at {peer} wants poetry!");
        let start = Instant::now();
        close::abruptly(&SockRef::from(&stream));
        let stream = Arc::new(stream);
        if !shared.admit(&stream) {
            return;
        }
        let poem = match Poem::load(&self.file) {
            Ok(poem) => poem,
            Err(error) => {
                error!(%peer, "Cannot read {}: {}; resetting {peer}", self.file.display(), reason(&error));
                shared.lock().client = None;
                return;
            }
        };
        let mut sent = 0;
        let result = self.send(&stream, &poem, start, shared, &mut sent);
        let (all, elapsed) = (poem.bytes().len(), start.elapsed());
        tell(peer, sent, all, elapsed, &result);
        if result.is_ok()
            && let Err(error) = close::politely(&stream)
        {
            debug!(%peer, "Closing the connection to {peer}: {}", reason(&error));
        }
        shared.lock().client = None;
    }

    /// Walks the schedule of one connection; `sent` counts the bytes the kernel took.
    fn send(
        &self,
        mut stream: &TcpStream,
        poem: &Poem,
        start: Instant,
        shared: &Shared,
        sent: &mut usize,
    ) -> Result<(), Cut> {
        let cut = |error: io::Error| match error.kind() {
            _ if shared.lock().aborting => Cut::Aborted,
            io::ErrorKind::WouldBlock => Cut::Stalled(self.write_timeout.unwrap_or_default()),
            _ => Cut::Gone(error),
        };
        stream.set_nodelay(true).map_err(cut)?;
        stream.set_write_timeout(self.write_timeout).map_err(cut)?;
        let mut walk = Walk::start(&self.pace, poem.bytes().len(), start);
        loop {
            if shared.lock().aborting {
                return Err(Cut::Aborted);
            }
            match walk.next(Instant::now()) {
                Next::Wait(time) => shared.sleep(time, |state| state.aborting),
                Next::Send(piece) => {
                    debug!("Sending {} bytes", piece.len());
                    match stream.write(&poem.bytes()[piece]) {
                        Ok(n) => {
                            *sent += n;
                            walk.sent(n, Instant::now());
                        }
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        // The call gives up although the client has taken something, if it was not much.
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            match super::send_now(stream, &poem.bytes()[*sent..][..1], false) {
                                Ok(n) => {
                                    *sent += n;
                                    walk.sent(n, Instant::now());
                                }
                                Err(_) => return Err(cut(error)),
                            }
                        }
                        Err(error) => return Err(cut(error)),
                    }
                }
                Next::Close => return Ok(()),
            }
        }
    }
}

/// The summary of one transfer.
fn tell(peer: SocketAddr, sent: usize, all: usize, elapsed: Duration, result: &Result<(), Cut>) {
    let time = human(elapsed);
    let elapsed_us = micros(elapsed);
    match result {
        Ok(()) => info!(%peer, bytes = sent, elapsed_us, "Sent {sent} bytes to {peer} in {time}"),
        Err(Cut::Gone(error)) => {
            let why = reason(error);
            info!(%peer, bytes = sent, elapsed_us, "{peer} went away after {sent} of {all} bytes in {time}: {why}");
        }
        Err(Cut::Stalled(limit)) => {
            let limit = humantime::format_duration(*limit);
            warn!(%peer, bytes = sent, elapsed_us, "Dropped {peer} after {sent} of {all} bytes: it took none for {limit}");
        }
        Err(Cut::Aborted) => {
            warn!(%peer, bytes = sent, elapsed_us, "Reset {peer} after {sent} of {all} bytes: stopping");
        }
    }
}
