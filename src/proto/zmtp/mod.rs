//! ZMTP 3.0, the protocol of ZeroMQ's sockets over TCP, for publishers, subscribers and pipelines, without authentication.
//!
//! ```text
//!   FF 00×8 7F   03 00   N U L L 00×16   00   00×31       greeting: signature, version, mechanism, as-server, filler
//!   04 19   05 R E A D Y   0B S o c k e t - T y p e   00 00 00 03 P U B                       command: what it is
//!   00 04   01 s u n                                      to a PUB: subscribe to what begins with "sun"; 00: no longer
//!   01 03   s u n                                         a message: a part, more follow
//!   02 00 00 00 00 00 00 01 2C   { " c o l o r " : ...    its last part, of 300 bytes
//!   │  ───────────┬──────────
//! flags         length
//! ```
//!
//! Of the flags, bit 0 says that more parts follow, bit 1 that the length has eight bytes instead of one, bit 2 that this
//! is a command. Commands may come between the parts of a message: PINGs of libzmq do.
//!
//! The specification is RFC 23/ZMTP, <https://rfc.zeromq.org/spec/23/>, with the mechanism NULL. Of its successor (RFC
//! 37/ZMTP 3.1) the commands PING, SUBSCRIBE and CANCEL are understood: libzmq sends the first to peers of 3.0, too. Not
//! spoken are ZMTP 1 and 2 and other mechanisms; a peer that is refused gets no ERROR, it is for whoever closes to log.
//!
//! Nothing here does I/O, and there is no clock. Both sides send the [`GREETING`] at once, without waiting for the other's
//! (libzmq waits for ten bytes of it), and whatever arrives goes through [`Decoder::decode`].
//!
//! ```
//! use poetry_suite::proto::zmtp::{Decoder, Event, GREETING, Role, add_message, subscribe};
//!
//! let (mut collector, mut reporter) = (Decoder::new(Role::Sub, 1024), Decoder::new(Role::Pub, 1024));
//! // Each answers the other's greeting with its READY.
//! let Ok(Some(Event::Answer(to_collector))) = reporter.decode(&mut &GREETING[..]) else { panic!() };
//! let Ok(Some(Event::Answer(to_reporter))) = collector.decode(&mut &GREETING[..]) else { panic!() };
//! assert_eq!(reporter.decode(&mut &to_reporter[..]), Ok(Some(Event::Ready)));
//! assert_eq!(collector.decode(&mut &to_collector[..]), Ok(Some(Event::Ready)));
//!
//! assert_eq!(reporter.decode(&mut &subscribe(b"")[..]), Ok(Some(Event::Subscribed(b""))));
//! let mut stream = Vec::new();
//! add_message(&mut stream, &[b"sun", b"{}"]);
//! let mut rest = &stream[..6];
//! assert_eq!(collector.decode(&mut rest), Ok(None)); // more has to come
//! assert_eq!(rest, &stream[5..6]); // and this has to be there again
//! rest = &stream[5..];
//! let Ok(Some(Event::Message(message))) = collector.decode(&mut rest) else { panic!() };
//! assert!(message.parts().eq([&b"sun"[..], b"{}"]));
//! assert_eq!(message.last(), b"{}");
//! ```

use std::fmt;

/// What each side says first, whatever its role.
pub const GREETING: [u8; 64] = {
    let mut greeting = [0; 64];
    (greeting[0], greeting[SIGNATURE_END], greeting[MAJOR]) = (0xff, 0x7f, 3);
    let mut at = 0;
    while at < MECHANISM.len() {
        greeting[MECHANISM_START + at] = MECHANISM[at];
        at += 1;
    }
    greeting
};

const SIGNATURE_END: usize = 9;
const MAJOR: usize = 10;
const MECHANISM_START: usize = 12;
const MECHANISM: [u8; 20] = *b"NULL\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// The most parts of a message.
pub const MOST_PARTS: usize = 8;

/// The longest metadata of a READY, in bytes.
pub const LONGEST_METADATA: usize = 4096;

