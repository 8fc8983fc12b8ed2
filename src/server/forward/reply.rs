//! What a client of a forward proxy gets: a head of upstream's or of our own, and a body from memory, or as it arrives.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use hyper::body::{self, Frame, SizeHint};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Response, StatusCode};
use tokio_util::bytes::Bytes;
use tracing::info;

use super::Why;
use super::asked::{Asked, Refusal};
use super::store::{Failure, Place, Stored};
use super::upstream::Head;
use crate::cache::flight::{Readable, Reader};
use crate::cache::memory::Kept;
use crate::cache::patience::PATIENCE;
use crate::net::Peer;
use crate::proto::http::fresh::is_error;
use crate::units::{count, human, micros};

/// RFC 9211.
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// Bytes that are taken out of a fetch at once.
const PIECE: usize = 64 * 1024;

/// How a request was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Hit,
    Miss,
    Join,
    /// From memory, where it was too old: it is still good, as upstream has said, or upstream has not said anything better.
    Stale,
    Bypass,
    /// By the proxy itself: a refusal, or a failure.
    Error,
}

impl Role {
    pub(super) const ALL: [Self; 6] = [Self::Hit, Self::Miss, Self::Join, Self::Stale, Self::Bypass, Self::Error];

    /// The word for it in metrics.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Join => "join",
            Self::Stale => "stale",
            Self::Bypass => "bypass",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hit => "HIT",
            Self::Miss => "MISS",
            Self::Join => "JOIN",
            Self::Stale => "STALE",
            Self::Bypass => "BYPASS",
            Self::Error => "ERROR",
        })
    }
}

/// The line about a request, which is told when its reply is over.
#[derive(Debug)]
pub(super) struct Tale {
    pub(super) peer: Peer,
    pub(super) since: Instant,
    pub(super) what: String,
    pub(super) role: Role,
    /// Once it is known.
    pub(super) status: Option<StatusCode>,
    pub(super) answers: Arc<[AtomicU64; Role::ALL.len()]>,
    pub(super) aborts: Arc<AtomicU64>,
    bytes: u64,
    /// How many shared the fetch.
    joined: u64,
    is_whole: bool,
    why: Option<String>,
}

impl Tale {
    pub(super) fn new(
        peer: Peer,
        what: String,
        answers: &Arc<[AtomicU64; Role::ALL.len()]>,
        aborts: &Arc<AtomicU64>,
    ) -> Self {
        let (answers, aborts) = (Arc::clone(answers), Arc::clone(aborts));
        let (role, status, since) = (Role::Error, None, Instant::now());
        Self { peer, since, what, role, status, answers, aborts, bytes: 0, joined: 0, is_whole: false, why: None }
    }
}

impl Drop for Tale {
    fn drop(&mut self) {
        let Self { peer, what, role, bytes, joined, .. } = &*self;
        self.answers[*role as usize].fetch_add(1, Relaxed);
        if !self.is_whole {
            self.aborts.fetch_add(1, Relaxed);
        }
        if !tracing::enabled!(tracing::Level::INFO) {
            return;
        }
        let (elapsed_us, time, sent) =
            (micros(self.since.elapsed()), human(self.since.elapsed()), count(*bytes, "byte"));
        let status = self.status.map_or(0, |status| status.as_u16());
        let said = if status == 0 { String::new() } else { format!("{status}, ") };
        let shared = if *joined > 0 { format!("; {joined} shared the fetch") } else { String::new() };
        let why = match (&self.why, self.is_whole) {
            (Some(why), _) => format!(": {why}"),
            (None, false) => ": the client has left".to_owned(),
            (None, true) => String::new(),
        };
        info!(%peer, status, bytes, elapsed_us, joined, "{role} {peer}: {what}: {said}{sent} in {time}{shared}{why}");
    }
}

/// The body of a reply.
pub(super) struct Content {
    source: Source,
    /// Bytes that are still to come, if that is known.
    left: Option<u64>,
    tale: Tale,
}

enum Source {
    /// Nothing more.
    Empty,
    Whole(Bytes),
    Flight(Waiting),
}

