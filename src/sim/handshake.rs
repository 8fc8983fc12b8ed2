//! How connections come to stand: SYNs, their answers, the listen queue, and who is accepted next.

use super::Kind;
use super::connection::{Answer, At, Connection};
use super::link::{last_syn, nanos, syn_pause, timer};
use super::listen_queue::{Handshake, syn_ack_due};
use super::queue::Nanos;
use super::server::Net;

impl Net<'_> {
    /// A client connects: its SYN is on its way. Returns the connection.
    pub(super) fn connect(&mut self, poem: u32, server: u32, attempt: u32, now: Nanos) -> u32 {
        let draws_of = (u64::from(poem) << 16) ^ u64::from(attempt);
        let id = self.connections.add(Connection::new(poem, server, self.seed, draws_of));
        self.send_syn(id, 1, now);
        id
    }

    /// Sends the SYN of this number, from 1 on; or has connect(2) end.
    pub(super) fn send_syn(&mut self, id: u32, number: u32, now: Nanos) {
        let link = self.link;
        let connection = self.connections.get(id);
        match link.handshake(&mut connection.draws) {
            Some(late) => self.push(now.saturating_add(late), id, At::Syn(number)),
            None => self.send_syn_later(id, number, now),
        }
    }

    fn send_syn_later(&mut self, id: u32, number: u32, sent: Nanos) {
        match syn_pause(number) {
            Some(pause) => self.push(sent.saturating_add(pause), id, At::NextSyn(number + 1)),
            None => self.push(sent.saturating_add(last_syn()), id, At::Answer(Answer::TimedOut)),
        }
    }

    /// A SYN has arrived: it is answered, refused, or dropped because the listen queue is full.
    pub(super) fn arrived(&mut self, id: u32, number: u32, now: Nanos) {
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
                self.push(now.saturating_add(late), id, At::Answer(answer));
            }
            None => {
                self.forget(id);
                self.send_syn_later(id, number, now);
            }
        }
    }

    /// The last segment of the handshake has arrived: the connection stands for the server too, if there is room for it.
    pub(super) fn established(&mut self, id: u32, now: Nanos) {
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
                    let number =
                        (1..).find(|number| asked.saturating_add(syn_ack_due(*number)) > now).unwrap_or_default();
                    self.push(asked.saturating_add(syn_ack_due(number)), id, At::NextSynAck(number));
                }
            }
            Handshake::Unknown | Handshake::Requested | Handshake::Accepted => {}
        }
    }

    /// Sends a SYN-ACK again, which the client answers; or forgets that it came, after so many.
    pub(super) fn send_syn_ack(&mut self, id: u32, number: u32, now: Nanos) {
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
            self.push(now.saturating_add(there).saturating_add(back), id, At::Established);
        }
        self.push(asked.saturating_add(syn_ack_due(number + 1)), id, At::NextSynAck(number + 1));
    }

    /// A handshake will not be completed.
    pub(super) fn forget(&mut self, id: u32) {
        let connection = self.connections.get(id);
        let handshake = std::mem::take(&mut connection.handshake);
        self.states[connection.server as usize].queue.forget(handshake);
    }

    /// A slow server accepts the next client, if it serves none.
    pub(super) fn accept_next(&mut self, server: usize, now: Nanos) {
        while self.states[server].client.is_none() {
            let Some(id) = self.states[server].queue.accept(now) else { return };
            self.states[server].client = Some(id);
            self.accept(id, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::{NonZeroU32, NonZeroU64};
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, Instant};

    use super::super::{Event, Link, Narrator, Servers};
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
            net.told_until(now);
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
