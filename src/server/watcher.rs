//! Whoever watches what passes through a server, and tells it as a report.
//!
//! ```text
//!   accept ──▶ Watcher::begin ──▶ Watched ── a relay tells it of bytes and ends ──▶ report::seen ──▶ lanes
//! ```

use std::io;
use std::mem;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant, SystemTime};

use tokio_util::sync::CancellationToken;

use crate::errors::reason;
use crate::net::dial::DialError;
use crate::net::relay::{RelayEnd, Witness};
use crate::report::Status;
use crate::report::seen::{Keep, Seen, Sight};
use crate::sync::lock;
use crate::units::{Micros, micros};

/// Watches connections, one round after another.
#[derive(Debug)]
pub struct Watcher {
    most: usize,
    keep: Keep,
    round: Mutex<Round>,
    /// A connection of this round is over.
    ended: Condvar,
}

/// What was seen since a certain moment.
#[derive(Debug)]
struct Round {
    number: u64,
    clock: Instant,
    started: SystemTime,
    seen: Seen,
    /// Connections that are not over.
    open: usize,
    /// Cancelled when the round is over.
    over: CancellationToken,
}

/// What was seen in a round.
#[derive(Debug)]
pub struct Sighted {
    /// The connections.
    pub seen: Seen,
    /// When the round began.
    pub started: SystemTime,
    /// The time since then.
    pub elapsed_us: Micros,
}

/// A connection that is watched.
#[derive(Debug)]
pub struct Watched {
    watcher: Arc<Watcher>,
    round: u64,
    number: u64,
    over: CancellationToken,
}

impl Round {
    fn begin(number: u64, most: usize, keep: Keep) -> Self {
        Self {
            number,
            clock: Instant::now(),
            started: SystemTime::now(),
            seen: Seen::new(most, keep),
            open: 0,
            over: CancellationToken::new(),
        }
    }

    /// Something has happened on a connection of the round of this number, now.
    fn note(&mut self, round: u64, number: u64, sight: Sight) {
        if self.number == round {
            let now = micros(self.clock.elapsed());
            self.seen.note(number, now, sight);
        }
    }
}

impl Watcher {
    /// A watcher whose first round begins now. It keeps so many connections of each.
    pub fn new(most: usize, keep: Keep) -> Arc<Self> {
        let round = Mutex::new(Round::begin(0, most, keep));
        Arc::new(Self { most, keep, round, ended: Condvar::new() })
    }

    /// A connection has been accepted just now, to be passed on to this place.
    pub(super) fn begin(self: &Arc<Self>, place: usize) -> Watched {
        self.begin_as(None, place)
    }

    /// The same for a connection that has a number already, which no other one has.
    pub(super) fn begin_as(self: &Arc<Self>, number: Option<u64>, place: usize) -> Watched {
        let mut round = lock(&self.round);
        let now = micros(round.clock.elapsed());
        round.open += 1;
        let number = match number {
            Some(number) => {
                round.seen.begin_as(number, place, now);
                number
            }
            None => round.seen.begin(place, now),
        };
        Watched { watcher: Arc::clone(self), round: round.number, number, over: round.over.clone() }
    }

    /// What was seen of this round so far; `tell` is called with it, and nothing is seen meanwhile.
    pub fn look<T>(&self, tell: impl FnOnce(&Seen, SystemTime, Micros) -> T) -> T {
        let round = lock(&self.round);
        tell(&round.seen, round.started, micros(round.clock.elapsed()))
    }

    /// Begins a new round, and returns what was seen in the one that was. The clients are gone: what they have said has
    /// `patience` to be passed on, and connections that are open still are reset then.
    pub fn next_round(&self, patience: Duration) -> Sighted {
        let mut round = lock(&self.round);
        let elapsed_us = micros(round.clock.elapsed());
        let is_open = |round: &mut Round| round.open > 0;
        let wait = |round, time| {
            self.ended.wait_timeout_while(round, time, is_open).unwrap_or_else(std::sync::PoisonError::into_inner).0
        };
        round = wait(round, patience);
        round.over.cancel();
        round = wait(round, patience);
        let next = Round::begin(round.number + 1, self.most, self.keep);
        let Round { seen, started, .. } = mem::replace(&mut *round, next);
        Sighted { seen, started, elapsed_us }
    }

    fn note(&self, round: u64, number: u64, sight: Sight) {
        lock(&self.round).note(round, number, sight);
    }
}

impl Watched {
    /// Something has happened on it, now.
    pub(super) fn note(&self, sight: Sight) {
        self.watcher.note(self.round, self.number, sight);
    }

    /// Waits until its round is over: then nobody wants to know any more.
    pub(super) async fn over(&self) {
        self.over.cancelled().await;
    }

    /// There is no connection to the server.
    pub(super) fn is_unreached(&self, error: &DialError) {
        let status = match error {
            DialError::Timeout(_) => Status::Timeout,
            DialError::Connect(error) => match error.kind() {
                io::ErrorKind::ConnectionRefused => Status::Refused,
                io::ErrorKind::TimedOut => Status::Timeout,
                // It stood, and was reset at once.
                io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected => Status::Reset,
                _ => Status::Unreachable,
            },
            DialError::Resolve(_) => Status::Unreachable,
            DialError::Socket(_) | DialError::Itself | DialError::Forbidden | DialError::Thread(_) => Status::Error,
        };
        self.note(Sight::Unreached(status, error.to_string()));
    }

    /// What has come of the relay of it. That it was cut on purpose is told by whoever did it.
    pub(super) fn has_ended(&self, end: &RelayEnd) {
        match end {
            RelayEnd::Both => self.note(Sight::ServerEnded),
            RelayEnd::UpstreamBroke(error) => self.note(Sight::ServerBroke(Status::Reset, reason(error))),
            RelayEnd::ClientBroke(error) if error.kind() == io::ErrorKind::TimedOut => {
                self.note(Sight::ServerBroke(Status::Timeout, "the client took nothing for too long".to_owned()));
            }
            RelayEnd::ClientBroke(_) => self.note(Sight::ClientBroke),
            RelayEnd::Messages | RelayEnd::Unasked | RelayEnd::Cut(_) => {}
        }
    }
}

/// Of the direction to the client.
impl Witness for Watched {
    fn sent(&self, bytes: u64) {
        self.note(Sight::Passed(bytes));
    }

    fn stalled(&self) {
        self.note(Sight::Stalled);
    }

    fn ended(&self) {
        self.note(Sight::ServerEnded);
    }
}

/// What is told of the direction from the client: its end, in its place among all that the relay does.
pub(super) struct FromClient(pub(super) Arc<Watched>);

impl Witness for FromClient {
    fn sent(&self, _: u64) {}

    fn ended(&self) {
        self.0.note(Sight::ClientEnded);
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut round = lock(&self.watcher.round);
        if round.number == self.round {
            round.open -= 1;
            self.watcher.ended.notify_all();
        }
    }
}
