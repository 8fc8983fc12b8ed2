//! How each connection is treated.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Instant;

use super::{Cursor, Pace, Replay, Schedule, Treatment};

/// How a server treats its connections, which are numbered from 1 in the order in which they are accepted.
#[derive(Debug, Clone)]
pub struct Plan {
    seed: u64,
    /// The first ones: a treatment for all up to and including the connection of this number.
    first: Vec<(u64, Arc<Treatment>)>,
    others: Others,
}

#[derive(Debug, Clone)]
enum Others {
    /// All alike.
    Same(Arc<Treatment>),
    /// Like the first ones, over and over again.
    Again,
}

impl Plan {
    /// All connections are treated alike, but for the chance that follows from `seed`.
    pub fn uniform(seed: u64, pace: Pace) -> Self {
        Self::script(seed, [], pace)
    }

    /// The first connections are treated as `first` has it, each for so many of them; then all `others` alike.
    pub fn script(seed: u64, first: impl IntoIterator<Item = (NonZeroU64, Pace)>, others: Pace) -> Self {
        let mut last = 0_u64;
        let numbered = |(times, pace): (NonZeroU64, Pace)| {
            last = last.saturating_add(times.get());
            (last, Arc::new(Treatment::Paced(pace)))
        };
        let first = first.into_iter().map(numbered).collect();
        Self { seed, first, others: Others::Same(Arc::new(Treatment::Paced(others))) }
    }

    /// Each connection as it was once before; when there are more, it begins again with the first. Without any, all
    /// get the whole poem at once.
    pub fn replay(connections: Vec<Replay>) -> Self {
        if connections.is_empty() {
            return Self::uniform(0, Pace::default());
        }
        let first = (1..).zip(connections).map(|(number, replay)| (number, Arc::new(Treatment::Replayed(replay))));
        Self { seed: 0, first: first.collect(), others: Others::Again }
    }

    /// Everything that will happen on the connection of this number, for a poem of `len` bytes.
    pub fn schedule(&self, connection: u64, len: usize) -> Schedule {
        Schedule::new(self.treatment(connection), self.seed, connection, len)
    }

    /// The cursor of a connection that was accepted at `now`, through a poem of `len` bytes.
    pub fn cursor(&self, connection: u64, len: usize, now: Instant) -> Cursor {
        Cursor::start(self.schedule(connection, len), now)
    }

    fn treatment(&self, connection: u64) -> &Arc<Treatment> {
        let number = match (&self.others, self.first.last()) {
            (Others::Again, Some((last, _))) => (connection - 1) % last + 1,
            _ => connection,
        };
        let found = self.first.partition_point(|(last, _)| *last < number);
        match (self.first.get(found), &self.others) {
            (Some((_, treatment)), _) | (None, Others::Same(treatment)) => treatment,
            (None, Others::Again) => &self.first[0].1,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::pace::{Action, Cut, CutAt, Ending};

    fn times(times: u64) -> NonZeroU64 {
        NonZeroU64::new(times).expect("not zero")
    }

    fn how_it_ends(plan: &Plan, connection: u64) -> Ending {
        let last = plan.schedule(connection, 100).last().expect("an end");
        let Action::End(how) = last.action else { panic!("{last:?}") };
        how
    }

    #[test]
    fn a_script_is_followed_to_its_end_and_then_the_others_come() {
        let hang = Pace { cut: Some(Cut { at: CutAt::Bytes(10), how: Ending::Hang }), ..Pace::default() };
        let plan = Plan::script(1, [(times(2), Pace::failure()), (times(1), hang)], Pace::default());
        let endings: Vec<Ending> = (1..=5).map(|connection| how_it_ends(&plan, connection)).collect();
        assert_eq!(endings, [Ending::Rst, Ending::Rst, Ending::Hang, Ending::Fin, Ending::Fin]);
    }

    #[test]
    fn the_longest_script_does_not_overflow() {
        let all = times(u64::MAX);
        let plan = Plan::script(1, [(all, Pace::failure()), (all, Pace::default())], Pace::default());
        assert_eq!(how_it_ends(&plan, u64::MAX), Ending::Rst);
    }

    #[test]
    fn a_replay_begins_again_when_it_is_over() {
        let replay = |how| Replay { pieces: vec![(Duration::ZERO, 1)], end: (Duration::ZERO, how) };
        let plan = Plan::replay(vec![replay(Ending::Rst), replay(Ending::Hang)]);
        let endings: Vec<Ending> = (1..=5).map(|connection| how_it_ends(&plan, connection)).collect();
        assert_eq!(endings, [Ending::Rst, Ending::Hang, Ending::Rst, Ending::Hang, Ending::Rst]);
    }
}
