//! How a poem server treats its clients, as planned, and what it really did.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::recorder::Recorder;
use crate::pace::recording::{Entry, Happening};
use crate::pace::{Cursor, Ending, Next, Plan};
use crate::poem::Poem;
use crate::units::micros;

/// What the blocking and the async server share: they only do what it says, and tell it how far that got.
#[derive(Debug)]
pub struct FaultPlan {
    plan: Plan,
    recorder: Option<Arc<Recorder>>,
    connections: AtomicU64,
}

/// One client's transfer: its poem, and its way through it. Dropped before it is told how it ended, it ended with a
/// reset.
#[derive(Debug)]
pub struct Transfer {
    connection: u64,
    poem: Poem,
    cursor: Cursor,
    /// Until the end is recorded.
    recorder: Option<Arc<Recorder>>,
}

impl FaultPlan {
    /// Treats connections as planned, and records what happens to them, if there is a recorder.
    pub fn new(plan: Plan, recorder: Option<Recorder>) -> Self {
        Self { plan, recorder: recorder.map(Arc::new), connections: AtomicU64::new(0) }
    }

    /// To be called before the first client: begins the recording, if there is to be one.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn start(&self) -> io::Result<()> {
        self.recorder.as_ref().map_or(Ok(()), |recorder| recorder.start())
    }

    /// Whether everything that happened is recorded, if it should be.
    pub fn is_recorded(&self) -> bool {
        self.recorder.as_ref().is_none_or(|recorder| recorder.is_whole())
    }

    /// The turn of the client whose connection was accepted at `now`.
    pub(super) fn begin(&self, peer: &impl ToString, poem: Poem, now: Instant) -> Transfer {
        let connection = self.connections.fetch_add(1, Relaxed) + 1;
        let cursor = Cursor::new(self.plan.schedule(connection), now);
        let transfer = Transfer { connection, poem, cursor, recorder: self.recorder.clone() };
        transfer.record(now, || Happening::Accept { peer: Some(peer.to_string()), time: Some(Recorder::time(now)) });
        transfer
    }

    /// A client whose connection was accepted at `now` gets no poem, but a reset.
    pub(super) fn refuse(&self, peer: &impl ToString, now: Instant) {
        self.begin(peer, Poem::from(Vec::new()), now).end(Ending::Rst, Instant::now());
    }
}

impl Transfer {
    /// What to do at the moment `now`.
    pub(super) fn next(&mut self, now: Instant) -> Next {
        self.cursor.next(now, self.poem.bytes().len() as u64, true)
    }

    /// The client took so many bytes of what was to be sent.
    pub(super) fn sent(&mut self, bytes: usize, now: Instant) {
        let bytes = bytes as u64;
        if bytes > 0 {
            self.record(now, || Happening::Send { bytes });
        }
        self.cursor.sent(bytes, now);
    }

    /// Everything that was written has left.
    pub(super) fn flushed(&mut self) {
        self.cursor.flushed();
    }

    /// The server ends the connection.
    pub(super) fn end(&mut self, how: Ending, now: Instant) {
        self.record(now, || how.into());
        self.recorder = None;
    }

    /// The client has gone away.
    pub(super) fn lose(&mut self, now: Instant) {
        self.record(now, || Happening::Gone);
        self.recorder = None;
    }

    /// The whole poem.
    pub(super) fn poem(&self) -> &[u8] {
        self.poem.bytes()
    }

    /// The part of the poem between two offsets.
    pub(super) fn part(&self, bytes: Range<u64>) -> &[u8] {
        &self.poem()[index(bytes.start)..index(bytes.end)]
    }

    /// Number of bytes that the client took.
    pub(super) fn bytes_sent(&self) -> usize {
        index(self.cursor.position())
    }

    /// How long what is to be done now may take, if the connection is cut then.
    pub(super) fn time_left(&self, now: Instant) -> Option<Duration> {
        self.cursor.time_left(now)
    }

    fn record(&self, now: Instant, event: impl FnOnce() -> Happening) {
        if let Some(recorder) = &self.recorder {
            let at_us = micros(self.cursor.elapsed(now));
            recorder.write(&Entry { connection: self.connection, at_us, event: event() });
        }
    }
}

/// An offset in a poem, which is in memory.
fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.record(Instant::now(), || Happening::Rst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The async server holds one of them for every client that waits, see [`crate::net::timer`].
    #[test]
    #[cfg(target_pointer_width = "64")]
    fn a_transfer_is_small() {
        assert!(size_of::<Transfer>() <= 144);
    }
}
