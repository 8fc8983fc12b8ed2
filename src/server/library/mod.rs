//! Patrons of a library: a JSON service over PostgreSQL whose cache stays true, for the database tells of each change.
//!
//! ```text
//!   GET ──▶ api ──▶ cache ── Hit ──▶ reply                         PostgreSQL
//!                     └── Fill ──▶ database ══ SELECT ═══════════▶  patron
//!   PUT ──▶ api ────────────────▶ database ══ UPDATE ═══════════▶    │ trigger
//!                     ▲                                              ▼
//!                     └── changed ── listener ◀══ LISTEN ═══════ chan_patron
//! ```
//!
//! | file | |
//! |---|---|
//! | `api.rs` | requests and their replies |
//! | `patron.rs` | bodies: JSON in, JSON out |
//! | `database.rs` | connections, and what their errors mean |
//! | `schema.rs` | the table, its triggers, and what they say |
//! | `listener.rs` | the connection on which changes are announced |
//!
//! What the cache may say when is [`Coherent`]'s. All of the database has one thread with a runtime of its own: a fetch
//! belongs to nobody, and whoever asked may leave.

mod api;
mod database;
mod listener;
mod patron;
mod schema;

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use futures_util::TryStreamExt;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use tokio_util::bytes::Bytes;
use tracing::{Span, warn};

use crate::cache::coherent::{Coherent, Lookup, Ticket, Trust};
use crate::metrics::{Histogram, Metric, Page};
use crate::net::descriptors::{LOOK_UP, Opens};
use crate::net::{Connection, Handler};
use crate::pace::Ending;
use crate::server::web::Site;
use crate::sync::lock;
use crate::units::count;
use database::{InUse, Links, Ready, Trouble, in_words};
use listener::Listening;
use patron::Patron;
use schema::{CHANNEL, Notice, TEST_CHANNEL};

pub use database::Target;

/// The most connections for statements.
pub const MOST_CONNECTIONS: u32 = 64;

/// A list ends at so many bytes, however many patrons are asked for.
const LONGEST_LIST: usize = 1 << 20;

/// How a library is to be.
#[derive(Debug)]
pub struct Config {
    /// Its database.
    pub target: Target,
    /// The most bytes of rows that are held; 0: none are.
    pub cache: usize,
    /// What is made of announcements.
    pub trust: Trust,
    /// A row that has changed is fetched again before anybody asks.
    pub refetches: bool,
    /// While the database is away, what was held before is better than nothing.
    pub serves_stale: bool,
    /// Connections for statements, two at least: half of them for changes.
    pub connections: usize,
    /// Names by which it may be called, beside `localhost` and IP addresses.
    pub host_names: Vec<String>,
}

/// Serves patrons.
#[derive(Debug)]
pub struct LibraryServer {
    library: Arc<Library>,
    site: Site,
    thread: Mutex<Option<Thread>>,
}

/// The thread of the database.
#[derive(Debug)]
struct Thread {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// What all of its parts share.
struct Library {
    target: Arc<Target>,
    /// Of the database's thread, as soon as there is one.
    runtime: OnceLock<Handle>,
    cache: Mutex<Coherent<i32, Bytes, oneshot::Sender<Fetched>>>,
    serves_stale: bool,
    /// An end of the announcements is not noticed.
    listens_once: bool,
    readers: Arc<Links>,
    writers: Arc<Links>,
    /// What it tells itself.
    token: String,
    has_heard_itself: Notify,
    is_flooded: Notify,
    /// Whose changes are under way: one after another, and only one of them has a connection.
    changing: Mutex<HashMap<i32, Arc<Turn>>>,
    answers: [AtomicU64; How::ALL.len()],
    changes: AtomicU64,
    unavailable: AtomicU64,
    selects: AtomicU64,
    events: AtomicU64,
    lag: Histogram,
}

/// What a fetch has brought: a row as JSON, and how long that took.
type Fetched = Result<(Option<Bytes>, Duration), Trouble>;

/// Where an answer comes from (the field X-Cache).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Hit,
    Miss,
    Join,
    Bypass,
    Stale,
}

