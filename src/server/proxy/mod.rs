//! The caching proxy: one fetch for everyone who comes while it runs, and memory for those who come later.
//!
//! ```text
//!   client ── hit ─────────────▶ the poem in memory
//!   client ── miss ──▶ flight ──▶ upstream thread: one connection
//!   client ── join ────╯
//! ```
//!
//! When a poem is fresh is decided in [`crate::cache::freshness`]; a fetch is shared in [`crate::cache::flight`]; the memory
//! of all that is one, [`crate::cache::memory`]. `store.rs` joins the three, `upstream.rs` is the fetch.

mod store;
mod totals;
mod upstream;

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tokio::time::sleep_until;
use tracing::{debug, info};

use crate::address::Address;
use crate::cache::flight::{Readable, Reader};
use crate::cache::freshness::Policy;
use crate::cache::memory::Kept;
use crate::cache::patience::PATIENCE;
use crate::errors::{is_for_later, reason};
use crate::net::descriptors::{LOOK_UP, Opens};
use crate::net::{Connection, FastPath, Peer, Progress, Unregistered, send_now};
use crate::pace::Ending;
use crate::server::fetches::Fetches;
use crate::units::{self, human, micros};
use store::Store;
use totals::Role;

/// Serves one upstream's poem to any number of clients.
#[derive(Debug)]
pub struct ProxyServer {
    store: Arc<Store>,
}

/// How a proxy deals with its upstream and its clients.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the poem comes from.
    pub upstream: Address,
    /// How long it is good for.
    pub policy: Policy,
    /// The longest poem that is kept; a longer one passes through.
    pub max_size: usize,
    /// Bytes of poems in memory, of all fetches and of the cache together: beyond that, poems pass through, and new fetches
    /// wait. No poem longer than a third of it is kept.
    pub max_memory: usize,
    /// For a connection, and for each next byte, from upstream. `None`: for ever.
    pub upstream_timeout: Option<Duration>,
    /// Whether a fetch goes on when its last client has left.
    pub keep_filling: bool,
}

/// Why a fetch failed, for all who shared it.
type Why = Arc<str>;

/// A client on its way.
#[derive(Debug)]
pub struct Delivery {
    peer: Peer,
    since: Instant,
    role: Role,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Memory {
        poem: Kept,
        sent: usize,
    },
    Flight {
        reader: Reader<Why>,
        /// An aged poem, and until when a client that has nothing yet waits for a new one.
        fallback: Option<(Kept, Instant)>,
    },
}

impl ProxyServer {
    /// A proxy with nothing in its cache.
    ///
    /// # Errors
    /// The system gives no descriptors for the fetches.
    pub fn new(config: Config) -> io::Result<Self> {
        Ok(Self { store: Arc::new(Store::new(config, Fetches::new()?)) })
    }

    /// Ends the fetches, once nobody is served any more.
    pub fn end_fetches(&self) {
        self.store.fetches.end();
    }

    /// Takes the addresses at which it listens, so that a name that leads back there is not followed.
    pub fn listens_at(&self, doors: Vec<SocketAddr>) {
        let _ = self.store.way.doors.set(doors);
    }

    /// Where the poem comes from.
    pub fn upstream(&self) -> &Address {
        &self.store.config.upstream
    }

    /// Forgets the poem: clients that come from now on get it as upstream has it from now on.
    pub fn forget(&self) {
        self.store.forget();
    }

    /// All that has been done so far, `bytes` sent included, in a line.
    pub fn totals(&self, bytes: u64) -> String {
        let [hits, misses, joins, stale, aborts] = self.answers().map(|(_, count)| count);
        let let_go = self.let_go();
        let (fetches, [_, (_, failed), _]) = (self.fetches(), self.ended_fetches());
        let cached = self.cached_bytes();
        format!(
            "{}, {}, {}, {stale} stale, {}, {let_go} of them let go; {}, {failed} failed; {} sent, {} cached",
            units::count(hits, "hit"),
            units::count(misses, "miss"),
            units::count(joins, "join"),
            units::count(aborts, "abort"),
            units::count(fetches, "fetch"),
            units::count(bytes, "byte"),
            units::count(cached as u64, "byte"),
        )
    }

