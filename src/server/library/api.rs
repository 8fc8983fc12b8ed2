//! Requests and their replies: the paths and bodies of *Using Asyncio in Python*, with statuses that say what happened.
//!
//! What changes something is not to be had from a page of somebody else's: its body has to be JSON, for which a browser
//! asks first (and is not allowed), and where a browser says whose page it is, that has to be ours.

use std::fmt::Display;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use tokio::time::timeout;
use tokio_util::bytes::{Bytes, BytesMut};
use tracing::{Level, debug, enabled};

use super::database::Trouble;
use super::patron::{self, BadPatron, Patron};
use super::{Found, Library, Wish};
use crate::metrics::{CONTENT_TYPE, Page};
use crate::net::{Connection, Stoppable, http};
use crate::pace::Ending;
use crate::proto::http::form;
use crate::server::web::{Content, Site, has_body, whole};
use crate::units::{count, human};

const JSON: &str = "application/json";
/// The longest body, in bytes.
const LONGEST_BODY: usize = 256 << 10;
/// The longest reason, in characters.
const LONGEST_WHY: usize = 300;
/// The time for a body.
const BODY_TIME: Duration = Duration::from_secs(10);
/// Patrons of a list, if nobody says how many.
const USUAL_LIMIT: i32 = 100;
const MOST_IN_LIST: i32 = 1_000;
/// What whoever asks again may find.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const X_CACHE: HeaderName = HeaderName::from_static("x-cache");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Patrons,
    /// A patron; `None`: nobody has such a number.
    Patron(Option<i32>),
    Metrics,
    Nothing,
}

impl Route {
    fn of(path: &str) -> Self {
        match path {
            "/patron" => Self::Patrons,
            "/metrics" => Self::Metrics,
            _ => match path.strip_prefix("/patron/") {
                Some(id) if !id.contains('/') => Self::Patron(patron::id(id)),
                _ => Self::Nothing,
            },
        }
    }

    fn methods(self) -> &'static str {
        match self {
            Self::Patrons => "GET, HEAD, POST, OPTIONS",
            Self::Patron(_) => "GET, HEAD, PUT, DELETE, OPTIONS",
            Self::Metrics | Self::Nothing => "GET, HEAD, OPTIONS",
        }
    }
}

/// Answers the requests of a connection, one after another.
pub(super) async fn serve(library: &Arc<Library>, site: &Site, connection: &mut Connection) -> io::Result<Ending> {
    let (peer, stop) = (connection.peer(), connection.stop());
    debug!(%peer, "Somebody at {peer} asks the library!");
    http::serve(connection, BytesMut::new(), http::IDLE_TIME, |request: Request<Incoming>| {
        let is_closing = stop.is_closing();
        async move {
            let (request, body) = request.into_parts();
            let told = enabled!(Level::DEBUG).then(|| {
                let path = request.uri.path();
                let what = format!("{} {}", request.method, path.get(..path.len().min(200)).unwrap_or_default());
                (what, Instant::now())
            });
            let mut unread = has_body(&request.headers).then_some(body);
            let mut response = match site.refusal_of_host(&request) {
                Some((status, why)) => bad(status, why),
                None => answer(library, &request, &mut unread).await,
            };
            if let Some((what, began)) = told {
                let (status, bytes) = (response.status().as_u16(), response.body().size_hint().lower());
                let took = human(began.elapsed());
                debug!(%peer, status, bytes, "{peer}: {what}: {status}, {}, {took}", count(bytes, "byte"));
            }
            // What was not read of a body is not looked for, either.
            site.dress(&mut response, is_closing || unread.is_some());
            response
        }
    })
    .await
}

/// The answer to a request; its body is taken if it is read to its end.
async fn answer(library: &Arc<Library>, request: &Parts, body: &mut Option<Incoming>) -> Response<Content> {
    let route = Route::of(request.uri.path());
    let is_get = matches!(request.method, Method::GET | Method::HEAD);
    match (route, &request.method) {
        (_, &Method::OPTIONS) => with(whole(StatusCode::NO_CONTENT, JSON, ""), header::ALLOW, route.methods()),
        (Route::Nothing, _) => bad(
            StatusCode::NOT_FOUND,
            "there are /patron, /patron/ID and /metrics; a patron is {\"name\", \"fav_dish\"}",
        ),
        (Route::Patrons, _) if is_get => list(library, request.uri.query().unwrap_or_default()).await,
        (Route::Patron(id), _) if is_get => get(library, &request.headers, id).await,
        (Route::Metrics, _) if is_get => {
            let mut page = Page::default();
            library.add_metrics(&mut page, &[]);
            unkept(whole(StatusCode::OK, CONTENT_TYPE, page.text()))
        }
        (Route::Patrons, &Method::POST) | (Route::Patron(_), &Method::PUT | &Method::DELETE) => {
            match wish(request, route, body).await {
                Ok(Some(wish)) => fulfil(library, wish).await,
                Ok(None) => nobody(),
                Err((status, why)) => bad(status, why),
            }
        }
        _ => {
            let why = format!("{} is for {}", request.uri.path(), route.methods());
            with(bad(StatusCode::METHOD_NOT_ALLOWED, why), header::ALLOW, route.methods())
        }
    }
}

