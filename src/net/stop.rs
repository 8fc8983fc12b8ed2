//! Stopping a server from another thread, and asking until then whether it is alive.

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture, WaitForCancellationFutureOwned};

use super::pulse::Pulse;

/// A server that can be stopped from another thread, blocking or async.
pub trait Stoppable: Send + 'static {
    /// Closes the listeners and tells every connection; they have the grace time to finish.
    fn close(&self);

    /// Resets the connections that are left, and closes what [`close`](Self::close) does.
    fn abort(&self);

    /// Whether one of the two was called.
    fn is_closing(&self) -> bool;
}

/// The stop of an async server: two cancellation tokens and a [`Pulse`]. Clones speak to the same server.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    closing: CancellationToken,
    aborting: CancellationToken,
    pulse: Pulse,
}

impl Stoppable for Stop {
    fn close(&self) {
        self.closing.cancel();
    }

    fn abort(&self) {
        self.closing.cancel();
        self.aborting.cancel();
    }

    fn is_closing(&self) -> bool {
        self.closing.is_cancelled()
    }
}

impl Stop {
    /// The same stop for another server, which is asked by itself whether it is alive.
    #[must_use]
    pub fn with_own_pulse(&self) -> Self {
        Self { pulse: Pulse::default(), ..self.clone() }
    }

    /// Whether the server is alive.
    pub fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// Waits for [`close`](Self::close).
    pub fn closing(&self) -> WaitForCancellationFuture<'_> {
        self.closing.cancelled()
    }

    /// Waits for [`close`](Self::close), wherever it is taken.
    pub fn closed(&self) -> WaitForCancellationFutureOwned {
        self.closing.clone().cancelled_owned()
    }

    /// Waits for [`abort`](Self::abort).
    pub fn aborting(&self) -> WaitForCancellationFuture<'_> {
        self.aborting.cancelled()
    }
}
