//! A poem over HTTP: one GET after another, until there is a reply that is the poem.
//!
//! Sans-I/O: the bytes come and go as [`super::fetch`] hands them on. Each request is a leg of the attempt, so that a model
//! of waiting does not know redirects:
//!
//! ```text
//!   GET the poem ──▶ redirect ──▶ GET the poem ──▶ 200 ──▶ GET what stands beside it ──▶ 200
//! ```
//!
//! A connection is kept for another request if the reply has told where it ends, and nothing came after that. Whether the
//! server still wants it shows when it is used (RFC 9112, section 9.3.1): if it ends before a byte of the reply has come,
//! the request is sent once more, on a new connection.

use super::Failure;
use crate::address::Address;
use crate::proto::http::INTERIM_REPLIES;
use crate::proto::http::fields::RetryAfter;
use crate::proto::http::framing::{self, Decoder, Framing, Piece};
use crate::proto::http::head::{self, Response, Room};
use crate::proto::http::target::Url;

/// Who asks.
const USER_AGENT: &str = concat!("get-poetry/", env!("CARGO_PKG_VERSION"));

/// The most bytes of a body that nobody wants which are read to keep the connection. Beyond that a new one is cheaper.
const UNWANTED: u64 = 64 << 10;

/// The longest JSON beside a poem, in bytes.
pub(super) const BESIDE_LIMIT: usize = 64 << 10;

/// The longest part of a server's text in a failure, in characters.
const LONGEST_QUOTE: usize = 200;

/// How poems are fetched over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpOptions {
    /// The proxy through which all requests go.
    pub proxy: Option<Address>,
    /// The most redirects of a poem. With 0 a redirect is a failure as any other reply is that brings no poem.
    pub redirects: u32,
    /// What is fetched after each poem, relative to its URL: a JSON object, which the name of the poem's file is made from.
    pub beside: Option<String>,
}

impl Default for HttpOptions {
    /// No proxy, 10 redirects, nothing beside the poem.
    fn default() -> Self {
        Self { proxy: None, redirects: 10, beside: None }
    }
}

/// A poem on its way over HTTP, in one attempt.
#[derive(Debug)]
pub(super) struct Download {
    /// What is asked for now.
    url: Url,
    goal: Goal,
    request: Vec<u8>,
    /// Bytes of the request that are sent.
    sent: usize,
    reply: Reply,
    /// The head of the reply, as long as it is not complete.
    head: Vec<u8>,
    /// Whether a byte of the reply has come.
    is_answered: bool,
    /// Whether the connection has had another request before this one.
    is_reused: bool,
    /// Whether the next connection has to be a new one.
    is_stale: bool,
    /// Whether the connection can have another request after this one.
    is_kept: bool,
    redirects: u32,
    json: Vec<u8>,
}

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goal {
    Poem,
    Beside,
}

/// How far a reply has come.
#[derive(Debug)]
enum Reply {
    /// The head comes, after so many interim replies.
    Head { interim: usize },
    /// The body comes.
    Body { decoder: Decoder, purpose: Purpose },
    /// All of it is here.
    Whole(Purpose),
}

/// What the body of a reply is for.
#[derive(Debug)]
enum Purpose {
    /// It is what was asked for.
    Wanted,
    /// It is read so that the connection can be kept, so many bytes of it so far.
    Unwanted { read: u64, because: Unwanted },
}

#[derive(Debug)]
enum Unwanted {
    /// The poem is elsewhere.
    Redirect(Url),
    Failure(Failure),
}

/// What the server's bytes mean.
#[derive(Debug)]
pub(super) enum Heard<'b> {
    /// The head of a reply is here. The length is that of the poem, if it has been said.
    Head { status: u16, length: Option<u64> },
    /// A part of the poem.
    Poem(&'b [u8]),
    /// More has to come.
    More,
    /// The reply is complete.
    End,
}

/// What follows a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// The same request, on a new connection.
    Again,
    /// A request for what the reply has pointed to.
    Redirect,
    /// A request for what stands beside the poem, which is here.
    Beside,
    /// Nothing: the poem is here, and the JSON beside it, if that was asked for.
    Done,
}

