//! What is to be had over HTTP: the page as its sources come or all at once, the same for programs, each source alone,
//! and the style sheet. No part of a request names a source but by its number.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::header::{self, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_util::bytes::Bytes;

use super::account::{self, AtOnce, picture, report};
use super::charset::Charset;
use super::content::Content as Shown;
use super::feed::Headline;
use super::page::{Drawing, Frame, section};
use super::standing::Standing;
use super::view::{Next, Seen, View};
use super::{Anthology, Set};
use crate::metrics::{CONTENT_TYPE, Page as Metrics};
use crate::net::Stop;
use crate::proto::http::form;
use crate::report::waterfall::svg;
use crate::server::web::{Content, HTML, Site, TEXT, entity_tag, has_it, hash, live, not_modified, streamed, whole};

const STYLE: &str = include_str!("../../../assets/anthology/style.css");
const JSON: &str = "application/json";

/// What comes from here under one name never changes.
const FOR_EVER: HeaderValue = HeaderValue::from_static("max-age=31536000, immutable");
/// No program on the way may keep it, or hold back a part of it.
const NOW: [(HeaderName, HeaderValue); 2] = [
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform")),
    (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
];
const WHAT: &str = "There are /, /news, /?wait, /anthology.json, /source/NUMBER and /metrics\n";

/// The most that is given away at once: for a client that takes nothing, no more than that is copied.
const PIECE: usize = 64 << 10;

/// What is the same for all requests.
#[derive(Debug)]
pub(super) struct Pages {
    pub(super) site: Site,
    frame: Frame,
    /// The style sheet, and that of the picture.
    style: String,
    /// Where the style sheet is.
    style_path: String,
}

impl Pages {
    pub(super) fn new(names: Vec<String>, title: &str) -> Self {
        let style = format!("{STYLE}\n/* The waterfall, at night. */{}", svg::rules());
        let style_path = format!("/assets/{:016x}/style.css", hash(&(env!("CARGO_PKG_VERSION"), &style)));
        let frame = Frame::new(title, &style_path);
        Self { site: Site::called("poetry-anthology", names).without_scripts(), frame, style, style_path }
    }

    pub(super) async fn answer(&self, of: &Arc<Anthology>, request: &Parts, stop: Stop) -> Response<Content> {
        let wants_all = form::value(request.uri.query().unwrap_or_default(), "wait").ok().flatten().is_some();
        match request.uri.path() {
            "/" | "/news" if wants_all => now(self.all_at_once(of, &stop).await),
            // Nobody is asked for something that is not sent.
            "/" | "/news" if request.method == Method::HEAD => now(streamed(HTML, std::iter::empty())),
            "/" | "/news" => now(self.as_they_come(of, stop)),
            "/anthology.json" => now(for_programs(of, &stop).await),
            "/metrics" => {
                let mut metrics = Metrics::default();
                of.add_metrics(&mut metrics, &[]);
                now(whole(StatusCode::OK, CONTENT_TYPE, metrics.text()))
            }
            path if path == self.style_path => self.style(request),
            path => match path.strip_prefix("/source/") {
                Some(number) => now(one(of, number, &stop).await),
                None => whole(StatusCode::NOT_FOUND, TEXT, WHAT),
            },
        }
    }

    fn style(&self, request: &Parts) -> Response<Content> {
        let tag = entity_tag(hash(&self.style));
        let mut response = match has_it(&request.headers, &tag) {
            true => not_modified(),
            false => whole(StatusCode::OK, "text/css; charset=utf-8", self.style.clone()),
        };
        response.headers_mut().extend([(header::ETAG, tag), (header::CACHE_CONTROL, FOR_EVER)]);
        response
    }

    /// The page in the order of its sources, when all that will come is here.
    async fn all_at_once(&self, of: &Anthology, stop: &Stop) -> Response<Content> {
        let set = of.set();
        let mut view = View::open(&set.stores, &of.shared);
        let how = view.wait(of.page_timeout, stop).await;
        let mut pieces = vec![Bytes::from(self.frame.head(&view))];
        add_sections(&view, &mut pieces);
        pieces.push(Frame::end(&view, drawn(&view, &set, of.at_once).as_ref(), how).into());
        let status = if view.shows_something() { StatusCode::OK } else { StatusCode::BAD_GATEWAY };
        given(status, HTML, pieces)
    }

    /// The page in the order in which its sources come, each as soon as it has come.
    fn as_they_come(&self, of: &Arc<Anthology>, stop: Stop) -> Response<Content> {
        let set = of.set();
        let mut view = View::open(&set.stores, &of.shared);
        let mut first = vec![Bytes::from(self.frame.head(&view))];
        add_sections(&view, &mut first);
        if view.awaited() == 0 {
            first.push(Frame::end(&view, drawn(&view, &set, of.at_once).as_ref(), Next::All).into());
            return given(StatusCode::OK, HTML, first);
        }
        let (limit, at_once) = (of.page_timeout, of.at_once);
        live(HTML, move |pieces| async move {
            give(&pieces, first).await;
            let how = loop {
                match view.next(limit, &stop).await {
                    Next::Come(index) => give(&pieces, parts(&view, &view.seen()[index])).await,
                    how => break how,
                }
            };
            for seen in view.seen().iter().filter(|seen| matches!(seen.standing, Some(Standing::Late(_)))) {
                give(&pieces, parts(&view, seen)).await;
            }
            give(&pieces, [Frame::end(&view, drawn(&view, &set, at_once).as_ref(), how).into()]).await;
        })
    }
}

/// Gives away parts of a page, as fast as they are taken.
async fn give(to: &mpsc::Sender<Bytes>, parts: impl IntoIterator<Item = Bytes>) {
    for piece in gathered(parts) {
        // Who has left is not written to, and this goes on no longer.
        let _ = to.send(piece).await;
    }
}

/// Parts in pieces: short ones go together, and long ones are taken apart and not copied. A piece is made when it is asked
/// for.
fn gathered(parts: impl IntoIterator<Item = Bytes>) -> impl Iterator<Item = Bytes> {
    let (mut parts, mut long) = (parts.into_iter().peekable(), Bytes::new());
    std::iter::from_fn(move || {
        let mut piece = Vec::new();
        while long.is_empty() {
            match parts.peek() {
                Some(part) if part.len() <= PIECE / 4 && piece.len() + part.len() <= PIECE => {
                    piece.extend_from_slice(&parts.next()?);
                }
                Some(part) if piece.is_empty() && part.len() > PIECE / 4 => long = parts.next()?,
                _ => return Some(Bytes::from(piece)).filter(|piece| !piece.is_empty()),
            }
        }
        Some(long.split_to(long.len().min(PIECE)))
    })
}

/// An answer that is there, all at once or, if it is long, in pieces.
fn given(status: StatusCode, content_type: &'static str, parts: Vec<Bytes>) -> Response<Content> {
    let mut response = match parts.iter().map(Bytes::len).sum::<usize>() {
        ..=PIECE => whole(status, content_type, parts.concat()),
        _ => streamed(content_type, gathered(parts)),
    };
    *response.status_mut() = status;
    response
}

fn now(mut response: Response<Content>) -> Response<Content> {
    response.headers_mut().extend(NOW);
    response
}

/// The section of a source that is known.
fn parts(view: &View, seen: &Seen) -> Vec<Bytes> {
    let of = |standing| section(&seen.store, standing, view.begun, view.over()).to_vec();
    seen.standing.as_ref().map(of).unwrap_or_default()
}

/// Adds the sections of all that are known, in their order.
fn add_sections(view: &View, pieces: &mut Vec<Bytes>) {
    pieces.extend(view.seen().iter().flat_map(|seen| parts(view, seen)));
}

/// The picture of this view; or, if nothing was fetched for it, the last one that there was.
fn drawn(view: &View, set: &Set, at_once: AtOnce) -> Option<Drawing> {
    if !view.is_fetched {
        return set.last_drawing();
    }
    let report = report(view, at_once);
    let drawing = Drawing::new(picture(view, &report), &report);
    // However long this one who looks takes to take it.
    set.has_drawn(drawing.clone(), view.over());
    Some(drawing)
}

/// What programs are told of a source.
#[derive(Serialize)]
struct Told<'a> {
    number: usize,
    name: Option<&'a str>,
    address: String,
    state: &'static str,
    age_ms: Option<u64>,
    trouble: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    headlines: Option<&'a [Headline]>,
}

