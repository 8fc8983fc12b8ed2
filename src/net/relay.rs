//! A relay: two connections whose bytes, and whose ends, are passed on to each other.
//!
//! ```text
//!   client ──▶ up ──▶ upstream        the end of the stream as the end of the stream, in each direction by itself;
//!   client ◀── down ◀── upstream      a reset as a reset, when all that came before it has left
//! ```
//!
//! Both directions are one task. A direction on which nothing is under way has no buffer: bytes are read into one that all
//! share, and sent at once; only what the other side does not take, or is not due yet, is held, at most 64 KiB, and more in
//! a delay line as long as the [`Allowance`] of all lines lasts. Then nothing more is read, and the sender has to wait
//! (backpressure).

use std::cell::RefCell;
use std::future::pending;
use std::io;
use std::net::Shutdown;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::task::coop::consume_budget;
use tokio::time::{sleep, timeout};
use tokio_util::bytes::{Buf, BytesMut};
use tracing::warn;

use super::close;
use super::connection::{Connection, departed, is_drained, send_now};
use crate::pace::{Corruption, Cursor, Ending, Line, Next, Pace, Plan};

/// The most bytes that are held of one direction.
const ROOM: usize = 64 << 10;

/// The bytes that a delay line holds without asking.
const LINE: usize = 256 << 10;

thread_local! {
    /// What a read brings, for as long as it takes to try to send it.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; ROOM]);
}

/// The bytes that all delay lines together may still hold, beyond 256 KiB each.
#[derive(Debug)]
pub struct Allowance(AtomicUsize);

impl Allowance {
    /// So many bytes in all.
    pub fn new(bytes: usize) -> Self {
        Self(AtomicUsize::new(bytes))
    }

    fn take(&self, bytes: usize) -> bool {
        self.0.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(bytes)).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.0.fetch_add(bytes, Relaxed);
    }
}

/// Who is told what is passed on in one direction.
pub trait Witness: Send + Sync {
    /// So many bytes were sent.
    fn sent(&self, bytes: u64);

    /// The end of the stream was sent.
    fn ended(&self);
}

/// Where one message of a stream ends, if the stream is passed on message by message.
pub trait Boundary: Send {
    /// Looks at the bytes that come next, and returns how many of them belong to the message.
    fn take(&mut self, bytes: &[u8]) -> usize;

    /// Whether that was the last of it.
    fn is_reached(&self) -> bool;
}

/// How one direction is treated. The default passes bytes on as they come.
#[derive(Default)]
pub struct Treatment<'m> {
    /// Bytes that were read before, and come first.
    pub early: BytesMut,
    /// Where the relay ends, if it is that of a message only.
    pub message: Option<&'m mut dyn Boundary>,
    /// Who is told.
    pub witness: Option<Arc<dyn Witness>>,
    /// How late everything is, and what all lines may hold.
    pub line: Option<(Line, Arc<Allowance>)>,
    /// When how much may be sent, and how it ends.
    pub pace: Option<Cursor>,
    /// Bits that are flipped.
    pub corruption: Option<Corruption>,
    /// Bytes to be put in after the first read: they belong to nobody.
    pub injected: Vec<u8>,
}

/// What was passed on, and how it came to an end.
#[derive(Debug)]
pub struct Relayed {
    /// Bytes from the client to upstream.
    pub up: u64,
    /// Bytes from upstream to the client.
    pub down: u64,
    /// Bytes that were read from the client and not sent: they are of its next message, or of one that was broken off.
    pub rest_up: BytesMut,
    /// The same from upstream.
    pub rest_down: BytesMut,
    /// How it ended; the connections are not closed yet.
    pub end: RelayEnd,
}

/// How a relay ends.
#[derive(Debug)]
pub enum RelayEnd {
    /// Both streams have come to their ends, and these are passed on.
    Both,
    /// Both messages have been passed on, and both connections go on.
    Messages,
    /// Upstream has said its message, and says something more, or its end, before it was told all of the client's.
    Unasked,
    /// A direction was cut, as its pace has it: the client gets this ending.
    Cut(Ending),
    /// Upstream broke. The client has everything that came before, and is to be reset.
    UpstreamBroke(io::Error),
    /// The client broke, or takes nothing (`TimedOut`). Upstream is to be reset.
    ClientBroke(io::Error),
}

