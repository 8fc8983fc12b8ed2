//! A delay line: what goes in comes out a while later, in order, and as fast as it came.
//!
//! That is what distance does to a stream. A sender that waited after each piece would halve the throughput with each
//! doubling of the latency; a line has many pieces on their way at once.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::prng::Draws;
use super::to_nanos;

/// Runs of bytes on their way, each with the moment at which it is due. It has the counts and the times, and not the bytes.
#[derive(Debug, Clone)]
pub struct Line {
    latency: Duration,
    /// The amplitude of the jitter: uniformly distributed, and never so that one run overtakes another.
    jitter: Duration,
    draws: Draws,
    under_way: VecDeque<(Instant, u64)>,
    /// When the last run that went in is due.
    last: Option<Instant>,
    due: u64,
}

impl Line {
    /// A line of so much latency, which jitters by so much at most. The draws follow from the seed and the number of the
    /// connection.
    pub fn new(latency: Duration, jitter: Duration, seed: u64, connection: u64) -> Self {
        let draws = Draws::new(seed, connection);
        Self { latency, jitter, draws, under_way: VecDeque::new(), last: None, due: 0 }
    }

    /// So many bytes go in at the moment `now`; 0 for the end of the stream, which is late as bytes are.
    pub fn push(&mut self, bytes: u64, now: Instant) {
        let late = late(self.latency, self.jitter, &mut self.draws);
        let at = now.checked_add(late).unwrap_or(now);
        // In order: who is early waits for who is late.
        let at = self.last.map_or(at, |last| at.max(last));
        self.last = Some(at);
        match self.under_way.back_mut() {
            // What is due at the same time is one run.
            Some((due, run)) if *due == at && bytes > 0 && *run > 0 => *run += bytes,
            _ => self.under_way.push_back((at, bytes)),
        }
    }

    /// The bytes that have come out by the moment `now`, counted from the first, and whether nothing is under way.
    pub fn out(&mut self, now: Instant) -> (u64, bool) {
        while let Some(&(_, bytes)) = self.under_way.front().filter(|(at, _)| *at <= now) {
            self.under_way.pop_front();
            self.due += bytes;
        }
        (self.due, self.under_way.is_empty())
    }

    /// When the next bytes come out; `None`: none are under way.
    pub fn next(&self) -> Option<Instant> {
        self.under_way.front().map(|(at, _)| *at)
    }
}

/// How late something is on a way of so much latency that jitters by so much at most: uniformly distributed, and never
/// early.
pub(crate) fn late(latency: Duration, jitter: Duration, draws: &mut Draws) -> Duration {
    let amplitude = to_nanos(jitter.min(latency));
    let least = latency.saturating_sub(Duration::from_nanos(amplitude));
    least.saturating_add(Duration::from_nanos(draws.up_to(amplitude.saturating_mul(2))))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn everything_is_late_by_the_same_and_in_its_own_rhythm() {
        let start = Instant::now();
        let mut line = Line::new(100 * MS, Duration::ZERO, 1, 1);
        line.push(10, start);
        line.push(5, start + 30 * MS);
        line.push(0, start + 40 * MS);
        for (ms, out) in [(0, (0, false)), (99, (0, false)), (100, (10, false)), (129, (10, false)), (130, (15, false))]
        {
            assert_eq!(line.out(start + ms * MS), out, "{ms}");
        }
        assert_eq!(line.next(), Some(start + 140 * MS));
        assert_eq!(line.out(start + 140 * MS), (15, true));
        assert_eq!(line.next(), None);
    }

    proptest! {
        #[test]
        fn under_jitter_nothing_is_lost_nor_overtaken_nor_too_late(
            runs in proptest::collection::vec((0u64..1_000, 0u32..50), 1..60), latency in 0u32..200, jitter in 0u32..300, seed: u64
        ) {
            let mut now = Instant::now();
            let mut line = Line::new(latency * MS, jitter * MS, seed, 1);
            let mut pushed = Vec::new();
            for (bytes, pause) in runs {
                line.push(bytes, now);
                pushed.push((now, bytes));
                now += pause * MS;
            }
            let dues: Vec<Instant> = line.under_way.iter().map(|(at, _)| *at).collect();
            prop_assert!(dues.is_sorted());
            let most = latency * MS + (jitter * MS).min(latency * MS);
            prop_assert!(line.last.expect("a run") <= pushed.last().expect("a run").0 + most);
            let all: u64 = pushed.iter().map(|(_, bytes)| bytes).sum();
            prop_assert_eq!(line.out(now + most), (all, true));
        }
    }
}
