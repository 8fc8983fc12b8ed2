//! Pages over HTTP, for monitoring systems, for people with curl, and for browsers.
//!
//! Whoever can reach a page may read it; what a browser is made to do with it by pages of others is prevented: the name by
//! which it is called has to be ours (DNS rebinding), nothing may be embedded or run that is not ours, and nothing is for
//! other origins.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;

use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode, Version};
use maud::{DOCTYPE, html};
use tokio_util::bytes::Bytes;
use tracing::debug;

use crate::net::{Connection, Handler, Stoppable, http};
use crate::pace::Ending;

/// Serves pages, each made anew for each request.
#[derive(Debug)]
pub struct PageServer {
    /// The program whose pages they are.
    program: &'static str,
    /// Names by which it may be called, beside `localhost` and IP addresses.
    names: Vec<String>,
    pages: Vec<Page>,
}

/// A page as it is now.
#[derive(Debug, PartialEq, Eq)]
pub enum Made {
    /// `200 OK`.
    Well(String),
    /// `503 Service Unavailable`.
    Unavailable(String),
}

type Making = Pin<Box<dyn Future<Output = Made> + Send>>;

struct Page {
    path: &'static str,
    about: &'static str,
    content_type: &'static str,
    make: Box<dyn Fn() -> Making + Send + Sync>,
}

/// On every answer.
const HEADERS: [(HeaderName, &str); 3] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
        base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
];

const TEXT: &str = "text/plain; charset=utf-8";

impl PageServer {
    /// Without any page yet. It may be called by these names, too.
    pub fn new(program: &'static str, names: Vec<String>) -> Self {
        Self { program, names, pages: Vec::new() }
    }

    /// With a page at this path, too. `make` may wait, but not for long.
    #[must_use]
    pub fn with<F: Future<Output = Made> + Send + 'static>(
        mut self,
        path: &'static str,
        about: &'static str,
        content_type: &'static str,
        make: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self {
        self.pages.push(Page { path, about, content_type, make: Box::new(move || Box::pin(make())) });
        self
    }

    /// The answer to a request.
    async fn answer(&self, request: &Parts, is_closing: bool) -> Response<Full<Bytes>> {
        let (status, content_type, body) = match self.refusal(request) {
            Some((status, why)) => (status, TEXT, why),
            None => self.page(request.uri.path()).await,
        };
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        for (name, value) in HEADERS {
            headers.insert(name, HeaderValue::from_static(value));
        }
        if matches!(status, StatusCode::METHOD_NOT_ALLOWED | StatusCode::NO_CONTENT) {
            headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS"));
        }
        // A body that was not asked for is not looked for, either.
        if is_closing || status == StatusCode::BAD_REQUEST || has_body(&request.headers) {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    async fn page(&self, path: &str) -> (StatusCode, &'static str, String) {
        match self.pages.iter().find(|page| page.path == path) {
            Some(page) => match (page.make)().await {
                Made::Well(body) => (StatusCode::OK, page.content_type, body),
                Made::Unavailable(body) => (StatusCode::SERVICE_UNAVAILABLE, page.content_type, body),
            },
            None if path == "/" => (StatusCode::OK, "text/html; charset=utf-8", self.contents()),
            None => {
                let there = self.pages.iter().map(|page| format!("There is a page at {}\n", page.path)).collect();
                (StatusCode::NOT_FOUND, TEXT, there)
            }
        }
    }

    /// What there is, for a browser.
    fn contents(&self) -> String {
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (self.program) }
                }
                body {
                    h1 { (self.program) }
                    ul {
                        @for page in &self.pages {
                            li { a href=(page.path) { (page.path) } ": " (page.about) }
                        }
                    }
                }
            }
        };
        page.into_string() + "\n"
    }

    /// Why a request gets no page, if it gets none.
    fn refusal(&self, request: &Parts) -> Option<(StatusCode, String)> {
        let bad = |why: &str| Some((StatusCode::BAD_REQUEST, format!("{why}\n")));
        // Two programs could see two requests in it; see proto::http::framing.
        if request.headers.contains_key(header::TRANSFER_ENCODING) {
            return bad("A request for a page has no body in chunks");
        }
        let mut hosts = request.headers.get_all(header::HOST).iter();
        let host = match (hosts.next(), hosts.next()) {
            (_, Some(_)) => return bad("There are two Host fields"),
            (None, None) if request.version == Version::HTTP_10 => None,
            (None, None) => return bad("There is no Host field"),
            (Some(host), None) => Some(host.to_str().unwrap_or_default()),
        };
        if host.is_some_and(|host| !self.is_ours(host)) {
            let how = "call it by localhost, an IP address, or a --host-name";
            return Some((StatusCode::FORBIDDEN, format!("This is {}; {how}\n", self.program)));
        }
        match request.method {
            Method::GET | Method::HEAD => None,
            Method::OPTIONS => Some((StatusCode::NO_CONTENT, String::new())),
            _ => Some((StatusCode::METHOD_NOT_ALLOWED, "GET it\n".to_owned())),
        }
    }

    /// Whether it may be called by this name; the port does not matter.
    fn is_ours(&self, host: &str) -> bool {
        let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, _)) => return address.parse::<IpAddr>().is_ok(),
            None => host.rsplit_once(':').map_or(host, |(name, _)| name).trim_end_matches('.').to_ascii_lowercase(),
        };
        name == "localhost"
            || name.ends_with(".localhost")
            || name.parse::<IpAddr>().is_ok()
            || self.names.iter().any(|ours| ours.eq_ignore_ascii_case(&name))
    }
}

