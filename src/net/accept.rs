//! A worker: a thread with a runtime and a listener of its own, and the one accept loop of all async servers.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, debug, debug_span, warn};

use super::linger::{self, Lingering};
use super::timer::{Later, Waiting};
use super::{Handler, Peer, Progress, Shared, Stop, close, wait};
use crate::errors::reason;
use crate::pace::Ending;

/// The pause after a failed accept(2): what is short (descriptors, memory) may come back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Clients accepted before the tasks of those that are already there get their turn.
const ACCEPT_BATCH: usize = 64;

/// A client's permit among those served at once, from accept to close.
pub(crate) type Permit = OwnedSemaphorePermit;

/// A runtime for one thread, and the listener whose clients it serves.
pub(crate) struct Worker {
    runtime: Runtime,
    listener: AsyncFd<TcpListener>,
}

impl Worker {
    pub(crate) fn new(listener: TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let context = runtime.enter();
        // Deprecated for types that might close their descriptor early; a listener keeps its own.
        #[expect(deprecated, reason = "the replacement is unsafe, and needed only for other types")]
        let listener = AsyncFd::with_interest(listener, Interest::READABLE)?;
        drop(context);
        Ok(Self { runtime, listener })
    }

    pub(crate) fn run<H: Handler>(self, shared: &Arc<Shared<H>>, grace: Duration, stop: &Stop) {
        let Self { runtime, listener } = self;
        runtime.spawn(stop.pulse.clone().answer());
        runtime.block_on(async {
            let (later, waiting) = unbounded_channel();
            let connections =
                Connections { shared: Arc::clone(shared), tasks: TaskTracker::new(), stop: stop.clone(), later };
            let tasks = connections.tasks.clone();
            tasks.spawn(Later::new(connections.clone()).run(waiting));
            let mut lingering = Lingering::default();
            connections.accept(listener, &mut lingering).await;

            lingering.into_tasks(&tasks);
            tasks.close();
            tokio::select! {
                _ = timeout(grace, tasks.wait()) => {}
                () = stop.aborting.cancelled() => {}
            }
        });
        // The tasks that are left are dropped, and a client dropped before its time is reset. What still computes on
        // another thread does so for nobody.
        runtime.shutdown_background();
    }
}

/// Where one worker deals with its clients.
pub(crate) struct Connections<H: Handler> {
    pub(crate) shared: Arc<Shared<H>>,
    tasks: TaskTracker,
    pub(crate) stop: Stop,
    later: UnboundedSender<Waiting<H::Rest>>,
}

impl<H: Handler> Clone for Connections<H> {
    fn clone(&self) -> Self {
        let Self { shared, tasks, stop, later } = self;
        Self { shared: Arc::clone(shared), tasks: tasks.clone(), stop: stop.clone(), later: later.clone() }
    }
}

impl<H: Handler> Connections<H> {
    /// The accept loop: lets clients in until the door is closed.
    async fn accept(&self, listener: AsyncFd<TcpListener>, lingering: &mut Lingering) {
        let Self { shared, tasks, stop, .. } = self;
        let mut closing = pin!(stop.closing.cancelled());
        let mut complaint = Complaint::default();
        loop {
            let mut busy = false;
            tokio::select! {
                biased;
                () = &mut closing => return,
                ready = listener.readable() => {
                    let Ok(mut ready) = ready else { return };
                    for accepted in 0..=ACCEPT_BATCH {
                        busy = accepted == ACCEPT_BATCH;
                        if busy {
                            break;
                        }
                        // Room first, then the client: until there is room it waits in the listen queue.
                        let permit = match Arc::clone(&shared.room).try_acquire_owned() {
                            Ok(permit) => permit,
                            Err(_) => {
                                lingering.look_now(tasks);
                                tokio::select! {
                                    () = &mut closing => return,
                                    () = lingering.look_when_due(tasks) => break,
                                    permit = Arc::clone(&shared.room).acquire_owned() => match permit {
                                        Ok(permit) => permit,
                                        Err(_) => return,
                                    },
                                }
                            }
                        };
                        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
                        match acceptfrom_with(listener.get_ref().as_fd(), flags) {
                            Ok((socket, peer)) => {
                                let peer = Peer(peer.and_then(|peer| SocketAddr::try_from(peer).ok()));
                                self.welcome(socket.into(), peer, permit, lingering);
                            }
                            Err(error) if error == Errno::AGAIN => {
                                ready.clear_ready();
                                break;
                            }
                            // This client is gone already; the next one may be there.
                            Err(error) if error == Errno::CONNABORTED => {}
                            Err(error) => {
                                complaint.say(&error.into());
                                drop(permit);
                                // Who has been served may hold what is short.
                                lingering.look_now(tasks);
                                tokio::select! {
                                    () = &mut closing => return,
                                    () = sleep(ACCEPT_PAUSE) => {}
                                }
                                break;
                            }
                        }
                    }
                    lingering.look(tasks);
                }
                () = lingering.look_when_due(tasks) => {}
            }
            if busy {
                // Clients that are there already get their turn, however many come.
                tokio::task::yield_now().await;
            }
        }
    }

