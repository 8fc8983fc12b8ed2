//! An anthology: one page from many sources, as they come.
//!
//! ```text
//!   viewer ── view ─┬─ store 1 ── fresh ─────────────────▶ section
//!                   ├─ store 2 ── flight ── gate ── fetch ▶ edition ▶ section, as soon as it is there
//!                   ╰─ store 3 ── flight ── gate ── fetch ▶ trouble ▶ section that says why
//! ```
//!
//! | file | |
//! |---|---|
//! | `source.rs` | where something comes from, and what it may cost |
//! | `fetch.rs`, `change.rs`, `record.rs`, `trouble.rs` | one fetch: how it goes, what is made of a text, when what happened, why it was in vain |
//! | `gates.rs` | how many at a time, together and on each host |
//! | `media.rs`, `charset.rs`, `content.rs`, `title.rs`, `feed.rs`, `markup.rs` | from bytes to what is shown, without sockets |
//! | `edition.rs`, `standing.rs`, `store.rs` | what a source had, what it is to one who looks, and one fetch of it for all |
//! | `together.rs`, `view.rs` | one look at all sources, in the order in which they come |
//! | `account.rs` | its report and its picture |
//! | `page.rs`, `pages.rs` | the page in pieces, and whatever else is to be had |

mod account;
mod change;
mod charset;
mod content;
mod edition;
mod feed;
mod fetch;
mod gates;
mod markup;
mod media;
mod page;
mod pages;
mod quote;
mod record;
mod source;
mod standing;
mod store;
mod title;
mod together;
mod totals;
mod trouble;
mod view;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::time::{Duration, Instant};

use crate::cache::freshness::Policy;
use crate::metrics::{Metric, Page as Metrics};
use crate::net::descriptors::{LOOK_UP, Opens};
use crate::net::{Connection, Handler};
use crate::pace::Ending;
use crate::server::fetches::Fetches;
use crate::sync::lock;
use crate::units::count;
use account::AtOnce;
pub use content::Kind;
use gates::Gates;
use page::Drawing;
use pages::Pages;
pub use source::{Limits, Place, Source, Transform};
use store::{Shared, Store};
use totals::Totals;

/// After a fetch in vain, a source of which something old is shown is left alone for so long.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How an anthology is to be.
#[derive(Debug)]
pub struct Config {
    /// What its page is called.
    pub title: String,
    /// Names by which it may be called, beside `localhost` and IP addresses.
    pub host_names: Vec<String>,
    /// For so long a page waits for its sources. A fetch may go on after that.
    pub page_timeout: Duration,
    /// For so long what was fetched is as good as new.
    pub ttl: Duration,
    /// For so long after that it is shown, with its age, while it is fetched again.
    pub stale: Duration,
    /// The most fetches at a time.
    pub jobs: usize,
    /// The most of them on one host, which is a name or an address with a port.
    pub per_host: usize,
    /// What is done to texts before they are shown.
    pub transform: Option<Transform>,
}

/// Serves pages that are made of what many sources have.
#[derive(Debug)]
pub struct AnthologyServer {
    anthology: Arc<Anthology>,
    pages: Pages,
}

#[derive(Debug)]
struct Anthology {
    shared: Arc<Shared>,
    gates: Gates,
    policy: Policy,
    page_timeout: Duration,
    at_once: AtOnce,
    set: Mutex<Arc<Set>>,
}

/// The sources as they are now, until they are read again.
#[derive(Debug)]
struct Set {
    stores: Vec<Arc<Store>>,
    /// The picture of the last view for which something was fetched.
    last: RwLock<Option<(Drawing, Instant)>>,
}

impl AnthologyServer {
    /// An anthology of these sources, of which nothing has been fetched yet.
    ///
    /// # Errors
    /// The system gives no descriptors for the fetches.
    pub fn new(config: Config, sources: Vec<Source>) -> io::Result<Self> {
        let Config { title, host_names, page_timeout, ttl, stale, jobs, per_host, transform } = config;
        let (fetches, totals, doors) = (Fetches::new()?, Totals::default(), OnceLock::new());
        let shared = Shared { fetches, totals, transform, doors };
        let policy =
            Policy { ttl: Some(ttl), stale_while_revalidate: stale, stale_if_error: false, retry_after: RETRY_AFTER };
        let anthology = Anthology {
            shared: Arc::new(shared),
            gates: Gates::new(jobs, per_host),
            policy,
            page_timeout,
            at_once: AtOnce { in_all: jobs, per_host },
            set: Mutex::new(Arc::new(Set { stores: Vec::new(), last: RwLock::default() })),
        };
        anthology.set_sources(sources);
        Ok(Self { anthology: Arc::new(anthology), pages: Pages::new(host_names, &title) })
    }