impl<'a> Told<'a> {
    fn of(seen: &'a Seen) -> Option<Self> {
        let (store, standing) = (&seen.store, seen.standing.as_ref()?);
        let edition = standing.edition();
        let content = edition.map(|edition| &edition.content);
        let late = matches!(standing, Standing::Late(_)).then(|| account::LATE.to_owned());
        Some(Self {
            number: store.number,
            name: store.source.name.as_deref(),
            address: store.source.place.to_string(),
            state: standing.word(),
            age_ms: edition.map(|edition| edition.age().as_millis().try_into().unwrap_or(u64::MAX)),
            trouble: standing.trouble().map(ToString::to_string).or(late),
            text: content.and_then(|content| if let Shown::Text(text) = content { Some(&**text) } else { None }),
            title: content.and_then(|content| if let Shown::Title(title) = content { Some(&**title) } else { None }),
            headlines: content
                .and_then(|content| if let Shown::Headlines(feed) = content { Some(&*feed.headlines) } else { None }),
        })
    }
}

/// All that the page has, as JSON: the part of each source is made when there is room for it.
async fn for_programs(of: &Anthology, stop: &Stop) -> Response<Content> {
    let mut view = View::open(&of.set().stores, &of.shared);
    view.wait(of.page_timeout, stop).await;
    let status = if view.shows_something() { StatusCode::OK } else { StatusCode::BAD_GATEWAY };
    // What is written to memory arrives there.
    let report = serde_json::to_string(&report(&view, of.at_once)).unwrap_or_default();
    let begin = Bytes::from(format!("{{\"report\":{report},\"sources\":["));
    let (mut index, mut is_first) = (0, true);
    let sources = std::iter::from_fn(move || {
        let seen = view.seen().get(index)?;
        index += 1;
        let Some(told) = Told::of(seen) else { return Some(Bytes::new()) };
        let mut json = if std::mem::take(&mut is_first) { Vec::new() } else { b",".to_vec() };
        let _ = serde_json::to_writer(&mut json, &told);
        Some(Bytes::from(json))
    });
    let parts = std::iter::once(begin).chain(sources).chain([Bytes::from_static(b"]}\n")]);
    let mut response = streamed(JSON, gathered(parts));
    *response.status_mut() = status;
    response
}

