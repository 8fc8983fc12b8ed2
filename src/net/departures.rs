//! Sees peers leave: the FIN or RST of each, at the moment when it arrives.
//!
//! Seen by epoll(7) from beside, whatever the server is doing with a connection then: sending, waiting for the next piece
//! of a trickle, or silent. What is not read yet keeps nothing from being seen. A closed socket leaves the set by itself,
//! and its end is told to nobody.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex};
use std::thread;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::pace::Departure;
use crate::sync::lock;

/// Events taken from the kernel at once.
const BATCH: usize = 64;

/// Connections whose peers are watched, each under a number.
pub(crate) struct Departures {
    epoll: Epoll,
    /// Is told of every peer that leaves, once, in the order in which they left.
    told: Box<Told>,
    /// Held from when an event is taken to when it is told.
    in_turn: Mutex<()>,
}

type Told = dyn Fn(u64, Departure) + Send + Sync;

impl fmt::Debug for Departures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Departures").field("epoll", &self.epoll.0.as_raw_fd()).finish_non_exhaustive()
    }
}

impl Departures {
    /// Nobody is watched yet. Starts the thread that watches.
    ///
    /// # Errors
    /// The system gives no thread or no descriptor.
    pub(crate) fn watch(name: &str, told: impl Fn(u64, Departure) + Send + Sync + 'static) -> io::Result<Arc<Self>> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let departures = Arc::new(Self { epoll, told: Box::new(told), in_turn: Mutex::default() });
        let watching = Arc::clone(&departures);
        thread::Builder::new().name(name.to_owned()).spawn(move || watching.run())?;
        Ok(departures)
    }

    /// Watches the peer of this socket, until it leaves or the socket is closed, or is watched under another number.
    ///
    /// # Errors
    /// There is no room in the set: see epoll_ctl(2).
    pub(crate) fn add(&self, socket: impl AsFd, number: u64) -> io::Result<()> {
        let events = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLONESHOT;
        let mut event = EpollEvent::new(events, number);
        match self.epoll.add(&socket, event) {
            // Under another number, which is told no more.
            Err(Errno::EEXIST) => Ok(self.epoll.modify(&socket, &mut event)?),
            added => Ok(added?),
        }
    }

    /// Tells of everybody who has left by now, if the thread has not done it yet.
    pub(crate) fn catch_up(&self) {
        let _in_turn = lock(&self.in_turn);
        let mut events = [EpollEvent::empty(); BATCH];
        loop {
            match self.epoll.wait(&mut events, EpollTimeout::ZERO) {
                Ok(0) => return,
                Ok(count) => events[..count].iter().for_each(|event| (self.told)(event.data(), how(event.events()))),
                Err(Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }

    fn run(&self) {
        loop {
            // Not epoll_wait(2): what that has taken could not be told in turn.
            match poll(&mut [PollFd::new(self.epoll.0.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE) {
                Ok(_) => self.catch_up(),
                Err(Errno::EINTR) => {}
                // Nobody is seen to leave any more.
                Err(_) => return,
            }
        }
    }
}

/// A reset shuts down both directions at once, and is an error until somebody is told of it.
fn how(events: EpollFlags) -> Departure {
    if events.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP) { Departure::Reset } else { Departure::Close }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::sync::mpsc::{Receiver, channel};
    use std::time::Duration;

    use super::*;
    use crate::net::close;

    /// Nothing here takes so long.
    const PATIENCE: Duration = Duration::from_secs(60);

    fn watched() -> (Arc<Departures>, Receiver<(u64, Departure)>) {
        let (sender, receiver) = channel();
        let told = move |number, how| sender.send((number, how)).expect("a test");
        (Departures::watch("departures", told).expect("a thread"), receiver)
    }

    /// The two sides of a connection.
    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("a server");
        (client, listener.accept().expect("a client").0)
    }

    #[test]
    fn a_close_and_a_reset_are_told_apart_although_nobody_reads() {
        let (departures, told) = watched();
        let connections = [pair(), pair(), pair()];
        for ((_, server), number) in connections.iter().zip(1..) {
            departures.add(server, number).expect("room");
        }
        let [(mut half, _at), (whole, _their), (reset, _server)] = connections;
        half.write_all(b"that nobody reads").expect("sent");
        half.shutdown(Shutdown::Write).expect("shut down");
        assert_eq!(told.recv_timeout(PATIENCE), Ok((1, Departure::Close)));
        drop(whole);
        assert_eq!(told.recv_timeout(PATIENCE), Ok((2, Departure::Close)));
        close::abruptly(&socket2::SockRef::from(&reset));
        drop(reset);
        assert_eq!(told.recv_timeout(PATIENCE), Ok((3, Departure::Reset)));
        drop(half);
        departures.catch_up();
        assert!(told.try_recv().is_err(), "each is told once");
    }

    #[test]
    fn a_reset_is_one_also_after_the_server_has_heard_of_it() {
        let (departures, told) = watched();
        let in_turn = lock(&departures.in_turn);
        let (client, server) = pair();
        departures.add(&server, 1).expect("room");
        close::abruptly(&socket2::SockRef::from(&client));
        drop(client);
        while server.take_error().expect("a socket").is_none() {
            thread::yield_now();
        }
        drop(in_turn);
        assert_eq!(told.recv_timeout(PATIENCE), Ok((1, Departure::Reset)));
    }

    #[test]
    fn who_has_left_before_is_told_by_the_time_of_catching_up() {
        let (departures, told) = watched();
        for number in 0..100 {
            let (client, mut server) = pair();
            departures.add(&server, number).expect("room");
            drop(client);
            assert_eq!(server.read(&mut [0]).expect("the end"), 0, "it has arrived");
            departures.catch_up();
            assert_eq!(told.try_recv(), Ok((number, Departure::Close)));
        }
    }

    #[test]
    fn a_socket_that_is_closed_here_is_told_to_nobody() {
        let (departures, told) = watched();
        let (client, server) = pair();
        departures.add(&server, 1).expect("room");
        drop(server);
        drop(client);
        departures.catch_up();
        assert!(told.try_recv().is_err());
    }
}
