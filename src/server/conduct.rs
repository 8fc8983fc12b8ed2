//! How a poem server treats its clients, as planned, and what it really did.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::recorder::Recorder;
use crate::pace::{Ending, Next, Plan, Walk};
use crate::poem::Poem;
use crate::recording::{Entry, Event};
use crate::timing::micros;

/// What the blocking and the async server share: they only do what it says, and tell it how far that got.
#[derive(Debug)]
pub struct Conduct {
    plan: Plan,
    recorder: Option<Recorder>,
    connections: AtomicU64,
}

/// One client's turn: its poem, and its way through it.
#[derive(Debug)]
pub struct Turn {
    connection: u64,
    poem: Poem,
    bytes_sent: usize,
    walk: Walk,
}

impl Conduct {
    /// Treats connections as planned, and records what happens to them, if there is a recorder.
    pub fn new(plan: Plan, recorder: Option<Recorder>) -> Self {
        Self { plan, recorder, connections: AtomicU64::new(0) }
    }

    /// Whether everything that happened is recorded, if it should be.
    pub fn is_recorded(&self) -> bool {
        self.recorder.as_ref().is_none_or(Recorder::is_whole)
    }

    /// The turn of the client whose connection was accepted at `now`.
    pub(super) fn begin(&self, peer: &impl ToString, poem: Poem, now: Instant) -> Turn {
        let connection = self.connections.fetch_add(1, Relaxed) + 1;
        self.record(connection, Duration::ZERO, || Event::Accept {
            peer: Some(peer.to_string()),
            time: Some(Recorder::time()),
        });
        let walk = self.plan.walk(connection, poem.bytes().len(), now);
        Turn { connection, poem, bytes_sent: 0, walk }
    }

    /// A client whose connection was accepted at `now` gets no turn, but a reset.
    pub(super) fn refuse(&self, peer: &impl ToString, now: Instant) {
        let turn = self.begin(peer, Poem::from(Vec::new()), now);
        self.ended(&turn, Some(Ending::Rst));
    }

    /// The client took so many bytes of what was to be sent.
    pub(super) fn sent(&self, turn: &mut Turn, bytes: usize, now: Instant) {
        if bytes > 0 {
            self.record(turn.connection, turn.walk.elapsed(now), || Event::Send { bytes });
        }
        turn.bytes_sent += bytes;
        turn.walk.sent(bytes, now);
    }

    /// The server ends the connection, or (`None`) the client has gone away.
    pub(super) fn ended(&self, turn: &Turn, how: Option<Ending>) {
        self.record(turn.connection, turn.walk.elapsed(Instant::now()), || how.map_or(Event::Gone, Event::from));
    }

    fn record(&self, connection: u64, at: Duration, event: impl FnOnce() -> Event) {
        if let Some(recorder) = &self.recorder {
            recorder.write(&Entry { connection, at_us: micros(at), event: event() });
        }
    }
}

impl Turn {
    /// What to do at the moment `now`.
    pub(super) fn next(&self, now: Instant) -> Next {
        self.walk.next(now)
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
        self.walk.closes_at(end)
    }

    /// How long what is to be done now may take, if the connection is cut then.
    pub(super) fn time_left(&self, now: Instant) -> Option<Duration> {
        self.walk.time_left(now)
    }
}
