//! The engine of all async servers: a worker for each processor, and the four steps of stopping.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::timeout;
use tracing::Span;

use super::accept::{Entrance, ListenLater, accept, listen};
use super::alarm;
use super::complaint::Complaint;
use super::connection::{DoorIndex, Engine};
use super::connections::Connections;
use super::counts::Counts;
use super::descriptors::{Descriptors, Opens};
use super::handler::FastPath;
use super::linger::Lingering;
use super::patient::Patient;
use super::stop::{Stop, Stoppable};
use super::timer::Timer;

/// Where connections come in: bound listeners under a name, which a handler sees as
/// [`Connection::door`](super::Connection::door).
///
/// There is a worker for each of its listeners: a thread with a runtime of its own. To share a port among workers, bind
/// the listeners with `SO_REUSEPORT`; the kernel then deals out the connections.
#[derive(Debug)]
pub struct Door {
    /// What it is for.
    pub name: &'static str,
    /// All at the same address.
    pub listeners: Vec<TcpListener>,
    /// If they are bound, and do not listen yet.
    pub listen_later: Option<ListenLater>,
}

/// The limits of a server as a whole.
#[derive(Debug, Clone)]
pub struct ServerLimits {
    /// Connections open at once; beyond that, new ones wait in the listen queue.
    pub max_clients: usize,
    /// Where connections get their descriptors: one for all servers of a process. When there are none left beside those
    /// that are kept free ([`Handler::OPENS`](super::Handler::OPENS)), new connections wait in the listen queue, too.
    pub descriptors: Descriptors,
    /// A connection whose peer takes nothing for so long is reset. `None`: never.
    pub write_timeout: Option<Duration>,
    /// How long connections may finish after [`Stop::close`]; those that are left then are reset.
    pub grace: Duration,
}

/// A server with everything that it needs, its threads among it, which has not begun yet. Nothing that could still fail
/// is left for [`run`](Self::run). Dropped instead, it closes its doors.
pub struct Prepared {
    counts: Arc<Counts>,
    doors: Vec<&'static str>,
    /// Threads that wait for the word to begin.
    workers: Vec<Started>,
    opens: Opens,
    limits: ServerLimits,
}

/// Prepares to serve every connection that comes through one of these doors. What the workers log is in the span in
/// which this is called.
///
/// # Errors
/// The system does not give what a worker needs, or the handler.
pub fn prepare<H: FastPath>(doors: Vec<Door>, handler: &Arc<H>, limits: &ServerLimits) -> io::Result<Prepared> {
    handler.start()?;
    let names = doors.iter().map(|door| door.name).collect();
    // All workers before the first connection, which would take descriptors that they need.
    let mut workers: Vec<Worker> = Vec::new();
    for (index, door) in (0..).zip(doors) {
        for (number, listener) in door.listeners.into_iter().enumerate() {
            if number == workers.len() {
                workers.push(Worker::new()?);
            }
            workers[number].add(listener, index, door.listen_later)?;
        }
    }
    let workers = workers.into_iter().map(|worker| worker.start(handler, limits.grace)).collect::<io::Result<_>>()?;
    let opens = handler.opens();
    limits.descriptors.ask(opens, limits.max_clients)?;
    let counts = Arc::new(Counts::new(limits.max_clients, limits.descriptors.clone(), opens));
    Ok(Prepared { counts, doors: names, workers, opens, limits: limits.clone() })
}

impl Prepared {
    /// What it has done, from now on.
    pub fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// Serves until it is stopped, and returns how many connections were reset at the end; they are among the lost ones.
    ///
    /// Stopping has four steps: close the door, tell every handler, wait no longer than the grace time, reset what is
    /// left.
    ///
    /// # Errors
    /// A worker panicked, or could not listen when it was time for that. Nothing that happens to a connection, nor a failing accept(2), ends a server.
    pub fn run(self, stop: &Stop) -> io::Result<u64> {
        let Self { counts, doors, workers, opens, limits } = self;
        let ServerLimits { max_clients, descriptors, write_timeout, .. } = limits;
        descriptors.settle(opens, max_clients);
        let complaint = Complaint::default();
        let engine = Arc::new(Engine { counts, stop: stop.clone(), complaint, doors, write_timeout });
        let begin = |worker: Started| {
            // It waits for nothing else.
            let _ = worker.begin.send(Arc::clone(&engine));
            worker.thread
        };
        let begun: Vec<JoinHandle<_>> = workers.into_iter().map(begin).collect();
        let panicked = |_| Err(io::Error::other("it panicked"));
        let ended = begun.into_iter().map(|worker| worker.join().unwrap_or_else(panicked));
        // Each is waited for, even if one of them fails.
        ended.collect::<Vec<_>>().into_iter().collect::<io::Result<()>>()?;
        Ok(engine.counts.lose_under_way())
    }
}

