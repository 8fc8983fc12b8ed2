//! The chaos proxy: passes connections on to another server, and disturbs as many of them as was said.
//!
//! | file | |
//! |---|---|
//! | `behaviour.rs` | what is done to whom, as values |
//! | `http.rs` | over HTTP: a draw for each request |
//! | `notes.rs` | who is told what happens |
//! | `record.rs` | what clients got, for [`crate::pace::recording`] |
//!
//! What is passed on is passed on by [`crate::net::relay`].

mod behaviour;
mod http;
mod notes;
mod record;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_util::bytes::BytesMut;
use tracing::{debug, warn};

pub use self::behaviour::{Behaviour, Directions, Disturbance, Scenario};
use self::notes::Notes;
use self::record::Record;
use super::recorder::Recorder;
use super::watcher::Watcher;
use crate::address::Address;
use crate::metrics::{Metric, Page};
use crate::net::descriptors::{LOOK_UP, Opens};
use crate::net::dial::{Route, dial_by};
use crate::net::relay::{
    Allowance, RelayEnd, Relayed, Treatment, Upstream, Witness, be_silent, relay, send_up, speaks,
};
use crate::net::{Connection, Handler};
use crate::pace::Ending;
use crate::proto::http::boundary::Boundary;
use crate::proto::http::framing::Framing;
use crate::sync::lock;
use crate::units::{human, micros};

/// Bytes that a client gets instead of a reply, and in the middle of one.
const GARBAGE: usize = 1_000;
const INJECTED: usize = 100;

/// What is drawn for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Each connection.
    Tcp,
    /// Each request.
    Http {
        /// Whether upstream is told its own name in `Host`, and not what the client has said.
        rewrite_host: bool,
    },
}

/// A chaos proxy, apart from its trouble.
#[derive(Debug, Clone)]
pub struct Conduct {
    /// The server behind it.
    pub upstream: Address,
    /// What is drawn for.
    pub protocol: Protocol,
    /// The longest wait for a connection to upstream.
    pub connect_timeout: Option<Duration>,
    /// The bytes that all delay lines together hold at most, beyond 256 KiB each.
    pub buffer: usize,
}

/// The chaos proxy.
#[derive(Debug)]
pub struct ChaosServer {
    conduct: Conduct,
    scenario: Mutex<Arc<Scenario>>,
    connections: AtomicU64,
    requests: AtomicU64,
    transients: AtomicU64,
    drawn: [AtomicU64; 7],
    allowance: Arc<Allowance>,
    recorder: Option<Arc<Recorder>>,
    watcher: Option<Arc<Watcher>>,
    doors: OnceLock<Vec<SocketAddr>>,
    began: OnceLock<Instant>,
}

/// What one connection, or one request, has drawn.
struct Drawn {
    number: u64,
    /// As it was drawn: [`Behaviour::Transient`] is one of two others then.
    word: &'static str,
    behaviour: Behaviour,
    disturbance: Arc<Disturbance>,
}

/// How a connection ended, for the log.
struct Story {
    up: u64,
    down: u64,
    ending: io::Result<Ending>,
}

impl ChaosServer {
    /// A proxy with this trouble. What clients get is recorded, if there is a recorder, and watched by a watcher.
    pub fn new(
        conduct: Conduct,
        scenario: Scenario,
        recorder: Option<Recorder>,
        watcher: Option<Arc<Watcher>>,
    ) -> Self {
        Self {
            recorder: recorder.map(Arc::new),
            watcher,
            allowance: Arc::new(Allowance::new(conduct.buffer)),
            conduct,
            scenario: Mutex::new(Arc::new(scenario)),
            connections: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            transients: AtomicU64::new(0),
            drawn: Default::default(),
            doors: OnceLock::new(),
            began: OnceLock::new(),
        }
    }

    /// Has other trouble for all that come from now on.
    pub fn set_scenario(&self, scenario: Scenario) {
        *lock(&self.scenario) = Arc::new(scenario);
    }

