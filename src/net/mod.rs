//! The craft of sockets: the one engine of all async servers, and how a connection is closed properly.
//!
//! The engine has one accept loop ([`Prepared::run`]); a [`Handler`] knows what to say to one client and nothing else.
//!
//! ```text
//!            ┌ worker: a thread, a runtime, a listener of its own (SO_REUSEPORT) ┐
//!            │                                                                   │
//!  connect ──▶ accept ──▶ greet ── all said ──▶ shut down writing ──▶ linger ──▶ close
//!            │              │ │                                         ▲        │
//!            │              │ ╰ would block ──▶ a task: serve ──────────╯        │
//!            │              ╰── not yet ──▶ timer: resume, when it is time       │
//!            └───────────────────────────────────────────────────────────────────┘
//! ```
//!
//! A socket is registered with the runtime only when something has to be waited for: most poems fit into the
//! socket's buffer, and registering costs more than sending them.

mod accept;
pub mod close;
pub mod counts;
mod linger;
pub mod pulse;
pub(crate) mod timer;
pub(crate) mod wait;

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::SendFlags;
use tokio::runtime::Builder;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::errors::reason;
use crate::pace::Ending;
use accept::Worker;
use counts::Counts;
use pulse::Pulse;

/// What one kind of server does with one client.
pub trait Handler: Send + Sync + 'static {
    /// What is left to do when [`try_serve`](Self::try_serve) has done what it could.
    type Rest: Send;

    /// Whether a client may take a part of what it should get for all of it, as the poem protocol has it. Then its
    /// connection is reset whatever ends it too early, and be it the end of the process.
    const EOF_ENDS_MESSAGE: bool = true;

    /// What it has done so far. The accept loop counts clients; bytes are the handler's to count.
    fn counts(&self) -> &Counts;

    /// Called once, before the first client: what needs threads of its own starts them here.
    ///
    /// # Errors
    /// The system gives none.
    fn start(&self) -> io::Result<()> {
        Ok(())
    }

    /// Does for a new client what can be done without waiting. The socket is non-blocking and not registered with
    /// a runtime; to be served so to the end costs a client least.
    ///
    /// # Errors
    /// The client is gone, or cannot be served: it is reset.
    fn try_serve(&self, socket: &TcpStream, peer: Peer) -> io::Result<Progress<Self::Rest>>;

    /// Goes on with a client for whom it is time now ([`Progress::Later`]), as [`try_serve`](Self::try_serve) does. When the
    /// server stops meanwhile, [`serve`](Self::serve) is called in its place.
    ///
    /// # Errors
    /// The client is gone, or cannot be served: it is reset.
    fn on_timer(&self, _: &TcpStream, rest: Self::Rest) -> io::Result<Progress<Self::Rest>> {
        Ok(Progress::Rest(rest))
    }

    /// Does the rest, as a task of its own, and returns how the connection is to end. If the server has to stop before
    /// it is done, it is dropped and the client reset.
    ///
    /// # Errors
    /// The client is gone, or given up: it is reset.
    fn serve(
        &self,
        stream: &tokio::net::TcpStream,
        rest: Self::Rest,
    ) -> impl Future<Output = io::Result<Ending>> + Send;
}

/// How far a [`Handler`] got without waiting.
#[derive(Debug)]
pub enum Progress<R> {
    /// Everything is said.
    End(Ending),
    /// There is more to do, and the client has to be waited for.
    Rest(R),
    /// There is more to do, and it is not yet time for it. A client that leaves meanwhile is not noticed.
    Later(Instant, R),
}

/// Tells a server to stop, and asks it until then if it is alive. Clones speak to the same server.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    closing: CancellationToken,
    aborting: CancellationToken,
    pulse: Pulse,
}

impl Stop {
    /// Close the door: new clients are refused, those being served have the grace time to finish.
    pub fn close(&self) {
        self.closing.cancel();
    }

    /// Reset whoever is still being served.
    pub fn abort(&self) {
        self.closing.cancel();
        self.aborting.cancel();
    }

    /// Whether the door is being closed.
    pub fn is_closing(&self) -> bool {
        self.closing.is_cancelled()
    }

    /// Whether the server is alive.
    pub fn pulse(&self) -> &Pulse {
        &self.pulse
    }
}

/// The limits of a server as a whole.
#[derive(Debug, Clone)]
pub struct ServerLimits {
    /// Clients at once; more wait in the listen queue.
    pub max_clients: usize,
    /// After [`Stop::close`], for those being served.
    pub grace: Duration,
}

