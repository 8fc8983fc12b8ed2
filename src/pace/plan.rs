//! Which connection gets which profile.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use super::{Pace, Profile, Replay, Schedule};

/// The behaviour of a server: a profile for every connection. Connections are numbered from 1 in the order of
/// accept(2).
#[derive(Debug, Clone)]
pub struct Plan {
    seed: u64,
    /// The profiles of the first connections, each with the number of the last connection that has it, in ascending
    /// order.
    first: Vec<(u64, Arc<Profile>)>,
    others: Others,
    /// After so many connections, everything begins again.
    cycle: Option<NonZeroU64>,
}

/// What follows the first connections.
#[derive(Debug, Clone)]
enum Others {
    /// One profile for all of them.
    Same(Arc<Profile>),
    /// The profiles of the first ones, over and over again.
    Again,
}

impl Plan {
    /// One pace for all connections, with the jitter that follows from `seed`.
    pub fn uniform(seed: u64, pace: Pace) -> Self {
        Self::script(seed, [], pace)
    }

    /// A pace for each run of the first connections, which is so many connections long, and one pace for all `others`.
    pub fn script(seed: u64, first: impl IntoIterator<Item = (NonZeroU64, Pace)>, others: Pace) -> Self {
        let mut last = 0_u64;
        let numbered = |(times, pace): (NonZeroU64, Pace)| {
            last = last.saturating_add(times.get());
            (last, Arc::new(Profile::Paced(pace)))
        };
        let first = first.into_iter().map(numbered).collect();
        Self { seed, first, others: Others::Same(Arc::new(Profile::Paced(others))), cycle: None }
    }

    /// The same for the first so many connections, which repeats itself from then on, jitter and all.
    #[must_use]
    pub fn cycle(self, connections: Option<NonZeroU64>) -> Self {
        Self { cycle: connections, ..self }
    }

    /// The same for all connections, but the first byte comes so late.
    #[must_use]
    pub fn late(&self, first_byte_delay: Duration) -> Self {
        let late = |profile: &Arc<Profile>| match &**profile {
            Profile::Paced(pace) => Arc::new(Profile::Paced(Pace { first_byte_delay, ..pace.clone() })),
            Profile::Replayed(_) => Arc::clone(profile),
        };
        Self {
            first: self.first.iter().map(|(last, profile)| (*last, late(profile))).collect(),
            others: match &self.others {
                Others::Same(profile) => Others::Same(late(profile)),
                Others::Again => Others::Again,
            },
            ..self.clone()
        }
    }

    /// The connections of a recording, in a cycle: after the last one comes the first one again. Without any, all get
    /// everything at once.
    pub fn replay(connections: Vec<Replay>) -> Self {
        if connections.is_empty() {
            return Self::uniform(0, Pace::default());
        }
        let first = (1..).zip(connections).map(|(number, replay)| (number, Arc::new(Profile::Replayed(replay))));
        Self { seed: 0, first: first.collect(), others: Others::Again, cycle: None }
    }

    /// The schedule of the connection of this number.
    pub fn schedule(&self, connection: u64) -> Schedule {
        self.schedule_at(0, connection)
    }

    /// The schedule of the connection of this number to one of many servers, counted from 0, that all have this plan: they
    /// differ in their seeds, each of which is one more than the one before.
    pub(crate) fn schedule_at(&self, server: u64, connection: u64) -> Schedule {
        let connection = self.numbered(connection);
        Schedule::new(self.profile(connection), self.seed.wrapping_add(server), connection)
    }

    fn numbered(&self, connection: u64) -> u64 {
        self.cycle.map_or(connection, |cycle| (connection - 1) % cycle + 1)
    }

    fn profile(&self, connection: u64) -> &Arc<Profile> {
        let number = match (&self.others, self.first.last()) {
            (Others::Again, Some((last, _))) => (connection - 1) % last + 1,
            _ => connection,
        };
        let found = self.first.partition_point(|(last, _)| *last < number);
        match (self.first.get(found), &self.others) {
            (Some((_, profile)), _) | (None, Others::Same(profile)) => profile,
            (None, Others::Again) => &self.first[0].1,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::time::Duration;

    use super::*;
    use crate::pace::{Action, Cut, CutAt, Ending, Tempo};

    fn times(times: u64) -> NonZeroU64 {
        NonZeroU64::new(times).expect("not zero")
    }

    fn how_it_ends(plan: &Plan, connection: u64) -> Ending {
        let last = plan.schedule(connection).steps(100).last().expect("an end");
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
    fn a_cycle_repeats_its_faults_and_its_jitter() {
        let pace = Pace {
            num_bytes: times(1),
            tempo: Tempo::Delay(Duration::from_secs(1)),
            jitter: Duration::from_millis(900),
            ..Pace::default()
        };
        let plan = Plan::script(7, [(times(1), Pace::failure())], pace).cycle(NonZeroU64::new(3));
        let steps: Vec<Vec<_>> = (1..=7).map(|connection| plan.schedule(connection).steps(9).collect()).collect();
        assert_eq!(steps[..3], steps[3..6]);
        assert_eq!(steps[0], steps[6]);
        assert_ne!(steps[1], steps[2], "by chance");
    }

    #[test]
    fn a_replay_begins_again_when_it_is_over() {
        let replay = |how| Replay { pieces: vec![(Duration::ZERO, NonZeroUsize::MIN)], end: (Duration::ZERO, how) };
        let plan = Plan::replay(vec![replay(Ending::Rst), replay(Ending::Hang)]);
        let endings: Vec<Ending> = (1..=5).map(|connection| how_it_ends(&plan, connection)).collect();
        assert_eq!(endings, [Ending::Rst, Ending::Hang, Ending::Rst, Ending::Hang, Ending::Rst]);
    }
}
