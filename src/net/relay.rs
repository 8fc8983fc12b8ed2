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
use std::future::{pending, poll_fn};
use std::io;
use std::net::Shutdown;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::io::{Interest, ReadBuf, Ready};
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
    pub line: Option<Box<(Line, Arc<Allowance>)>>,
    /// When how much may be sent, and how it ends.
    pub pace: Option<Box<Cursor>>,
    /// Bits that are flipped.
    pub corruption: Option<Corruption>,
    /// Bytes to be put in after the first read: they belong to nobody.
    pub injected: Vec<u8>,
}

impl Treatment<'_> {
    fn is_default(&self) -> bool {
        let Self { early, message, witness, line, pace, corruption, injected } = self;
        let is_plain = message.is_none() && witness.is_none() && line.is_none() && pace.is_none();
        is_plain && corruption.is_none() && early.is_empty() && injected.is_empty()
    }
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
    /// None: as it comes. Boxed: most have none, and held connections are many.
    treatment: Option<Box<Treatment<'a>>>,
    /// Bytes that are read and not sent.
    held: BytesMut,
    /// Bytes that are read and do not belong to the message.
    rest: BytesMut,
    /// What its delay line has of the allowance.
    borrowed: usize,
    read: u64,
    sent: u64,
    /// What is passed on has been waited for already: from the second time on nothing is held back (Nagle's algorithm),
    /// and the first time nothing would be.
    is_prompt: bool,
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
pub fn relay<'a>(
    client: &'a Connection,
    upstream: &'a TcpStream,
    up: Treatment<'a>,
    down: Treatment<'a>,
) -> impl Future<Output = Relayed> + Send + 'a {
    let limit = client.write_timeout();
    let mut up = Pump::new(client.stream(), upstream, up, limit);
    let mut down = Pump::new(upstream, client.stream(), down, limit);
    // No part of an `async fn`, whose future would have room for what it was given, too.
    async move {
        let end = run(&mut up, &mut down).await;
        settle(client, &mut up, &mut down, end).await
    }
}

