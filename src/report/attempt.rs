//! Attempts that failed before another one was made, in bounded memory.

use serde::{Deserialize, Serialize};

use super::{Events, Limit, Status};
use crate::units::Micros;

/// An attempt at a poem that failed, and after which there was a pause. Moments that were never reached are `None`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Its number, from 1.
    pub attempt: u32,
    /// When it began: the name was looked up, then the connection made.
    pub start_us: Micros,
    /// When the connection stood.
    pub connected_us: Option<Micros>,
    /// When the first byte was read.
    pub first_byte_us: Option<Micros>,
    /// When it had failed, and the pause began.
    pub end_us: Micros,
    /// How it failed.
    pub status: Status,
    /// Why it failed, in words.
    pub error: Option<String>,
    /// Which of the client's own limits ran out, if that was why.
    pub limit: Option<Limit>,
    /// Bytes received. They are void.
    pub bytes: u64,
    /// The reads, at most [`Attempt::READS`] after merging; empty if they were not recorded.
    pub events: Events,
}

impl Attempt {
    /// The most entries of `events`: fewer than those of the last attempt, because there may be many attempts.
    pub const READS: usize = 100;
}

/// The attempts at a poem that failed before its last one, oldest first.
///
/// Never more than [`Attempts::LIMIT`] are kept: the first half of that, and the latest ones. Their numbers tell what is
/// missing in between.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Attempts(Vec<Attempt>);

impl Attempts {
    /// The most attempts that are kept.
    pub const LIMIT: usize = 100;

    /// Those that are known.
    pub fn known(&self) -> &[Attempt] {
        &self.0
    }

    /// Changes each of those that are known.
    pub fn each(&mut self, change: impl FnMut(&mut Attempt)) {
        self.0.iter_mut().for_each(change);
    }

    /// Adds one, later than all others. Of its reads, neighbours are merged.
    pub fn push(&mut self, mut attempt: Attempt) {
        attempt.events.merge_to(Attempt::READS);
        if self.0.len() == Self::LIMIT {
            self.0.remove(Self::LIMIT / 2);
        }
        self.0.push(attempt);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixtures::attempt;

    #[test]
    fn of_many_attempts_the_first_and_the_latest_are_kept() {
        let mut attempts = Attempts::default();
        let numbers = |attempts: &Attempts| attempts.known().iter().map(|attempt| attempt.attempt).collect::<Vec<_>>();
        for number in 1..=100 {
            attempts.push(attempt(number, 10, 20));
        }
        assert!(numbers(&attempts).into_iter().eq(1..=100));
        for number in 101..=1_000 {
            attempts.push(attempt(number, 10, 20));
        }
        assert!(numbers(&attempts).into_iter().eq((1..=50).chain(951..=1_000)));
    }

    #[test]
    fn an_attempt_keeps_fewer_reads_than_a_poem_and_all_of_its_bytes() {
        let mut failed = attempt(1, 0, 1_000);
        failed.events = Events::default();
        for at in 0..777 {
            failed.events.push(at, 3);
        }
        let mut attempts = Attempts::default();
        attempts.push(failed);
        let entries = attempts.known()[0].events.entries();
        assert!(entries.len() <= Attempt::READS && entries.len() > Attempt::READS / 2);
        assert_eq!((entries.iter().map(|entry| entry.1).sum::<u64>(), entries[entries.len() - 1].0), (777 * 3, 776));
    }
}
