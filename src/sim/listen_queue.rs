//! The listen queue of a server as Linux has it with its defaults: requests, whose handshake is under way, and connections
//! that wait for accept(2). Each of the two has room for one more than the backlog. See listen(2), tcp(7), and
//! `tcp_conn_request`, `tcp_check_req` and `reqsk_timer_handler` in the kernel.

use std::collections::VecDeque;
use std::time::Duration;

use super::link::nanos;
use super::queue::Nanos;

/// The listen queue of one server.
#[derive(Debug, Default)]
pub(super) struct ListenQueue {
    /// Handshakes that the server knows to be under way.
    requests: u32,
    /// Those of them of which the last segment has come, and found no room.
    dropped: u32,
    /// Connections that stand, and are not accepted.
    waiting: VecDeque<u32>,
    /// When one was accepted last. Its room is free after that: what the network brings at one time, it brings before the
    /// server wakes up.
    accepted: Option<Nanos>,
}

/// How far the server is in the handshake of a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Handshake {
    /// It has not heard of it, or has forgotten it.
    #[default]
    Unknown,
    /// It has answered the SYN, and has a request for it.
    Requested,
    /// The same, but the last segment has found no room for the connection. The client believes that it stands.
    Dropped,
    /// It has answered the SYN with a cookie, and knows nothing of it (`tcp_syncookies`): whoever comes back with the cookie
    /// finds room, or is dropped for good.
    Cookie,
    /// The connection stands, and is not accepted.
    Waiting,
    /// It is accepted.
    Accepted,
}

/// The timeout before the first SYN-ACK is sent again; each further one is twice as long: `TCP_TIMEOUT_INIT`.
const SYN_ACK_TIMEOUT: Duration = Duration::from_secs(1);

/// SYN-ACKs that are sent again, before the request is forgotten: `tcp_synack_retries`.
const SYN_ACK_RETRIES: u32 = 5;

/// The same, when old requests take the room of new ones.
const LEAST_SYN_ACK_RETRIES: u32 = 2;

/// So few requests take nobody's room.
const FEW: u32 = 8;

impl ListenQueue {
    /// A SYN has come. Returns how far the handshake is with that: where it is unknown still, there was no room.
    pub(super) fn request(&mut self, backlog: u32, now: Nanos) -> Handshake {
        if self.is_full(backlog, now) {
            return Handshake::Unknown;
        }
        if self.requests > backlog {
            return Handshake::Cookie;
        }
        self.requests += 1;
        Handshake::Requested
    }

    /// The last segment of a handshake has come, which was so far. Returns how far it is with that: a connection that waits is
    /// to be accepted, or to be put into the queue by [`wait`](Self::wait).
    pub(super) fn complete(&mut self, handshake: Handshake, backlog: u32, now: Nanos) -> Handshake {
        match handshake {
            Handshake::Unknown | Handshake::Waiting | Handshake::Accepted => handshake,
            Handshake::Cookie if self.is_full(backlog, now) => handshake,
            Handshake::Requested | Handshake::Dropped if self.is_full(backlog, now) => {
                self.dropped += u32::from(handshake == Handshake::Requested);
                Handshake::Dropped
            }
            Handshake::Requested | Handshake::Dropped | Handshake::Cookie => {
                self.forget(handshake);
                Handshake::Waiting
            }
        }
    }

    /// A connection waits for accept(2).
    pub(super) fn wait(&mut self, id: u32) {
        self.waiting.push_back(id);
    }

    /// A handshake that was so far is over, one way or another.
    pub(super) fn forget(&mut self, handshake: Handshake) {
        self.requests -= u32::from(matches!(handshake, Handshake::Requested | Handshake::Dropped));
        self.dropped -= u32::from(handshake == Handshake::Dropped);
    }

    /// The connection that is to be accepted next.
    pub(super) fn accept(&mut self, now: Nanos) -> Option<u32> {
        let next = self.waiting.pop_front()?;
        self.accepted = Some(now);
        Some(next)
    }

    fn is_full(&self, backlog: u32, now: Nanos) -> bool {
        self.waiting.len() + usize::from(self.accepted == Some(now)) > backlog as usize
    }

    /// How often a SYN-ACK is sent again at present. Half of the room is for new requests: if they have less, old ones are
    /// forgotten sooner. (The kernel calls a request old a second after its SYN, dropped or not.)
    pub(super) fn syn_acks(&self, backlog: u32) -> u32 {
        let mut retries = SYN_ACK_RETRIES;
        if self.requests.saturating_mul(2) > backlog.max(FEW) {
            let mut young = (self.requests - self.dropped).saturating_mul(2);
            while retries > LEAST_SYN_ACK_RETRIES && self.requests >= young {
                retries -= 1;
                young = young.saturating_mul(2);
            }
        }
        retries
    }
}

/// When the SYN-ACK of this number, from 1 on, is sent again, as time since the SYN came.
pub(super) fn syn_ack_due(number: u32) -> Nanos {
    nanos(SYN_ACK_TIMEOUT * ((1 << number) - 1))
}
