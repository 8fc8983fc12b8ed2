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
//! (backpressure). What only a treatment needs, or the time from the first end on, is made when it is needed: most of the
//! connections that are held are untreated and quiet.

mod pump;

use std::future::{pending, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::ops::{Deref, DerefMut};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::bytes::BytesMut;
use tracing::warn;

use super::close;
use super::connection::{Connection, departed};
use crate::errors::is_for_later;
use crate::pace::Ending;
pub use pump::{Allowance, Boundary, Treatment, Witness};
use pump::{Pump, Stop, becomes_writable};

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
    /// Upstream has said its message, and says something more, or its end, before it was told all of the client's; or nobody
    /// knows where the client's message ends. What follows are no messages.
    Unasked,
    /// A direction was cut, as its pace has it: the client gets this ending.
    Cut(Ending),
    /// Upstream broke. The client has everything that came before, and is to be reset.
    UpstreamBroke(io::Error),
    /// The client broke, or takes nothing (`TimedOut`). Upstream is to be reset.
    ClientBroke(io::Error),
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
        let first = if up.is_plain() && down.is_plain() { run_on(&mut up, &mut down).await } else { None };
        // Boxed: most connections are held without an end in sight, and untreated.
        Box::pin(async {
            let end = run(&mut up, &mut down, first).await;
            settle(client, &mut up, &mut down, end).await
        })
        .await
    }
}