/// A reader, and what has come for it.
type Waiting = Pin<Box<dyn Future<Output = (Reader<Why>, Readable<Why>)> + Send>>;

fn wait(reader: Reader<Why>) -> Waiting {
    Box::pin(async move {
        let readable = reader.next().await;
        (reader, readable)
    })
}

/// Waits until all has come, and been put where others find it.
fn wait_for_end(reader: Reader<Why>) -> Waiting {
    Box::pin(async move {
        reader.ended().await;
        let readable = reader.next().await;
        (reader, readable)
    })
}

impl Content {
    fn new(source: Source, left: Option<u64>, mut tale: Tale) -> Self {
        tale.is_whole = left == Some(0);
        Self { source, left, tale }
    }

    fn took(&mut self, bytes: Bytes) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.tale.bytes += bytes.len() as u64;
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(bytes.len() as u64);
            // Nobody asks for more than was said to come.
            self.tale.is_whole = *left == 0;
        }
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn broke(&mut self, why: String) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.source = Source::Empty;
        self.tale.why = Some(why.clone());
        Poll::Ready(Some(Err(io::Error::other(why))))
    }
}

impl body::Body for Content {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let (reader, readable) = match &mut self.source {
            Source::Empty => return Poll::Ready(None),
            Source::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                self.source = Source::Empty;
                return self.took(bytes);
            }
            Source::Flight(waiting) => ready!(waiting.as_mut().poll(context)),
        };
        self.tale.joined = reader.joined().saturating_sub(1);
        match readable {
            Readable::Bytes => {
                let (left, mut piece) = (self.left, None);
                // Whoever has all of a reply may ask again at once, and must not find an older one: the last piece waits
                // until the reply is in memory, which is next.
                let is_last = |bytes: &[u8]| left == Some(bytes.len() as u64) && bytes.len() <= PIECE;
                let take = |bytes: &[u8], has_landed: bool| {
                    if has_landed || !is_last(bytes) {
                        piece = Some(Bytes::copy_from_slice(&bytes[..bytes.len().min(PIECE)]));
                    }
                    Ok::<_, std::convert::Infallible>(piece.as_ref().map_or(0, Bytes::len))
                };
                let _ = reader.take(take);
                match piece {
                    Some(piece) => {
                        self.source = Source::Flight(wait(reader));
                        self.took(piece)
                    }
                    None => {
                        self.source = Source::Flight(wait_for_end(reader));
                        self.poll_frame(context)
                    }
                }
            }
            Readable::End => {
                self.source = Source::Empty;
                if self.left.is_some_and(|left| left > 0) {
                    return self.broke("upstream: it breaks off".to_owned());
                }
                self.tale.is_whole = true;
                Poll::Ready(None)
            }
            Readable::Failed(why) => {
                let why = why.unwrap_or_else(|| "stopping".into());
                self.broke(format!("upstream: {why}"))
            }
            Readable::LetGo => {
                let patience = humantime::format_duration(PATIENCE);
                self.broke(format!("too slow: others had to wait for it for {patience}"))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.source, Source::Empty)
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Content").field("left", &self.left).field("tale", &self.tale).finish_non_exhaustive()
    }
}

/// Upstream's head, as a client gets it.
fn forwarded(head: &Head, name: &str, cache_status: &str, content: Content) -> Response<Content> {
    let mut response = Response::new(content);
    *response.status_mut() = head.status;
    let fields = response.headers_mut();
    fields.clone_from(&head.fields);
    for (field, text) in [(header::VIA, format!("1.1 {name}")), (CACHE_STATUS, format!("poetry-proxy; {cache_status}"))]
    {
        if let Ok(value) = HeaderValue::try_from(text) {
            fields.append(field, value);
        }
    }
    response
}

fn has_no_body(asked: &Asked, status: StatusCode) -> bool {
    asked.method == Method::HEAD || matches!(status.as_u16(), 204 | 304)
}

/// What is worse than an old reply (RFC 5861, section 4).
pub(super) enum Trouble {
    /// An error of upstream's.
    Status(StatusCode),
    /// Upstream has not replied.
    Failure(Why),
}

