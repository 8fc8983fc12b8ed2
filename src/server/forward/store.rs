//! What a client of a forward proxy is to get: a reply in memory, a place in a fetch under way, or a fetch of its own.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hyper::header::HeaderMap;
use hyper::{Method, StatusCode};
use tokio::sync::watch;
use tracing::debug;

use super::asked::Asked;
use super::upstream::{FetchError, Head, Known, Way, fetch, weight};
use super::{Config, Why};
use crate::cache::flight::{Flight, Reader, Writer};
use crate::cache::memory::{Kept, Memory};
use crate::cache::shelf::Shelf;
use crate::proto::http::fresh::{Stale, Use, agree, is_error};
use crate::server::fetches::Fetches;
use crate::sync::lock;

/// For so long nobody waits for a reply that was for one client only.
const OWN_FOR: Duration = Duration::from_secs(60);

/// Longer than any reply is kept.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// A whole reply.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) head: Arc<Head>,
    pub(super) body: Kept,
    /// Of the request that it was a reply to: those by which it varies.
    fields: HeaderMap,
    /// Upstream had nothing better, and is not asked again before.
    quiet_until: Mutex<Option<Instant>>,
}

impl Stored {
    /// How old it is.
    pub(super) fn age(&self) -> Duration {
        match self.head.usage {
            Use::Keep { age, .. } => age + self.head.since.elapsed(),
            Use::Share | Use::Own => self.head.since.elapsed(),
        }
    }

    /// A reply to a request with these fields.
    fn new(head: Arc<Head>, body: Kept, fields: &HeaderMap) -> Self {
        let mut varied = HeaderMap::new();
        for name in &head.varies {
            for value in fields.get_all(name) {
                varied.append(name.clone(), value.clone());
            }
        }
        Self { head, body, fields: varied, quiet_until: Mutex::default() }
    }

    /// Bytes that it takes in memory, roughly. A head is there twice while it is sent.
    fn weight(&self) -> usize {
        self.body.bytes().len() + 2 * self.head.weight() + weight(&self.fields)
    }

    /// Upstream has failed, or is slow.
    pub(super) fn keep_quiet(&self, time: Duration) {
        // No clock tells all times that people can write.
        *lock(&self.quiet_until) = Instant::now().checked_add(time.min(FOR_EVER));
    }

    /// Whether it has just now.
    fn is_quiet(&self) -> bool {
        lock(&self.quiet_until).is_some_and(|until| Instant::now() < until)
    }

    /// The time for which it is fresh, and for which it may be used afterwards.
    fn life(&self) -> (Duration, Stale) {
        match self.head.usage {
            Use::Keep { lifetime, stale, .. } => (lifetime, stale),
            Use::Share | Use::Own => Default::default(),
        }
    }

    /// The time for which it is still fresh.
    pub(super) fn time_left(&self) -> Duration {
        self.life().0.saturating_sub(self.age())
    }

    fn beats_error(&self) -> bool {
        self.overdue() < self.life().1.if_error
    }

    /// The time for which it has been too old.
    pub(super) fn overdue(&self) -> Duration {
        self.age().saturating_sub(self.life().0)
    }
}

/// What is known of a URL.
#[derive(Debug)]
enum Slot {
    /// Its replies are for whoever asks, each by itself, until then.
    Own(Instant),
    /// Replies that vary by what was asked.
    Kept(Vec<Arc<Stored>>),
}

/// The head of a reply, or why there is none, once that is known.
pub(super) type Heads = watch::Receiver<Option<Result<Arc<Head>, Failure>>>;

/// What a client gets instead of a reply.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) status: StatusCode,
    pub(super) why: Why,
}

/// A fetch that others may share.
#[derive(Debug)]
struct Shared {
    flight: Flight<Why>,
    heads: Heads,
    /// By which it was begun.
    asked: Arc<Asked>,
}

