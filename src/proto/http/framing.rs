//! Who says where a body ends: nobody, a length, chunks, or the end of the stream (RFC 9112, section 6.3).
//!
//! ```text
//!   length    Content-Length: 12          hello world!
//!   chunked   Transfer-Encoding: chunked  6 CRLF hello_ CRLF 6 CRLF world! CRLF 0 CRLF CRLF
//!   close                                 hello world! FIN
//! ```
//!
//! With a length or with chunks, a body that breaks off is known to have done so. With the end of the stream it is not:
//! half a body looks like a whole one.

use std::io::Write;

use super::fields::Fields;
use super::head::Version;
use super::{CHUNK_LINE, TRAILERS};

/// Who says where a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Nobody needs to: there is none.
    None,
    /// Its length was said before.
    Length(u64),
    /// Each part says how long it is, and the last one that it is the last.
    Chunked,
    /// The end of the stream.
    UntilClose,
}

/// Why nobody can say where a message ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A length that is no number, or too large for one.
    #[error("the length is no number")]
    BadLength,
    /// Two lengths that are not the same.
    #[error("two lengths: {0} and {1}")]
    TwoLengths(u64, u64),
    /// A request has a length, and chunks, too.
    #[error("a length and a coding together")]
    LengthAndCoding,
    /// Codings, of which chunked is not the last, or not the only one.
    #[error("a coding that is not chunked")]
    Coding,
    /// HTTP/1.0 has no codings.
    #[error("a coding in HTTP/1.0")]
    CodingIn10,
    /// The line that begins a chunk has no length in hexadecimal digits, or more of them than a length can have.
    #[error("a chunk without a length")]
    ChunkLength,
    /// A line of chunks ends with something else than CR LF, or has one of the two within.
    #[error("a line between chunks does not end with CR LF")]
    ChunkLine,
    /// The line that begins a chunk is too long.
    #[error("the line of a chunk is longer than {CHUNK_LINE} bytes")]
    LongChunkLine,
    /// The trailers are too long.
    #[error("the trailers are longer than {TRAILERS} bytes")]
    LongTrailers,
}

/// The body of a request (RFC 9112, section 6.3, for servers).
///
/// # Errors
/// It is to be refused with 400, and the connection closed: what follows could be the body or the next request.
pub fn of_request(version: Version, fields: &Fields<'_>) -> Result<Framing, Fault> {
    match (coding(version, fields)?, length(fields)?) {
        (true, Some(_)) => Err(Fault::LengthAndCoding),
        (true, None) => Ok(Framing::Chunked),
        (false, Some(0) | None) => Ok(Framing::None),
        (false, Some(length)) => Ok(Framing::Length(length)),
    }
}

/// The body of a reply to a request with this method (RFC 9112, section 6.3, for clients).
///
/// # Errors
/// The reply cannot be used, and neither can the connection.
pub fn of_response(method: &str, status: u16, version: Version, fields: &Fields<'_>) -> Result<Framing, Fault> {
    let has_none = method == "HEAD" || matches!(status, 100..200 | 204 | 304);
    match (coding(version, fields)?, length(fields)) {
        _ if has_none => Ok(Framing::None),
        // The coding overrides the length, whatever that is.
        (true, _) => Ok(Framing::Chunked),
        (false, length) => Ok(length?.map_or(Framing::UntilClose, Framing::Length)),
    }
}

/// Whether the body is chunked.
fn coding(version: Version, fields: &Fields<'_>) -> Result<bool, Fault> {
    if fields.get("transfer-encoding").is_none() {
        return Ok(false);
    }
    let mut codings = fields.list("transfer-encoding");
    match (codings.next(), codings.next()) {
        _ if version == Version::Http10 => Err(Fault::CodingIn10),
        (Some(only), None) if only.eq_ignore_ascii_case(b"chunked") => Ok(true),
        _ => Err(Fault::Coding),
    }
}

