//! How a poem server treats its clients, as planned, and what it really did.

use std::io;
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

/// One client's transfer: its poem, and its way through it. Dropped before it is told how it ended, it ended with a reset.
#[derive(Debug)]
pub struct Transfer {
    connection: u64,
    poem: Poem,
    bytes_sent: usize,
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
        let cursor = self.plan.cursor(connection, poem.bytes().len(), now);
        let transfer = Transfer { connection, poem, bytes_sent: 0, cursor, recorder: self.recorder.clone() };
        transfer.record(now, || Happening::Accept { peer: Some(peer.to_string()), time: Some(Recorder::time(now)) });
        transfer
    }

    /// A client whose connection was accepted at `now` gets no poem, but a reset.
    pub(super) fn refuse(&self, peer: &impl ToString, now: Instant) {
        self.begin(peer, Poem::from(Vec::new()), now).end(Ending::Rst);
    }
}

impl Transfer {
    /// What to do at the moment `now`.
    pub(super) fn next(&mut self, now: Instant) -> Next {
        self.cursor.next(now)
    }

    /// The client took so many bytes of what was to be sent.
    pub(super) fn sent(&mut self, bytes: usize, now: Instant) {
        if bytes > 0 {
            self.record(now, || Happening::Send { bytes });
        }
        self.bytes_sent += bytes;
        self.cursor.sent(bytes, now);
    }

    /// The server ends the connection.
    pub(super) fn end(&mut self, how: Ending) {
        self.record(Instant::now(), || how.into());
        self.recorder = None;
    }

    /// The client has gone away.
    pub(super) fn lose(&mut self) {
        self.record(Instant::now(), || Happening::Gone);
        self.recorder = None;
    }

    /// The whole poem.
    pub(super) fn poem(&self) -> &[u8] {
        self.poem.bytes()
    }

    /// Bytes of it that the client took.
    pub(super) fn bytes_sent(&self) -> usize {
        self.bytes_sent
    }

    /// Whether the end of the stream follows the byte before `end` at once.
    pub(super) fn closes_at(&self, end: usize) -> bool {
        self.cursor.closes_at(end)
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

impl Drop for Transfer {
    fn drop(&mut self) {
        self.record(Instant::now(), || Happening::Rst);
    }
}