/// What has come of a relay.
async fn settle(client: &Connection, up: &mut Pump<'_>, down: &mut Pump<'_>, end: RelayEnd) -> Relayed {
    client.counts().send(usize::try_from(down.sent).unwrap_or(usize::MAX));
    if let RelayEnd::ClientBroke(error) = &end
        && error.kind() == io::ErrorKind::TimedOut
        && let Some(limit) = client.write_timeout()
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
    let (mut up, mut down) = (pin!(up.run()), pin!(down.run()));
    let (mut up_is, mut down_is) = (State::UnderWay, State::UnderWay);
    // Boxed: most are relays of streams.
    let mut leaving: Option<Pin<Box<_>>> = None;
    loop {
        tokio::select! {
            stop = &mut up, if up_is == State::UnderWay => match stop {
                Stop::Cut(how @ (Ending::Rst | Ending::Hang)) => return RelayEnd::Cut(how),
                Stop::Source(error) => return RelayEnd::ClientBroke(error),
                Stop::Whole { and_more } => {
                    up_is = State::Whole;
                    leaving = Some(Box::pin(leaves(client, and_more)));
                }
                // To upstream, that was all. Or it broke, and what it had said before is still to come.
                Stop::Over | Stop::Cut(Ending::Fin) | Stop::Sink(_) => {
                    if down_is != State::Over {
                        shut_down(upstream);
                    }
                    up_is = State::Over;
                }
            },
            stop = &mut down, if down_is == State::UnderWay => match stop {
                Stop::Cut(how) => return RelayEnd::Cut(how),
                Stop::Source(error) => return RelayEnd::UpstreamBroke(error),
                Stop::Sink(error) => return RelayEnd::ClientBroke(error),
                Stop::Whole { .. } => down_is = State::Whole,
                Stop::Over => {
                    // Else all is said, and who has the connections closes them.
                    if up_is != State::Over {
                        shut_down(client);
                    }
                    down_is = State::Over;
                }
            },
            // Who waits for a reply may leave meanwhile.
            end = any(&mut leaving), if up_is == State::Whole => match end {
                Ok(()) => {
                    shut_down(upstream);
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

/// What comes of this, if there is anything; else nothing ever does.
fn any<F: Future>(future: &mut Option<Pin<Box<F>>>) -> impl Future<Output = F::Output> {
    poll_fn(|context| match future {
        Some(future) => future.as_mut().poll(context),
        None => Poll::Pending,
    })
}

/// Sends the end of the stream. If the connection is gone, that shows on the other direction.
fn shut_down(stream: &TcpStream) {
    let _ = SockRef::from(stream).shutdown(Shutdown::Write);
}

/// Waits until there is something to read, or an end, and returns what there is. (The future of [`TcpStream::ready`] is ten
/// times as large; here it is asked when it has the answer.)
async fn becomes_readable(stream: &TcpStream) -> io::Result<Ready> {
    poll_fn(|context| {
        ready!(stream.poll_read_ready(context))?;
        pin!(stream.ready(Interest::READABLE | Interest::ERROR)).poll(context)
    })
    .await
}

/// Waits until a peer says something, comes to its end, or breaks. Nothing is read.
pub async fn speaks(stream: &TcpStream) {
    let _ = peek(stream).await;
}

/// Waits until there is something to read, and returns whether that is the end.
async fn peek(stream: &TcpStream) -> io::Result<bool> {
    poll_fn(|context| stream.poll_peek(context, &mut ReadBuf::new(&mut [0]))).await.map(|bytes| bytes == 0)
}

/// Waits until the peer of a connection that is not read from comes to its end, or breaks. What it says before is left; if
/// it `has_more` to be passed on, that is not its end yet.
async fn leaves(stream: &TcpStream, has_more: bool) -> io::Result<()> {
    if !has_more && peek(stream).await? {
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
            treatment: (!treatment.is_default()).then(|| Box::new(treatment)),
            held: BytesMut::new(),
            rest: BytesMut::new(),
            borrowed: 0,
            read: 0,
            sent: 0,
            is_prompt: false,
            is_over: false,
            is_whole: false,
            broken: None,
            limit,
        }
    }

    async fn run(&mut self) -> Stop {
        let pace = self.treatment.as_mut().and_then(|treatment| treatment.pace.take());
        let stop = match pace {
            None if self.line().is_none() => self.run_freely().await,
            pace => {
                let at_once = || Cursor::new(Plan::uniform(0, Pace::default()).schedule(1), Instant::now());
                let cursor = pace.unwrap_or_else(|| Box::new(at_once()));
                // Boxed: this future is a large one, and few connections have a pace.
                Box::pin(self.run_at(cursor)).await
            }
        };
        if matches!(stop, Stop::Over | Stop::Cut(Ending::Fin))
            && let Some(witness) = self.witness()
        {
            witness.ended();
        }
        stop
    }

    fn line(&mut self) -> Option<&mut (Line, Arc<Allowance>)> {
        self.treatment.as_mut()?.line.as_deref_mut()
    }

    fn witness(&self) -> Option<&dyn Witness> {
        self.treatment.as_ref()?.witness.as_deref()
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
                let ready = match becomes_readable(self.from).await {
                    Ok(ready) => ready,
                    Err(error) => return Stop::Source(error),
                };
                if let Err(error) = self.take(ready, true) {
                    return Stop::Sink(error);
                }
            } else if let Err(error) = self.give(self.sent..self.read, None).await {
                return Stop::Sink(error);
            }
        }
    }

    /// Passes on what comes as a schedule has it.
    async fn run_at(&mut self, mut cursor: Box<Cursor>) -> Stop {
        // Nothing is sent before its time.
        if let Err(error) = self.begin(false) {
            return Stop::Sink(error);
        }
        loop {
            consume_budget().await;
            let now = Instant::now();
            let has_ended = self.is_whole || self.is_over || self.broken.is_some();
            let (available, is_all) = match self.line() {
                None => (self.read, has_ended),
                Some(line) => {
                    let (out, is_empty) = line.0.out(now);
                    (out, has_ended && is_empty)
                }
            };
            match cursor.next(now, available, is_all) {
                Next::Wait(time) => {
                    let hears = !has_ended && self.has_room();
                    let due = self.line().and_then(|line| line.0.next());
                    let due = due.map_or(time, |due| time.min(due.saturating_duration_since(now)));
                    tokio::select! {
                        () = sleep(due) => {}
                        ready = async { if hears { becomes_readable(self.from).await } else { pending().await } } => {
                            match ready {
                                Ok(ready) => drop(self.take(ready, false)),
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
        let (held, borrowed) = (self.held.len(), self.borrowed);
        let Some(line) = self.line() else { return held < ROOM };
        if held + ROOM <= LINE + borrowed {
            return true;
        }
        let has_more = line.1.take(ROOM);
        self.borrowed += if has_more { ROOM } else { 0 };
        has_more
    }

    /// Gives back what is not needed of the allowance.
    fn settle(&mut self) {
        let (needed, borrowed) = (self.held.len().saturating_sub(LINE), self.borrowed);
        if borrowed > needed + ROOM
            && let Some(line) = self.line()
        {
            line.1.give_back(borrowed - needed);
            self.borrowed = needed;
        }
    }

    /// The source has come to its end, or broke: that is late as bytes are.
    fn ended(&mut self, broken: Option<io::Error>) {
        match broken {
            None => self.is_over = true,
            Some(error) => self.broken = Some(error),
        }
        if let Some(line) = self.line() {
            line.0.push(0, Instant::now());
        }
    }

    /// Begins with what was read before.
    ///
    /// # Errors
    /// As for [`take`](Self::take).
    fn begin(&mut self, at_once: bool) -> io::Result<()> {
        let early = self.treatment.as_mut().map(|treatment| std::mem::take(&mut treatment.early));
        let mut early = early.unwrap_or_default();
        if early.is_empty() { Ok(()) } else { self.pass(&mut early, at_once) }
    }

    /// Reads what is there, if there is room, and sends it `at_once` as far as it is taken.
    ///
    /// # Errors
    /// The sink broke.
    fn take(&mut self, ready: Ready, at_once: bool) -> io::Result<()> {
        SCRATCH.with_borrow_mut(|scratch| {
            let room = if self.line().is_some() { ROOM } else { ROOM - self.held.len().min(ROOM) };
            match self.from.try_read(&mut scratch[..room]) {
                Ok(0) => self.ended(None),
                Ok(n) => {
                    let result = self.pass(&mut scratch[..n], at_once);
                    if n < room {
                        is_drained(self.from);
                        // The end was there before the read, and the read came as far as that. A reset closes, too, and is
                        // an error: that is what the next read says.
                        if ready.is_read_closed() && !ready.is_error() && !self.is_whole {
                            self.ended(None);
                        }
                    }
                    return result;
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
        let (mut bytes, mut injected) = (bytes, Vec::new());
        if let Some(treatment) = &mut self.treatment {
            if let Some(message) = &mut treatment.message {
                let (belonging, rest) = bytes.split_at_mut(message.take(bytes));
                self.rest.extend_from_slice(rest);
                self.is_whole = message.is_reached();
                bytes = belonging;
            }
            if let Some(corruption) = &treatment.corruption {
                corruption.apply(bytes, self.read);
            }
            injected = std::mem::take(&mut treatment.injected);
            if let Some(line) = &mut treatment.line {
                line.0.push((bytes.len() + injected.len()) as u64, Instant::now());
            }
        }
        self.read += (bytes.len() + injected.len()) as u64;
        let sent = match at_once && injected.is_empty() && !bytes.is_empty() {
            true => {
                self.be_prompt();
                match self.to.try_io(Interest::WRITABLE, || send_now(self.to, bytes, false)) {
                    Ok(sent) => sent,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                    Err(error) => return Err(error),
                }
            }
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
        self.be_prompt();
        let (to, due) = (self.to, &self.held[..length]);
        let sent = loop {
            match to.try_io(Interest::WRITABLE, || send_now(to, due, false)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => break result?,
            }
            // Boxed: few have to wait.
            if !Box::pin(becomes_writable(to, left, self.limit)).await? {
                return Ok(0);
            }
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

    /// Has the kernel send whatever it gets at once, from the second time on.
    fn be_prompt(&mut self) {
        if self.sent > 0 && !self.is_prompt {
            // Where setting it fails, the connection is gone already.
            let _ = self.to.set_nodelay(true);
            self.is_prompt = true;
        }
    }

    fn note(&mut self, sent: usize) {
        self.sent += sent as u64;
        if sent > 0
            && let Some(witness) = self.witness()
        {
            witness.sent(sent as u64);
        }
    }
}

/// Waits until a socket may take something, or a cut is due, which is so if there is nothing `left` of the time until then.
///
/// # Errors
/// The connection broke, or takes nothing for the time `limit` (`TimedOut`).
async fn becomes_writable(to: &TcpStream, left: Option<Duration>, limit: Option<Duration>) -> io::Result<bool> {
    let Some(shortest) = left.into_iter().chain(limit).min() else {
        return to.writable().await.map(|()| true);
    };
    match timeout(shortest, to.writable()).await {
        Ok(writable) => writable.map(|()| true),
        Err(_) if left == Some(shortest) => Ok(false),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

impl Drop for Pump<'_> {
    fn drop(&mut self) {
        let borrowed = self.borrowed;
        if let Some(line) = self.line() {
            line.1.give_back(borrowed);
        }
    }
}

/// Passes on one message of the client, and waits until it has left: a reset would throw away the rest. Nothing is read of
/// what upstream says.
pub async fn send_up<'a>(client: &'a Connection, upstream: &'a TcpStream, up: Treatment<'a>) -> Relayed {
    let limit = client.write_timeout();
    let mut up = Pump::new(client.stream(), upstream, up, limit);
    let sent = match up.run().await {
        Stop::Source(error) => Err(RelayEnd::ClientBroke(error)),
        Stop::Sink(error) => Err(RelayEnd::UpstreamBroke(error)),
        Stop::Cut(how) => Err(RelayEnd::Cut(how)),
        Stop::Whole { .. } | Stop::Over => flush(upstream, limit).await.map_err(RelayEnd::UpstreamBroke),
    };
    let end = sent.err().unwrap_or(RelayEnd::Messages);
    Relayed { up: up.sent, down: 0, rest_up: up.left(), rest_down: BytesMut::new(), end }
}

/// As [`Connection::flush`], for a connection to upstream.
///
/// # Errors
/// The connection broke, or takes nothing for the time `limit` (`TimedOut`).
async fn flush(upstream: &TcpStream, limit: Option<Duration>) -> io::Result<()> {
    for unsent in close::departing() {
        close::call_when_unsent(&SockRef::from(upstream), unsent)?;
        while let Err(error) = upstream.try_io(Interest::WRITABLE, || departed(upstream)) {
            if error.kind() != io::ErrorKind::WouldBlock {
                return Err(error);
            }
            becomes_writable(upstream, None, limit).await?;
        }
    }
    Ok(())
}

/// Resets a connection to upstream when it is dropped.
pub fn reset_upstream(upstream: &TcpStream) {
    close::abruptly(&SockRef::from(upstream));
}
