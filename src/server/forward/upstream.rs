//! The upstream half of a forward proxy: a request and its reply, on a connection that others may use afterwards. Here the truth about a reply is found out:
//! whether it is whole, and who says so.

use std::future::Future;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::bytes::{Buf, BytesMut};

use super::Why;
use super::asked::Asked;
use super::pool::Pool;
use super::reach::Reach;
use crate::address::Address;
use crate::cache::flight::Writer;
use crate::cache::memory::{Kept, Memory, PIECE};
use crate::errors::reason;
use crate::net::dial::{DialError, Route, dial_by};
use crate::net::relay::Upstream;
use crate::proto::http::fields::{Fields, date};
use crate::proto::http::framing::{self, Decoder, Fault, Framing, Piece, Truncated};
use crate::proto::http::fresh::{Habits, Use, varies_by};
use crate::proto::http::head::{self, BadResponse, Room};
use crate::proto::http::{CLIENT_HEAD, INTERIM_REPLIES};

/// The head of a reply, without what was for the connection to upstream only.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: StatusCode,
    pub(super) fields: HeaderMap,
    /// Bytes of the body, if they are known.
    pub(super) length: Option<u64>,
    pub(super) usage: Use,
    /// The fields of requests by which it varies.
    pub(super) varies: Vec<HeaderName>,
    /// When it came.
    pub(super) since: Instant,
    /// Whether it was in memory, and upstream has said that it is still good.
    pub(super) is_renewed: bool,
}

