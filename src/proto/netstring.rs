//! Netstrings: frames that say how long they are.
//!
//! ```text
//!   1 2 : h e l l o   w o r l d ! ,        the payload "hello world!"
//!   ─┬─ │ ───────────┬─────────── │
//!  length             payload     the byte that shows that both sides count alike
//!
//!   0 : ,                                   the empty payload
//! ```
//!
//! The length is in ASCII decimal digits, without leading zeros, sign or white space; a payload may be any bytes.
//! The specification is D. J. Bernstein, *Netstrings* (1997), <https://cr.yp.to/proto/netstrings.txt>.
//!
//! Nothing here does I/O or allocates for what has only been announced. A [`Decoder`] looks at the bytes that have
//! arrived, however they were cut; an [`Outgoing`] is a netstring on its way out, however little is taken at a time.
//!
//! ```
//! use poetry_suite::proto::netstring::{Decoder, Outgoing};
//!
//! let stream = Outgoing::new("hello world!").unsent().map(|part| part.to_vec()).concat();
//! assert_eq!(stream, b"12:hello world!,");
//!
//! let mut decoder = Decoder::new(1024);
//! let mut rest = &stream[..9];
//! assert_eq!(decoder.decode(&mut rest), Ok(None)); // more has to come
//! rest = &stream;
//! assert_eq!(decoder.decode(&mut rest), Ok(Some(&b"hello world!"[..])));
//! assert!(rest.is_empty());
//! ```

use std::io::IoSlice;

use tokio_util::bytes::{Buf, Bytes, BytesMut};

use crate::units::count;

/// Where a stream is not netstrings, and why. Nothing after it can be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("byte {at}: {what}")]
pub struct Error {
    /// The first byte that proves it, counted from 0 at the start of the stream.
    pub at: u64,
    /// What is wrong with it.
    pub what: Malformed,
}

/// What can be wrong with a netstring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A length begins with something else than a digit, or goes on with something else than a digit or a colon.
    #[error("'{}' in the length", char::from(*.0).escape_default())]
    NoDigit(u8),
    /// A digit follows a zero that begins the length.
    #[error("a zero before the length")]
    LeadingZero,
    /// The length is over the decoder's limit of so many bytes, whatever digits follow.
    #[error("longer than {}", count(*.0 as u64, "byte"))]
    TooLong(usize),
    /// The payload is not followed by a comma.
    #[error("'{}' where the payload should end with ','", char::from(*.0).escape_default())]
    NoComma(u8),
    /// The stream ends within a netstring.
    #[error("the stream ends within a netstring")]
    Truncated,
}

/// Takes netstrings from a stream of bytes.
#[derive(Debug, Clone)]
pub struct Decoder {
    limit: usize,
    /// Bytes of the stream before the netstring that comes next.
    taken: u64,
}

