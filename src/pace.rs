//! When to send how much: a plain value, computed without I/O.
//!
//! A [`Pace`] is what a person asks for; its [`schedule`](Pace::schedule) is everything that will
//! happen on one connection, as a list of [`Step`]s with their times. A server only takes a [`Walk`]
//! through it, blocking or async:
//!
//! ```text
//! num_bytes = 10, delay = 100ms, a poem of 25 bytes
//!
//!   0ms          100ms        200ms
//!   |  0..10     |  10..20    |  20..25, close
//! ```

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How fast a poem is given out: `num_bytes` at a time, `delay` between one piece and the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pace {
    /// Bytes in a piece; the last one may be shorter.
    pub num_bytes: NonZeroUsize,
    /// From the start of one piece to the start of the next.
    pub delay: Duration,
}

/// One thing to do on a connection, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Counted from the moment the connection was accepted.
    pub at: Duration,
    /// What to do then.
    pub action: Action,
}

/// What a server does at one moment of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send these bytes of the poem.
    Send(Range<usize>),
    /// The poem is complete: close politely. Always the last step.
    Close,
}

impl Pace {
    /// Everything that happens on a connection that gives out a poem of `len` bytes.
    pub fn schedule(self: &Arc<Self>, len: usize) -> Schedule {
        Schedule { pace: Arc::clone(self), len, sent: 0, pieces: 0, closed: false }
    }

    /// The number of pieces a poem of `len` bytes is sent in.
    pub fn pieces(&self, len: usize) -> usize {
        len.div_ceil(self.num_bytes.get())
    }

    /// How long a poem of `len` bytes takes, from accept to close, if nobody dawdles.
    pub fn total(&self, len: usize) -> Duration {
        self.nth(self.pieces(len).saturating_sub(1))
    }

    fn nth(&self, piece: usize) -> Duration {
        let nanos = self.delay.as_nanos().saturating_mul(piece as u128);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// The steps of one connection in order of time; ends after [`Action::Close`].
#[derive(Debug, Clone)]
pub struct Schedule {
    pace: Arc<Pace>,
    len: usize,
    sent: usize,
    pieces: usize,
    closed: bool,
}

impl Schedule {
    /// The next step; the last one again and again.
    fn step(&mut self) -> Step {
        if self.sent == self.len {
            return Step { at: self.pace.total(self.len), action: Action::Close };
        }
        let at = self.pace.nth(self.pieces);
        let end = self.len.min(self.sent.saturating_add(self.pace.num_bytes.get()));
        let piece = self.sent..end;
        self.sent = end;
        self.pieces += 1;
        Step { at, action: Action::Send(piece) }
    }
}

impl Iterator for Schedule {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if self.closed {
            return None;
        }
        let step = self.step();
        self.closed = step.action == Action::Close;
        Some(step)
    }
}

/// A timer may be as late as this on a busy machine without anybody having held it up.
const SLACK: Duration = Duration::from_millis(10);

/// A connection on its way through its schedule: says what to do now, and is told how far that got.
///
/// Deadlines are absolute, so small delays of the machine do not add up. But a peer that held up
/// the sender by more than one delay (and 10 ms) does not get what it missed in one burst: everything
/// still to come moves by as much as it was late.
#[derive(Debug)]
pub struct Walk {
    schedule: Schedule,
    step: Step,
    origin: Instant,
}

/// What a server has to do next on a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Nothing, for so long.
    Wait(Duration),
    /// Send these bytes of the poem, or as many of the first of them as the peer takes.
    Send(Range<usize>),
    /// Close politely: the poem is complete.
    Close,
}

impl Walk {
    /// The walk of a connection that was accepted at `now`, through a poem of `len` bytes.
    pub fn start(pace: &Arc<Pace>, len: usize, now: Instant) -> Self {
        let mut schedule = pace.schedule(len);
        let step = schedule.step();
        Self { schedule, step, origin: now }
    }

    /// What to do at the moment `now`.
    pub fn next(&mut self, now: Instant) -> Next {
        let elapsed = now.saturating_duration_since(self.origin);
        let early = self.step.at.saturating_sub(elapsed);
        if !early.is_zero() {
            return Next::Wait(early);
        }
        match &self.step.action {
            Action::Send(piece) => Next::Send(piece.clone()),
            Action::Close => Next::Close,
        }
    }