/// The longest context of a PING, in bytes.
pub const LONGEST_CONTEXT: usize = 16;

/// That of the longest READY. Others have the same limit, 3.1's SUBSCRIBE among them.
const LONGEST_COMMAND: usize = 1 + b"READY".len() + LONGEST_METADATA;

/// Flags and length of a long frame.
const LONGEST_HEAD: usize = 9;

const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

/// The type of our own socket. Which side of the TCP connection it is does not matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Gets messages of a PUB or XPUB, once it has subscribed.
    Sub,
    /// Sends messages to a SUB or XSUB that has subscribed.
    Pub,
    /// Gets messages of a PUSH.
    Pull,
    /// Sends messages to a PULL.
    Push,
}

impl Role {
    /// Its Socket-Type.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sub => "SUB",
            Self::Pub => "PUB",
            Self::Pull => "PULL",
            Self::Push => "PUSH",
        }
    }

    fn goes_with(self, socket_type: &[u8]) -> bool {
        match self {
            Self::Sub => matches!(socket_type, b"PUB" | b"XPUB"),
            Self::Pub => matches!(socket_type, b"SUB" | b"XSUB"),
            Self::Pull => socket_type == b"PUSH",
            Self::Push => socket_type == b"PULL",
        }
    }
}

/// Why a connection cannot go on. Nothing after it can be decoded.
///
/// What the peer has a say in is escaped in the text, and cut where it is long.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The greeting has another signature.
    #[error("it speaks no ZMTP: byte {at} is '{}'", .byte.escape_ascii())]
    NotZmtp {
        /// Where, counted from 0: the first byte or the tenth.
        at: usize,
        /// What is there.
        byte: u8,
    },
    /// The greeting has a major version before 3, as it stands there: 2.0 calls itself 1.
    #[error("it speaks ZMTP {}", if *.0 == 0 { 1 } else { 2 })]
    Version(u8),
    /// The greeting has another mechanism than NULL.
    #[error("it wants mechanism {}", Shown(name_of(.0)))]
    Mechanism([u8; 20]),
    /// Something else than READY follows the greeting.
    #[error("its greeting is not followed by READY")]
    NotReady,
    /// A READY has no Socket-Type.
    #[error("its READY has no Socket-Type")]
    NoSocketType,
    /// A READY has a Socket-Type that does not go with our own.
    #[error("it is a {}, with which a {} cannot speak", Shown(.theirs), .ours.name())]
    SocketType {
        /// Our own.
        ours: Role,
        /// The peer's, as it came.
        theirs: Box<[u8]>,
    },
    /// An ERROR of the peer: it refuses us. Its reason, as it came, is of 255 bytes at most.
    #[error("it refuses: {}", Shown(.0))]
    Refused(Box<[u8]>),
    /// A frame has flags that do not exist, or a command more parts.
    #[error("a frame has the flags {0:#04x}")]
    Flags(u8),
    /// The name of a command, a property of a READY, the reason of an ERROR, or a PING is not as long as it should be.
    #[error("a command is malformed")]
    Malformed,
    /// A command is over the limit, which is [`LONGEST_METADATA`] for a READY, and the same length for all others.
    #[error("a command of {0} bytes is over the limit of {LONGEST_COMMAND}")]
    CommandTooLong(u64),
    /// The parts of a message are over the limit.
    #[error("{length} bytes of a message are over the limit of {limit}")]
    TooLong {
        /// Of the parts up to the one that is too much, as they were announced.
        length: u64,
        /// The limit, in bytes.
        limit: usize,
    },
    /// A message has more than [`MOST_PARTS`] parts.
    #[error("a message has more than {MOST_PARTS} parts")]
    TooManyParts,
    /// The stream ends too early. Within the greeting libzmq does that if its mechanism is another one: it has read ours,
    /// and says no more.
    #[error("it ends {}", match .0 {
        Stage::Greeting => "within its greeting; does it want another mechanism than NULL?",
        Stage::Handshake => "before its READY",
        Stage::Traffic => "within a message or command",
    })]
    Truncated(Stage),
}