impl Download {
    /// The first request for a poem.
    pub(super) fn new(url: &Url, options: &HttpOptions) -> Self {
        let mut download = Self {
            url: url.clone(),
            goal: Goal::Poem,
            request: Vec::new(),
            sent: 0,
            reply: Reply::Head { interim: 0 },
            head: Vec::new(),
            is_answered: false,
            is_reused: false,
            is_stale: false,
            is_kept: false,
            redirects: 0,
            json: Vec::new(),
        };
        download.ask(options);
        download
    }

    /// Makes the request for what is wanted now.
    fn ask(&mut self, options: &HttpOptions) {
        let authority = self.url.authority();
        let target = match &options.proxy {
            // absolute-form, RFC 9112, section 3.2.2
            Some(_) => self.url.to_string(),
            None => self.url.path().to_owned(),
        };
        self.request = format!(
            "GET {target} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: {USER_AGENT}\r\nAccept: */*\r\n\
             Accept-Encoding: identity\r\n\r\n"
        )
        .into_bytes();
        self.begin();
    }

    /// Back to the first byte of the request.
    fn begin(&mut self) {
        self.sent = 0;
        self.reply = Reply::Head { interim: 0 };
        self.head.clear();
        (self.is_answered, self.is_reused, self.is_kept) = (false, false, false);
    }

    /// What is asked for now.
    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// The server of this request, or the proxy.
    pub(super) fn address<'a>(&'a self, options: &'a HttpOptions) -> &'a Address {
        options.proxy.as_ref().unwrap_or(self.url.address())
    }

    /// Whether a connection that has been kept would do for this request.
    pub(super) fn takes_kept(&self) -> bool {
        !self.is_stale
    }

    /// The request goes over a connection that has been kept.
    pub(super) fn reused(&mut self) {
        self.is_reused = true;
    }

    /// Whether the connection can have another request, now that the reply has come to its end.
    pub(super) fn is_kept(&self) -> bool {
        self.is_kept && matches!(self.reply, Reply::Whole(_)) && self.unsent().is_none()
    }

    /// The part of the request that is not sent; `None`: nothing.
    pub(super) fn unsent(&self) -> Option<&[u8]> {
        self.request.get(self.sent..).filter(|rest| !rest.is_empty())
    }

    pub(super) fn sent(&mut self, bytes: usize) {
        self.sent += bytes;
    }

    /// The JSON beside the poem.
    pub(super) fn json(&self) -> &[u8] {
        &self.json
    }