/// A place in a fetch.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) reader: Reader<Why>,
    pub(super) heads: Heads,
    /// The request by which it was begun.
    pub(super) begun_by: Arc<Asked>,
    /// What is in memory, if it is better than an error.
    pub(super) fallback: Option<Arc<Stored>>,
}

/// What a client gets.
#[derive(Debug)]
pub(super) enum Admission {
    /// It is fresh, or may be used while upstream is asked for another one.
    Hit(Arc<Stored>),
    /// It shares a fetch, if the head of the reply allows that.
    Join(Place),
    /// It has begun one.
    Begin(Place),
    /// It wants nothing but what is in memory, and that is not there.
    Nothing,
}

/// Replies in memory, fetches under way, and what is known of URLs.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) way: Way,
    pub(super) fetches: Fetches,
    pub(super) begun: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) canceled: AtomicU64,
    memory: Memory,
    /// The longest body that is kept.
    longest: usize,
    keep_filling: bool,
    /// After a failure upstream is not asked again for so long, if what is in memory will do.
    pub(super) retry_after: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    shelf: Shelf<String, Slot>,
    under_way: HashMap<String, Vec<Shared>>,
    /// How often everything was forgotten: what was asked for before that is not kept.
    forgotten: u64,
}

impl Store {
    pub(super) fn new(way: Way, fetches: Fetches, config: &Config) -> Self {
        let &Config { cache_size: size, max_size: longest, keep_filling, retry_after, .. } = config;
        let state = State { shelf: Shelf::new(size), under_way: HashMap::new(), forgotten: 0 };
        // As much again for what is under way.
        let memory = Memory::new(size.saturating_mul(2));
        let longest = longest.min(memory.longest());
        let (begun, failed, canceled) = Default::default();
        Self {
            way,
            fetches,
            begun,
            failed,
            canceled,
            memory,
            longest,
            keep_filling,
            retry_after,
            state: Mutex::new(state),
        }
    }

    pub(super) fn forget(&self) {
        let mut state = lock(&self.state);
        state.shelf.clear();
        state.under_way.clear();
        state.forgotten += 1;
    }

    /// Bytes in memory, and how many URLs they are known of.
    pub(super) fn kept(&self) -> (usize, usize) {
        let state = lock(&self.state);
        (state.shelf.weight(), state.shelf.len())
    }

    pub(super) fn buffered(&self) -> usize {
        self.memory.used()
    }

    /// Decides what a client gets. `alone`: nobody else's fetch.
    pub(super) fn admit(self: &Arc<Self>, asked: &Arc<Asked>, mut alone: bool) -> Admission {
        let Asked { method, url, fields, wish, .. } = &**asked;
        let (key, mut old) = (url.to_string(), None);
        let state = &mut *lock(&self.state);
        if !wish.is_own {
            match state.shelf.get(&key) {
                Some(Slot::Own(until)) => alone |= Instant::now() < *until,
                Some(Slot::Kept(stored)) => {
                    let fits = |stored: &&Arc<Stored>| agree(&stored.head.varies, &stored.fields, fields);
                    old = stored.iter().find(fits).map(Arc::clone);
                }
                None => {}
            }
        }
        // Whoever wants none that old, or a new one, gets no old one in place of an error, either.
        let is_welcome =
            |stored: &Stored| !wish.is_fresh_only && wish.max_age.is_none_or(|max_age| stored.age() <= max_age);
        let welcome = old.as_ref().filter(|stored| is_welcome(stored) && !alone);
        if let Some(stored) = welcome {
            let is_fresh = !stored.time_left().is_zero();
            let serves_itself = stored.overdue() < stored.life().1.while_revalidate;
            if !is_fresh && serves_itself && !wish.is_kept_only && !stored.is_quiet() {
                self.ask_again(state, &key, asked, stored);
            }
            if is_fresh || serves_itself || stored.is_quiet() && stored.beats_error() {
                return Admission::Hit(Arc::clone(stored));
            }
        }
        if wish.is_kept_only {
            return Admission::Nothing;
        }
        let fallback = welcome.filter(|stored| stored.beats_error()).map(Arc::clone);
        let is_shared = method == Method::GET && !wish.is_own && !wish.is_fresh_only && !alone;
        if is_shared {
            for shared in state.under_way(&key, fields) {
                if let Some(reader) = shared.flight.join() {
                    let (heads, begun_by) = (shared.heads.clone(), Arc::clone(&shared.asked));
                    return Admission::Join(Place { reader, heads, begun_by, fallback });
                }
            }
        }
        // Upstream may say that it is still good, which is shorter.
        let known = old.filter(|_| method == Method::GET);
        let goes_on = is_shared && (self.keep_filling || fallback.is_some());
        let (flight, writer, reader) = Flight::with_reader(self.longest, goes_on);
        let heads = self.begin(state, key, asked, known, writer, is_shared.then_some(flight));
        Admission::Begin(Place { reader, heads, begun_by: Arc::clone(asked), fallback })
    }