/// Why there is no reply, or not all of it.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("{0}")]
    Dial(#[from] DialError),
    #[error("{}", reason(.0))]
    Io(#[from] io::Error),
    #[error("no byte for {}", humantime::format_duration(*.0))]
    Silent(Duration),
    #[error("no memory for {}: what is under way takes all of it", humantime::format_duration(*.0))]
    Memory(Duration),
    #[error("{0}")]
    Head(#[from] BadResponse),
    #[error("{0}")]
    Framing(#[from] Fault),
    #[error("it breaks off: {0}")]
    Truncated(#[from] Truncated),
    #[error("no reply before the end of the stream")]
    Nothing,
    #[error("more than {INTERIM_REPLIES} interim replies")]
    Interim,
    #[error("it changes to another protocol, for which nobody has asked")]
    Unasked,
    #[error("what it says is still good is another one")]
    Another,
    #[error("nobody wants it any more")]
    Abandoned,
}

impl FetchError {
    /// What a client gets that has nothing yet.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Dial(DialError::Itself) => StatusCode::LOOP_DETECTED,
            Self::Dial(DialError::Forbidden) => StatusCode::FORBIDDEN,
            Self::Dial(DialError::Timeout(_)) | Self::Silent(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::Memory(_) | Self::Dial(DialError::Socket(_) | DialError::Thread(_)) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            _ => StatusCode::BAD_GATEWAY,
        }
    }
}

/// How upstreams are reached.
#[derive(Debug)]
pub(super) struct Way {
    /// For a connection, and for each next byte. `None`: for ever.
    pub(super) limit: Option<Duration>,
    /// Whom it may connect to, and where it listens itself; once it does.
    pub(super) place: OnceLock<(Reach, Vec<SocketAddr>)>,
    /// What it calls itself in `Via`.
    pub(super) name: String,
    /// What is done with replies that say nothing about it.
    pub(super) habits: Habits,
    pub(super) pool: Arc<Pool>,
}

impl Way {
    pub(super) fn route(&self) -> Route<'_> {
        let (reach, doors) = self.place.get().map_or((Reach::Public, &[][..]), |(reach, doors)| (*reach, &doors[..]));
        Route { after: None, doors, may: Some(reach.rule()) }
    }

    async fn within<T>(
        &self,
        work: impl Future<Output = T>,
        late: fn(Duration) -> FetchError,
    ) -> Result<T, FetchError> {
        match self.limit {
            None => Ok(work.await),
            Some(limit) => timeout(limit, work).await.map_err(|_| late(limit)),
        }
    }
}

/// A reply in memory that was good once, and what to ask upstream whether it still is.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) head: Arc<Head>,
    pub(super) body: Kept,
}

/// Asks upstream, hands on the head and then the body, as they arrive; or those of the reply that is known, if upstream says
/// that it is still good. When nobody waits for it any more, it ends at once.
pub(super) async fn fetch(
    way: &Way,
    asked: &Asked,
    known: Option<&Known>,
    memory: &Memory,
    writer: &Writer<Why>,
    tell: impl Fn(Head),
) -> Result<(), FetchError> {
    let fetched = async {
        writer.claim(way.within(memory.begin(), FetchError::Memory).await?);
        match fetch_once(way, asked, known, writer, &tell).await {
            // Nothing is told yet: it is fetched as if nothing were known (RFC 9111, section 4.3.4).
            Err(FetchError::Another) => fetch_once(way, asked, None, writer, &tell).await,
            result => result,
        }
    };
    tokio::select! {
        result = fetched => result,
        () = writer.abandoned() => Err(FetchError::Abandoned),
    }
}

async fn fetch_once(
    way: &Way,
    asked: &Asked,
    known: Option<&Known>,
    writer: &Writer<Why>,
    tell: &impl Fn(Head),
) -> Result<(), FetchError> {
    let (request, since) = (request(asked, known, &way.name), Instant::now());
    let mut arrived = BytesMut::with_capacity(PIECE.max(CLIENT_HEAD));
    let mut upstream = way.ask(asked.url.address(), &request, &mut arrived).await?;
    let exchange = Exchange { way, asked, known, since };
    if exchange.converse(&mut upstream, &mut arrived, writer, tell).await? && !asked.claims_connection() {
        way.pool.put(asked.url.address(), upstream);
    } else {
        upstream.close();
    }
    Ok(())
}

impl Way {
    /// Sends a request, and waits for the first bytes of the reply: on a connection that waits for one, or else on a new one.
    async fn ask(&self, to: &Address, request: &[u8], arrived: &mut BytesMut) -> Result<Upstream, FetchError> {
        if let Some(mut kept) = self.pool.take(to) {
            match self.ask_on(&mut kept, request, arrived).await {
                Ok(()) => return Ok(kept),
                // It was closed at that moment. To ask again does no harm (RFC 9110, section 9.2.2).
                Err(FetchError::Io(_) | FetchError::Nothing) => {}
                Err(error) => return Err(error),
            }
        }
        let (stream, _) = dial_by(to, self.limit, self.route()).await?;
        // A server that reads to the end of the stream would take an early one for a half-close, and go on for nobody.
        let mut upstream = Upstream::new(stream);
        self.ask_on(&mut upstream, request, arrived).await?;
        Ok(upstream)
    }

    async fn ask_on(&self, on: &mut TcpStream, request: &[u8], arrived: &mut BytesMut) -> Result<(), FetchError> {
        self.within(on.write_all(request), FetchError::Silent).await??;
        match self.within(on.read_buf(arrived), FetchError::Silent).await?? {
            0 => Err(FetchError::Nothing),
            _ => Ok(()),
        }
    }
}

/// One request and its reply.
#[derive(Clone, Copy)]
struct Exchange<'a> {
    way: &'a Way,
    asked: &'a Asked,
    known: Option<&'a Known>,
    /// When it was begun.
    since: Instant,
}

