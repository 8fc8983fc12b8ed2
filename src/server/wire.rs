//! A body on its way to a client: its bytes, wherever they are, and what has to be said around them.

use std::fs::File;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::BorrowedFd;

use rustix::net::SendFlags;

use crate::net::send_parts_with;
use crate::poem::Poem;
use crate::proto::http::framing::{Encoder, Framing};

/// What is sent on a connection.
#[derive(Debug)]
pub(super) enum Body {
    /// A poem, and the end of the stream is its end.
    Plain(Poem),
    /// Bytes with something around them.
    Framed(Box<Framed>),
}

/// A source of bytes of which the length is known.
#[derive(Debug)]
pub(super) enum Source {
    /// In memory.
    Poem(Poem),
    /// A file, as long as it was when it was opened.
    File(File, u64),
}

/// A head, and a body in its framing.
#[derive(Debug)]
pub(super) struct Framed {
    source: Source,
    encoder: Encoder,
    /// What has to be sent before the next byte of the body.
    owed: Vec<u8>,
    /// How much of that is sent.
    paid: usize,
    is_ended: bool,
}

impl Body {
    /// Number of its bytes, without what is around them.
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Plain(poem) => poem.bytes().len() as u64,
            Self::Framed(framed) => framed.source.len(),
        }
    }

    /// Whether something else than bytes of the body has to be said before the end of the connection: the head, or, if the
    /// body is whole, that it is.
    pub(super) fn is_owing(&mut self, is_whole: bool) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Framed(framed) => framed.is_owing(is_whole),
        }
    }

    /// Sends these bytes of the body, or what has to be said before, or as much as the kernel takes. Returns how many bytes
    /// that were, and how many of them were the body's.
    ///
    /// # Errors
    /// Those of send(2), sendmsg(2) and sendfile(2). `UnexpectedEof`: a file has become shorter.
    pub(super) fn send(
        &mut self,
        socket: BorrowedFd<'_>,
        bytes: Range<u64>,
        flags: SendFlags,
    ) -> io::Result<(usize, usize)> {
        match self {
            Self::Plain(poem) => {
                let sent = rustix::net::send(socket, part(poem, &bytes), flags | SendFlags::NOSIGNAL)?;
                Ok((sent, sent))
            }
            Self::Framed(framed) => framed.send(socket, bytes, flags),
        }
    }
}

impl Source {
    /// Number of its bytes.
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Poem(poem) => poem.bytes().len() as u64,
            Self::File(_, len) => *len,
        }
    }
}

/// The part of a poem between two offsets. It is in memory, and no offset in it is too large.
fn part<'a>(poem: &'a Poem, bytes: &Range<u64>) -> &'a [u8] {
    let index = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
    &poem.bytes()[index(bytes.start)..index(bytes.end)]
}

impl Framed {
    /// A head, and a body that is framed so.
    pub(super) fn new(head: Vec<u8>, framing: Framing, source: Source) -> Self {
        Self { source, encoder: Encoder::new(framing), owed: head, paid: 0, is_ended: false }
    }

    fn is_owing(&mut self, is_whole: bool) -> bool {
        if is_whole && !self.is_ended {
            self.encoder.end(&mut self.owed);
            self.is_ended = true;
        }
        self.paid < self.owed.len()
    }

    fn send(&mut self, socket: BorrowedFd<'_>, bytes: Range<u64>, flags: SendFlags) -> io::Result<(usize, usize)> {
        let most = self.encoder.begin(bytes.end - bytes.start, &mut self.owed);
        let bytes = bytes.start..bytes.start + most;
        let owed = &self.owed[self.paid..];
        let sent = match &self.source {
            Source::Poem(poem) => {
                send_parts_with(socket, &[IoSlice::new(owed), IoSlice::new(part(poem, &bytes))], flags)?
            }
            Source::File(file, _) if owed.is_empty() => send_file(socket, file, &bytes)?,
            Source::File(..) => {
                let more = if most > 0 { SendFlags::MORE } else { SendFlags::empty() };
                rustix::net::send(socket, owed, flags | more | SendFlags::NOSIGNAL)?
            }
        };
        let paid = sent.min(owed.len());
        self.paid += paid;
        if self.paid == self.owed.len() {
            self.owed.clear();
            self.paid = 0;
        }
        self.encoder.sent((sent - paid) as u64);
        Ok((sent, sent - paid))
    }
}

/// The most of a file that is sent at once: what is not in the page cache is read while others wait.
const FILE_PART: usize = 128 << 10;

/// sendfile(2): the bytes go from the page cache into the socket.
fn send_file(socket: BorrowedFd<'_>, file: &File, bytes: &Range<u64>) -> io::Result<usize> {
    let most = usize::try_from(bytes.end - bytes.start).unwrap_or(usize::MAX).min(FILE_PART);
    let mut offset = bytes.start;
    match rustix::fs::sendfile(socket, file, Some(&mut offset), most)? {
        0 if most > 0 => Err(io::ErrorKind::UnexpectedEof.into()),
        sent => Ok(sent),
    }
}
