//! The caching proxy: one fetch for everyone who comes while it runs, and memory for those who come later.
//!
//! ```text
//!   client ── hit ─────────────▶ the poem in memory
//!   client ── miss ──▶ flight ──▶ upstream thread: one connection
//!   client ── join ────╯
//! ```
//!
//! What a client is to get is decided in [`crate::cache`]; the fetch is shared in [`crate::cache::flight`]. The fetches live
//! on a thread of their own, so that they outlast the worker of the client who began them.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::io::AsyncReadExt;
use tokio::net::TcpSocket;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{info, warn};

use crate::address::Address;
use crate::cache::flight::{Flight, Readable, Reader, Writer};
use crate::cache::freshness::{Answer, Cache, Policy};
use crate::errors::{is_for_later, reason};
use crate::net::counts::Counts;
use crate::net::wait::{gone, send_some};
use crate::net::{Handler, Peer, Progress, close, send_now};
use crate::pace::Ending;
use crate::poem::Poem;
use crate::sync::lock;
use crate::units::{human, micros};

/// What one read from upstream asks for.
const READ: usize = 64 * 1024;

/// Serves one upstream's poem to any number of clients.
#[derive(Debug)]
pub struct ProxyServer {
    shared: Arc<Shared>,
    /// Of the fetches, until it is started.
    upstream: Mutex<Option<Runtime>>,
    /// Ends it.
    stop: CancellationToken,
    _stop: DropGuard,
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
    /// For a connection, and for each next byte, from upstream. `None`: for ever.
    pub upstream_timeout: Option<Duration>,
    /// A client that takes nothing for so long is dropped. `None`: never.
    pub write_timeout: Option<Duration>,
    /// Whether a fetch goes on when its last client has left.
    pub keep_filling: bool,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    store: Mutex<Store>,
    counts: Counts,
    totals: Totals,
    /// The runtime of the fetches.
    upstream: Handle,
}

/// What clients are dealt with from.
#[derive(Debug)]
struct Store {
    cache: Cache<Poem>,
    flight: Option<Flight<Why>>,
}

/// Why a fetch failed, for all who shared it.
type Why = Arc<str>;

/// How many clients were dealt with in which way, and the fetches that took.
#[derive(Debug, Default)]
struct Totals {
    by_role: [AtomicU64; 4],
    aborts: AtomicU64,
    fetches: AtomicU64,
    complete: AtomicU64,
    failed: AtomicU64,
    canceled: AtomicU64,
}

/// What a client is to the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Served from memory.
    Hit,
    /// Began a fetch.
    Miss,
    /// Joined a fetch.
    Join,
    /// Served an aged poem from memory.
    Stale,
}

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
    Memory { poem: Poem, sent: usize },
    Flight { reader: Reader<Why>, fallback: Option<Poem> },
}

