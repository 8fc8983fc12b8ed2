//! The transform server: a netstring in, `NAME.POEM`, and a netstring out, the poem as that transform changes it.
//!
//! Whatever is wrong with a request, the server sends nothing, says why in its log, and closes: to the client the end
//! of the stream without a reply means that it has to make do with the poem as it is.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use tokio::sync::Semaphore;
use tokio::task::coop::consume_budget;
use tokio::task::spawn_blocking;
use tokio_util::bytes::BytesMut;
use tokio_util::codec::Decoder;
use tracing::warn;

use crate::errors::is_for_later;
use crate::net::counts::Counts;
use crate::net::wait::{read_some, send_some};
use crate::net::{Handler, Peer, Progress};
use crate::pace::Ending;
use crate::proto::netstring::{self, Codec, Outgoing};
use crate::transforms::{self, Refusal};

/// What a read asks for.
const READ: usize = 64 * 1024;

thread_local! {
    /// For the first read of each connection, of which few bring much.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ]);
}

/// Longer poems are changed on threads of their own, so that nobody's short one has to wait for them. This much takes
/// a transform a millisecond or two at worst; for less it is not worth the way to another thread and back.
const SHORT: usize = 128 * 1024;

/// Changes poems for any number of clients.
#[derive(Debug)]
pub struct TransformServer {
    counts: Counts,
    outcomes: Outcomes,
    limits: RequestLimits,
    /// As many long poems are changed at once as there are processors.
    long_ones: Semaphore,
}

/// What the server puts up with from a client.
#[derive(Debug, Clone)]
pub struct RequestLimits {
    /// Bytes in a request, name and poem together.
    pub max_length: usize,
    /// A client that says nothing for so long, in or between requests, is let go. `None`: never.
    pub idle_timeout: Option<Duration>,
    /// A client that takes nothing of its reply for so long is dropped. `None`: never.
    pub write_timeout: Option<Duration>,
    /// Any number of requests on a connection, instead of one.
    pub keep_alive: bool,
}

/// What has been said on a connection.
#[derive(Debug)]
pub struct Talk {
    codec: Codec,
    arrived: BytesMut,
    reply: Option<Outgoing<Vec<u8>>>,
}

/// Requests by what became of them.
#[derive(Debug, Default)]
struct Outcomes([AtomicU64; 7]);

impl Outcomes {
    const NAMES: [&str; 7] = ["answered", "malformed", "no_name", "unknown", "refused", "silent", "failed"];
    const ANSWERED: usize = 0;

    fn count(&self, outcome: usize) {
        self.0[outcome].fetch_add(1, Relaxed);
    }
}

/// Why a client gets no reply.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("{0}")]
    Malformed(#[from] netstring::Error),
    #[error("no '.' after the name of a transform")]
    NoName,
    #[error("no transform is called '{0}'")]
    Unknown(String),
    #[error("{transform} refuses the poem: {why}")]
    Transform { transform: &'static str, why: Refusal },
    #[error("silent for {} within a request", humantime::format_duration(*.0))]
    Silent(Duration),
    #[error("the transform failed")]
    Bug,
}

impl Refused {
    /// Its place among the [`Outcomes`].
    fn outcome(&self) -> usize {
        match self {
            Self::Malformed(_) => 1,
            Self::NoName => 2,
            Self::Unknown(_) => 3,
            Self::Transform { .. } => 4,
            Self::Silent(_) => 5,
            Self::Bug => 6,
        }
    }
}

impl TransformServer {
    /// A server for everything in [`transforms::ALL`].
    pub fn new(limits: RequestLimits) -> Self {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        Self { counts: Counts::default(), outcomes: Outcomes::default(), limits, long_ones: Semaphore::new(processors) }
    }

    /// How many requests came to which end, by name: `answered`, or why not.
    pub fn outcomes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Outcomes::NAMES.into_iter().zip(self.outcomes.0.iter().map(|count| count.load(Relaxed)))
    }

    fn refuse(&self, peer: Peer, refused: &Refused) {
        self.outcomes.count(refused.outcome());
        warn!(%peer, "No reply to {peer}: {refused}");
    }

    /// The reply to the next request; `None` if no more requests come.
    async fn next_reply(&self, stream: &tokio::net::TcpStream, talk: &mut Talk) -> io::Result<Option<Reply>> {
        loop {
            match talk.codec.decode(&mut talk.arrived) {
                Ok(Some(request)) if request.len() <= SHORT => return Ok(Some(answer(&request))),
                Ok(Some(request)) => {
                    let _turn = self.long_ones.acquire().await;
                    let reply = spawn_blocking(move || answer(&request)).await;
                    return Ok(Some(reply.unwrap_or(Err(Refused::Bug))));
                }
                Ok(None) => {}
                Err(error) => return Ok(Some(Err(malformed(error)?))),
            }
            if talk.arrived.is_empty() {
                // Nothing is kept for a client that may be silent for long.
                talk.arrived = BytesMut::new();
            } else {
                talk.arrived.reserve(READ);
            }
            match (read_some(stream, &mut talk.arrived, self.limits.idle_timeout).await, self.limits.idle_timeout) {
                (Ok(0), _) => {
                    let end = talk.codec.decode_eof(&mut talk.arrived).err();
                    return end.map(|error| malformed(error).map(Err)).transpose();
                }
                (Ok(_), _) => {}
                (Err(error), Some(limit)) if error.kind() == io::ErrorKind::TimedOut => {
                    return Ok(Some(Err(Refused::Silent(limit))).filter(|_| !talk.arrived.is_empty()));
                }
                (Err(error), _) => return Err(error),
            }
        }
    }
}

