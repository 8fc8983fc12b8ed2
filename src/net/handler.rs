//! What a server has to write: one function, and if its clients are many, a path or two without a task.

use std::future::Future;
use std::io;
use std::time::Instant;

use super::connection::{Connection, Unregistered};
use super::descriptors::Opens;
use crate::pace::Ending;

/// A protocol, as the engine calls it: one call for each connection.
pub trait Handler: Send + Sync + 'static {
    /// True if EOF delimits the message, so that truncation is undetectable. A socket that cannot be served at once then
    /// carries `SO_LINGER` 0 until its last byte is queued: any early close, even a crash, sends RST.
    const EOF_ENDS_MESSAGE: bool;

    /// Descriptors that it opens to serve its connections: so many are kept free for it, whatever the limit and however
    /// many come. A handler that connects to another server for each connection needs one for each, and
    /// [`LOOK_UP`](super::descriptors::LOOK_UP) beside.
    const OPENS: Opens = Opens { each: 0, beside: 0 };

    /// As [`OPENS`](Self::OPENS), where that depends on what it is to do.
    fn opens(&self) -> Opens {
        Self::OPENS
    }

    /// Called once, before the first connection: a handler that needs threads of its own starts them here.
    ///
    /// # Errors
    /// The system gives none; the server then does not start.
    fn start(&self) -> io::Result<()> {
        Ok(())
    }

    /// Serves a connection, as a task of its own, and returns how it is to end: the engine closes it.
    ///
    /// [`Connection::closing`] resolves when the server is asked to stop. A handler that waits for a request then
    /// returns; one that is in the middle of a reply finishes it. The future is dropped, and the connection reset, when
    /// the grace time is over.
    ///
    /// # Errors
    /// The connection broke, or was given up: it is reset and counted as lost.
    fn serve(&self, connection: &mut Connection) -> impl Future<Output = io::Result<Ending>> + Send;
}

/// A [`Handler`] that does without a task, or even without registering the socket, where it can.
///
/// Most poems fit into the socket's buffer, and a task, a timer and an entry in the reactor cost more than sending
/// them. The calls for one connection, in this order:
///
/// 1. [`try_serve`](Self::try_serve), once, as soon as it is accepted;
/// 2. [`on_timer`](Self::on_timer), whenever the time has come that [`Progress::Until`] named, or the peer has said what
///    [`Progress::Readable`] waits for;
/// 3. [`finish`](Self::finish), once, after [`Progress::Blocked`], or when the server stops before that time.
///
/// Every [`Handler`] is one that always says [`Progress::Blocked`].
pub trait FastPath: Send + Sync + 'static {
    /// As for [`Handler::EOF_ENDS_MESSAGE`].
    const EOF_ENDS_MESSAGE: bool;

    /// As for [`Handler::OPENS`].
    const OPENS: Opens = Opens { each: 0, beside: 0 };

    /// As for [`Handler::opens`].
    fn opens(&self) -> Opens {
        Self::OPENS
    }

    /// What is left to do on a connection, from one call to the next.
    type State: Send;

    /// As for [`Handler::start`].
    ///
    /// # Errors
    /// As for [`Handler::start`].
    fn start(&self) -> io::Result<()> {
        Ok(())
    }

    /// Does what can be done without waiting for a new connection. Nothing but this keeps the worker's other
    /// connections waiting, so it has to be short.
    ///
    /// # Errors
    /// The connection broke, or cannot be served: it is reset and counted as lost.
    fn try_serve(&self, socket: &Unregistered<'_>) -> io::Result<Progress<Self::State>>;

    /// Goes on when the time has come that [`Progress::Until`] or [`Progress::Readable`] named, or the peer has said
    /// something, as [`try_serve`](Self::try_serve) does. Neither of
    /// them may panic: that is caught for tasks only.
    ///
    /// # Errors
    /// As for [`try_serve`](Self::try_serve).
    fn on_timer(&self, _: &Unregistered<'_>, state: Self::State) -> io::Result<Progress<Self::State>> {
        Ok(Progress::Blocked(state))
    }

    /// Called before a connection that ended in silence is closed by the server.
    fn before_close(&self) {}

    /// Does what is left, as a task of its own, as [`Handler::serve`] does.
    ///
    /// # Errors
    /// As for [`Handler::serve`].
    fn finish(
        &self,
        connection: &mut Connection,
        state: Self::State,
    ) -> impl Future<Output = io::Result<Ending>> + Send;
}

/// How far a [`FastPath`] got without waiting.
#[derive(Debug)]
pub enum Progress<S> {
    /// To the end: the connection is to be closed in this way.
    End(Ending),
    /// To where the socket has to be waited for: the connection gets a task.
    Blocked(S),
    /// To a pause that lasts until then. The connection costs an entry in a heap meanwhile; a reset by its peer is
    /// noticed only by the next send.
    Until(Instant, S),
    /// To where the peer has to say something, at the latest until then. The connection costs an entry in a set meanwhile.
    Readable(Instant, S),
}

impl<H: Handler> FastPath for H {
    const EOF_ENDS_MESSAGE: bool = H::EOF_ENDS_MESSAGE;

    const OPENS: Opens = H::OPENS;

    fn opens(&self) -> Opens {
        Handler::opens(self)
    }

    type State = ();

    fn start(&self) -> io::Result<()> {
        Handler::start(self)
    }

    fn try_serve(&self, _: &Unregistered<'_>) -> io::Result<Progress<()>> {
        Ok(Progress::Blocked(()))
    }

    fn finish(&self, connection: &mut Connection, (): ()) -> impl Future<Output = io::Result<Ending>> + Send {
        self.serve(connection)
    }
}