impl Decoder {
    /// A decoder that refuses payloads of more than `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { limit, taken: 0 }
    }

    /// Takes the next netstring off the front of `bytes` and returns its payload; `None` if it is not complete.
    ///
    /// What is left in `bytes` has to be there again, with more behind it, in the next call. Only the length is
    /// looked at twice.
    ///
    /// # Errors
    /// At the earliest byte that proves that this is not a netstring within the limit.
    pub fn decode<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<&'a [u8]>, Error> {
        let Some((start, end)) = self.find(bytes)? else { return Ok(None) };
        let payload = &bytes[start..end];
        *bytes = &bytes[end + 1..];
        self.taken += end as u64 + 1;
        Ok(Some(payload))
    }

    /// Takes the next netstring out of a buffer, as [`decode`](Self::decode) does, without copying its payload.
    ///
    /// # Errors
    /// As for [`decode`](Self::decode).
    pub fn split(&mut self, bytes: &mut BytesMut) -> Result<Option<Bytes>, Error> {
        let Some((start, end)) = self.find(bytes)? else { return Ok(None) };
        self.taken += end as u64 + 1;
        bytes.advance(start);
        let payload = bytes.split_to(end - start).freeze();
        bytes.advance(1);
        Ok(Some(payload))
    }

    /// The stream has ended, with `rest` left in it.
    ///
    /// # Errors
    /// That was not the end of a netstring.
    pub fn finish(&self, rest: &[u8]) -> Result<(), Error> {
        if rest.is_empty() { Ok(()) } else { Err(self.error(rest.len(), Malformed::Truncated)) }
    }

    /// Where the payload of the first netstring begins and ends, if the comma behind it is there.
    fn find(&self, bytes: &[u8]) -> Result<Option<(usize, usize)>, Error> {
        let mut length = 0;
        for (at, &byte) in bytes.iter().enumerate() {
            match byte {
                b'0'..=b'9' if at == 1 && length == 0 => return Err(self.error(at, Malformed::LeadingZero)),
                b'0'..=b'9' => {
                    // The limit and so the length before this digit fit into a word; ten times that may not.
                    length = usize::saturating_add(usize::saturating_mul(length, 10), usize::from(byte - b'0'));
                    if length > self.limit {
                        return Err(self.error(at, Malformed::TooLong(self.limit)));
                    }
                }
                b':' if at > 0 => {
                    let start = at + 1;
                    let rest = &bytes[start..];
                    return match rest.get(length) {
                        None => Ok(None),
                        Some(b',') => Ok(Some((start, start + length))),
                        Some(&other) => Err(self.error(start + length, Malformed::NoComma(other))),
                    };
                }
                _ => return Err(self.error(at, Malformed::NoDigit(byte))),
            }
        }
        Ok(None)
    }

    fn error(&self, at: usize, what: Malformed) -> Error {
        Error { at: self.taken + at as u64, what }
    }
}

/// The digits and the colon before a payload.
#[derive(Debug, Clone)]
struct Length {
    text: [u8; Self::MOST],
    start: usize,
}

impl Length {
    /// The digits of the largest word, and a colon.
    const MOST: usize = usize::MAX.ilog10() as usize + 2;

    fn of(payload: &[u8]) -> Self {
        let mut text = [b':'; Self::MOST];
        let mut start = text.len() - 1;
        let mut rest = payload.len();
        loop {
            start -= 1;
            text[start] = b"0123456789"[rest % 10];
            rest /= 10;
            if rest == 0 {
                return Self { text, start };
            }
        }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.text[self.start..]
    }
}

/// A netstring on its way out; its payload is not copied.
#[derive(Debug, Clone)]
pub struct Outgoing<P> {
    length: Length,
    payload: P,
    sent: usize,
}

impl<P: AsRef<[u8]>> Outgoing<P> {
    /// Nothing of it is sent yet.
    pub fn new(payload: P) -> Self {
        Self { length: Length::of(payload.as_ref()), payload, sent: 0 }
    }

    /// What is left to send, for writev(2).
    pub fn unsent(&self) -> [IoSlice<'_>; 3] {
        let mut skip = self.sent;
        [self.length.as_bytes(), self.payload.as_ref(), b","].map(|part| {
            let gone = skip.min(part.len());
            skip -= gone;
            IoSlice::new(&part[gone..])
        })
    }

    /// The first `bytes` of what was left are sent.
    pub fn sent(&mut self, bytes: usize) {
        self.sent += bytes;
    }

    /// Whether nothing is left to send.
    pub fn is_sent(&self) -> bool {
        self.unsent().iter().all(|part| part.is_empty())
    }

    /// The payload.
    pub fn payload(&self) -> &P {
        &self.payload
    }