/// How far a conversation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The peer's greeting is awaited.
    Greeting,
    /// Its READY is awaited.
    Handshake,
    /// Messages, and commands between them.
    Traffic,
}

/// Bytes of a peer, for a log.
struct Shown<'a>(&'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 40;
        let shown = &self.0[..self.0.len().min(MOST)];
        write!(f, "{}{}", shown.escape_ascii(), if shown.len() < self.0.len() { "..." } else { "" })
    }
}

/// A mechanism without what pads it.
fn name_of(mechanism: &[u8; 20]) -> &[u8] {
    let end = mechanism.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    &mechanism[..end]
}

/// What has arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    /// These bytes are to be sent: our READY after the peer's greeting, a PONG after its PING.
    Answer(Vec<u8>),
    /// The peer is what it should be, once. A SUB subscribes now.
    Ready,
    /// A message, for a SUB or PULL.
    Message(Message<'a>),
    /// To a PUB: messages are wanted whose first part begins with this topic. Nothing is wanted before. To subscribe twice
    /// is to have to cancel twice.
    Subscribed(&'a [u8]),
    /// To a PUB: one subscription to this topic is over.
    Cancelled(&'a [u8]),
}

/// A message of one to [`MOST_PARTS`] parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// All parts but the last, and where each of them ends.
    before: &'a [u8],
    ends: &'a [usize],
    last: &'a [u8],
}

impl<'a> Message<'a> {
    /// The last part, which is the only one of most messages: what comes before it is a topic.
    pub fn last(&self) -> &'a [u8] {
        self.last
    }

    /// All parts.
    pub fn parts(self) -> impl Iterator<Item = &'a [u8]> {
        let starts = [0].into_iter().chain(self.ends.iter().copied());
        let before = starts.zip(self.ends).map(move |(start, &end)| &self.before[start..end]);
        before.chain([self.last])
    }
}

/// Takes what a peer says, from its greeting on, out of a stream of bytes.
///
/// It holds all parts of a message but the last until that has come, which is not more than the limit of a message; all
/// else remains in the caller's buffer until it is whole. Nothing is reserved for what has only been announced.
#[derive(Debug)]
pub struct Decoder {
    role: Role,
    max_message: usize,
    stage: Stage,
    /// The parts of the message that has begun, or was the last event, and where each of them ends.
    parts: Vec<u8>,
    ends: Vec<usize>,
    /// They have been returned.
    is_over: bool,
}

impl Decoder {
    /// A decoder for a socket of this role that refuses messages of more than `max_message` bytes in all their parts.
    /// Subscriptions to a PUB are messages, too.
    pub fn new(role: Role, max_message: usize) -> Self {
        let stage = Stage::Greeting;
        Self { role, max_message, stage, parts: Vec::new(), ends: Vec::new(), is_over: false }
    }

    /// Takes bytes up to the next event off the front of `bytes`; `None`: more has to come.
    ///
    /// What is left in `bytes` has to be there again, with more behind it, in the next call. It is less than
    /// [`room`](Self::room), and of a frame only the head is looked at twice. Whatever is of no interest is skipped:
    /// commands without meaning here, messages to a PUSH, and those to a PUB that are no subscriptions.
    ///
    /// # Errors
    /// As soon as the bytes are there that prove it: a flag, a length or the number of parts before what they are about.
    pub fn decode<'d, 'b: 'd>(&'d mut self, bytes: &mut &'b [u8]) -> Result<Option<Event<'d>>, Error> {
        if self.stage == Stage::Greeting {
            judge_greeting(bytes)?;
            let Some(rest) = bytes.get(GREETING.len()..) else { return Ok(None) };
            (*bytes, self.stage) = (rest, Stage::Handshake);
            return Ok(Some(Event::Answer(ready(self.role))));
        }
        let last = loop {
            if self.is_over {
                self.parts.clear();
                self.ends.clear();
                self.is_over = false;
            }
            let Some((flags, body)) = self.take_frame(bytes)? else { return Ok(None) };
            if flags & COMMAND != 0 {
                if let Some(event) = self.command(body)? {
                    return Ok(Some(event));
                }
            } else if flags & MORE != 0 {
                self.parts.reserve_exact(body.len());
                self.parts.extend_from_slice(body);
                self.ends.push(self.parts.len());
            } else {
                self.is_over = true;
                match (self.role, body) {
                    (Role::Sub | Role::Pull, _) => break body,
                    (Role::Pub, [1, topic @ ..]) if self.ends.is_empty() => return Ok(Some(Event::Subscribed(topic))),
                    (Role::Pub, [0, topic @ ..]) if self.ends.is_empty() => return Ok(Some(Event::Cancelled(topic))),
                    (Role::Pub | Role::Push, _) => {}
                }
            }
        };
        Ok(Some(Event::Message(Message { before: &self.parts, ends: &self.ends, last })))
    }

