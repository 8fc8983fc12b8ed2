//! The client side of the transform protocol: one request, one reply, both netstrings.
//!
//! Sans-I/O: the bytes come and go as [`super::fetch`] hands them on. The server side is in `server/transform.rs`.

use std::io::IoSlice;
use std::ops::Range;

use super::Failure;
use crate::proto::netstring::{Decoder, Outgoing};

/// The longest poem that is sent to a transform server, in bytes: all of it has to be in memory, for its length comes
/// first. A longer one is delivered as it came.
const POEM_LIMIT: usize = 64 << 20;

/// The longest reply, in bytes, or [`GROWTH`] times the poem if that is longer. A longer one is malformed.
const REPLY_LIMIT: usize = 64 << 20;

/// Bytes that a transform may make of one byte.
const GROWTH: usize = 16;

/// One exchange with a transform server: the request, which grows with the poem, and the reply.
#[derive(Debug)]
pub(super) struct Exchange {
    request: Request,
    /// The offset of the poem in the request.
    poem: usize,
    /// Bytes of the reply that have arrived.
    arrived: Vec<u8>,
    /// The payload within `arrived`, from and to, when the reply is complete.
    reply: Option<Range<usize>>,
}

#[derive(Debug)]
enum Request {
    /// `NAME.POEM`, while the poem arrives.
    Growing(Vec<u8>),
    /// `NAME.POEM` as a netstring, while it is sent and the reply arrives.
    Asking(Outgoing<Vec<u8>>),
}

impl Exchange {
    /// An exchange for the transform of this name, with an empty poem.
    pub(super) fn new(transform: &str) -> Self {
        let request = format!("{transform}.").into_bytes();
        let poem = request.len();
        Self { request: Request::Growing(request), poem, arrived: Vec::new(), reply: None }
    }

    /// Adds the next bytes of the poem.
    ///
    /// # Errors
    /// It is too long to be changed. [`poem`](Self::poem) is what came before these bytes.
    pub(super) fn grow(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if let Request::Growing(request) = &mut self.request {
            if bytes.len() > POEM_LIMIT - (request.len() - self.poem) {
                return Err(Failure::TooLongToChange(POEM_LIMIT as u64));
            }
            request.try_reserve(bytes.len()).map_err(|_| Failure::Memory)?;
            request.extend_from_slice(bytes);
        }
        Ok(())
    }

    /// Ends the poem: from now on there is a request to send.
    pub(super) fn ask(&mut self) {
        if let Request::Growing(request) = &mut self.request {
            self.request = Request::Asking(Outgoing::new(std::mem::take(request)));
        }
    }

    pub(super) fn is_asking(&self) -> bool {
        matches!(self.request, Request::Asking(_))
    }

    /// The part of the request that is not sent, for writev(2); `None`: nothing.
    pub(super) fn unsent(&self) -> Option<[IoSlice<'_>; 3]> {
        match &self.request {
            Request::Asking(request) if !request.is_sent() => Some(request.unsent()),
            _ => None,
        }
    }

    pub(super) fn sent(&mut self, bytes: usize) {
        if let Request::Asking(request) = &mut self.request {
            request.sent(bytes);
        }
    }

    /// Takes the next bytes of the reply. Returns whether it is complete.
    ///
    /// # Errors
    /// The reply is malformed or too long, or there is no memory for it.
    pub(super) fn hear(&mut self, bytes: &[u8]) -> Result<bool, Failure> {
        self.arrived.try_reserve(bytes.len()).map_err(|_| Failure::Memory)?;
        self.arrived.extend_from_slice(bytes);
        let limit = self.poem().len().saturating_mul(GROWTH).max(REPLY_LIMIT);
        let mut rest = &self.arrived[..];
        if let Some(payload) = Decoder::new(limit).decode(&mut rest).map_err(Failure::Reply)? {
            let end = self.arrived.len() - rest.len() - 1;
            self.reply = Some(end - payload.len()..end);
        }
        Ok(self.reply.is_some())
    }

    /// The length of the reply, if it is complete.
    pub(super) fn reply_len(&self) -> Option<usize> {
        self.reply.as_ref().map(Range::len)
    }

    /// The reply, or the poem if there is none, and where it is in its buffer.
    pub(super) fn into_result(self) -> (Vec<u8>, Range<usize>) {
        match (self.reply, self.request) {
            (Some(range), _) => (self.arrived, range),
            (None, request) => {
                let buffer = match request {
                    Request::Growing(request) => request,
                    Request::Asking(request) => request.into_payload(),
                };
                let end = buffer.len();
                (buffer, self.poem..end)
            }
        }
    }

    /// Forgets the reply: the poem is the result.
    pub(super) fn without_reply(&mut self) {
        self.reply = None;
    }

    /// Whether no byte of a reply has arrived.
    pub(super) fn has_no_reply(&self) -> bool {
        self.arrived.is_empty()
    }

    /// The poem before the transform.
    pub(super) fn poem(&self) -> &[u8] {
        match &self.request {
            Request::Growing(request) => &request[self.poem..],
            Request::Asking(request) => &request.payload()[self.poem..],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(poem: &[u8]) -> Exchange {
        let mut exchange = Exchange::new("shout");
        poem.chunks(2).for_each(|bytes| exchange.grow(bytes).expect("not too long"));
        exchange.ask();
        exchange
    }

    #[test]
    fn a_poem_that_has_grown_is_sent_however_little_is_taken() {
        let mut exchange = asked(b"a poem");
        let mut sent = Vec::new();
        while let Some(parts) = exchange.unsent() {
            sent.push(*parts.iter().find_map(|part| part.first()).expect("a byte"));
            exchange.sent(1);
        }
        assert_eq!(sent, b"12:shout.a poem,");
        assert_eq!(exchange.poem(), b"a poem");
    }

    #[test]
    fn a_reply_is_complete_with_its_comma() {
        let mut exchange = asked(b"a poem");
        for byte in b"6:A POEM" {
            assert!(matches!(exchange.hear(&[*byte]), Ok(false)));
        }
        assert_eq!((exchange.reply_len(), exchange.has_no_reply()), (None, false));
        assert!(matches!(exchange.hear(b", and more"), Ok(true)));
        assert_eq!(exchange.reply_len(), Some(6));
        let (buffer, range) = exchange.into_result();
        assert_eq!(&buffer[range], b"A POEM");
        let (buffer, range) = asked(b"a poem").into_result();
        assert_eq!(&buffer[range], b"a poem");
    }

    #[test]
    fn a_reply_that_announces_too_much_is_refused() {
        assert!(asked(b"a poem").hear(b"99999999999:").is_err());
    }
}
