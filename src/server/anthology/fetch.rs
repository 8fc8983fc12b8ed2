//! The fetch of a source: one connection, or one for each redirect, and no byte more than it may have.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use hyper::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_util::bytes::{Buf, BytesMut};

use super::media::Media;
use super::quote::quoted;
use super::record::Log;
use super::source::{Limits, Place, Source};
use super::trouble::Trouble;
use crate::address::Address;
use crate::net::dial::{Route, dial_by};
use crate::net::relay::Upstream;
use crate::proto::http::INTERIM_REPLIES;
use crate::proto::http::framing::{self, Decoder, Framing, Piece};
use crate::proto::http::head::{self, Response, Room};
use crate::proto::http::target::Url;

/// The most redirects of a source, all of them on its host.
pub(super) const REDIRECTS: usize = 3;

/// Who asks.
const USER_AGENT: &str = concat!("poetry-anthology/", env!("CARGO_PKG_VERSION"));

/// The most bytes of one read.
const READ: usize = 16 << 10;

/// What has come from a source.
#[derive(Debug)]
pub(super) struct Got {
    pub(super) bytes: Vec<u8>,
    /// What its server says that this is.
    pub(super) media: Option<Media>,
}

/// Fetches a source, if it does not lead back to one of these doors, and writes down what happens when.
///
/// # Errors
/// There is nothing to be shown, or not all of it.
pub(super) async fn fetch(source: &Source, doors: &[SocketAddr], log: &Log) -> Result<Got, Trouble> {
    let limit = source.limits.timeout;
    let exchange = Exchange { limits: source.limits, doors, log };
    let fetched = async {
        match &source.place {
            Place::Poem(address) => exchange.poem(address).await,
            Place::Http(url) => exchange.http(url).await,
        }
    };
    timeout(limit, fetched).await.unwrap_or_else(|_| Err(Trouble::Slow { limit, after: log.bytes() }))
}

/// What is the same for all requests of a fetch.
struct Exchange<'a> {
    limits: Limits,
    doors: &'a [SocketAddr],
    log: &'a Log,
}

/// What a request has led to.
enum Reply {
    Here(Got),
    /// To be asked for instead.
    Moved(Url),
}

