//! What a caching proxy does with a client, as plain decisions: state and time in, answer out.
//!
//! ```text
//!   fetched ───────── ttl ─────────┬── stale_while_revalidate ──┬────────────▶ age
//!      Fresh: served from memory   │ Aged: served, and fetched  │ Missing: fetched; with stale_if_error the
//!                                  │ again in the background    │ aged poem is there if that fails
//! ```

use std::time::{Duration, Instant};

/// How long a value is good for what.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// Fresh for so long. `None`: for ever.
    pub ttl: Option<Duration>,
    /// After that, still served for so long while it is fetched again.
    pub stale_while_revalidate: Duration,
    /// Served however aged it is, if it cannot be fetched again.
    pub stale_if_error: bool,
}

/// One value, and since when it is there.
#[derive(Debug)]
pub struct Cache<T> {
    policy: Policy,
    entry: Option<(T, Instant)>,
}

/// What to do for somebody who asks.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer<T> {
    /// Serve this.
    Fresh(T),
    /// Serve this, and fetch it again if nobody does so yet.
    Aged(T),
    /// Fetch it, or join who does so already.
    Missing {
        /// To be served if the fetch fails.
        fallback: Option<T>,
    },
}

impl<T: Clone> Cache<T> {
    /// Nothing is there yet.
    pub fn new(policy: Policy) -> Self {
        Self { policy, entry: None }
    }

    /// Somebody asks.
    pub fn ask(&self, now: Instant) -> Answer<T> {
        let Some((value, since)) = &self.entry else { return Answer::Missing { fallback: None } };
        let age = now.saturating_duration_since(*since);
        let Some(ttl) = self.policy.ttl else { return Answer::Fresh(value.clone()) };
        if age < ttl {
            return Answer::Fresh(value.clone());
        }
        if age < ttl.saturating_add(self.policy.stale_while_revalidate) {
            return Answer::Aged(value.clone());
        }
        Answer::Missing { fallback: self.policy.stale_if_error.then(|| value.clone()) }
    }

    /// It was fetched.
    pub fn store(&mut self, value: T, now: Instant) {
        self.entry = Some((value, now));
    }

    /// It is not to be served any more, whatever happens.
    pub fn forget(&mut self) {
        self.entry = None;
    }

    /// What is there, fresh or not.
    pub fn value(&self) -> Option<&T> {
        self.entry.as_ref().map(|(value, _)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn asked(policy: Policy, age: Duration) -> Answer<&'static str> {
        let mut cache = Cache::new(policy);
        let now = Instant::now();
        cache.store("poem", now);
        cache.ask(now + age)
    }

    #[test]
    fn what_was_never_fetched_is_missing() {
        for stale_if_error in [false, true] {
            let cache = Cache::<&str>::new(Policy { stale_if_error, ..Policy::default() });
            assert_eq!(cache.ask(Instant::now()), Answer::Missing { fallback: None });
        }
    }

    #[test]
    fn without_a_ttl_nothing_ages() {
        assert_eq!(asked(Policy::default(), 1_000_000 * SECOND), Answer::Fresh("poem"));
    }

    #[test]
    fn a_value_goes_through_its_ages() {
        let policy = Policy { ttl: Some(10 * SECOND), stale_while_revalidate: 5 * SECOND, stale_if_error: false };
        let missing = |fallback| Answer::Missing { fallback };
        for (seconds, expected) in [
            (0, Answer::Fresh("poem")),
            (9, Answer::Fresh("poem")),
            (10, Answer::Aged("poem")),
            (14, Answer::Aged("poem")),
            (15, missing(None)),
        ] {
            assert_eq!(asked(policy.clone(), seconds * SECOND), expected, "after {seconds} s");
        }
        let lenient = Policy { stale_if_error: true, ..policy };
        assert_eq!(asked(lenient.clone(), 14 * SECOND), Answer::Aged("poem"));
        assert_eq!(asked(lenient, 1_000 * SECOND), missing(Some("poem")));
    }

    #[test]
    fn a_ttl_of_nothing_is_no_cache_but_a_fallback() {
        let policy = Policy { ttl: Some(Duration::ZERO), stale_if_error: true, ..Policy::default() };
        assert_eq!(asked(policy, Duration::ZERO), Answer::Missing { fallback: Some("poem") });
    }

    #[test]
    fn what_is_fetched_again_is_young_again_and_what_is_forgotten_is_gone() {
        let mut cache = Cache::new(Policy { ttl: Some(SECOND), stale_if_error: true, ..Policy::default() });
        let now = Instant::now();
        cache.store("old", now);
        cache.store("new", now + 2 * SECOND);
        assert_eq!(cache.ask(now + 2 * SECOND), Answer::Fresh("new"));
        cache.forget();
        assert_eq!(cache.ask(now + 2 * SECOND), Answer::Missing { fallback: None });
    }
}