    /// Takes what comes next off the front of `bytes`. However a reply is cut into pieces, it is the same one.
    ///
    /// # Errors
    /// It is no reply, or nobody can say where it ends.
    pub(super) fn hear<'b>(&mut self, bytes: &mut &'b [u8], options: &HttpOptions) -> Result<Heard<'b>, Failure> {
        self.is_answered |= !bytes.is_empty();
        loop {
            let (decoder, purpose) = match &mut self.reply {
                Reply::Head { interim } => {
                    let interim = *interim;
                    match self.hear_head(bytes, interim, options)? {
                        None => continue,
                        Some(heard) => return Ok(heard),
                    }
                }
                Reply::Body { decoder, purpose } => (decoder, purpose),
                Reply::Whole(_) => return Ok(Heard::End),
            };
            match (decoder.next(bytes).map_err(Failure::Framing)?, purpose) {
                (Piece::More, _) => return Ok(Heard::More),
                (Piece::End, _) => {
                    // What comes after the end belongs to nobody.
                    self.is_kept &= bytes.is_empty();
                    self.end_reply();
                }
                (Piece::Body(piece), Purpose::Wanted) if self.goal == Goal::Poem => return Ok(Heard::Poem(piece)),
                (Piece::Body(piece), Purpose::Wanted) => {
                    if self.json.len() + piece.len() > BESIDE_LIMIT {
                        return Err(Failure::TooLong(BESIDE_LIMIT as u64));
                    }
                    self.json.extend_from_slice(piece);
                }
                (Piece::Body(piece), Purpose::Unwanted { read, .. }) => {
                    *read += piece.len() as u64;
                    if *read > UNWANTED {
                        self.is_kept = false;
                        self.end_reply();
                    }
                }
            }
        }
    }

    fn end_reply(&mut self) {
        if let Reply::Body { purpose, .. } = std::mem::replace(&mut self.reply, Reply::Head { interim: 0 }) {
            self.reply = Reply::Whole(purpose);
        }
    }

    /// Takes a head off the front of `bytes`; `None`: it was an interim one, and another one follows.
    fn hear_head<'b>(
        &mut self,
        bytes: &mut &'b [u8],
        interim: usize,
        options: &HttpOptions,
    ) -> Result<Option<Heard<'b>>, Failure> {
        let before = self.head.len();
        let mut whole = *bytes;
        let mut begun = std::mem::take(&mut self.head);
        if before > 0 {
            begun.extend_from_slice(bytes);
            whole = &begun;
        }
        let mut room = Room::default();
        let Some(head) = head::response(whole, &mut room).map_err(|bad| Failure::Head { bad })? else {
            if before == 0 {
                begun.extend_from_slice(bytes);
            }
            self.head = begun;
            *bytes = &[];
            return Ok(Some(Heard::More));
        };
        *bytes = &bytes[head.len - before..];
        if matches!(head.status, 100..200) && head.status != 101 {
            if interim == INTERIM_REPLIES {
                return Err(Failure::ManyInterim);
            }
            self.reply = Reply::Head { interim: interim + 1 };
            return Ok(None);
        }
        let framing = framing::of_response("GET", head.status, head.version, &head.fields).map_err(Failure::Framing)?;
        self.is_kept = framing != Framing::UntilClose && head.keeps_connection();
        let length = if let Framing::Length(length) = framing { Some(length) } else { None };
        let purpose = self.purpose(&head, options)?;
        let wanted = matches!(purpose, Purpose::Wanted);
        self.reply = Reply::Body { decoder: Decoder::new(framing), purpose };
        if !wanted && (framing == Framing::UntilClose || length.is_some_and(|length| length > UNWANTED)) {
            self.is_kept = false;
            self.end_reply();
        }
        let length = length.filter(|_| wanted && self.goal == Goal::Poem);
        Ok(Some(Heard::Head { status: head.status, length }))
    }

    /// What a reply with this head is good for.
    fn purpose(&self, head: &Response<'_>, options: &HttpOptions) -> Result<Purpose, Failure> {
        let because = match head.status {
            // 204, 205 and 206 bring no poem, or not all of it.
            200..=203 | 207..=299 => return Ok(Purpose::Wanted),
            301 | 302 | 303 | 307 | 308 if options.redirects > 0 => match head.fields.get("location") {
                None => Unwanted::Failure(status(head)),
                Some(_) if self.redirects == options.redirects => {
                    return Err(Failure::TooManyRedirects(options.redirects));
                }
                Some(location) => Unwanted::Redirect(self.resolved(location)?),
            },
            _ => Unwanted::Failure(status(head)),
        };
        Ok(Purpose::Unwanted { read: 0, because })
    }

    /// Where a redirect leads.
    fn resolved(&self, location: &[u8]) -> Result<Url, Failure> {
        let text = String::from_utf8_lossy(location);
        self.url.join(&text).map_err(|why| Failure::Redirect { to: quoted(&text), why })
    }

    /// The connection has come to an end, or the reply, or the wait for it. Returns what comes next.
    ///
    /// # Errors
    /// There is no poem in this attempt.
    pub(super) fn end(&mut self, result: Result<(), Failure>, options: &HttpOptions) -> Result<Then, Failure> {
        let then = match result {
            Ok(()) | Err(Failure::Broken(_)) if self.is_reused && !self.is_answered => {
                // It had been closed before the request came.
                self.begin();
                self.is_stale = true;
                return Ok(Then::Again);
            }
            Ok(()) => self.conclude(options),
            // The reply says more than how its body ended.
            Err(failure) => match self.take_unwanted() {
                Some(Unwanted::Failure(failure)) => Err(failure),
                _ => Err(failure),
            },
        };
        self.is_stale = false;
        match then {
            Err(failure) if self.goal == Goal::Beside => {
                Err(Failure::Beside { url: self.url.to_string(), failure: Box::new(failure) })
            }
            then => then,
        }
    }

    /// What comes after a reply, or what is left of one.
    fn conclude(&mut self, options: &HttpOptions) -> Result<Then, Failure> {
        match &self.reply {
            Reply::Head { .. } if !self.is_answered => return Err(Failure::NoReply),
            Reply::Head { .. } => return Err(Failure::HalfHead),
            Reply::Body { decoder, purpose: Purpose::Wanted } => {
                decoder.end_of_stream().map_err(Failure::Truncated)?;
            }
            Reply::Body { .. } | Reply::Whole(_) => {}
        }
        match self.take_unwanted() {
            Some(Unwanted::Failure(failure)) => return Err(failure),
            Some(Unwanted::Redirect(url)) => {
                self.redirects += 1;
                self.url = url;
                self.ask(options);
                return Ok(Then::Redirect);
            }
            None => {}
        }
        match &options.beside {
            Some(reference) if self.goal == Goal::Poem => {
                self.goal = Goal::Beside;
                let found = self.url.join(reference);
                self.url = found.map_err(|why| Failure::Redirect { to: quoted(reference), why })?;
                self.redirects = 0;
                self.ask(options);
                Ok(Then::Beside)
            }
            _ => Ok(Then::Done),
        }
    }

    fn take_unwanted(&mut self) -> Option<Unwanted> {
        match std::mem::replace(&mut self.reply, Reply::Head { interim: 0 }) {
            Reply::Body { purpose: Purpose::Unwanted { because, .. }, .. }
            | Reply::Whole(Purpose::Unwanted { because, .. }) => Some(because),
            _ => None,
        }
    }
}

