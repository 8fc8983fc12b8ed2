//! A message broker: who has subscribed to a channel gets what others send to it.
//!
//! The protocol is that of the broker in C. Hattingh, *Using Asyncio in Python* (2020), chapter 4: frames
//! ([`proto::frame`](crate::proto::frame)), of which the first from a client is the channel that it listens to, and the
//! others are pairs, a channel and a message for it. A channel that begins with `/queue` gives each message to one of its
//! subscribers, in turn; any other gives it to all of them; `/null` gives nothing to anybody.
//!
//! Nobody's slowness is another one's: whoever sends puts the messages into the sockets of the subscribers itself, and what
//! a socket does not take is queued for that subscriber alone, in bounded memory.
//!
//! | file | |
//! |---|---|
//! | `pairs.rs` | what a client says |
//! | `frames.rs` | messages in memory that is shared by all who are to get them |
//! | `outbox.rs`, `losses.rs` | what a subscriber has not taken yet, what is done when it is too much, and when that is told |
//! | `subscriber.rs` | a subscriber, as those see it who send to it |
//! | `line.rs` | those who take the messages of a queue, in turn |
//! | `channels.rs` | who listens to what, and who gets what |
//! | `tally.rs` | what became of messages |

mod channels;
mod frames;
mod line;
mod losses;
mod outbox;
mod pairs;
mod subscriber;
mod tally;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;

use socket2::SockRef;
use tokio::task::yield_now;
use tokio::time::timeout;
use tokio_util::bytes::{Bytes, BytesMut};
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::errors::is_for_later;
use crate::metrics::{Metric, Page};
use crate::net::{Connection, Handler};
use crate::pace::Ending;
use crate::server::printable;
use crate::units::{count, human};
use channels::Channels;
use pairs::{Malformed, Pairs, READ};
use subscriber::{Fate, Subscriber};
use tally::{Kind, Tally};

pub use frames::OVERHEAD;
pub use outbox::WhenFull;
pub use pairs::LONGEST_CHANNEL;

/// The kernel's send buffer of a subscriber, in bytes: what it takes beyond a subscriber's outbox.
const SEND_BUFFER: usize = 256 * 1024;

thread_local! {
    /// For reads of which little is left over: no connection has a buffer while it says nothing.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ]);
}

/// What a broker puts up with, and what it does about it.
#[derive(Debug, Clone)]
pub struct BrokerLimits {
    /// Bytes of one message. Whoever announces a longer one is reset.
    pub max_length: usize,
    /// Bytes that wait for one subscriber, each message counted with [`OVERHEAD`] more.
    pub queue: usize,
    /// What is done with a message of a topic when that is full. (Messages of a queue go to somebody else, or wait.)
    pub when_full: WhenFull,
    /// Bytes of messages of queues that are held while nobody is there, counted alike. Beyond, their senders wait.
    pub hold: usize,
    /// A client that has not said within that time to which channel it listens is reset. `None`: never.
    pub hello_timeout: Option<Duration>,
    /// A client that has begun a message and says nothing for so long is reset. `None`: never.
    pub message_timeout: Option<Duration>,
    /// After a stop, messages that wait for room wait no longer than that.
    pub patience: Duration,
}

/// Carries messages.
#[derive(Debug)]
pub struct BrokerServer {
    limits: BrokerLimits,
    channels: Channels,
    tally: Arc<Tally>,
    /// Connections that may still send something: those who listen wait for the end of these before they go.
    senders: TaskTracker,
    /// Connections by the kind of channel that they have subscribed to.
    subscribers: [AtomicU64; Kind::ALL.len()],
}

/// How far a client got with what it had to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    /// To its end.
    All,
    /// The broker stops, and listens no longer.
    Interrupted,
}

/// What a connection's two halves know of each other.
#[derive(Debug, Default)]
struct Receiving {
    /// Whether it is a sender.
    has_sent: AtomicBool,
    /// Whether it has messages in hand.
    is_handing_on: AtomicBool,
    /// Whether it waits for the next word, and has begun none.
    is_at_rest: AtomicBool,
    /// Nothing more is to be read.
    is_over: AtomicBool,
}

impl BrokerServer {
    /// A broker without subscribers.
    pub fn new(limits: BrokerLimits) -> Self {
        let tally = Arc::new(Tally::default());
        let channels = Channels::new(limits.hold, (limits.queue, limits.when_full), &tally);
        Self { limits, channels, tally, senders: TaskTracker::new(), subscribers: Default::default() }
    }