impl How {
    const ALL: [Self; 5] = [Self::Hit, Self::Miss, Self::Join, Self::Bypass, Self::Stale];

    fn name(self) -> &'static str {
        match self {
            Self::Hit => "HIT",
            Self::Miss => "MISS",
            Self::Join => "JOIN",
            Self::Bypass => "BYPASS",
            Self::Stale => "STALE",
        }
    }
}

/// A patron as it was found; `None`: there is none.
struct Found {
    row: Option<Bytes>,
    how: How,
    /// How long the database took, if it was asked.
    took: Option<Duration>,
}

/// A change that somebody asks for.
#[derive(Debug)]
enum Wish {
    Make(Patron),
    Change(i32, Patron),
    Delete(i32),
}

impl Wish {
    /// Whose change it is; `None`: nobody's yet.
    fn id(&self) -> Option<i32> {
        match self {
            Self::Make(_) => None,
            Self::Change(id, _) | Self::Delete(id) => Some(*id),
        }
    }
}

impl LibraryServer {
    /// A library that has no connection yet.
    pub fn new(config: Config) -> Self {
        let Config { target, cache, trust, refetches, serves_stale, connections, host_names } = config;
        let target = Arc::new(target);
        let links = |count: usize| Arc::new(Links::new(Arc::clone(&target), count.max(1)));
        let (readers, writers) = (links(connections - connections / 2), links(connections / 2));
        let (answers, changes, unavailable, selects, events) = Default::default();
        let library = Library {
            target,
            runtime: OnceLock::new(),
            cache: Mutex::new(Coherent::new(cache, trust, refetches, serves_stale)),
            serves_stale,
            listens_once: trust == Trust::Blind,
            readers,
            writers,
            token: format!("{:032x}", fastrand::u128(..)),
            has_heard_itself: Notify::new(),
            is_flooded: Notify::new(),
            changing: Mutex::default(),
            answers,
            changes,
            unavailable,
            selects,
            events,
            lag: Histogram::default(),
        };
        let site = Site::called("poetry-library", host_names);
        Self { library: Arc::new(library), site, thread: Mutex::default() }
    }