async fn get(library: &Arc<Library>, headers: &HeaderMap, id: Option<i32>) -> Response<Content> {
    let Some(id) = id else { return unkept(whole(StatusCode::NOT_FOUND, JSON, "null")) };
    let found = match library.find(id, wants_fresh(headers)).await {
        Ok(found) => found,
        Err(trouble) => return trouble_with(&trouble),
    };
    let Found { row, how, took } = found;
    let status = if row.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
    let mut response = unkept(whole(status, JSON, row.unwrap_or(Bytes::from_static(b"null"))));
    response.headers_mut().insert(X_CACHE, HeaderValue::from_static(how.name()));
    match took {
        None => response,
        Some(took) => with(response, SERVER_TIMING, format!("db;dur={:.2}", took.as_secs_f64() * 1_000.0)),
    }
}

async fn list(library: &Arc<Library>, query: &str) -> Response<Content> {
    let number = |name: &str, usual: i32, most: i32| match form::value(query, name) {
        Ok(None) => Ok(usual),
        Ok(Some(value)) => patron::id(&value)
            .filter(|number| *number <= most)
            .ok_or_else(|| format!("{name} is no number up to {most}")),
        Err(error) => Err(format!("{name}: {error}")),
    };
    let wanted = number("after", -1, i32::MAX).and_then(|after| {
        let limit = number("limit", USUAL_LIMIT, MOST_IN_LIST)?;
        Ok((after, usize::try_from(limit).unwrap_or_default()))
    });
    let (after, limit) = match wanted {
        Ok(wanted) => wanted,
        Err(why) => return bad(StatusCode::UNPROCESSABLE_ENTITY, why),
    };
    match library.list(after, limit).await {
        Err(trouble) => trouble_with(&trouble),
        Ok((list, more_after)) => {
            let response = unkept(whole(StatusCode::OK, JSON, list));
            match more_after {
                None => response,
                Some(last) => {
                    with(response, header::LINK, format!("</patron?after={last}&limit={limit}>; rel=\"next\""))
                }
            }
        }
    }
}

/// What a request wishes to be changed; `None`: no patron has such a number. Otherwise, why nothing is.
async fn wish(
    request: &Parts,
    route: Route,
    body: &mut Option<Incoming>,
) -> Result<Option<Wish>, (StatusCode, String)> {
    if is_of_another_site(&request.headers) {
        return Err((StatusCode::FORBIDDEN, "a page of another site may change nothing here".to_owned()));
    }
    if request.method == Method::DELETE {
        let Route::Patron(id) = route else { return Ok(None) };
        return Ok(id.map(Wish::Delete));
    }
    let mut types =
        request.headers.get_all(header::CONTENT_TYPE).iter().map(|value| value.to_str().unwrap_or_default());
    let is_json = |value: &str| value.split(';').next().is_some_and(|it| it.trim().eq_ignore_ascii_case(JSON));
    if !types.next().is_some_and(is_json) || types.next().is_some() {
        let why = "its Content-Type has to be application/json";
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, why.to_owned()));
    }
    let mut codings = request.headers.get_all(header::TRANSFER_ENCODING).iter();
    if codings.any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        return Err((StatusCode::NOT_IMPLEMENTED, "of all codings only chunked is known".to_owned()));
    }
    let bytes = read(&request.headers, body).await?;
    let patron = Patron::read(&bytes).map_err(|error| match error {
        BadPatron::Json(why) => (StatusCode::BAD_REQUEST, why),
        BadPatron::Key(why) => (StatusCode::UNPROCESSABLE_ENTITY, why),
    })?;
    Ok(match route {
        Route::Patron(id) => id.map(|id| Wish::Change(id, patron)),
        _ => Some(Wish::Make(patron)),
    })
}

/// Reads a body, which is taken if it has come to its end.
async fn read(headers: &HeaderMap, body: &mut Option<Incoming>) -> Result<Bytes, (StatusCode, String)> {
    let too_long = || (StatusCode::PAYLOAD_TOO_LARGE, "the body is longer than 256 KiB".to_owned());
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: u64| length > LONGEST_BODY as u64) {
        return Err(too_long());
    }
    let Some(coming) = body.as_mut() else { return Ok(Bytes::new()) };
    match timeout(BODY_TIME, Limited::new(coming, LONGEST_BODY).collect()).await {
        Ok(Ok(collected)) => {
            *body = None;
            Ok(collected.to_bytes())
        }
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_long()),
        Ok(Err(error)) => Err((StatusCode::BAD_REQUEST, format!("the body cannot be read: {error}"))),
        Err(_) => Err((StatusCode::REQUEST_TIMEOUT, "the body is not whole after 10 s".to_owned())),
    }
}

