//! One direction of a relay: what comes from one connection is sent on another, as it is treated.

use std::cell::RefCell;
use std::future::{pending, poll_fn};
use std::io;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{Interest, Ready};
use tokio::net::TcpStream;
use tokio::task::coop::consume_budget;
use tokio::time::{Sleep, sleep, timeout};
use tokio_util::bytes::{Buf, BytesMut};

use crate::net::alarm::wait_until;
use crate::net::connection::{is_drained, send_now};
use crate::pace::{Corruption, Cursor, Ending, Line, Next, Pace, Plan};

/// The most bytes that are held of one direction.
const ROOM: usize = 64 << 10;

/// A wait of which nobody sees the end, and a clock does.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

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

    /// The side that is sent to takes nothing now, and there is something for it.
    fn stalled(&self) {}

    /// The end of the stream was sent.
    fn ended(&self);
}

/// Where one message of a stream ends, if the stream is passed on message by message.
pub trait Boundary: Send {
    /// Looks at the bytes that come next, and returns how many of them belong to the message.
    fn take(&mut self, bytes: &[u8]) -> usize;

    /// Whether that was the last of it.
    fn is_reached(&self) -> bool;

    /// Whether nobody knows any more where it ends. Then it is not passed on as a message.
    fn is_lost(&self) -> bool;
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

/// Why a direction has come to its end.
pub(super) enum Stop {
    /// The end of the stream, which is passed on.
    Over,
    /// The end of the message; and whether more than that was read.
    Whole {
        and_more: bool,
    },
    /// Nobody knows where the message ends.
    Lost,
    Cut(Ending),
    /// The side that is read from broke; what it had said is sent.
    Source(io::Error),
    /// The side that is sent to broke.
    Sink(io::Error),
}

/// A treatment under way.
struct Treated<'m> {
    treatment: Treatment<'m>,
    /// Bytes that are read and do not belong to the message.
    rest: BytesMut,
    /// What its delay line has of the allowance.
    borrowed: usize,
}

/// How long a sink may go on to take nothing, if it does not.
pub(super) type Stalls = Option<Pin<Box<Sleep>>>;

/// One direction.
pub(super) struct Pump<'a> {
    pub(super) from: &'a TcpStream,
    pub(super) to: &'a TcpStream,
    /// None: as it comes. Boxed: most have none, and held connections are many.
    treatment: Option<Box<Treated<'a>>>,
    /// Bytes that are read and not sent.
    held: BytesMut,
    read: u64,
    pub(super) sent: u64,
    /// What is passed on has been waited for already: from the second time on nothing is held back (Nagle's algorithm),
    /// and the first time nothing would be.
    is_prompt: bool,
    /// The source has come to its end.
    is_over: bool,
    /// The message has.
    is_whole: bool,
    /// The source broke: that counts when all that it said is sent.
    broken: Option<io::Error>,
    /// What was sent has to leave before a reset.
    pub(super) is_to_leave: bool,
    /// How long the sink may take nothing while something is owed to it.
    limit: Option<Duration>,
}

impl<'a> Pump<'a> {
    pub(super) fn new(
        from: &'a TcpStream,
        to: &'a TcpStream,
        treatment: Treatment<'a>,
        limit: Option<Duration>,
    ) -> Self {
        Self {
            from,
            to,
            treatment: (!treatment.is_default())
                .then(|| Box::new(Treated { treatment, rest: BytesMut::new(), borrowed: 0 })),
            held: BytesMut::new(),
            read: 0,
            sent: 0,
            is_prompt: false,
            is_over: false,
            is_whole: false,
            broken: None,
            is_to_leave: false,
            limit,
        }
    }

    /// Whether it passes on what comes, as it comes.
    pub(super) fn is_plain(&self) -> bool {
        self.treatment.is_none()
    }

    /// Whether its source has come to its end, or broke.
    pub(super) fn has_end(&self) -> bool {
        self.is_over || self.broken.is_some()
    }

