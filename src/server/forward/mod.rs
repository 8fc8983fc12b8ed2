//! A forward proxy for HTTP: clients ask it for URLs, and it asks the servers, once for all who ask the same at a time.
//!
//! ```text
//!   client ── hit ────────────────▶ the reply in memory
//!   client ── miss ──▶ flight ────▶ upstream: one request, one connection
//!   client ── join ────╯    head: may it be shared? ── no ──▶ a fetch of its own
//! ```
//!
//! Requests come by way of hyper, whose parser has been attacked for ten years. Replies are read by
//! [`proto::http`](crate::proto::http), because here it counts who says where a reply ends: half a one must never look whole,
//! whatever framing the client gets. What may be shared, and for how long, is decided in
//! [`proto::http::fresh`](crate::proto::http::fresh).
//!
//! | file | |
//! |---|---|
//! | `asked.rs` | what is forwarded, and what is refused |
//! | `reach.rs` | whom it may connect to |
//! | `store.rs` | from memory, shared, or alone |
//! | `upstream.rs` | a request and its reply |
//! | `pool.rs` | connections to upstreams between two requests |
//! | `reply.rs` | what a client gets, and the line about it |
//! | `tunnel.rs` | CONNECT |

mod asked;
mod pool;
mod reach;
mod reply;
mod store;
mod tunnel;
mod upstream;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode, header};
use tokio::time::timeout;
use tokio_util::bytes::{Buf, BytesMut};
use tracing::{debug, info};

use crate::cache::patience::PATIENCE;
use crate::metrics::{Metric, Page};
use crate::net::descriptors::{LOOK_UP, Opens};
use crate::net::{Connection, Handler, Peer, Stoppable, http};
use crate::pace::Ending;
use crate::proto::http::REQUEST_LINE;
use crate::proto::http::fresh::{Habits, Use, agree};
use crate::proto::http::head::{self, Room};
use crate::server::fetches::Fetches;
use crate::units;
use asked::{Asked, Refusal};
use reply::{Content, Role, Tale, Trouble};
use store::{Admission, Failure, Place, Store};
use upstream::Way;

pub use reach::Reach;
pub use tunnel::Ports;

/// Why a fetch failed, for all who shared it.
type Why = Arc<str>;

/// How a forward proxy deals with servers and clients.
#[derive(Debug, Clone)]
pub struct Config {
    /// Whom it may connect to. `None`: anybody if it listens for this machine only, else public addresses.
    pub reach: Option<Reach>,
    /// What is done with replies that say nothing about it.
    pub habits: Habits,
    /// The longest reply that is kept, in bytes.
    pub max_size: usize,
    /// Bytes of all replies that are kept.
    pub cache_size: usize,
    /// For a connection, and for each next byte, from upstream. `None`: for ever.
    pub upstream_timeout: Option<Duration>,
    /// Whether a fetch goes on when its last client has left.
    pub keep_filling: bool,
    /// After a failure upstream is not asked again for so long, if an old reply will do.
    pub retry_after: Duration,
    /// The ports that CONNECT may lead to.
    pub connect: Ports,
}

/// The time for another request on a connection.
const IDLE_TIME: Duration = Duration::from_secs(60);

/// So many fetches a request waits for that turn out to be of another kind.
const MOST_KINDS: usize = 16;

/// Forwards requests.
#[derive(Debug)]
pub struct ForwardServer {
    store: Arc<Store>,
    reach: Option<Reach>,
    connect: Ports,
    answers: Arc<[AtomicU64; Role::ALL.len()]>,
    aborts: Arc<AtomicU64>,
}

impl ForwardServer {
    /// A proxy with nothing in its cache.
    ///
    /// # Errors
    /// The system gives no descriptors for the fetches.
    pub fn new(config: &Config) -> io::Result<Self> {
        let way = Way {
            limit: config.upstream_timeout,
            place: Default::default(),
            // Others may be called so, too, and then it is no loop.
            name: format!("poetry-proxy-{:06x}", fastrand::u32(..1 << 24)),
            habits: config.habits,
            pool: Arc::default(),
        };
        let store = Store::new(way, Fetches::new()?, config);
        Ok(Self {
            store: Arc::new(store),
            reach: config.reach,
            connect: config.connect.clone(),
            answers: Arc::default(),
            aborts: Arc::default(),
        })
    }

    /// Takes the addresses at which it listens: they tell whom it serves, and a request that leads back there is not
    /// followed.
    pub fn listens_at(&self, doors: Vec<SocketAddr>) {
        let is_local = doors.iter().all(|door| door.ip().to_canonical().is_loopback());
        let reach = self.reach.unwrap_or(if is_local { Reach::Any } else { Reach::Public });
        let _ = self.store.way.place.set((reach, doors));
    }

    /// Forgets all replies, and what it knows of URLs.
    pub fn forget(&self) {
        self.store.forget();
    }