    /// Reads the name of the channel that a client listens to. `None`: it left without one, or the broker stops.
    async fn hello(&self, connection: &Connection, arrived: &mut BytesMut) -> io::Result<Option<Bytes>> {
        let peer = connection.peer();
        let reads = async {
            loop {
                match pairs::take_channel(arrived) {
                    Ok(Some(channel)) => return Ok(Some(channel)),
                    Ok(None) => {}
                    Err(malformed) => return Err(refuse(connection, &malformed)),
                }
                if connection.read_some(arrived, None).await? == 0 {
                    if !arrived.is_empty() {
                        warn!(%peer, "{peer} has ended in the middle of a message");
                    }
                    return Ok(None);
                }
            }
        };
        let limited = async {
            match self.limits.hello_timeout {
                None => reads.await,
                Some(limit) => timeout(limit, reads).await.unwrap_or_else(|_| {
                    let limit = humantime::format_duration(limit);
                    warn!(%peer, "Reset {peer}: it has not named a channel within {limit}");
                    Err(io::ErrorKind::TimedOut.into())
                }),
            }
        };
        tokio::select! {
            biased;
            () = connection.closing() => Ok(None),
            channel = limited => channel,
        }
    }

    /// Takes what a client sends, and hands it on. `None`: it says nothing now, and has begun nothing.
    async fn receive(
        &self,
        connection: &Connection,
        subscriber: &Subscriber,
        arrived: &mut BytesMut,
        state: &Receiving,
    ) -> io::Result<Option<Said>> {
        let BrokerLimits { max_length, patience, message_timeout, .. } = self.limits;
        let (peer, stop) = (connection.peer(), connection.stop());
        // It may have come with the name.
        let (mut pairs, mut verdict) = pairs::take_pairs(arrived, max_length);
        loop {
            if !pairs.batches.is_empty() {
                state.has_sent.store(true, Relaxed);
                state.is_handing_on.store(true, Relaxed);
                for (channel, frames) in pairs.batches {
                    self.channels.publish(&channel, frames, connection.broken(), &stop, patience).await;
                }
                state.is_handing_on.store(false, Relaxed);
            }
            verdict.map_err(|malformed| refuse(connection, &malformed))?;
            if pairs.is_goodbye {
                return Ok(Some(Said::All));
            }
            if state.is_over.load(Relaxed) || connection.is_closing() {
                return Ok(Some(Said::Interrupted));
            }
            let is_at_rest = arrived.is_empty();
            if is_at_rest && subscriber.is_calm() && !is_readable(connection).await {
                return Ok(None);
            }
            state.is_at_rest.store(is_at_rest, Relaxed);
            let limit = message_timeout.filter(|_| !arrived.is_empty());
            let readable = async {
                match limit {
                    None => connection.readable().await,
                    // Boxed: most wait without a limit.
                    Some(limit) => Box::pin(timeout(limit, connection.readable())).await.unwrap_or_else(|_| {
                        let limit = humantime::format_duration(limit);
                        warn!(%peer, "Reset {peer}: it has begun a message, and says nothing for {limit}");
                        Err(io::ErrorKind::TimedOut.into())
                    }),
                }
            };
            tokio::select! {
                biased;
                () = connection.closing() => return Ok(Some(Said::Interrupted)),
                readable = readable => readable?,
            }
            state.is_at_rest.store(false, Relaxed);
            let read;
            (read, pairs, verdict) = match self.read(connection, arrived) {
                Ok(read) => read,
                Err(error) if is_for_later(&error) => (1, Pairs::default(), Ok(())),
                Err(error) => return Err(error),
            };
            if read == 0 {
                if !arrived.is_empty() {
                    warn!(%peer, "{peer} has ended in the middle of a message");
                }
                return Ok(Some(Said::All));
            }
            if read >= READ / 2 {
                // There is more of it, and others are there, too.
                yield_now().await;
            }
        }
    }

