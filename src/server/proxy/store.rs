//! What a client of the proxy is to get: the poem in memory, or a place in the fetch under way.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tracing::{info, warn};

use super::totals::{Role, Totals};
use super::upstream::{FetchError, Way, fetch};
use super::{Config, Source, Why};
use crate::cache::flight::{Flight, Writer};
use crate::cache::freshness::{Answer, Cache, Fallback, Vain};
use crate::cache::memory::{Kept, Memory};
use crate::server::fetches::Fetches;
use crate::sync::lock;
use crate::units::human;

/// The cache of one poem, and the fetches that fill it.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) config: Config,
    pub(super) totals: Totals,
    pub(super) way: Way,
    /// For all flights, for the cache, and for what was in it and is still being read.
    pub(super) memory: Memory,
    /// The longest poem that is kept.
    longest: usize,
    state: Mutex<State>,
    pub(super) fetches: Fetches,
}

#[derive(Debug)]
struct State {
    cache: Cache<Kept>,
    flight: Option<Flight<Why>>,
}

impl Store {
    /// Nothing is in the cache yet.
    pub(super) fn new(config: Config, fetches: Fetches) -> Self {
        let state = State { cache: Cache::new(config.policy.clone()), flight: None };
        let memory = Memory::new(config.max_memory);
        let longest = config.max_size.min(memory.longest());
        let (totals, way) = (Totals::default(), Way::default());
        Self { config, totals, way, memory, longest, state: Mutex::new(state), fetches }
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
        let (mut state, now) = (lock(&self.state), Instant::now());
        let silence = state.flight.as_ref().filter(|flight| !flight.is_over()).map(Flight::silence);
        match state.cache.ask(now, silence) {
            Answer::Fresh(poem) => (Role::Hit, Source::Memory { poem, sent: 0 }),
            Answer::Aged { value: poem, fetch } => {
                if fetch {
                    let (flight, writer) = Flight::new(self.longest, true);
                    state.flight = Some(flight);
                    self.start_fetch(writer);
                }
                (Role::Stale, Source::Memory { poem, sent: 0 })
            }
            Answer::Missing { fallback } => {
                // Others profit if it goes on: they are served the aged poem until there is a new one.
                let unattended = self.config.keep_filling || fallback.is_some();
                let fallback = fallback.map(|Fallback { value, patience }| (value, now + patience));
                if let Some(reader) = state.flight.as_ref().and_then(Flight::join) {
                    return (Role::Join, Source::Flight { reader, fallback });
                }
                let (flight, writer, reader) = Flight::with_reader(self.longest, unattended);
                state.flight = Some(flight);
                self.start_fetch(writer);
                (Role::Miss, Source::Flight { reader, fallback })
            }
        }
    }

    fn start_fetch(self: &Arc<Self>, writer: Writer<Why>) {
        self.totals.fetches.fetch_add(1, Relaxed);
        let store = Arc::clone(self);
        let under_way = async move {
            let start = Instant::now();
            let upstream = &store.config.upstream;
            let result = fetch(&store.config, &store.way, &store.memory, &writer).await;
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
        };
        self.fetches.spawn(under_way);
    }

    /// A fetch has ended. Its poem is for later clients, unless it was to be forgotten in the meantime. Returns whether
    /// all of it is there.
    fn ended(&self, writer: &Writer<Why>, result: &Result<(), FetchError>) -> bool {
        // One lock for both: between the end of the fetch and its poem in the cache nobody may begin another fetch.
        let mut state = lock(&self.state);
        let (poem, why) = match result {
            Ok(()) => (writer.land(), Vain::NotKept),
            Err(error) => {
                writer.fail(error.to_string().into());
                (None, if matches!(error, FetchError::Abandoned) { Vain::NotKept } else { Vain::Failed })
            }
        };
        let kept = poem.is_some();
        if state.flight.as_ref().is_some_and(|flight| flight.is_by(writer)) {
            state.flight = None;
            match poem {
                Some(poem) => state.cache.store(poem, Instant::now()),
                None => state.cache.keep_old(why, Instant::now()),
            }
        }
        kept
    }
}
