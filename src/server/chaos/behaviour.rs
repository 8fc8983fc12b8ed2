//! What is done to whom.

use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::net::relay::{Allowance, Treatment};
use crate::pace::{Corruption, Cursor, Deck, Draws, Line, Pace, Plan};

/// What happens to a connection, or to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Everything is passed on as it comes.
    Dummy,
    /// The connection to upstream, the request, or the first byte of the reply, is late.
    Delay,
    /// What upstream never said.
    Error,
    /// What the client says is read, and nothing is ever said.
    Hang,
    /// A reset at once.
    Blackout,
    /// An error for the first ones, and then nothing unusual.
    Transient,
    /// The request goes up, and then both sides are reset.
    Abort,
}

impl Behaviour {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Dummy, Self::Delay, Self::Error, Self::Hang, Self::Blackout, Self::Transient, Self::Abort];

    /// The name, as Vaurien has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Dummy => "dummy",
            Self::Delay => "delay",
            Self::Error => "error",
            Self::Hang => "hang",
            Self::Blackout => "blackout",
            Self::Transient => "transient",
            Self::Abort => "abort",
        }
    }
}

/// The directions that pace, cuts and corruption are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Directions {
    /// From the client to upstream.
    pub up: bool,
    /// From upstream to the client.
    pub down: bool,
}

/// What is done to connections, or over HTTP to requests: both have numbers, from 1 on.
#[derive(Debug, Clone)]
pub struct Disturbance {
    /// The behaviours, and of a hundred so many each; all others are [`Behaviour::Dummy`].
    pub behaviours: Vec<(Behaviour, u8)>,
    /// The draws.
    pub deck: Deck,
    /// The wait of [`Behaviour::Delay`].
    pub delay: Duration,
    /// Whether that is before upstream's first byte, and not before it is asked.
    pub delay_after: bool,
    /// Whether an error stands in the middle of what upstream says, and not in its place.
    pub inject: bool,
    /// The statuses of errors over HTTP.
    pub error_status: Vec<u16>,
    /// The first ones of [`Behaviour::Transient`] that are errors.
    pub transient: u64,
    /// The pace.
    pub plan: Plan,
    /// How late everything is in each direction, and how much that jitters.
    pub latency: Option<(Duration, Duration)>,
    /// What pace, latency and corruption are about.
    pub directions: Directions,
    /// One bit in so many bytes.
    pub corrupt: Option<NonZeroU64>,
    /// The seed of everything.
    pub seed: u64,
}

/// Keeps the draws of a status apart from others of the same seed.
const STATUS: u64 = 0x7374_6174;

impl Disturbance {
    /// What the one of this number draws.
    pub fn draw(&self, number: u64) -> Behaviour {
        self.deck.draw(number).map_or(Behaviour::Dummy, |kind| self.behaviours[kind].0)
    }

    /// The status of an error, over HTTP.
    pub fn status(&self, number: u64) -> u16 {
        let last = self.error_status.len().saturating_sub(1) as u64;
        let drawn = Draws::new(self.seed ^ STATUS, number).up_to(last);
        usize::try_from(drawn).ok().and_then(|place| self.error_status.get(place)).copied().unwrap_or(500)
    }

    /// How a direction is treated from the moment `now` on.
    pub(super) fn treatment<'m>(
        &self,
        number: u64,
        is_down: bool,
        allowance: &Arc<Allowance>,
        now: Instant,
    ) -> Treatment<'m> {
        let (is_meant, seed) = match is_down {
            true => (self.directions.down, self.seed),
            false => (self.directions.up, !self.seed),
        };
        if !is_meant {
            return Treatment::default();
        }
        let schedule = self.plan.schedule(number);
        let line = |(latency, jitter)| Box::new((Line::new(latency, jitter, seed, number), Arc::clone(allowance)));
        Treatment {
            line: self.latency.map(line),
            pace: (!schedule.is_at_once()).then(|| Box::new(Cursor::new(schedule, now))),
            corruption: self.corrupt.map(|every| Corruption::new(seed.wrapping_add(number), every)),
            ..Treatment::default()
        }
    }

    /// The pace down, but the first byte comes as late as [`Behaviour::Delay`] has it.
    pub(super) fn late(&self, number: u64, now: Instant) -> Box<Cursor> {
        let at_once = || Plan::uniform(0, Pace::default());
        let late = if self.directions.down { self.plan.late(self.delay) } else { at_once().late(self.delay) };
        Box::new(Cursor::new(late.schedule(number), now))
    }

    /// Bytes that nobody has said.
    pub(super) fn garbage(&self, number: u64, length: usize) -> Vec<u8> {
        let mut bytes = fastrand::Rng::with_seed(self.seed.wrapping_add(number));
        (0..length).map(|_| bytes.u8(..)).collect()
    }
}

