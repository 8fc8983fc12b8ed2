//! Length-prefixed frames: four bytes that say how long it is, big-endian, and then the payload.
//!
//! ```text
//!   00 00 00 05   h e l l o        the payload "hello"
//!   ─────┬─────   ────┬────
//!      length      payload
//!
//!   00 00 00 00                    the empty payload, a message like any other
//! ```
//!
//! It is the protocol of the message broker in C. Hattingh, *Using Asyncio in Python* (2020), chapter 4.
//!
//! Nothing here does I/O or allocates: a length is judged as soon as its four bytes are there, and nothing is reserved for
//! what has only been announced.
//!
//! ```
//! use poetry_suite::proto::frame::{decode, prefix};
//!
//! let stream = [&prefix(5)[..], b"hello", &prefix(0)].concat();
//! let mut rest = &stream[..6];
//! assert_eq!(decode(&mut rest, 1024), Ok(None)); // more has to come
//! rest = &stream;
//! assert_eq!(decode(&mut rest, 1024), Ok(Some(&b"hello"[..])));
//! assert_eq!(decode(&mut rest, 1024), Ok(Some(&b""[..])));
//! assert!(rest.is_empty());
//! ```

use std::fmt;

/// Bytes of a length.
pub const PREFIX: usize = 4;

/// The largest payload of which a peer of this protocol can be told the length.
pub const LONGEST: usize = u32::MAX as usize;

/// The length before a payload of so many bytes; what is over [`LONGEST`] has no prefix, and gets that of `LONGEST`.
pub fn prefix(length: usize) -> [u8; PREFIX] {
    u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes()
}

/// A length over the limit. Nothing after it can be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong {
    /// The payload's length as it was announced.
    pub length: u32,
    /// The limit, in bytes.
    pub limit: usize,
}

impl std::error::Error for TooLong {}

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { length, limit } = self;
        write!(f, "{length} bytes are over the limit of {limit}")?;
        // Somebody who speaks another protocol announces a thousand million bytes with the first four letters.
        let letters = length.to_be_bytes();
        if !letters.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ') {
            return Ok(());
        }
        let (text, is_http) = (letters.escape_ascii(), METHODS.contains(&&letters));
        write!(f, "; that is \"{text}\"{}", if is_http { ": HTTP?" } else { "" })
    }
}

/// How requests of HTTP begin.
const METHODS: [&[u8; PREFIX]; 7] = [b"GET ", b"HEAD", b"POST", b"PUT ", b"DELE", b"OPTI", b"CONN"];

/// The length of the payload that the bytes begin with; `None`: its four bytes are not all there.
///
/// # Errors
/// It is over `limit`.
pub fn announced(bytes: &[u8], limit: usize) -> Result<Option<usize>, TooLong> {
    let Some(&length) = bytes.first_chunk() else { return Ok(None) };
    let length = u32::from_be_bytes(length);
    match usize::try_from(length) {
        Ok(fits) if fits <= limit => Ok(Some(fits)),
        _ => Err(TooLong { length, limit }),
    }
}

/// Takes the next frame off the front of `bytes` and returns its payload; `None` if it is not complete.
///
/// What is left in `bytes` has to be there again, with more behind it, in the next call.
///
/// # Errors
/// Its length is over `limit`: that is told before its payload is there.
pub fn decode<'a>(bytes: &mut &'a [u8], limit: usize) -> Result<Option<&'a [u8]>, TooLong> {
    let Some(length) = announced(bytes, limit)? else { return Ok(None) };
    let Some(payload) = bytes.get(PREFIX..PREFIX + length) else { return Ok(None) };
    *bytes = &bytes[PREFIX + length..];
    Ok(Some(payload))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const LIMIT: usize = 40;

    fn decode_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Vec<u8>>, Vec<u8>, Option<TooLong>) {
        let (mut arrived, mut payloads) = (Vec::new(), Vec::new());
        for piece in pieces {
            arrived.extend_from_slice(piece);
            let mut rest = &arrived[..];
            loop {
                match decode(&mut rest, LIMIT) {
                    Ok(Some(payload)) => payloads.push(payload.to_vec()),
                    Ok(None) => break,
                    Err(error) => return (payloads, rest.to_vec(), Some(error)),
                }
            }
            arrived = rest.to_vec();
        }
        (payloads, arrived, None)
    }

    #[test]
    fn a_length_is_judged_as_soon_as_it_is_there() {
        for (bytes, length, text) in [
            (&b"\0\0\0\x29"[..], 41, "41 bytes are over the limit of 40"),
            (b"GET / HTTP/1.1", 0x4745_5420, "1195725856 bytes are over the limit of 40; that is \"GET \": HTTP?"),
            (b"SSH-2.0", 0x5353_482d, "1397966893 bytes are over the limit of 40; that is \"SSH-\""),
            (b"\xff\xff\xff\xff", u32::MAX, "4294967295 bytes are over the limit of 40"),
        ] {
            assert_eq!(decode(&mut &bytes[..PREFIX - 1], LIMIT), Ok(None));
            for cut in PREFIX..=bytes.len() {
                let error = decode(&mut &bytes[..cut], LIMIT).expect_err(text);
                assert_eq!((error.length, error.to_string().as_str()), (length, text));
            }
        }
        assert_eq!(decode(&mut &b"\0\0\0\x28"[..], LIMIT), Ok(None));
    }

    proptest! {
        #[test]
        fn frames_are_what_they_were_wherever_the_stream_is_cut(
            payloads in vec(vec(any::<u8>(), 0..=LIMIT), 0..6),
            cuts in vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let stream: Vec<u8> = payloads.iter().flat_map(|it| [&prefix(it.len())[..], it].concat()).collect();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|ends| &stream[ends[0]..ends[1]]);
            prop_assert_eq!(decode_pieces(pieces), (payloads, Vec::new(), None));
        }

        #[test]
        fn any_bytes_are_decoded_alike_however_they_are_cut(bytes in vec(0_u8..45, 0..60)) {
            let (payloads, rest, error) = decode_pieces([&bytes[..]]);
            let (in_bytes, its_rest, its_error) = decode_pieces(bytes.chunks(1));
            prop_assert_eq!((&payloads, error), (&in_bytes, its_error));
            if error.is_none() {
                prop_assert_eq!(&rest, &its_rest);
                let again = payloads.iter().flat_map(|it| [&prefix(it.len())[..], it].concat()).chain(rest);
                prop_assert_eq!(again.collect::<Vec<u8>>(), bytes);
            }
        }
    }
}
