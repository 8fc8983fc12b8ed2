//! The addresses of a name as candidates for one connection (RFC 8305, Happy Eyeballs): their order, when each is tried,
//! and which connection is none.
//!
//! Values and decisions for everybody who connects; each waits in its own way.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use socket2::SockRef;

/// The Connection Attempt Delay (RFC 8305, section 5): a candidate that has not answered for so long is joined by the
/// next one. Who answers first wins.
pub const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// The most candidates under way at once. Further ones wait until one of these has failed: whoever says which addresses a
/// name has does not say how many sockets that takes.
const MOST_AT_ONCE: usize = 16;

/// The order in which the addresses of a name are tried: as the resolver has them, but with the families in turns (RFC
/// 8305, section 4), so that a family that leads nowhere costs one delay and not one for each of its addresses. No address
/// is there twice.
///
/// If a connection to one of them has failed `after` it stood, they begin with the one after it, and it comes last.
pub fn in_order(found: &[SocketAddr], after: Option<SocketAddr>) -> Vec<SocketAddr> {
    let mut distinct = Vec::with_capacity(found.len());
    for address in found {
        if !distinct.contains(address) {
            distinct.push(*address);
        }
    }
    let first_is_ipv4 = distinct.first().is_some_and(SocketAddr::is_ipv4);
    let count = distinct.len();
    let (ones, others): (Vec<SocketAddr>, Vec<SocketAddr>) =
        distinct.into_iter().partition(|address| address.is_ipv4() == first_is_ipv4);
    let (mut ones, mut others) = (ones.into_iter(), others.into_iter());
    let mut order = Vec::with_capacity(count);
    while order.len() < count {
        order.extend(ones.next().into_iter().chain(others.next()));
    }
    if let Some(failed) = after.and_then(|failed| order.iter().position(|address| *address == failed)) {
        order.rotate_left(failed + 1);
    }
    order
}

/// Which address is to be tried next, and when; and what became of those that failed.
///
/// Each one is begun with [`next`](Self::next), as long as there is one that is due; after [`due`](Self::due), or after
/// [`failed`](Self::failed), there may be another. When none is under way and none is due, [`failure`](Self::failure) is
/// why there is no connection.
#[derive(Debug)]
pub struct Candidates<E> {
    order: Vec<SocketAddr>,
    begun: usize,
    ended: usize,
    due: Due,
    /// The failure of the candidate that was last in order, of those that have failed.
    failure: Option<(usize, E)>,
}

/// When the next candidate is to be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Now,
    At(Instant),
    /// When one of those under way has failed.
    AfterFailure,
}

/// A candidate that is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Its place in the order.
    pub number: usize,
    /// Where it is.
    pub address: SocketAddr,
}

impl<E> Candidates<E> {
    /// Candidates that are tried in this order.
    pub fn new(order: Vec<SocketAddr>) -> Self {
        Self { order, begun: 0, ended: 0, due: Due::Now, failure: None }
    }

    /// The candidate that is to be tried `now`; `None`: there is no other one, or it is not due yet.
    pub fn next(&mut self, now: Instant) -> Option<Candidate> {
        let is_due = match self.due {
            Due::Now => true,
            Due::At(due) => due <= now,
            Due::AfterFailure => false,
        };
        let address = *self.order.get(self.begun).filter(|_| is_due)?;
        let number = self.begun;
        self.begun += 1;
        let is_full = self.begun - self.ended == MOST_AT_ONCE;
        self.due = if is_full { Due::AfterFailure } else { Due::At(now + ATTEMPT_DELAY) };
        Some(Candidate { number, address })
    }

    /// When the next one is due; `None`: it is due now, or only after a failure, or there is none.
    pub fn due(&self) -> Option<Instant> {
        match self.due {
            Due::At(due) if self.begun < self.order.len() => Some(due),
            _ => None,
        }
    }

    /// A candidate has failed. The next one is due at once.
    pub fn failed(&mut self, number: usize, why: E) {
        self.ended += 1;
        self.due = Due::Now;
        if self.failure.as_ref().is_none_or(|(last, _)| *last <= number) {
            self.failure = Some((number, why));
        }
    }