    /// Forgets everything, and has these sources from now on. Views that are open go on with those that they have.
    pub fn set_sources(&self, sources: Vec<Source>) {
        self.anthology.set_sources(sources);
    }

    /// Takes the addresses at which it listens, so that a source that leads back there is not followed.
    pub fn listens_at(&self, doors: Vec<SocketAddr>) {
        let _ = self.anthology.shared.doors.set(doors);
    }

    /// Ends the fetches, once nobody is served any more.
    pub fn end_fetches(&self) {
        self.anthology.shared.fetches.end();
    }

    /// All that has been done so far, in a line.
    pub fn totals(&self) -> String {
        let (set, totals) = (self.anthology.set(), &self.anthology.shared.totals);
        format!(
            "{}, {}; {}, {} failed; {} kept",
            count(set.stores.len() as u64, "source"),
            count(totals.pages.load(Relaxed), "view"),
            count(totals.fetches.load(Relaxed), "fetch"),
            totals.failed(),
            count(set.kept(), "byte"),
        )
    }

    /// Views, fetches, and bytes that are kept.
    pub fn figures(&self) -> [(&'static str, u64); 3] {
        let totals = &self.anthology.shared.totals;
        let (pages, fetches) = (totals.pages.load(Relaxed), totals.fetches.load(Relaxed));
        [("views", pages), ("fetches", fetches), ("kept", self.anthology.set().kept())]
    }

    /// Adds its metrics.
    pub fn add_metrics(&self, page: &mut Metrics, labels: &[(&str, &str)]) {
        self.anthology.add_metrics(page, labels);
    }
}

impl Anthology {
    fn set(&self) -> Arc<Set> {
        Arc::clone(&lock(&self.set))
    }

    fn set_sources(&self, sources: Vec<Source>) {
        let gates = self.gates.to(sources.iter().map(Source::host));
        let stores = (1..).zip(sources).zip(gates);
        let stores = stores.map(|((number, source), gate)| Arc::new(Store::new(source, number, gate, &self.policy)));
        *lock(&self.set) = Arc::new(Set { stores: stores.collect(), last: RwLock::default() });
    }

    fn add_metrics(&self, page: &mut Metrics, labels: &[(&str, &str)]) {
        const SOURCES: Metric = Metric::gauge("poetry_anthology_sources", "Sources of the page.");
        const KEPT: Metric =
            Metric::gauge("poetry_anthology_kept_bytes", "Bytes that sources have sent, and are kept.");
        let set = self.set();
        page.add(SOURCES, labels, set.stores.len() as u64);
        page.add(KEPT, labels, set.kept());
        self.shared.totals.add_metrics(page, labels);
    }
}

impl Set {
    fn kept(&self) -> u64 {
        self.stores.iter().map(|store| store.kept() as u64).sum()
    }
}

impl Handler for AnthologyServer {
    /// It does for clients of HTTP/1.0: they know no chunks.
    const EOF_ENDS_MESSAGE: bool = true;

    /// As many as there may be fetches.
    fn opens(&self) -> Opens {
        let fetches = self.anthology.at_once.in_all.min(self.anthology.set().stores.len());
        Opens { each: 0, beside: LOOK_UP * u32::try_from(fetches).unwrap_or(u32::MAX / LOOK_UP) }
    }

    fn start(&self) -> io::Result<()> {
        self.anthology.shared.fetches.start()
    }

    async fn serve(&self, connection: &mut Connection) -> io::Result<Ending> {
        let (stop, anthology) = (connection.stop(), &self.anthology);
        let answer = async |request| self.pages.answer(anthology, &request, stop.clone()).await;
        self.pages.site.serve(connection, answer).await
    }
}
