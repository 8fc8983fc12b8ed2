//! The page of a monitor, what is for programs, and the way into the feed.

use std::io;
use std::time::Instant;

use hyper::header::{self, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode, Version};
use tokio_util::bytes::BytesMut;
use tracing::debug;

use super::Shared;
use super::ring::chunk;
use crate::metrics::{CONTENT_TYPE, Page as Metrics};
use crate::net::Connection;
use crate::net::http::HEAD_TIME;
use crate::pace::Ending;
use crate::proto::http::form;
use crate::proto::http::head::{self, Room};
use crate::server::web::{Content, HTML, Site, TEXT, entity_tag, has_it, hash, not_modified, whole};

const PAGE: &str = include_str!("../../../assets/monitor/index.html");
const FILES: [(&str, &str, &str); 3] = [
    ("app.js", "text/javascript; charset=utf-8", include_str!("../../../assets/monitor/app.js")),
    ("chart.js", "text/javascript; charset=utf-8", include_str!("../../../assets/monitor/chart.js")),
    ("style.css", "text/css; charset=utf-8", include_str!("../../../assets/monitor/style.css")),
];

/// What comes from here under one name never changes.
const FOR_EVER: HeaderValue = HeaderValue::from_static("max-age=31536000, immutable");
const EVENTS: &str = "text/event-stream";
/// No program on the way may hold back or change anything.
const LIVE: [(HeaderName, HeaderValue); 2] = [
    (header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform")),
    (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
];
/// More is no request for a page of ours.
const LONGEST_HEAD: usize = 64 << 10;

/// The pages.
#[derive(Debug)]
pub(super) struct Pages {
    site: Site,
    page: String,
    /// Where the files of this page are.
    assets: String,
}

impl Pages {
    pub(super) fn new(names: Vec<String>, title: &str) -> Self {
        let edition = hash(&(env!("CARGO_PKG_VERSION"), PAGE, FILES));
        let assets = format!("assets/{edition:016x}");
        let title = maud::html! { (title) }.into_string();
        let page = PAGE.replace("{assets}", &assets).replace("{title}", &title);
        Self { site: Site::called("poetry-monitor", names).once(), page, assets: format!("/{assets}/") }
    }

    /// Answers one request. The feed is a connection of its own for as long as it is read, so each other answer is the last
    /// one of its connection, too.
    pub(super) async fn serve(&self, shared: &Shared, connection: &mut Connection) -> io::Result<Ending> {
        // Boxed: whoever reads the feed does so for long, and holds nothing of this meanwhile.
        let Some(ahead) = Box::pin(read_head(connection)).await? else { return Ok(Ending::Fin) };
        match self.feed(shared, &ahead) {
            Some(Greeting { is_chunked, first, next }) => {
                drop(ahead);
                let peer = connection.peer();
                debug!(%peer, "Somebody at {peer} reads the feed!");
                shared.feed.serve(connection, is_chunked, first, next).await
            }
            None => {
                let answer = async |request| self.answer(shared, &request);
                Box::pin(self.site.serve_from(connection, ahead, answer)).await
            }
        }
    }

    /// What whoever asks for the feed gets first; `None`: it is another page, or none.
    fn feed(&self, shared: &Shared, ahead: &[u8]) -> Option<Greeting> {
        let asked = &wants_feed(ahead)??;
        if !self.site.allows(asked) {
            return None;
        }
        let is_chunked = asked.version != Version::HTTP_10;
        let query = asked.uri.query().unwrap_or_default();
        // What the browser says itself is newer: it comes again with the address that it first had.
        let said = asked.headers.get("last-event-id").and_then(|id| id.to_str().ok().map(str::to_owned));
        let last = said.or_else(|| form::value(query, "since").ok().flatten());
        let (greeting, next) = shared.greet(last.as_deref());
        let mut head = "HTTP/1.1 200 OK\r\n".to_owned();
        let mut add = |name: &str, value: &str| head.extend([name, ": ", value, "\r\n"]);
        add("Content-Type", EVENTS);
        for (name, value) in LIVE.into_iter().chain(self.site.headers()) {
            add(name.as_str(), value.to_str().unwrap_or_default());
        }
        if is_chunked {
            add("Transfer-Encoding", "chunked");
        }
        add("Connection", "close");
        let first = if is_chunked { chunk(&greeting) } else { greeting };
        Some(Greeting { is_chunked, first: format!("{head}\r\n{first}").into_bytes(), next })
    }

    fn answer(&self, shared: &Shared, request: &Parts) -> Response<Content> {
        match request.uri.path() {
            "/" => cached(request, HTML, &self.page, HeaderValue::from_static("no-cache")),
            // HEAD: its fields without it.
            "/feed" => {
                let mut response = whole(StatusCode::OK, EVENTS, "");
                response.headers_mut().extend(LIVE);
                response
            }
            "/now" => live(whole(StatusCode::OK, "application/json", shared.now())),
            "/metrics" => {
                let mut metrics = Metrics::default();
                shared.add_metrics(&mut metrics, &[]);
                live(whole(StatusCode::OK, CONTENT_TYPE, metrics.text()))
            }
            path => {
                let file = path.strip_prefix(&*self.assets).and_then(|name| FILES.iter().find(|file| file.0 == name));
                match file {
                    Some((_, content_type, text)) => cached(request, content_type, text, FOR_EVER),
                    None => whole(StatusCode::NOT_FOUND, TEXT, "There are /, /feed, /now and /metrics\n"),
                }
            }
        }
    }
}

/// The beginning of a feed.
struct Greeting {
    /// Whether its reader knows chunks.
    is_chunked: bool,
    first: Vec<u8>,
    /// The number of the event that comes next.
    next: u64,
}

/// Reads a head, or as much as it takes to know that there is none; `None`: nobody wants anything.
async fn read_head(connection: &mut Connection) -> io::Result<Option<BytesMut>> {
    let (mut ahead, until) = (BytesMut::new(), Instant::now() + HEAD_TIME);
    while wants_feed(&ahead).is_none() {
        let left = until.saturating_duration_since(Instant::now());
        match connection.read_request(&mut ahead, Some(left)).await {
            Ok(Some(read)) if read > 0 => {}
            Ok(_) => return Ok(None),
            // Half of one is for whoever tells people so.
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                return Ok(Some(ahead).filter(|ahead| !ahead.is_empty()));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Some(ahead))
}

fn live(mut response: Response<Content>) -> Response<Content> {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn cached(request: &Parts, content_type: &'static str, text: &str, control: HeaderValue) -> Response<Content> {
    let tag = entity_tag(hash(&text));
    let mut response = match has_it(&request.headers, &tag) {
        true => not_modified(),
        false => whole(StatusCode::OK, content_type, text.to_owned()),
    };
    response.headers_mut().extend([(header::ETAG, tag), (header::CACHE_CONTROL, control)]);
    response
}

/// The request, if it is for the feed; `None`: the head is not whole. What makes no sense is for whoever answers others.
fn wants_feed(ahead: &[u8]) -> Option<Option<Parts>> {
    let mut room = Room::default();
    let request = match head::request(ahead, &mut room) {
        Ok(None) if ahead.len() > LONGEST_HEAD => return Some(None),
        Ok(request) => request?,
        Err(_) => return Some(None),
    };
    if request.method != "GET" || request.target.split('?').next() != Some("/feed") {
        return Some(None);
    }
    let version = if request.version == head::Version::Http10 { Version::HTTP_10 } else { Version::HTTP_11 };
    let mut parts = Request::builder().method(Method::GET).uri(request.target).version(version);
    for (name, value) in request.fields.iter() {
        parts = parts.header(name, value);
    }
    // What hyper finds fault with gets its answer there.
    Some(parts.body(()).ok().map(|request| request.into_parts().0))
}