impl Exchange<'_> {
    /// Hands on the reply of which the first bytes have arrived, and tells whether the connection can be used again.
    async fn converse(
        &self,
        stream: &mut TcpStream,
        arrived: &mut BytesMut,
        writer: &Writer<Why>,
        tell: &impl Fn(Head),
    ) -> Result<bool, FetchError> {
        let (body, is_kept) = self.read_head(stream, arrived, tell).await?;
        let framing = match body {
            Body::Arrives(framing) => framing,
            Body::IsKnown(body) => {
                hand_on(body.bytes(), writer).await?;
                return Ok(is_kept && arrived.is_empty());
            }
        };
        let mut decoder = Decoder::new(framing);
        loop {
            let mut rest = &arrived[..];
            loop {
                match decoder.next(&mut rest)? {
                    Piece::Body(bytes) => hand_on(bytes, writer).await?,
                    Piece::More => break,
                    // What follows was not asked for.
                    Piece::End => return Ok(is_kept && rest.is_empty()),
                }
            }
            arrived.clear();
            if self.way.within(stream.read_buf(arrived), FetchError::Silent).await?? == 0 {
                decoder.end_of_stream()?;
                return Ok(false);
            }
        }
    }

    /// Reads up to the end of the head, and hands it on. Tells, too, whether the connection lives on after this reply.
    async fn read_head(
        &self,
        stream: &mut TcpStream,
        arrived: &mut BytesMut,
        tell: &impl Fn(Head),
    ) -> Result<(Body, bool), FetchError> {
        let mut interim = 0;
        loop {
            let mut room = Room::default();
            if let Some(reply) = head::response(arrived, &mut room)? {
                let (length, status) = (reply.len, reply.status);
                if (100..200).contains(&status) {
                    interim += 1;
                    if status == 101 {
                        return Err(FetchError::Unasked);
                    }
                    if interim > INTERIM_REPLIES {
                        return Err(FetchError::Interim);
                    }
                    arrived.advance(length);
                    continue;
                }
                let is_kept = reply.keeps_connection();
                let framing = framing::of_response(self.asked.method.as_str(), status, reply.version, &reply.fields)?;
                let body = match (status, self.known) {
                    (304, Some(known)) if !known.head.is_of(&reply.fields) => return Err(FetchError::Another),
                    (304, Some(known)) => {
                        tell(known.head.renewed(&reply.fields, &known.body, self));
                        Body::IsKnown(known.body.clone())
                    }
                    _ => {
                        tell(Head::of(status, &reply, framing, self)?);
                        Body::Arrives(framing)
                    }
                };
                arrived.advance(length);
                return Ok((body, is_kept));
            }
            // There is room for a head, unless others came before it.
            arrived.reserve(1);
            if self.way.within(stream.read_buf(arrived), FetchError::Silent).await?? == 0 {
                return Err(FetchError::Nothing);
            }
        }
    }

    /// What may be done with a reply that came now.
    fn usage(&self, status: u16, said: &HeaderMap) -> Use {
        Use::of(status, said, SystemTime::now(), self.since.elapsed(), &self.way.habits)
    }
}

/// Where the body of a reply comes from.
enum Body {
    Arrives(Framing),
    IsKnown(Kept),
}

async fn hand_on(bytes: &[u8], writer: &Writer<Why>) -> Result<(), FetchError> {
    for piece in bytes.chunks(PIECE) {
        if !writer.append(piece).await {
            return Err(FetchError::Abandoned);
        }
    }
    Ok(())
}

