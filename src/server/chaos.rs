//! The chaos proxy: passes connections on to another server, and disturbs as many of them as was said.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_util::bytes::BytesMut;
use tracing::{debug, warn};

use super::recorder::Recorder;
use crate::address::Address;
use crate::metrics::{Metric, Page};
use crate::net::descriptors::{LOOK_UP, Opens};
use crate::net::dial::{Route, dial_by};
use crate::net::relay::{Allowance, RelayEnd, Relayed, Treatment, Witness, relay, reset_upstream};
use crate::net::{Connection, Handler};
use crate::pace::recording::{Entry, Happening};
use crate::pace::{Corruption, Cursor, Deck, Ending, Line, Plan};
use crate::units::{human, micros};

/// Bytes that a client gets instead of a reply, and in the middle of one.
const GARBAGE: usize = 1_000;
const INJECTED: usize = 100;

/// What happens to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Everything is passed on as it comes.
    Dummy,
    /// The connection to upstream, or its first byte, is late.
    Delay,
    /// Bytes that upstream never said.
    Error,
    /// What the client says is read, and nothing is ever said.
    Hang,
    /// A reset at once.
    Blackout,
    /// An error for the first ones, and then nothing unusual.
    Transient,
    /// The request goes up, and then both sides are reset.
    Abort,
}

impl Behaviour {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Dummy, Self::Delay, Self::Error, Self::Hang, Self::Blackout, Self::Transient, Self::Abort];

    /// The name, as Vaurien has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Dummy => "dummy",
            Self::Delay => "delay",
            Self::Error => "error",
            Self::Hang => "hang",
            Self::Blackout => "blackout",
            Self::Transient => "transient",
            Self::Abort => "abort",
        }
    }
}

/// The directions that pace, cuts and corruption are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Directions {
    /// From the client to upstream.
    pub up: bool,
    /// From upstream to the client.
    pub down: bool,
}

/// What a chaos proxy does to connections.
#[derive(Debug, Clone)]
pub struct Disturbance {
    /// The behaviours, and of a hundred connections so many each; all others are [`Behaviour::Dummy`].
    pub behaviours: Vec<(Behaviour, u8)>,
    /// The draws.
    pub deck: Deck,
    /// The wait of [`Behaviour::Delay`].
    pub delay: Duration,
    /// Whether that is upstream's first byte, and not the connection to it.
    pub delay_after: bool,
    /// Whether an error stands in the middle of what upstream says, and not in its place.
    pub inject: bool,
    /// The first ones of [`Behaviour::Transient`] that are errors.
    pub transient: u64,
    /// The first connections, which are reset at once.
    pub fail_first: u64,
    /// The pace of every connection.
    pub plan: Plan,
    /// How late everything is in each direction, and how much that jitters.
    pub latency: Option<(Duration, Duration)>,
    /// What pace, latency and corruption are about.
    pub directions: Directions,
    /// One bit in so many bytes.
    pub corrupt: Option<NonZeroU64>,
    /// The seed of everything.
    pub seed: u64,
    /// The longest wait for a connection to upstream.
    pub connect_timeout: Option<Duration>,
}

impl Disturbance {
    /// What the connection of this number draws.
    pub fn draw(&self, number: u64) -> Behaviour {
        if number <= self.fail_first {
            return Behaviour::Blackout;
        }
        self.deck.draw(number).map_or(Behaviour::Dummy, |kind| self.behaviours[kind].0)
    }

    /// How a direction of a connection is treated.
    fn treatment(&self, number: u64, is_down: bool, allowance: &Arc<Allowance>, now: Instant) -> Treatment {
        let (is_meant, seed) = match is_down {
            true => (self.directions.down, self.seed),
            false => (self.directions.up, !self.seed),
        };
        if !is_meant {
            return Treatment::default();
        }
        let schedule = self.plan.schedule(number);
        let line = |(latency, jitter)| (Line::new(latency, jitter, seed, number), Arc::clone(allowance));
        Treatment {
            witness: None,
            line: self.latency.map(line),
            pace: (!schedule.is_at_once()).then(|| Cursor::new(schedule, now)),
            corruption: self.corrupt.map(|every| Corruption::new(seed.wrapping_add(number), every)),
            injected: Vec::new(),
        }
    }

