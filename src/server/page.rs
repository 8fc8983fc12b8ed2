//! A few pages over HTTP, for monitoring systems, for people with curl, and for browsers.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;

use hyper::http::request::Parts;
use hyper::{Response, StatusCode};
use maud::{DOCTYPE, html};

use super::web::{Content, HTML, Site, TEXT, whole};
use crate::net::{Connection, Handler};
use crate::pace::Ending;

/// Serves pages, each made anew for each request.
#[derive(Debug)]
pub struct PageServer {
    site: Site,
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

impl PageServer {
    /// The pages of this program, without any yet. It may be called by these names, too.
    pub fn new(program: &'static str, names: Vec<String>) -> Self {
        Self { site: Site::called(program, names), pages: Vec::new() }
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

    async fn page(&self, request: Parts) -> Response<Content> {
        let path = request.uri.path();
        match self.pages.iter().find(|page| page.path == path) {
            Some(page) => match (page.make)().await {
                Made::Well(body) => whole(StatusCode::OK, page.content_type, body),
                Made::Unavailable(body) => whole(StatusCode::SERVICE_UNAVAILABLE, page.content_type, body),
            },
            None if path == "/" => whole(StatusCode::OK, HTML, self.contents()),
            None => {
                let there: String =
                    self.pages.iter().map(|page| format!("There is a page at {}\n", page.path)).collect();
                whole(StatusCode::NOT_FOUND, TEXT, there)
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
                    title { (self.site.program) }
                }
                body {
                    h1 { (self.site.program) }
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
        self.site.serve(connection, |request| self.page(request)).await
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use hyper::Request;
    use hyper::header::{self, HeaderMap, HeaderValue};

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
            let server = server();
            let answer = server.site.answer(request, false, |request| server.page(request)).await;
            let (head, body) = answer.into_parts();
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
        for host in [
            "evil.example",
            "localhost.evil.example",
            "",
            "127.0.0.1.evil.example:9100",
            "[x]",
            "[::1].evil.example",
            "notlocalhost",
        ] {
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
