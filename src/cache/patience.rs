//! How long one reader may hold up the others who share its flight, as plain decisions: times in, answer out.
//!
//! A reader owes the time for which others had to wait for it, and is let go when it owes [`PATIENCE`]. What it owes is
//! forgiven again, half as fast, while nobody waits for anybody. So a stall is forgotten in the end, whoever holds up the
//! others for less than a third of the time may go on as it does, and nobody is let go who holds up nobody. And however
//! many take turns in holding up the others, these wait no longer than a second for each, and for half of the time in which
//! they do not wait.

use std::time::Duration;

use tokio::time::Instant;

/// A reader that owes so much time to others is let go.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// What a reader owes to those that had to wait for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Debt {
    /// At that time.
    owed: Duration,
    since: Instant,
    /// Since then.
    blame: Blame,
}

/// Whom those wait for who wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blame {
    /// For this reader, and perhaps for others.
    This,
    /// For others.
    Others,
    /// Nobody waits, but for the fetch.
    Nobody,
}

impl Debt {
    /// None.
    pub(super) fn none(now: Instant) -> Self {
        Self { owed: Duration::ZERO, since: now, blame: Blame::Nobody }
    }

    /// From now on these are to blame.
    pub(super) fn look(&mut self, now: Instant, blame: Blame) {
        let passed = now.saturating_duration_since(self.since);
        self.owed = match self.blame {
            Blame::This => self.owed + passed,
            Blame::Others => self.owed,
            Blame::Nobody => self.owed.saturating_sub(passed / 2),
        };
        (self.since, self.blame) = (now, blame);
    }

    /// When it is to be let go, if nothing changes until then. `None`: not at all.
    pub(super) fn due(&self) -> Option<Instant> {
        (self.blame == Blame::This).then(|| self.since + PATIENCE.saturating_sub(self.owed))
    }
}

#[cfg(test)]
mod tests {
    use super::Blame::{Nobody, Others, This};
    use super::*;

    /// Looks at these milliseconds, and what came of it: how many are left to it, if it holds up others.
    fn left(looks: &[(u64, Blame)]) -> Option<u64> {
        let start = Instant::now();
        let mut debt = Debt::none(start);
        for (millis, blame) in looks {
            debt.look(start + Duration::from_millis(*millis), *blame);
        }
        let left = debt.due()?.saturating_duration_since(debt.since);
        Some(u64::try_from(left.as_millis()).expect("short"))
    }

    #[test]
    fn only_who_holds_up_others_owes() {
        for (looks, expected) in [
            (&[][..], None),
            (&[(0, Others), (60_000, Nobody)], None),
            (&[(0, This)], Some(1_000)),
            (&[(5_000, This)], Some(1_000)),
            (&[(0, This), (400, This)], Some(600)),
            (&[(0, This), (400, Nobody)], None),
            (&[(0, This), (400, Nobody), (600, This)], Some(700)),
            (&[(0, This), (400, Others), (600, This)], Some(600)),
            (&[(0, This), (400, Nobody), (60_000, This)], Some(1_000)),
            (&[(0, This), (1_000, This)], Some(0)),
            (&[(0, This), (3_000, This)], Some(0)),
        ] {
            assert_eq!(left(looks), expected, "{looks:?}");
        }
    }

    /// Whether somebody is let go who is to blame for so many milliseconds, then not for so many, and so on.
    fn is_let_go(held: u64, otherwise: Blame, free: u64) -> bool {
        let round = |n| [(n * (held + free), This), (n * (held + free) + held, otherwise)];
        let looks: Vec<_> = (0..1_000).flat_map(round).collect();
        (1..looks.len()).any(|n| left(&looks[..n]).is_some_and(|left| left < held))
    }

    #[test]
    fn who_holds_up_others_more_than_a_third_of_the_time_is_let_go_in_the_end() {
        assert!(is_let_go(100, Nobody, 10) && is_let_go(100, Nobody, 190));
        assert!(!is_let_go(100, Nobody, 200) && !is_let_go(10, Nobody, 1_000));
        assert!(is_let_go(10, Others, 1_000), "taking turns does not help");
    }
}