/// A server that listens and accepts nobody, which has not begun yet.
pub struct NeverAccepting {
    doors: Vec<Door>,
    /// Connections of our own, which nobody accepts: nobody else's has a place in the queue.
    queued: Vec<TcpStream>,
    runtime: Runtime,
}

/// Prepares to accept nobody. Whoever connects from now on gets no answer: the shortest queue has a place for one
/// connection, which is taken, and the kernel drops what comes for a queue that is full.
///
/// # Errors
/// The system gives no runtime; or the queue cannot be filled.
pub fn never_accept(doors: Vec<Door>) -> io::Result<NeverAccepting> {
    /// A queue that somebody else has filled does not answer.
    const NO_ANSWER: Duration = Duration::from_millis(500);
    let mut queued = Vec::new();
    for listener in doors.iter().flat_map(|door| &door.listeners) {
        // An inherited socket may have a longer queue.
        rustix::net::listen(listener, 0)?;
        match TcpStream::connect_timeout(&listener.local_addr()?, NO_ANSWER) {
            Ok(stream) => queued.push(stream),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
            Err(error) => return Err(error),
        }
    }
    Ok(NeverAccepting { doors, queued, runtime: Builder::new_current_thread().build()? })
}

impl NeverAccepting {
    /// Listens until it is stopped.
    pub fn run(self, stop: &Stop) {
        self.runtime.spawn(stop.pulse().clone().answer());
        self.runtime.block_on(stop.closing());
        drop((self.doors, self.queued));
    }
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

/// A worker's thread, which waits for the word to begin.
struct Started {
    begin: SyncSender<Arc<Engine>>,
    thread: JoinHandle<io::Result<()>>,
}

/// A runtime for one thread, and the listeners whose connections it serves.
struct Worker {
    runtime: Runtime,
    entrances: Vec<Entrance>,
}

impl Worker {
    fn new() -> io::Result<Self> {
        Ok(Self { runtime: Builder::new_current_thread().enable_all().build()?, entrances: Vec::new() })
    }

    fn add(&mut self, listener: TcpListener, door: DoorIndex, later: Option<ListenLater>) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let _context = self.runtime.enter();
        // Deprecated for types that might close their descriptor early; a listener keeps its own.
        #[expect(deprecated, reason = "the replacement is unsafe, and needed only for other types")]
        let listener = AsyncFd::with_interest(listener, Interest::READABLE)?;
        self.entrances.push(Entrance { listener, door, listen_later: later });
        Ok(())
    }

    /// Starts its thread, which serves as soon as it is given an engine, and ends if that is dropped.
    fn start<H: FastPath>(self, handler: &Arc<H>, grace: Duration) -> io::Result<Started> {
        let (begin, begun) = mpsc::sync_channel::<Arc<Engine>>(1);
        let (handler, span) = (Arc::clone(handler), Span::current());
        let work = move || {
            let Ok(engine) = begun.recv() else { return Ok(()) };
            let _in_span = span.enter();
            let _together = AbortOnPanic(&engine.stop);
            self.run(&handler, &engine, grace)
        };
        Ok(Started { begin, thread: thread::Builder::new().name("worker".to_owned()).spawn(work)? })
    }

    fn run<H: FastPath>(self, handler: &Arc<H>, engine: &Arc<Engine>, grace: Duration) -> io::Result<()> {
        let Self { runtime, entrances } = self;
        runtime.spawn(engine.stop.pulse().clone().answer());
        runtime.spawn(alarm::ring());
        let begun = runtime.block_on(async {
            if let Err(error) = listen(&entrances, &engine.stop).await {
                // Not with a worker less.
                engine.stop.abort();
                return Err(error);
            }
            let ((timer, for_a_moment), (patient, for_peers)) = (unbounded_channel(), unbounded_channel());
            let connections = Connections::new(handler, engine, timer, patient);
            let tasks = connections.tasks();
            tasks.spawn(Timer::new(connections.clone()).run(for_a_moment));
            tasks.spawn(Patient::new(connections.clone()).run(for_peers));
            let mut lingering = Lingering::default();
            accept(entrances, &connections, &mut lingering).await;

            lingering.into_tasks(tasks);
            tasks.close();
            tokio::select! {
                _ = timeout(grace, tasks.wait()) => {}
                () = engine.stop.aborting() => {}
            }
            Ok(())
        });
        // The tasks that are left are dropped, and with them their connections, which that resets. What still computes
        // on another thread does so for nobody.
        runtime.shutdown_background();
        begun
    }
}
