//! The server's half of a simulation: who is accepted when, and what is sent when, as `Plan` and `Cursor` decide it.
//!
//! A slow server is `slowpoetry`: one client at a time, and the others wait in the listen queue. A fast one is `fastpoetry`:
//! it accepts at once, and serves all side by side. Neither needs processor time: it is the client that is measured.

use std::time::{Duration, Instant};

use super::connection::{Answer, At, Connection, Connections, End};
use super::link::{Link, last_syn, nanos, syn_pause, timer};
use super::listen_queue::{Handshake, ListenQueue, syn_ack_due};
use super::queue::{Nanos, Queue};
use super::{Event, Kind, Narrator, Servers, TICK};
use crate::net::close::LINGER_TIME;
use crate::pace::{Cursor, Draws, Ending, FOREVER, Next};

/// All servers of a run, their connections, and the link to them.
pub(super) struct Net<'a> {
    servers: &'a Servers,
    link: Link,
    seed: u64,
    start: Instant,
    pub(super) queue: Queue<Event>,
    pub(super) connections: Connections,
    states: Vec<State>,
    narrator: Option<&'a Narrator>,
}

/// One server.
#[derive(Debug, Default)]
struct State {
    /// Connections accepted so far.
    accepted: u64,
    queue: ListenQueue,
    /// The client that a slow server serves.
    client: Option<u32>,
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
            narrator.tell(Duration::from_nanos(now), &text());
        }
    }

    /// The bytes of the poem.
    pub(super) fn poem(&self) -> &'a [u8] {
        self.servers.poem.bytes()
    }

    /// A client connects: its SYN is on its way. Returns the connection.
    pub(super) fn connect(&mut self, poem: u32, server: u32, attempt: u32, now: Nanos) -> u32 {
        let draws_of = (u64::from(poem) << 16) ^ u64::from(attempt);
        let id = self.connections.add(Connection::new(poem, server, self.seed, draws_of));
        self.send_syn(id, 1, now);
        id
    }

    /// Sends the SYN of this number, from 1 on; or has connect(2) end.
    fn send_syn(&mut self, id: u32, number: u32, now: Nanos) {
        let link = self.link;
        let connection = self.connections.get(id);
        match link.handshake(&mut connection.draws) {
            Some(late) => self.push(now + late, id, At::Syn(number)),
            None => self.send_syn_later(id, number, now),
        }
    }

    fn send_syn_later(&mut self, id: u32, number: u32, sent: Nanos) {
        match syn_pause(number) {
            Some(pause) => self.push(sent + pause, id, At::NextSyn(number + 1)),
            None => self.push(sent + last_syn(), id, At::Answer(Answer::TimedOut)),
        }
    }

    fn push(&mut self, at: Nanos, id: u32, what: At) {
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
            self.push(now + late, id, At::Left { reset });
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
                    self.push(now + late, id, At::Established);
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
                self.push(now + late, id, At::Reset);
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

    /// A SYN has arrived: it is answered, refused, or dropped because the listen queue is full.
    fn arrived(&mut self, id: u32, number: u32, now: Nanos) {
        let server = self.connections.get(id).server;
        let listens = now >= nanos(self.servers.listen_after);
        let handshake = match listens && !self.servers.never_accept {
            true => self.states[server as usize].queue.request(self.servers.backlog, now),
            false => Handshake::Unknown,
        };
        if listens && handshake == Handshake::Unknown {
            self.tell(now, || format!("server {}: the listen queue is full, a SYN is dropped", server + 1));
            return self.send_syn_later(id, number, timer(now));
        }
        let (link, connection) = (self.link, self.connections.get(id));
        (connection.handshake, connection.asked) = (handshake, now);
        match link.handshake(&mut connection.draws) {
            Some(late) => {
                let answer = if listens { Answer::Accepted } else { Answer::Refused };
                self.push(now + late, id, At::Answer(answer));
            }
            None => {
                self.forget(id);
                self.send_syn_later(id, number, now);
            }
        }
    }

    /// The last segment of the handshake has arrived: the connection stands for the server too, if there is room for it.
    fn established(&mut self, id: u32, now: Nanos) {
        let connection = self.connections.get(id);
        let (server, before, asked) = (connection.server as usize, connection.handshake, connection.asked);
        let after = self.states[server].queue.complete(before, self.servers.backlog, now);
        connection.handshake = after;
        match after {
            Handshake::Waiting if before == Handshake::Waiting => {}
            Handshake::Waiting if self.servers.kind == Kind::Fast => self.accept(id, now),
            Handshake::Waiting => {
                self.states[server].queue.wait(id);
                self.accept_next(server, now);
            }
            Handshake::Dropped | Handshake::Cookie => {
                self.tell(now, || format!("server {}: the listen queue is full, an ACK is dropped", server + 1));
                if before == Handshake::Requested {
                    let number = (1..).find(|number| asked + syn_ack_due(*number) > now).unwrap_or_default();
                    self.push(asked + syn_ack_due(number), id, At::NextSynAck(number));
                }
            }
            Handshake::Unknown | Handshake::Requested | Handshake::Accepted => {}
        }
    }

    /// Sends a SYN-ACK again, which the client answers; or forgets that it came, after so many.
    fn send_syn_ack(&mut self, id: u32, number: u32, now: Nanos) {
        let (link, connection) = (self.link, self.connections.get(id));
        if connection.handshake != Handshake::Dropped {
            return;
        }
        let (server, asked) = (connection.server as usize, connection.asked);
        if number > self.states[server].queue.syn_acks(self.servers.backlog) {
            self.tell(now, || format!("server {}: forgets a connection that the client believes in", server + 1));
            return self.forget(id);
        }
        if let (Some(there), Some(back)) =
            (link.handshake(&mut connection.draws), link.handshake(&mut connection.draws))
        {
            self.push(now + there + back, id, At::Established);
        }
        self.push(asked + syn_ack_due(number + 1), id, At::NextSynAck(number + 1));
    }

    /// A handshake will not be completed.
    fn forget(&mut self, id: u32) {
        let connection = self.connections.get(id);
        let handshake = std::mem::take(&mut connection.handshake);
        self.states[connection.server as usize].queue.forget(handshake);
    }

    /// A slow server accepts the next client, if it serves none.
    fn accept_next(&mut self, server: usize, now: Nanos) {
        while self.states[server].client.is_none() {
            let Some(id) = self.states[server].queue.accept(now) else { return };
            self.states[server].client = Some(id);
            self.accept(id, now);
        }
    }

    fn accept(&mut self, id: u32, now: Nanos) {
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
                    break (Some((time < FOREVER).then(|| self.timer(server, now + nanos(time)))), None);
                }
                Next::Send { bytes, .. } => {
                    cursor.sent(bytes.end - bytes.start, moment);
                    sent += bytes.end - bytes.start;
                }
                Next::Flush => {
                    // Until the last acknowledgement.
                    let arrived = connection.last_arrival.max(now);
                    let at = arrived + link.crossing(&mut connection.draws);
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
        phase + at.saturating_sub(phase).div_ceil(TICK) * TICK
    }

    /// Puts bytes, and an end, on their way to the client. In order: who is early waits for who is late.
    fn transmit(&mut self, id: u32, mut bytes: u64, end: Option<End>, now: Nanos) {
        let link = self.link;
        let connection = self.connections.get(id);
        let at = (now + link.crossing(&mut connection.draws)).max(connection.last_arrival);
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
                    self.push(now + nanos(LINGER_TIME), id, At::Reset);
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

#[cfg(test)]
mod tests {
    use std::num::{NonZeroU32, NonZeroU64};
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::pace::{Pace, Plan, Tempo};
    use crate::sync::lock;

    /// Clients of one slow server 100 ms away that connect at once, in waves; whoever has its poem leaves. Returns what the server
    /// tells, each with its milliseconds.
    fn told(backlog: u32, pause: Duration, waves: &[(u64, u32)]) -> Vec<(u128, String)> {
        let pace = Pace {
            num_bytes: NonZeroU64::new(10).expect("not 0"),
            tempo: Tempo::Delay(Duration::ZERO),
            first_byte_delay: pause,
            ..Pace::default()
        };
        let servers = Servers {
            number: NonZeroU32::MIN,
            kind: Kind::Slow,
            plan: Plan::uniform(7, pace),
            poem: vec![b'.'; 10].into(),
            backlog,
            never_accept: false,
            listen_after: Duration::ZERO,
            never_read: false,
        };
        let told = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&told);
        let narrator = Narrator::new(move |at, text| lock(&kept).push((at.as_millis(), text.to_owned())));
        let link = Link { rtt: Duration::from_millis(100), ..Link::default() };
        let mut net = Net::new(&servers, link, 7, Instant::now(), Some(&narrator));
        let mut poem = 0;
        for (at, clients) in waves {
            for _ in 0..*clients {
                net.connect(poem, 0, 1, at * 1_000_000);
                poem += 1;
            }
        }
        while let Some((now, event)) = net.queue.pop() {
            let Event::Net(id, what) = event else { continue };
            if net.happen(id, what, now).is_some() && net.connections.get(id).is_readable() {
                net.connections.get(id).inbox = 0;
                net.leave(id, now);
            }
        }
        let told = lock(&told);
        told.iter().map(|(at, text)| (*at, text.trim_start_matches("server 1: ").to_owned())).collect()
    }

    /// How many of these words, at which time.
    fn counts(told: &[(u128, String)], words: &str) -> Vec<(u128, usize)> {
        let mut counts: Vec<(u128, usize)> = Vec::new();
        for (at, _) in told.iter().filter(|(_, text)| text.contains(words)) {
            match counts.last_mut() {
                Some((last, count)) if last == at => *count += 1,
                _ => counts.push((*at, 1)),
            }
        }
        counts
    }

    const LONG: Duration = Duration::from_secs(1_000);

    /// As seen on Linux 6.18, with a link of 50 ms each way.
    #[test]
    fn a_dropped_ack_is_followed_by_syn_acks_until_the_request_is_forgotten() {
        let told = told(3, LONG, &[(0, 4), (400, 4)]);
        let drops = [550, 1_550, 3_550, 7_550, 15_550, 31_550].map(|at| (at, 3));
        assert_eq!(counts(&told, "an ACK is dropped"), drops);
        assert_eq!(counts(&told, "forgets"), [(63_450, 3)]);
    }

    #[test]
    fn old_requests_are_forgotten_sooner_when_they_are_half_of_the_queue() {
        let told = told(10, LONG, &[(0, 11), (400, 8)]);
        assert_eq!(counts(&told, "forgets"), [(7_450, 2), (63_450, 5)]);
        assert_eq!(counts(&told, "an ACK is dropped")[..4], [(550, 7), (1_550, 7), (3_550, 7), (7_550, 5)]);
    }

    #[test]
    fn a_syn_ack_that_is_sent_again_finds_room_then() {
        let told = told(3, Duration::from_millis(900), &[(0, 4), (400, 4)]);
        assert_eq!(counts(&told, "accepts").len(), 8);
        assert_eq!(counts(&told, "an ACK is dropped"), [(550, 3), (1_550, 2)]);
    }

    #[test]
    fn whoever_has_a_cookie_is_dropped_for_good() {
        let told = told(3, Duration::from_millis(500), &[(0, 1), (1, 11)]);
        assert_eq!(counts(&told, "accepts").len(), 5);
        assert_eq!((counts(&told, "an ACK is dropped"), counts(&told, "forgets")), (vec![(151, 7)], vec![]));
    }

    #[test]
    fn a_queue_that_is_full_of_connections_drops_syns_which_come_again_together() {
        let told = told(3, LONG, &[(0, 1), (1, 4), (400, 2), (410, 1)]);
        assert_eq!(counts(&told, "a SYN is dropped")[..3], [(450, 2), (460, 1), (1_530, 3)]);
    }
}
