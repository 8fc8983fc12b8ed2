//! One source and what is known of it: its edition, the fetch under way, and why the last one was in vain.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use tracing::{debug, info, warn};

use super::change::change;
use super::charset::Charset;
use super::content::Content;
use super::edition::Edition;
use super::fetch::fetch;
use super::gates::Gate;
use super::record::{Log, Record};
use super::source::{Source, Transform};
use super::standing::Standing;
use super::totals::{Role, Totals};
use super::trouble::Trouble;
use crate::cache::flight::{Flight, Readable, Reader, Writer};
use crate::cache::freshness::{Answer, Cache, Policy, Vain};
use crate::server::fetches::Fetches;
use crate::sync::lock;
use crate::units::{count, human};

/// What the sources of a server have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) fetches: Fetches,
    pub(super) totals: Totals,
    /// What is done to texts.
    pub(super) transform: Option<Transform>,
    /// Where the server itself listens, once it does.
    pub(super) doors: OnceLock<Vec<SocketAddr>>,
}

/// One source.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) source: Source,
    /// From 1, as people see it.
    pub(super) number: usize,
    gate: Gate,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    cache: Cache<Arc<Edition>>,
    under_way: Option<UnderWay>,
    /// Why the last fetch was in vain, if it was.
    trouble: Option<Arc<Trouble>>,
}

/// A fetch under way. The flight carries no bytes: it is over when this is known.
#[derive(Debug, Clone)]
struct UnderWay {
    flight: Arc<Flight<()>>,
    log: Arc<Log>,
    result: Arc<OnceLock<Result<Arc<Edition>, Arc<Trouble>>>>,
}

/// A fetch that is to be spawned.
pub(super) type Flying = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What is here already, or how it is waited for.
pub(super) enum Admission {
    Here(Standing),
    Coming(Arrival),
}

/// A place among those who wait for a source. To drop it is to leave: if nobody else waits, the fetch is ended.
#[derive(Debug)]
pub(super) struct Arrival {
    reader: Reader<()>,
    under_way: UnderWay,
}

impl Arrival {
    /// Waits for the end of the fetch.
    pub(super) async fn standing(&self) -> Standing {
        // There are no bytes on the way.
        while matches!(self.reader.next().await, Readable::Bytes) {}
        match self.under_way.result.get() {
            Some(Ok(edition)) => Standing::Come(Arc::clone(edition)),
            Some(Err(trouble)) => Standing::Failed(Arc::clone(trouble), self.record()),
            None => Standing::Failed(Arc::new(Trouble::Stopped), self.record()),
        }
    }

    /// What is known of the fetch by now.
    pub(super) fn record(&self) -> Box<Record> {
        Box::new(self.under_way.log.record())
    }
}

impl Shared {
    /// Spawns fetches. Their thread is woken once for all of them.
    pub(super) fn spawn(self: &Arc<Self>, fetches: Vec<Flying>) {
        if fetches.is_empty() {
            return;
        }
        let shared = Arc::clone(self);
        self.fetches.spawn(async move { fetches.into_iter().for_each(|fetch| shared.fetches.spawn(fetch)) });
    }
}

impl Store {
    pub(super) fn new(source: Source, number: usize, gate: Gate, policy: &Policy) -> Self {
        let state = State { cache: Cache::new(policy.clone()), under_way: None, trouble: None };
        Self { source, number, gate, state: Mutex::new(state) }
    }

    /// Bytes that are kept, as they came.
    pub(super) fn kept(&self) -> usize {
        lock(&self.state).cache.value().map_or(0, |edition| edition.bytes.len())
    }

    /// Decides what somebody is to get. If that takes a fetch, it is one of `fetches`, which have to be spawned: others
    /// may join it from now on.
    pub(super) fn admit(self: &Arc<Self>, shared: &Arc<Shared>, fetches: &mut Vec<Flying>) -> Admission {
        let state = &mut *lock(&self.state);
        let flight = state.under_way.as_ref().map(|under_way| &under_way.flight).filter(|flight| !flight.is_over());
        let (role, admission) = match state.cache.ask(Instant::now(), flight.map(|flight| flight.silence())) {
            Answer::Fresh(edition) => (Role::Hit, Admission::Here(Standing::Fresh(edition))),
            Answer::Aged { value, fetch } => {
                if fetch {
                    let (flight, writer) = Flight::new(1, true);
                    state.under_way = Some(self.begin(shared, flight, writer, fetches));
                }
                (Role::Stale, Admission::Here(Standing::Aged(value, state.trouble.clone())))
            }
            Answer::Missing { .. } => {
                let join = |under_way: &UnderWay| Some((under_way.flight.join()?, under_way.clone()));
                match state.under_way.as_ref().filter(|under_way| !under_way.flight.is_over()).and_then(join) {
                    Some((reader, under_way)) => (Role::Join, Admission::Coming(Arrival { reader, under_way })),
                    None => {
                        let (flight, writer, reader) = Flight::with_reader(1, false);
                        let under_way = self.begin(shared, flight, writer, fetches);
                        state.under_way = Some(under_way.clone());
                        (Role::Miss, Admission::Coming(Arrival { reader, under_way }))
                    }
                }
            }
        };
        shared.totals.of(role).fetch_add(1, Relaxed);
        admission
    }