/// Which disturbance is whose: by the number, and by the time.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Of the first ones, each with the number of the last one that has it, in ascending order.
    first: Vec<(u64, Arc<Disturbance>)>,
    /// Of all, for a time that is counted from when the server listens; the first one that holds counts.
    during: Vec<(Range<Duration>, Arc<Disturbance>)>,
    others: Arc<Disturbance>,
}

impl Scenario {
    /// A disturbance for each run of the first ones, which is so many long, and for each time; and one for all others.
    pub fn new(
        first: impl IntoIterator<Item = (NonZeroU64, Disturbance)>,
        during: impl IntoIterator<Item = (Range<Duration>, Disturbance)>,
        others: Disturbance,
    ) -> Self {
        let mut last = 0_u64;
        let numbered = |(times, disturbance): (NonZeroU64, Disturbance)| {
            last = last.saturating_add(times.get());
            (last, Arc::new(disturbance))
        };
        Self {
            first: first.into_iter().map(numbered).collect(),
            during: during.into_iter().map(|(time, disturbance)| (time, Arc::new(disturbance))).collect(),
            others: Arc::new(others),
        }
    }

    /// What is done to the one of this number, so long after the server listens. `None`: at no time that is named.
    pub fn at(&self, number: u64, time: Option<Duration>) -> &Arc<Disturbance> {
        let by_time = time.and_then(|time| self.during.iter().find(|(during, _)| during.contains(&time)));
        let by_number = || self.first.get(self.first.partition_point(|(last, _)| *last < number));
        by_time
            .map(|(_, disturbance)| disturbance)
            .or_else(|| by_number().map(|(_, found)| found))
            .unwrap_or(&self.others)
    }

    /// Whether the time matters.
    pub fn has_times(&self) -> bool {
        !self.during.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// One that is told by its delay.
    fn disturbance(delay: u32) -> Disturbance {
        Disturbance {
            behaviours: vec![(Behaviour::Delay, 100)],
            deck: Deck::new(1, vec![100], false),
            delay: delay * SECOND,
            delay_after: false,
            inject: false,
            error_status: vec![500, 502, 503],
            transient: 1,
            plan: Plan::uniform(1, Pace::default()),
            latency: None,
            directions: Directions { up: false, down: true },
            corrupt: None,
            seed: 1,
        }
    }

    #[test]
    fn the_time_comes_before_the_number_and_the_number_before_all_others() {
        let times = |times| NonZeroU64::new(times).expect("not 0");
        let scenario = Scenario::new(
            [(times(2), disturbance(1)), (times(1), disturbance(2))],
            [(10 * SECOND..20 * SECOND, disturbance(3)), (15 * SECOND..30 * SECOND, disturbance(4))],
            disturbance(5),
        );
        for (number, time, expected) in [
            (1, Some(0), 1),
            (2, Some(9), 1),
            (3, None, 2),
            (4, Some(9), 5),
            (1, Some(10), 3),
            (4, Some(19), 3),
            (4, Some(20), 4),
            (3, Some(30), 2),
            (4, Some(30), 5),
            (u64::MAX, None, 5),
        ] {
            let found = scenario.at(number, time.map(|time| time * SECOND));
            assert_eq!(found.delay, expected * SECOND, "{number} at {time:?}");
        }
        let endless =
            Scenario::new([(times(u64::MAX), disturbance(1)), (times(1), disturbance(2))], [], disturbance(3));
        assert_eq!(endless.at(u64::MAX, None).delay, SECOND);
    }

    #[test]
    fn a_status_follows_from_the_seed_and_the_number() {
        let disturbance = disturbance(1);
        let statuses: Vec<u16> = (1..=60).map(|number| disturbance.status(number)).collect();
        assert_eq!(statuses, (1..=60).map(|number| disturbance.status(number)).collect::<Vec<_>>());
        for status in [500, 502, 503] {
            assert!(statuses.iter().filter(|drawn| **drawn == status).count() > 9, "{statuses:?}");
        }
    }
}