/// A server with everything that it needs, which has not begun yet.
pub struct Prepared<H: Handler> {
    shared: Arc<Shared<H>>,
    workers: Vec<Worker>,
    grace: Duration,
}

/// Prepares to serve every client that comes to one of these listeners.
///
/// There is a worker for each listener: a thread with a runtime of its own. To share a port among workers, bind
/// its listeners with `SO_REUSEPORT`; the kernel then deals out the clients.
///
/// # Errors
/// The system does not give what a worker needs, or the handler.
pub fn prepare<H: Handler>(
    listeners: Vec<TcpListener>,
    handler: Arc<H>,
    limits: &ServerLimits,
) -> io::Result<Prepared<H>> {
    handler.start()?;
    let places = limits.max_clients.min(Semaphore::MAX_PERMITS);
    let room = Arc::new(Semaphore::new(places));
    handler.counts().watch(places, &room);
    let shared = Arc::new(Shared { handler, room, under_way: AtomicU64::new(0) });
    // All of them before the first client, who would take descriptors that they need.
    let workers = listeners.into_iter().map(Worker::new).collect::<io::Result<Vec<_>>>()?;
    Ok(Prepared { shared, workers, grace: limits.grace })
}

impl<H: Handler> Prepared<H> {
    /// Serves until it is stopped, and returns how many clients were reset at the end; they are among the lost ones.
    ///
    /// Stopping has four steps: close the door, let those being served finish, wait no longer than the grace time,
    /// reset those that are left.
    ///
    /// # Errors
    /// The system gives no threads. Nothing that happens to a client, nor a failing accept(2), ends a server.
    pub fn run(self, stop: &Stop) -> io::Result<u64> {
        let Self { shared, workers, grace } = self;
        thread::scope(|scope| {
            let start = |worker: Worker| {
                let shared = &shared;
                let work = move || {
                    let _together = AbortOnPanic(stop);
                    worker.run(shared, grace, stop);
                };
                thread::Builder::new().name("worker".to_owned()).spawn_scoped(scope, work)
            };
            let started = workers.into_iter().map(start).collect::<io::Result<Vec<_>>>();
            let started = started.inspect_err(|_| stop.abort())?;
            let ended = started.into_iter().map(|worker| worker.join().map_err(|_| io::Error::other("it panicked")));
            ended.collect::<io::Result<()>>()
        })?;
        let reset = shared.under_way.load(Relaxed);
        shared.handler.counts().lose(reset);
        Ok(reset)
    }
}

/// Listens and accepts nobody, until the server is stopped.
///
/// # Errors
/// The system gives no runtime.
pub fn never_accept(listeners: Vec<TcpListener>, stop: &Stop) -> io::Result<()> {
    let runtime = Builder::new_current_thread().build()?;
    runtime.spawn(stop.pulse.clone().answer());
    runtime.block_on(stop.closing.cancelled());
    drop(listeners);
    Ok(())
}

/// A server with a worker less than it should have does not go on as if nothing were wrong.
struct AbortOnPanic<'a>(&'a Stop);

impl Drop for AbortOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.abort();
        }
    }
}

pub(crate) struct Shared<H> {
    handler: Arc<H>,
    room: Arc<Semaphore>,
    /// Clients that were greeted and are not yet served.
    under_way: AtomicU64,
}

impl<H: Handler> Shared<H> {
    fn lose(&self, peer: Peer, error: &io::Error) {
        self.handler.counts().lose(1);
        debug!(%peer, "Lost {peer}: {}", reason(error));
    }

    fn lose_under_way(&self, peer: Peer, error: &io::Error) {
        self.under_way.fetch_sub(1, Relaxed);
        self.lose(peer, error);
    }
}

/// Sends what the kernel takes at once, however little; poll(2) and a blocking send(2) wait for a good deal of
/// room.
///
/// The end of all that is to be said is held back for the end of the stream that follows at once: one packet for both,
/// where two would cost everybody on the way twice.
pub(crate) fn send_now(socket: impl AsFd, bytes: &[u8], to_the_end: bool) -> io::Result<usize> {
    let more = if to_the_end { SendFlags::MORE } else { SendFlags::empty() };
    Ok(rustix::net::send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL | more)?)
}

/// Who a client is, for the log, which has a name for everybody.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub(crate) Option<SocketAddr>);

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(address) => address.fmt(f),
            None => f.write_str("an unknown address"),
        }
    }
}
