//! The head of a message: its first line and its fields.
//!
//! The grammar is httparse's. What is added: limits, HTTP versions told apart from what is no HTTP, and the words and
//! numbers with which a server refuses a head.

use std::mem::MaybeUninit;

use httparse::{Header, ParserConfig};

use super::fields::Fields;
use super::{CLIENT_HEAD, FIELDS, REQUEST_LINE, SERVER_HEAD};

/// The version of a message; of others than these two nothing is understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0: a connection is closed after a reply, unless both say otherwise.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// The head of a request, as it stands in a buffer.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The method, a token. Case matters.
    pub method: &'a str,
    /// The request target, as it came.
    pub target: &'a str,
    /// The version.
    pub version: Version,
    /// The fields.
    pub fields: Fields<'a>,
    /// The length of the head in bytes, with the empty line at its end.
    pub len: usize,
}

/// The head of a reply, as it stands in a buffer.
#[derive(Debug, Clone, Copy)]
pub struct Response<'a> {
    /// The version.
    pub version: Version,
    /// The status code.
    pub status: u16,
    /// The reason phrase, which may be empty. It is for people, and says nothing that counts.
    pub reason: &'a str,
    /// The fields.
    pub fields: Fields<'a>,
    /// The length of the head in bytes, with the empty line at its end.
    pub len: usize,
}

impl Response<'_> {
    /// Whether the connection lives on after this reply, as far as its head tells (RFC 9112, section 9.3). Not after one that
    /// says twice where it ends (section 6.1): somebody on the way may believe the other one.
    pub fn keeps_connection(&self) -> bool {
        let says_twice = self.fields.get("transfer-encoding").is_some() && self.fields.get("content-length").is_some();
        let is_kept = match self.version {
            Version::Http10 => self.fields.has_token("connection", "keep-alive"),
            Version::Http11 => !self.fields.has_token("connection", "close"),
        };
        is_kept && !says_twice
    }
}

/// Room for the fields of a head.
#[derive(Debug)]
pub struct Room<'b>([MaybeUninit<Header<'b>>; FIELDS]);

impl Default for Room<'_> {
    fn default() -> Self {
        Self([const { MaybeUninit::uninit() }; FIELDS])
    }
}

/// Why a server does not understand the head of a request. Nothing after it can be understood either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// 400: this is no head of a request.
    #[error("{0}")]
    Malformed(&'static str),
    /// 414: the first line is too long.
    #[error("the first line is longer than {REQUEST_LINE} bytes")]
    LongTarget,
    /// 431: the head is too long.
    #[error("the head is longer than {SERVER_HEAD} bytes")]
    LongHead,
    /// 431: there are too many fields.
    #[error("there are more than {FIELDS} fields")]
    ManyFields,
    /// 505: another version of HTTP.
    #[error("this is another version of HTTP than 1.0 and 1.1")]
    Version,
}

impl BadRequest {
    /// The status of the reply.
    pub fn status(self) -> u16 {
        match self {
            Self::Malformed(_) => 400,
            Self::LongTarget => 414,
            Self::LongHead | Self::ManyFields => 431,
            Self::Version => 505,
        }
    }
}

/// Why a client does not understand the head of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadResponse {
    /// This is no head of a reply, or of another version.
    #[error("this is no HTTP reply")]
    NoHttp,
    /// The head is too long.
    #[error("the head of the reply is longer than {CLIENT_HEAD} bytes")]
    LongHead,
    /// There are too many fields.
    #[error("the reply has more than {FIELDS} fields")]
    ManyFields,
    /// A field is malformed.
    #[error("the reply has a malformed field")]
    Field,
}