/// The length that is said, if one is. The same one several times is one.
fn length(fields: &Fields<'_>) -> Result<Option<u64>, Fault> {
    let mut found = None;
    for value in fields.all("content-length").flat_map(|value| value.split(|&byte| byte == b',')) {
        let value = value.trim_ascii();
        if !value.iter().all(u8::is_ascii_digit) {
            return Err(Fault::BadLength);
        }
        let number = str::from_utf8(value).ok().and_then(|digits| digits.parse().ok()).ok_or(Fault::BadLength)?;
        match found {
            Some(before) if before != number => return Err(Fault::TwoLengths(before, number)),
            _ => found = Some(number),
        }
    }
    Ok(found)
}

/// Takes a body out of a stream, as its framing tells.
#[derive(Debug, Clone)]
pub struct Decoder {
    state: State,
    /// Bytes of the body so far.
    got: u64,
    /// As it was said before.
    announced: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// So much of the body, or of a part of it.
    Left {
        bytes: u64,
        then: Then,
    },
    /// All that comes.
    UntilClose,
    /// The line that begins a chunk: its length so far, the number of its digits, and bytes of the line.
    Size {
        length: u64,
        digits: usize,
        line: usize,
    },
    /// What may follow the length: extensions, which mean nothing here.
    Extension {
        length: u64,
        line: usize,
    },
    /// The LF after such a line.
    SizeEnd {
        length: u64,
    },
    /// The CR LF after a chunk; the first of them is here, or not.
    ChunkEnd {
        cr: bool,
    },
    /// A line of the trailers: bytes of all of them, and of this line.
    Trailer {
        all: usize,
        line: usize,
    },
    /// The LF after such a line, the last one of which is empty.
    TrailerEnd {
        all: usize,
        is_last: bool,
    },
    End,
}

/// What follows a run of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    End,
    ChunkEnd,
}

/// What a [`Decoder`] has found at the front of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'b> {
    /// A part of the body; never empty.
    Body(&'b [u8]),
    /// Nothing: more has to come.
    More,
    /// The end of the body. What is left is of the next message.
    End,
}

/// A body that breaks off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub struct Truncated {
    /// Bytes of the body that have arrived.
    pub got: u64,
    /// Bytes that were announced, if that was known.
    pub announced: Option<u64>,
}

impl std::fmt::Display for Truncated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.announced {
            Some(announced) => write!(f, "{} of {announced} bytes", self.got),
            None => write!(f, "{} bytes, and no last chunk", self.got),
        }
    }
}

/// The most digits of a length that fits.
const HEX_DIGITS: usize = 16;

impl Decoder {
    /// A decoder at the beginning of a body.
    pub fn new(framing: Framing) -> Self {
        let (state, announced) = match framing {
            Framing::None | Framing::Length(0) => (State::End, None),
            Framing::Length(bytes) => (State::Left { bytes, then: Then::End }, Some(bytes)),
            Framing::Chunked => (SIZE, None),
            Framing::UntilClose => (State::UntilClose, None),
        };
        Self { state, got: 0, announced }
    }

    /// Takes what comes next off the front of `bytes`. However a body is cut into pieces, it is the same one.
    ///
    /// # Errors
    /// At the earliest byte that shows that these are no chunks.
    pub fn next<'b>(&mut self, bytes: &mut &'b [u8]) -> Result<Piece<'b>, Fault> {
        loop {
            if self.state == State::End {
                return Ok(Piece::End);
            }
            if bytes.is_empty() {
                return Ok(Piece::More);
            }
            let most = match self.state {
                State::Left { bytes, .. } => usize::try_from(bytes).unwrap_or(usize::MAX),
                State::UntilClose => usize::MAX,
                _ => {
                    let (&byte, rest) = bytes.split_first().unwrap_or((&0, &[]));
                    self.state = self.state.after(byte)?;
                    *bytes = rest;
                    continue;
                }
            };
            let (piece, rest) = bytes.split_at(most.min(bytes.len()));
            *bytes = rest;
            self.got += piece.len() as u64;
            if let State::Left { bytes, then } = self.state {
                self.state = match (bytes - piece.len() as u64, then) {
                    (0, Then::End) => State::End,
                    (0, Then::ChunkEnd) => State::ChunkEnd { cr: false },
                    (bytes, then) => State::Left { bytes, then },
                };
            }
            return Ok(Piece::Body(piece));
        }
    }

    /// The stream has ended.
    ///
    /// # Errors
    /// The body had not.
    pub fn end_of_stream(&self) -> Result<(), Truncated> {
        match self.state {
            State::End | State::UntilClose => Ok(()),
            _ => Err(Truncated { got: self.got, announced: self.announced }),
        }
    }

    /// Whether the body has ended, before the end of the stream.
    pub fn is_at_end(&self) -> bool {
        self.state == State::End
    }
}

