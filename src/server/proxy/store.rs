//! What a client of the proxy is to get: the poem in memory, or a place in the fetch under way.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::runtime::Handle;
use tracing::{info, warn};

use super::totals::{Role, Totals};
use super::upstream::{FetchError, Way, fetch};
use super::{Config, Source, Why};
use crate::cache::flight::{Flight, Writer};
use crate::cache::freshness::{Answer, Cache};
use crate::poem::Poem;
use crate::sync::lock;
use crate::units::human;

/// The cache of one poem, and the fetches that fill it.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) config: Config,
    pub(super) totals: Totals,
    pub(super) way: Way,
    state: Mutex<State>,
    /// The runtime of the fetches.
    upstream: Handle,
}

#[derive(Debug)]
struct State {
    cache: Cache<Poem>,
    flight: Option<Flight<Why>>,
}

impl Store {
    /// Nothing is in the cache yet.
    pub(super) fn new(config: Config, upstream: Handle) -> Self {
        let state = State { cache: Cache::new(config.policy.clone()), flight: None };
        Self { config, totals: Totals::default(), way: Way::default(), state: Mutex::new(state), upstream }
    }

    /// Forgets the poem: clients that come from now on get it as upstream has it from now on.
    pub(super) fn forget(&self) {
        let mut state = lock(&self.state);
        state.cache.forget();
        state.flight = None;
    }

    /// Bytes in the cache.
    pub(super) fn cached_bytes(&self) -> usize {
        lock(&self.state).cache.value().map_or(0, |poem| poem.bytes().len())
    }

    /// Decides what a client is to get.
    pub(super) fn admit(self: &Arc<Self>) -> (Role, Source) {
        let mut state = lock(&self.state);
        match state.cache.ask(Instant::now()) {
            Answer::Fresh(poem) => (Role::Hit, Source::Memory { poem, sent: 0 }),
            Answer::Aged(poem) => {
                if state.flight.as_ref().is_none_or(Flight::is_over) {
                    let (flight, writer) = Flight::new(self.config.max_size, true);
                    state.flight = Some(flight);
                    self.start_fetch(writer);
                }
                (Role::Stale, Source::Memory { poem, sent: 0 })
            }
            Answer::Missing { fallback } => {
                if let Some(reader) = state.flight.as_ref().and_then(Flight::join) {
                    return (Role::Join, Source::Flight { reader, fallback });
                }
                let (flight, writer, reader) = Flight::with_reader(self.config.max_size, self.config.keep_filling);
                state.flight = Some(flight);
                self.start_fetch(writer);
                (Role::Miss, Source::Flight { reader, fallback })
            }
        }
    }

    fn start_fetch(self: &Arc<Self>, writer: Writer<Why>) {
        self.totals.fetches.fetch_add(1, Relaxed);
        let store = Arc::clone(self);
        self.upstream.spawn(async move {
            let start = Instant::now();
            let upstream = &store.config.upstream;
            let result = fetch(&store.config, &store.way, &writer).await;
            let kept = store.ended(&writer, &result);
            let Totals { complete, failed, canceled, .. } = &store.totals;
            match result {
                Ok(()) => {
                    complete.fetch_add(1, Relaxed);
                    let kept = if kept { "" } else { ", too long to be kept" };
                    let (shared_by, time) = (writer.joined(), human(start.elapsed()));
                    info!(%upstream, shared_by, "Fetched the poem from {upstream} in {time} for {shared_by}{kept}");
                }
                Err(FetchError::Abandoned) => {
                    canceled.fetch_add(1, Relaxed);
                    info!(%upstream, "Canceling poem download");
                }
                Err(why) => {
                    failed.fetch_add(1, Relaxed);
                    warn!(%upstream, "Cannot fetch the poem from {upstream}: {why}");
                }
            }
        });
    }

    /// A fetch has ended. Its poem is for later clients, unless it was to be forgotten in the meantime. Returns whether
    /// all of it is there.
    fn ended(&self, writer: &Writer<Why>, result: &Result<(), FetchError>) -> bool {
        // One lock for both: between the end of the fetch and its poem in the cache nobody may begin another fetch.
        let mut state = lock(&self.state);
        let poem = match result {
            Ok(()) => writer.land(),
            Err(error) => {
                writer.fail(error.to_string().into());
                None
            }
        };
        let kept = poem.is_some();
        if state.flight.as_ref().is_some_and(|flight| flight.is_by(writer)) {
            state.flight = None;
            if let Some(poem) = poem {
                state.cache.store(poem, Instant::now());
            }
        }
        kept
    }
}
