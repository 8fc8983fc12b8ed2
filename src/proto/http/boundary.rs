//! Where a message ends in a stream that is passed on as it is: the bytes are looked at, and never changed.

use super::framing::{Decoder, Framing, Piece, of_response};
use super::head::{BadResponse, Room, response};
use super::{CLIENT_HEAD, framing};

/// The end of one message, which is looked for while its bytes go by.
#[derive(Debug)]
pub struct Boundary {
    state: State,
    /// Of a head that has not gone by as a whole.
    head: Vec<u8>,
    status: Option<u16>,
}

#[derive(Debug)]
enum State {
    /// The head of a reply to a request with this method, or of an interim one before it.
    Head(Method),
    /// So much of a head that is known, and then a body.
    Known(usize, Framing),
    Body(Decoder),
    Reached,
    Tunnel,
    Lost(Lost),
}

/// What of a request decides where its reply ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Head,
    Connect,
    Other,
}

/// What follows the bytes that have gone by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// The rest of the message.
    Rest,
    /// The next message.
    Next,
    /// No HTTP any more: the reply was that to CONNECT, or `101 Switching Protocols`.
    Tunnel,
    /// Nobody knows.
    Lost(Lost),
}

/// Why nobody knows where a message ends. All that follows belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// The head is not understood.
    #[error("{0}")]
    Head(#[from] BadResponse),
    /// The head contradicts itself, or the body it.
    #[error("{0}")]
    Framing(#[from] framing::Fault),
}

impl Boundary {
    /// The end of the reply to a request with this method.
    pub fn of_reply(method: &str) -> Self {
        let method = match method {
            "HEAD" => Method::Head,
            "CONNECT" => Method::Connect,
            _ => Method::Other,
        };
        Self { state: State::Head(method), head: Vec::new(), status: None }
    }

    /// The end of a request whose head is so many bytes long.
    pub fn of_request(head: usize, framing: Framing) -> Self {
        Self { state: State::Known(head, framing), head: Vec::new(), status: None }
    }

    /// Looks at what comes next, and returns how many of these bytes belong to the message. However it is cut into pieces,
    /// it is the same one.
    pub fn take(&mut self, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        loop {
            let state = match &mut self.state {
                State::Head(_) | State::Known(1.., _) if rest.is_empty() => return bytes.len(),
                State::Known(0, framing) => Ok(State::Body(Decoder::new(*framing))),
                State::Known(left, _) => {
                    let gone = rest.len().min(*left);
                    *left -= gone;
                    rest = &rest[gone..];
                    continue;
                }
                State::Head(method) => {
                    let method = *method;
                    self.look_at_head(method, &mut rest)
                }
                State::Body(decoder) => match decoder.next(&mut rest) {
                    Ok(Piece::Body(_)) => continue,
                    Ok(Piece::More) => return bytes.len(),
                    Ok(Piece::End) => Ok(State::Reached),
                    Err(fault) => Err(fault.into()),
                },
                State::Reached | State::Tunnel => return bytes.len() - rest.len(),
                State::Lost(_) => return bytes.len(),
            };
            self.state = state.unwrap_or_else(State::Lost);
        }
    }

    /// What follows the bytes that have gone by.
    pub fn after(&self) -> After {
        match &self.state {
            State::Head(_) | State::Known(..) | State::Body(_) => After::Rest,
            State::Reached => After::Next,
            State::Tunnel => After::Tunnel,
            State::Lost(why) => After::Lost(*why),
        }
    }

    /// The status of the reply, once its head has gone by.
    pub fn status(&self) -> Option<u16> {
        self.status
    }

    /// Takes the head of a reply off the front, as far as it is there, and returns what follows.
    fn look_at_head(&mut self, method: Method, rest: &mut &[u8]) -> Result<State, Lost> {
        // A head that trickles is looked at once a line, and not once a byte.
        let may_be_whole = rest.contains(&b'\n') || self.head.len() + rest.len() >= CLIENT_HEAD;
        let before = self.head.len();
        let head = match before {
            // Most heads come in one piece.
            0 => *rest,
            _ => {
                self.head.extend_from_slice(rest);
                &self.head
            }
        };
        let mut room = Room::default();
        let found = if may_be_whole { response(head, &mut room)? } else { None };
        let Some(found) = found else {
            if before == 0 {
                self.head.extend_from_slice(rest);
            }
            *rest = &[];
            return Ok(State::Head(method));
        };
        *rest = &rest[found.len - before..];
        let (status, name) = (found.status, if method == Method::Head { "HEAD" } else { "" });
        let next = match status {
            101 => State::Tunnel,
            100..200 => State::Head(method),
            200..300 if method == Method::Connect => State::Tunnel,
            _ => State::Body(Decoder::new(of_response(name, status, found.version, &found.fields)?)),
        };
        self.head = Vec::new();
        self.status = Some(status);
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Replies, with what they are replies to and what follows them.
    const REPLIES: &[(&str, &str, After)] = &[
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", After::Next),
        ("GET", "HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", After::Next),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", After::Next),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", After::Next),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x\r\nhe\r\n3\r\nllo\r\n0\r\nX: y\r\n\r\n",
            After::Next,
        ),
        (
            "GET",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
            After::Next,
        ),
        ("GET", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", After::Tunnel),
        ("CONNECT", "HTTP/1.1 200 Connection established\r\n\r\n", After::Tunnel),
        ("CONNECT", "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 1\r\n\r\nx", After::Next),
    ];

    #[test]
    fn a_message_ends_where_its_framing_says() {
        for &(method, reply, after) in REPLIES {
            let mut boundary = Boundary::of_reply(method);
            let stream = format!("{reply}HTTP/1.1 200 OK\r\n");
            assert_eq!((boundary.take(stream.as_bytes()), boundary.after()), (reply.len(), after), "{reply}");
            assert_eq!(boundary.take(b"more"), 0, "{reply}");
        }
    }

    #[test]
    fn what_nobody_understands_has_no_end() {
        for (reply, why) in [
            ("SSH-2.0-x\r\n", "this is no HTTP reply"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", "two lengths: 1 and 2"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nhello", "a chunk without a length"),
        ] {
            let mut boundary = Boundary::of_reply("GET");
            assert_eq!(boundary.take(reply.as_bytes()), reply.len());
            let After::Lost(lost) = boundary.after() else { panic!("{reply}") };
            assert_eq!(lost.to_string(), why);
            assert_eq!(boundary.take(b"more"), 4);
        }
    }

    #[test]
    fn a_reply_without_framing_ends_with_the_stream() {
        let mut boundary = Boundary::of_reply("GET");
        let reply = b"HTTP/1.0 200 OK\r\n\r\nhello";
        assert_eq!((boundary.take(reply), boundary.after()), (reply.len(), After::Rest));
        assert_eq!((boundary.take(b"more"), boundary.after(), boundary.status()), (4, After::Rest, Some(200)));
    }

    #[test]
    fn a_request_ends_after_its_head_and_its_body() {
        for (framing, body) in
            [(Framing::None, ""), (Framing::Length(3), "abc"), (Framing::Chunked, "1\r\nx\r\n0\r\n\r\n")]
        {
            let head = "PUT / HTTP/1.1\r\n\r\n";
            for cut in 0..head.len() + body.len() {
                let mut boundary = Boundary::of_request(head.len(), framing);
                let stream = format!("{head}{body}GET / ");
                let (first, second) = stream.as_bytes().split_at(cut);
                assert_eq!((boundary.take(first), boundary.after()), (cut, After::Rest));
                assert_eq!((boundary.take(second), boundary.after()), (head.len() + body.len() - cut, After::Next));
            }
        }
    }

    proptest! {
        #[test]
        fn however_a_reply_is_cut_it_is_the_same(
            which in 0..REPLIES.len(), sizes in proptest::collection::vec(1usize..9, 1..200)
        ) {
            let (method, reply, after) = REPLIES[which];
            let stream = format!("{reply}HTTP/1.1 200 OK\r\n");
            let (mut boundary, mut taken, mut rest) = (Boundary::of_reply(method), 0, stream.as_bytes());
            for size in sizes.into_iter().chain([usize::MAX]) {
                let (piece, left) = rest.split_at(size.min(rest.len()));
                prop_assert_eq!(taken < reply.len() || piece.is_empty(), boundary.after() == After::Rest || piece.is_empty());
                taken += boundary.take(piece);
                rest = left;
            }
            prop_assert_eq!((taken, boundary.after()), (reply.len(), after));
        }
    }
}
