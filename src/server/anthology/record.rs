//! What is known of a fetch, while it goes on and afterwards: when what happened.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::source::Transform;
use super::trouble::Trouble;
use crate::report::{Events, Limit, Status};
use crate::sync::lock;
use crate::units::micros;

/// The moments of a fetch, as far as they have come.
#[derive(Debug, Clone)]
pub(super) struct Record {
    /// When somebody wanted it.
    pub(super) begun: Instant,
    /// When its turn came.
    pub(super) turn: Option<Instant>,
    /// When the connection stood, of several the last one.
    pub(super) connected: Option<Instant>,
    /// When the first byte came on that.
    pub(super) first_byte: Option<Instant>,
    /// When it was over.
    pub(super) ended: Option<Instant>,
    /// Bytes of the text.
    pub(super) bytes: u64,
    /// Its reads, from when it was begun.
    pub(super) reads: Events,
    /// How the text was changed, if it was to be.
    pub(super) change: Option<Change>,
}

/// The moments of an exchange with a transform server.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) transform: Transform,
    pub(super) begun: Instant,
    pub(super) connected: Option<Instant>,
    pub(super) ended: Option<Instant>,
    /// Bytes of the changed text.
    pub(super) bytes: u64,
    /// Why the text is as it was, if it is.
    pub(super) failure: Option<(Status, String, Option<Limit>)>,
}

impl Change {
    pub(super) fn begin(transform: &Transform) -> Self {
        let transform = transform.clone();
        Self { transform, begun: Instant::now(), connected: None, ended: None, bytes: 0, failure: None }
    }

    pub(super) fn connected(&mut self) {
        self.connected = Some(Instant::now());
    }

    /// It has brought so many bytes, or has failed.
    pub(super) fn end(&mut self, how: Result<usize, &Trouble>) {
        self.ended = Some(Instant::now());
        match how {
            Ok(bytes) => self.bytes = bytes as u64,
            Err(trouble) => self.failure = Some((trouble.status(), trouble.to_string(), trouble.limit())),
        }
    }
}

/// A record that is being written.
#[derive(Debug)]
pub(super) struct Log(Mutex<Record>);

impl Log {
    pub(super) fn begin() -> Self {
        let reads = Events::default();
        let (begun, change) = (Instant::now(), None);
        let (turn, connected, first_byte, ended) = (None, None, None, None);
        Self(Mutex::new(Record { begun, turn, connected, first_byte, ended, bytes: 0, reads, change }))
    }

    pub(super) fn record(&self) -> Record {
        lock(&self.0).clone()
    }

    pub(super) fn turn(&self) {
        lock(&self.0).turn = Some(Instant::now());
    }

    pub(super) fn connected(&self) {
        let record = &mut *lock(&self.0);
        (record.connected, record.first_byte) = (Some(Instant::now()), None);
    }

    /// Something was read, of which so many bytes are of the text.
    pub(super) fn read(&self, bytes: usize) {
        let (record, now) = (&mut *lock(&self.0), Instant::now());
        record.first_byte.get_or_insert(now);
        if bytes > 0 {
            record.bytes += bytes as u64;
            record.reads.push(micros(now.duration_since(record.begun)), bytes as u64);
        }
    }

    pub(super) fn ended(&self) {
        lock(&self.0).ended = Some(Instant::now());
    }

    /// Something becomes of the exchange with a transform server.
    pub(super) fn change(&self, what: impl FnOnce(&mut Option<Change>)) {
        what(&mut lock(&self.0).change);
    }

    /// What is left of this time, which began with the turn.
    pub(super) fn left(&self, time: Duration) -> Duration {
        lock(&self.0).turn.map_or(time, |turn| time.saturating_sub(turn.elapsed()))
    }

    pub(super) fn bytes(&self) -> u64 {
        lock(&self.0).bytes
    }
}

impl Record {
    /// How long it took, as far as it is over.
    pub(super) fn took(&self) -> Option<Duration> {
        Some(self.ended?.duration_since(self.turn?))
    }
}