/// What has come of a relay.
async fn settle(client: &Connection, up: &mut Pump<'_>, down: &mut Pump<'_>, end: RelayEnd) -> Relayed {
    client.counts().send(usize::try_from(down.sent).unwrap_or(usize::MAX));
    if let RelayEnd::ClientBroke(error) | RelayEnd::UpstreamBroke(error) = &end
        && error.kind() == io::ErrorKind::TimedOut
        && let Some(limit) = client.write_timeout()
    {
        let (peer, limit) = (client.peer(), humantime::format_duration(limit));
        match &end {
            RelayEnd::ClientBroke(_) => warn!("Dropped {peer}: it took nothing for {limit}"),
            _ => warn!("Reset {peer}: upstream took nothing for {limit}"),
        }
    }
    // A reset would throw away what has not left. One at a certain time does not wait.
    let has_left = match &end {
        RelayEnd::UpstreamBroke(_) => client.flush().await,
        RelayEnd::Cut(Ending::Rst) if down.is_to_leave => client.flush().await,
        RelayEnd::Cut(Ending::Rst) if up.is_to_leave => {
            // If upstream is gone, there is nobody to whom it matters.
            let _ = flush(up.to, client.write_timeout()).await;
            Ok(())
        }
        _ => Ok(()),
    };
    let end = has_left.map_or_else(RelayEnd::ClientBroke, |()| end);
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

/// Somebody who is not read from, and may leave: `Ok` for the end of the stream.
type Leaving<'a> = Option<Pin<Box<dyn Future<Output = io::Result<()>> + Send + 'a>>>;

/// What happens on a relay.
enum Event {
    Up(Stop),
    Down(Stop),
    /// Who is not read from comes to its end, or breaks.
    ClientLeaves(io::Result<()>),
    UpstreamLeaves(io::Result<()>),
    /// Data, an end or an error, after upstream's message.
    UpstreamSpeaks(io::Result<()>),
}

/// Runs both directions as long as neither is treated nor comes to its end. Of a connection that is held this is all, so it
/// is small.
async fn run_on(up: &mut Pump<'_>, down: &mut Pump<'_>) -> Option<Event> {
    let (mut up_stalls, mut down_stalls) = (None, None);
    poll_fn(|context| {
        loop {
            // In turn: whoever says much does not hold up the other one.
            let (upward, downward) = (up.step(context, &mut up_stalls), down.step(context, &mut down_stalls));
            match (upward, downward) {
                (Poll::Ready(Err(error)), _) => return Poll::Ready(Some(Event::Up(Stop::Sink(error)))),
                (_, Poll::Ready(Err(error))) => return Poll::Ready(Some(Event::Down(Stop::Sink(error)))),
                _ if up.has_end() || down.has_end() => return Poll::Ready(None),
                (Poll::Pending, Poll::Pending) => return Poll::Pending,
                _ => {}
            }
        }
    })
    .await
}

/// Runs both directions to the end of the relay, from what has happened `first`.
async fn run(up: &mut Pump<'_>, down: &mut Pump<'_>, mut first: Option<Event>) -> RelayEnd {
    let (client, upstream) = (up.from, down.from);
    let (mut up, mut down) = (pin!(up.run()), pin!(down.run()));
    let (mut up_is, mut down_is) = (State::UnderWay, State::UnderWay);
    // Of upstream, which has reset the connection: what it had said before is still to come.
    let mut broken = None;
    // Boxed: most are relays of streams of which both end, one soon after the other.
    let (mut client_leaves, mut upstream_leaves): (Leaving<'_>, Leaving<'_>) = (None, None);
    loop {
        let event = match first.take() {
            Some(event) => event,
            None => tokio::select! {
                stop = &mut up, if up_is == State::UnderWay => Event::Up(stop),
                stop = &mut down, if down_is == State::UnderWay => Event::Down(stop),
                // Who waits for a reply may leave meanwhile.
                end = any(&mut client_leaves), if client_leaves.is_some() => Event::ClientLeaves(end),
                end = any(&mut upstream_leaves), if upstream_leaves.is_some() => Event::UpstreamLeaves(end),
                said = speaks(upstream), if down_is == State::Whole => Event::UpstreamSpeaks(said),
            },
        };
        match event {
            Event::Up(Stop::Cut(how @ (Ending::Rst | Ending::Hang))) => return RelayEnd::Cut(how),
            Event::Up(Stop::Source(error)) => return RelayEnd::ClientBroke(error),
            Event::Up(Stop::Lost) => return RelayEnd::Unasked,
            Event::Up(Stop::Whole { and_more }) => {
                up_is = State::Whole;
                client_leaves = Some(Box::pin(leaves(client, and_more)));
            }
            Event::Up(Stop::Over | Stop::Cut(Ending::Fin)) | Event::ClientLeaves(Ok(())) => {
                // Else all is said, and who has the connections closes them.
                if down_is != State::Over {
                    shut_down(upstream);
                    client_leaves = Some(Box::pin(breaks(client)));
                }
                up_is = State::Over;
            }
            Event::Up(Stop::Sink(error)) if error.kind() == io::ErrorKind::TimedOut => {
                return RelayEnd::UpstreamBroke(error);
            }
            // EPIPE: it had come to its end before, and said all; that may still have to be passed on. Else the error is
            // told once, and here it was.
            Event::Up(Stop::Sink(error)) => {
                let has_ended = error.kind() == io::ErrorKind::BrokenPipe;
                broken = Some(error).filter(|_| !has_ended || down_is == State::Over);
                up_is = State::Over;
                client_leaves = Some(Box::pin(breaks(client)));
            }
            Event::Down(Stop::Cut(how)) => return RelayEnd::Cut(how),
            Event::Down(Stop::Sink(error)) | Event::ClientLeaves(Err(error)) => return RelayEnd::ClientBroke(error),
            Event::Down(Stop::Whole { .. } | Stop::Lost) => down_is = State::Whole,
            Event::Down(Stop::Over) => {
                // As above.
                if up_is != State::Over {
                    shut_down(client);
                    upstream_leaves = Some(Box::pin(breaks(upstream)));
                }
                down_is = State::Over;
            }
            Event::UpstreamLeaves(Ok(())) => upstream_leaves = None,
            // None of that belongs to its message.
            Event::UpstreamSpeaks(Ok(())) => return RelayEnd::Unasked,
            Event::Down(Stop::Source(error))
            | Event::UpstreamLeaves(Err(error))
            | Event::UpstreamSpeaks(Err(error)) => return RelayEnd::UpstreamBroke(error),
        }
        match (up_is, down_is) {
            (State::UnderWay, _) | (_, State::UnderWay) => continue,
            _ => {}
        }
        return match (broken, down_is) {
            (Some(error), _) => RelayEnd::UpstreamBroke(error),
            (None, State::Whole) => RelayEnd::Messages,
            // If upstream takes no more, but has said all, the client's rest is for nobody.
            (None, _) => RelayEnd::Both,
        };
    }
}

/// What comes of this, if there is anything; else nothing ever does.
fn any<'f, 'a>(leaving: &'f mut Leaving<'a>) -> impl Future<Output = io::Result<()>> + use<'f, 'a> {
    poll_fn(|context| match leaving {
        Some(future) => future.as_mut().poll(context),
        None => Poll::Pending,
    })
}

/// Sends the end of the stream. If the connection is gone, that shows on the other direction.
fn shut_down(stream: &TcpStream) {
    let _ = SockRef::from(stream).shutdown(Shutdown::Write);
}

/// Waits until a peer says something, or comes to its end. Nothing is read.
///
/// # Errors
/// It broke: that is told once, and here it was.
pub async fn speaks(stream: &TcpStream) -> io::Result<()> {
    peek(stream).await.map(drop)
}

/// Whether a connection on which nothing is expected is as it was: it has not ended, nor broken, and nothing has come.
pub fn is_quiet(stream: &TcpStream) -> bool {
    matches!(SockRef::from(stream).peek(&mut [MaybeUninit::uninit()]), Err(error) if is_for_later(&error))
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
    breaks(stream).await
}

/// Waits until a connection breaks, and returns why.
async fn breaks(stream: &TcpStream) -> io::Result<()> {
    match stream.ready(Interest::ERROR).await.and_then(|_| stream.take_error())? {
        Some(error) => Err(error),
        None => Err(io::ErrorKind::ConnectionReset.into()),
    }
}

/// A connection to upstream: who drops it in the middle of something resets it, as upstream does not have to take a part for
/// all.
#[derive(Debug)]
pub struct Upstream {
    stream: TcpStream,
    is_at_rest: bool,
}

impl Upstream {
    /// Nothing is said on it yet.
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, is_at_rest: false }
    }

    /// Everything is said: to drop it is to close it.
    pub fn rest(&mut self) {
        self.is_at_rest = true;
    }

    /// Something else is to be said.
    pub fn begin(mut self) -> Self {
        self.is_at_rest = false;
        self
    }

    /// Closes it: everything is said.
    pub fn close(mut self) {
        self.rest();
    }
}

