//! Connections that wait for a moment, not for their socket: a heap in order of time, and one timer.
//!
//! A trickle is a long wait and a short send, again and again. A task, a timer and an entry in the reactor for each such
//! connection cost more than a kilobyte; an entry in a worker's heap costs a fraction, and the socket is registered with
//! the runtime only when it is full.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::pin::Pin;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::yield_now;
use tokio::time::{Sleep, sleep};

use super::connections::{Connections, Waiting};
use super::handler::FastPath;

/// Connections resumed before other tasks get their turn.
const BATCH: usize = 64;

impl<S> PartialEq for Waiting<S> {
    fn eq(&self, other: &Self) -> bool {
        self.due == other.due
    }
}

impl<S> Eq for Waiting<S> {}

impl<S> PartialOrd for Waiting<S> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<S> Ord for Waiting<S> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.due.cmp(&other.due)
    }
}

/// The connections of one worker that wait.
pub(super) struct Timer<H: FastPath> {
    connections: Connections<H>,
    waiting: BinaryHeap<Reverse<Waiting<H::State>>>,
    /// Of the first of them.
    sleep: Pin<Box<Sleep>>,
}

impl<H: FastPath> Timer<H> {
    /// No connection waits yet. To be called on the worker's runtime.
    pub(super) fn new(connections: Connections<H>) -> Self {
        Self { connections, waiting: BinaryHeap::new(), sleep: Box::pin(sleep(Duration::ZERO)) }
    }

    /// Resumes each when it is due, until the server is asked to stop; then all that are left get tasks.
    ///
    /// There are never more than the server has permits, so the queue of `new` ones is not longer than that.
    pub(super) async fn run(mut self, mut new: UnboundedReceiver<Waiting<H::State>>) {
        let stop = self.connections.engine().stop.clone();
        loop {
            if let Some(Reverse(first)) = self.waiting.peek()
                && self.sleep.deadline() != first.due.into()
            {
                self.sleep.as_mut().reset(first.due.into());
            }
            tokio::select! {
                biased;
                () = stop.closing() => break,
                waiting = new.recv() => self.waiting.extend(waiting.map(Reverse)),
                () = &mut self.sleep, if !self.waiting.is_empty() => self.resume_due().await,
            }
        }
        new.close();
        while let Some(waiting) = new.recv().await {
            self.waiting.push(Reverse(waiting));
        }
        for Reverse(waiting) in self.waiting.drain() {
            self.connections.finish(waiting);
        }
    }

    async fn resume_due(&mut self) {
        let now = Instant::now();
        let mut resumed = 0;
        while self.waiting.peek().is_some_and(|Reverse(first)| first.due <= now) {
            let Some(Reverse(Waiting { accepted, state, .. })) = self.waiting.pop() else { return };
            self.waiting.extend(self.connections.resume(accepted, state).map(Reverse));
            resumed += 1;
            if resumed % BATCH == 0 {
                yield_now().await;
            }
        }
    }
}