    /// Ends the recording, and returns whether everything that happened is in it, if there is one.
    pub fn finish(&self) -> bool {
        self.recorder.as_ref().is_none_or(|recorder| recorder.finish())
    }

    /// The server behind it.
    pub fn upstream(&self) -> &Address {
        &self.conduct.upstream
    }

    /// What it draws for.
    pub fn protocol(&self) -> Protocol {
        self.conduct.protocol
    }

    /// Learns where it listens itself: no connection is passed on to there.
    pub fn listens_at(&self, doors: Vec<SocketAddr>) {
        let _ = self.doors.set(doors);
    }

    /// How many have drawn each behaviour.
    pub fn drawn(&self) -> impl Iterator<Item = (Behaviour, u64)> {
        Behaviour::ALL.into_iter().zip(self.drawn.iter().map(|count| count.load(Relaxed)))
    }

    /// Adds how many have drawn each behaviour.
    pub fn add_metrics(&self, page: &mut Page, labels: &[(&str, &str)]) {
        const CONNECTIONS: Metric = Metric::counter("poetry_chaos_connections_total", "Connections by behaviour.");
        const REQUESTS: Metric = Metric::counter("poetry_chaos_requests_total", "Requests by behaviour.");
        let metric = if self.protocol() == Protocol::Tcp { CONNECTIONS } else { REQUESTS };
        for (behaviour, count) in self.drawn() {
            page.add(metric, &[labels, &[("behaviour", behaviour.word())]].concat(), count);
        }
    }

    /// Draws for the connection, or the request, of this number, which is here now.
    fn draw(&self, number: u64) -> Drawn {
        let scenario = Arc::clone(&lock(&self.scenario));
        let time = scenario.has_times().then(|| self.began.get().map(Instant::elapsed)).flatten();
        let disturbance = Arc::clone(scenario.at(number, time));
        let drawn = disturbance.draw(number);
        let place = Behaviour::ALL.iter().position(|one| *one == drawn).unwrap_or_default();
        self.drawn[place].fetch_add(1, Relaxed);
        let behaviour = match drawn {
            Behaviour::Transient if self.transients.fetch_add(1, Relaxed) < disturbance.transient => Behaviour::Error,
            Behaviour::Transient => Behaviour::Dummy,
            behaviour => behaviour,
        };
        Drawn { number, word: drawn.word(), behaviour, disturbance }
    }

    /// For what is there without a number.
    fn not_drawn(&self) -> Drawn {
        let (word, behaviour) = (Behaviour::Dummy.word(), Behaviour::Dummy);
        Drawn { number: 0, word, behaviour, disturbance: Arc::clone(lock(&self.scenario).at(u64::MAX, None)) }
    }

