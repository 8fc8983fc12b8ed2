//! Connections to upstreams that wait for another request. Who takes one saves a handshake, and has to reckon with an
//! upstream that closes it at that very moment (RFC 9112, section 9.3.1).

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

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
            tokio::time::sleep(LOOK).await;
            let mut state = lock(&self.0);
            state.waiting.retain(|kept| kept.since.elapsed() < KEPT_FOR && kept.is_silent());
            if state.waiting.is_empty() {
                state.is_watched = false;
                return;
            }
        }
    }
}