/// The head of the request at the front of a buffer; `None` if it has not arrived as a whole. Empty lines before it are
/// skipped, and count as its length.
///
/// # Errors
/// It is refused; as soon as that is known, be the rest here or not.
pub fn request<'b>(bytes: &'b [u8], room: &'b mut Room<'b>) -> Result<Option<Request<'b>>, BadRequest> {
    let first_line = first_line(bytes);
    if first_line.len() > REQUEST_LINE {
        return Err(BadRequest::LongTarget);
    }
    let mut parsed = httparse::Request::new(&mut []);
    match ParserConfig::default().parse_request_with_uninit_headers(&mut parsed, bytes, &mut room.0) {
        Ok(httparse::Status::Complete(len)) if len > SERVER_HEAD => Err(BadRequest::LongHead),
        Ok(httparse::Status::Complete(len)) => Ok(Some(Request {
            method: parsed.method.unwrap_or_default(),
            target: parsed.path.unwrap_or_default(),
            version: version(parsed.version),
            fields: Fields(parsed.headers),
            len,
        })),
        Ok(httparse::Status::Partial) if bytes.len() >= SERVER_HEAD => Err(BadRequest::LongHead),
        Ok(httparse::Status::Partial) => Ok(None),
        Err(httparse::Error::Version) if is_another_version(first_line) => Err(BadRequest::Version),
        Err(httparse::Error::TooManyHeaders) => Err(BadRequest::ManyFields),
        Err(httparse::Error::HeaderName) => Err(BadRequest::Malformed("a field has no name that could be one")),
        Err(httparse::Error::HeaderValue) => Err(BadRequest::Malformed("a field has a byte that no value may have")),
        Err(httparse::Error::NewLine) => Err(BadRequest::Malformed("a line ends with a bare CR")),
        Err(_) => Err(BadRequest::Malformed("the first line is no METHOD TARGET HTTP/1.1")),
    }
}

/// The head of the reply at the front of a buffer; `None` if it has not arrived as a whole. A field that is folded into
/// several lines is left as it is: see [`Fields`].
///
/// # Errors
/// It is refused; as soon as that is known, be the rest here or not.
pub fn response<'b>(bytes: &'b [u8], room: &'b mut Room<'b>) -> Result<Option<Response<'b>>, BadResponse> {
    let mut parsed = httparse::Response::new(&mut []);
    let mut config = ParserConfig::default();
    config.allow_obsolete_multiline_headers_in_responses(true);
    match config.parse_response_with_uninit_headers(&mut parsed, bytes, &mut room.0) {
        Ok(httparse::Status::Complete(len)) if len > CLIENT_HEAD => Err(BadResponse::LongHead),
        Ok(httparse::Status::Complete(len)) => Ok(Some(Response {
            version: version(parsed.version),
            status: parsed.code.unwrap_or_default(),
            reason: parsed.reason.unwrap_or_default(),
            fields: Fields(parsed.headers),
            len,
        })),
        Ok(httparse::Status::Partial) if bytes.len() >= CLIENT_HEAD => Err(BadResponse::LongHead),
        Ok(httparse::Status::Partial) => Ok(None),
        Err(httparse::Error::TooManyHeaders) => Err(BadResponse::ManyFields),
        Err(httparse::Error::HeaderName | httparse::Error::HeaderValue | httparse::Error::NewLine) => {
            Err(BadResponse::Field)
        }
        Err(_) => Err(BadResponse::NoHttp),
    }
}

/// What httparse calls 0 or 1; it knows no other one.
fn version(minor: Option<u8>) -> Version {
    if minor == Some(0) { Version::Http10 } else { Version::Http11 }
}

/// The first line that is not empty, as far as it has arrived, without its end.
fn first_line(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().position(|byte| !b"\r\n".contains(byte)).unwrap_or(bytes.len());
    let line = &bytes[start..];
    let end = line.iter().position(|&byte| byte == b'\n').unwrap_or(line.len());
    line[..end].trim_ascii_end()
}

