//! A warning about something that fails again and again: once in a while, and not each time.

use std::io;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tracing::warn;

use crate::errors::reason;
use crate::sync::lock;

/// A warning about a failing accept(2), for all threads of a server together.
#[derive(Debug, Default)]
pub(crate) struct Complaint(Mutex<Repeated>);

impl Complaint {
    /// Logs the failure, unless that was done a moment ago.
    pub(crate) fn say(&self, error: &io::Error) {
        let Some(before) = lock(&self.0).happens(Instant::now()) else { return };
        let why = reason(error);
        match before {
            0 => warn!("Cannot accept clients: {why}; trying again"),
            times => warn!(times, "Cannot accept clients: {why}; trying again ({times} times since this was said)"),
        }
    }
}

/// How often something has happened since it was last told.
#[derive(Debug, Default)]
struct Repeated {
    told: Option<Instant>,
    since: u64,
}

impl Repeated {
    const PAUSE: Duration = Duration::from_secs(10);

    /// It happens at the moment `now`. If it is to be told, how often it has happened since that was last done.
    fn happens(&mut self, now: Instant) -> Option<u64> {
        if self.told.is_some_and(|told| now.saturating_duration_since(told) < Self::PAUSE) {
            self.since += 1;
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_ten_times_a_second_is_told_every_ten_seconds_and_how_often_it_was() {
        let (mut repeated, start) = (Repeated::default(), Instant::now());
        let told: Vec<(u64, u64)> = (0..=300)
            .filter_map(|tenth| Some((tenth, repeated.happens(start + Duration::from_millis(100 * tenth))?)))
            .collect();
        assert_eq!(told, [(0, 0), (100, 99), (200, 99), (300, 99)]);
    }
}
