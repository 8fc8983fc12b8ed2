//! The engine of all async servers: a worker for each processor, and the four steps of stopping.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::timeout;

use super::accept::{Entrance, accept};
use super::connection::{DoorIndex, Engine};
use super::connections::Connections;
use super::counts::Counts;
use super::descriptors::Descriptors;
use super::handler::FastPath;
use super::linger::Lingering;
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

/// A server with everything that it needs, which has not begun yet.
pub struct Prepared<H: FastPath> {
    handler: Arc<H>,
    counts: Arc<Counts>,
    doors: Vec<&'static str>,
    workers: Vec<Worker>,
    limits: ServerLimits,
}

/// Prepares to serve every connection that comes through one of these doors.
///
/// # Errors
/// The system does not give what a worker needs, or the handler.
pub fn prepare<H: FastPath>(doors: Vec<Door>, handler: Arc<H>, limits: &ServerLimits) -> io::Result<Prepared<H>> {
    handler.start()?;
    let names = doors.iter().map(|door| door.name).collect();
    // All workers before the first connection, which would take descriptors that they need.
    let mut workers: Vec<Worker> = Vec::new();
    for (index, door) in (0..).zip(doors) {
        for (number, listener) in door.listeners.into_iter().enumerate() {
            if number == workers.len() {
                workers.push(Worker::new()?);
            }
            workers[number].add(listener, index)?;
        }
    }
    limits.descriptors.ask(H::OPENS, limits.max_clients);
    let counts = Arc::new(Counts::new(limits.max_clients, limits.descriptors.clone(), H::OPENS));
    Ok(Prepared { handler, counts, doors: names, workers, limits: limits.clone() })
}

impl<H: FastPath> Prepared<H> {
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
    /// The system gives no threads. Nothing that happens to a connection, nor a failing accept(2), ends a server.
    pub fn run(self, stop: &Stop) -> io::Result<u64> {
        let Self { handler, counts, doors, workers, limits } = self;
        let ServerLimits { max_clients, descriptors, write_timeout, grace } = limits;
        descriptors.settle(H::OPENS, max_clients);
        let engine = Arc::new(Engine { counts, stop: stop.clone(), doors, write_timeout });
        thread::scope(|scope| {
            let start = |worker: Worker| {
                let (handler, engine) = (&handler, &engine);
                let work = move || {
                    let _together = AbortOnPanic(stop);
                    worker.run(handler, engine, grace);
                };
                thread::Builder::new().name("worker".to_owned()).spawn_scoped(scope, work)
            };
            let started = workers.into_iter().map(start).collect::<io::Result<Vec<_>>>();
            let started = started.inspect_err(|_| stop.abort())?;
            let ended = started.into_iter().map(|worker| worker.join().map_err(|_| io::Error::other("it panicked")));
            ended.collect::<io::Result<()>>()
        })?;
        Ok(engine.counts.lose_under_way())
    }
}

/// Listens and accepts nobody, until the server is stopped.
///
/// # Errors
/// The system gives no runtime.
pub fn never_accept(doors: Vec<Door>, stop: &Stop) -> io::Result<()> {
    let runtime = Builder::new_current_thread().build()?;
    runtime.spawn(stop.pulse().clone().answer());
    runtime.block_on(stop.closing());
    drop(doors);
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

/// A runtime for one thread, and the listeners whose connections it serves.
struct Worker {
    runtime: Runtime,
    entrances: Vec<Entrance>,
}

impl Worker {
    fn new() -> io::Result<Self> {
        Ok(Self { runtime: Builder::new_current_thread().enable_all().build()?, entrances: Vec::new() })
    }

    fn add(&mut self, listener: TcpListener, door: DoorIndex) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let _context = self.runtime.enter();
        // Deprecated for types that might close their descriptor early; a listener keeps its own.
        #[expect(deprecated, reason = "the replacement is unsafe, and needed only for other types")]
        let listener = AsyncFd::with_interest(listener, Interest::READABLE)?;
        self.entrances.push(Entrance { listener, door });
        Ok(())
    }

    fn run<H: FastPath>(self, handler: &Arc<H>, engine: &Arc<Engine>, grace: Duration) {
        let Self { runtime, entrances } = self;
        runtime.spawn(engine.stop.pulse().clone().answer());
        runtime.block_on(async {
            let (timer, waiting) = unbounded_channel();
            let connections = Connections::new(handler, engine, timer);
            let tasks = connections.tasks();
            tasks.spawn(Timer::new(connections.clone()).run(waiting));
            let mut lingering = Lingering::default();
            accept(entrances, &connections, &mut lingering).await;

            lingering.into_tasks(tasks);
            tasks.close();
            tokio::select! {
                _ = timeout(grace, tasks.wait()) => {}
                () = engine.stop.aborting() => {}
            }
        });
        // The tasks that are left are dropped, and with them their connections, which that resets. What still computes
        // on another thread does so for nobody.
        runtime.shutdown_background();
    }
}