fn has_body(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_LENGTH).is_some_and(|length| length != "0")
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Page").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Handler for PageServer {
    /// A reply says how long it is.
    const EOF_ENDS_MESSAGE: bool = false;

    async fn serve(&self, connection: &mut Connection) -> io::Result<Ending> {
        let peer = connection.peer();
        debug!(%peer, "Somebody at {peer} wants a page!");
        let stop = connection.stop();
        http::serve(connection, |request: Request<Incoming>| {
            let is_closing = stop.is_closing();
            async move {
                let (request, _) = request.into_parts();
                let response = self.answer(&request, is_closing).await;
                let (method, path, status) = (&request.method, request.uri.path(), response.status().as_u16());
                let path = path.get(..path.len().min(200)).unwrap_or_default();
                debug!(%peer, status, "{peer}: {method} {path}: {status}");
                response
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    fn server() -> PageServer {
        PageServer::new("poetryd", vec!["poems.example".to_owned()])
            .with("/metrics", "figures", "text/x", || async { Made::Well("the page\n".to_owned()) })
            .with("/healthz", "is it well?", TEXT, || async { Made::Unavailable("ill\n".to_owned()) })
    }

    /// Status, fields and body of the answer to a request with this method, target and these fields.
    fn ask(method: &str, target: &str, fields: &[(&str, &str)]) -> (u16, HeaderMap, String) {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (request, ()) = request.body(()).expect("a request").into_parts();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let (head, body) = server().answer(&request, false).await.into_parts();
            let body = body.collect().await.expect("a body").to_bytes();
            (head.status.as_u16(), head.headers, String::from_utf8(body.to_vec()).expect("text"))
        })
    }

    const HERE: (&str, &str) = ("Host", "localhost:9100");

    #[test]
    fn pages_are_where_they_are() {
        for (target, status, body) in [
            ("/metrics", 200, "the page\n"),
            ("/metrics?x=1", 200, "the page\n"),
            ("/healthz", 503, "ill\n"),
            ("/metrics/", 404, "There is a page at /metrics\nThere is a page at /healthz\n"),
        ] {
            let (found, headers, text) = ask("GET", target, &[HERE]);
            assert_eq!((found, &*text), (status, body), "{target}");
            assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
            assert!(headers[header::CONTENT_SECURITY_POLICY].to_str().expect("text").contains("default-src 'none'"));
            assert!(!headers.contains_key(header::SERVER) && !headers.contains_key("access-control-allow-origin"));
        }
        let (status, headers, text) = ask("GET", "/", &[HERE]);
        assert_eq!(
            (status, &headers[header::CONTENT_TYPE]),
            (200, &HeaderValue::from_static("text/html; charset=utf-8"))
        );
        assert!(text.contains("<a href=\"/metrics\">/metrics</a>: figures"), "{text}");
    }

    #[test]
    fn it_is_called_by_its_names_only() {
        for host in [
            "localhost",
            "LOCALHOST.:80",
            "a.localhost:1",
            "127.0.0.1:9100",
            "[::1]",
            "[::1]:80",
            "10.1.2.3",
            "Poems.Example:9100",
        ] {
            assert_eq!(ask("GET", "/metrics", &[("Host", host)]).0, 200, "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "", "127.0.0.1.evil.example:9100", "[x]", "notlocalhost"]
        {
            let (status, _, text) = ask("GET", "/metrics", &[("Host", host)]);
            let said = "This is poetryd; call it by localhost, an IP address, or a --host-name\n";
            assert_eq!((status, &*text), (403, said), "{host}");
        }
        assert_eq!(ask("GET", "/metrics", &[]).0, 400);
        assert_eq!(ask("GET", "/metrics", &[HERE, HERE]).0, 400);
    }

    #[test]
    fn other_methods_and_bodies_get_no_page() {
        for method in ["POST", "PUT", "DELETE", "TRACE", "PATCH", "BREW"] {
            let (status, headers, _) = ask(method, "/metrics", &[HERE]);
            assert_eq!(
                (status, &headers[header::ALLOW]),
                (405, &HeaderValue::from_static("GET, HEAD, OPTIONS")),
                "{method}"
            );
        }
        assert_eq!(ask("OPTIONS", "/metrics", &[HERE]).0, 204);
        let (status, headers, _) = ask("GET", "/metrics", &[HERE, ("Transfer-Encoding", "chunked")]);
        assert_eq!((status, &headers[header::CONNECTION]), (400, &HeaderValue::from_static("close")));
        let (status, headers, _) = ask("POST", "/metrics", &[HERE, ("Content-Length", "3")]);
        assert_eq!((status, &headers[header::CONNECTION]), (405, &HeaderValue::from_static("close")));
    }
}
