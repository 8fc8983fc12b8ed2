//! How long peers stay: from accept(2) to the FIN or RST of each, or else to the end of the connection.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::departures::Departures;
use crate::sync::lock;

/// The stays of all peers of a server.
#[derive(Debug, Default)]
pub struct Stays {
    departures: OnceLock<Arc<Departures>>,
    /// Who is there, by number, and since when.
    present: Mutex<HashMap<u64, Instant>>,
    /// Somebody has left.
    left: Condvar,
    /// Those who came so far.
    came: AtomicU64,
    /// Those who are gone.
    gone: AtomicU64,
    /// In nanoseconds.
    longest: AtomicU64,
}

/// The stay of one peer. Dropped with the connection: if the peer had not left by then, it ends.
#[derive(Debug)]
pub(crate) struct Stay {
    number: u64,
    stays: Arc<Stays>,
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.stays.leave(self.number);
    }
}

impl Stays {
    /// Nobody is there yet. Starts the thread that watches.
    ///
    /// # Errors
    /// The system gives no thread or no descriptor.
    pub(super) fn start() -> io::Result<Arc<Self>> {
        let stays = Arc::<Self>::default();
        let watched = Arc::downgrade(&stays);
        let departures = Departures::watch("stays", move |number, _| {
            if let Some(stays) = watched.upgrade() {
                stays.leave(number);
            }
        })?;
        let _ = stays.departures.set(departures);
        Ok(stays)
    }

    /// A peer is accepted now.
    pub(super) fn begin(self: &Arc<Self>, socket: impl AsFd) -> Stay {
        let number = self.came.fetch_add(1, Relaxed);
        lock(&self.present).insert(number, Instant::now());
        if let Some(departures) = self.departures.get() {
            // If there is no room in the set, the end of the connection is taken for the end of the stay.
            let _ = departures.add(socket, number);
        }
        Stay { number, stays: Arc::clone(self) }
    }

    /// The longest stay of those who are gone, if there are any.
    pub(super) fn longest(&self) -> Option<Duration> {
        (self.gone.load(Relaxed) > 0).then(|| Duration::from_nanos(self.longest.load(Relaxed)))
    }

    /// Waits until nobody is there, at most for the time `limit`, and returns whether that is so.
    pub fn wait_until_empty(&self, limit: Duration) -> bool {
        let wait = self.left.wait_timeout_while(lock(&self.present), limit, |present| !present.is_empty());
        wait.unwrap_or_else(PoisonError::into_inner).0.is_empty()
    }

    /// A peer leaves now, if it has not left before.
    fn leave(&self, number: u64) {
        // Held: whoever sees that nobody is there sees how long they stayed.
        let mut present = lock(&self.present);
        let Some(since) = present.remove(&number) else { return };
        let stay = since.elapsed().as_nanos().try_into().unwrap_or(u64::MAX);
        self.longest.fetch_max(stay, Relaxed);
        self.gone.fetch_add(1, Relaxed);
        drop(present);
        self.left.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::thread;

    use super::*;

    /// Nothing here takes so long.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// The two sides of a connection.
    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("a server");
        (client, listener.accept().expect("a client").0)
    }

    fn await_gone(stays: &Stays, count: u64) {
        let until = Instant::now() + PATIENCE;
        while stays.gone.load(Relaxed) < count {
            assert!(Instant::now() < until, "nobody has seen it");
            thread::yield_now();
        }
    }

    #[test]
    fn a_peer_that_closes_or_resets_has_left_although_the_server_does_nothing() {
        for ends in [
            |client: TcpStream| drop(client),
            |client: TcpStream| {
                socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("linger");
            },
        ] {
            let stays = Stays::start().expect("a thread");
            assert_eq!(stays.longest(), None);
            let (client, mut server) = pair();
            let stay = stays.begin(&server);
            server.write_all(b"half a poem").expect("written");
            assert_eq!(stays.longest(), None, "it is there");
            assert!(!stays.wait_until_empty(Duration::ZERO));
            ends(client);
            assert!(stays.wait_until_empty(PATIENCE));
            let longest = stays.longest();
            assert!(longest.is_some_and(|longest| longest < PATIENCE), "{longest:?}");
            thread::sleep(Duration::from_millis(2));
            drop(stay);
            assert_eq!(stays.longest(), longest, "it left once");
        }
    }

    #[test]
    fn of_several_the_longest_stay_counts_and_a_connection_that_the_server_ends_is_one() {
        let stays = Stays::start().expect("a thread");
        let (client, server) = pair();
        let (_other, also) = pair();
        let (first, second) = (stays.begin(&server), stays.begin(&also));
        client.shutdown(Shutdown::Write).expect("shut down");
        await_gone(&stays, 1);
        let short = stays.longest().expect("one");
        drop(also);
        assert_eq!(stays.longest(), Some(short), "nobody has told of it");
        thread::sleep(Duration::from_millis(2));
        drop((first, second));
        assert!(stays.longest().is_some_and(|longest| longest > short));
        assert_eq!(stays.gone.load(Relaxed), 2);
    }
}
