//! A [`Plan`] at work: the transfers of a poem server, and the recording of what really happened.
//!
//! Both poem servers, the blocking and the async one, do only what a [`Transfer`] says, and tell it how far that got,
//! in the order of calls of a [`Cursor`]. Time is an argument.

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

/// The plan of a server, its recording, and the number of its connections so far.
#[derive(Debug)]
pub struct FaultPlan {
    plan: Plan,
    recorder: Option<Arc<Recorder>>,
    connections: AtomicU64,
}

/// The transfer of a poem to one client: the poem, and the cursor in its schedule. A drop before the end is recorded as
/// a reset.
#[derive(Debug)]
pub struct Transfer {
    connection: u64,
    poem: Poem,
    cursor: Cursor,
    /// None once the end is recorded.
    recorder: Option<Arc<Recorder>>,
}

impl FaultPlan {
    /// A plan at work, recorded if there is a recorder.
    pub fn new(plan: Plan, recorder: Option<Recorder>) -> Self {
        Self { plan, recorder: recorder.map(Arc::new), connections: AtomicU64::new(0) }
    }

    /// Begins the recording, if there is one. To be called before the first client.
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

    /// Begins the transfer to a client for whose connection accept(2) returned at `now`.
    pub(super) fn begin(&self, peer: &impl ToString, poem: Poem, now: Instant) -> Transfer {
        let connection = self.connections.fetch_add(1, Relaxed) + 1;
        let cursor = Cursor::new(self.plan.schedule(connection), now);
        let transfer = Transfer { connection, poem, cursor, recorder: self.recorder.clone() };
        transfer.record(now, || Happening::Accept { peer: Some(peer.to_string()), time: Some(Recorder::time(now)) });
        transfer
    }

    /// Records a client whose connection was accepted at `now`, and is reset because there is no poem for it.
    pub(super) fn refuse(&self, peer: &impl ToString, now: Instant) {
        self.begin(peer, Poem::from(Vec::new()), now).end(Ending::Rst, Instant::now());
    }
}

impl Transfer {
    /// What to do at the moment `now`: see [`Cursor::next`].
    pub(super) fn next(&mut self, now: Instant) -> Next {
        self.cursor.next(now, self.poem.bytes().len() as u64, true)
    }

    /// Counts and records so many bytes that the client took, and goes on to the next ones.
    pub(super) fn sent(&mut self, bytes: usize, now: Instant) {
        let bytes = bytes as u64;
        if bytes > 0 {
            self.record(now, || Happening::Send { bytes });
        }
        self.cursor.sent(bytes, now);
    }

    /// Notes that everything that was written has left the socket's buffer.
    pub(super) fn flushed(&mut self) {
        self.cursor.flushed();
    }

    /// Records how the server ends the connection.
    pub(super) fn end(&mut self, how: Ending, now: Instant) {
        self.record(now, || how.into());
        self.recorder = None;
    }

    /// Records that the client has gone away.
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

    /// Time left until a cut by time, if one is scheduled.
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

/// An offset as an index: a poem is in memory, and no offset in it is too large.
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