    /// The candidate that was begun last had no socket, while others have one: it is its turn again after a failure.
    pub fn put_off(&mut self) {
        self.begun -= 1;
        self.due = Due::AfterFailure;
    }

    /// Why there is no connection: what became of the last address. `None`: nothing has failed.
    pub fn failure(self) -> Option<E> {
        self.failure.map(|(_, why)| why)
    }
}

/// Waits for attempts under way, and takes out the first that has come to an end.
pub async fn first_to_end<F: Future + Unpin>(under_way: &mut Vec<(Candidate, F)>) -> (Candidate, F::Output) {
    poll_fn(|context| {
        for place in 0..under_way.len() {
            if let Poll::Ready(end) = Pin::new(&mut under_way[place].1).poll(context) {
                return Poll::Ready((under_way.remove(place).0, end));
            }
        }
        Poll::Pending
    })
    .await
}

/// Refuses a connection whose two ends are the same address (ECONNREFUSED): nobody listens there.
///
/// To connect to a port from which the system takes ephemeral ports can end so: it takes that very port, and the SYN
/// finds the socket that sent it (a simultaneous open, RFC 9293, section 3.5). Such a connection is reset when it is
/// dropped, so that the port is free for who wants to listen there.
///
/// # Errors
/// It is one, or the system does not say.
pub fn refuse_itself(socket: &impl AsFd, to: SocketAddr) -> io::Result<()> {
    let socket = SockRef::from(socket);
    let local = socket.local_addr()?.as_socket();
    // The port alone tells most of them apart: one call less.
    if local.is_none_or(|local| local.port() != to.port()) {
        return Ok(());
    }
    if socket.peer_addr()?.as_socket() != local {
        return Ok(());
    }
    // The reset is the close's: whether it can be had does not matter to who asks.
    let _ = socket.set_linger(Some(Duration::ZERO));
    Err(Errno::ECONNREFUSED.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    use socket2::{Domain, Socket, Type};

    const MS: Duration = Duration::from_millis(1);

    fn addresses(text: &str) -> Vec<SocketAddr> {
        let socket_address = |ip: &str| SocketAddr::new(ip.parse().expect("an IP address"), 1);
        text.split_whitespace().map(socket_address).collect()
    }

    #[test]
    fn families_take_turns_and_the_first_one_begins() {
        for (found, order) in [
            ("", ""),
            ("10.0.0.1", "10.0.0.1"),
            ("::1 10.0.0.1", "::1 10.0.0.1"),
            ("::1 ::2 10.0.0.1 10.0.0.2", "::1 10.0.0.1 ::2 10.0.0.2"),
            ("10.0.0.1 10.0.0.2 ::1", "10.0.0.1 ::1 10.0.0.2"),
            ("::1 ::2 ::3 10.0.0.1", "::1 10.0.0.1 ::2 ::3"),
            ("10.0.0.1 10.0.0.2 10.0.0.3", "10.0.0.1 10.0.0.2 10.0.0.3"),
            ("127.0.0.1 127.0.0.1 ::1 127.0.0.1", "127.0.0.1 ::1"),
        ] {
            assert_eq!(in_order(&addresses(found), None), addresses(order), "{found}");
        }
    }

    #[test]
    fn the_one_after_the_one_that_failed_comes_first() {
        const FOUND: &str = "::1 ::2 10.0.0.1 10.0.0.2";
        for (failed, order) in [
            ("::1", "10.0.0.1 ::2 10.0.0.2 ::1"),
            ("10.0.0.1", "::2 10.0.0.2 ::1 10.0.0.1"),
            ("10.0.0.2", "::1 10.0.0.1 ::2 10.0.0.2"),
            ("10.0.0.9", "::1 10.0.0.1 ::2 10.0.0.2"),
        ] {
            assert_eq!(in_order(&addresses(FOUND), Some(addresses(failed)[0])), addresses(order), "{failed}");
        }
        assert_eq!(in_order(&addresses("::1"), Some(addresses("::1")[0])), addresses("::1"));
    }

    #[test]
    fn a_candidate_is_joined_by_the_next_one_after_the_delay_or_a_failure() {
        let start = Instant::now();
        let at = |ms: u32| start + ms * MS;
        let mut candidates = Candidates::new(addresses("::1 10.0.0.1 ::2 10.0.0.2"));
        let number = |candidate: Option<Candidate>| candidate.map(|candidate| candidate.number);
        assert_eq!(candidates.due(), None, "the first one is due now");
        assert_eq!(candidates.next(at(0)), Some(Candidate { number: 0, address: addresses("::1")[0] }));
        assert_eq!((candidates.next(at(249)), candidates.due()), (None, Some(at(250))));
        assert_eq!(number(candidates.next(at(250))), Some(1));
        assert_eq!((candidates.next(at(260)), candidates.due()), (None, Some(at(500))));
        candidates.failed(0, "refused");
        assert_eq!(number(candidates.next(at(260))), Some(2), "at once");
        assert_eq!((candidates.next(at(509)), candidates.due()), (None, Some(at(510))));
        assert_eq!(number(candidates.next(at(510))), Some(3));
        assert_eq!((candidates.next(at(10_000)), candidates.due()), (None, None), "there is none any more");
        candidates.failed(3, "the last one's");
        candidates.failed(1, "late");
        candidates.failed(2, "later");
        assert_eq!(candidates.next(at(10_000)), None);
        assert_eq!(candidates.failure(), Some("the last one's"));
    }

    #[test]
    fn no_more_are_under_way_at_once_than_the_limit() {
        let addresses: Vec<SocketAddr> = (1..=20).map(|last| SocketAddr::from(([10, 0, 0, last], 1))).collect();
        let (mut candidates, start) = (Candidates::new(addresses), Instant::now());
        let begun = (0..100).filter(|&nth| candidates.next(start + nth * ATTEMPT_DELAY).is_some()).count();
        assert_eq!((begun, candidates.due()), (MOST_AT_ONCE, None));
        let now = start + 100 * ATTEMPT_DELAY;
        candidates.failed(3, "refused");
        assert_eq!(candidates.next(now).map(|candidate| candidate.number), Some(MOST_AT_ONCE));
        assert_eq!(candidates.next(now + ATTEMPT_DELAY), None);
    }

    #[test]
    fn a_candidate_without_a_socket_waits_for_that_of_another() {
        let now = Instant::now();
        let mut candidates = Candidates::new(addresses("::1 10.0.0.1"));
        assert!(candidates.next(now).is_some());
        let second = candidates.next(now + ATTEMPT_DELAY).expect("it is due");
        candidates.put_off();
        assert_eq!((candidates.next(now + 9 * ATTEMPT_DELAY), candidates.due()), (None, None));
        candidates.failed(0, "refused");
        assert_eq!(candidates.next(now + 9 * ATTEMPT_DELAY), Some(second));
    }

    #[test]
    fn a_connection_to_oneself_is_refused_and_leaves_the_port_free() {
        for (domain, ip) in [(Domain::IPV4, "127.0.0.1"), (Domain::IPV6, "::1")] {
            let any_port = SocketAddr::new(ip.parse().expect("an IP address"), 0);
            let socket = Socket::new(domain, Type::STREAM, None).expect("a socket");
            if socket.bind(&any_port.into()).is_err() {
                continue; // a machine without IPv6
            }
            let own = socket.local_addr().expect("bound");
            socket.connect(&own).expect("a simultaneous open");
            let own = own.as_socket().expect("an IP socket");
            let error = refuse_itself(&socket, own).expect_err("nobody listens there");
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
            drop(socket);
            // Without SO_REUSEADDR: a connection in TIME_WAIT would hold it. std sets that option, so by hand.
            let next = Socket::new(domain, Type::STREAM, None).expect("a socket");
            next.bind(&own.into()).expect("the port is free");
        }
    }

    #[test]
    fn a_connection_to_somebody_else_is_none_to_oneself() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let to = listener.local_addr().expect("an address");
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.connect(&to.into()).expect("connected");
        refuse_itself(&socket, to).expect("two ends");
        // The same port, and another address.
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from(([127, 0, 0, 2], to.port())).into()).expect("an address of this machine");
        socket.connect(&to.into()).expect("connected");
        refuse_itself(&socket, to).expect("two ends");
    }
}
