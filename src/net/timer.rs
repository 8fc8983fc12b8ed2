//! Clients who wait for a moment, not for their socket.
//!
//! A trickle is a long wait and a short send, again and again. To give each such client a task, a timer and a place in
//! the reactor costs more than a kilobyte; here it is an entry in a heap of a worker, in order of time, and the socket
//! meets the runtime only when it is full.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::net::TcpStream;
use std::pin::Pin;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::yield_now;
use tokio::time::{Sleep, sleep};

use super::accept::{Connections, Permit};
use super::{Handler, Peer, Progress};

/// Who waits longer is better off with a task: it notices that the client is gone, which here only a send does.
pub(crate) const LONGEST: Duration = Duration::from_secs(60);

/// Clients served before other tasks get their turn.
const BATCH: usize = 64;

/// A client who waits.
pub(crate) struct Waiting<R> {
    pub(crate) due: Instant,
    pub(crate) socket: TcpStream,
    pub(crate) peer: Peer,
    pub(crate) rest: R,
    pub(crate) permit: Permit,
}

impl<R> PartialEq for Waiting<R> {
    fn eq(&self, other: &Self) -> bool {
        self.due == other.due
    }
}

impl<R> Eq for Waiting<R> {}

impl<R> PartialOrd for Waiting<R> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<R> Ord for Waiting<R> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.due.cmp(&other.due)
    }
}

/// Those who wait on one worker.
pub(crate) struct Later<H: Handler> {
    connections: Connections<H>,
    waiting: BinaryHeap<Reverse<Waiting<H::Rest>>>,
    /// Of the first of them.
    timer: Pin<Box<Sleep>>,
}

impl<H: Handler> Later<H> {
    /// Nobody waits yet. To be called on the worker's runtime.
    pub(crate) fn new(connections: Connections<H>) -> Self {
        Self { connections, waiting: BinaryHeap::new(), timer: Box::pin(sleep(Duration::ZERO)) }
    }

    /// Goes on with each of them when it is due, until the door is closed; then all that are left get tasks.
    ///
    /// There are never more than the server has places, so the queue of `new` ones is not longer than that.
    pub(crate) async fn run(mut self, mut new: UnboundedReceiver<Waiting<H::Rest>>) {
        let closing = self.connections.stop.closing.clone();
        loop {
            if let Some(Reverse(first)) = self.waiting.peek()
                && self.timer.deadline() != first.due.into()
            {
                self.timer.as_mut().reset(first.due.into());
            }
            tokio::select! {
                biased;
                () = closing.cancelled() => break,
                client = new.recv() => self.waiting.extend(client.map(Reverse)),
                () = &mut self.timer, if !self.waiting.is_empty() => self.resume_due().await,
            }
        }
        new.close();
        while let Some(client) = new.recv().await {
            self.waiting.push(Reverse(client));
        }
        for Reverse(Waiting { socket, peer, rest, permit, .. }) in self.waiting.drain() {
            self.connections.go_on(socket, peer, Progress::Rest(rest), permit);
        }
    }

    async fn resume_due(&mut self) {
        let now = Instant::now();
        let mut resumed = 0;
        while self.waiting.peek().is_some_and(|Reverse(first)| first.due <= now) {
            let Some(Reverse(client)) = self.waiting.pop() else { return };
            self.resume(client);
            resumed += 1;
            if resumed % BATCH == 0 {
                yield_now().await;
            }
        }
    }

    fn resume(&mut self, client: Waiting<H::Rest>) {
        let Waiting { socket, peer, rest, permit, .. } = client;
        match self.connections.shared.handler.on_timer(&socket, rest) {
            Ok(Progress::Later(due, rest)) => self.waiting.push(Reverse(Waiting { due, socket, peer, rest, permit })),
            Ok(left) => self.connections.go_on(socket, peer, left, permit),
            Err(error) => self.connections.shared.lose_under_way(peer, &error),
        }
    }
}