/// What one source has sent, as it came.
async fn one(of: &Anthology, number: &str, stop: &Stop) -> Response<Content> {
    let set = of.set();
    let is_number = !number.starts_with(['0', '+']);
    let store = number.parse::<usize>().ok().filter(|_| is_number).and_then(|number| set.stores.get(number - 1));
    let Some(store) = store else {
        let all = set.stores.len();
        return whole(StatusCode::NOT_FOUND, TEXT, format!("There are sources from 1 to {all}\n"));
    };
    let mut view = View::open(std::slice::from_ref(store), &of.shared);
    view.wait(of.page_timeout, stop).await;
    let Some(standing) = view.seen().first().and_then(|seen| seen.standing.as_ref()) else {
        return whole(StatusCode::GATEWAY_TIMEOUT, TEXT, "Still on its way\n");
    };
    match (standing.edition(), standing) {
        (Some(edition), _) => {
            let content_type = match edition.charset {
                Charset::Utf8 => TEXT,
                Charset::Latin1 => "text/plain; charset=windows-1252",
            };
            let mut response = given(StatusCode::OK, content_type, vec![edition.bytes.clone()]);
            response.headers_mut().insert(header::AGE, edition.age().as_secs().into());
            response
        }
        (None, Standing::Failed(trouble, _)) => whole(trouble.http_status(), TEXT, format!("{trouble}\n")),
        (None, _) => whole(StatusCode::GATEWAY_TIMEOUT, TEXT, "Still on its way\n"),
    }
}

impl Set {
    /// The last picture, and how old it is.
    fn last_drawing(&self) -> Option<Drawing> {
        let last = self.last.read();
        let (drawing, since) = last.unwrap_or_else(std::sync::PoisonError::into_inner).clone()?;
        let age: Duration = since.elapsed();
        Some(Drawing { age: Some(age), ..drawing })
    }

    fn has_drawn(&self, drawing: Drawing, at: Instant) {
        let mut last = self.last.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        if last.as_ref().is_none_or(|(_, since)| *since <= at) {
            *last = Some((drawing, at));
        }
    }
}