    /// What [`decode`](Self::decode) leaves is less than so many bytes, so that a buffer of this size always has room.
    pub fn room(&self) -> usize {
        self.max_message.max(LONGEST_COMMAND).saturating_add(LONGEST_HEAD)
    }

    /// The stream has ended, with `rest` left in it. Before that, this tells whether something has begun and is awaited.
    ///
    /// # Errors
    /// That was not after the handshake and between two messages.
    pub fn finish(&self, rest: &[u8]) -> Result<(), Error> {
        let is_at_rest = rest.is_empty() && (self.is_over || self.ends.is_empty());
        if self.stage == Stage::Traffic && is_at_rest { Ok(()) } else { Err(Error::Truncated(self.stage)) }
    }

    /// Takes a frame, if it is whole.
    fn take_frame<'b>(&self, bytes: &mut &'b [u8]) -> Result<Option<(u8, &'b [u8])>, Error> {
        let Some((&flags, rest)) = bytes.split_first() else { return Ok(None) };
        let is_command = flags & COMMAND != 0;
        if flags & !(MORE | LONG | COMMAND) != 0 || (is_command && flags & MORE != 0) {
            return Err(Error::Flags(flags));
        }
        if !is_command && self.stage == Stage::Handshake {
            return Err(Error::NotReady);
        }
        if !is_command && self.ends.len() == MOST_PARTS {
            return Err(Error::TooManyParts);
        }
        let (length, rest) = if flags & LONG == 0 {
            let Some((&length, rest)) = rest.split_first() else { return Ok(None) };
            (u64::from(length), rest)
        } else {
            let Some((&length, rest)) = rest.split_first_chunk() else { return Ok(None) };
            (u64::from_be_bytes(length), rest)
        };
        let limit = if is_command { LONGEST_COMMAND } else { self.max_message - self.parts.len() };
        let Some(length) = usize::try_from(length).ok().filter(|&length| length <= limit) else {
            return Err(if is_command {
                Error::CommandTooLong(length)
            } else {
                Error::TooLong { length: length.saturating_add(self.parts.len() as u64), limit: self.max_message }
            });
        };
        let Some((body, rest)) = rest.split_at_checked(length) else { return Ok(None) };
        *bytes = rest;
        Ok(Some((flags, body)))
    }

    fn command<'b>(&mut self, body: &'b [u8]) -> Result<Option<Event<'b>>, Error> {
        let (name, data) = split_short(body).filter(|(name, _)| !name.is_empty()).ok_or(Error::Malformed)?;
        match (self.stage, self.role, name) {
            (_, _, b"ERROR") => {
                let (reason, _) = split_short(data).ok_or(Error::Malformed)?;
                Err(Error::Refused(reason.into()))
            }
            (Stage::Traffic, _, b"PING") => {
                // Its time to live would be for whoever has a clock.
                let (_ttl, context) = data.split_first_chunk::<2>().ok_or(Error::Malformed)?;
                if context.len() > LONGEST_CONTEXT {
                    return Err(Error::Malformed);
                }
                Ok(Some(Event::Answer(command(b"\x04PONG", &[context]))))
            }
            (Stage::Traffic, Role::Pub, b"SUBSCRIBE") => Ok(Some(Event::Subscribed(data))),
            (Stage::Traffic, Role::Pub, b"CANCEL") => Ok(Some(Event::Cancelled(data))),
            (Stage::Traffic, ..) => Ok(None),
            (_, ours, b"READY") => {
                let theirs = socket_type(data)?;
                if !ours.goes_with(theirs) {
                    return Err(Error::SocketType { ours, theirs: theirs.into() });
                }
                self.stage = Stage::Traffic;
                Ok(Some(Event::Ready))
            }
            _ => Err(Error::NotReady),
        }
    }
}