/// Whether a first line ends with a version that would be one of HTTP: `HTTP/2.0`.
fn is_another_version(line: &[u8]) -> bool {
    let version = line.rsplit(|&byte| byte == b' ').next().and_then(|word| word.strip_prefix(b"HTTP/"));
    matches!(version, Some([major, b'.', minor]) if major.is_ascii_digit() && minor.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of a request: method, target and length of its head; more to come; or a refusal.
    fn ask(bytes: &[u8]) -> Result<Option<(String, String, usize)>, BadRequest> {
        let mut room = Room::default();
        let found = request(bytes, &mut room)?;
        Ok(found.map(|found| (found.method.to_owned(), found.target.to_owned(), found.len)))
    }

    fn answer(bytes: &[u8]) -> Result<Option<(u16, String, usize)>, BadResponse> {
        let mut room = Room::default();
        let found = response(bytes, &mut room)?;
        Ok(found.map(|found| (found.status, found.reason.to_owned(), found.len)))
    }

    #[test]
    fn heads_end_with_an_empty_line_however_lines_end() {
        for head in ["GET /a HTTP/1.1\r\nHost: b\r\n\r\n", "GET /a HTTP/1.0\n\n", "\r\n\r\nGET /a HTTP/1.1\r\n\n"] {
            let bytes = format!("{head}GET /next");
            assert_eq!(ask(bytes.as_bytes()), Ok(Some(("GET".to_owned(), "/a".to_owned(), head.len()))), "{head:?}");
            for end in 0..head.len() {
                assert_eq!(ask(&head.as_bytes()[..end]), Ok(None), "{:?}", &head[..end]);
            }
        }
    }

    #[test]
    fn what_is_no_head_is_refused_with_its_status() {
        let malformed = |bytes: &str| ask(bytes.as_bytes()).expect_err(bytes);
        for head in [
            "GET\r\n\r\n",
            "GET /\r\n\r\n",
            "GET / HTTQ/1.1\r\n\r\n",
            "GET / HTTP/x.1\r\n\r\n",
            "G(T / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            "GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
            "GET / HTTP/1.1\r\nA: b\rc\r\n\r\n",
            "GET / HTTP/1.1\r\nA: b\0c\r\n\r\n",
            "GET / HTTP/1.1\r\nno colon\r\n\r\n",
            "GET / HTTP/1.1\rX: y\r\n\r\n",
            "12:hello world!,",
        ] {
            assert_eq!(malformed(head).status(), 400, "{head:?}");
        }
        for head in ["GET / HTTP/2.0\r\n\r\n", "GET / HTTP/0.9\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
            assert_eq!(malformed(head), BadRequest::Version, "{head:?}");
        }
        assert_eq!(BadRequest::Version.status(), 505);
    }

    #[test]
    fn a_head_has_limits() {
        let line = |len: usize| format!("GET /{} HTTP/1.1", "a".repeat(len - "GET / HTTP/1.1".len()));
        assert_eq!(ask(format!("{}\r\n\r\n", line(REQUEST_LINE)).as_bytes()).map(|found| found.is_some()), Ok(true));
        for unfinished in [line(REQUEST_LINE + 1) + "\r\n\r\n", "G".repeat(REQUEST_LINE + 1)] {
            assert_eq!(ask(unfinished.as_bytes()), Err(BadRequest::LongTarget));
        }
        let long = format!("GET / HTTP/1.1\r\nA: {}", "b".repeat(SERVER_HEAD));
        for head in [&*long, &format!("{long}\r\n\r\n")] {
            assert_eq!(ask(head.as_bytes()), Err(BadRequest::LongHead));
        }
        let fields = |count: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(count));
        assert_eq!(ask(fields(FIELDS).as_bytes()).map(|found| found.is_some()), Ok(true));
        assert_eq!(ask(fields(FIELDS + 1).as_bytes()), Err(BadRequest::ManyFields));
        assert_eq!(
            [BadRequest::LongTarget, BadRequest::LongHead, BadRequest::ManyFields].map(BadRequest::status),
            [414, 431, 431]
        );
    }

    #[test]
    fn a_reply_has_a_status_and_perhaps_a_reason() {
        let head = "HTTP/1.1 404 Not Found\r\nA: b\r\n folded\r\n\r\n";
        assert_eq!(answer(head.as_bytes()), Ok(Some((404, "Not Found".to_owned(), head.len()))));
        for end in 0..head.len() {
            assert_eq!(answer(&head.as_bytes()[..end]), Ok(None), "{:?}", &head[..end]);
        }
        assert_eq!(answer(b"HTTP/1.0 200\n\n"), Ok(Some((200, String::new(), 14))));
        for bytes in ["Sonnet - To Science\n", "HTTP/2.0 200 OK\r\n\r\n", "HTTP/1.1 20 OK\r\n\r\n"] {
            assert_eq!(answer(bytes.as_bytes()), Err(BadResponse::NoHttp), "{bytes}");
        }
        assert_eq!(answer(b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n"), Err(BadResponse::Field));
        let long = format!("HTTP/1.1 200 OK\r\nA: {}", "b".repeat(CLIENT_HEAD));
        assert_eq!(answer(long.as_bytes()), Err(BadResponse::LongHead));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(FIELDS + 1));
        assert_eq!(answer(many.as_bytes()), Err(BadResponse::ManyFields));
    }
}
