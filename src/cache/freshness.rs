//! What a caching proxy does with a client, as plain decisions: state and time in, answer out.
//!
//! ```text
//!   fetched ───────── ttl ─────────┬── stale_while_revalidate ──┬────────────▶ age
//!      Fresh: served from memory   │ Aged: served, and fetched  │ Missing: fetched; with stale_if_error the
//!                                  │ again in the background    │ aged poem is there if that fails, or takes
//!                                  │                            │ longer than PATIENCE to begin
//!                                  ├─────── after a failed fetch, with stale_if_error ────────▶
//!                                  │ Aged, too: served at once, and fetched again in the
//!                                  │ background, once in every retry_after
//! ```
//!
//! What was taken from whom:
//! - RFC 5861: the two windows, `stale-while-revalidate` and `stale-if-error`, and that they add up.
//! - nginx, `proxy_cache_use_stale error timeout updating` and `proxy_cache_lock_timeout`: one client fetches for all, the
//!   aged answer serves for a fetch that fails or hangs, and a wait for somebody else's fetch has a short limit of its own.
//! - Varnish, grace and saint mode: an upstream that has failed is left alone for a while, in which the aged answer is
//!   served without asking.
//! - Traffic Server, `down_server.cache_time`: that upstream is down is remembered, so that it does not cost each client
//!   the time in which one of them found out.

use std::time::{Duration, Instant};

/// For so long a client waits for a fetch from which nothing comes, if there is an aged value for it. It is counted from
/// the last byte, or from the beginning of the fetch, and not from when the client came.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// How long a value is good for what.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// Fresh for so long. `None`: for ever.
    pub ttl: Option<Duration>,
    /// After that, still served for so long while it is fetched again.
    pub stale_while_revalidate: Duration,
    /// Served however aged it is, if it cannot be fetched again.
    pub stale_if_error: bool,
    /// After a fetch that failed, an aged value is served for so long before it is fetched again.
    pub retry_after: Duration,
}

/// One value, since when it is there, and what became of the last attempt to fetch it again.
#[derive(Debug)]
pub struct Cache<T> {
    policy: Policy,
    entry: Option<(T, Instant)>,
    vain: Option<(Instant, Vain)>,
}

/// Why a fetch brought nothing to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vain {
    /// It failed.
    Failed,
    /// It did not: what it brought was passed on, and was too long to be kept, or it was canceled.
    NotKept,
}

/// What to do for somebody who asks.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer<T> {
    /// Serve this.
    Fresh(T),
    /// Serve this.
    Aged {
        /// It.
        value: T,
        /// Whether to fetch it again in the background.
        fetch: bool,
    },
    /// Fetch it, or join who does so already.
    Missing {
        /// To be served if that is in vain.
        fallback: Option<Fallback<T>>,
    },
}

/// An aged value for somebody who waits for a fetch.
#[derive(Debug, PartialEq, Eq)]
pub struct Fallback<T> {
    /// It.
    pub value: T,
    /// To be served if the fetch fails, or if nothing has come from it after this time. The fetch then goes on.
    pub patience: Duration,
}

impl<T: Clone> Cache<T> {
    /// Nothing is there yet.
    pub fn new(policy: Policy) -> Self {
        Self { policy, entry: None, vain: None }
    }

    /// Somebody asks, while a fetch is under way that has been silent for some time, or none is.
    pub fn ask(&self, now: Instant, silence: Option<Duration>) -> Answer<T> {
        let Some((value, since)) = &self.entry else { return Answer::Missing { fallback: None } };
        let age = now.saturating_duration_since(*since);
        let Policy { ttl, stale_while_revalidate, stale_if_error, retry_after } = &self.policy;
        let Some(ttl) = ttl else { return Answer::Fresh(value.clone()) };
        if age < *ttl {
            return Answer::Fresh(value.clone());
        }
        let is_within = age < ttl.saturating_add(*stale_while_revalidate);
        let is_failing = matches!(self.vain, Some((_, Vain::Failed)));
        let patience = PATIENCE.saturating_sub(silence.unwrap_or_default());
        if is_within || *stale_if_error && (is_failing || patience.is_zero()) {
            let is_time = self.vain.is_none_or(|(at, _)| now.saturating_duration_since(at) >= *retry_after);
            return Answer::Aged { value: value.clone(), fetch: silence.is_none() && is_time };
        }
        Answer::Missing { fallback: stale_if_error.then(|| Fallback { value: value.clone(), patience }) }
    }

    /// It was fetched.
    pub fn store(&mut self, value: T, now: Instant) {
        (self.entry, self.vain) = (Some((value, now)), None);
    }

    /// It was to be fetched, in vain.
    pub fn keep_old(&mut self, why: Vain, now: Instant) {
        self.vain = Some((now, why));
    }

    /// It is not to be served any more, whatever happens.
    pub fn forget(&mut self) {
        (self.entry, self.vain) = (None, None);
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
        cache.ask(now + age, None)
    }