type Reply = Result<Vec<u8>, Refused>;

impl Handler for TransformServer {
    type Rest = Box<Talk>;

    /// A netstring says how long it is.
    const EOF_ENDS_MESSAGE: bool = false;

    fn counts(&self) -> &Counts {
        &self.counts
    }

    /// A short request that comes with the connection is answered at once.
    fn try_serve(&self, mut socket: &TcpStream, peer: Peer) -> io::Result<Progress<Self::Rest>> {
        let mut talk =
            Box::new(Talk { codec: Codec::new(self.limits.max_length), arrived: BytesMut::new(), reply: None });
        let heard = BUFFER
            .with_borrow_mut(|buffer| socket.read(buffer).inspect(|&n| talk.arrived.extend_from_slice(&buffer[..n])));
        match heard {
            Ok(0) => return Ok(Progress::End(Ending::Fin)),
            Ok(_) => {}
            Err(error) if is_for_later(&error) => return Ok(Progress::Rest(talk)),
            Err(error) => return Err(error),
        }
        let reply = match talk.codec.decode(&mut talk.arrived) {
            Ok(Some(request)) => answer(&request),
            Ok(None) => return Ok(Progress::Rest(talk)),
            Err(error) => Err(malformed(error)?),
        };
        let mut reply = match reply {
            Ok(reply) => Outgoing::new(reply),
            Err(refused) => {
                self.refuse(peer, &refused);
                return Ok(Progress::End(Ending::Fin));
            }
        };
        match socket.write_vectored(&reply.unsent()) {
            Ok(n) => {
                self.counts.send(n);
                reply.sent(n);
            }
            Err(error) if is_for_later(&error) => {}
            Err(error) => return Err(error),
        }
        if reply.is_sent() && !self.limits.keep_alive {
            self.outcomes.count(Outcomes::ANSWERED);
            return Ok(Progress::End(Ending::Fin));
        }
        talk.reply = Some(reply);
        Ok(Progress::Rest(talk))
    }

    async fn serve(&self, stream: &tokio::net::TcpStream, mut talk: Self::Rest) -> io::Result<Ending> {
        loop {
            if let Some(mut reply) = talk.reply.take() {
                while !reply.is_sent() {
                    let send = || {
                        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                        Ok(sendmsg(stream, &reply.unsent(), &mut SendAncillaryBuffer::default(), flags)?)
                    };
                    let sent = send_some(stream, self.limits.write_timeout, send).await?;
                    self.counts.send(sent);
                    reply.sent(sent);
                }
                self.outcomes.count(Outcomes::ANSWERED);
                if !self.limits.keep_alive {
                    return Ok(Ending::Fin);
                }
                // A client that has asked for much at once must not keep others waiting.
                consume_budget().await;
            }
            match self.next_reply(stream, &mut talk).await? {
                Some(Ok(reply)) => talk.reply = Some(Outgoing::new(reply)),
                Some(Err(refused)) => {
                    self.refuse(Peer(stream.peer_addr().ok()), &refused);
                    return Ok(Ending::Fin);
                }
                None => return Ok(Ending::Fin),
            }
        }
    }
}

/// The codec's error as it was before it had to be an [`io::Error`].
fn malformed(error: io::Error) -> io::Result<Refused> {
    error.downcast().map(Refused::Malformed)
}

/// `NAME.POEM`, split at the first dot.
fn answer(request: &[u8]) -> Reply {
    let dot = request.iter().position(|&byte| byte == b'.').ok_or(Refused::NoName)?;
    let (name, poem) = (&request[..dot], &request[dot + 1..]);
    let transform = transforms::find(name).ok_or_else(|| Refused::Unknown(printable(name)))?;
    transform.apply(poem).map_err(|why| Refused::Transform { transform: transform.name, why })
}

/// A name for the log, whatever a stranger put into it.
fn printable(name: &[u8]) -> String {
    const MOST: usize = 40;
    let shown = name[..name.len().min(MOST)].escape_ascii();
    if name.len() > MOST { format!("{shown}...") } else { shown.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_split_at_its_first_dot() {
        let reply = |request: &str| answer(request.as_bytes()).map_err(|refused| refused.to_string());
        assert_eq!(reply("cummingsify.HERE IS MY POEM"), Ok(b"here is my poem".to_vec()));
        assert_eq!(reply("shout.a. b."), Ok(b"A. B.".to_vec()));
        assert_eq!(reply("rot13."), Ok(Vec::new()));
        for (request, why) in [
            ("", "no '.' after the name of a transform"),
            ("cummingsify", "no '.' after the name of a transform"),
            (".poem", "no transform is called ''"),
            ("sing.poem", "no transform is called 'sing'"),
            ("\u{1b}[31m\n.poem", "no transform is called '\\x1b[31m\\n'"),
            ("gibberish.poem", "gibberish refuses the poem: it is gibberish"),
        ] {
            assert_eq!(reply(request), Err(why.to_owned()));
        }
        let long = reply(&format!("{}.poem", "x".repeat(1_000))).expect_err("unknown");
        assert_eq!(long, format!("no transform is called '{}...'", "x".repeat(40)));
    }
}
