//! Replies that a server of ours makes itself.

use std::fmt::Write as _;
use std::time::SystemTime;

use hyper::StatusCode;

use super::fields::date;
use super::framing::Framing;

/// The head of a reply that is made at the moment `now`, with its empty line. `more` are whole lines, of fields.
pub fn head(status: u16, media_type: &str, framing: Framing, is_last: bool, more: &str, now: SystemTime) -> Vec<u8> {
    let mut head = String::with_capacity(200);
    // Writing into memory cannot fail.
    let _ = write!(head, "HTTP/1.1 {status} {}\r\nDate: {}\r\n", reason(status), date(now));
    let _ = write!(head, "Content-Type: {media_type}\r\n");
    match framing {
        Framing::Length(bytes) => {
            let _ = write!(head, "Content-Length: {bytes}\r\n");
        }
        Framing::Chunked => head.push_str("Transfer-Encoding: chunked\r\n"),
        Framing::None | Framing::UntilClose => {}
    }
    if is_last {
        head.push_str("Connection: close\r\n");
    }
    head.push_str(more);
    head.push_str("\r\n");
    head.into_bytes()
}

/// The reason phrase of a status (RFC 9110, section 15); empty if it has none.
pub fn reason(status: u16) -> &'static str {
    StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or_default()
}
