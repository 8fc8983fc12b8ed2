//! The server's half of a simulation: what is sent when, as `Plan` and `Cursor` decide it.
//!
//! A slow server is `slowpoetry`: one client at a time, and the others wait in the listen queue. A fast one is `fastpoetry`:
//! it accepts at once, and serves all side by side. Neither needs processor time: it is the client that is measured.

use std::time::{Duration, Instant};

use super::connection::{Answer, At, Connections, End};
use super::link::{Link, nanos};
use super::listen_queue::{Handshake, ListenQueue};
use super::queue::{Nanos, Queue};
use super::{Event, Kind, Narrator, Servers, TICK};
use crate::net::close::LINGER_TIME;
use crate::pace::{Cursor, Draws, Ending, FOREVER, Next};

/// All servers of a run, their connections, and the link to them.
pub(super) struct Net<'a> {
    pub(super) servers: &'a Servers,
    pub(super) link: Link,
    pub(super) seed: u64,
    start: Instant,
    pub(super) queue: Queue<Event>,
    pub(super) connections: Connections,
    pub(super) states: Vec<State>,
    narrator: Option<&'a Narrator>,
}

/// One server.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Connections accepted so far.
    accepted: u64,
    pub(super) queue: ListenQueue,
    /// The client that a slow server serves.
    pub(super) client: Option<u32>,
}

impl<'a> Net<'a> {
    pub(super) fn new(
        servers: &'a Servers,
        link: Link,
        seed: u64,
        start: Instant,
        narrator: Option<&'a Narrator>,
    ) -> Self {
        let states = (0..servers.number.get()).map(|_| State::default()).collect();
        let (queue, connections) = (Queue::new(), Connections::default());
        Self { servers, link, seed, start, queue, connections, states, narrator }
    }

    /// The moment that a virtual time stands for.
    pub(super) fn instant(&self, at: Nanos) -> Instant {
        self.start + Duration::from_nanos(at)
    }

    pub(super) fn tell(&self, now: Nanos, text: impl FnOnce() -> String) {
        if let Some(narrator) = self.narrator {
            narrator.note(Duration::from_nanos(now), text());
        }
    }

    /// Has all been told that happens until then.
    pub(super) fn told_until(&self, now: Nanos) {
        if let Some(narrator) = self.narrator {
            narrator.tell_until(Duration::from_nanos(now));
        }
    }