/// The beginning of a chunk.
const SIZE: State = State::Size { length: 0, digits: 0, line: 0 };

impl State {
    /// The state after one more byte of what is no part of the body.
    fn after(self, byte: u8) -> Result<Self, Fault> {
        Ok(match (self, byte) {
            (Self::Size { line, .. } | Self::Extension { line, .. }, _) if line == CHUNK_LINE => {
                return Err(Fault::LongChunkLine);
            }
            (Self::Size { length, digits, line }, _) if byte.is_ascii_hexdigit() => {
                if digits == HEX_DIGITS {
                    return Err(Fault::ChunkLength);
                }
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                Self::Size { length: length << 4 | u64::from(digit), digits: digits + 1, line: line + 1 }
            }
            (Self::Size { digits: 0, .. }, _) => return Err(Fault::ChunkLength),
            (Self::Size { length, .. } | Self::Extension { length, .. }, b'\r') => Self::SizeEnd { length },
            (Self::Size { .. } | Self::Extension { .. }, b'\n') => return Err(Fault::ChunkLine),
            (Self::Size { length, line, .. }, b';' | b' ' | b'\t') | (Self::Extension { length, line }, _) => {
                Self::Extension { length, line: line + 1 }
            }
            (Self::Size { .. }, _) => return Err(Fault::ChunkLength),
            (Self::SizeEnd { length: 0 }, b'\n') => Self::Trailer { all: 0, line: 0 },
            (Self::SizeEnd { length }, b'\n') => Self::Left { bytes: length, then: Then::ChunkEnd },
            (Self::ChunkEnd { cr: false }, b'\r') => Self::ChunkEnd { cr: true },
            (Self::ChunkEnd { cr: true }, b'\n') => SIZE,
            (Self::Trailer { all, .. }, _) if all == TRAILERS => return Err(Fault::LongTrailers),
            (Self::Trailer { all, line }, b'\r') => Self::TrailerEnd { all, is_last: line == 0 },
            (Self::Trailer { all, line }, _) if byte != b'\n' => Self::Trailer { all: all + 1, line: line + 1 },
            (Self::TrailerEnd { is_last: true, .. }, b'\n') => Self::End,
            (Self::TrailerEnd { all, .. }, b'\n') => Self::Trailer { all, line: 0 },
            _ => return Err(Fault::ChunkLine),
        })
    }
}

/// The framing of a body on its way out: what has to be sent before its bytes, and after them.
///
/// A sender [begins](Self::begin) each part of the body that it wants to send together, sends the body's bytes, and
/// [ends](Self::end) the body when all of it is sent. Without the end, a body with a length or with chunks has broken off.
#[derive(Debug, Clone)]
pub struct Encoder {
    framing: Framing,
    /// Bytes of the chunk that are not sent yet.
    left: u64,
    /// Whether a chunk has been begun that has to be closed.
    in_chunk: bool,
}

impl Encoder {
    /// An encoder at the beginning of a body.
    pub fn new(framing: Framing) -> Self {
        Self { framing, left: 0, in_chunk: false }
    }

    /// Begins a part of so many bytes, unless one is under way, and appends what has to go before them. Returns how many
    /// bytes of the body may follow.
    pub fn begin(&mut self, bytes: u64, out: &mut Vec<u8>) -> u64 {
        if self.framing != Framing::Chunked {
            return bytes;
        }
        if self.left == 0 && bytes > 0 {
            // Writing into memory cannot fail.
            let _ = write!(out, "{}{bytes:x}\r\n", if self.in_chunk { "\r\n" } else { "" });
            (self.left, self.in_chunk) = (bytes, true);
        }
        self.left.min(bytes)
    }