    /// How many clients were answered in which way, by name.
    pub fn answers(&self) -> [(&'static str, u64); 5] {
        self.store.totals.answers()
    }

    /// Fetches that were begun.
    pub fn fetches(&self) -> u64 {
        self.store.totals.fetches.load(Relaxed)
    }

    /// How many fetches ended in which way, by name.
    pub fn ended_fetches(&self) -> [(&'static str, u64); 3] {
        self.store.totals.ended_fetches()
    }

    /// Clients that were reset because they held up others.
    pub fn let_go(&self) -> u64 {
        self.store.totals.let_go.load(Relaxed)
    }

    /// Bytes in memory, as [`Config::max_memory`] counts them.
    pub fn buffered_bytes(&self) -> usize {
        self.store.memory.used()
    }

    /// Bytes in the cache.
    pub fn cached_bytes(&self) -> usize {
        self.store.cached_bytes()
    }

    /// The one line about a client.
    fn tell(&self, delivery: &Delivery, end: &Result<(), Lost>) {
        let Delivery { peer, since, role, source } = delivery;
        let (bytes, joined) = match source {
            Source::Memory { sent, .. } => (*sent as u64, 0),
            Source::Flight { reader, .. } => (reader.taken(), reader.joined()),
        };
        let totals = &self.store.totals;
        let count = if end.is_ok() { totals.of(*role) } else { &totals.aborts };
        count.fetch_add(1, Relaxed);
        if matches!(end, Err(Lost::Slow)) {
            totals.let_go.fetch_add(1, Relaxed);
        }
        if !tracing::enabled!(tracing::Level::INFO) {
            return;
        }
        let elapsed_us = micros(since.elapsed());
        let time = human(since.elapsed());
        let shared = if joined > 0 { format!("; {joined} shared the fetch") } else { String::new() };
        let sent = units::count(bytes, "byte");
        match end {
            Ok(()) => info!(%peer, bytes, elapsed_us, joined, "{role} {peer}: {sent} in {time}{shared}"),
            Err(lost) => {
                info!(%peer, bytes, elapsed_us, joined, "ABORT {peer}: {sent} in {time}{shared}: {lost}");
            }
        }
    }
}

/// Why a client does not get the poem.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("{}", reason(.0))]
    Client(#[from] io::Error),
    #[error("upstream: {0}")]
    Upstream(Why),
    #[error("too slow: others had to wait for it for {}", humantime::format_duration(PATIENCE))]
    Slow,
}

impl FastPath for ProxyServer {
    const EOF_ENDS_MESSAGE: bool = true;

    /// A fetch for each client that cannot share one, and one in the background.
    const OPENS: Opens = Opens { each: 1, beside: LOOK_UP + 1 };

    type State = Box<Delivery>;

    fn start(&self) -> io::Result<()> {
        self.store.fetches.start()
    }

    fn try_serve(&self, socket: &Unregistered<'_>) -> io::Result<Progress<Self::State>> {
        let (peer, since) = (socket.peer(), Instant::now());
        debug!(%peer, "Somebody at {peer} wants poetry!");
        let (role, mut source) = self.store.admit();
        let mut complete = false;
        if let Source::Memory { poem, sent } = &mut source {
            match socket.send(poem.bytes(), true) {
                Ok(n) => *sent = n,
                Err(error) if is_for_later(&error) => {}
                Err(error) => {
                    self.tell(&Delivery { peer, since, role, source }, &Err(Lost::Client(error.kind().into())));
                    return Err(error);
                }
            }
            complete = *sent == poem.bytes().len();
        }
        let delivery = Delivery { peer, since, role, source };
        if complete {
            self.tell(&delivery, &Ok(()));
            return Ok(Progress::End(Ending::Fin));
        }
        Ok(Progress::Blocked(Box::new(delivery)))
    }

    async fn finish(&self, connection: &mut Connection, mut delivery: Self::State) -> io::Result<Ending> {
        let result = deliver(connection, &mut delivery).await;
        self.tell(&delivery, &result);
        result.map(|()| Ending::Fin).map_err(|lost| match lost {
            Lost::Client(error) => error,
            Lost::Upstream(_) | Lost::Slow => io::ErrorKind::ConnectionAborted.into(),
        })
    }
}

/// Sends all of the poem, from wherever it comes.
async fn deliver(connection: &Connection, delivery: &mut Delivery) -> Result<(), Lost> {
    loop {
        match &mut delivery.source {
            Source::Memory { poem, sent } => {
                let rest = &poem.bytes()[*sent..];
                if rest.is_empty() {
                    return Ok(());
                }
                *sent += connection.send_some(|stream| send_now(stream, rest, true)).await?;
            }
            Source::Flight { reader, fallback } => {
                let readable = tokio::select! {
                    biased;
                    readable = reader.next() => readable,
                    error = connection.broken() => return Err(error.into()),
                    // The fetch goes on, for those who come later.
                    () = out_of_patience(fallback.as_ref()) => Readable::Failed(None),
                };
                match readable {
                    Readable::End => return Ok(()),
                    Readable::Bytes => {
                        let send = connection
                            .send_some(|stream| reader.take(|bytes, is_last| send_now(stream, bytes, is_last)));
                        tokio::select! {
                            biased;
                            sent = send => drop(sent?),
                            () = reader.let_go() => return Err(Lost::Slow),
                        }
                        // With a part of the new poem sent, the old one can no longer take its place.
                        if reader.taken() > 0 {
                            *fallback = None;
                        }
                    }
                    Readable::LetGo => return Err(Lost::Slow),
                    Readable::Failed(why) => match fallback.take() {
                        Some((poem, _)) => {
                            (delivery.role, delivery.source) = (Role::Stale, Source::Memory { poem, sent: 0 });
                        }
                        None => return Err(Lost::Upstream(why.unwrap_or_else(|| "stopping".into()))),
                    },
                }
            }
        }
    }
}

async fn out_of_patience(fallback: Option<&(Kept, Instant)>) {
    match fallback {
        Some((_, until)) => sleep_until((*until).into()).await,
        None => pending().await,
    }
}
