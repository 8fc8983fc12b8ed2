//! The life of a connection, from accept(2) to close(2), as the engine leads it.
//!
//! ```text
//!   accept ──▶ try_serve ── End ───────────────────────────▶ linger (a look or two) ──▶ close
//!                 │  │  ╰── Until ──▶ timer: on_timer ──╮                 ▲
//!                 │  ╰───── Blocked ──▶ a task: finish ◀╯── Ok(Fin) ──────╯
//!                 ╰──────── Err ──────▶ RST ◀────────────── Err, Ok(Rst), the end of the grace time
//! ```

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::net::TcpStream;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use socket2::SockRef;
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, debug, debug_span};

use super::close;
use super::connection::{Connection, DoorIndex, Engine, Peer, Unregistered};
use super::counts::{Counts, Permit};
use super::handler::{FastPath, Progress};
use super::linger::{self, Lingering};
use crate::errors::reason;
use crate::pace::Ending;

/// A connection without a task: what accept(2) gave, and the right to be open.
pub(super) struct Accepted {
    pub(super) socket: TcpStream,
    pub(super) peer: Peer,
    pub(super) door: DoorIndex,
    pub(super) permit: Permit,
    pub(super) has_read: Cell<bool>,
}

/// A connection that waits for a moment, or for its peer, at the latest until then.
pub(super) struct Waiting<S> {
    pub(super) due: Instant,
    pub(super) accepted: Accepted,
    pub(super) state: S,
}

/// The connections of one worker, and what it needs to lead them.
pub(super) struct Connections<H: FastPath> {
    handler: Arc<H>,
    engine: Arc<Engine>,
    tasks: TaskTracker,
    timer: UnboundedSender<Waiting<H::State>>,
    patient: UnboundedSender<Waiting<H::State>>,
}

impl<H: FastPath> Clone for Connections<H> {
    fn clone(&self) -> Self {
        let Self { handler, engine, tasks, timer, patient } = self;
        let (handler, engine) = (Arc::clone(handler), Arc::clone(engine));
        Self { handler, engine, tasks: tasks.clone(), timer: timer.clone(), patient: patient.clone() }
    }
}