/// Why a direction has come to its end.
enum Stop {
    /// The end of the stream, which is passed on.
    Over,
    /// The end of the message; and whether more than that was read.
    Whole {
        and_more: bool,
    },
    Cut(Ending),
    /// The side that is read from broke; what it had said is sent.
    Source(io::Error),
    /// The side that is sent to broke.
    Sink(io::Error),
}

/// One direction.
struct Pump<'a> {
    from: &'a TcpStream,
    to: &'a TcpStream,
    treatment: Treatment<'a>,
    /// Bytes that are read and not sent.
    held: BytesMut,
    /// Bytes that are read and do not belong to the message.
    rest: BytesMut,
    /// What its delay line has of the allowance.
    borrowed: usize,
    read: u64,
    sent: u64,
    /// The source has come to its end.
    is_over: bool,
    /// The message has.
    is_whole: bool,
    /// The source broke: that counts when all that it said is sent.
    broken: Option<io::Error>,
    /// How long the sink may take nothing while something is owed to it.
    limit: Option<Duration>,
}

/// Passes on what two connections say to each other, until both have said all, or one of them breaks; or one message in each
/// direction, if that is asked for. The end of the client's connection is the caller's, and so is that of upstream's.
pub async fn relay<'a>(
    client: &'a Connection,
    upstream: &'a TcpStream,
    up: Treatment<'a>,
    down: Treatment<'a>,
) -> Relayed {
    let limit = client.write_timeout();
    let mut up = Pump::new(client.stream(), upstream, up, limit);
    let mut down = Pump::new(upstream, client.stream(), down, limit);
    let end = run(&mut up, &mut down).await;
    client.counts().send(usize::try_from(down.sent).unwrap_or(usize::MAX));
    if let RelayEnd::ClientBroke(error) = &end
        && error.kind() == io::ErrorKind::TimedOut
        && let Some(limit) = limit
    {
        warn!("Dropped {}: it took nothing for {}", client.peer(), humantime::format_duration(limit));
    }
    // A reset would throw away what has not left.
    let end = match end {
        RelayEnd::UpstreamBroke(_) | RelayEnd::Cut(Ending::Rst) => match client.flush().await {
            Ok(()) => end,
            Err(error) => RelayEnd::ClientBroke(error),
        },
        end => end,
    };
    let (rest_up, rest_down) = (up.left(), down.left());
    Relayed { up: up.sent, down: down.sent, rest_up, rest_down, end }
}

/// How far a direction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Its message is passed on, or what there is.
    UnderWay,
    /// Its message has been passed on.
    Whole,
    /// Nothing more is passed on.
    Over,
}

/// Runs both directions to the end of the relay.
async fn run(up: &mut Pump<'_>, down: &mut Pump<'_>) -> RelayEnd {
    let (client, upstream) = (up.from, down.from);
    let (mut up, mut down) = (Box::pin(up.run()), Box::pin(down.run()));
    let (mut up_is, mut down_is, mut has_more) = (State::UnderWay, State::UnderWay, false);
    loop {
        tokio::select! {
            stop = &mut up, if up_is == State::UnderWay => match stop {
                Stop::Cut(how @ (Ending::Rst | Ending::Hang)) => return RelayEnd::Cut(how),
                Stop::Source(error) => return RelayEnd::ClientBroke(error),
                Stop::Whole { and_more } => (up_is, has_more) = (State::Whole, and_more),
                // To upstream, that was all. Or it broke, and what it had said before is still to come.
                Stop::Over | Stop::Cut(Ending::Fin) | Stop::Sink(_) => up_is = State::Over,
            },
            stop = &mut down, if down_is == State::UnderWay => match stop {
                Stop::Cut(how) => return RelayEnd::Cut(how),
                Stop::Source(error) => return RelayEnd::UpstreamBroke(error),
                Stop::Sink(error) => return RelayEnd::ClientBroke(error),
                Stop::Whole { .. } => down_is = State::Whole,
                Stop::Over => down_is = State::Over,
            },
            // Who waits for a reply may leave meanwhile.
            end = leaves(client, has_more), if up_is == State::Whole => match end {
                Ok(()) => {
                    let _ = SockRef::from(upstream).shutdown(Shutdown::Write);
                    up_is = State::Over;
                }
                Err(error) => return RelayEnd::ClientBroke(error),
            },
            // Data, an end or an error: none of that belongs to its message.
            () = speaks(upstream), if down_is == State::Whole => return RelayEnd::Unasked,
        }
        match (up_is, down_is) {
            (State::UnderWay, _) | (_, State::UnderWay) => {}
            (_, State::Whole) => return RelayEnd::Messages,
            // If upstream takes no more, but has said all, the client's rest is for nobody.
            (_, State::Over) => return RelayEnd::Both,
        }
    }
}

