//! A poem on its way through a transform server: what to say to it, and what to make of its answer.
//!
//! No socket here: the bytes come and go as [`super::fetch`] hands them on.

use std::io::IoSlice;

use crate::proto::netstring::{Decoder, Error, Outgoing};

/// The longest reply that is taken, or [`GROWTH`] times the poem if that is longer.
const REPLY_LIMIT: usize = 64 << 20;

/// The most that a transform may make of a byte.
const GROWTH: usize = 16;

/// One poem, its request and its reply.
#[derive(Debug)]
pub(super) struct Exchange {
    /// `NAME.POEM`, of which the poem is still growing; then the same as a netstring under way.
    request: Request,
    /// Where the poem begins.
    poem: usize,
    /// What has arrived of the reply, and where its payload lies.
    arrived: Vec<u8>,
    reply: Option<(usize, usize)>,
}

#[derive(Debug)]
enum Request {
    Growing(Vec<u8>),
    Asking(Outgoing<Vec<u8>>),
}

impl Exchange {
    /// No poem yet, for the transform of this name.
    pub(super) fn new(transform: &str) -> Self {
        let request = format!("{transform}.").into_bytes();
        let poem = request.len();
        Self { request: Request::Growing(request), poem, arrived: Vec::new(), reply: None }
    }

    /// The next bytes of the poem.
    pub(super) fn grow(&mut self, bytes: &[u8]) {
        if let Request::Growing(request) = &mut self.request {
            request.extend_from_slice(bytes);
        }
    }

    /// The poem is whole: now ask.
    pub(super) fn ask(&mut self) {
        if let Request::Growing(request) = &mut self.request {
            self.request = Request::Asking(Outgoing::new(std::mem::take(request)));
        }
    }

    pub(super) fn is_asking(&self) -> bool {
        matches!(self.request, Request::Asking(_))
    }

    /// What is left to send; `None`: nothing.
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

    /// The next bytes of the reply. Whether it is complete now.
    pub(super) fn hear(&mut self, bytes: &[u8]) -> Result<bool, Error> {
        self.arrived.extend_from_slice(bytes);
        let limit = self.poem().len().saturating_mul(GROWTH).max(REPLY_LIMIT);
        let mut rest = &self.arrived[..];
        if let Some(payload) = Decoder::new(limit).decode(&mut rest)? {
            let end = self.arrived.len() - rest.len() - 1;
            self.reply = Some((end - payload.len(), end));
        }
        Ok(self.reply.is_some())
    }

    /// The reply, if it is complete.
    pub(super) fn reply(&self) -> Option<&[u8]> {
        self.reply.map(|(start, end)| &self.arrived[start..end])
    }

    /// Whether the end of the stream came before the first byte of a reply.
    pub(super) fn has_no_reply(&self) -> bool {
        self.arrived.is_empty()
    }

    /// The poem as it came.
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
        poem.chunks(2).for_each(|bytes| exchange.grow(bytes));
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
            assert_eq!(exchange.hear(&[*byte]), Ok(false));
        }
        assert_eq!((exchange.reply(), exchange.has_no_reply()), (None, false));
        assert_eq!(exchange.hear(b", and more"), Ok(true));
        assert_eq!(exchange.reply(), Some(&b"A POEM"[..]));
    }

    #[test]
    fn a_reply_that_announces_too_much_is_refused() {
        assert!(asked(b"a poem").hear(b"99999999999:").is_err());
    }
}