    /// Connects, makes the table and its triggers if they are not there, and sees whether changes are announced; from then
    /// on it is kept so.
    ///
    /// # Errors
    /// The database is not there, or none that it can work with: what is wrong, in words.
    pub fn open(&self) -> Result<(), String> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = mpsc::channel();
        let (library, span) = (Arc::clone(&self.library), Span::current());
        let run = move || {
            let _in_span = span.enter();
            runtime.block_on(async {
                let opened = library.open().await;
                let is_open = opened.is_ok();
                let _ = tell.send(opened.map(|()| Handle::current()));
                if is_open {
                    let _ = stopped.await;
                }
            });
        };
        let thread =
            thread::Builder::new().name("database".to_owned()).spawn(run).map_err(|error| error.to_string())?;
        let opened = told.recv().map_err(|_| "its thread has ended".to_owned())?;
        let place = self.library.target.place();
        let handle = opened.map_err(|why| unusable(&place, &why))?;
        let _ = self.library.runtime.set(handle);
        *lock(&self.thread) = Some(Thread { stop, thread });
        Ok(())
    }

    /// Forgets all that is held.
    pub fn forget(&self) {
        self.library.forget();
    }

    /// Ends its thread, and its connections.
    pub fn end(&self) {
        if let Some(Thread { stop, thread }) = lock(&self.thread).take() {
            let _ = stop.send(());
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

impl LibraryServer {
    /// All that has been done so far, in a line.
    pub fn totals(&self) -> String {
        let library = &self.library;
        let of = |how: How| library.answers[how as usize].load(Relaxed);
        let cache = lock(&library.cache);
        format!(
            "{} from memory, {} from the database, {}, {} without an answer; {} held, {}",
            count(of(How::Hit) + of(How::Stale), "patron"),
            of(How::Miss) + of(How::Join) + of(How::Bypass),
            count(library.changes.load(Relaxed), "change"),
            library.unavailable.load(Relaxed),
            count(cache.weight() as u64, "byte"),
            if cache.is_listening() { "and changes are announced" } else { "but changes are not announced" },
        )
    }

    /// What a monitor is told: answers from memory, and fetches.
    pub fn figures(&self) -> Vec<(&'static str, u64)> {
        let hits = self.library.answers[How::Hit as usize].load(Relaxed);
        vec![("hits", hits), ("selects", self.library.selects.load(Relaxed))]
    }

    /// Adds its metrics.
    pub fn add_metrics(&self, page: &mut Page, labels: &[(&str, &str)]) {
        self.library.add_metrics(page, labels);
    }
}

/// Makes the table and its triggers in a database, if they are not there; whether it did.
///
/// # Errors
/// The database is not there, or does not allow it.
pub fn create(target: &Target) -> Result<bool, String> {
    let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    let created = runtime.block_on(async {
        let client = target.connect_writable().await?;
        let created = async {
            database::limit(&client, target.statement_timeout()).await?;
            schema::create(&client).await
        };
        created.await.map_err(|error| in_words(&error))
    });
    created.map_err(|why| unusable(&target.place(), &why))
}

fn unusable(place: &str, why: &str) -> String {
    format!("the database on {place} cannot be used: {why}")
}

impl Library {
    /// Does all that has to be done before anybody is served, on the runtime of the database.
    async fn open(self: &Arc<Self>) -> Result<(), String> {
        let listening = Listening::begin(self).await?;
        self.readers.start().await?;
        self.writers.start().await?;
        let link = self.readers.any().map_err(|_| "its connections have ended".to_owned())?;
        let (may_read, may_change) = schema::rights(&link.ready.client).await.map_err(|error| in_words(&error))?;
        if !may_read {
            return Err("this role may not SELECT from the table patron".to_owned());
        }
        if !may_change {
            warn!(
                "Changes will fail: this role needs INSERT, UPDATE and DELETE on the table patron, and USAGE on its sequence"
            );
        }
        self.resume();
        tokio::spawn(listener::keep_listening(Arc::clone(self), listening));
        Ok(())
    }

    /// Something is announced.
    fn hear(self: &Arc<Self>, channel: &str, said: &str) {
        match channel {
            TEST_CHANNEL if said == self.token => self.has_heard_itself.notify_one(),
            CHANNEL => {
                self.events.fetch_add(1, Relaxed);
                let Notice::Row { id, change, at } = Notice::read(said) else { return lock(&self.cache).clear() };
                if let Some(at) = at {
                    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                    self.lag.add(now.saturating_sub(Duration::from_micros(at)));
                }
                let ticket = lock(&self.cache).changed(id, change);
                if let Some(ticket) = ticket {
                    tokio::spawn(Arc::clone(self).fill(ticket));
                }
            }
            _ => {}
        }
    }

    /// How much has been announced.
    fn heard(&self) -> u64 {
        self.events.load(Relaxed)
    }

    fn forget(&self) {
        lock(&self.cache).clear();
    }

    /// So much is announced that it is late: until all of it has come, nothing is served from memory.
    fn flood(&self) {
        if !self.listens_once {
            self.stop_listening();
            self.is_flooded.notify_one();
        }
    }

    fn stop_listening(&self) {
        lock(&self.cache).stop();
    }

    fn resume(&self) {
        lock(&self.cache).resume();
    }

    /// Finds a patron. `is_fresh`: not from memory, nor with somebody who has asked before.
    async fn find(self: &Arc<Self>, id: i32, is_fresh: bool) -> Result<Found, Trouble> {
        let found = self.look(id, is_fresh).await;
        match &found {
            Ok(found) => self.answers[found.how as usize].fetch_add(1, Relaxed),
            Err(Trouble::Refused(_)) => 0,
            Err(_) => self.unavailable.fetch_add(1, Relaxed),
        };
        found
    }

    async fn look(self: &Arc<Self>, id: i32, is_fresh: bool) -> Result<Found, Trouble> {
        let mut answer = None;
        let waiting = || {
            let (tell, told) = oneshot::channel();
            answer = Some(told);
            tell
        };
        let lookup = if is_fresh { Lookup::Bypass } else { lock(&self.cache).look(id, waiting) };
        let how = match lookup {
            Lookup::Hit(row) => return Ok(Found { row, how: How::Hit, took: None }),
            Lookup::Joined => How::Join,
            Lookup::Fill(ticket) => {
                let library = Arc::clone(self);
                self.spawn(library.fill(ticket));
                How::Miss
            }
            Lookup::Bypass => How::Bypass,
        };
        let fetched = match answer {
            Some(answer) => answer.await.unwrap_or_else(|_| Err(stopping())),
            None => {
                let library = Arc::clone(self);
                self.on_its_thread(async move { library.read(id).await }).await
            }
        };
        match fetched {
            Ok((row, took)) => Ok(Found { row, how, took: Some(took) }),
            Err(trouble) => {
                let kept = if self.serves_stale { lock(&self.cache).stale(id) } else { None };
                kept.map(|row| Found { row, how: How::Stale, took: None }).ok_or(trouble)
            }
        }
    }

    /// Fetches a row for all who wait for it, and for the cache.
    async fn fill(self: Arc<Self>, ticket: Ticket<i32>) {
        let (key, mut duty) = (ticket.key, Duty { library: &self, ticket: Some(ticket) });
        let fetched = self.read(key).await;
        duty.end(&fetched);
    }

    /// Reads a row; once more, if the connection breaks meanwhile, or the table was changed.
    async fn read(&self, id: i32) -> Fetched {
        let began = Instant::now();
        let mut is_first = true;
        loop {
            let link = self.readers.any()?;
            self.selects.fetch_add(1, Relaxed);
            let row = link.read(async {
                let row = link.ready.client.query_opt(&link.ready.select, &[&id]).await?;
                let json = |row: Row| {
                    let mut json = String::new();
                    patron::add_row(&mut json, id, row.try_get(0)?, row.try_get(1)?);
                    Ok(Bytes::from(json))
                };
                row.map(json).transpose()
            });
            match row.await {
                Ok(row) => return Ok((row, began.elapsed())),
                Err(trouble) if is_first && link.is_worth_another(&trouble).await => is_first = false,
                Err(trouble) => return Err(trouble),
            }
        }
    }

    /// Does what somebody wishes, to its end whether they wait for it or not. Returns the number of the patron; `None`: there
    /// is none.
    async fn fulfil(self: &Arc<Self>, wish: Wish) -> Result<Option<i32>, Trouble> {
        let library = Arc::clone(self);
        let done = self.on_its_thread(async move { library.write(wish).await }).await;
        match &done {
            Ok(_) => self.changes.fetch_add(1, Relaxed),
            Err(Trouble::Refused(_)) => 0,
            Err(_) => self.unavailable.fetch_add(1, Relaxed),
        };
        done
    }

    async fn write(&self, wish: Wish) -> Result<Option<i32>, Trouble> {
        let Some(id) = wish.id() else { return self.write_in_turn(&wish).await };
        // A row that is locked holds up those who want to change it, and nobody else.
        let turn = Arc::clone(lock(&self.changing).entry(id).or_default());
        let done = match timeout(database::TURN, turn.lock()).await {
            Ok(_turn) => self.write_in_turn(&wish).await,
            Err(_) => Err(Trouble::Away("another change of this patron is under way".into())),
        };
        let mut changing = lock(&self.changing);
        // This one and the table's are all.
        if Arc::strong_count(&turn) == 2 {
            changing.remove(&id);
        }
        done
    }

    async fn write_in_turn(&self, wish: &Wish) -> Result<Option<i32>, Trouble> {
        let mut is_first = true;
        let done = loop {
            let link = self.writers.own().await?;
            match write_through(&link, wish).await {
                Err(Trouble::Outdated) if is_first && link.is_worth_another(&Trouble::Outdated).await => {
                    is_first = false;
                }
                done => break done,
            }
        };
        // Before the answer, so that whoever has it reads what was written; and if there is none, it may be done all the same.
        if let Some(id) = wish.id().or(done.as_ref().ok().copied().flatten()) {
            lock(&self.cache).written(id);
        }
        done
    }

    /// The patrons after this number, as a list with at most so many; and the number of the last one, if there are more.
    async fn list(self: &Arc<Self>, after: i32, limit: usize) -> Result<(String, Option<i32>), Trouble> {
        let library = Arc::clone(self);
        let listed = self.on_its_thread(async move { library.read_list(after, limit).await }).await;
        if listed.is_err() {
            self.unavailable.fetch_add(1, Relaxed);
        }
        listed
    }

    async fn read_list(&self, after: i32, limit: usize) -> Result<(String, Option<i32>), Trouble> {
        let mut is_first = true;
        loop {
            let link = self.readers.any()?;
            self.selects.fetch_add(1, Relaxed);
            match link.read(list_through(&link, after, limit)).await {
                Err(trouble) if is_first && link.is_worth_another(&trouble).await => is_first = false,
                listed => return listed,
            }
        }
    }

    fn add_metrics(&self, page: &mut Page, labels: &[(&str, &str)]) {
        const ANSWERS: Metric =
            Metric::counter("poetry_library_answers_total", "Patrons that were asked for, by X-Cache.");
        const CHANGES: Metric =
            Metric::counter("poetry_library_changes_total", "Changes that were asked for and done.");
        const UNAVAILABLE: Metric =
            Metric::counter("poetry_library_unavailable_total", "Requests that the database did not answer.");
        const SELECTS: Metric = Metric::counter("poetry_library_selects_total", "SELECTs that the database was given.");
        const WAITING: Metric =
            Metric::gauge("poetry_library_waiting", "Requests that wait for a SELECT which others share.");
        const EVENTS: Metric = Metric::counter("poetry_library_events_total", "Changes that were announced.");
        const CLEARS: Metric = Metric::counter("poetry_library_clears_total", "Times that all rows were forgotten.");
        const OVERTAKEN: Metric =
            Metric::counter("poetry_library_overtaken_total", "Rows that had changed again when they came.");
        const REFETCHES: Metric =
            Metric::counter("poetry_library_refetches_total", "Rows that were fetched because they had changed.");
        const ROWS: Metric = Metric::gauge("poetry_library_rows", "Rows that are held, absent ones among them.");
        const BYTES: Metric = Metric::gauge("poetry_library_cache_bytes", "Bytes of all rows that are held.");
        const LISTENING: Metric = Metric::gauge("poetry_library_listening", "1 if changes are announced.");
        const CONNECTIONS: Metric =
            Metric::gauge("poetry_library_connections", "Connections to the database that take statements.");
        const LAG: Metric = Metric::histogram(
            "poetry_library_lag_seconds",
            "From a change to its announcement, by the clocks of the database and this machine.",
        );
        for how in How::ALL {
            page.add(ANSWERS, &[labels, &[("cache", how.name())]].concat(), self.answers[how as usize].load(Relaxed));
        }
        page.add(CHANGES, labels, self.changes.load(Relaxed));
        page.add(UNAVAILABLE, labels, self.unavailable.load(Relaxed));
        page.add(SELECTS, labels, self.selects.load(Relaxed));
        page.add(EVENTS, labels, self.events.load(Relaxed));
        let (counts, waiting, rows, bytes, is_listening) = {
            let cache = lock(&self.cache);
            (cache.counts(), cache.waiting(), cache.len(), cache.weight(), cache.is_listening())
        };
        page.add(WAITING, labels, waiting as u64);
        page.add(CLEARS, labels, counts.clears);
        page.add(OVERTAKEN, labels, counts.overtaken);
        page.add(REFETCHES, labels, counts.refetches);
        page.add(ROWS, labels, rows as u64);
        page.add(BYTES, labels, bytes as u64);
        page.add(LISTENING, labels, is_listening.into());
        page.add(CONNECTIONS, labels, (self.readers.ready() + self.writers.ready()) as u64);
        page.add_histogram(LAG, labels, &self.lag);
    }

    /// What comes of some work on the thread of the database, which goes on to its end whoever waits for it.
    async fn on_its_thread<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Trouble>> + Send + 'static,
    ) -> Result<T, Trouble> {
        let (tell, told) = oneshot::channel();
        self.spawn(async move {
            // Whoever has left needs nothing.
            let _ = tell.send(work.await);
        });
        told.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// On the thread of the database.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        // What is dropped instead says so to whoever waits for it.
        if let Some(runtime) = self.runtime.get() {
            runtime.spawn(task);
        }
    }
}

/// Who changes a patron.
type Turn = tokio::sync::Mutex<()>;

async fn write_through(link: &InUse<'_>, wish: &Wish) -> Result<Option<i32>, Trouble> {
    let Ready { client, insert, update, delete, .. } = &*link.ready;
    let (id, changed) = match wish {
        Wish::Make(Patron { name, fav_dish }) => {
            let made = async { client.query_one(insert, &[name, fav_dish]).await?.try_get(0) };
            return link.answer(made).await.map(Some);
        }
        Wish::Change(id, Patron { name, fav_dish }) => {
            (*id, link.answer(client.execute(update, &[name, fav_dish, id])).await)
        }
        Wish::Delete(id) => (*id, link.answer(client.execute(delete, &[id])).await),
    };
    changed.map(|rows| (rows > 0).then_some(id))
}

async fn list_through(
    link: &InUse<'_>,
    after: i32,
    limit: usize,
) -> Result<(String, Option<i32>), tokio_postgres::Error> {
    let most = i64::try_from(limit).unwrap_or(i64::MAX) + 1;
    let parameters: [&(dyn ToSql + Sync); 2] = [&after, &most];
    let mut rows = pin!(link.ready.client.query_raw(&link.ready.list, parameters).await?);
    let (mut json, mut count, mut last) = ("[".to_owned(), 0, None);
    while let Some(row) = rows.try_next().await? {
        if count == limit || json.len() >= LONGEST_LIST {
            return Ok((json + "]", last));
        }
        if count > 0 {
            json.push(',');
        }
        let id = row.try_get(0)?;
        patron::add_row(&mut json, id, row.try_get(1)?, row.try_get(2)?);
        (count, last) = (count + 1, Some(id));
    }
    Ok((json + "]", None))
}

/// A ticket of the cache, which is used up in any case: whatever becomes of a fetch, those who wait for it hear of it.
struct Duty<'l> {
    library: &'l Library,
    ticket: Option<Ticket<i32>>,
}

impl Duty<'_> {
    fn end(&mut self, fetched: &Fetched) {
        let Some(ticket) = self.ticket.take() else { return };
        let mut cache = lock(&self.library.cache);
        let waiting = match fetched {
            Ok((row, _)) => cache.land(ticket, row.clone(), row.as_ref().map_or(0, Bytes::len)),
            Err(_) => cache.fail(ticket),
        };
        drop(cache);
        for one in waiting {
            // Whoever has left needs none.
            let _ = one.send(fetched.clone());
        }
    }
}

impl Drop for Duty<'_> {
    fn drop(&mut self) {
        self.end(&Err(stopping()));
    }
}

fn stopping() -> Trouble {
    Trouble::Away("the server is stopping".into())
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Library").field("target", &self.target).finish_non_exhaustive()
    }
}

impl Handler for LibraryServer {
    /// A reply says how long it is.
    const EOF_ENDS_MESSAGE: bool = false;

    /// Its connections for statements, and for a moment at its start or after trouble some more.
    const OPENS: Opens = Opens { each: 0, beside: LOOK_UP + MOST_CONNECTIONS + 4 };

    async fn serve(&self, connection: &mut Connection) -> io::Result<Ending> {
        api::serve(&self.library, &self.site, connection).await
    }
}