    /// Does one thing, if one can be done now, in a direction that is not treated and has no end yet: sends what is held, or
    /// passes on what has come.
    ///
    /// # Errors
    /// As for [`give`](Self::give).
    pub(super) fn step(&mut self, context: &mut Context<'_>, stalls: &mut Stalls) -> Poll<io::Result<()>> {
        if self.held.is_empty() {
            match ready!(poll_readable(self.from, context)) {
                Ok(ready) => return Poll::Ready(self.take(ready, true)),
                Err(error) => self.ended(Some(error)),
            }
            return Poll::Ready(Ok(()));
        }
        match self.give_now(self.held.len()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => {
                *stalls = None;
                return Poll::Ready(result.map(drop));
            }
        }
        if let Poll::Ready(writable) = self.to.poll_write_ready(context) {
            return Poll::Ready(writable);
        }
        let Some(limit) = self.limit else { return Poll::Pending };
        ready!(stalls.get_or_insert_with(|| Box::pin(sleep(limit))).as_mut().poll(context));
        *stalls = None;
        Poll::Ready(self.give_at_last(self.held.len(), io::ErrorKind::TimedOut.into()).map(drop))
    }

    pub(super) async fn run(&mut self) -> Stop {
        let pace = self.treatment.as_mut().and_then(|treated| treated.treatment.pace.take());
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
        self.treatment.as_mut()?.treatment.line.as_deref_mut()
    }

    fn witness(&self) -> Option<&dyn Witness> {
        self.treatment.as_ref()?.treatment.witness.as_deref()
    }

