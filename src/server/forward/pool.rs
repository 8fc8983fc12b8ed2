//! Connections to upstreams that wait for another request. Who takes one saves a handshake, and has to reckon with an
//! upstream that closes it at that very moment (RFC 9112, section 9.3.1).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::address::Address;
use crate::net::relay::Upstream;
use crate::sync::lock;

/// The most that wait, of all upstreams together. One more closes the oldest.
pub(super) const MOST: u32 = 64;

/// For so long one waits.
const KEPT_FOR: Duration = Duration::from_secs(15);

/// How often is looked which ones are to be closed.
const LOOK: Duration = Duration::from_secs(1);

/// The connections that wait.
#[derive(Debug, Default)]
pub(super) struct Pool(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The one that waits longest is the first.
    waiting: Vec<Kept>,
    /// Whether somebody looks which ones are to be closed.
    is_watched: bool,
}

/// A connection, and to whom.
#[derive(Debug)]
struct Kept {
    to: Address,
    upstream: Upstream,
    since: Instant,
}

impl Kept {
    /// Whether upstream has neither closed it, nor said something that nobody asked for.
    fn is_silent(&self) -> bool {
        matches!(self.upstream.try_read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    }
}

impl Pool {
    /// The connection to this upstream that was used last.
    pub(super) fn take(&self, to: &Address) -> Option<Upstream> {
        let waiting = &mut lock(&self.0).waiting;
        while let Some(place) = waiting.iter().rposition(|kept| kept.to == *to) {
            let kept = waiting.remove(place);
            if kept.is_silent() {
                return Some(kept.upstream.begin());
            }
        }
        None
    }

    /// Keeps one for the next request.
    pub(super) fn put(self: &Arc<Self>, to: &Address, mut upstream: Upstream) {
        upstream.rest();
        let kept = Kept { to: to.clone(), upstream, since: Instant::now() };
        let mut state = lock(&self.0);
        if state.waiting.len() == MOST as usize {
            state.waiting.remove(0);
        }
        state.waiting.push(kept);
        if !std::mem::replace(&mut state.is_watched, true) {
            tokio::spawn(Arc::clone(self).watch());
        }
    }

    /// Closes those that have waited too long, and those that upstream has closed, until there are no more.
    async fn watch(self: Arc<Self>) {
        loop {
            sleep(LOOK).await;
            let mut state = lock(&self.0);
            state.waiting.retain(|kept| kept.since.elapsed() < KEPT_FOR && kept.is_silent());
            if state.waiting.is_empty() {
                state.is_watched = false;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use tokio::runtime::Builder;

    use super::*;

    /// Whether a connection is still there, as its peer sees it.
    fn is_open(peer: &mut TcpStream) -> bool {
        peer.set_nonblocking(true).expect("set");
        peer.read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    }

    #[test]
    fn so_many_wait_and_for_so_long() {
        let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime");
        runtime.block_on(async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
            let at = listener.local_addr().expect("bound");
            let (here, elsewhere): (Address, Address) =
                (at.to_string().parse().expect("an address"), "localhost:1".parse().expect("an address"));
            let pool = Arc::new(Pool::default());
            let mut peers = Vec::new();
            for _ in 0..=MOST {
                let stream = TcpStream::connect(at).expect("a listener");
                stream.set_nonblocking(true).expect("set");
                peers.push(listener.accept().expect("a client").0);
                let stream = tokio::net::TcpStream::from_std(stream).expect("a runtime");
                pool.put(&here, Upstream::new(stream));
            }
            assert!(!is_open(&mut peers[0]), "the oldest made room");
            assert!(peers[1..].iter_mut().all(is_open));
            assert!(pool.take(&elsewhere).is_none());
            let _taken = pool.take(&here).expect("many wait");
            // What upstream has closed is found before its time.
            drop(peers.pop());
            drop(peers.remove(1));
            sleep(2 * LOOK).await;
            assert_eq!(lock(&pool.0).waiting.len(), MOST as usize - 2);
            sleep(KEPT_FOR).await;
            assert!(lock(&pool.0).waiting.is_empty() && !lock(&pool.0).is_watched);
            assert!(!peers.iter_mut().any(is_open), "closed");
        });
    }
}