    /// Ends the fetches, once nobody is served any more.
    pub fn end_fetches(&self) {
        self.store.fetches.end();
    }

    fn count(&self, role: Role) -> u64 {
        self.answers[role as usize].load(Relaxed)
    }

    /// Requests by how they were answered: from memory first, then by a fetch.
    pub fn answers(&self) -> [u64; Role::ALL.len()] {
        Role::ALL.map(|role| self.count(role))
    }

    /// Bytes of replies in memory.
    pub fn kept(&self) -> u64 {
        self.store.kept().0 as u64
    }

    /// All that has been done so far, `bytes` sent included, in a line.
    pub fn totals(&self, bytes: u64) -> String {
        let [hits, misses, joins, stale, bypasses, errors] = Role::ALL.map(|role| self.count(role));
        let Store { begun, failed, canceled, .. } = &*self.store;
        let [begun, failed, canceled] = [begun, failed, canceled].map(|count| count.load(Relaxed));
        let (weight, urls) = self.store.kept();
        format!(
            "{}, {}, {}, {stale} stale, {}, {}, {}; {}, {failed} failed, {canceled} canceled; {} sent, {} kept of {}",
            units::count(hits, "hit"),
            units::count(misses, "miss"),
            units::count(joins, "join"),
            units::count(bypasses, "bypass"),
            units::count(errors, "error"),
            units::count(self.aborts.load(Relaxed), "abort"),
            units::count(begun, "fetch"),
            units::count(bytes, "byte"),
            units::count(weight as u64, "byte"),
            units::count(urls as u64, "URL"),
        )
    }

    /// Adds its metrics.
    pub fn add_metrics(&self, page: &mut Page, labels: &[(&str, &str)]) {
        const ANSWERS: Metric = Metric::counter("poetry_forward_answers_total", "Requests by how they were answered.");
        const ABORTS: Metric = Metric::counter("poetry_forward_aborts_total", "Replies that broke off.");
        const FETCHES: Metric = Metric::counter("poetry_forward_fetches_total", "Requests to upstreams.");
        const ENDED: Metric = Metric::counter(
            "poetry_forward_fetches_broken_total",
            "Requests to upstreams without a whole reply, by why.",
        );
        const KEPT: Metric = Metric::gauge("poetry_forward_kept_bytes", "Bytes of replies in memory.");
        const URLS: Metric = Metric::gauge("poetry_forward_known_urls", "URLs of which something is in memory.");
        const BUFFERED: Metric = Metric::gauge("poetry_forward_buffered_bytes", "Bytes of replies, under way or kept.");
        for role in Role::ALL {
            page.add(ANSWERS, &[labels, &[("answer", role.word())]].concat(), self.count(role));
        }
        page.add(ABORTS, labels, self.aborts.load(Relaxed));
        page.add(FETCHES, labels, self.store.begun.load(Relaxed));
        for (outcome, count) in [("failed", &self.store.failed), ("canceled", &self.store.canceled)] {
            page.add(ENDED, &[labels, &[("outcome", outcome)]].concat(), count.load(Relaxed));
        }
        let (weight, urls) = self.store.kept();
        page.add(KEPT, labels, weight as u64);
        page.add(URLS, labels, urls as u64);
        page.add(BUFFERED, labels, self.store.buffered() as u64);
    }