    /// The peer took the first `bytes` of what was to be sent, and that is known at the moment `now`.
    pub fn sent(&mut self, bytes: usize, now: Instant) {
        let Action::Send(piece) = &mut self.step.action else { return };
        piece.start += bytes;
        if piece.start < piece.end {
            return;
        }
        let late = now.saturating_duration_since(self.origin).saturating_sub(self.step.at);
        if late > self.schedule.pace.delay.max(SLACK) {
            self.origin += late;
        }
        self.step = self.schedule.step();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    fn pace(num_bytes: usize, delay: Duration) -> Arc<Pace> {
        Arc::new(Pace { num_bytes: NonZeroUsize::new(num_bytes).expect("not zero"), delay })
    }

    fn send(at: u32, bytes: Range<usize>) -> Step {
        Step { at: at * MS, action: Action::Send(bytes) }
    }

    fn close(at: u32) -> Step {
        Step { at: at * MS, action: Action::Close }
    }

    #[test]
    fn pieces_are_a_delay_apart_and_the_close_follows_the_last() {
        let steps: Vec<Step> = pace(10, 100 * MS).schedule(25).collect();
        assert_eq!(steps, [send(0, 0..10), send(100, 10..20), send(200, 20..25), close(200)]);
        assert_eq!(pace(10, 100 * MS).total(25), 200 * MS);
    }

    #[test]
    fn an_empty_poem_is_a_close() {
        assert_eq!(pace(10, 100 * MS).schedule(0).collect::<Vec<_>>(), [close(0)]);
    }

    #[test]
    fn a_piece_larger_than_the_poem_is_the_poem() {
        let steps: Vec<Step> = pace(usize::MAX, 100 * MS).schedule(3).collect();
        assert_eq!(steps, [send(0, 0..3), close(0)]);
    }

    #[test]
    fn the_longest_delay_does_not_overflow() {
        let steps = pace(1, Duration::MAX).schedule(3);
        assert_eq!(steps.last().expect("close").at, Duration::from_nanos(u64::MAX));
    }

    fn walk(num_bytes: usize, delay: Duration, len: usize) -> (Walk, Instant) {
        let start = Instant::now();
        (Walk::start(&pace(num_bytes, delay), len, start), start)
    }

    #[test]
    fn a_walk_waits_sends_what_is_left_and_closes() {
        let (mut walk, start) = walk(10, 100 * MS, 15);
        assert_eq!(walk.next(start), Next::Send(0..10));
        walk.sent(4, start);
        assert_eq!(walk.next(start), Next::Send(4..10));
        walk.sent(6, start + MS);
        assert_eq!(walk.next(start + MS), Next::Wait(99 * MS));
        assert_eq!(walk.next(start + 100 * MS), Next::Send(10..15));
        walk.sent(5, start + 100 * MS);
        assert_eq!(walk.next(start + 100 * MS), Next::Close);
        assert_eq!(walk.next(start + 100 * MS), Next::Close);
    }

    #[test]
    fn a_little_late_is_made_up_for() {
        let (mut walk, start) = walk(1, 100 * MS, 9);
        walk.sent(1, start + 70 * MS);
        assert_eq!(walk.next(start + 70 * MS), Next::Wait(30 * MS));
        assert_eq!(walk.next(start + 130 * MS), Next::Send(1..2));
        walk.sent(1, start + 130 * MS);
        assert_eq!(walk.next(start + 130 * MS), Next::Wait(70 * MS));
    }

    #[test]
    fn after_a_long_stall_the_pace_goes_on_without_a_burst() {
        let (mut walk, start) = walk(1, 100 * MS, 9);
        let stalled = start + 5_000 * MS;
        walk.sent(1, stalled);
        assert_eq!(walk.next(stalled), Next::Wait(100 * MS));
        walk.sent(1, stalled + 100 * MS);
        assert_eq!(walk.next(stalled + 100 * MS), Next::Wait(100 * MS));
    }

    proptest! {
        #[test]
        fn every_byte_is_sent_once_and_in_order(len in 0usize..5_000, num_bytes in 1usize..600, delay in 0u64..1_000) {
            let pace = pace(num_bytes, Duration::from_millis(delay));
            let steps: Vec<Step> = pace.schedule(len).collect();
            let mut next = 0;
            let mut time = Duration::ZERO;
            for step in &steps {
                prop_assert!(step.at >= time);
                time = step.at;
                if let Action::Send(piece) = &step.action {
                    prop_assert_eq!(piece.start, next);
                    prop_assert!(piece.len() <= num_bytes && !piece.is_empty());
                    next = piece.end;
                }
            }
            prop_assert_eq!(next, len);
            prop_assert_eq!(steps.len(), pace.pieces(len) + 1);
            prop_assert_eq!(steps.last().map(|step| &step.action), Some(&Action::Close));
            prop_assert_eq!(time, pace.total(len));
        }
    }
}