async fn fulfil(library: &Arc<Library>, wish: Wish) -> Response<Content> {
    let is_new = matches!(wish, Wish::Make(_));
    match library.fulfil(wish).await {
        Ok(Some(id)) if is_new => {
            let response = unkept(whole(StatusCode::OK, JSON, format!("{{\"msg\":\"ok\",\"id\":{id}}}")));
            with(response, header::LOCATION, format!("/patron/{id}"))
        }
        Ok(Some(_)) => unkept(whole(StatusCode::OK, JSON, "{\"msg\":\"ok\"}")),
        Ok(None) => nobody(),
        Err(Trouble::Lost(why)) => unavailable(format_args!("{why}; it may have been done")),
        Err(trouble) => trouble_with(&trouble),
    }
}

/// There is nobody to be changed.
fn nobody() -> Response<Content> {
    unkept(whole(StatusCode::NOT_FOUND, JSON, "{\"msg\":\"bad\"}"))
}

fn trouble_with(trouble: &Trouble) -> Response<Content> {
    match trouble {
        Trouble::Away(why) => unavailable(why),
        Trouble::Lost(why) => unavailable(why),
        Trouble::Outdated => unavailable("the table in the database is another one now"),
        Trouble::Refused(why) => bad(StatusCode::UNPROCESSABLE_ENTITY, why),
    }
}

fn unavailable(why: impl Display) -> Response<Content> {
    let mut response = bad(StatusCode::SERVICE_UNAVAILABLE, why);
    response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
    response
}

fn bad(status: StatusCode, why: impl Display) -> Response<Content> {
    // Whatever was said is not said again at length.
    let why: String = why.to_string().chars().take(LONGEST_WHY).collect();
    let body = serde_json::json!({ "error": why }).to_string();
    unkept(whole(status, JSON, body.replacen('{', "{\"msg\":\"bad\",", 1)))
}

/// No cache on the way is told when it changes.
fn unkept(mut response: Response<Content>) -> Response<Content> {
    response.headers_mut().insert(header::CACHE_CONTROL, NO_STORE);
    response
}

fn with(mut response: Response<Content>, name: HeaderName, value: impl AsRef<str>) -> Response<Content> {
    // Of our own words, and numbers.
    if let Ok(value) = HeaderValue::from_str(value.as_ref()) {
        response.headers_mut().insert(name, value);
    }
    response
}

fn wants_fresh(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    values.any(|value| {
        value.split(',').any(|directive| {
            let directive = directive.trim();
            directive.eq_ignore_ascii_case("no-cache") || directive.eq_ignore_ascii_case("no-store")
        })
    })
}

/// Whether a browser says that a page of somebody else's asks (Fetch, `Origin`; Fetch Metadata, `Sec-Fetch-Site`).
fn is_of_another_site(headers: &HeaderMap) -> bool {
    let all = |name: HeaderName| headers.get_all(name).into_iter().map(|value| value.to_str().unwrap_or_default());
    let host = all(header::HOST).next().unwrap_or_default();
    let is_ours = |origin: &str| {
        origin.strip_prefix("http://").is_some_and(|its| !host.is_empty() && its.eq_ignore_ascii_case(host))
    };
    all(header::ORIGIN).any(|origin| !is_ours(origin))
        || all(HeaderName::from_static("sec-fetch-site")).any(|site| site != "same-origin" && site != "none")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_route() {
        for (path, route) in [
            ("/patron", Route::Patrons),
            ("/patron/37", Route::Patron(Some(37))),
            ("/patron/x", Route::Patron(None)),
            ("/patron/", Route::Patron(None)),
            ("/patron/37/", Route::Nothing),
            ("/patrons", Route::Nothing),
            ("/", Route::Nothing),
            ("/metrics", Route::Metrics),
        ] {
            assert_eq!(Route::of(path), route, "{path}");
        }
    }

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn pages_of_others_change_nothing() {
        const HOST: (&str, &str) = ("host", "localhost:8000");
        for (fields, is_theirs) in [
            (&[HOST][..], false),
            (&[HOST, ("origin", "http://localhost:8000")], false),
            (&[HOST, ("origin", "http://LOCALHOST:8000"), ("sec-fetch-site", "same-origin")], false),
            (&[HOST, ("sec-fetch-site", "none")], false),
            (&[HOST, ("origin", "http://localhost:8001")], true),
            (&[HOST, ("origin", "https://localhost:8000")], true),
            (&[HOST, ("origin", "null")], true),
            (&[("origin", "http://")], true),
            (&[HOST, ("origin", "http://localhost:8000"), ("origin", "http://evil.example")], true),
            (&[HOST, ("sec-fetch-site", "same-site")], true),
            (&[HOST, ("sec-fetch-site", "cross-site")], true),
        ] {
            assert_eq!(is_of_another_site(&headers(fields)), is_theirs, "{fields:?}");
        }
    }

    #[test]
    fn whoever_wants_it_fresh_says_so() {
        assert!(wants_fresh(&headers(&[("cache-control", "max-age=0, No-Cache")])));
        assert!(wants_fresh(&headers(&[("cache-control", "no-store")])));
        assert!(!wants_fresh(&headers(&[("cache-control", "max-age=0"), ("pragma", "no-cache")])));
    }
}