    /// Bytes that nobody has said.
    fn garbage(&self, number: u64, length: usize) -> Vec<u8> {
        let mut bytes = fastrand::Rng::with_seed(self.seed.wrapping_add(number));
        (0..length).map(|_| bytes.u8(..)).collect()
    }
}

/// The chaos proxy.
#[derive(Debug)]
pub struct ChaosServer {
    upstream: Address,
    disturbance: Disturbance,
    connections: AtomicU64,
    transients: AtomicU64,
    drawn: [AtomicU64; 7],
    allowance: Arc<Allowance>,
    recorder: Option<Arc<Recorder>>,
    doors: OnceLock<Vec<SocketAddr>>,
}

/// How a connection ended, for the log.
struct Story {
    relayed: Relayed,
    ending: io::Result<Ending>,
}

impl ChaosServer {
    /// A proxy of this server, whose delay lines together hold no more than so many bytes, and 256 KiB each. What clients
    /// get is recorded, if there is a recorder.
    pub fn new(upstream: Address, disturbance: Disturbance, buffer: usize, recorder: Option<Recorder>) -> Self {
        Self {
            recorder: recorder.map(Arc::new),
            allowance: Arc::new(Allowance::new(buffer)),
            upstream,
            disturbance,
            connections: AtomicU64::new(0),
            transients: AtomicU64::new(0),
            drawn: Default::default(),
            doors: OnceLock::new(),
        }
    }

    /// Ends the recording, and returns whether everything that happened is in it, if there is one.
    pub fn finish(&self) -> bool {
        self.recorder.as_ref().is_none_or(|recorder| recorder.finish())
    }

    /// The server behind it.
    pub fn upstream(&self) -> &Address {
        &self.upstream
    }

    /// Learns where it listens itself: no connection is passed on to there.
    pub fn listens_at(&self, doors: Vec<SocketAddr>) {
        let _ = self.doors.set(doors);
    }

    /// How many connections got each behaviour.
    pub fn drawn(&self) -> impl Iterator<Item = (Behaviour, u64)> {
        Behaviour::ALL.into_iter().zip(self.drawn.iter().map(|count| count.load(Relaxed)))
    }

    /// Adds how many connections got each behaviour.
    pub fn add_metrics(&self, page: &mut Page, labels: &[(&str, &str)]) {
        const DRAWN: Metric = Metric::counter("poetry_chaos_connections_total", "Connections by behaviour.");
        for (behaviour, count) in self.drawn() {
            page.add(DRAWN, &[labels, &[("behaviour", behaviour.word())]].concat(), count);
        }
    }

    /// What happens to the connection of this number, now that it is here.
    fn behaviour(&self, number: u64) -> Behaviour {
        let behaviour = self.disturbance.draw(number);
        let place = Behaviour::ALL.iter().position(|one| *one == behaviour).unwrap_or_default();
        self.drawn[place].fetch_add(1, Relaxed);
        match behaviour {
            Behaviour::Transient if self.transients.fetch_add(1, Relaxed) < self.disturbance.transient => {
                Behaviour::Error
            }
            Behaviour::Transient => Behaviour::Dummy,
            behaviour => behaviour,
        }
    }

    /// Connects to upstream, unless the client leaves first.
    async fn dial(&self, connection: &Connection) -> io::Result<TcpStream> {
        let route = Route { after: None, doors: self.doors.get().map(Vec::as_slice).unwrap_or_default() };
        let dialed = tokio::select! {
            dialed = dial_by(&self.upstream, self.disturbance.connect_timeout, route) => dialed,
            error = connection.broken() => return Err(error),
        };
        match dialed {
            Ok((stream, _)) => {
                // What is passed on has been waited for already.
                stream.set_nodelay(true)?;
                Ok(stream)
            }
            Err(error) => {
                let (peer, upstream) = (connection.peer(), &self.upstream);
                warn!(%peer, %upstream, "Reset {peer}: {upstream}: {error}");
                Err(io::Error::other("no upstream"))
            }
        }
    }