impl<H: FastPath> Connections<H> {
    /// None yet. What waits for a moment is sent to `timer`, and what waits for its peer to `patient`.
    pub(super) fn new(
        handler: &Arc<H>,
        engine: &Arc<Engine>,
        timer: UnboundedSender<Waiting<H::State>>,
        patient: UnboundedSender<Waiting<H::State>>,
    ) -> Self {
        Self { handler: Arc::clone(handler), engine: Arc::clone(engine), tasks: TaskTracker::new(), timer, patient }
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The tasks of this worker: its connections, and what else has to end with them.
    pub(super) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// A new connection, which is served as far as that goes without waiting.
    pub(super) fn admit(&self, accepted: Accepted, lingering: &mut Lingering) {
        let counts = &self.engine.counts;
        counts.accept();
        let progress = match self.handler.try_serve(&self.unregistered(&accepted)) {
            Ok(Progress::End(Ending::Fin)) => {
                counts.serve();
                return lingering.add(accepted.socket, accepted.permit);
            }
            Ok(progress) => progress,
            Err(error) => {
                close::abruptly(&SockRef::from(&accepted.socket));
                return lose(counts, accepted.peer, &error);
            }
        };
        if H::EOF_ENDS_MESSAGE {
            // From here an early drop sends RST.
            close::abruptly(&SockRef::from(&accepted.socket));
        }
        counts.begin();
        match progress {
            Progress::Until(due, state) => self.wait(Waiting { due, accepted, state }),
            Progress::Readable(due, state) => self.wait_for_peer(Waiting { due, accepted, state }),
            Progress::Blocked(state) => self.spawn(accepted, Left::Rest(state)),
            Progress::End(how) => self.spawn(accepted, Left::Close(how)),
        }
    }

    /// A connection that waits for a moment.
    pub(super) fn wait(&self, waiting: Waiting<H::State>) {
        // It fails only during shutdown; dropping the connection then resets it, as intended.
        let _ = self.timer.send(waiting);
    }

    /// A connection that waits for its peer.
    fn wait_for_peer(&self, waiting: Waiting<H::State>) {
        // As above.
        let _ = self.patient.send(waiting);
    }

    /// A connection whose time has come, or whose peer has said something. Returns it if there is another moment to wait
    /// for.
    pub(super) fn resume(&self, accepted: Accepted, state: H::State) -> Option<Waiting<H::State>> {
        match self.handler.on_timer(&self.unregistered(&accepted), state) {
            Ok(Progress::Until(due, state)) => return Some(Waiting { due, accepted, state }),
            Ok(Progress::Readable(due, state)) => self.wait_for_peer(Waiting { due, accepted, state }),
            Ok(Progress::Blocked(state)) => self.spawn(accepted, Left::Rest(state)),
            Ok(Progress::End(how)) => self.spawn(accepted, Left::Close(how)),
            Err(error) => {
                close::abruptly(&SockRef::from(&accepted.socket));
                lose_under_way(&self.engine.counts, accepted.peer, &error);
            }
        }
        None
    }

    /// A connection that is to wait no longer, because the server stops.
    pub(super) fn finish(&self, waiting: Waiting<H::State>) {
        self.spawn(waiting.accepted, Left::Rest(waiting.state));
    }

    /// Gives a connection a task, from what is left to do to its close.
    fn spawn(&self, accepted: Accepted, left: Left<H::State>) {
        let Accepted { socket, peer, door, permit, has_read } = accepted;
        let (handler, engine) = (Arc::clone(&self.handler), Arc::clone(&self.engine));
        let stream = match tokio::net::TcpStream::from_std(socket) {
            Ok(stream) => stream,
            Err(error) => return lose_under_way(&engine.counts, peer, &error),
        };
        let mut connection = Connection::new(stream, peer, door, !has_read.get(), engine);
        if let Left::Close(how) = left {
            said::<H>(&mut connection, how);
        }
        let task = async move {
            let result = match left {
                Left::Close(how) => Ok(how),
                Left::Rest(state) => {
                    let result = handler.finish(&mut connection, state).await;
                    result.inspect(|&how| said::<H>(&mut connection, how))
                }
            };
            match result {
                // Boxed: it is short, and what a task may once need it holds from its beginning.
                Ok(how) => Box::pin(end(&*handler, &connection, how)).await,
                Err(error) => lose_under_way(connection.counts(), connection.peer(), &error),
            }
            drop(connection);
            drop(permit);
        };
        let span = debug_span!("client", %peer);
        // A span that nobody sees would be held by each of them all the same.
        match span.is_disabled() {
            true => self.tasks.spawn(task),
            false => self.tasks.spawn((Box::pin(task) as Pin<Box<dyn Future<Output = ()> + Send>>).instrument(span)),
        };
    }

    fn unregistered<'a>(&'a self, accepted: &'a Accepted) -> Unregistered<'a> {
        let Accepted { socket, peer, door, has_read, .. } = accepted;
        Unregistered { socket, peer: *peer, door: *door, has_read, engine: &self.engine }
    }
}

/// What a connection's task has to do.
enum Left<S> {
    Rest(S),
    /// Everything is said.
    Close(Ending),
}

/// Everything is said: from here an early drop no longer sends RST, unless that is how the connection is to end.
fn said<H: FastPath>(connection: &mut Connection, how: Ending) {
    connection.counts().end();
    connection.counts().serve();
    connection.set_said();
    if H::EOF_ENDS_MESSAGE && how == Ending::Fin {
        close::not_abruptly(&SockRef::from(connection.stream()));
    }
}

/// Ends a connection on which everything is said.
async fn end<H: FastPath>(handler: &H, connection: &Connection, how: Ending) {
    let stream = connection.stream();
    match how {
        Ending::Fin if connection.is_idle() => linger::close_idle(stream).await,
        Ending::Fin => linger::close_politely(stream).await,
        Ending::Rst => close::abruptly(&SockRef::from(stream)),
        Ending::Hang => {
            close::silently(&SockRef::from(stream));
            // Boxed: this future would be the largest, and few connections hang.
            Box::pin(async {
                tokio::select! {
                    _ = connection.broken() => {}
                    // Nothing is left to finish.
                    () = connection.closing() => {}
                }
            })
            .await;
            handler.before_close();
        }
    }
}

fn lose(counts: &Counts, peer: Peer, error: &io::Error) {
    counts.lose();
    debug!(%peer, "Lost {peer}: {}", reason(error));
}

fn lose_under_way(counts: &Counts, peer: Peer, error: &io::Error) {
    counts.end();
    lose(counts, peer, error);
}