impl Exchange<'_> {
    async fn poem(&self, address: &Address) -> Result<Got, Trouble> {
        let mut upstream = self.connect(address).await?;
        let bytes = self.body(&mut upstream, BytesMut::with_capacity(READ), Framing::UntilClose).await?;
        upstream.close();
        Ok(Got { bytes, media: None })
    }

    async fn http(&self, url: &Url) -> Result<Got, Trouble> {
        let mut url = url.clone();
        for _ in 0..=REDIRECTS {
            match self.ask(&url).await? {
                Reply::Here(got) => return Ok(got),
                Reply::Moved(to) => url = to,
            }
        }
        Err(Trouble::Redirects(REDIRECTS))
    }

    async fn connect(&self, address: &Address) -> Result<Upstream, Trouble> {
        let route = Route { doors: self.doors, ..Route::default() };
        let (stream, _) = dial_by(address, Some(self.limits.idle_timeout), route).await?;
        self.log.connected();
        Ok(Upstream::new(stream))
    }

    async fn ask(&self, url: &Url) -> Result<Reply, Trouble> {
        let mut upstream = self.connect(url.address()).await?;
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: {USER_AGENT}\r\nAccept: */*\r\nAccept-Encoding: identity\r\n\
             Connection: close\r\n\r\n",
            url.path(),
            url.authority()
        );
        let sent = self.in_time(upstream.write_all(request.as_bytes())).await?;
        sent.map_err(|error| Trouble::broken(error, 0))?;
        let (mut arrived, mut interim) = (BytesMut::with_capacity(READ), 0);
        let (framing, media) = loop {
            let mut room = Room::default();
            let Some(reply) = head::response(&arrived, &mut room)? else {
                if self.read(&mut upstream, &mut arrived).await? == 0 {
                    return Err(Trouble::NoReply);
                }
                self.log.read(0);
                continue;
            };
            let length = reply.len;
            if (100..200).contains(&reply.status) && reply.status != 101 {
                interim += 1;
                if interim > INTERIM_REPLIES {
                    return Err(Trouble::Interim);
                }
                arrived.advance(length);
                continue;
            }
            if let Some(to) = moved(url, &reply)? {
                upstream.close();
                return Ok(Reply::Moved(to));
            }
            let framing = self.judge(&reply)?;
            let media = reply.fields.get("content-type").and_then(Media::of);
            arrived.advance(length);
            break (framing, media);
        };
        let bytes = self.body(&mut upstream, arrived, framing).await?;
        upstream.close();
        Ok(Reply::Here(Got { bytes, media }))
    }

    /// Who says where the body of a reply ends, if it is one that could be shown.
    fn judge(&self, reply: &Response<'_>) -> Result<Framing, Trouble> {
        // 204, 205 and 206 have no text, or not all of it.
        if !matches!(reply.status, 200..=203 | 207..=299) {
            let known = StatusCode::from_u16(reply.status).ok().and_then(|status| status.canonical_reason());
            let reason = if reply.reason.is_empty() { known.unwrap_or_default() } else { reply.reason };
            let status = format!("HTTP {} {}", reply.status, quoted(reason.as_bytes()));
            return Err(Trouble::Status { code: reply.status, status: status.trim_end().to_owned() });
        }
        if let Some(coding) = reply.fields.list("content-encoding").find(|its| !its.eq_ignore_ascii_case(b"identity")) {
            return Err(Trouble::Compressed(quoted(coding)));
        }
        let framing = framing::of_response("GET", reply.status, reply.version, &reply.fields);
        match framing.map_err(Trouble::Framing)? {
            Framing::Length(length) if length > self.limits.max_size as u64 => {
                Err(Trouble::TooLong(self.limits.max_size))
            }
            framing => Ok(framing),
        }
    }

    /// Reads a body, of which this has arrived already.
    async fn body(&self, stream: &mut Upstream, mut arrived: BytesMut, framing: Framing) -> Result<Vec<u8>, Trouble> {
        let (mut decoder, mut body) = (Decoder::new(framing), Vec::new());
        loop {
            let mut rest = &arrived[..];
            let before = body.len();
            let is_whole = loop {
                match decoder.next(&mut rest).map_err(Trouble::Framing)? {
                    Piece::Body(bytes) if body.len() + bytes.len() > self.limits.max_size => {
                        return Err(Trouble::TooLong(self.limits.max_size));
                    }
                    Piece::Body(bytes) => body.extend_from_slice(bytes),
                    Piece::More => break false,
                    Piece::End => break true,
                }
            };
            if body.len() > before {
                self.log.read(body.len() - before);
            }
            if is_whole {
                return Ok(body);
            }
            arrived.clear();
            if self.read(stream, &mut arrived).await? == 0 {
                decoder.end_of_stream().map_err(Trouble::Truncated)?;
                return Ok(body);
            }
        }
    }

    async fn read(&self, stream: &mut Upstream, into: &mut BytesMut) -> Result<usize, Trouble> {
        into.reserve(READ.saturating_sub(into.len()).max(1));
        let read = self.in_time(stream.read_buf(into)).await?;
        read.map_err(|error| Trouble::broken(error, self.log.bytes()))
    }

    async fn in_time<T>(&self, work: impl Future<Output = T>) -> Result<T, Trouble> {
        let limit: Duration = self.limits.idle_timeout;
        timeout(limit, work).await.map_err(|_| Trouble::Silent { limit, after: self.log.bytes() })
    }
}

/// Where a reply sends to instead, if it does; never to another host.
fn moved(from: &Url, reply: &Response<'_>) -> Result<Option<Url>, Trouble> {
    if !matches!(reply.status, 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let Some(location) = reply.fields.get("location") else { return Ok(None) };
    let to = || quoted(location);
    let text = str::from_utf8(location);
    let text = text.map_err(|_| Trouble::Nowhere { to: to(), why: "it is no text".to_owned() })?;
    let url = from.join(text).map_err(|why| Trouble::Nowhere { to: to(), why: why.to_string() })?;
    if url.address() != from.address() {
        return Err(Trouble::Elsewhere(to()));
    }
    Ok(Some(url))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(lines: &str, check: impl FnOnce(Response<'_>)) {
        let head = format!("HTTP/1.1 {lines}\r\n\r\n");
        check(head::response(head.as_bytes(), &mut Room::default()).expect("a head").expect("all of it"));
    }

    fn moved_to(location: &str) -> Result<Option<String>, String> {
        let from: Url = "http://poems.example:8080/a/b?c".parse().expect("a URL");
        let mut result = Ok(None);
        reply(&format!("302 Found\r\nLocation: {location}"), |reply| {
            result = moved(&from, &reply).map(|to| to.map(|to| to.to_string())).map_err(|why| why.to_string());
        });
        result
    }

    #[test]
    fn a_redirect_stays_on_its_host() {
        for (location, to) in [
            ("c", "http://poems.example:8080/a/c"),
            ("/d", "http://poems.example:8080/d"),
            ("http://POEMS.example:8080/e", "http://poems.example:8080/e"),
        ] {
            assert_eq!(moved_to(location), Ok(Some(to.to_owned())), "{location}");
        }
        for location in [
            "http://poems.example/",
            "http://poems.example:8081/",
            "//127.0.0.1:8080/",
            "http://169.254.169.254/latest/meta-data",
            "http://poems.example.evil:8080/",
        ] {
            let why = moved_to(location).expect_err("another host");
            assert_eq!(why, format!("It redirects to {location}, which is another host: not followed."));
        }
        for location in ["https://poems.example:8080/", "file:///etc/passwd", "http://a@poems.example:8080/", "a b"] {
            let why = moved_to(location).expect_err("nowhere");
            assert!(why.starts_with(&format!("It redirects to {location}, which leads nowhere: ")), "{why}");
        }
    }
}