    /// One read, and what was whole with it.
    fn read(
        &self,
        connection: &Connection,
        arrived: &mut BytesMut,
    ) -> io::Result<(usize, Pairs, Result<(), Malformed>)> {
        let max_length = self.limits.max_length;
        if arrived.len() >= READ / 2 {
            // A long message is under way.
            pairs::make_room(arrived, max_length);
            let room = arrived.capacity() - arrived.len();
            let read = connection.read_now(|stream| Ok((stream.try_read_buf(arrived)?, room)))?;
            let (pairs, verdict) = pairs::take_pairs(arrived, max_length);
            return Ok((read, pairs, verdict));
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let (rest, room) = scratch.split_at_mut(arrived.len());
            let read = connection.read_now(|stream| Ok((stream.try_read(room)?, room.len())))?;
            rest.copy_from_slice(arrived);
            let bytes = &scratch[..arrived.len() + read];
            let (pairs, taken, verdict) = pairs::copy_pairs(bytes, max_length);
            *arrived = if taken == bytes.len() { BytesMut::new() } else { BytesMut::from(&bytes[taken..]) };
            Ok((read, pairs, verdict))
        })
    }

    /// Sends what a subscriber is to get as soon as its socket does not take it at once, until it has taken it.
    async fn send(&self, connection: &Connection, subscriber: &Subscriber) -> io::Result<()> {
        let fate = match subscriber.blocked().await {
            Err(fate) => fate,
            Ok(()) => tokio::select! {
                biased;
                fate = subscriber.doomed() => fate,
                sent = connection.send_some(|_| subscriber.unblock()) => {
                    self.channels.has_room(subscriber.channel());
                    return sent.map(drop);
                }
            },
        };
        Err(match fate {
            Fate::Broken(kind) => kind.into(),
            Fate::Disconnected => io::Error::other("it was disconnected: its queue was full"),
        })
    }

    /// Takes what a client sends, and sends what it is to get, until both are at rest (`None`), or it has said what it had
    /// to say.
    async fn converse(
        &self,
        connection: &Connection,
        subscription: &mut Subscription<'_>,
        arrived: &mut BytesMut,
        state: &Receiving,
    ) -> io::Result<Option<Said>> {
        let subscriber = Arc::clone(&subscription.subscriber);
        state.is_at_rest.store(false, Relaxed);
        let mut receive = pin!(self.receive(connection, &subscriber, arrived, state));
        loop {
            let sent = tokio::select! {
                biased;
                sent = self.send(connection, &subscriber) => sent,
                said = receive.as_mut() => return said,
            };
            if let Err(error) = sent {
                subscription.end();
                // That it cannot be sent to is no reason to lose what it has sent.
                if state.is_handing_on.load(Relaxed) {
                    state.is_over.store(true, Relaxed);
                    let _ = receive.await;
                }
                return Err(error);
            }
            if state.is_at_rest.load(Relaxed) && subscriber.is_calm() {
                return Ok(None);
            }
        }
    }

    /// The end of a connection: what is queued is sent, and then it ends as it has to.
    async fn part(
        &self,
        connection: &Connection,
        mut subscription: Subscription<'_>,
        said: Said,
        has_sent: bool,
    ) -> io::Result<Ending> {
        let subscriber = Arc::clone(&subscription.subscriber);
        if said == Said::Interrupted {
            self.senders.close();
            let mut others = pin!(self.senders.wait());
            loop {
                tokio::select! {
                    biased;
                    sent = self.send(connection, &subscriber) => sent?,
                    () = others.as_mut() => break,
                }
            }
        }
        subscription.leave();
        while !subscriber.has_all() {
            connection.send_some(|_| subscriber.unblock()).await?;
        }
        drop(subscription);
        let ending = match said {
            Said::All => Ending::Fin,
            Said::Interrupted => interrupted(connection, has_sent),
        };
        if ending == Ending::Rst {
            connection.flush().await?;
        }
        Ok(ending)
    }

    /// Waits for the name of a channel, and subscribes to it; returns with that what came after the name.
    async fn begin(&self, connection: &Connection) -> io::Result<Option<(Subscription<'_>, BytesMut)>> {
        let mut arrived = BytesMut::new();
        let Some(channel) = self.hello(connection, &mut arrived).await? else { return Ok(None) };
        // Most say nothing more: of what they said nothing is kept.
        let rest = if arrived.is_empty() { BytesMut::new() } else { arrived };
        Ok(Some((self.subscribe(connection, &channel), rest)))
    }

    fn subscribe(&self, connection: &Connection, channel: &Bytes) -> Subscription<'_> {
        let kind = Kind::of(channel);
        let peer = connection.peer();
        if kind != Kind::Null {
            // A reader that stalls is noticed after so much, and not after what the kernel would give it in time.
            let _ = SockRef::from(connection.stream()).set_send_buffer_size(SEND_BUFFER);
        }
        let subscriber = Arc::new(Subscriber::new(peer, self.channels.terms(channel), connection.outlet()));
        self.channels.join(&subscriber);
        if kind != Kind::Null {
            // Now, and not before: from here on it gets what is sent.
            debug!(%peer, "Somebody at {peer} listens to {}!", printable(subscriber.channel()));
        }
        self.subscribers[kind as usize].fetch_add(1, Relaxed);
        Subscription { server: self, subscriber, is_listed: true }
    }

    /// Adds its metrics.
    pub fn add_metrics(&self, page: &mut Page, labels: &[(&str, &str)]) {
        const MESSAGES: Metric =
            Metric::counter("poetry_broker_messages_total", "Messages received, by the kind of their channel.");
        const DELIVERED: Metric =
            Metric::counter("poetry_broker_delivered_total", "Messages whose last byte was sent to a subscriber.");
        const DROPPED: Metric =
            Metric::counter("poetry_broker_dropped_total", "Messages that a subscriber did not get, by why.");
        const UNHEARD: Metric =
            Metric::counter("poetry_broker_unheard_total", "Messages for topics without a subscriber.");
        const HELD: Metric =
            Metric::gauge("poetry_broker_held_bytes", "Bytes of messages for queues that nobody has taken yet.");
        const SUBSCRIBERS: Metric =
            Metric::gauge("poetry_broker_subscribers", "Subscribers now, by the kind of their channel.");
        const FULL: Metric = Metric::gauge(
            "poetry_broker_full_subscribers",
            "Subscribers of topics for whom messages are dropped or wait.",
        );
        for (kind, count) in self.tally.received() {
            page.add(MESSAGES, &[labels, &[("kind", kind)]].concat(), count);
        }
        page.add(DELIVERED, labels, self.tally.delivered());
        for (policy, count) in self.tally.dropped() {
            page.add(DROPPED, &[labels, &[("policy", policy)]].concat(), count);
        }
        page.add(UNHEARD, labels, self.tally.unheard());
        page.add(HELD, labels, self.channels.held() as u64);
        for kind in Kind::ALL {
            let count = self.subscribers[kind as usize].load(Relaxed);
            page.add(SUBSCRIBERS, &[labels, &[("kind", kind.word())]].concat(), count);
        }
        let full = self.channels.rows().iter().filter(|row| row.full_since.is_some()).count();
        page.add(FULL, labels, full as u64);
    }

    /// What a monitor shows of it.
    pub fn figures(&self) -> Vec<(&'static str, u64)> {
        let sum = |counts: &[(&str, u64)]| counts.iter().map(|(_, count)| count).sum::<u64>();
        let queued: usize = self.channels.rows().iter().map(|row| row.weight).sum();
        vec![
            ("received", sum(&self.tally.received())),
            ("delivered", self.tally.delivered()),
            ("dropped", sum(&self.tally.dropped())),
            ("queue_bytes", (queued + self.channels.held()) as u64),
        ]
    }

    /// Logs what became of messages, and a line for each subscriber.
    pub fn tell(&self) {
        let sum = |counts: &[(&str, u64)]| counts.iter().map(|(_, count)| count).sum::<u64>();
        let (received, delivered) = (sum(&self.tally.received()), self.tally.delivered());
        let (dropped, unheard) = (sum(&self.tally.dropped()), self.tally.unheard());
        let messages = count(received, "message");
        info!(
            received,
            delivered,
            dropped,
            unheard,
            "Messages: {messages} received, {delivered} delivered, {dropped} dropped, {unheard} unheard"
        );
        let mut rows = self.channels.rows();
        rows.sort_by(|one, other| (&one.channel, other.delivered).cmp(&(&other.channel, one.delivered)));
        for row in rows {
            let queued = count(row.queued as u64, "message");
            let weight = count(row.weight as u64, "byte");
            let full =
                row.full_since.map_or_else(String::new, |since| format!("; full for {}", human(since.elapsed())));
            info!(
                peer = %row.peer,
                "{} {}: {} delivered, {} dropped, {queued} queued ({weight}){full}",
                row.peer, printable(&row.channel), row.delivered, row.dropped
            );
        }
        for (channel, held) in self.channels.held_messages() {
            info!("{}: {} held for whoever comes", printable(&channel), count(held as u64, "message"));
        }
    }

    /// Logs what is lost with the end of the broker.
    pub fn tell_lost(&self) {
        const NAMES: usize = 5;
        let held = self.channels.held_messages();
        let all: usize = held.iter().map(|(_, held)| held).sum();
        if all == 0 {
            return;
        }
        let name = |(channel, held): &(Bytes, usize)| format!("{} ({held})", printable(channel));
        let mut names: Vec<String> = held.iter().take(NAMES).map(name).collect();
        if held.len() > NAMES {
            names.push(format!("{} more", held.len() - NAMES));
        }
        let (all, queues) = (count(all as u64, "message"), names.join(", "));
        warn!("Lost {all} that nobody came for, on {queues}");
    }
}