    /// The end of the message, or of the stream.
    fn end(&self) -> Stop {
        match self.treatment.as_deref() {
            Some(Treated { treatment: Treatment { message: Some(message), .. }, .. }) if message.is_lost() => {
                Stop::Lost
            }
            treated if self.is_whole => {
                Stop::Whole { and_more: treated.is_some_and(|treated| !treated.rest.is_empty()) }
            }
            _ => Stop::Over,
        }
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
                        () = wait_until(now.checked_add(due).unwrap_or(now + FOR_EVER)) => {}
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
                Next::Flush => {
                    self.is_to_leave = true;
                    cursor.flushed();
                }
                Next::End(how) if how == Ending::Fin && is_all && self.sent == self.read => {
                    return self.broken.take().map_or_else(|| self.end(), Stop::Source);
                }
                Next::End(how) => return Stop::Cut(how),
            }
        }
    }

    /// Whether more may be held. A delay line asks for more than its own when it needs it.
    fn has_room(&mut self) -> bool {
        let held = self.held.len();
        let Some(Treated { treatment: Treatment { line: Some(line), .. }, borrowed, .. }) =
            self.treatment.as_deref_mut()
        else {
            return held < ROOM;
        };
        if held + ROOM <= LINE + *borrowed {
            return true;
        }
        let has_more = line.1.take(ROOM);
        *borrowed += if has_more { ROOM } else { 0 };
        has_more
    }

    /// Gives back what is not needed of the allowance.
    fn settle(&mut self) {
        let needed = self.held.len().saturating_sub(LINE);
        if let Some(Treated { treatment: Treatment { line: Some(line), .. }, borrowed, .. }) =
            self.treatment.as_deref_mut()
            && *borrowed > needed + ROOM
        {
            line.1.give_back(*borrowed - needed);
            *borrowed = needed;
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
        let early = self.treatment.as_mut().map(|treated| std::mem::take(&mut treated.treatment.early));
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
        if let Some(Treated { treatment, rest: others, .. }) = self.treatment.as_deref_mut() {
            if let Some(message) = &mut treatment.message {
                let (belonging, rest) = bytes.split_at_mut(message.take(bytes));
                others.extend_from_slice(rest);
                self.is_whole = message.is_reached() || message.is_lost();
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
        if at_once && sent < bytes.len() {
            self.note_stall();
        }
        self.held.extend_from_slice(&bytes[sent..]);
        self.held.extend_from_slice(&injected);
        Ok(())
    }

    /// What was read and not sent.
    pub(super) fn left(&mut self) -> BytesMut {
        let mut left = std::mem::take(&mut self.held);
        if let Some(treated) = &mut self.treatment {
            left.unsplit(std::mem::take(&mut treated.rest));
        }
        left
    }

    /// Sends some of these bytes, which are held, when the sink takes them; for at most `left`. Returns how many.
    ///
    /// # Errors
    /// The sink broke, or takes nothing (`TimedOut`).
    async fn give(&mut self, bytes: Range<u64>, left: Option<Duration>) -> io::Result<u64> {
        let length = usize::try_from(bytes.end - self.sent).unwrap_or(usize::MAX).min(self.held.len());
        loop {
            match self.give_now(length) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
            self.note_stall();
            // Boxed: few have to wait.
            match Box::pin(becomes_writable(self.to, left, self.limit)).await {
                Ok(true) => {}
                Ok(false) => return Ok(0),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return self.give_at_last(length, error),
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends some of so many bytes, which are held. Returns how many.
    ///
    /// # Errors
    /// The sink broke, or takes nothing now (`WouldBlock`).
    fn give_now(&mut self, length: usize) -> io::Result<u64> {
        self.be_prompt();
        let sent = self.to.try_io(Interest::WRITABLE, || send_now(self.to, &self.held[..length], false))?;
        Ok(self.gave(sent))
    }

    /// The same for a sink that was not writable for its time. The kernel calls a socket that only when a good part of its
    /// buffer is free: the peer may have taken something all the same.
    ///
    /// # Errors
    /// It has not: `late`.
    fn give_at_last(&mut self, length: usize, late: io::Error) -> io::Result<u64> {
        let sent = send_now(self.to, &self.held[..length], false).map_err(|_| late)?;
        Ok(self.gave(sent))
    }

    /// So many of the bytes that are held are sent.
    fn gave(&mut self, sent: usize) -> u64 {
        self.held.advance(sent);
        if self.held.is_empty() {
            // A connection that is quiet holds nothing.
            self.held = BytesMut::new();
        }
        self.settle();
        self.note(sent);
        sent as u64
    }

    /// Has the kernel send whatever it gets at once, from the second time on.
    fn be_prompt(&mut self) {
        if self.sent > 0 && !self.is_prompt {
            // Where setting it fails, the connection is gone already.
            let _ = self.to.set_nodelay(true);
            self.is_prompt = true;
        }
    }

    fn note_stall(&self) {
        if let Some(witness) = self.witness() {
            witness.stalled();
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
pub(super) async fn becomes_writable(
    to: &TcpStream,
    left: Option<Duration>,
    limit: Option<Duration>,
) -> io::Result<bool> {
    let Some(shortest) = left.into_iter().chain(limit).min() else {
        return to.writable().await.map(|()| true);
    };
    match timeout(shortest, to.writable()).await {
        Ok(writable) => writable.map(|()| true),
        Err(_) if left == Some(shortest) => Ok(false),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Waits until there is something to read, or an end, and returns what there is.
async fn becomes_readable(stream: &TcpStream) -> io::Result<Ready> {
    poll_fn(|context| poll_readable(stream, context)).await
}

/// What there is to read, an end included. (The future of [`TcpStream::ready`] is ten times as large as what waits here; it is
/// asked when it has the answer.)
fn poll_readable(stream: &TcpStream, context: &mut Context<'_>) -> Poll<io::Result<Ready>> {
    ready!(stream.poll_read_ready(context))?;
    pin!(stream.ready(Interest::READABLE | Interest::ERROR)).poll(context)
}

impl Drop for Treated<'_> {
    fn drop(&mut self) {
        if let Some(line) = &self.treatment.line {
            line.1.give_back(self.borrowed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use socket2::{Domain, Socket, Type};
    use tokio::io::AsyncWriteExt;
    use tokio::runtime::Builder;
    use tokio::task::yield_now;
    use tokio::time::{Instant, sleep};

    use super::super::{Event, run_on};
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    /// Both ends of a connection, of which the second one has little room for what it does not read.
    fn pair() -> (TcpStream, std::net::TcpStream) {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        listener.set_recv_buffer_size(32 << 10).expect("set");
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        listener.bind(&any.into()).expect("bound");
        listener.listen(1).expect("listening");
        let address = listener.local_addr().expect("bound").as_socket().expect("an IP socket");
        let from = std::net::TcpStream::connect(address).expect("a listener");
        from.set_nonblocking(true).expect("set");
        (TcpStream::from_std(from).expect("registered"), listener.accept().expect("connected").0.into())
    }

    /// What becomes of a direction whose source says more than anybody holds, and how long that takes, if its sink is this one;
    /// by itself, or beside the other one.
    fn run_into(reads: impl AsyncFn(std::net::TcpStream), is_alone: bool) -> (Option<io::ErrorKind>, Duration) {
        let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime");
        runtime.block_on(async {
            let ((mut says, from), (to, sink)) = (pair(), pair());
            from.set_nonblocking(true).expect("set");
            let from = TcpStream::from_std(from).expect("registered");
            let mut pump = Pump::new(&from, &to, Treatment::default(), Some(LIMIT));
            let mut other = Pump::new(&to, &from, Treatment::default(), Some(LIMIT));
            let runs = async {
                match is_alone {
                    true => Some(Event::Up(pump.run().await)),
                    false => run_on(&mut pump, &mut other).await,
                }
            };
            let began = Instant::now();
            let says = async { while says.write_all(&[b'x'; ROOM]).await.is_ok() {} };
            let event = tokio::select! {
                event = runs => event,
                () = says => None,
                () = reads(sink) => return (None, began.elapsed()),
            };
            match event {
                Some(Event::Up(Stop::Sink(error))) => (Some(error.kind()), began.elapsed()),
                _ => panic!("the sink is the one that ends it"),
            }
        })
    }

    /// The bytes that the other side of this connection has written and ours has not acknowledged: proc_net_tcp(5).
    fn unacknowledged(sink: &std::net::TcpStream) -> u64 {
        let hex = |address: std::net::SocketAddr| format!(":{:04X}", address.port());
        let (theirs, ours) = (sink.peer_addr().expect("connected"), sink.local_addr().expect("bound"));
        let table = std::fs::read_to_string("/proc/net/tcp").expect("a table");
        let is_it = |fields: &Vec<&str>| fields[1].ends_with(&hex(theirs)) && fields[2].ends_with(&hex(ours));
        let row = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).find(is_it).expect("a row");
        u64::from_str_radix(row[4].split(':').next().expect("a queue"), 16).expect("a number")
    }

    #[test]
    fn a_sink_that_takes_nothing_has_its_time_and_no_more() {
        for is_alone in [true, false] {
            let (error, took) = run_into(async |_sink| pending().await, is_alone);
            assert_eq!(error, Some(io::ErrorKind::TimedOut));
            assert!(took >= LIMIT && took < 2 * LIMIT, "{took:?}");
        }
    }

    #[test]
    fn a_sink_that_takes_little_is_not_one_that_takes_nothing() {
        // In each time a little: too little for the kernel to call it writable.
        let reads = async |mut sink: std::net::TcpStream| {
            let mut piece = vec![0; ROOM];
            for _ in 0..20 {
                sleep(LIMIT * 3 / 4).await;
                let before = unacknowledged(&sink);
                let _ = sink.read(&mut piece).expect("something is there");
                // Until the kernel has made room for more: the clock does not wait for that. Where as much has filled it again
                // between two looks, the pump has gone on, and nothing changes any more.
                let until = std::time::Instant::now() + Duration::from_millis(300);
                while unacknowledged(&sink) == before && std::time::Instant::now() < until {
                    yield_now().await;
                }
            }
        };
        for is_alone in [true, false] {
            assert_eq!(run_into(reads, is_alone), (None, LIMIT * 15));
        }
    }
}