    /// The bytes of the poem.
    pub(super) fn poem(&self) -> &'a [u8] {
        self.servers.poem.bytes()
    }

    pub(super) fn push(&mut self, at: Nanos, id: u32, what: At) {
        self.connections.get(id).under_way += 1;
        self.queue.push(at, Event::Net(id, what));
    }

    /// The client leaves a connection. Whoever is served by a slow server is waited for.
    pub(super) fn leave(&mut self, id: u32, now: Nanos) {
        let link = self.link;
        let connection = self.connections.get(id);
        let reset = connection.inbox > 0;
        connection.has_left = true;
        if connection.is_served() || self.servers.kind == Kind::Slow {
            let late = link.crossing(&mut connection.draws);
            self.push(now.saturating_add(late), id, At::Left { reset });
        }
        self.connections.free_if_over(id);
    }

    /// An event of a connection has come. Returns the poem whose socket has become ready by it.
    pub(super) fn happen(&mut self, id: u32, what: At, now: Nanos) -> Option<u32> {
        let connection = self.connections.get(id);
        connection.under_way -= 1;
        let (poem, has_left) = (connection.poem, connection.has_left);
        let ready = match what {
            At::NextSyn(number) if !has_left => {
                self.send_syn(id, number, now);
                None
            }
            At::Syn(number) if !has_left => {
                self.arrived(id, number, now);
                None
            }
            At::Answer(answer) if !has_left => {
                self.connections.get(id).answer = Some(answer);
                if answer == Answer::Accepted {
                    // The last segment of the handshake.
                    let late = self.link.crossing(&mut self.connections.get(id).draws);
                    self.push(now.saturating_add(late), id, At::Established);
                }
                Some(poem)
            }
            At::Arrival { bytes, end } if !has_left => {
                let connection = self.connections.get(id);
                connection.inbox += u64::from(bytes);
                connection.end = connection.end.or(end);
                Some(poem)
            }
            // A client that has given up answers with a reset: the connection never stands.
            At::Answer(Answer::Accepted) => {
                self.forget(id);
                None
            }
            // The same: there is nobody to take the bytes.
            At::Arrival { bytes: 1.., .. } => {
                let late = self.link.crossing(&mut self.connections.get(id).draws);
                self.push(now.saturating_add(late), id, At::Reset);
                None
            }
            At::Established => {
                self.established(id, now);
                None
            }
            At::NextSynAck(number) => {
                self.send_syn_ack(id, number, now);
                None
            }
            At::Serve => {
                self.serve(id, now);
                None
            }
            At::Left { reset } => {
                self.left(id, reset, now);
                None
            }
            At::Reset => {
                self.end(id, now);
                None
            }
            At::NextSyn(_) | At::Syn(_) | At::Answer(_) | At::Arrival { .. } => None,
        };
        self.connections.free_if_over(id);
        ready
    }

    pub(super) fn accept(&mut self, id: u32, now: Nanos) {
        let server = self.connections.get(id).server;
        let state = &mut self.states[server as usize];
        state.accepted += 1;
        let number = state.accepted;
        self.tell(now, || format!("server {}: accepts its connection {number}", server + 1));
        let schedule = self.servers.plan.schedule_at(server.into(), number);
        let cursor = Cursor::new(schedule, self.instant(now));
        let connection = self.connections.get(id);
        (connection.handshake, connection.cursor) = (Handshake::Accepted, Some(Box::new(cursor)));
        self.serve(id, now);
    }

    /// Does what the cursor says, as far as that goes without waiting. What is sent at one time travels together.
    fn serve(&mut self, id: u32, now: Nanos) {
        let (length, moment, link) = (self.poem().len() as u64, self.instant(now), self.link);
        let connection = self.connections.get(id);
        let server = connection.server;
        // It has been reset meanwhile.
        let Some(mut cursor) = connection.cursor.take() else { return };
        let mut sent = 0;
        let (next, ending) = loop {
            match cursor.next(moment, length, true) {
                Next::Wait(time) => {
                    break (Some((time < FOREVER).then(|| self.timer(server, now.saturating_add(nanos(time))))), None);
                }
                Next::Send { bytes, .. } => {
                    cursor.sent(bytes.end - bytes.start, moment);
                    sent += bytes.end - bytes.start;
                }
                Next::Flush => {
                    // Until the last acknowledgement.
                    let arrived = connection.last_arrival.max(now);
                    let at = arrived.saturating_add(link.crossing(&mut connection.draws));
                    cursor.flushed();
                    if sent > 0 || at > now {
                        break (Some(Some(at)), None);
                    }
                }
                Next::End(how) => break (None, Some(how)),
            }
        };
        let end = match ending {
            Some(Ending::Fin) => Some(End::Fin),
            Some(Ending::Rst) => Some(End::Reset),
            Some(Ending::Hang) | None => None,
        };
        if sent > 0 || ending.is_some() {
            self.tell(now, || told(server, sent, ending));
        }
        if sent > 0 || end.is_some() {
            self.transmit(id, sent, end, now);
        }
        match (next, ending) {
            (Some(at), _) => {
                self.connections.get(id).cursor = Some(cursor);
                if let Some(at) = at {
                    self.push(at, id, At::Serve);
                }
            }
            (None, how) => self.said_all(id, how, now),
        }
    }

    /// When a server is woken that has something to do at this time. A fast one has the timers of its runtime, whose ticks
    /// begin when the server does: at any moment.
    fn timer(&self, server: u32, at: Nanos) -> Nanos {
        if self.servers.kind == Kind::Slow {
            return at;
        }
        let phase = Draws::new(self.seed, !u64::from(server)).up_to(TICK - 1);
        at.saturating_sub(phase).div_ceil(TICK).saturating_mul(TICK).saturating_add(phase)
    }

    /// Puts bytes, and an end, on their way to the client. In order: who is early waits for who is late.
    fn transmit(&mut self, id: u32, mut bytes: u64, end: Option<End>, now: Nanos) {
        let link = self.link;
        let connection = self.connections.get(id);
        let at = now.saturating_add(link.crossing(&mut connection.draws)).max(connection.last_arrival);
        connection.last_arrival = at;
        loop {
            let part = u32::try_from(bytes).unwrap_or(u32::MAX);
            bytes -= u64::from(part);
            let is_last = bytes == 0;
            self.push(at, id, At::Arrival { bytes: part, end: end.filter(|_| is_last) });
            if is_last {
                return;
            }
        }
    }

    /// All is said on a connection, or never will be.
    fn said_all(&mut self, id: u32, how: Option<Ending>, now: Nanos) {
        let is_slow = self.servers.kind == Kind::Slow;
        let connection = self.connections.get(id);
        match how {
            // The polite close of a slow server waits for the client to leave; that of a fast one keeps nobody waiting.
            Some(Ending::Fin) if is_slow && !connection.peer_left => {
                connection.lingers = true;
                if !self.servers.never_read {
                    self.push(now.saturating_add(nanos(LINGER_TIME)), id, At::Reset);
                }
            }
            Some(Ending::Hang) if !connection.peer_left => connection.lingers = true,
            _ => self.end(id, now),
        }
    }

    /// What the client has done reaches the server: it has closed the connection, or reset it.
    fn left(&mut self, id: u32, reset: bool, now: Nanos) {
        let connection = self.connections.get(id);
        connection.peer_left = true;
        // Its FIN acknowledges the SYN-ACK, too. (That it is sent again is left out.)
        if matches!(connection.handshake, Handshake::Dropped | Handshake::Cookie) && connection.answer.is_some() {
            return self.established(id, now);
        }
        if connection.lingers || (reset && connection.cursor.is_some()) {
            self.end(id, now);
        }
    }

    /// The server is done with a connection, one way or another.
    fn end(&mut self, id: u32, now: Nanos) {
        let connection = self.connections.get(id);
        connection.lingers = false;
        connection.cursor = None;
        let server = connection.server as usize;
        if self.states[server].client == Some(id) {
            self.states[server].client = None;
            self.accept_next(server, now);
        }
    }
}

/// What a server does, in words.
fn told(server: u32, sent: u64, ending: Option<Ending>) -> String {
    let sent = (sent > 0).then(|| format!("sends {}", crate::units::count(sent, "byte")));
    let ending = ending.map(|how| match how {
        Ending::Fin => "ends the stream",
        Ending::Rst => "resets the connection",
        Ending::Hang => "falls silent",
    });
    let words: Vec<String> = sent.into_iter().chain(ending.map(str::to_owned)).collect();
    format!("server {}: {}", server + 1, words.join(", and "))
}