    /// Has upstream asked for another one of what is in memory, unless that is under way; for nobody yet.
    fn ask_again(self: &Arc<Self>, state: &mut State, key: &str, asked: &Arc<Asked>, old: &Arc<Stored>) {
        if asked.method == Method::GET && state.under_way(key, &asked.fields).next().is_none() {
            let (flight, writer) = Flight::new(self.longest, true);
            self.begin(state, key.to_owned(), asked, Some(Arc::clone(old)), writer, Some(flight));
        }
    }

    /// Begins a fetch: one that others may join, if there is a flight.
    fn begin(
        self: &Arc<Self>,
        state: &mut State,
        key: String,
        asked: &Arc<Asked>,
        old: Option<Arc<Stored>>,
        writer: Writer<Why>,
        flight: Option<Flight<Why>>,
    ) -> Heads {
        let (tell, heads) = watch::channel(None);
        if let Some(flight) = flight {
            let shared = Shared { flight, heads: heads.clone(), asked: Arc::clone(asked) };
            state.under_way.entry(key.clone()).or_default().push(shared);
        }
        let known = old
            .filter(|old| old.head.condition().is_some())
            .map(|old| Known { head: Arc::clone(&old.head), body: old.body.clone() });
        let (asked, forgotten) = (Arc::clone(asked), state.forgotten);
        self.fetch(Begun { known, key, asked, forgotten, writer }, tell);
        heads
    }

    fn fetch(self: &Arc<Self>, begun: Begun, tell: watch::Sender<Option<Result<Arc<Head>, Failure>>>) {
        self.begun.fetch_add(1, Relaxed);
        let store = Arc::clone(self);
        self.fetches.spawn(async move {
            let told = |head: Head| {
                store.learn(&begun, &head);
                let _ = tell.send(Some(Ok(Arc::new(head))));
            };
            let result =
                fetch(&store.way, &begun.asked, begun.known.as_ref(), &store.memory, &begun.writer, told).await;
            if let Err(error) = &result {
                let count = if matches!(error, FetchError::Abandoned) { &store.canceled } else { &store.failed };
                count.fetch_add(1, Relaxed);
                debug!("Cannot fetch {}: {error}", begun.asked.url);
            }
            let head = tell.borrow().clone().and_then(Result::ok);
            let failure = result.as_ref().err().map(|error| (error.status(), error.to_string().into()));
            store.ended(&begun, head.clone(), result);
            if let (None, Some((status, why))) = (head, failure) {
                let _ = tell.send(Some(Err(Failure { status, why })));
            }
        });
    }

    /// What the head of a reply says about those that come later.
    fn learn(&self, begun: &Begun, head: &Head) {
        if !begun.may_be_kept() {
            return;
        }
        let (state, key) = (&mut *lock(&self.state), &begun.key);
        if head.usage == Use::Own {
            state.leave(begun);
            // An error is over soon, and what was good before may be of use until then.
            if !is_error(head.status.as_u16()) || !state.has_fallback(key) {
                state.shelf.put(key.clone(), Slot::Own(Instant::now() + OWN_FOR), 2 * key.len());
            }
        } else if matches!(state.shelf.get(key), Some(Slot::Own(_))) {
            state.shelf.remove(key);
        }
    }