impl Deref for Upstream {
    type Target = TcpStream;

    fn deref(&self) -> &TcpStream {
        &self.stream
    }
}

impl DerefMut for Upstream {
    fn deref_mut(&mut self) -> &mut TcpStream {
        &mut self.stream
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        if !self.is_at_rest {
            close::abruptly(&SockRef::from(&self.stream));
        }
    }
}

/// Keeps both connections in silence until one of them breaks, or the server is asked to stop. A witness is told when the
/// client's stream has come to its end, unless it has said something before.
pub async fn be_silent(client: &Connection, upstream: &TcpStream, from_client: Option<Arc<dyn Witness>>) {
    close::silently(&SockRef::from(client.stream()));
    let told = async {
        if let Some(witness) = from_client
            && matches!(peek(client.stream()).await, Ok(true))
        {
            witness.ended();
        }
        pending::<()>().await;
    };
    tokio::select! {
        _ = client.broken() => {}
        _ = breaks(upstream) => {}
        () = client.closing() => {}
        () = told => {}
    }
}

/// Passes on one message of the client, and waits until it has left: a reset would throw away the rest. Nothing is read of
/// what upstream says; if it says something before it has everything, that is the end.
pub async fn send_up<'a>(client: &'a Connection, upstream: &'a TcpStream, up: Treatment<'a>) -> Relayed {
    let limit = client.write_timeout();
    let mut up = Pump::new(client.stream(), upstream, up, limit);
    let stop = tokio::select! {
        biased;
        stop = up.run() => Ok(stop),
        said = speaks(upstream) => Err(said),
    };
    let sent = match stop {
        Err(Ok(())) => Err(RelayEnd::Unasked),
        Err(Err(error)) => Err(RelayEnd::UpstreamBroke(error)),
        Ok(Stop::Source(error)) => Err(RelayEnd::ClientBroke(error)),
        Ok(Stop::Sink(error)) => Err(RelayEnd::UpstreamBroke(error)),
        Ok(Stop::Cut(how)) => Err(RelayEnd::Cut(how)),
        Ok(Stop::Whole { .. } | Stop::Lost | Stop::Over) => {
            flush(upstream, limit).await.map_err(RelayEnd::UpstreamBroke)
        }
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