    async fn disturb(
        &self,
        connection: &mut Connection,
        number: u64,
        behaviour: Behaviour,
        record: Option<Arc<Record>>,
    ) -> Story {
        let disturbance = &self.disturbance;
        let is_in_place = behaviour == Behaviour::Error && !disturbance.inject;
        match behaviour {
            Behaviour::Blackout => return Story::unspoken(Ok(Ending::Rst)),
            Behaviour::Hang => return Story::unspoken(hang(connection).await),
            _ if is_in_place => {
                return garble(connection, &disturbance.garbage(number, GARBAGE), record.as_deref()).await;
            }
            Behaviour::Delay if !disturbance.delay_after => {
                tokio::select! {
                    () = sleep(disturbance.delay) => {}
                    error = connection.broken() => return Story::unspoken(Err(error)),
                }
            }
            _ => {}
        }
        let upstream = match self.dial(connection).await {
            Ok(upstream) => upstream,
            // A poem client would take the end of the stream for an empty poem.
            Err(error) => return Story::unspoken(Err(error)),
        };
        if behaviour == Behaviour::Abort {
            let story = abort(connection, &upstream).await;
            reset_upstream(&upstream);
            return story;
        }
        let now = Instant::now();
        let up = disturbance.treatment(number, false, &self.allowance, now);
        let mut down = disturbance.treatment(number, true, &self.allowance, now);
        if behaviour == Behaviour::Delay && disturbance.delay_after {
            down.pace = Some(Cursor::new(disturbance.plan.late(disturbance.delay).schedule(number), now));
        }
        down.witness = record.map(|record| record as Arc<dyn Witness>);
        if behaviour == Behaviour::Error {
            down.injected = disturbance.garbage(number, INJECTED);
        }
        let relayed = relay(connection, &upstream, up, down).await;
        let ending = match &relayed.end {
            RelayEnd::Both => Ok(Ending::Fin),
            RelayEnd::Cut(how) => Ok(*how),
            RelayEnd::UpstreamBroke(error) => {
                let (peer, upstream) = (connection.peer(), &self.upstream);
                debug!(%peer, %upstream, "{upstream}: {error}: {peer} is reset, too");
                Ok(Ending::Rst)
            }
            RelayEnd::ClientBroke(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        if !matches!(relayed.end, RelayEnd::Both) {
            reset_upstream(&upstream);
        }
        Story { relayed, ending }
    }
}

impl Story {
    /// Of a connection that was not passed on.
    fn unspoken(ending: io::Result<Ending>) -> Self {
        Self { relayed: Relayed { up: 0, down: 0, end: RelayEnd::Both }, ending }
    }
}

impl Handler for ChaosServer {
    /// Nobody knows what is passed on, so it may be.
    const EOF_ENDS_MESSAGE: bool = true;

    const OPENS: Opens = Opens { each: 1, beside: LOOK_UP };

    fn start(&self) -> io::Result<()> {
        self.recorder.as_ref().map_or(Ok(()), Recorder::start)
    }

    async fn serve(&self, connection: &mut Connection) -> io::Result<Ending> {
        let (number, began) = (self.connections.fetch_add(1, Relaxed) + 1, Instant::now());
        let behaviour = self.behaviour(number);
        // As the sender has cut them.
        connection.stream().set_nodelay(true)?;
        let record = self.recorder.as_ref().map(|recorder| Record::begin(recorder, number, connection, began));
        let story = self.disturb(connection, number, behaviour, record.clone()).await;
        let Story { relayed: Relayed { up, down, .. }, ending } = story;
        if let Some(record) = &record {
            record.end(&ending);
        }
        if tracing::enabled!(tracing::Level::DEBUG) {
            let (peer, word, elapsed) = (connection.peer(), behaviour.word(), began.elapsed());
            let end = match &ending {
                Ok(Ending::Fin) => "FIN",
                Ok(Ending::Rst) => "RST",
                Ok(Ending::Hang) => "silence",
                Err(_) => "RST, it broke",
            };
            debug!(
                connection = number, %peer, behaviour = word, up, down, elapsed_us = micros(elapsed),
                "Connection {number}, {peer}: {word}, {up} bytes up, {down} down in {}, {end}", human(elapsed)
            );
        }
        ending
    }
}

/// What a client gets, for the recording. The end is written once.
struct Record {
    recorder: Arc<Recorder>,
    connection: u64,
    accepted: Instant,
    has_ended: AtomicBool,
}

impl Record {
    /// A connection that was accepted at the moment `now`.
    fn begin(recorder: &Arc<Recorder>, number: u64, connection: &Connection, now: Instant) -> Arc<Self> {
        let (recorder, has_ended) = (Arc::clone(recorder), AtomicBool::new(false));
        let record = Self { recorder, connection: number, accepted: now, has_ended };
        record.write(Happening::Accept { peer: Some(connection.peer().to_string()), time: Some(Recorder::time(now)) });
        record.recorder.watch(number, now, connection.stream());
        Arc::new(record)
    }

    fn write(&self, event: Happening) {
        let at_us = match event {
            Happening::Accept { .. } => 0,
            _ => micros(self.accepted.elapsed()),
        };
        self.recorder.write(&Entry { connection: self.connection, at_us, event });
    }

    fn end(&self, ending: &io::Result<Ending>) {
        if self.has_ended.swap(true, Relaxed) {
            return;
        }
        if !matches!(ending, Ok(Ending::Hang)) {
            self.recorder.forget(self.connection);
        }
        self.write(match ending {
            Ok(how) => (*how).into(),
            Err(error) if error.kind() == io::ErrorKind::Other || error.kind() == io::ErrorKind::TimedOut => {
                Happening::Rst
            }
            Err(_) => Happening::Gone,
        });
    }
}

impl Witness for Record {
    fn sent(&self, bytes: u64) {
        self.write(Happening::Send { bytes });
    }

    fn ended(&self) {
        self.end(&Ok(Ending::Fin));
    }
}

impl Drop for Record {
    /// A connection that is dropped is reset.
    fn drop(&mut self) {
        self.end(&Ok(Ending::Rst));
    }
}

/// Reads and drops what the client says, until it has said all.
async fn hang(connection: &Connection) -> io::Result<Ending> {
    let mut said = BytesMut::new();
    loop {
        said.clear();
        tokio::select! {
            read = connection.read_some(&mut said, None) => if read? == 0 { return Ok(Ending::Hang) },
            () = connection.closing() => return Ok(Ending::Rst),
        }
    }
}

/// Sends what nobody has said, and the end of the stream.
async fn garble(connection: &Connection, garbage: &[u8], record: Option<&Record>) -> Story {
    let mut sent = 0;
    while sent < garbage.len() {
        let send = |stream: &TcpStream| crate::net::send_now(stream, &garbage[sent..], false);
        match connection.send_some(send).await {
            Ok(bytes) => {
                sent += bytes;
                if let Some(record) = record {
                    record.sent(bytes as u64);
                }
            }
            Err(error) => return Story::unspoken(Err(error)),
        }
    }
    let relayed = Relayed { up: 0, down: sent as u64, end: RelayEnd::Both };
    Story { relayed, ending: Ok(Ending::Fin) }
}

/// Passes on the first bytes of the client, and then resets it.
async fn abort(connection: &Connection, upstream: &TcpStream) -> Story {
    let mut request = BytesMut::new();
    let said = async {
        connection.read_some(&mut request, None).await?;
        let mut rest = &request[..];
        while !rest.is_empty() {
            upstream.writable().await?;
            match upstream.try_write(rest) {
                Ok(sent) => rest = &rest[sent..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(request.len())
    };
    let said = tokio::select! {
        said = said => said,
        () = connection.closing() => Ok(0),
    };
    let up = said.as_ref().map_or(0, |bytes| *bytes as u64);
    Story { relayed: Relayed { up, down: 0, end: RelayEnd::Both }, ending: said.map(|_| Ending::Rst) }
}
