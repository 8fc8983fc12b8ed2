//! The accept loop of all async servers.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::time::{sleep, sleep_until};

use super::connection::{DoorIndex, Peer};
use super::connections::{Accepted, Connections};
use super::counts::Permit;
use super::handler::FastPath;
use super::linger::Lingering;
use super::stop::Stop;

/// The pause after a failed accept(2): what is short (descriptors, memory) may come back.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections accepted before the tasks of those that are already there get their turn.
const BATCH: usize = 64;

/// When and how bound sockets are to listen. Until then connections are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenLater {
    /// So long after the server began.
    pub after: Duration,
    /// For listen(2).
    pub backlog: i32,
}

impl ListenLater {
    /// Listens, now.
    ///
    /// # Errors
    /// Those of listen(2): somebody else may listen at the address by now.
    pub fn listen(&self, socket: impl AsFd) -> io::Result<()> {
        Ok(rustix::net::listen(socket, self.backlog)?)
    }
}

/// A listener of one worker.
pub(super) struct Entrance {
    pub(super) listener: AsyncFd<TcpListener>,
    pub(super) door: DoorIndex,
    /// If it does not listen yet.
    pub(super) listen_later: Option<ListenLater>,
}

/// What the accept loop can be woken by.
enum Event<'a> {
    /// The server is asked to stop.
    Closing,
    /// There may be connections in the queue of this entrance.
    Ready(usize, AsyncFdReadyGuard<'a, TcpListener>),
    /// A connection has ended, and another one may take its permit.
    Permit(Permit),
    /// The pause after a failure is over.
    PauseOver,
    /// Lingering connections are to be looked at.
    LookDue,
}

/// What the accept loop waits for, beside the stop and the next look.
enum Want {
    Connection,
    Permit,
    EndOfPause(Instant),
}

/// How accepting a batch ended.
enum Batch {
    /// The queue is empty.
    Drained,
    /// It may not be.
    Full,
    NoPermit,
    Failed(io::Error),
}

/// Listens where nobody does yet, when it is time for that; not if the server is asked to stop before.
pub(super) async fn listen(entrances: &[Entrance], stop: &Stop) -> io::Result<()> {
    for entrance in entrances {
        if let Some(later) = entrance.listen_later {
            tokio::select! {
                () = sleep(later.after) => later.listen(entrance.listener.get_ref())?,
                () = stop.closing() => {}
            }
        }
    }
    Ok(())
}

/// Accepts connections until the server is asked to stop. Returning drops the listeners, and with that closes the door:
/// connections in their queues are reset, new ones refused.
pub(super) async fn accept<H: FastPath>(
    entrances: Vec<Entrance>,
    connections: &Connections<H>,
    lingering: &mut Lingering,
) {
    let engine = connections.engine();
    let mut closing = pin!(engine.stop.closing());
    let mut want = Want::Connection;
    // A permit that was waited for is for the next connection.
    let mut permit = None;
    // Whose turn it is if several entrances are ready.
    let mut first = 0;
    loop {
        let event = tokio::select! {
            biased;
            () = &mut closing => Event::Closing,
            event = async {
                match &want {
                    Want::Connection => ready(&entrances, first).await,
                    Want::Permit => Event::Permit(engine.counts.permit().await),
                    Want::EndOfPause(until) => {
                        sleep_until((*until).into()).await;
                        Event::PauseOver
                    }
                }
            } => event,
            () = lingering.next_look() => Event::LookDue,
        };
        match event {
            Event::Closing => return,
            Event::LookDue => lingering.look(connections.tasks()),
            Event::PauseOver => want = Want::Connection,
            Event::Permit(found) => (permit, want) = (Some(found), Want::Connection),
            Event::Ready(index, listener) => {
                let door = entrances[index].door;
                first = index + 1;
                match accept_batch(listener, door, &mut permit, connections, lingering) {
                    Batch::Drained => lingering.look(connections.tasks()),
                    Batch::Full => {
                        lingering.look(connections.tasks());
                        // However many come, those that are there already get their turn.
                        tokio::task::yield_now().await;
                    }
                    Batch::NoPermit => {
                        lingering.look_now(connections.tasks());
                        want = Want::Permit;
                    }
                    Batch::Failed(error) => {
                        engine.complaint.say(&error);
                        // Lingering sockets may hold the descriptors that ran out.
                        lingering.look_now(connections.tasks());
                        want = Want::EndOfPause(Instant::now() + ACCEPT_PAUSE);
                    }
                }
            }
        }
    }
}

/// Waits until one of the listeners is readable; they are looked at in turn, beginning with the `first`.
async fn ready(entrances: &[Entrance], first: usize) -> Event<'_> {
    poll_fn(|context| {
        for index in (first..first + entrances.len()).map(|index| index % entrances.len()) {
            // It fails only when the runtime is gone, and this future with it.
            if let Poll::Ready(Ok(listener)) = entrances[index].listener.poll_read_ready(context) {
                return Poll::Ready(Event::Ready(index, listener));
            }
        }
        Poll::Pending
    })
    .await
}

fn accept_batch<H: FastPath>(
    mut listener: AsyncFdReadyGuard<'_, TcpListener>,
    door: DoorIndex,
    permit: &mut Option<Permit>,
    connections: &Connections<H>,
    lingering: &mut Lingering,
) -> Batch {
    let counts = &connections.engine().counts;
    for _ in 0..BATCH {
        // The permit first, then the connection: without one it waits in the listen queue.
        let Some(mut found) = permit.take().or_else(|| counts.try_permit()) else { return Batch::NoPermit };
        match acceptfrom_with(listener.get_inner().as_fd(), SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok((socket, peer)) => {
                found.begin_stay(&socket);
                let peer = Peer::new(peer.and_then(|peer| SocketAddr::try_from(peer).ok()));
                let accepted =
                    Accepted { socket: socket.into(), peer, door, permit: found, has_read: Cell::new(false) };
                connections.admit(accepted, lingering);
            }
            Err(Errno::AGAIN) => {
                listener.clear_ready();
                return Batch::Drained;
            }
            // This connection is gone already; the next one may be there.
            Err(Errno::CONNABORTED | Errno::INTR) => {}
            Err(error) => return Batch::Failed(error.into()),
        }
    }
    Batch::Full
}
