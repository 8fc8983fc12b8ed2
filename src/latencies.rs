//! A histogram of times: counts in buckets whose width grows with the time, so that it is small whatever comes.

use std::time::Duration;

/// Buckets for each doubling: a time is known to better than 1 in 64.
const STEPS: u64 = 64;

/// How often each time was seen, in microseconds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Latencies {
    counts: Vec<u64>,
    total: u64,
    longest: u64,
}

impl Latencies {
    pub(crate) fn add(&mut self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bucket = bucket(micros);
        if bucket >= self.counts.len() {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
        self.total += 1;
        self.longest = self.longest.max(micros);
    }

    /// The time in microseconds that so many of a hundred are not above; `None`: there is none.
    pub(crate) fn percentile(&self, percent: u64) -> Option<u64> {
        let rank = self.total.saturating_mul(percent).div_ceil(100).max(1);
        let mut seen = 0;
        let reaches = |count: &u64| {
            seen += count;
            seen >= rank
        };
        self.counts.iter().position(reaches).map(|bucket| end(bucket).min(self.longest))
    }

    /// The longest time in microseconds; `None`: there is none.
    pub(crate) fn longest(&self) -> Option<u64> {
        (self.total > 0).then_some(self.longest)
    }
}

fn bucket(micros: u64) -> usize {
    let doublings = (micros / STEPS).checked_ilog2().map_or(0, |log| log + 1);
    let step = if doublings == 0 {
        micros
    } else {
        STEPS + (micros >> (doublings - 1)) % STEPS + STEPS * u64::from(doublings - 1)
    };
    usize::try_from(step).unwrap_or(usize::MAX)
}

/// The longest time of a bucket.
fn end(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let (doublings, step) = (bucket / STEPS, bucket % STEPS);
    match doublings {
        0 => bucket,
        _ => ((STEPS + step + 1) << (doublings - 1)) - 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn percentiles_are_those_of_the_times() {
        let mut latencies = Latencies::default();
        assert_eq!((latencies.percentile(50), latencies.longest()), (None, None));
        for micros in 1..=100 {
            latencies.add(Duration::from_micros(micros));
        }
        assert_eq!((latencies.percentile(50), latencies.percentile(99)), (Some(50), Some(99)));
        assert_eq!((latencies.percentile(100), latencies.longest()), (Some(100), Some(100)));
        latencies.add(Duration::from_secs(3_600));
        assert_eq!(latencies.percentile(100), Some(3_600_000_000));
    }

    proptest! {
        #[test]
        fn a_time_is_in_its_bucket_and_known_well(micros in 0_u64..1 << 50) {
            let bucket = bucket(micros);
            let end = end(bucket);
            prop_assert!(micros <= end && end - micros <= micros / STEPS, "{micros} {end}");
            prop_assert!(bucket == 0 || super::end(bucket - 1) < micros);
        }
    }
}