    fn begin(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        flight: Flight<()>,
        writer: Writer<()>,
        fetches: &mut Vec<Flying>,
    ) -> UnderWay {
        shared.totals.fetches.fetch_add(1, Relaxed);
        let under_way =
            UnderWay { flight: Arc::new(flight), log: Arc::new(Log::begin()), result: Arc::new(OnceLock::new()) };
        let (store, begun, of_all) = (Arc::clone(self), under_way.clone(), Arc::clone(shared));
        fetches.push(Box::pin(async move { store.fly(&of_all, &begun, &writer).await }));
        under_way
    }

    /// The fetch, from its place in the queue to its end.
    async fn fly(&self, shared: &Shared, under_way: &UnderWay, writer: &Writer<()>) {
        let doors = shared.doors.get().map(Vec::as_slice).unwrap_or_default();
        let log = &under_way.log;
        let fetched = async {
            let _turn = self.gate.turn().await;
            log.turn();
            let made = self.make(shared.transform.as_ref(), doors, log).await;
            log.ended();
            let (bytes, charset, content) = made?;
            Ok(Edition::new(bytes, charset, content, log.record()))
        };
        let result: Result<Edition, Trouble> = tokio::select! {
            result = fetched => result,
            () = writer.abandoned() => {
                shared.totals.ended(None);
                debug!("Nobody wants {} any more", self.source.title());
                return self.ended(under_way, writer, None);
            }
        };
        shared.totals.ended(Some(result.as_ref().err().map(Trouble::status)));
        let (source, time) = (self.source.title(), under_way.log.record().took().map(human).unwrap_or_default());
        match &result {
            Ok(edition) => {
                let shared_by = writer.joined();
                let bytes = count(edition.bytes.len() as u64, "byte");
                info!(source, shared_by, "Fetched {source} for {shared_by}: {bytes} in {time}");
            }
            // Who looks often must not fill the log.
            Err(trouble) if self.is_known(trouble) => debug!(source, "Still cannot fetch {source}: {trouble}"),
            Err(trouble) => warn!(source, "Cannot fetch {source}: {trouble}"),
        }
        self.ended(under_way, writer, Some(result));
    }

    /// Fetches it, and makes something of it that can be shown.
    async fn make(
        &self,
        transform: Option<&Transform>,
        doors: &[SocketAddr],
        log: &Log,
    ) -> Result<(Vec<u8>, Charset, Content), Trouble> {
        let got = fetch(&self.source, doors, log).await?;
        let (mut content, charset) = Content::read(&got.bytes, got.media.as_ref(), self.source.kind)?;
        if let (Some(transform), Content::Text(text)) = (transform, &mut content)
            // If that fails, it is shown as it came, and the record says why.
            && let Ok(changed) = change(transform, text, self.source.limits, doors, log).await
        {
            *text = changed;
        }
        Ok((got.bytes, charset, content))
    }

    /// Whether the fetch before this one was in vain for the same reason.
    fn is_known(&self, trouble: &Trouble) -> bool {
        lock(&self.state).trouble.as_ref().is_some_and(|last| last.to_string() == trouble.to_string())
    }

    /// A fetch has ended, or was ended because nobody wants it.
    fn ended(&self, under_way: &UnderWay, writer: &Writer<()>, result: Option<Result<Edition, Trouble>>) {
        // One lock for both: between the end of the fetch and its edition in the cache nobody may begin another one.
        let state = &mut *lock(&self.state);
        let is_latest = state.under_way.as_ref().is_some_and(|latest| latest.flight.is_by(writer));
        let now = Instant::now();
        match result {
            Some(Ok(edition)) => {
                let edition = Arc::new(edition);
                let _ = under_way.result.set(Ok(Arc::clone(&edition)));
                if is_latest {
                    state.cache.store(edition, now);
                    state.trouble = None;
                }
            }
            Some(Err(trouble)) => {
                let trouble = Arc::new(trouble);
                let _ = under_way.result.set(Err(Arc::clone(&trouble)));
                if is_latest {
                    state.cache.keep_old(Vain::Failed, now);
                    state.trouble = Some(trouble);
                }
            }
            None => {}
        }
        if is_latest {
            state.under_way = None;
        }
        drop(writer.land());
    }
}