impl Head {
    fn of(status: u16, reply: &head::Response<'_>, framing: Framing, exchange: &Exchange<'_>) -> Result<Self, Fault> {
        let (fields, is_head) = (&reply.fields, exchange.asked.method == Method::HEAD);
        let length = match framing {
            Framing::Length(length) => Some(length),
            // What the body would have, had it been asked for. It is passed on, so it has to make sense.
            Framing::None if is_head && status != 304 => {
                match framing::of_response("GET", status, reply.version, fields)? {
                    Framing::Length(length) => Some(length),
                    Framing::None | Framing::Chunked | Framing::UntilClose => None,
                }
            }
            Framing::None if !is_head => Some(0),
            Framing::None | Framing::Chunked | Framing::UntilClose => None,
        };
        // Judged by all that it says, also if that is for this connection only.
        let said = collected(fields, |_| true);
        let mut passed_on = end_to_end(fields);
        if !passed_on.contains_key(header::DATE)
            && let Ok(now) = HeaderValue::try_from(date(SystemTime::now()))
        {
            // When it was received (RFC 9110, section 6.6.1).
            passed_on.insert(header::DATE, now);
        }
        Ok(Self {
            status: StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY),
            usage: exchange.usage(status, &said),
            varies: varies_by(&said),
            fields: passed_on,
            length,
            since: Instant::now(),
            is_renewed: false,
        })
    }

    /// Whether what a 304 says is about this reply, and not about another one (RFC 9111, section 4.3.4).
    fn is_of(&self, said: &Fields<'_>) -> bool {
        let agrees = |name: &str| match (said.get(name), self.fields.get(name)) {
            (Some(said), Some(its)) => said == its.as_bytes(),
            // It says less than the reply did, or has nothing to be compared with.
            (None, _) | (Some(_), None) => true,
        };
        agrees("etag") && (said.get("etag").is_some() || agrees("last-modified"))
    }

    /// As it is after upstream has said, with these fields, that it is still good (RFC 9111, section 4.3.4).
    fn renewed(&self, said: &Fields<'_>, body: &Kept, exchange: &Exchange<'_>) -> Self {
        let mut fields = self.fields.clone();
        let is_new = end_to_end(said);
        for name in is_new.keys() {
            fields.remove(name);
        }
        // How old it was then does not count any more.
        if !is_new.contains_key(header::AGE) {
            fields.remove(header::AGE);
        }
        for (name, value) in &is_new {
            fields.append(name.clone(), value.clone());
        }
        Self {
            status: self.status,
            usage: exchange.usage(self.status.as_u16(), &fields),
            varies: varies_by(&fields),
            fields,
            length: Some(body.bytes().len() as u64),
            since: Instant::now(),
            is_renewed: true,
        }
    }

    /// What upstream can be asked by whether it is still good: a field of a request, and its value.
    pub(super) fn condition(&self) -> Option<(HeaderName, &HeaderValue)> {
        let by = |name: HeaderName, its: HeaderName| Some((name, self.fields.get(its)?));
        by(header::IF_NONE_MATCH, header::ETAG).or_else(|| by(header::IF_MODIFIED_SINCE, header::LAST_MODIFIED))
    }

    /// Bytes that it takes in memory, roughly.
    pub(super) fn weight(&self) -> usize {
        weight(&self.fields) + size_of::<Self>()
    }
}

/// Bytes that these take in memory, roughly.
pub(super) fn weight(fields: &HeaderMap) -> usize {
    fields.iter().map(|(name, value)| name.as_str().len() + value.len() + 64).sum()
}

/// Fields of a reply that are for clients, too. How long its body is the proxy says itself.
fn end_to_end(fields: &Fields<'_>) -> HeaderMap {
    collected(fields, |name| !fields.is_hop_by_hop(name) && !name.eq_ignore_ascii_case("content-length"))
}

fn collected(fields: &Fields<'_>, is_wanted: impl Fn(&str) -> bool) -> HeaderMap {
    let field = |(name, value): (&str, &[u8])| {
        Some((name.parse::<HeaderName>().ok()?, HeaderValue::from_bytes(&unfolded(value)).ok()?))
    };
    fields.iter().filter(|(name, _)| is_wanted(name)).filter_map(field).collect()
}

/// A value in one line (RFC 9112, section 5.2).
fn unfolded(value: &[u8]) -> Vec<u8> {
    if !value.contains(&b'\n') {
        return value.to_vec();
    }
    let lines: Vec<&[u8]> = value.split(|byte| b"\r\n".contains(byte)).map(<[u8]>::trim_ascii).collect();
    lines.into_iter().filter(|line| !line.is_empty()).collect::<Vec<_>>().join(&b' ')
}

/// The request as upstream gets it: Host from the target (RFC 9112, section 3.2.2), and nothing of the connection that it
/// came by.
fn request(asked: &Asked, known: Option<&Known>, name: &str) -> Vec<u8> {
    let Asked { method, url, fields, .. } = asked;
    let mut head = Vec::with_capacity(512);
    // Writing to memory cannot fail.
    let _ = write!(head, "{method} {} HTTP/1.1\r\nHost: {}\r\n", url.path(), url.authority());
    for (field, value) in fields {
        head.extend_from_slice(field.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    if let Some((field, value)) = known.and_then(|known| known.head.condition()) {
        let _ = write!(head, "{field}: ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    let _ = write!(head, "Via: 1.1 {name}\r\n");
    if asked.claims_connection() {
        head.extend_from_slice(b"Connection: close\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}