impl Trouble {
    /// What is wrong with this reply, if anything is.
    pub(super) fn of(reply: &Result<Arc<Head>, Failure>) -> Option<Self> {
        match reply {
            Ok(head) => is_error(head.status.as_u16()).then_some(Self::Status(head.status)),
            Err(failure) => Some(Self::Failure(Arc::clone(&failure.why))),
        }
    }
}

/// A reply from memory; in place of an error, if there was one.
pub(super) fn kept(
    asked: &Asked,
    stored: &Arc<Stored>,
    instead_of: Option<Trouble>,
    name: &str,
    mut tale: Tale,
) -> Response<Content> {
    struct Body(Kept);
    impl AsRef<[u8]> for Body {
        fn as_ref(&self) -> &[u8] {
            self.0.bytes()
        }
    }
    let Stored { head, body, .. } = &**stored;
    let is_fresh = !stored.time_left().is_zero();
    (tale.role, tale.status) = (if is_fresh { Role::Hit } else { Role::Stale }, Some(head.status));
    let length = body.bytes().len() as u64;
    let (source, left) = match has_no_body(asked, head.status) || length == 0 {
        true => (Source::Empty, 0),
        false => (Source::Whole(Bytes::from_owner(Body(body.clone()))), length),
    };
    let ttl = match is_fresh {
        true => stored.time_left().as_secs().to_string(),
        false => format!("-{}", stored.overdue().as_secs()),
    };
    let cache_status = match &instead_of {
        None => format!("hit; ttl={ttl}"),
        Some(Trouble::Status(status)) => format!("fwd=stale; fwd-status={}; ttl={ttl}", status.as_u16()),
        Some(Trouble::Failure(_)) => format!("fwd=stale; ttl={ttl}"),
    };
    tale.why = instead_of.map(|trouble| match trouble {
        Trouble::Status(status) => format!("instead of {}", status.as_u16()),
        Trouble::Failure(why) => format!("instead of an error: {why}"),
    });
    let mut response = forwarded(head, name, &cache_status, Content::new(source, Some(left), tale));
    let fields = response.headers_mut();
    fields.insert(header::AGE, stored.age().as_secs().into());
    if !matches!(head.status.as_u16(), 204 | 304) {
        fields.insert(header::CONTENT_LENGTH, length.into());
    }
    response
}

/// A reply that is under way.
pub(super) async fn under_way(
    asked: &Asked,
    head: &Head,
    place: Place,
    name: &str,
    mut tale: Tale,
) -> Response<Content> {
    tale.status = Some(head.status);
    if head.is_renewed {
        tale.role = Role::Stale;
    }
    let is_empty = has_no_body(asked, head.status) || head.length == Some(0);
    if is_empty {
        // The head is all of it: as for the last piece of others.
        place.reader.ended().await;
    }
    let (source, left) = match is_empty {
        true => (Source::Empty, Some(0)),
        false => (Source::Flight(wait(place.reader)), head.length),
    };
    let cache_status = match tale.role {
        _ if head.is_renewed => "fwd=stale; fwd-status=304",
        Role::Join => "fwd=uri-miss; collapsed",
        Role::Bypass if asked.method == Method::HEAD => "fwd=method",
        Role::Bypass => "fwd=bypass",
        _ => "fwd=uri-miss",
    };
    let mut response = forwarded(head, name, cache_status, Content::new(source, left, tale));
    if let Some(length) = head.length.filter(|_| !matches!(head.status.as_u16(), 204 | 304)) {
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
    response
}

/// A reply of the proxy's own: one line of text.
pub(super) fn refused(refusal: Refusal, mut tale: Tale) -> Response<Content> {
    let Refusal { status, why, is_last } = refusal;
    (tale.role, tale.status) = (Role::Error, Some(status));
    tale.why = Some(why.clone());
    let text = Bytes::from(why + "\n");
    let length = text.len() as u64;
    let mut response = Response::new(Content::new(Source::Whole(text), Some(length), tale));
    *response.status_mut() = status;
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    fields.insert(header::CONTENT_LENGTH, length.into());
    if is_last {
        fields.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