    /// A fetch has ended. Its reply is for later clients, if all of it is there.
    fn ended(&self, begun: &Begun, head: Option<Arc<Head>>, result: Result<(), FetchError>) {
        // One lock for both: between the end of the fetch and its reply in memory nobody may begin another one.
        let state = &mut *lock(&self.state);
        state.leave(begun);
        let has_failed = match &result {
            // That nobody waits for it is not upstream's fault.
            Err(error) => !matches!(error, FetchError::Abandoned),
            Ok(()) => head.as_ref().is_some_and(|head| is_error(head.status.as_u16())),
        };
        if has_failed
            && begun.may_be_kept()
            && let Some(Slot::Kept(all)) = state.shelf.get(&begun.key)
        {
            let its = all.iter().filter(|stored| agree(&stored.head.varies, &stored.fields, &begun.asked.fields));
            its.for_each(|stored| stored.keep_quiet(self.retry_after));
        }
        let body = match result {
            Ok(()) => begun.writer.land(),
            Err(error) => {
                begun.writer.fail(error.to_string().into());
                None
            }
        };
        if let (Some(head), Some(body)) = (head, body)
            && matches!(head.usage, Use::Keep { .. })
            && begun.may_be_kept()
            && begun.forgotten == state.forgotten
            && !(is_error(head.status.as_u16()) && state.has_fallback(&begun.key))
        {
            state.keep(&begun.key, Stored::new(head, body, &begun.asked.fields));
        }
    }
}

/// A fetch under way.
struct Begun {
    /// A reply that may still be good.
    known: Option<Known>,
    key: String,
    asked: Arc<Asked>,
    forgotten: u64,
    writer: Writer<Why>,
}

impl Begun {
    /// Whether its reply may be for others who come later.
    fn may_be_kept(&self) -> bool {
        self.asked.method == Method::GET && !self.asked.wish.is_own
    }
}

impl State {
    /// The fetches under way that may be for a request with these fields, too.
    fn under_way(&self, key: &str, fields: &HeaderMap) -> impl Iterator<Item = &Shared> {
        let fits = |shared: &&Shared| match &*shared.heads.borrow() {
            None => true,
            Some(Ok(head)) => agree(&head.varies, &shared.asked.fields, fields),
            Some(Err(_)) => false,
        };
        self.under_way.get(key).into_iter().flatten().filter(fits)
    }

    /// Whether something is in memory that is better than an error.
    fn has_fallback(&mut self, key: &String) -> bool {
        matches!(self.shelf.get(key), Some(Slot::Kept(all)) if all.iter().any(|stored| stored.beats_error()))
    }

    /// Nobody joins this fetch any more.
    fn leave(&mut self, begun: &Begun) {
        if let Some(all) = self.under_way.get_mut(&begun.key) {
            all.retain(|shared| !shared.flight.is_by(&begun.writer));
            if all.is_empty() {
                self.under_way.remove(&begun.key);
            }
        }
    }

    fn keep(&mut self, key: &String, stored: Stored) {
        let mut all = match self.shelf.remove(key) {
            Some(Slot::Kept(all)) => all,
            Some(Slot::Own(_)) | None => Vec::new(),
        };
        let varies = &stored.head.varies;
        all.retain(|other| other.head.varies == *varies && !agree(varies, &other.fields, &stored.fields));
        all.push(Arc::new(stored));
        // The newest ones, if there are very many.
        let surplus = all.len().saturating_sub(MOST_VARIANTS);
        all.drain(..surplus);
        let weight = all.iter().map(|stored| stored.weight()).sum::<usize>();
        self.shelf.put(key.clone(), Slot::Kept(all), weight + 2 * key.len());
    }
}

/// The most replies of one URL.
const MOST_VARIANTS: usize = 16;
