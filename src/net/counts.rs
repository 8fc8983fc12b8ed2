//! What a server has done so far.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use tokio::sync::Semaphore;

/// Counts since the server was started. They are read while they change: two of them need not fit together.
#[derive(Debug, Default)]
pub struct Counts {
    accepted: AtomicU64,
    served: AtomicU64,
    lost: AtomicU64,
    bytes: AtomicU64,
    /// How many clients there is room for, and how much of it is free.
    room: OnceLock<(usize, Arc<Semaphore>)>,
}

impl Counts {
    /// Clients whose connections are open now, those among them that are just being closed politely.
    pub fn connected(&self) -> u64 {
        let taken = |(places, room): &(usize, Arc<Semaphore>)| places.saturating_sub(room.available_permits()) as u64;
        self.room.get().map_or(0, taken)
    }

    /// Clients accepted.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Relaxed)
    }

    /// Clients to whom everything was said, as far as the server knows.
    pub fn served(&self) -> u64 {
        self.served.load(Relaxed)
    }

    /// Clients that went away, or were given up.
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// Bytes that the kernel took for clients.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    pub(crate) fn accept(&self) {
        self.accepted.fetch_add(1, Relaxed);
    }

    /// A server has begun that has room for so many clients.
    pub(crate) fn watch(&self, places: usize, room: &Arc<Semaphore>) {
        let _ = self.room.set((places, Arc::clone(room)));
    }

    pub(crate) fn serve(&self) {
        self.served.fetch_add(1, Relaxed);
    }

    pub(crate) fn lose(&self, clients: u64) {
        self.lost.fetch_add(clients, Relaxed);
    }

    pub(crate) fn send(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }
}