/// The failure that a status is.
fn status(head: &Response<'_>) -> Failure {
    let retry_after = RetryAfter::of(&head.fields);
    Failure::Status { code: head.status, reason: quoted(head.reason), retry_after }
}

/// A server's text for a message, not longer than people read.
fn quoted(text: &str) -> String {
    match text.char_indices().nth(LONGEST_QUOTE) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A download that has sent its request.
    fn asked(options: &HttpOptions) -> Download {
        let mut download = Download::new(&"http://poems:1/a/b".parse().expect("a URL"), options);
        download.sent(download.request.len());
        download
    }

    /// What becomes of a reply that comes in pieces of so many bytes, and then ends: the poem, what follows, and whether the
    /// connection is kept.
    fn answer(
        download: &mut Download,
        options: &HttpOptions,
        reply: &[u8],
        size: usize,
    ) -> (Result<(Vec<u8>, Then), Failure>, bool) {
        let mut poem = Vec::new();
        let mut heard = || -> Result<(), Failure> {
            for mut piece in reply.chunks(size) {
                loop {
                    match download.hear(&mut piece, options)? {
                        Heard::Head { .. } => {}
                        Heard::Poem(part) => poem.extend_from_slice(part),
                        Heard::More => break,
                        Heard::End => return Ok(()),
                    }
                }
            }
            Ok(())
        };
        let heard = heard();
        let is_kept = heard.is_ok() && download.is_kept();
        (download.end(heard, options).map(|then| (poem, then)), is_kept)
    }

    fn whole(reply: &str, size: usize) -> (Result<(String, Then), String>, bool) {
        let options = HttpOptions::default();
        let (result, is_kept) = answer(&mut asked(&options), &options, reply.as_bytes(), size);
        let text = |(poem, then)| (String::from_utf8(poem).expect("UTF-8"), then);
        (result.map(text).map_err(|failure| failure.to_string()), is_kept)
    }

    #[test]
    fn a_request_is_the_same_to_the_byte() {
        let mut options = HttpOptions::default();
        let request = |options: &HttpOptions, url: &str| {
            let download = Download::new(&url.parse().expect("a URL"), options);
            String::from_utf8(download.unsent().expect("a request").to_vec()).expect("UTF-8")
        };
        assert_eq!(
            request(&options, "http://localhost:8003/flags/ad/ad.gif"),
            "GET /flags/ad/ad.gif HTTP/1.1\r\nHost: localhost:8003\r\nUser-Agent: get-poetry/0.1.0\r\nAccept: */*\r\n\
             Accept-Encoding: identity\r\n\r\n"
        );
        assert!(request(&options, "http://[::1]:80?q").starts_with("GET /?q HTTP/1.1\r\nHost: [::1]\r\n"));
        options.proxy = Some("3128".parse().expect("an address"));
        let through = request(&options, "http://poems/a");
        assert!(through.starts_with("GET http://poems/a HTTP/1.1\r\nHost: poems\r\n"), "{through}");
    }

    #[test]
    fn a_reply_is_the_poem_or_says_why_not_however_it_is_cut() {
        let done = |poem: &str| Ok((poem.to_owned(), Then::Done));
        let fails = |why: &str| Err(why.to_owned());
        let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
        let ok = "HTTP/1.1 200 OK\r\n";
        let many = hints.repeat(11) + ok + "Content-Length: 1\r\n\r\na";
        for (reply, expected, is_kept) in [
            (&*format!("{ok}Content-Length: 6\r\n\r\na poem"), done("a poem"), true),
            (&format!("{ok}Content-Length: 0\r\n\r\n"), done(""), true),
            (&format!("{ok}Content-Length: 1, 1\r\n\r\na"), done("a"), true),
            (&format!("{ok}Transfer-Encoding: chunked\r\n\r\n6\r\na poem\r\n0\r\nX: y\r\n\r\n"), done("a poem"), true),
            (&format!("{ok}Content-Length: 1\r\nConnection: close\r\n\r\na"), done("a"), false),
            (&format!("{ok}\r\na poem"), done("a poem"), false),
            ("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na", done("a"), false),
            ("HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\na", done("a"), true),
            ("HTTP/1.1 203\nContent-Length: 1\n\na", done("a"), true),
            (&format!("{hints}{hints}{ok}Content-Length: 1\r\n\r\na"), done("a"), true),
            (&many, fails("more than 10 interim replies"), false),
            // Two framings: the chunks are believed, and the connection is not used again.
            (
                &format!("{ok}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n6\r\na poem\r\n0\r\n\r\n"),
                done("a poem"),
                false,
            ),
            (&format!("{ok}Content-Length: 3\r\nContent-Length: 5\r\n\r\nabcde"), fails("two lengths: 3 and 5"), false),
            (&format!("{ok}Content-Length: 100\r\n\r\n0123456789"), fails("truncated: 10 of 100 bytes"), false),
            (
                &format!("{ok}Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n"),
                fails("truncated: 5 bytes, and no last chunk"),
                false,
            ),
            (&format!("{ok}Transfer-Encoding: chunked\r\n\r\nnone"), fails("a chunk without a length"), false),
            ("HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\ngone", fails("HTTP 404 Not Found"), true),
            ("HTTP/1.1 404 Not Found\r\nContent-Length: 99999\r\n\r\n", fails("HTTP 404 Not Found"), false),
            ("HTTP/1.1 410\r\n\r\nwords", fails("HTTP 410"), false),
            ("HTTP/1.1 204 No Content\r\n\r\n", fails("HTTP 204 No Content"), true),
            ("HTTP/1.1 206 Partial Content\r\nContent-Length: 1\r\n\r\na", fails("HTTP 206 Partial Content"), true),
            ("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", fails("HTTP 304 Not Modified"), true),
            ("HTTP/1.1 101 Switching Protocols\r\n\r\n", fails("HTTP 101 Switching Protocols"), true),
            ("HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", fails("HTTP 302 Found"), true),
            (
                "HTTP/1.1 302 Found\r\nLocation: /c\r\nContent-Length: 0\r\n\r\n",
                Ok((String::new(), Then::Redirect)),
                true,
            ),
            (
                "HTTP/1.1 301 Moved\r\nLocation: https://poems/c\r\n\r\n",
                fails("redirected to https://poems/c: https is not spoken here; put socat or stunnel in front"),
                false,
            ),
            // The status says more than how its text breaks off.
            ("HTTP/1.1 500 Oops\r\nContent-Length: 9\r\n\r\nwo", fails("HTTP 500 Oops"), false),
            ("", fails("no reply"), false),
            ("HTTP/1.1 200 O", fails("truncated: the head of the reply breaks off"), false),
            (hints, fails("truncated: the head of the reply breaks off"), false),
            ("Sonnet", fails("this is no HTTP reply (a poem without it? write HOST:PORT)"), false),
            ("HTTP/2.0 200 OK\r\n\r\n", fails("this is no HTTP reply (a poem without it? write HOST:PORT)"), false),
        ] {
            for size in 1..=reply.len().clamp(1, 200) {
                assert_eq!(whole(reply, size), (expected.clone(), is_kept), "{reply:?} in pieces of {size}");
            }
        }
        // More than was asked for.
        let surplus = whole(&format!("{ok}Content-Length: 1\r\n\r\nabc"), 1_000);
        assert_eq!(surplus, (done("a"), false));
    }

    #[test]
    fn redirects_are_followed_so_often_and_no_further() {
        let options = HttpOptions { redirects: 3, ..HttpOptions::default() };
        let mut download = asked(&options);
        for (location, url) in [("c", "http://poems:1/a/c"), ("//d:2?e#f", "http://d:2/?e"), ("/a", "http://d:2/a")] {
            let reply = format!("HTTP/1.1 307 X\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n");
            let (result, _) = answer(&mut download, &options, reply.as_bytes(), 10);
            assert_eq!(result.expect("another leg").1, Then::Redirect);
            assert_eq!((download.url().to_string().as_str(), download.unsent().is_some()), (url, true));
            download.sent(download.request.len());
        }
        let reply = b"HTTP/1.1 307 X\r\nLocation: /\r\nContent-Length: 0\r\n\r\n";
        let (result, _) = answer(&mut download, &options, reply, 10);
        assert_eq!(result.expect_err("too many").to_string(), "more than 3 redirects");

        let options = HttpOptions { redirects: 0, ..HttpOptions::default() };
        let (result, _) = answer(&mut asked(&options), &options, reply, 10);
        assert_eq!(result.expect_err("off").to_string(), "HTTP 307 X");
        let (result, _) = whole(&format!("HTTP/1.1 301 X\r\nLocation: /{}\r\n\r\n", " ".repeat(2_000) + "x"), 100);
        let failure = result.expect_err("no URL");
        assert!(
            failure.len() < 300 && failure.ends_with("...: a URL has no spaces and no control characters"),
            "{failure}"
        );
    }

    #[test]
    fn what_stands_beside_the_poem_is_asked_for_on_the_same_connection() {
        let options = HttpOptions { beside: Some("metadata.json".to_owned()), ..HttpOptions::default() };
        let json = r#"{"country": "Andorra"}"#;
        let mut download = asked(&options);
        let reply = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\na poem";
        let (result, is_kept) = answer(&mut download, &options, reply, 10);
        assert_eq!((result.expect("a poem"), is_kept), ((b"a poem".to_vec(), Then::Beside), true));
        assert_eq!(download.url().to_string(), "http://poems:1/a/metadata.json");
        download.sent(download.request.len());
        let reply = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{json}", json.len());
        let (result, _) = answer(&mut download, &options, reply.as_bytes(), 10);
        assert_eq!((result.expect("JSON").1, download.json()), (Then::Done, json.as_bytes()));

        let long = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(BESIDE_LIMIT + 1));
        for (reply, status, why) in [
            ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "not_found", "HTTP 404 Not Found"),
            ("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", "error", "HTTP 500 Oops"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", "truncated", "truncated: 1 of 9 bytes"),
            (&long, "error", "longer than 65536 bytes"),
        ] {
            let mut download = asked(&options);
            let poem = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na";
            assert!(answer(&mut download, &options, poem, 10).0.is_ok());
            download.sent(download.request.len());
            let failure = answer(&mut download, &options, reply.as_bytes(), 1_000).0.expect_err(why);
            assert_eq!(failure.status().word(), status);
            assert_eq!(failure.to_string(), format!("http://poems:1/a/metadata.json: {why}"));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_heard_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), size in 1usize..50) {
            let options = HttpOptions::default();
            let _ = answer(&mut asked(&options), &options, &bytes, size);
            let reply = [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", &bytes[..]].concat();
            let _ = answer(&mut asked(&options), &options, &reply, size);
        }
    }
}
