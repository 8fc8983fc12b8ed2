//! When to send how much: a plain value, computed without I/O.
//!
//! A [`Pace`] is what a person asks for; its [`schedule`](Pace::schedule) is everything that will
//! happen on one connection, as a list of [`Step`]s with their times. A server only walks it,
//! blocking or async, with a [`Clock`] that says how long to wait before each step:
//!
//! ```text
//! num_bytes = 10, delay = 100ms, a poem of 25 bytes
//!
//!   0ms          100ms        200ms
//!   |  0..10     |  10..20    |  20..25, close
//! ```

use std::num::NonZeroUsize;
use std::ops::Range;
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
    pub fn schedule(&self, len: usize) -> Schedule {
        Schedule { pace: self.clone(), len, sent: 0, pieces: 0, closed: false }
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
    pace: Pace,
    len: usize,
    sent: usize,
    pieces: usize,
    closed: bool,
}

impl Iterator for Schedule {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if self.closed {
            return None;
        }
        if self.sent == self.len {
            self.closed = true;
            return Some(Step { at: self.pace.total(self.len), action: Action::Close });
        }
        let at = self.pace.nth(self.pieces);
        let end = self.len.min(self.sent.saturating_add(self.pace.num_bytes.get()));
        let piece = self.sent..end;
        self.sent = end;
        self.pieces += 1;
        Some(Step { at, action: Action::Send(piece) })
    }
}

/// Turns the times of a schedule into waits.
///
/// Deadlines are absolute, so small delays of the machine do not add up. But a peer that held up
/// the sender by more than one delay does not get what it missed in one burst: everything
/// still to come moves by as much as it was late.
#[derive(Debug)]
pub struct Clock {
    origin: Instant,
    tolerance: Duration,
}

impl Clock {
    /// A clock for a connection accepted at `now`.
    pub fn start(pace: &Pace, now: Instant) -> Self {
        Self { origin: now, tolerance: pace.delay }
    }

    /// How long to wait at the moment `now` for a step due `at`; zero if it is due.
    pub fn wait(&mut self, at: Duration, now: Instant) -> Duration {
        let elapsed = now.saturating_duration_since(self.origin);
        let late = elapsed.saturating_sub(at);
        if late > self.tolerance {
            self.origin += late;
        }
        at.saturating_sub(elapsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    fn pace(num_bytes: usize, delay: Duration) -> Pace {
        Pace { num_bytes: NonZeroUsize::new(num_bytes).expect("not zero"), delay }
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

    #[test]
    fn a_little_late_is_made_up_for() {
        let start = Instant::now();
        let mut clock = Clock::start(&pace(1, 100 * MS), start);
        assert_eq!(clock.wait(100 * MS, start), 100 * MS);
        assert_eq!(clock.wait(200 * MS, start + 130 * MS), 70 * MS);
        assert_eq!(clock.wait(300 * MS, start + 350 * MS), Duration::ZERO);
        assert_eq!(clock.wait(400 * MS, start + 350 * MS), 50 * MS);
    }

    #[test]
    fn after_a_long_stall_the_pace_goes_on_without_a_burst() {
        let start = Instant::now();
        let mut clock = Clock::start(&pace(1, 100 * MS), start);
        let stalled = start + 5_000 * MS;
        assert_eq!(clock.wait(200 * MS, stalled), Duration::ZERO);
        assert_eq!(clock.wait(300 * MS, stalled), 100 * MS);
        assert_eq!(clock.wait(400 * MS, stalled + 100 * MS), 100 * MS);
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