/// Waits until a peer says something, comes to its end, or breaks. Nothing is read.
pub async fn speaks(stream: &TcpStream) {
    let _ = stream.peek(&mut [0]).await;
}

/// Waits until the peer of a connection that is not read from comes to its end, or breaks. What it says before is left; if
/// it `has_more` to be passed on, that is not its end yet.
async fn leaves(stream: &TcpStream, has_more: bool) -> io::Result<()> {
    if !has_more && stream.peek(&mut [0]).await? == 0 {
        return Ok(());
    }
    match stream.ready(Interest::ERROR).await.and_then(|_| stream.take_error())? {
        Some(error) => Err(error),
        None => Err(io::ErrorKind::ConnectionReset.into()),
    }
}

impl<'a> Pump<'a> {
    fn new(from: &'a TcpStream, to: &'a TcpStream, treatment: Treatment<'a>, limit: Option<Duration>) -> Self {
        Self {
            from,
            to,
            treatment,
            held: BytesMut::new(),
            rest: BytesMut::new(),
            borrowed: 0,
            read: 0,
            sent: 0,
            is_over: false,
            is_whole: false,
            broken: None,
            limit,
        }
    }

    async fn run(&mut self) -> Stop {
        let stop = match self.treatment.pace.take() {
            None if self.treatment.line.is_none() => self.run_freely().await,
            None => self.run_at(Cursor::new(Plan::uniform(0, Pace::default()).schedule(1), Instant::now())).await,
            Some(cursor) => self.run_at(cursor).await,
        };
        if matches!(stop, Stop::Over | Stop::Cut(Ending::Fin)) {
            // If it is gone, that shows on the other direction.
            let _ = SockRef::from(self.to).shutdown(Shutdown::Write);
            if let Some(witness) = &self.treatment.witness {
                witness.ended();
            }
        }
        stop
    }

    /// The end of the message, or of the stream.
    fn end(&self) -> Stop {
        if self.is_whole { Stop::Whole { and_more: !self.rest.is_empty() } } else { Stop::Over }
    }

    /// Passes on whatever comes, at once.
    async fn run_freely(&mut self) -> Stop {
        if let Err(error) = self.begin(true) {
            return Stop::Sink(error);
        }
        loop {
            // Whoever sends much must not get all the time.
            consume_budget().await;
            if self.held.is_empty() {
                if let Some(error) = self.broken.take() {
                    return Stop::Source(error);
                }
                if self.is_whole || self.is_over {
                    return self.end();
                }
                if let Err(error) = self.from.readable().await {
                    return Stop::Source(error);
                }
                if let Err(error) = self.take(true) {
                    return Stop::Sink(error);
                }
            } else if let Err(error) = self.give(self.sent..self.read, None).await {
                return Stop::Sink(error);
            }
        }
    }