/// Judges what has come of a greeting. The signature's padding, the minor version and what follows the mechanism say
/// nothing about peers of NULL.
fn judge_greeting(bytes: &[u8]) -> Result<(), Error> {
    for at in [0, SIGNATURE_END] {
        match bytes.get(at) {
            Some(&byte) if byte != GREETING[at] => return Err(Error::NotZmtp { at, byte }),
            _ => {}
        }
    }
    match bytes.get(MAJOR) {
        Some(&major) if major < GREETING[MAJOR] => return Err(Error::Version(major)),
        _ => {}
    }
    // A part of its name would be a riddle.
    match bytes.get(MECHANISM_START..).and_then(<[u8]>::first_chunk) {
        Some(mechanism) if *mechanism != MECHANISM => Err(Error::Mechanism(*mechanism)),
        _ => Ok(()),
    }
}

/// The Socket-Type among the properties of a READY, the first if there are several. Names of properties are of any case.
fn socket_type(mut metadata: &[u8]) -> Result<&[u8], Error> {
    let mut found = None;
    while !metadata.is_empty() {
        let (name, rest) = split_short(metadata).filter(|(name, _)| !name.is_empty()).ok_or(Error::Malformed)?;
        let (&length, rest) = rest.split_first_chunk().ok_or(Error::Malformed)?;
        let length = usize::try_from(u32::from_be_bytes(length)).map_err(|_| Error::Malformed)?;
        let (value, rest) = rest.split_at_checked(length).ok_or(Error::Malformed)?;
        if name.eq_ignore_ascii_case(b"Socket-Type") {
            found = found.or(Some(value));
        }
        metadata = rest;
    }
    found.ok_or(Error::NoSocketType)
}

/// A text after the byte that is its length, and what follows it.
fn split_short(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&length, rest) = bytes.split_first()?;
    rest.split_at_checked(length.into())
}

/// Adds a frame with these pieces as its body, in the short form if that is possible.
fn add_frame(to: &mut Vec<u8>, flags: u8, body: &[&[u8]]) {
    let length: usize = body.iter().map(|piece| piece.len()).sum();
    match u8::try_from(length) {
        Ok(length) => to.extend_from_slice(&[flags, length]),
        Err(_) => {
            to.push(flags | LONG);
            to.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    for piece in body {
        to.extend_from_slice(piece);
    }
}

/// A command; its name begins with its length.
fn command(name: &[u8], data: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    add_frame(&mut bytes, COMMAND, &[&[name], data].concat());
    bytes
}

/// The command with which a socket introduces itself after the greetings. [`Decoder::decode`] returns it when it is time.
pub fn ready(role: Role) -> Vec<u8> {
    let name = role.name().as_bytes();
    let length = (name.len() as u64).to_be_bytes();
    command(b"\x05READY", &[b"\x0bSocket-Type", &length[4..], name])
}

/// What a SUB says to get the messages whose first part begins with `topic`; with an empty one it gets all. It is in the
/// form of 3.0, which those of 3.1 understand.
pub fn subscribe(topic: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    add_frame(&mut bytes, 0, &[&[1], topic]);
    bytes
}

/// Adds a message of these parts to what is to be sent. There is no message without parts: for none, nothing is added.
pub fn add_message(to: &mut Vec<u8>, parts: &[&[u8]]) {
    let Some((last, before)) = parts.split_last() else { return };
    for part in before {
        add_frame(to, MORE, &[part]);
    }
    add_frame(to, 0, &[last]);
}

#[cfg(test)]
mod tests;