    /// How both directions are treated, beginning now.
    fn treatments<'m>(&self, drawn: &Drawn, notes: Option<&Arc<Notes>>) -> (Treatment<'m>, Treatment<'m>) {
        let Drawn { number, behaviour, disturbance, .. } = drawn;
        let now = Instant::now();
        let mut up = disturbance.treatment(*number, false, &self.allowance, now);
        let mut down = disturbance.treatment(*number, true, &self.allowance, now);
        if *behaviour == Behaviour::Delay && disturbance.delay_after {
            down.pace = Some(disturbance.late(*number, now));
        }
        up.witness = notes.and_then(|notes| notes.of_client());
        down.witness = notes.map(|notes| Arc::clone(notes) as Arc<dyn Witness>);
        (up, down)
    }

    /// Connects to upstream, unless the client leaves first. If there is none, the client is to be reset: it would take the
    /// end of the stream for an empty poem.
    async fn dial(&self, connection: &Connection, notes: Option<&Arc<Notes>>) -> io::Result<Upstream> {
        let Conduct { upstream, connect_timeout, .. } = &self.conduct;
        let route = Route { after: None, may: None, doors: self.doors.get().map(Vec::as_slice).unwrap_or_default() };
        let dialed = tokio::select! {
            // Boxed: what is needed for a moment only must not make connections large.
            dialed = Box::pin(dial_by(upstream, *connect_timeout, route)) => dialed,
            error = connection.broken() => return Err(error),
        };
        if let Some(notes) = notes {
            notes.dialed(dialed.as_ref());
        }
        match dialed {
            Ok((stream, _)) => Ok(Upstream::new(stream)),
            Err(error) => {
                let peer = connection.peer();
                warn!(%peer, %upstream, "Reset {peer}: {upstream}: {error}");
                Err(io::Error::other("no upstream"))
            }
        }
    }

    /// What the end of a relay is to the client. Upstream is reset, unless both have said all.
    fn ending(
        &self,
        connection: &Connection,
        notes: Option<&Arc<Notes>>,
        upstream: Upstream,
        end: RelayEnd,
    ) -> io::Result<Ending> {
        if let Some(notes) = notes {
            notes.relayed(&end);
        }
        match end {
            RelayEnd::Both => {
                upstream.close();
                Ok(Ending::Fin)
            }
            RelayEnd::Cut(how) => Ok(how),
            RelayEnd::UpstreamBroke(error) => {
                let (peer, upstream) = (connection.peer(), &self.conduct.upstream);
                debug!(%peer, %upstream, "{upstream}: {error}: {peer} is reset, too");
                Ok(Ending::Rst)
            }
            RelayEnd::ClientBroke(error) => Err(error),
            RelayEnd::Messages | RelayEnd::Unasked => Ok(Ending::Rst),
        }
    }

    /// Treats a connection as a whole.
    async fn disturb(&self, connection: &Connection, drawn: &Drawn, notes: Option<&Arc<Notes>>) -> Story {
        let Drawn { number, behaviour, disturbance, .. } = drawn;
        match behaviour {
            Behaviour::Blackout => return Story::unspoken(Ok(Ending::Rst)),
            Behaviour::Hang => {
                let ending = Box::pin(hang(connection)).await;
                if let (Ok(Ending::Hang), Some(from_client)) = (&ending, notes.and_then(|notes| notes.of_client())) {
                    from_client.ended();
                }
                return Story::unspoken(ending);
            }
            Behaviour::Error if !disturbance.inject => {
                let mut down = 0;
                let garbage = disturbance.garbage(*number, GARBAGE);
                let said = Box::pin(say(connection, &garbage, &mut down, notes)).await;
                return Story { up: 0, down, ending: said.map(|()| Ending::Fin) };
            }
            Behaviour::Delay if !disturbance.delay_after => {
                // Boxed: this is soon over.
                if let Err(error) = Box::pin(wait(connection, disturbance.delay)).await {
                    return Story::unspoken(Err(error));
                }
            }
            _ => {}
        }
        let upstream = match self.dial(connection, notes).await {
            Ok(upstream) => upstream,
            Err(error) => return Story::unspoken(Err(error)),
        };
        if *behaviour == Behaviour::Abort {
            return Box::pin(abort(connection, &upstream)).await;
        }
        let relayed = {
            // Made by a function that is not async, whose future would have room for the treatments, too.
            let relay = || {
                let (up, mut down) = self.treatments(drawn, notes);
                if *behaviour == Behaviour::Error {
                    down.injected = disturbance.garbage(*number, INJECTED);
                }
                relay(connection, &upstream, up, down)
            };
            relay()
        };
        let Relayed { up, down, end, .. } = relayed.await;
        if matches!(end, RelayEnd::Cut(Ending::Hang)) {
            // Boxed: few are.
            Box::pin(be_silent(connection, &upstream, notes.and_then(|notes| notes.of_client()))).await;
        }
        Story { up, down, ending: self.ending(connection, notes, upstream, end) }
    }

    async fn serve_connection(
        &self,
        connection: &Connection,
        number: u64,
        notes: Option<&Arc<Notes>>,
    ) -> io::Result<Ending> {
        let (drawn, began) = (self.draw(number), Instant::now());
        if let Some(notes) = notes.filter(|_| drawn.word != Behaviour::Dummy.word()) {
            notes.drawn(drawn.behaviour, drawn.word);
        }
        let Story { up, down, ending } = self.disturb(connection, &drawn, notes).await;
        if tracing::enabled!(tracing::Level::DEBUG) {
            let (word, peer, elapsed, end) = (drawn.word, connection.peer(), began.elapsed(), end_word(&ending));
            debug!(
                connection = number, %peer, behaviour = word, up, down, elapsed_us = micros(elapsed),
                "Connection {number}, {peer}: {word}, {up} bytes up, {down} down in {}, {end}", human(elapsed)
            );
        }
        ending
    }
}