    /// Passes on what comes as a schedule has it.
    async fn run_at(&mut self, mut cursor: Cursor) -> Stop {
        // Nothing is sent before its time.
        if let Err(error) = self.begin(false) {
            return Stop::Sink(error);
        }
        loop {
            consume_budget().await;
            let now = Instant::now();
            let has_ended = self.is_whole || self.is_over || self.broken.is_some();
            let (available, is_all) = match &mut self.treatment.line {
                None => (self.read, has_ended),
                Some((line, _)) => {
                    let (out, is_empty) = line.out(now);
                    (out, has_ended && is_empty)
                }
            };
            match cursor.next(now, available, is_all) {
                Next::Wait(time) => {
                    let hears = !has_ended && self.has_room();
                    let due = self.treatment.line.as_ref().and_then(|(line, _)| line.next());
                    let due = due.map_or(time, |due| time.min(due.saturating_duration_since(now)));
                    tokio::select! {
                        () = sleep(due) => {}
                        readable = async { if hears { self.from.readable().await } else { pending().await } } => {
                            match readable {
                                Ok(()) => drop(self.take(false)),
                                Err(error) => self.ended(Some(error)),
                            }
                        }
                    }
                }
                Next::Send { bytes, .. } => match self.give(bytes, cursor.time_left(now)).await {
                    Ok(sent) => cursor.sent(sent, Instant::now()),
                    Err(error) => return Stop::Sink(error),
                },
                Next::Flush => cursor.flushed(),
                Next::End(how) if how == Ending::Fin && is_all && self.sent == self.read => {
                    return self.broken.take().map_or_else(|| self.end(), Stop::Source);
                }
                Next::End(how) => return Stop::Cut(how),
            }
        }
    }

    /// Whether more may be held. A delay line asks for more than its own when it needs it.
    fn has_room(&mut self) -> bool {
        let Some((_, allowance)) = &self.treatment.line else { return self.held.len() < ROOM };
        if self.held.len() + ROOM <= LINE + self.borrowed {
            return true;
        }
        let has_more = allowance.take(ROOM);
        self.borrowed += if has_more { ROOM } else { 0 };
        has_more
    }

    /// Gives back what is not needed of the allowance.
    fn settle(&mut self) {
        let needed = self.held.len().saturating_sub(LINE);
        if let Some((_, allowance)) = &self.treatment.line
            && self.borrowed > needed + ROOM
        {
            allowance.give_back(self.borrowed - needed);
            self.borrowed = needed;
        }
    }

    /// The source has come to its end, or broke: that is late as bytes are.
    fn ended(&mut self, broken: Option<io::Error>) {
        match broken {
            None => self.is_over = true,
            Some(error) => self.broken = Some(error),
        }
        if let Some((line, _)) = &mut self.treatment.line {
            line.push(0, Instant::now());
        }
    }

    /// Begins with what was read before.
    ///
    /// # Errors
    /// As for [`take`](Self::take).
    fn begin(&mut self, at_once: bool) -> io::Result<()> {
        let mut early = std::mem::take(&mut self.treatment.early);
        if early.is_empty() { Ok(()) } else { self.pass(&mut early, at_once) }
    }

