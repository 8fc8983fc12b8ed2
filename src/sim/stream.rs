//! A stream that poems are written to, of which only the cost is there: what each write takes, and what waits for its turn.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::queue::Nanos;
use super::{Clock, Costs};
use crate::client::{Order, Sink};

/// The time that the writes to a stream have taken.
#[derive(Debug, Default)]
pub(super) struct Stream {
    taken: AtomicU64,
    /// Of that, what nobody has spent yet.
    unspent: AtomicU64,
}

impl Stream {
    /// A sink of so many poems that writes them to such a stream.
    pub(super) fn sink(order: Order, poems: usize, costs: &Costs) -> (Sink, Arc<Self>) {
        let stream = Arc::new(Self::default());
        let writer = Writer { stream: Arc::clone(&stream), write: costs.write, copy_kib: costs.copy_kib };
        let its = Arc::clone(&stream);
        let clock = move || Duration::from_nanos(its.taken.load(Relaxed));
        (Sink::timed_stream(Box::new(writer), order, poems, Box::new(clock)), stream)
    }

    /// What the writes have taken since the last time is spent on this clock.
    pub(super) fn spend(&self, clock: &mut Clock) {
        clock.spend(self.unspent.swap(0, Relaxed));
    }
}

struct Writer {
    stream: Arc<Stream>,
    write: Nanos,
    copy_kib: Nanos,
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let time = (bytes.len() as u64).saturating_mul(self.copy_kib) / 1_024 + self.write;
        self.stream.taken.fetch_add(time, Relaxed);
        self.stream.unspent.fetch_add(time, Relaxed);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