    /// One client, from its first byte to its end, or as far as that goes without waiting.
    fn welcome(&self, socket: TcpStream, peer: Peer, permit: Permit, lingering: &mut Lingering) {
        let Self { shared, later, .. } = self;
        debug!(%peer, "Somebody at {peer} wants poetry!");
        shared.handler.counts().accept();
        let progress = match shared.handler.try_serve(&socket, peer) {
            Ok(Progress::End(Ending::Fin)) => {
                shared.handler.counts().serve();
                return lingering.add(socket, permit);
            }
            Ok(progress) => progress,
            Err(error) => {
                close::abruptly(&SockRef::from(&socket));
                return shared.lose(peer, &error);
            }
        };
        if H::EOF_ENDS_MESSAGE {
            // From here on, to be dropped means to be reset, until everything is said.
            close::abruptly(&SockRef::from(&socket));
        }
        shared.under_way.fetch_add(1, Relaxed);
        match progress {
            // Nobody is there to hear only when the server stops, and then it is dropped.
            Progress::Later(due, rest) => drop(later.send(Waiting { due, socket, peer, rest, permit })),
            progress => self.go_on(socket, peer, progress, permit),
        }
    }

    /// What is left to do for a client, as a task.
    pub(crate) fn go_on(&self, socket: TcpStream, peer: Peer, left: Progress<H::Rest>, permit: Permit) {
        let (shared, closing) = (Arc::clone(&self.shared), self.stop.closing.clone());
        let stream = match tokio::net::TcpStream::from_std(socket) {
            Ok(stream) => stream,
            Err(error) => return shared.lose_under_way(peer, &error),
        };
        if let Progress::End(how) = left {
            said(&shared, &stream, how);
        }
        let task = async move {
            let result = match left {
                Progress::End(how) => Ok(how),
                Progress::Rest(rest) | Progress::Later(_, rest) => {
                    let result = shared.handler.serve(&stream, rest).await;
                    result.inspect(|&how| said(&shared, &stream, how))
                }
            };
            match result {
                Ok(how) => end(&stream, how, &closing).await,
                Err(error) => {
                    close::abruptly(&SockRef::from(&stream));
                    shared.lose_under_way(peer, &error);
                }
            }
            drop(permit);
        };
        self.tasks.spawn(task.instrument(debug_span!("client", %peer)));
    }
}

/// Everything is said to a client: from here on, to be dropped no longer means to be reset, unless it was to be.
fn said<H: Handler>(shared: &Shared<H>, stream: &tokio::net::TcpStream, how: Ending) {
    shared.under_way.fetch_sub(1, Relaxed);
    shared.handler.counts().serve();
    if H::EOF_ENDS_MESSAGE && how == Ending::Fin {
        close::not_abruptly(&SockRef::from(stream));
    }
}

/// Ends a connection on which everything is said.
async fn end(stream: &tokio::net::TcpStream, how: Ending, closing: &CancellationToken) {
    match how {
        Ending::Fin => linger::close(stream).await,
        Ending::Rst => close::abruptly(&SockRef::from(stream)),
        Ending::Hang => {
            close::silently(&SockRef::from(stream));
            // When the server stops, it has nothing to finish. In a box, so that it takes no room elsewhere.
            Box::pin(async {
                tokio::select! {
                    _ = wait::gone(stream) => {}
                    () = closing.cancelled() => {}
                }
            })
            .await;
        }
    }
}

/// Says that accept(2) fails once in a while, not ten times a second.
#[derive(Default)]
struct Complaint {
    last: Option<Instant>,
}

impl Complaint {
    const PAUSE: Duration = Duration::from_secs(10);

    fn say(&mut self, error: &io::Error) {
        if self.last.is_none_or(|last| last.elapsed() >= Self::PAUSE) {
            self.last = Some(Instant::now());
            warn!("Cannot accept clients: {}; trying again", reason(error));
        }
    }
}
