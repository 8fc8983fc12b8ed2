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
use crate::proto::http::fields::Fields;
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
    tell: impl FnOnce(Head),
) -> Result<(), FetchError> {
    let fetched = async {
        writer.claim(way.within(memory.begin(), FetchError::Memory).await?);
        let request = request(asked, known, &way.name);
        let mut arrived = BytesMut::with_capacity(PIECE.max(CLIENT_HEAD));
        let mut upstream = way.ask(asked.url.address(), &request, &mut arrived).await?;
        if converse(way, asked, known, &mut upstream, &mut arrived, writer, tell).await? && !asked.claims_connection() {
            way.pool.put(asked.url.address(), upstream);
        } else {
            upstream.close();
        }
        Ok(())
    };
    tokio::select! {
        result = fetched => result,
        () = writer.abandoned() => Err(FetchError::Abandoned),
    }
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

/// Hands on the reply of which the first bytes have arrived, and tells whether the connection can be used again.
async fn converse(
    way: &Way,
    asked: &Asked,
    known: Option<&Known>,
    stream: &mut TcpStream,
    arrived: &mut BytesMut,
    writer: &Writer<Why>,
    tell: impl FnOnce(Head),
) -> Result<bool, FetchError> {
    let (body, is_kept) = read_head(way, asked, known, stream, arrived, tell).await?;
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
        if way.within(stream.read_buf(arrived), FetchError::Silent).await?? == 0 {
            decoder.end_of_stream()?;
            return Ok(false);
        }
    }
}

async fn hand_on(bytes: &[u8], writer: &Writer<Why>) -> Result<(), FetchError> {
    for piece in bytes.chunks(PIECE) {
        if !writer.append(piece).await {
            return Err(FetchError::Abandoned);
        }
    }
    Ok(())
}

/// Where the body of a reply comes from.
enum Body {
    Arrives(Framing),
    IsKnown(Kept),
}

/// Reads up to the end of the head, and hands it on. Tells, too, whether the connection lives on after this reply.
async fn read_head(
    way: &Way,
    asked: &Asked,
    known: Option<&Known>,
    stream: &mut TcpStream,
    arrived: &mut BytesMut,
    tell: impl FnOnce(Head),
) -> Result<(Body, bool), FetchError> {
    let mut interim = 0;
    loop {
        let mut room = Room::default();
        if let Some(reply) = head::response(arrived, &mut room)? {
            let (length, status) = (reply.len, reply.status);
            if (100..200).contains(&status) {
                interim += 1;
                // No protocol but this one was asked for.
                if interim > INTERIM_REPLIES || status == 101 {
                    return Err(FetchError::Interim);
                }
                arrived.advance(length);
                continue;
            }
            let is_kept = reply.keeps_connection();
            let framing = framing::of_response(asked.method.as_str(), status, reply.version, &reply.fields)?;
            if let (304, Some(Known { head, body })) = (status, known) {
                tell(head.renewed(&reply.fields, body, &way.habits));
                arrived.advance(length);
                return Ok((Body::IsKnown(body.clone()), is_kept));
            }
            tell(Head::of(status, &reply.fields, framing, asked, &way.habits));
            arrived.advance(length);
            return Ok((Body::Arrives(framing), is_kept));
        }
        // There is room for a head, unless others came before it.
        arrived.reserve(1);
        if way.within(stream.read_buf(arrived), FetchError::Silent).await?? == 0 {
            return Err(FetchError::Nothing);
        }
    }
}

impl Head {
    fn of(status: u16, fields: &Fields<'_>, framing: Framing, asked: &Asked, habits: &Habits) -> Self {
        // Of a body that is not sent, the length is as it was said; of others we say it ourselves.
        let passed_on = end_to_end(fields, asked.method == Method::HEAD);
        let length = match framing {
            Framing::Length(length) => Some(length),
            Framing::None if asked.method != Method::HEAD => Some(0),
            Framing::None | Framing::Chunked | Framing::UntilClose => None,
        };
        Self {
            status: StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY),
            usage: Use::of(status, &passed_on, SystemTime::now(), habits),
            varies: varies_by(&passed_on),
            fields: passed_on,
            length,
            since: Instant::now(),
            is_renewed: false,
        }
    }

    /// As it is after upstream has said, with these fields, that it is still good (RFC 9111, section 4.3.4).
    fn renewed(&self, said: &Fields<'_>, body: &Kept, habits: &Habits) -> Self {
        let mut fields = self.fields.clone();
        let is_new = end_to_end(said, false);
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
            usage: Use::of(self.status.as_u16(), &fields, SystemTime::now(), habits),
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
        let of = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 64;
        self.fields.iter().map(of).sum::<usize>() + size_of::<Self>()
    }
}

/// Fields of a reply that are for clients, too.
fn end_to_end(fields: &Fields<'_>, with_length: bool) -> HeaderMap {
    let field = |(name, value): (&str, &[u8])| {
        Some((name.parse::<HeaderName>().ok()?, HeaderValue::from_bytes(&unfolded(value)).ok()?))
    };
    let is_passed_on = |(name, _): &(&str, &[u8])| {
        !fields.is_hop_by_hop(name) && (with_length || !name.eq_ignore_ascii_case("content-length"))
    };
    fields.iter().filter(is_passed_on).filter_map(field).collect()
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
    for (field, value) in fields.iter().filter(|(field, _)| !is_hop_by_hop(fields, field)) {
        if matches!(*field, header::HOST | header::CONTENT_LENGTH | header::EXPECT) {
            continue;
        }
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

fn is_hop_by_hop(fields: &HeaderMap, name: &HeaderName) -> bool {
    use crate::proto::http::fields::HOP_BY_HOP;
    let named = || {
        let lists = fields.get_all(header::CONNECTION).iter().filter_map(|list| list.to_str().ok());
        lists.flat_map(|list| list.split(',')).any(|word| word.trim().eq_ignore_ascii_case(name.as_str()))
    };
    HOP_BY_HOP.contains(&name.as_str()) || named()
}
