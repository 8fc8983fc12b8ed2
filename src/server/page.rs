//! A few pages over HTTP, for monitoring systems and for people with curl.
//!
//! As much of RFC 9112 as pages need: a request is answered and the connection closed. What is asked is read from the
//! first line; the rest of the head is read and not looked at.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::bytes::BytesMut;
use tracing::debug;

use crate::net::{Connection, Handler, send_now};
use crate::pace::Ending;

/// The longest head of a request.
const HEAD: usize = 8 * 1024;

/// For the head of a request.
const PATIENCE: Duration = Duration::from_secs(5);

/// Serves pages, each made anew for each request.
#[derive(Debug, Default)]
pub struct PageServer {
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
    content_type: &'static str,
    make: Box<dyn Fn() -> Making + Send + Sync>,
}

/// What is to be sent.
struct Reply {
    status: &'static str,
    content_type: &'static str,
    body: String,
}

impl PageServer {
    /// With a page at this path, too. `make` may wait, but not for long.
    #[must_use]
    pub fn with<F: Future<Output = Made> + Send + 'static>(
        mut self,
        path: &'static str,
        content_type: &'static str,
        make: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self {
        self.pages.push(Page { path, content_type, make: Box::new(move || Box::pin(make())) });
        self
    }

    /// The whole reply to a request with this head.
    async fn reply(&self, head: &[u8]) -> String {
        let line = head.split(|&byte| byte == b'\n').next().unwrap_or_default().trim_ascii_end();
        let words: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
        let plain = |status, body: &str| Reply { status, content_type: "text/plain", body: body.to_owned() };
        let reply = match words[..] {
            [b"GET" | b"HEAD", target, version] if version.starts_with(b"HTTP/1.") => {
                let path = target.split(|&byte| byte == b'?').next().unwrap_or_default();
                match self.pages.iter().find(|page| page.path.as_bytes() == path) {
                    Some(page) => page.reply().await,
                    None => plain("404 Not Found", &self.table_of_contents()),
                }
            }
            [_, _, version] if version.starts_with(b"HTTP/1.") => {
                plain("405 Method Not Allowed\r\nAllow: GET, HEAD", "GET it\n")
            }
            _ => plain("400 Bad Request", "That is no request\n"),
        };
        let Reply { status, content_type, body } = reply;
        let length = body.len();
        let body = if words[0] == b"HEAD" { "" } else { &body };
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        )
    }

    /// A line for each page.
    fn table_of_contents(&self) -> String {
        self.pages.iter().map(|page| format!("There is a page at {}\n", page.path)).collect()
    }
}

impl Page {
    async fn reply(&self) -> Reply {
        match (self.make)().await {
            Made::Well(body) => Reply { status: "200 OK", content_type: self.content_type, body },
            Made::Unavailable(body) => {
                Reply { status: "503 Service Unavailable", content_type: self.content_type, body }
            }
        }
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
        let peer = connection.peer();
        debug!(%peer, "Somebody at {peer} wants a page!");
        // For all of the head: a byte now and then must not keep a permit.
        let Some(head) = timeout(PATIENCE, read_head(connection)).await?? else { return Ok(Ending::Fin) };
        let reply = self.reply(if is_whole(&head) { &head } else { b"" }).await;
        let mut sent = 0;
        while sent < reply.len() {
            let rest = &reply.as_bytes()[sent..];
            sent += connection.send_some(|stream| send_now(stream, rest, true)).await?;
        }
        Ok(Ending::Fin)
    }
}

/// Reads up to the empty line, or as much as there is in its place; `None` if the server stops before a request comes.
async fn read_head(connection: &mut Connection) -> io::Result<Option<BytesMut>> {
    let mut head = BytesMut::with_capacity(1024);
    let mut read = connection.read_request(&mut head, None).await?;
    while read.is_some_and(|read| read > 0) && !is_whole(&head) && head.len() < HEAD {
        head.reserve(1024);
        read = Some(connection.read_some(&mut head, None).await?);
    }
    Ok(read.map(|_| head))
}

/// Whether an empty line is there, with lines that end as they should or as people type them.
fn is_whole(head: &[u8]) -> bool {
    head.windows(4).any(|bytes| bytes == b"\r\n\r\n") || head.windows(2).any(|bytes| bytes == b"\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_in_the_first_line() {
        let server = PageServer::default()
            .with("/metrics", "text/x", || async { Made::Well("the page\n".to_owned()) })
            .with("/healthz", "text/plain", || async { Made::Unavailable("ill\n".to_owned()) });
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let reply = |head: &str| runtime.block_on(server.reply(head.as_bytes()));
        let page = "HTTP/1.1 200 OK\r\nContent-Type: text/x\r\nContent-Length: 9\r\nConnection: close\r\n\r\n";
        assert_eq!(reply("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"), format!("{page}the page\n"));
        assert_eq!(reply("GET /metrics?x=1 HTTP/1.0\n\n"), format!("{page}the page\n"));
        assert_eq!(reply("HEAD /metrics HTTP/1.1\r\n\r\n"), page);
        let ill = reply("GET /healthz HTTP/1.1\r\n\r\n");
        assert!(ill.starts_with("HTTP/1.1 503 Service Unavailable\r\n") && ill.ends_with("\r\n\r\nill\n"), "{ill}");
        assert!(
            reply("GET / HTTP/1.1\r\n\r\n")
                .ends_with("\r\n\r\nThere is a page at /metrics\nThere is a page at /healthz\n")
        );
        for (head, status) in [
            ("GET / HTTP/1.1\r\n\r\n", "404 "),
            ("GET /metrics/ HTTP/1.1\r\n\r\n", "404 "),
            ("POST /metrics HTTP/1.1\r\n\r\n", "405 "),
            ("GET /metrics HTTP/2\r\n\r\n", "400 "),
            ("GET /metrics\r\n\r\n", "400 "),
            ("5:hello,", "400 "),
            ("", "400 "),
        ] {
            assert!(reply(head).starts_with(&format!("HTTP/1.1 {status}")), "{head}: {}", reply(head));
        }
    }
}