    async fn answer(&self, request: Request<Incoming>, peer: Peer) -> Response<Content> {
        let (request, _) = request.into_parts();
        // For the line about it, if there is one.
        let what = match tracing::enabled!(tracing::Level::INFO) {
            true => format!("{} {}", request.method, shortened(&request.uri.to_string())),
            false => String::new(),
        };
        let mut tale = Tale::new(peer, what, &self.answers, &self.aborts);
        let name = &self.store.way.name;
        let asked = match Asked::of(request, name) {
            Ok(asked) => Arc::new(asked),
            Err(refusal) => return reply::refused(refusal, tale),
        };
        tale.role = if asked.wish.is_own || asked.method == Method::HEAD { Role::Bypass } else { Role::Miss };
        let (mut alone, mut kinds) = (false, 0);
        loop {
            let (place, is_first) = match self.store.admit(&asked, alone) {
                Admission::Hit(stored) => return reply::kept(&asked, &stored, None, name, tale),
                Admission::Nothing => {
                    let why = "It is not in memory, and nothing else was asked for (only-if-cached)";
                    return reply::refused(Refusal::new(StatusCode::GATEWAY_TIMEOUT, why), tale);
                }
                Admission::Join(place) => (place, false),
                Admission::Begin(place) => (place, true),
            };
            let Place { mut heads, begun_by, reader, fallback } = place;
            let known = heads.wait_for(Option::is_some);
            let head = match &fallback {
                None => known.await,
                Some(old) => match timeout(PATIENCE, known).await {
                    Ok(head) => head,
                    // The fetch goes on, and what comes of it is for others.
                    Err(_) => {
                        old.keep_quiet(self.store.retry_after);
                        let trouble = Trouble::Failure("no reply for a second".into());
                        return reply::kept(&asked, old, Some(trouble), name, tale);
                    }
                },
            };
            // None if the proxy stops.
            let head = head.ok().and_then(|head| head.clone());
            if let (Some(old), Some(reply)) = (&fallback, &head)
                && let Some(trouble) = Trouble::of(reply)
            {
                return reply::kept(&asked, old, Some(trouble), name, tale);
            }
            match head {
                // Everybody gets their own.
                Some(Ok(head)) if !is_first && head.usage == Use::Own => alone = true,
                // It is of another kind than what is asked for: perhaps others wait for that, too. Not for ever.
                Some(Ok(head)) if !is_first && !agree(&head.varies, &begun_by.fields, &asked.fields) => {
                    kinds += 1;
                    alone = kinds == MOST_KINDS;
                }
                Some(Ok(head)) => {
                    if !is_first {
                        tale.role = Role::Join;
                    }
                    let place = Place { reader, heads, begun_by, fallback };
                    return reply::under_way(&asked, &head, place, name, tale).await;
                }
                Some(Err(Failure { status, why })) => {
                    let why = format!("Cannot fetch {}: {why}", asked.url);
                    return reply::refused(Refusal::new(status, why), tale);
                }
                None => {
                    let why = format!("Cannot fetch {}: stopping", asked.url);
                    return reply::refused(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, why), tale);
                }
            }
        }
    }
}

/// A text from a stranger, for the log.
fn shortened(text: &str) -> String {
    const MOST: usize = 200;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", text[..end].escape_debug()),
        None => text.escape_debug().to_string(),
    }
}

impl Handler for ForwardServer {
    /// It does for clients of HTTP/1.0, if upstream does not say how long a reply is.
    const EOF_ENDS_MESSAGE: bool = true;

    /// A fetch for each request, which those who share it share; and those that wait for another one.
    const OPENS: Opens = Opens { each: 1, beside: LOOK_UP + pool::MOST };

    fn start(&self) -> io::Result<()> {
        self.store.fetches.start()
    }

    async fn serve(&self, connection: &mut Connection) -> io::Result<Ending> {
        let (peer, stop) = (connection.peer(), connection.stop());
        debug!(%peer, "Somebody at {peer} wants something forwarded!");
        // The first line tells whether this is hyper's business: a tunnel is not, nor another version of HTTP.
        let (mut ahead, until) = (BytesMut::new(), Instant::now() + http::HEAD_TIME);
        while !ahead.contains(&b'\n') && ahead.len() <= REQUEST_LINE {
            match connection.read_request(&mut ahead, Some(until.saturating_duration_since(Instant::now()))).await {
                Ok(None | Some(0)) => return Ok(Ending::Fin),
                Ok(Some(_)) => {}
                Err(error) if error.kind() == io::ErrorKind::TimedOut && ahead.is_empty() => return Ok(Ending::Fin),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return late(connection).await,
                Err(error) => return Err(error),
            }
            // An empty line before a request is none (RFC 9112, section 2.2).
            if ahead.starts_with(b"\r\n") {
                ahead.advance(2);
            }
        }
        if ahead.starts_with(b"CONNECT ") {
            return Box::pin(tunnel::serve(&self.store.way, &self.connect, connection, ahead, until)).await;
        }
        let refusal = head::request(&ahead, &mut Room::default()).err();
        if let Some(refusal) = refusal {
            let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::BAD_REQUEST);
            return refuse(connection, status, &sentence(&refusal.to_string())).await;
        }
        http::serve(connection, ahead, IDLE_TIME, |request| {
            let is_closing = stop.is_closing();
            async move {
                let mut response = self.answer(request, peer).await;
                if is_closing {
                    response.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
                }
                response
            }
        })
        .await
    }
}

async fn late(connection: &Connection) -> io::Result<Ending> {
    refuse(connection, StatusCode::REQUEST_TIMEOUT, "The head of the request is not whole after 10 s").await
}

/// Sends a reply of one line to what hyper has not seen, after which nothing follows.
async fn refuse(connection: &Connection, status: StatusCode, why: &str) -> io::Result<Ending> {
    let peer = connection.peer();
    info!(%peer, status = status.as_u16(), "ERROR {peer}: {}: {why}", status.as_u16());
    let reason = status.canonical_reason().unwrap_or_default();
    let head = format!(
        "HTTP/1.1 {} {reason}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        status.as_u16(),
        why.len() + 1
    );
    connection.send_all(format!("{head}{why}\n").as_bytes()).await?;
    Ok(Ending::Fin)
}

/// With a capital letter, as the other replies.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
