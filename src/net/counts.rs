//! What a server has done so far, and how many connections it may have at once.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::descriptors::{Descriptors, Opens};
use super::stays::{Stay, Stays};

/// The right of one connection to be open, from accept(2) to close(2).
#[derive(Debug)]
pub(super) struct Permit {
    counts: Arc<Counts>,
    /// Boxed: only few servers want to know it.
    stay: Option<Box<Stay>>,
}

impl Permit {
    /// The connection that has the permit is accepted now.
    pub(super) fn begin_stay(&mut self, socket: impl AsFd) {
        self.stay = self.counts.begin_stay(socket).map(Box::new);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        drop(self.stay.take());
        let counts = &self.counts;
        counts.permits.add_permits(1);
        counts.descriptors.give(counts.opens);
    }
}

/// Counters of a server since its start. They are read while they change: two of them need not fit together.
#[derive(Debug)]
pub struct Counts {
    accepted: AtomicU64,
    served: AtomicU64,
    lost: AtomicU64,
    /// Connections that have a task or a timer, and on which not everything is said.
    under_way: AtomicU64,
    bytes: AtomicU64,
    max: usize,
    permits: Semaphore,
    descriptors: Descriptors,
    /// What a connection needs of them.
    opens: Opens,
    /// If somebody wants to know.
    stays: OnceLock<Arc<Stays>>,
}

impl Default for Counts {
    /// Zeros, for a server that accepts no connections.
    fn default() -> Self {
        Self::new(0, Descriptors::default(), Opens::default())
    }
}

impl Counts {
    /// Zeros, for a server of at most `max` connections at once, or as many as there are descriptors.
    pub(super) fn new(max: usize, descriptors: Descriptors, opens: Opens) -> Self {
        let max = max.min(Semaphore::MAX_PERMITS);
        Self {
            accepted: AtomicU64::new(0),
            served: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            under_way: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            max,
            permits: Semaphore::new(max),
            descriptors,
            opens,
            stays: OnceLock::new(),
        }
    }

    /// Connections open now, those that are being closed politely among them.
    pub fn connected(&self) -> u64 {
        self.max.saturating_sub(self.permits.available_permits()) as u64
    }

    /// Connections accepted.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Relaxed)
    }

    /// Connections on which everything was said, as far as the server knows.
    pub fn served(&self) -> u64 {
        self.served.load(Relaxed)
    }

    /// Connections that broke, or were given up.
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// Bytes that the kernel took for peers.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Notes from now on how long peers stay. To be called once, before the first one comes.
    ///
    /// # Errors
    /// The system gives no thread or no descriptor.
    pub fn note_stays(&self) -> io::Result<Arc<Stays>> {
        let stays = Stays::start()?;
        Ok(Arc::clone(self.stays.get_or_init(|| stays)))
    }

    /// The longest time from the accept of a connection to when its peer closed or reset it, or else to its end. `None`:
    /// nobody has gone yet, or it is not [noted](Self::note_stays).
    pub fn longest_stay(&self) -> Option<Duration> {
        self.stays.get()?.longest()
    }

    /// A connection is accepted now; its stay is noted, if that is asked for.
    pub(crate) fn begin_stay(&self, socket: impl AsFd) -> Option<Stay> {
        self.stays.get().map(|stays| stays.begin(socket))
    }

    /// A permit, if there is one.
    pub(super) fn try_permit(self: &Arc<Self>) -> Option<Permit> {
        let permit = self.permits.try_acquire().ok()?;
        if let Some(descriptors) = self.descriptors.try_take(self.opens)? {
            descriptors.forget();
        }
        permit.forget();
        Some(Permit { counts: Arc::clone(self), stay: None })
    }

    /// A permit, when there is one.
    pub(super) async fn permit(self: &Arc<Self>) -> Permit {
        let permit = self.permits.acquire().await.expect("the semaphore is never closed");
        if let Some(descriptors) = self.descriptors.take(self.opens).await {
            descriptors.forget();
        }
        permit.forget();
        Permit { counts: Arc::clone(self), stay: None }
    }

    pub(crate) fn accept(&self) {
        self.accepted.fetch_add(1, Relaxed);
    }

    pub(crate) fn serve(&self) {
        self.served.fetch_add(1, Relaxed);
    }

    pub(crate) fn lose(&self) {
        self.lost.fetch_add(1, Relaxed);
    }

    pub(crate) fn send(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// A connection gets a task or a timer.
    pub(super) fn begin(&self) {
        self.under_way.fetch_add(1, Relaxed);
    }

    /// Such a connection is served or lost now.
    pub(super) fn end(&self) {
        self.under_way.fetch_sub(1, Relaxed);
    }

    /// The server has ended: connections still under way were reset. Returns how many.
    pub(super) fn lose_under_way(&self) -> u64 {
        let reset = self.under_way.swap(0, Relaxed);
        self.lost.fetch_add(reset, Relaxed);
        reset
    }
}