impl Handler for BrokerServer {
    /// The end of the stream says to a sender that all it said was handed on, and to a listener that nothing more is to
    /// come: a broker that dies must not say that.
    const EOF_ENDS_MESSAGE: bool = true;

    async fn serve(&self, connection: &mut Connection) -> io::Result<Ending> {
        let connection = &*connection;
        let sender = self.senders.token();
        // Boxed: it is the shortest part of a connection.
        let Some((mut subscription, mut arrived)) = Box::pin(self.begin(connection)).await? else {
            // What it has to say may be on its way.
            return Ok(if connection.is_closing() { Ending::Rst } else { Ending::Fin });
        };
        let state = Receiving::default();
        state.has_sent.store(Kind::of(subscription.subscriber.channel()) == Kind::Null, Relaxed);
        let said = loop {
            // Boxed, as all but to wait: many listen, and few have something to do.
            let conversation = self.converse(connection, &mut subscription, &mut arrived, &state);
            match Box::pin(conversation).await? {
                Some(said) => break said,
                None => {
                    let mut closing = pin!(connection.closing());
                    poll_fn(|context| {
                        let is_over = closing.as_mut().poll(context).is_ready()
                            || subscription.subscriber.poll_busy(context).is_ready()
                            || connection.stream().poll_read_ready(context).is_ready();
                        if is_over { Poll::Ready(()) } else { Poll::Pending }
                    })
                    .await;
                }
            }
        };
        drop(sender);
        let has_sent = state.has_sent.load(Relaxed) || !arrived.is_empty();
        Box::pin(self.part(connection, subscription, said, has_sent)).await
    }
}

