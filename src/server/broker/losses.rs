//! When the losses of a subscriber are told: when they begin, when they end, and now and then meanwhile.

use std::time::{Duration, Instant};

/// What there is to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tale {
    /// It has begun.
    Begins,
    /// It goes on: so many since it began, so long ago.
    GoesOn(u64, Duration),
    /// It has ended: so many in so long a time.
    Ended(u64, Duration),
}

/// The losses of one subscriber. It tells two lines in any ten seconds at most, however fast they begin and end.
#[derive(Debug, Default)]
pub(super) struct Losses {
    episode: Option<Episode>,
    /// Until then nothing new is told.
    quiet_until: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Episode {
    since: Instant,
    count: u64,
    /// Whether its beginning was told. One that was not goes on until it is.
    is_told: bool,
}

impl Losses {
    const PAUSE: Duration = Duration::from_secs(10);

    /// So many messages are lost at the moment `now`.
    pub(super) fn lose(&mut self, count: u64, now: Instant) -> Option<Tale> {
        let episode = self.episode.get_or_insert(Episode { since: now, count: 0, is_told: false });
        episode.count += count;
        if self.quiet_until.is_some_and(|until| now < until) {
            return None;
        }
        self.quiet_until = Some(now + Self::PAUSE);
        let is_first = episode.count == count;
        episode.is_told = true;
        Some(if is_first {
            Tale::Begins
        } else {
            Tale::GoesOn(episode.count, now.saturating_duration_since(episode.since))
        })
    }

    /// The subscriber has taken everything at the moment `now`.
    pub(super) fn recover(&mut self, now: Instant) -> Option<Tale> {
        self.episode.filter(|episode| episode.is_told)?;
        self.end(now)
    }

    /// The subscriber leaves: what is not told yet is told now.
    pub(super) fn end(&mut self, now: Instant) -> Option<Tale> {
        let Episode { since, count, .. } = self.episode.take()?;
        Some(Tale::Ended(count, now.saturating_duration_since(since)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_thousand_losses_are_two_lines() {
        let (mut losses, start) = (Losses::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        assert_eq!(losses.recover(at(0)), None);
        let told: Vec<Tale> = (0..100_000).filter_map(|n| losses.lose(1, at(n / 20))).collect();
        assert_eq!(told, [Tale::Begins]);
        assert_eq!(losses.recover(at(5_000)), Some(Tale::Ended(100_000, Duration::from_secs(5))));
        assert_eq!(losses.recover(at(5_000)), None);
    }

    #[test]
    fn what_lasts_is_told_every_ten_seconds() {
        let (mut losses, start) = (Losses::default(), Instant::now());
        let told: Vec<(u64, Tale)> = (0..=250)
            .filter_map(|tenth| Some((tenth, losses.lose(2, start + Duration::from_millis(100 * tenth))?)))
            .collect();
        let seconds = Duration::from_secs;
        let expected =
            [(0, Tale::Begins), (100, Tale::GoesOn(202, seconds(10))), (200, Tale::GoesOn(402, seconds(20)))];
        assert_eq!(told, expected);
        assert_eq!(losses.end(start + seconds(25)), Some(Tale::Ended(502, seconds(25))));
    }

    #[test]
    fn what_begins_and_ends_a_hundred_times_a_second_is_told_twice_in_ten() {
        let (mut losses, start) = (Losses::default(), Instant::now());
        let mut told = Vec::new();
        for n in 0..2_000 {
            let now = start + Duration::from_millis(10 * n);
            told.extend(losses.lose(1, now));
            told.extend(losses.recover(now + Duration::from_millis(5)));
        }
        assert!(
            matches!(told[..], [Tale::Begins, Tale::Ended(1, _), Tale::GoesOn(1_000, _), Tale::Ended(1_000, _)]),
            "{told:?}"
        );
        // What was not told is told at the end, and nothing twice.
        let Some(Tale::Ended(rest, _)) = losses.end(start + Duration::from_secs(20)) else { panic!("999 are left") };
        assert_eq!(rest, 999);
    }
}