impl Story {
    /// Of a connection that was not passed on.
    fn unspoken(ending: io::Result<Ending>) -> Self {
        Self { up: 0, down: 0, ending }
    }
}

impl Handler for ChaosServer {
    /// Nobody knows what is passed on, so it may be.
    const EOF_ENDS_MESSAGE: bool = true;

    const OPENS: Opens = Opens { each: 1, beside: LOOK_UP };

    fn start(&self) -> io::Result<()> {
        let _ = self.began.set(Instant::now());
        self.recorder.as_ref().map_or(Ok(()), Recorder::start)
    }

    async fn serve(&self, connection: &mut Connection) -> io::Result<Ending> {
        let number = self.connections.fetch_add(1, Relaxed) + 1;
        let begin = |recorder| Record::begin(recorder, number, connection, Instant::now());
        let watched = self.watcher.as_ref().map(|watcher| watcher.begin_as(Some(number), 0));
        let notes = Notes::new(self.recorder.as_ref().map(begin), watched);
        let ending = match self.conduct.protocol {
            Protocol::Tcp => self.serve_connection(connection, number, notes.as_ref()).await,
            Protocol::Http { rewrite_host } => self.serve_requests(connection, rewrite_host, notes.as_ref()).await,
        };
        if let Some(notes) = &notes {
            notes.end(&ending);
        }
        ending
    }
}

/// What an end is, for the log.
fn end_word(ending: &io::Result<Ending>) -> &'static str {
    match ending {
        Ok(Ending::Fin) => "FIN",
        Ok(Ending::Rst) => "RST",
        Ok(Ending::Hang) => "silence",
        Err(_) => "RST, it broke",
    }
}

/// Waits, unless the client leaves.
async fn wait(connection: &Connection, time: Duration) -> io::Result<()> {
    tokio::select! {
        () = sleep(time) => Ok(()),
        error = connection.broken() => Err(error),
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

/// Sends bytes of our own, and counts them.
async fn say(connection: &Connection, bytes: &[u8], sent: &mut u64, notes: Option<&Arc<Notes>>) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let bytes = connection.send_some(|stream| crate::net::send_now(stream, rest, false)).await?;
        rest = &rest[bytes..];
        *sent += bytes as u64;
        if let Some(notes) = notes {
            notes.sent(bytes as u64);
        }
    }
    Ok(())
}

/// Passes on the first bytes of the client, and then resets it.
async fn abort(connection: &Connection, upstream: &TcpStream) -> Story {
    let mut request = BytesMut::new();
    let said = tokio::select! {
        read = connection.read_some(&mut request, None) => read,
        // It speaks first, or ends: that is as far as it goes.
        said = speaks(upstream) => said.map(|()| 0),
        () = connection.closing() => Ok(0),
    };
    let Relayed { up, .. } = match said {
        Ok(0) => return Story::unspoken(Ok(Ending::Rst)),
        Err(error) => return Story::unspoken(Err(error)),
        Ok(bytes) => {
            let mut message = Boundary::of_request(bytes, Framing::None);
            send_up(
                connection,
                upstream,
                Treatment { early: request, message: Some(&mut message), ..Treatment::default() },
            )
            .await
        }
    };
    Story { up, down: 0, ending: Ok(Ending::Rst) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of what a function returns.
    fn size<A, B, F>(_: impl FnOnce(A, B) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_connection_that_is_passed_on_is_small() {
        let serve = size(|server: &'static ChaosServer, connection: &'static mut Connection| server.serve(connection));
        assert!(serve <= 584, "{serve} bytes");
    }
}