    /// The payload, when the frame is no longer needed.
    pub fn into_payload(self) -> P {
        self.payload
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use tokio_util::bytes::BufMut;

    const LIMIT: usize = 100;

    fn encoded(payload: &[u8]) -> Vec<u8> {
        Outgoing::new(payload).unsent().map(|part| part.to_vec()).concat()
    }

    /// Decodes a stream that arrives in these pieces.
    fn decode_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Vec<u8>>, Result<(), Error>) {
        let mut decoder = Decoder::new(LIMIT);
        let (mut arrived, mut payloads) = (Vec::new(), Vec::new());
        for piece in pieces {
            arrived.extend_from_slice(piece);
            let mut rest = &arrived[..];
            loop {
                match decoder.decode(&mut rest) {
                    Ok(Some(payload)) => payloads.push(payload.to_vec()),
                    Ok(None) => break,
                    Err(error) => return (payloads, Err(error)),
                }
            }
            arrived = rest.to_vec();
        }
        (payloads, decoder.finish(&arrived))
    }

    /// The first error of a stream that arrives byte by byte, and how many bytes had arrived by then.
    fn refused(stream: &[u8]) -> (Malformed, u64) {
        for end in 0..=stream.len() {
            if let (_, Err(error)) = decode_pieces(stream[..end].chunks(1))
                && error.what != Malformed::Truncated
            {
                assert_eq!(error.at + 1, end as u64, "it is told from the bytes up to itself");
                return (error.what, error.at);
            }
        }
        panic!("not refused: {stream:?}");
    }

    #[test]
    fn what_is_no_netstring_is_refused_at_the_byte_that_proves_it() {
        use Malformed::{LeadingZero, NoComma, NoDigit, TooLong};
        for (stream, what, at) in [
            (&b"01:a,"[..], LeadingZero, 1),
            (b"00:,", LeadingZero, 1),
            (b"-1:a,", NoDigit(b'-'), 0),
            (b"+1:a,", NoDigit(b'+'), 0),
            (b" 1:a,", NoDigit(b' '), 0),
            (b"1 :a,", NoDigit(b' '), 1),
            (b"1\n:a,", NoDigit(b'\n'), 1),
            (b":a,", NoDigit(b':'), 0),
            (b",", NoDigit(b','), 0),
            (b"1a:a,", NoDigit(b'a'), 1),
            (b"0x1:a,", NoDigit(b'x'), 1),
            (b"\0", NoDigit(0), 0),
            (b"\xd9\xa1:a,", NoDigit(0xd9), 0), // a digit, but not an ASCII one
            (b"1:ab", NoComma(b'b'), 3),
            (b"1:a;", NoComma(b';'), 3),
            (b"0:a", NoComma(b'a'), 2),
            (b"101:", TooLong(LIMIT), 2),
            (b"999", TooLong(LIMIT), 2),
            (b"99999999999:", TooLong(LIMIT), 2),
            (b"123456789012345678901234567890:", TooLong(LIMIT), 2),
            (b"1:a,GET / HTTP/1.1", NoDigit(b'G'), 4),
        ] {
            assert_eq!(refused(stream), (what, at), "{}", stream.escape_ascii());
        }
    }

    #[test]
    fn the_largest_limit_still_has_an_end() {
        let mut decoder = Decoder::new(usize::MAX);
        let all = format!("{}:", usize::MAX);
        assert_eq!(decoder.decode(&mut all.as_bytes()), Ok(None));
        let digits = [b'9'; 30];
        assert_eq!(decoder.decode(&mut &digits[..]), Ok(None), "saturated, and never complete");
        let mut decoder = Decoder::new(usize::MAX - 1);
        let error = decoder.decode(&mut &digits[..]).expect_err("over the limit");
        assert_eq!((error.at, error.what), (19, Malformed::TooLong(usize::MAX - 1)));
    }

    #[test]
    fn errors_say_where_and_what() {
        for (stream, line) in [
            (&b"1:a,5\n"[..], "byte 5: '\\n' in the length"),
            (b"007", "byte 1: a zero before the length"),
            (b"101", "byte 2: longer than 100 bytes"),
            (b"1:ab", "byte 3: 'b' where the payload should end with ','"),
            (b"5:abc", "byte 5: the stream ends within a netstring"),
        ] {
            assert_eq!(decode_pieces([stream]).1.expect_err("malformed").to_string(), line);
        }
    }