impl ProxyServer {
    /// A proxy with nothing in its cache.
    ///
    /// # Errors
    /// The system gives no descriptors for the fetches.
    pub fn new(config: Config) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let store = Store { cache: Cache::new(config.policy.clone()), flight: None };
        let shared = Shared {
            config,
            store: Mutex::new(store),
            counts: Counts::default(),
            totals: Totals::default(),
            upstream: runtime.handle().clone(),
        };
        let stop = CancellationToken::new();
        let (shared, upstream) = (Arc::new(shared), Mutex::new(Some(runtime)));
        Ok(Self { shared, upstream, stop: stop.clone(), _stop: stop.drop_guard() })
    }

    /// Forgets the poem: whoever comes from now on gets it as upstream has it from now on.
    pub fn forget(&self) {
        let mut store = lock(&self.shared.store);
        store.cache.forget();
        store.flight = None;
    }

    /// All that has been done so far, in a line.
    pub fn totals(&self) -> String {
        let [hits, misses, joins, stale, aborts] = self.answers().map(|(_, count)| count);
        let (fetches, failed, bytes) =
            (self.fetches(), self.shared.totals.failed.load(Relaxed), self.shared.counts.bytes());
        let cached = self.cached_bytes();
        format!(
            "{hits} hits, {misses} misses, {joins} joins, {stale} stale, {aborts} aborts; {fetches} fetches, {failed} failed; \
             {bytes} bytes sent, {cached} bytes cached",
        )
    }

    /// How many clients were answered in which way, by name.
    pub fn answers(&self) -> [(&'static str, u64); 5] {
        let of = |role| self.shared.totals.of(role).load(Relaxed);
        [
            ("hit", of(Role::Hit)),
            ("miss", of(Role::Miss)),
            ("join", of(Role::Join)),
            ("stale", of(Role::Stale)),
            ("abort", self.shared.totals.aborts.load(Relaxed)),
        ]
    }

    /// Fetches that were begun.
    pub fn fetches(&self) -> u64 {
        self.shared.totals.fetches.load(Relaxed)
    }

    /// How many fetches ended in which way, by name.
    pub fn ended_fetches(&self) -> [(&'static str, u64); 3] {
        let Totals { complete, failed, canceled, .. } = &self.shared.totals;
        [("complete", complete), ("failed", failed), ("canceled", canceled)]
            .map(|(outcome, count)| (outcome, count.load(Relaxed)))
    }

    /// Bytes in the cache.
    pub fn cached_bytes(&self) -> usize {
        lock(&self.shared.store).cache.value().map_or(0, |poem| poem.bytes().len())
    }
}

impl Shared {
    /// Decides what a client is to get.
    fn admit(self: &Arc<Self>) -> (Role, Source) {
        let mut store = lock(&self.store);
        match store.cache.ask(Instant::now()) {
            Answer::Fresh(poem) => (Role::Hit, Source::Memory { poem, sent: 0 }),
            Answer::Aged(poem) => {
                if store.flight.as_ref().is_none_or(Flight::is_over) {
                    let (flight, writer) = Flight::new(self.config.max_size, true);
                    store.flight = Some(flight);
                    self.start_fetch(writer);
                }
                (Role::Stale, Source::Memory { poem, sent: 0 })
            }
            Answer::Missing { fallback } => {
                if let Some(reader) = store.flight.as_ref().and_then(Flight::join) {
                    return (Role::Join, Source::Flight { reader, fallback });
                }
                let (flight, writer) = Flight::new(self.config.max_size, self.config.keep_filling);
                let reader = flight.join().expect("a new flight can be joined");
                store.flight = Some(flight);
                self.start_fetch(writer);
                (Role::Miss, Source::Flight { reader, fallback })
            }
        }
    }

    fn start_fetch(self: &Arc<Self>, writer: Writer<Why>) {
        self.totals.fetches.fetch_add(1, Relaxed);
        let shared = Arc::clone(self);
        self.upstream.spawn(async move {
            let start = Instant::now();
            let upstream = &shared.config.upstream;
            let result = fetch(&shared.config, &writer).await;
            let kept = shared.ended(&writer, &result);
            let Totals { complete, failed, canceled, .. } = &shared.totals;
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
        // To whoever comes the fetch is either under way or in the cache, nothing between.
        let mut store = lock(&self.store);
        let poem = match result {
            Ok(()) => writer.land(),
            Err(error) => {
                writer.fail(error.to_string().into());
                None
            }
        };
        let kept = poem.is_some();
        if store.flight.as_ref().is_some_and(|flight| flight.is_by(writer)) {
            store.flight = None;
            if let Some(poem) = poem {
                store.cache.store(poem, Instant::now());
            }
        }
        kept
    }

    /// The one line about a client.
    fn tell(&self, delivery: &Delivery, end: &Result<(), Lost>) {
        let Delivery { peer, since, role, source } = delivery;
        let (bytes, joined) = match source {
            Source::Memory { sent, .. } => (*sent as u64, 0),
            Source::Flight { reader, .. } => (reader.taken(), reader.joined()),
        };
        let count = if end.is_ok() { self.totals.of(*role) } else { &self.totals.aborts };
        count.fetch_add(1, Relaxed);
        if !tracing::enabled!(tracing::Level::INFO) {
            return;
        }
        let elapsed_us = micros(since.elapsed());
        let time = human(since.elapsed());
        let shared = if joined > 0 { format!("; {joined} shared the fetch") } else { String::new() };
        match end {
            Ok(()) => info!(%peer, bytes, elapsed_us, joined, "{role} {peer}: {bytes} bytes in {time}{shared}"),
            Err(lost) => {
                info!(%peer, bytes, elapsed_us, joined, "ABORT {peer}: {bytes} bytes in {time}{shared}: {lost}");
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
}

impl Totals {
    fn of(&self, role: Role) -> &AtomicU64 {
        &self.by_role[role as usize]
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hit => "HIT",
            Self::Miss => "MISS",
            Self::Join => "JOIN",
            Self::Stale => "STALE",
        })
    }
}

impl Handler for ProxyServer {
    type Rest = Box<Delivery>;

    fn counts(&self) -> &Counts {
        &self.shared.counts
    }

    fn start(&self) -> io::Result<()> {
        let Some(runtime) = lock(&self.upstream).take() else { return Ok(()) };
        let stopped = self.stop.clone();
        let body = move || {
            runtime.block_on(stopped.cancelled());
            // A look-up that does not answer must not hold up the end.
            runtime.shutdown_background();
        };
        thread::Builder::new().name("upstream".to_owned()).spawn(body).map(|_| ())
    }

    fn try_serve(&self, socket: &TcpStream, peer: Peer) -> io::Result<Progress<Self::Rest>> {
        let since = Instant::now();
        let (role, mut source) = self.shared.admit();
        let mut complete = false;
        if let Source::Memory { poem, sent } = &mut source {
            match send_now(socket, poem.bytes(), true) {
                Ok(n) => {
                    self.shared.counts.send(n);
                    *sent = n;
                }
                Err(error) if is_for_later(&error) => {}
                Err(error) => {
                    self.shared.tell(&Delivery { peer, since, role, source }, &Err(Lost::Client(error.kind().into())));
                    return Err(error);
                }
            }
            complete = *sent == poem.bytes().len();
        }
        let delivery = Delivery { peer, since, role, source };
        if complete {
            self.shared.tell(&delivery, &Ok(()));
            return Ok(Progress::End(Ending::Fin));
        }
        Ok(Progress::Rest(Box::new(delivery)))
    }

    async fn serve(&self, stream: &tokio::net::TcpStream, mut delivery: Self::Rest) -> io::Result<Ending> {
        let result = self.deliver(stream, &mut delivery).await;
        self.shared.tell(&delivery, &result);
        result.map(|()| Ending::Fin).map_err(|lost| match lost {
            Lost::Client(error) => error,
            Lost::Upstream(_) => io::ErrorKind::ConnectionAborted.into(),
        })
    }
}

impl ProxyServer {
    /// Sends all of the poem, from wherever it comes.
    async fn deliver(&self, stream: &tokio::net::TcpStream, delivery: &mut Delivery) -> Result<(), Lost> {
        let limit = self.shared.config.write_timeout;
        loop {
            match &mut delivery.source {
                Source::Memory { poem, sent } => {
                    let rest = &poem.bytes()[*sent..];
                    if rest.is_empty() {
                        return Ok(());
                    }
                    let n = send_some(stream, limit, || send_now(stream, rest, true)).await?;
                    self.shared.counts.send(n);
                    *sent += n;
                }
                Source::Flight { reader, fallback } => {
                    let next = tokio::select! {
                        next = reader.next() => next,
                        error = gone(stream) => return Err(error.into()),
                    };
                    match next {
                        Readable::End => return Ok(()),
                        Readable::Bytes => {
                            let send = || reader.take(|bytes, last| send_now(stream, bytes, last));
                            let n = send_some(stream, limit, send).await?;
                            self.shared.counts.send(n);
                        }
                        // Who has nothing of the new poem yet can still be given the old one.
                        Readable::Failed(why) => match fallback.take().filter(|_| reader.taken() == 0) {
                            Some(poem) => {
                                (delivery.role, delivery.source) = (Role::Stale, Source::Memory { poem, sent: 0 });
                            }
                            None => return Err(Lost::Upstream(why.unwrap_or_else(|| "stopping".into()))),
                        },
                    }
                }
            }
        }
    }
}

/// Why a fetch ended too early.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("cannot resolve the name: {}", reason(.0))]
    Resolve(io::Error),
    #[error("{}", reason(.0))]
    Io(#[from] io::Error),
    #[error("no connection for {}", humantime::format_duration(*.0))]
    NoConnection(Duration),
    #[error("no byte for {}", humantime::format_duration(*.0))]
    Silent(Duration),
    #[error("nobody wants it any more")]
    Abandoned,
}

/// One connection to upstream, from its beginning to its end.
async fn fetch(config: &Config, writer: &Writer<Why>) -> Result<(), FetchError> {
    let limit = config.upstream_timeout;
    let mut stream = unless_abandoned(writer, connect(&config.upstream, limit)).await?;
    let result = async {
        let mut buffer = vec![0; READ];
        loop {
            let read = within(limit, FetchError::Silent, stream.read(&mut buffer));
            match unless_abandoned(writer, read).await? {
                0 => return Ok(()),
                n if writer.append(&buffer[..n]).await => {}
                _ => return Err(FetchError::Abandoned),
            }
        }
    }
    .await;
    if result.is_err() {
        // A proxy that is upstream would take the end of the stream for a half-close, and go on for nobody.
        close::abruptly(&SockRef::from(&stream));
    }
    result
}

async fn unless_abandoned<T>(
    writer: &Writer<Why>,
    work: impl Future<Output = Result<T, FetchError>>,
) -> Result<T, FetchError> {
    tokio::select! {
        result = work => result,
        () = writer.abandoned() => Err(FetchError::Abandoned),
    }
}

/// Connects to the first address of the name that answers.
async fn connect(upstream: &Address, limit: Option<Duration>) -> Result<tokio::net::TcpStream, FetchError> {
    let name = upstream.clone();
    let resolved = async { spawn_blocking(move || name.resolve()).await.unwrap_or_else(|error| Err(error.into())) };
    let addresses = match limit {
        Some(limit) => timeout(limit, resolved).await.map_err(|_| FetchError::NoConnection(limit))?,
        None => resolved.await,
    };
    let mut failure = FetchError::Resolve(io::ErrorKind::NotFound.into());
    for address in addresses.map_err(FetchError::Resolve)? {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        match within(limit, FetchError::NoConnection, socket.connect(address)).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

async fn within<T>(
    limit: Option<Duration>,
    late: fn(Duration) -> FetchError,
    work: impl Future<Output = io::Result<T>>,
) -> Result<T, FetchError> {
    match limit {
        None => Ok(work.await?),
        Some(limit) => Ok(timeout(limit, work).await.map_err(|_| late(limit))??),
    }
}