    /// Counts so many bytes of the body as sent.
    pub fn sent(&mut self, bytes: u64) {
        self.left = self.left.saturating_sub(bytes);
    }

    /// Appends what has to go after the last byte.
    pub fn end(&mut self, out: &mut Vec<u8>) {
        if self.framing == Framing::Chunked {
            out.extend_from_slice(if self.in_chunk { b"\r\n0\r\n\r\n" } else { b"0\r\n\r\n" });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::head::{Room, request, response};
    use super::*;

    fn asked(version: &str, fields: &str) -> Result<Framing, Fault> {
        let head = format!("GET / HTTP/{version}\r\n{fields}\r\n");
        let mut room = Room::default();
        let head = request(head.as_bytes(), &mut room).expect("a head").expect("all of it");
        of_request(head.version, &head.fields)
    }

    fn answered(method: &str, status: u16, version: &str, fields: &str) -> Result<Framing, Fault> {
        let head = format!("HTTP/{version} {status} X\r\n{fields}\r\n");
        let mut room = Room::default();
        let head = response(head.as_bytes(), &mut room).expect("a head").expect("all of it");
        of_response(method, head.status, head.version, &head.fields)
    }

    const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";

    #[test]
    fn requests_say_clearly_where_they_end_or_are_refused() {
        for (fields, expected) in [
            ("", Ok(Framing::None)),
            ("Content-Length: 0\r\n", Ok(Framing::None)),
            ("Content-Length: 3\r\n", Ok(Framing::Length(3))),
            ("Content-Length: 3\r\ncontent-length: 3, 3\r\n", Ok(Framing::Length(3))),
            (CHUNKED, Ok(Framing::Chunked)),
            ("Transfer-Encoding: CHUNKED\r\n", Ok(Framing::Chunked)),
            ("Content-Length: 3\r\nContent-Length: 5\r\n", Err(Fault::TwoLengths(3, 5))),
            ("Content-Length: 3, 5\r\n", Err(Fault::TwoLengths(3, 5))),
            ("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", Err(Fault::LengthAndCoding)),
            ("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", Err(Fault::LengthAndCoding)),
            ("Content-Length: +3\r\n", Err(Fault::BadLength)),
            ("Content-Length: -3\r\n", Err(Fault::BadLength)),
            ("Content-Length: 3,\r\n", Err(Fault::BadLength)),
            ("Content-Length:\r\n", Err(Fault::BadLength)),
            ("Content-Length: 0x3\r\n", Err(Fault::BadLength)),
            ("Content-Length: 18446744073709551616\r\n", Err(Fault::BadLength)),
            ("Transfer-Encoding: gzip, chunked\r\n", Err(Fault::Coding)),
            ("Transfer-Encoding: chunked, gzip\r\n", Err(Fault::Coding)),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Err(Fault::Coding)),
            ("Transfer-Encoding: xchunked\r\n", Err(Fault::Coding)),
            ("Transfer-Encoding:\r\n", Err(Fault::Coding)),
        ] {
            assert_eq!(asked("1.1", fields), expected, "{fields:?}");
        }
        assert_eq!(asked("1.0", CHUNKED), Err(Fault::CodingIn10));
    }

    #[test]
    fn replies_end_as_the_table_of_the_rfc_has_it() {
        let length = "Content-Length: 3\r\n";
        let both = "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n";
        for (method, status, fields, expected) in [
            ("GET", 200, "", Ok(Framing::UntilClose)),
            ("GET", 200, length, Ok(Framing::Length(3))),
            ("GET", 200, CHUNKED, Ok(Framing::Chunked)),
            ("GET", 200, both, Ok(Framing::Chunked)),
            ("GET", 200, "Content-Length: 3\r\nContent-Length: 5\r\n", Err(Fault::TwoLengths(3, 5))),
            ("HEAD", 200, length, Ok(Framing::None)),
            ("GET", 204, length, Ok(Framing::None)),
            ("GET", 304, length, Ok(Framing::None)),
            ("GET", 103, "", Ok(Framing::None)),
            ("GET", 404, length, Ok(Framing::Length(3))),
            ("GET", 200, "Transfer-Encoding: gzip\r\n", Err(Fault::Coding)),
        ] {
            assert_eq!(answered(method, status, "1.1", fields), expected, "{method} {status} {fields:?}");
        }
        assert_eq!(answered("GET", 200, "1.0", CHUNKED), Err(Fault::CodingIn10));
    }

    /// All of a body that is fed piece by piece, what is left behind it, and whether it has ended.
    fn decode(framing: Framing, stream: &[u8], cuts: &[usize]) -> Result<(Vec<u8>, Vec<u8>, bool), Fault> {
        let mut decoder = Decoder::new(framing);
        let (mut body, mut start) = (Vec::new(), 0);
        let mut rest = Vec::new();
        for end in cuts.iter().copied().chain([stream.len()]) {
            let mut bytes = &stream[start..end];
            start = end;
            loop {
                match decoder.next(&mut bytes)? {
                    Piece::Body(piece) => {
                        assert!(!piece.is_empty());
                        body.extend_from_slice(piece);
                    }
                    Piece::More => break,
                    Piece::End => {
                        rest.extend_from_slice(bytes);
                        break;
                    }
                }
            }
        }
        Ok((body, rest, decoder.is_at_end()))
    }

    fn whole(framing: Framing, stream: &str) -> Result<(String, String, bool), Fault> {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        decode(framing, stream.as_bytes(), &[]).map(|(body, rest, ended)| (text(body), text(rest), ended))
    }

    #[test]
    fn bodies_end_where_they_say() {
        for (framing, stream, body, rest, ended) in [
            (Framing::None, "next", "", "next", true),
            (Framing::Length(0), "next", "", "next", true),
            (Framing::Length(3), "abcnext", "abc", "next", true),
            (Framing::Length(3), "ab", "ab", "", false),
            (Framing::UntilClose, "abc", "abc", "", false),
            (Framing::Chunked, "3\r\nabc\r\n0\r\n\r\nnext", "abc", "next", true),
            (Framing::Chunked, "3;a=\"b\"\r\nabc\r\n00a \t\r\n0123456789\r\n0\r\n\r\n", "abc0123456789", "", true),
            (Framing::Chunked, "0\r\nA: b\r\nC: d\r\n\r\nnext", "", "next", true),
            (Framing::Chunked, "A\r\n0123456789\r\n", "0123456789", "", false),
        ] {
            let expected = Ok((body.to_owned(), rest.to_owned(), ended));
            assert_eq!(whole(framing, stream), expected, "{framing:?} {stream:?}");
        }
    }

    #[test]
    fn what_are_no_chunks_is_refused() {
        for (stream, fault) in [
            ("\r\n", Fault::ChunkLength),
            ("x\r\n", Fault::ChunkLength),
            (" 3\r\n", Fault::ChunkLength),
            ("-3\r\n", Fault::ChunkLength),
            ("3g\r\n", Fault::ChunkLength),
            ("00000000000000003\r\n", Fault::ChunkLength),
            ("3\nabc", Fault::ChunkLine),
            ("3\rabc", Fault::ChunkLine),
            ("3;a\nabc", Fault::ChunkLine),
            ("3;a\rb\r\n", Fault::ChunkLine),
            ("3\r\nabcd", Fault::ChunkLine),
            ("3\r\nabc\n", Fault::ChunkLine),
            ("3\r\nabc\rx", Fault::ChunkLine),
            ("0\r\n\n", Fault::ChunkLine),
            ("0\r\nA: b\n\r\n", Fault::ChunkLine),
        ] {
            assert_eq!(whole(Framing::Chunked, stream), Err(fault), "{stream:?}");
        }
        let largest = format!("{}\r\n", "f".repeat(HEX_DIGITS));
        assert_eq!(whole(Framing::Chunked, &largest), Ok((String::new(), String::new(), false)));
        assert_eq!(whole(Framing::Chunked, &format!("3;{}", "a".repeat(CHUNK_LINE))), Err(Fault::LongChunkLine));
        assert_eq!(whole(Framing::Chunked, &format!("0\r\n{}", "a".repeat(TRAILERS + 1))), Err(Fault::LongTrailers));
        assert_eq!(
            whole(Framing::Chunked, &format!("0\r\n{}", "A: b\r\n".repeat(TRAILERS / 4 + 1))),
            Err(Fault::LongTrailers)
        );
    }

    #[test]
    fn a_body_that_breaks_off_is_known_to_unless_the_stream_ends_it() {
        for (framing, stream, said) in [
            (Framing::Length(100), "0123456789", Some("10 of 100 bytes")),
            (Framing::Chunked, "a\r\n0123456789\r\n", Some("10 bytes, and no last chunk")),
            (Framing::Chunked, "a\r\n0123456789\r\n0\r\n\r", Some("10 bytes, and no last chunk")),
            (Framing::UntilClose, "0123456789", None),
            (Framing::Length(10), "0123456789", None),
            (Framing::None, "", None),
        ] {
            let (mut decoder, mut bytes) = (Decoder::new(framing), stream.as_bytes());
            while let Piece::Body(_) = decoder.next(&mut bytes).expect("no fault") {}
            assert_eq!(decoder.end_of_stream().err().map(|truncated| truncated.to_string()).as_deref(), said);
        }
    }

    /// A body as it is sent, in parts of which so many bytes are taken at a time.
    fn encode(framing: Framing, body: &[u8], parts: &[usize], taken: usize) -> Vec<u8> {
        let (mut encoder, mut out, mut at) = (Encoder::new(framing), Vec::new(), 0);
        for &part in parts.iter().chain([&body.len()]) {
            let end = (at + part).min(body.len());
            while at < end {
                let bytes = encoder.begin((end - at) as u64, &mut out);
                let bytes = usize::try_from(bytes).expect("in memory").min(taken);
                out.extend_from_slice(&body[at..at + bytes]);
                encoder.sent(bytes as u64);
                at += bytes;
            }
        }
        encoder.end(&mut out);
        out
    }

    #[test]
    fn chunks_are_the_parts_that_were_begun() {
        let stream = encode(Framing::Chunked, b"hello world!", &[6, 6], 4);
        assert_eq!(stream, b"6\r\nhello \r\n6\r\nworld!\r\n0\r\n\r\n");
        assert_eq!(encode(Framing::Chunked, b"", &[], 1), b"0\r\n\r\n");
        assert_eq!(encode(Framing::Length(5), b"hello", &[2], 1), b"hello");
    }

    proptest! {
        #[test]
        fn however_it_is_cut_a_body_arrives_as_it_was(
            body in proptest::collection::vec(any::<u8>(), 0..200),
            parts in proptest::collection::vec(1_usize..50, 0..8),
            taken in 1_usize..20,
            mut cuts in proptest::collection::vec(0_usize..400, 0..10),
        ) {
            for framing in [Framing::Chunked, Framing::Length(body.len() as u64)] {
                let mut stream = encode(framing, &body, &parts, taken);
                stream.extend_from_slice(b"next");
                cuts.iter_mut().for_each(|cut| *cut = (*cut).min(stream.len()));
                cuts.sort_unstable();
                prop_assert_eq!(decode(framing, &stream, &cuts), Ok((body.clone(), b"next".to_vec(), true)));
                let every: Vec<usize> = (1..stream.len()).collect();
                prop_assert_eq!(decode(framing, &stream, &every), Ok((body.clone(), b"next".to_vec(), true)));
            }
        }

        #[test]
        fn however_it_is_cut_a_fault_is_the_same(stream in "[0-9a-f;\r\n]{0,40}", cut in 0_usize..40) {
            let bytes = stream.as_bytes();
            let cut = cut.min(bytes.len());
            prop_assert_eq!(decode(Framing::Chunked, bytes, &[cut]), decode(Framing::Chunked, bytes, &[]));
        }
    }
}
