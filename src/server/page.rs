//! One page over HTTP, for monitoring systems and for people with curl.
//!
//! As much of RFC 9112 as one page needs: a request is answered and the connection closed. What is asked is read from
//! the first line; the rest of the head is read and not looked at.

use std::fmt;
use std::io;
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

/// Serves one page, made anew for each request.
pub struct PageServer {
    path: &'static str,
    content_type: &'static str,
    page: Box<dyn Fn() -> String + Send + Sync>,
}

impl PageServer {
    /// A server of the page at this path.
    pub fn new(
        path: &'static str,
        content_type: &'static str,
        page: impl Fn() -> String + Send + Sync + 'static,
    ) -> Self {
        Self { path, content_type, page: Box::new(page) }
    }

    /// The whole reply to a request with this head.
    fn reply(&self, head: &[u8]) -> String {
        let line = head.split(|&byte| byte == b'\n').next().unwrap_or_default().trim_ascii_end();
        let words: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
        let (status, body) = match words[..] {
            [b"GET" | b"HEAD", target, version] if version.starts_with(b"HTTP/1.") => {
                let path = target.split(|&byte| byte == b'?').next().unwrap_or_default();
                if path == self.path.as_bytes() {
                    ("200 OK", (self.page)())
                } else {
                    ("404 Not Found", format!("The page is at {}\n", self.path))
                }
            }
            [_, _, version] if version.starts_with(b"HTTP/1.") => {
                ("405 Method Not Allowed\r\nAllow: GET, HEAD", "GET it\n".to_owned())
            }
            _ => ("400 Bad Request", "That is no request\n".to_owned()),
        };
        let content_type = if status == "200 OK" { self.content_type } else { "text/plain" };
        let length = body.len();
        let body = if words[0] == b"HEAD" { "" } else { &body };
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        )
    }
}

impl fmt::Debug for PageServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageServer").field("path", &self.path).finish_non_exhaustive()
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
        let reply = self.reply(if is_whole(&head) { &head } else { b"" });
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
        let server = PageServer::new("/metrics", "text/x", || "the page\n".to_owned());
        let reply = |head: &str| server.reply(head.as_bytes());
        let page = "HTTP/1.1 200 OK\r\nContent-Type: text/x\r\nContent-Length: 9\r\nConnection: close\r\n\r\n";
        assert_eq!(reply("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"), format!("{page}the page\n"));
        assert_eq!(reply("GET /metrics?x=1 HTTP/1.0\n\n"), format!("{page}the page\n"));
        assert_eq!(reply("HEAD /metrics HTTP/1.1\r\n\r\n"), page);
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
