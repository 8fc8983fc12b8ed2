//! A connection's way through its schedule.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::{Action, Ending, Schedule, Step};

/// A peer that takes nothing for no longer than this has not held up the sender: the way to it was full for a moment.
const SLACK: Duration = Duration::from_millis(100);

/// A connection on its way through its schedule: says what to do now, and is told how far that got.
///
/// Deadlines are absolute: a machine that is late makes up for it. But a peer that held up the sender for more than one
/// pause (and 100 ms) does not get what it missed in one burst: everything still to come moves by as much as it held up.
/// Only a cut at a time stays where it is.
#[derive(Debug)]
pub struct Cursor {
    schedule: Schedule,
    step: Step,
    accepted: Instant,
    /// What the times of the steps are counted from.
    origin: Instant,
    /// When the piece that is due was first offered to the peer.
    offered: Option<Instant>,
}

/// What a server has to do next on a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Nothing, for so long.
    Wait(Duration),
    /// Send these bytes of the poem, or as many of the first of them as the peer takes.
    Send(Range<usize>),
    /// End the connection.
    End(Ending),
}

impl Cursor {
    /// A connection that was accepted at `now` sets out.
    pub(super) fn start(mut schedule: Schedule, now: Instant) -> Self {
        let step = schedule.step();
        Self { schedule, step, accepted: now, origin: now, offered: None }
    }

    /// What to do at the moment `now`. Bytes to send are to be offered to the peer at once.
    pub fn next(&mut self, now: Instant) -> Next {
        let cut = self.schedule.deadline().map(|(at, how)| (self.time_to(at, self.accepted, now), how));
        let early = self.time_to(self.step.at, self.origin, now);
        match (&self.step.action, cut) {
            (_, Some((Duration::ZERO, how))) => Next::End(how),
            (_, Some((time, _))) if !early.is_zero() => Next::Wait(early.min(time)),
            (_, None) if !early.is_zero() => Next::Wait(early),
            (Action::Send(piece), _) => {
                self.offered.get_or_insert(now);
                Next::Send(piece.clone())
            }
            (Action::End(how), _) => Next::End(*how),
        }
    }

    /// How long what is to be done now may take, if something else has to be done then.
    pub fn time_left(&self, now: Instant) -> Option<Duration> {
        self.schedule.deadline().map(|(at, _)| self.time_to(at, self.accepted, now))
    }

    /// The peer took the first `bytes` of what was to be sent, and that is known at the moment `now`.
    pub fn sent(&mut self, bytes: usize, now: Instant) {
        let Action::Send(piece) = &mut self.step.action else { return };
        piece.start += bytes;
        if piece.start < piece.end {
            return;
        }
        let next = self.schedule.step();
        let held_up = self.offered.take().map_or(Duration::ZERO, |offered| now.saturating_duration_since(offered));
        if held_up > next.at.saturating_sub(self.step.at).max(SLACK) {
            self.origin += held_up;
        }
        self.step = next;
    }

    /// The time since the connection was accepted.
    pub fn elapsed(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.accepted)
    }

    /// Whether the poem is complete with the byte before `end`, and the end of the stream follows at once.
    pub fn closes_at(&self, end: usize) -> bool {
        self.schedule.closes_at(end)
    }

    fn time_to(&self, at: Duration, origin: Instant, now: Instant) -> Duration {
        at.saturating_sub(now.saturating_duration_since(origin))
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::pace::{Cut, CutAt, Pace, Plan, Tempo};

    const MS: Duration = Duration::from_millis(1);

    fn pieces(num_bytes: usize) -> Pace {
        Pace {
            num_bytes: NonZeroUsize::new(num_bytes).expect("not zero"),
            tempo: Tempo::Delay(200 * MS),
            ..Pace::default()
        }
    }

    fn cursor(pace: Pace, len: usize) -> (Cursor, Instant) {
        let start = Instant::now();
        (Plan::uniform(1, pace).cursor(1, len, start), start)
    }

    #[test]
    fn a_walk_waits_sends_what_is_left_and_ends() {
        let (mut cursor, start) = cursor(pieces(10), 15);
        assert_eq!(cursor.next(start), Next::Send(0..10));
        cursor.sent(4, start);
        assert_eq!(cursor.next(start), Next::Send(4..10));
        cursor.sent(6, start + MS);
        assert_eq!(cursor.next(start + MS), Next::Wait(199 * MS));
        assert_eq!(cursor.next(start + 200 * MS), Next::Send(10..15));
        cursor.sent(5, start + 200 * MS);
        assert_eq!(cursor.next(start + 200 * MS), Next::End(Ending::Fin));
        assert_eq!(cursor.next(start + 200 * MS), Next::End(Ending::Fin));
    }

    #[test]
    fn a_little_late_is_made_up_for() {
        let (mut cursor, start) = cursor(pieces(1), 9);
        assert_eq!(cursor.next(start), Next::Send(0..1));
        cursor.sent(1, start + 170 * MS);
        assert_eq!(cursor.next(start + 170 * MS), Next::Wait(30 * MS));
        assert_eq!(cursor.next(start + 230 * MS), Next::Send(1..2));
        cursor.sent(1, start + 230 * MS);
        assert_eq!(cursor.next(start + 230 * MS), Next::Wait(170 * MS));
    }

    #[test]
    fn a_sender_that_was_held_up_by_nobody_makes_up_for_it() {
        let (mut cursor, start) = cursor(pieces(1), 9);
        let late = start + 1_050 * MS;
        for byte in 0..6 {
            assert_eq!(cursor.next(late), Next::Send(byte..byte + 1));
            cursor.sent(1, late);
        }
        assert_eq!(cursor.next(late), Next::Wait(150 * MS));
    }

    #[test]
    fn after_a_long_stall_the_pace_goes_on_without_a_burst() {
        let (mut cursor, start) = cursor(pieces(1), 9);
        let stalled = start + 5_000 * MS;
        assert_eq!(cursor.next(start), Next::Send(0..1));
        cursor.sent(1, stalled);
        assert_eq!(cursor.next(stalled), Next::Wait(200 * MS));
        cursor.sent(1, stalled + 200 * MS);
        assert_eq!(cursor.next(stalled + 200 * MS), Next::Wait(200 * MS));
    }

    #[test]
    fn a_cut_at_a_time_waits_for_nobody() {
        let cut = Some(Cut { at: CutAt::Time(1_000 * MS), how: Ending::Hang });
        let (mut cursor, start) = cursor(Pace { cut, ..pieces(1) }, 90);
        assert_eq!(cursor.time_left(start + 300 * MS), Some(700 * MS));
        // The peer takes nothing until then.
        assert_eq!(cursor.next(start), Next::Send(0..1));
        assert_eq!(cursor.next(start + 999 * MS), Next::Send(0..1));
        assert_eq!(cursor.next(start + 1_000 * MS), Next::End(Ending::Hang));
        // It took something before, but late, so that what is to come was moved.
        cursor.sent(1, start + 900 * MS);
        assert_eq!(cursor.next(start + 900 * MS), Next::Wait(100 * MS));
        assert_eq!(cursor.next(start + 1_000 * MS), Next::End(Ending::Hang));
    }
}