    #[test]
    fn the_limit_is_the_longest_payload() {
        for length in [0, 1, LIMIT - 1, LIMIT] {
            let payload = vec![b'x'; length];
            assert_eq!(decode_pieces([&encoded(&payload)[..]]), (vec![payload], Ok(())));
        }
        assert_eq!(refused(&encoded(&[b'x'; LIMIT + 1])).0, Malformed::TooLong(LIMIT));
    }

    #[test]
    fn a_stream_that_ends_between_netstrings_is_whole() {
        assert_eq!(decode_pieces([]), (vec![], Ok(())));
        assert_eq!(decode_pieces([&b"0:,"[..]]), (vec![vec![]], Ok(())));
        for end in 1..4 {
            let error = decode_pieces([&b"1:a,"[..end]]).1.expect_err("truncated");
            assert_eq!((error.what, error.at), (Malformed::Truncated, end as u64));
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded_however_it_is_cut(
            payloads in vec(vec(any::<u8>(), 0..=LIMIT), 0..8),
            cuts in vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let stream: Vec<u8> = payloads.iter().flat_map(|payload| encoded(payload)).collect();
            prop_assert_eq!(decode_pieces([&stream[..]]), (payloads.clone(), Ok(())));
            prop_assert_eq!(decode_pieces(stream.chunks(1)), (payloads.clone(), Ok(())));
            for cut in 0..=stream.len() {
                let (first, second) = stream.split_at(cut);
                prop_assert_eq!(decode_pieces([first, second]), (payloads.clone(), Ok(())));
            }
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|ends| &stream[ends[0]..ends[1]]);
            prop_assert_eq!(decode_pieces(pieces), (payloads, Ok(())));
        }

        #[test]
        fn any_bytes_decode_alike_however_they_are_cut(bytes in vec(prop_oneof![
            4 => prop::sample::select(b"0123456789:,".to_vec()),
            1 => any::<u8>(),
        ], 0..60)) {
            let at_once = decode_pieces([&bytes[..]]);
            prop_assert_eq!(decode_pieces(bytes.chunks(1)), at_once.clone());
            for cut in 0..=bytes.len() {
                let (first, second) = bytes.split_at(cut);
                prop_assert_eq!(decode_pieces([first, second]), at_once.clone());
            }
        }

        #[test]
        fn a_buffer_is_split_into_what_is_decoded(bytes in vec(prop_oneof![
            6 => prop::sample::select(b"0123:,a".to_vec()),
            1 => any::<u8>(),
        ], 0..60)) {
            let expected = decode_pieces([&bytes[..]]);
            let mut decoder = Decoder::new(LIMIT);
            let (mut buffer, mut payloads) = (BytesMut::new(), Vec::new());
            let mut result = Ok(());
            for byte in &bytes {
                buffer.put_u8(*byte);
                match decoder.split(&mut buffer) {
                    Ok(payload) => payloads.extend(payload.map(|payload| payload.to_vec())),
                    Err(error) => {
                        result = Err(error);
                        break;
                    }
                }
            }
            let result = result.and_then(|()| decoder.finish(&buffer));
            prop_assert_eq!((payloads, result), expected);
        }

        #[test]
        fn however_little_is_sent_at_a_time_all_of_it_is_sent(
            payload in vec(any::<u8>(), 0..300),
            takes in vec(1usize..40, 1..400),
        ) {
            let mut out = Outgoing::new(payload.clone());
            let mut sent = Vec::new();
            for take in takes.iter().cycle() {
                if out.is_sent() {
                    break;
                }
                let unsent: Vec<u8> = out.unsent().iter().flat_map(|part| part.to_vec()).collect();
                let taken = (*take).min(unsent.len());
                sent.extend_from_slice(&unsent[..taken]);
                out.sent(taken);
            }
            let expected = [payload.len().to_string().as_bytes(), b":", &payload, b","].concat();
            prop_assert_eq!(&sent, &expected);
        }
    }
}