/// Whether there is something to read now, or the reactor has not been asked.
async fn is_readable(connection: &Connection) -> bool {
    poll_fn(|context| Poll::Ready(connection.stream().poll_read_ready(context).is_ready())).await
}

/// How a connection ends whose peer was not heard to the end. FIN would say to a sender that all it sent was handed on.
fn interrupted(connection: &Connection, has_sent: bool) -> Ending {
    let mut next = [MaybeUninit::uninit()];
    let has_more = match SockRef::from(connection.stream()).peek(&mut next) {
        Ok(bytes) => bytes > 0,
        Err(error) => !is_for_later(&error),
    };
    if has_sent || has_more { Ending::Rst } else { Ending::Fin }
}

/// A subscriber on its channel, until this is dropped.
struct Subscription<'a> {
    server: &'a BrokerServer,
    subscriber: Arc<Subscriber>,
    /// Whether it still gets messages.
    is_listed: bool,
}

impl Subscription<'_> {
    /// It gets nothing more.
    fn leave(&mut self) {
        if std::mem::take(&mut self.is_listed) {
            self.server.channels.leave(&self.subscriber);
        }
    }

    /// It gets nothing more, nor what it has not got yet: that goes to others, if it was work for anybody.
    fn end(&mut self) {
        self.leave();
        let Self { server, subscriber, .. } = self;
        let left = subscriber.end();
        match Kind::of(subscriber.channel()) {
            Kind::Queue => server.channels.give_back(subscriber.channel(), left),
            Kind::Topic | Kind::Null => subscriber.lose_gone(&left),
        }
    }
}

impl Drop for Subscription<'_> {
    fn drop(&mut self) {
        self.end();
        self.server.subscribers[Kind::of(self.subscriber.channel()) as usize].fetch_sub(1, Relaxed);
    }
}

fn refuse(connection: &Connection, malformed: &Malformed) -> io::Error {
    let peer = connection.peer();
    warn!(%peer, "Reset {peer}: {malformed}");
    io::ErrorKind::InvalidData.into()
}