    fn aged(fetch: bool) -> Answer<&'static str> {
        Answer::Aged { value: "poem", fetch }
    }

    /// Missing, with the aged one after so many milliseconds.
    fn missing(patience: Option<u64>) -> Answer<&'static str> {
        let fallback = |millis| Fallback { value: "poem", patience: Duration::from_millis(millis) };
        Answer::Missing { fallback: patience.map(fallback) }
    }

    #[test]
    fn what_was_never_fetched_is_missing() {
        for stale_if_error in [false, true] {
            let mut cache = Cache::<&str>::new(Policy { stale_if_error, retry_after: SECOND, ..Policy::default() });
            let now = Instant::now();
            assert_eq!(cache.ask(now, None), missing(None));
            assert_eq!(cache.ask(now, Some(SECOND)), missing(None));
            cache.keep_old(Vain::Failed, now);
            assert_eq!(cache.ask(now, None), missing(None), "with nothing to serve, everybody tries again");
        }
    }

    #[test]
    fn without_a_ttl_nothing_ages() {
        assert_eq!(asked(Policy::default(), 1_000_000 * SECOND), Answer::Fresh("poem"));
    }

    #[test]
    fn a_value_goes_through_its_ages() {
        let policy = Policy { ttl: Some(10 * SECOND), stale_while_revalidate: 5 * SECOND, ..Policy::default() };
        for (seconds, expected) in [
            (0, Answer::Fresh("poem")),
            (9, Answer::Fresh("poem")),
            (10, aged(true)),
            (14, aged(true)),
            (15, missing(None)),
        ] {
            assert_eq!(asked(policy.clone(), seconds * SECOND), expected, "after {seconds} s");
        }
        let lenient = Policy { stale_if_error: true, ..policy };
        assert_eq!(asked(lenient.clone(), 14 * SECOND), aged(true));
        assert_eq!(asked(lenient, 1_000 * SECOND), missing(Some(1_000)));
    }

    #[test]
    fn a_ttl_of_nothing_is_no_cache_but_a_fallback() {
        let policy = Policy { ttl: Some(Duration::ZERO), stale_if_error: true, ..Policy::default() };
        assert_eq!(asked(policy, Duration::ZERO), missing(Some(1_000)));
    }

    #[test]
    fn an_upstream_that_fails_or_hangs_costs_nobody_more_than_a_moment() {
        use Vain::{Failed, NotKept};
        // The poem is fetched at 0, fresh until 10 s, served meanwhile until 15 s, and tried again after 8 s.
        let plain = Policy {
            ttl: Some(10 * SECOND),
            stale_while_revalidate: 5 * SECOND,
            stale_if_error: false,
            retry_after: 8 * SECOND,
        };
        let lenient = Policy { stale_if_error: true, ..plain.clone() };
        let cases = [
            // When it is asked for, the vain fetch before that, and for how long the one under way is silent, in ms.
            (&plain, 9_000, Some((8_000, Failed)), None, Answer::Fresh("poem")),
            (&plain, 11_000, Some((10_500, Failed)), None, aged(false)),
            (&plain, 14_000, Some((10_500, NotKept)), None, aged(false)),
            (&plain, 14_000, Some((6_000, Failed)), None, aged(true)),
            (&plain, 14_000, None, Some(0), aged(false)),
            (&plain, 14_000, None, Some(60_000), aged(false)),
            (&plain, 20_000, Some((19_000, Failed)), None, missing(None)),
            (&plain, 20_000, None, Some(60_000), missing(None)),
            (&lenient, 20_000, None, None, missing(Some(1_000))),
            (&lenient, 20_000, None, Some(0), missing(Some(1_000))),
            (&lenient, 20_000, None, Some(999), missing(Some(1))),
            (&lenient, 20_000, None, Some(1_000), aged(false)),
            (&lenient, 20_000, Some((19_000, Failed)), None, aged(false)),
            (&lenient, 20_000, Some((12_001, Failed)), None, aged(false)),
            (&lenient, 20_000, Some((12_000, Failed)), None, aged(true)),
            (&lenient, 20_000, Some((12_000, Failed)), Some(0), aged(false)),
            (&lenient, 20_000, Some((19_000, NotKept)), None, missing(Some(1_000))),
        ];
        for (policy, asked, vain, silence, expected) in cases {
            let start = Instant::now();
            let at = |millis| start + Duration::from_millis(millis);
            let mut cache = Cache::new(policy.clone());
            cache.store("poem", start);
            if let Some((millis, why)) = vain {
                cache.keep_old(why, at(millis));
            }
            let answer = cache.ask(at(asked), silence.map(Duration::from_millis));
            assert_eq!(answer, expected, "at {asked} ms, {vain:?}, {silence:?}, {policy:?}");
        }
    }

    #[test]
    fn what_is_fetched_again_is_young_again_and_what_is_forgotten_is_gone() {
        let policy = Policy { ttl: Some(SECOND), stale_if_error: true, retry_after: SECOND, ..Policy::default() };
        let mut cache = Cache::new(policy);
        let now = Instant::now();
        cache.store("old", now);
        cache.keep_old(Vain::Failed, now + SECOND);
        cache.store("new", now + 2 * SECOND);
        assert_eq!(cache.ask(now + 2 * SECOND, None), Answer::Fresh("new"));
        let fallback = Some(Fallback { value: "new", patience: PATIENCE });
        assert_eq!(cache.ask(now + 3 * SECOND, None), Answer::Missing { fallback }, "upstream is well again");
        cache.forget();
        assert_eq!(cache.ask(now + 2 * SECOND, None), Answer::Missing { fallback: None });
    }
}
