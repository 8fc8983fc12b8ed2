//! The transform server: a netstring in, `NAME.POEM`, and a netstring out, the poem as that transform changes it.
//!
//! Whatever is wrong with a request, the server sends nothing, says why in its log, and closes: to the client the end
//! of the stream without a reply means that it has to make do with the poem as it is.

use std::cell::RefCell;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::coop::consume_budget;
use tokio_util::bytes::{Bytes, BytesMut};
use tracing::{debug, warn};

use crate::errors::is_for_later;
use crate::net::{Connection, FastPath, Peer, Progress, Unregistered, send_parts_now};
use crate::pace::Ending;
use crate::pool::{NotCalled, Pool};
use crate::proto::netstring::{self, Decoder, Outgoing};
use crate::server::printable;
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

/// Threads for long poems. How many are changed at once is up to the server.
static LONG_ONES: Pool = Pool::new(512);

/// Changes poems for any number of clients.
#[derive(Debug)]
pub struct TransformServer {
    limits: RequestLimits,
    /// Requests so far by their [`Outcome`].
    outcomes: [AtomicU64; Outcome::ALL.len()],
    /// As many long poems are changed at once as there are processors.
    long_ones: Semaphore,
}

/// What the server puts up with from a client.
#[derive(Debug, Clone)]
pub struct RequestLimits {
    /// Bytes in a request, name and poem together.
    pub max_size: usize,
    /// A client that says nothing for so long, in or between requests, is let go. `None`: never.
    pub idle_timeout: Option<Duration>,
    /// A request that is not whole so long after its first byte is refused. `None`: never.
    pub request_timeout: Option<Duration>,
    /// Any number of requests on a connection, instead of one.
    pub keep_alive: bool,
}

/// What has been said on a connection.
#[derive(Debug)]
pub struct Talk {
    decoder: Decoder,
    arrived: BytesMut,
    /// When the first bytes of a request that is not whole yet have arrived.
    begun: Option<Instant>,
    reply: Option<Outgoing<Vec<u8>>>,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Answered,
    Malformed,
    NoName,
    Unknown,
    Refused,
    Silent,
    Slow,
    Failed,
}

impl Outcome {
    const ALL: [Self; 8] = [
        Self::Answered,
        Self::Malformed,
        Self::NoName,
        Self::Unknown,
        Self::Refused,
        Self::Silent,
        Self::Slow,
        Self::Failed,
    ];

    /// The word for it in metrics.
    fn word(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Malformed => "malformed",
            Self::NoName => "no_name",
            Self::Unknown => "unknown",
            Self::Refused => "refused",
            Self::Silent => "silent",
            Self::Slow => "slow",
            Self::Failed => "failed",
        }
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
    #[error("not whole {} after its first byte", humantime::format_duration(*.0))]
    Slow(Duration),
    #[error("the transform failed")]
    Bug,
}

impl Refused {
    fn outcome(&self) -> Outcome {
        match self {
            Self::Malformed(_) => Outcome::Malformed,
            Self::NoName => Outcome::NoName,
            Self::Unknown(_) => Outcome::Unknown,
            Self::Transform { .. } => Outcome::Refused,
            Self::Silent(_) => Outcome::Silent,
            Self::Slow(_) => Outcome::Slow,
            Self::Bug => Outcome::Failed,
        }
    }
}

type Reply = Result<Vec<u8>, Refused>;

impl Talk {
    fn new(max_size: usize) -> Self {
        Self { decoder: Decoder::new(max_size), arrived: BytesMut::new(), begun: None, reply: None }
    }

    /// The next request, if all of it has arrived.
    fn request(&mut self) -> Result<Option<Bytes>, Refused> {
        Ok(self.decoder.split(&mut self.arrived)?)
    }

    /// The time that is left at the moment `now` for a request that has to be whole so long after its first byte.
    fn time_left(&mut self, limit: Duration, now: Instant) -> Duration {
        let begun = *self.begun.get_or_insert(now);
        limit.saturating_sub(now.saturating_duration_since(begun))
    }
}

impl TransformServer {
    /// A server for everything in [`transforms::ALL`].
    pub fn new(limits: RequestLimits) -> Self {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        Self { limits, outcomes: Default::default(), long_ones: Semaphore::new(processors) }
    }