    /// Reads what is there, if there is room, and sends it `at_once` as far as it is taken.
    ///
    /// # Errors
    /// The sink broke.
    fn take(&mut self, at_once: bool) -> io::Result<()> {
        SCRATCH.with_borrow_mut(|scratch| {
            let room = if self.treatment.line.is_some() { ROOM } else { ROOM - self.held.len().min(ROOM) };
            match self.from.try_read(&mut scratch[..room]) {
                Ok(0) => self.ended(None),
                Ok(n) => {
                    if n < room {
                        is_drained(self.from);
                    }
                    return self.pass(&mut scratch[..n], at_once);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => self.ended(Some(error)),
            }
            Ok(())
        })
    }

    /// Passes on bytes that are read.
    ///
    /// # Errors
    /// As for [`take`](Self::take).
    fn pass(&mut self, bytes: &mut [u8], at_once: bool) -> io::Result<()> {
        let belonging = self.treatment.message.as_mut().map_or(bytes.len(), |message| message.take(bytes));
        self.is_whole = self.treatment.message.as_ref().is_some_and(|message| message.is_reached());
        let (bytes, rest) = bytes.split_at_mut(belonging);
        self.rest.extend_from_slice(rest);
        if let Some(corruption) = &self.treatment.corruption {
            corruption.apply(bytes, self.read);
        }
        self.read += bytes.len() as u64;
        let injected = std::mem::take(&mut self.treatment.injected);
        self.read += injected.len() as u64;
        if let Some((line, _)) = &mut self.treatment.line {
            line.push((bytes.len() + injected.len()) as u64, Instant::now());
        }
        let sent = match at_once && injected.is_empty() && !bytes.is_empty() {
            true => match self.to.try_io(Interest::WRITABLE, || send_now(self.to, bytes, false)) {
                Ok(sent) => sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(error) => return Err(error),
            },
            false => 0,
        };
        self.note(sent);
        self.held.extend_from_slice(&bytes[sent..]);
        self.held.extend_from_slice(&injected);
        Ok(())
    }

    /// What was read and not sent.
    fn left(&mut self) -> BytesMut {
        let mut left = std::mem::take(&mut self.held);
        left.unsplit(std::mem::take(&mut self.rest));
        left
    }

    /// Sends some of these bytes, which are held, when the sink takes them; for at most `left`. Returns how many.
    ///
    /// # Errors
    /// The sink broke, or takes nothing (`TimedOut`).
    async fn give(&mut self, bytes: Range<u64>, left: Option<Duration>) -> io::Result<u64> {
        let length = usize::try_from(bytes.end - self.sent).unwrap_or(usize::MAX).min(self.held.len());
        let (to, due) = (self.to, &self.held[..length]);
        let sending = async {
            loop {
                to.writable().await?;
                match to.try_io(Interest::WRITABLE, || send_now(to, due, false)) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    result => return result,
                }
            }
        };
        let sent = match (left, self.limit) {
            (None, None) => sending.await?,
            (Some(left), limit) if limit.is_none_or(|limit| left < limit) => match timeout(left, sending).await {
                Ok(sent) => sent?,
                // A cut is due.
                Err(_) => return Ok(0),
            },
            (_, limit) => match timeout(limit.unwrap_or(Duration::MAX), sending).await {
                Ok(sent) => sent?,
                Err(_) => return Err(io::ErrorKind::TimedOut.into()),
            },
        };
        self.held.advance(sent);
        if self.held.is_empty() {
            // A connection that is quiet holds nothing.
            self.held = BytesMut::new();
        }
        self.settle();
        self.note(sent);
        Ok(sent as u64)
    }

    fn note(&mut self, sent: usize) {
        self.sent += sent as u64;
        if let Some(witness) = &self.treatment.witness
            && sent > 0
        {
            witness.sent(sent as u64);
        }
    }
}

impl Drop for Pump<'_> {
    fn drop(&mut self) {
        if let Some((_, allowance)) = &self.treatment.line {
            allowance.give_back(self.borrowed);
        }
    }
}

/// Passes on one message of the client, and waits until it has left: a reset would throw away the rest. Nothing is read of
/// what upstream says.
pub async fn send_up<'a>(client: &'a Connection, upstream: &'a TcpStream, up: Treatment<'a>) -> Relayed {
    let mut up = Pump::new(client.stream(), upstream, up, client.write_timeout());
    let sent = match up.run().await {
        Stop::Source(error) => Err(RelayEnd::ClientBroke(error)),
        Stop::Sink(error) => Err(RelayEnd::UpstreamBroke(error)),
        Stop::Cut(how) => Err(RelayEnd::Cut(how)),
        Stop::Whole { .. } | Stop::Over => flush(upstream).await.map_err(RelayEnd::UpstreamBroke),
    };
    let end = sent.err().unwrap_or(RelayEnd::Messages);
    Relayed { up: up.sent, down: 0, rest_up: up.left(), rest_down: BytesMut::new(), end }
}

/// As [`Connection::flush`], for a connection to upstream.
async fn flush(upstream: &TcpStream) -> io::Result<()> {
    for unsent in close::departing() {
        close::call_when_unsent(&SockRef::from(upstream), unsent)?;
        loop {
            upstream.writable().await?;
            match upstream.try_io(Interest::WRITABLE, || departed(upstream)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                departed => {
                    departed?;
                    break;
                }
            }
        }
    }
    Ok(())
}

/// Resets a connection to upstream when it is dropped.
pub fn reset_upstream(upstream: &TcpStream) {
    close::abruptly(&SockRef::from(upstream));
}