    /// How many requests came to which end, by name: `answered`, or why not.
    pub fn outcomes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Outcome::ALL.into_iter().map(|outcome| (outcome.word(), self.outcomes[outcome as usize].load(Relaxed)))
    }

    fn count(&self, outcome: Outcome) {
        self.outcomes[outcome as usize].fetch_add(1, Relaxed);
    }

    fn refuse(&self, peer: Peer, refused: &Refused) {
        self.count(refused.outcome());
        warn!(%peer, "No reply to {peer}: {refused}");
    }

    /// The reply to the next request; `None` if no more requests come, or the server is asked to stop before one does.
    async fn next_reply(&self, connection: &mut Connection, talk: &mut Talk) -> io::Result<Option<Reply>> {
        let RequestLimits { idle_timeout, request_timeout, .. } = self.limits;
        loop {
            match talk.request() {
                Ok(Some(request)) if request.len() <= SHORT => return Ok(Some(answer(&request))),
                Ok(Some(request)) => {
                    let _turn = self.long_ones.acquire().await;
                    return Ok(Some(answer_aside(request).await));
                }
                Ok(None) => {}
                Err(refused) => return Ok(Some(Err(refused))),
            }
            let (read, timed_out) = if talk.arrived.is_empty() {
                // Nothing is kept for a client that may be silent for long.
                talk.arrived = BytesMut::new();
                (connection.read_request(&mut talk.arrived, idle_timeout).await.transpose(), None)
            } else {
                talk.arrived.reserve(READ);
                let left = request_timeout.map(|limit| (talk.time_left(limit, Instant::now()), Refused::Slow(limit)));
                // Bytes that have come meanwhile do not put it off.
                if let Some((Duration::ZERO, slow)) = left {
                    return Ok(Some(Err(slow)));
                }
                let idle = idle_timeout.map(|limit| (limit, Refused::Silent(limit)));
                let (limit, timed_out) = idle.into_iter().chain(left).min_by_key(|(limit, _)| *limit).unzip();
                (Some(connection.read_some(&mut talk.arrived, limit).await), timed_out)
            };
            match read {
                None => return Ok(None),
                Some(Ok(0)) => return Ok(talk.decoder.finish(&talk.arrived).err().map(|error| Err(error.into()))),
                Some(Ok(_)) => {}
                // Between two requests nothing is refused.
                Some(Err(error)) if error.kind() == io::ErrorKind::TimedOut => return Ok(timed_out.map(Err)),
                Some(Err(error)) => return Err(error),
            }
        }
    }
}

impl FastPath for TransformServer {
    /// A netstring says how long it is.
    const EOF_ENDS_MESSAGE: bool = false;

    type State = Box<Talk>;

    /// A short request that comes with the connection is answered at once.
    fn try_serve(&self, socket: &Unregistered<'_>) -> io::Result<Progress<Self::State>> {
        let peer = socket.peer();
        debug!(%peer, "Somebody at {peer} wants a poem changed!");
        let mut talk = Box::new(Talk::new(self.limits.max_size));
        let heard = BUFFER
            .with_borrow_mut(|buffer| socket.read(buffer).inspect(|&n| talk.arrived.extend_from_slice(&buffer[..n])));
        match heard {
            Ok(0) => return Ok(Progress::End(Ending::Fin)),
            Ok(_) => {}
            Err(error) if is_for_later(&error) => return Ok(Progress::Blocked(talk)),
            Err(error) => return Err(error),
        }
        let reply = match talk.request() {
            Ok(Some(request)) => answer(&request),
            Ok(None) => {
                talk.begun = Some(Instant::now());
                return Ok(Progress::Blocked(talk));
            }
            Err(refused) => Err(refused),
        };
        let mut reply = match reply {
            Ok(reply) => Outgoing::new(reply),
            Err(refused) => {
                self.refuse(peer, &refused);
                return Ok(Progress::End(Ending::Fin));
            }
        };
        match socket.send_parts(&reply.unsent()) {
            Ok(n) => reply.sent(n),
            Err(error) if is_for_later(&error) => {}
            Err(error) => return Err(error),
        }
        if reply.is_sent() && !self.limits.keep_alive {
            self.count(Outcome::Answered);
            return Ok(Progress::End(Ending::Fin));
        }
        talk.reply = Some(reply);
        Ok(Progress::Blocked(talk))
    }

    async fn finish(&self, connection: &mut Connection, mut talk: Self::State) -> io::Result<Ending> {
        loop {
            if let Some(mut reply) = talk.reply.take() {
                while !reply.is_sent() {
                    let sent = connection.send_some(|stream| send_parts_now(stream, &reply.unsent())).await?;
                    reply.sent(sent);
                }
                self.count(Outcome::Answered);
                if !self.limits.keep_alive {
                    return Ok(Ending::Fin);
                }
                // A client that has asked for much at once must not keep others waiting.
                consume_budget().await;
            }
            match self.next_reply(connection, &mut talk).await? {
                Some(Ok(reply)) => (talk.reply, talk.begun) = (Some(Outgoing::new(reply)), None),
                Some(Err(refused)) => {
                    self.refuse(connection.peer(), &refused);
                    return Ok(Ending::Fin);
                }
                None => return Ok(Ending::Fin),
            }
        }
    }
}

/// [`answer`] on a thread of its own, or on this one if there is none to be had.
async fn answer_aside(request: Bytes) -> Reply {
    let its = request.clone();
    match LONG_ONES.run(move || answer(&its)).await {
        Ok(reply) => reply,
        // It is late for others, and not lost for this one.
        Err(NotCalled::NoThread(_)) => answer(&request),
        Err(NotCalled::Panicked) => Err(Refused::Bug),
    }
}

/// `NAME.POEM`, split at the first dot.
fn answer(request: &[u8]) -> Reply {
    let dot = request.iter().position(|&byte| byte == b'.').ok_or(Refused::NoName)?;
    let (name, poem) = (&request[..dot], &request[dot + 1..]);
    let transform = transforms::find(name).ok_or_else(|| Refused::Unknown(printable(name)))?;
    transform.apply(poem).map_err(|why| Refused::Transform { transform: transform.name, why })
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
