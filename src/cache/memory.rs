//! One bound for the memory of all that a cache holds: what is under way, what is kept, and what was kept and is still
//! being read.
//!
//! ```text
//!   ├──────── bytes of flights and of kept values: asked for, and perhaps denied ────────┤─ a quarter ─┤
//!                                                                        only for flights to begin with
//! ```
//!
//! A flight begins with a small [`Claim`], for which it waits; with that alone it can go on to its end. It asks for more
//! as its buffer grows, and if it gets none, its bytes pass through instead of being kept. So who holds much memory, and
//! for how long, decides what is kept, and never who is served; and when even the beginnings are used up, there is one
//! flight that waits, and all who come meanwhile share it.

use std::sync::Arc;

use tokio::sync::Semaphore;

/// What a fetch hands on at once is not longer.
pub const PIECE: usize = 64 * 1024;

/// What a flight begins with: a piece that is being read, and one that is handed on.
const BEGINNING: usize = 2 * PIECE;

/// So many bytes, for everybody. Clones are the same memory.
#[derive(Debug, Clone)]
pub struct Memory {
    size: usize,
    /// A permit for each free byte.
    free: Arc<Semaphore>,
}

/// A part of the memory, which is given back when it is dropped.
#[derive(Debug)]
pub struct Claim {
    memory: Memory,
    bytes: usize,
}

/// Bytes that are kept: in the memory once, however many read them. A clone is another handle to the same bytes.
#[derive(Debug, Clone)]
pub struct Kept(Arc<(Vec<u8>, Option<Claim>)>);

impl Memory {
    /// Memory of so many bytes; it has always enough for one flight.
    pub fn new(size: usize) -> Self {
        let size = size.clamp(BEGINNING, Semaphore::MAX_PERMITS);
        Self { size, free: Arc::new(Semaphore::new(size)) }
    }

    /// The longest value that may be kept: there is room for one, and for the one that takes its place.
    pub fn longest(&self) -> usize {
        self.size / 3
    }

    /// Bytes that are in use, or are not free to others.
    pub fn used(&self) -> usize {
        self.size.saturating_sub(self.free.available_permits())
    }

    /// Waits for what a flight needs to begin. Whoever asks first gets it first.
    pub async fn begin(&self) -> Claim {
        let count = u32::try_from(BEGINNING).unwrap_or(u32::MAX);
        self.free.acquire_many(count).await.expect("the semaphore is never closed").forget();
        Claim { memory: self.clone(), bytes: BEGINNING }
    }
}

impl Claim {
    /// Claims what a flight with so many bytes in its buffer needs, more or less than before. False: that is not to be
    /// had, and nothing has changed.
    pub(super) fn set(&mut self, buffered: usize) -> bool {
        let bytes = buffered.saturating_add(PIECE).max(BEGINNING);
        let more = bytes.saturating_sub(self.bytes);
        if more > 0 {
            let Memory { size, free } = &self.memory;
            // Two that ask at the same moment may both get what is there for one: then a beginning has to wait.
            let is_left = free.available_permits().saturating_sub(more) >= size / 4;
            match u32::try_from(more).ok().filter(|_| is_left).and_then(|more| free.try_acquire_many(more).ok()) {
                Some(permits) => permits.forget(),
                None => return false,
            }
            self.bytes = bytes;
        } else {
            self.release_to(bytes);
        }
        true
    }

    fn release_to(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(bytes);
        self.bytes -= less;
        self.memory.free.add_permits(less);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.release_to(0);
    }
}

impl Kept {
    /// Bytes to be kept, and the claim of the flight that brought them.
    pub(super) fn new(bytes: Vec<u8>, mut claim: Option<Claim>) -> Self {
        if let Some(claim) = &mut claim {
            claim.release_to(bytes.len());
        }
        Self(Arc::new((bytes, claim)))
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::task::{Context, Poll, Waker};

    const MIB: usize = 1 << 20;

    fn poll<F: Future>(future: F) -> Poll<F::Output> {
        Box::pin(future).as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }

    fn begin(memory: &Memory) -> Claim {
        match poll(memory.begin()) {
            Poll::Ready(claim) => claim,
            Poll::Pending => panic!("no memory"),
        }
    }

    #[test]
    fn a_claim_grows_and_shrinks_and_all_of_it_comes_back() {
        let memory = Memory::new(4 * MIB);
        let mut claim = begin(&memory);
        assert_eq!(memory.used(), BEGINNING);
        for buffered in [0, 10, MIB, 2 * MIB, MIB / 2, 0] {
            assert!(claim.set(buffered));
            assert_eq!(memory.used(), (buffered + PIECE).max(BEGINNING));
        }
        drop(claim);
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn the_last_quarter_is_for_those_who_begin() {
        let memory = Memory::new(4 * MIB);
        let mut greedy = begin(&memory);
        assert!(!greedy.set(3 * MIB), "that and a piece is more than three quarters");
        assert!(greedy.set(3 * MIB - PIECE));
        let mut others: Vec<Claim> = (0..MIB / BEGINNING).map(|_| begin(&memory)).collect();
        assert_eq!(memory.used(), 4 * MIB);
        assert!(!others[0].set(BEGINNING), "it has what it needs, and no more");
        assert!(poll(memory.begin()).is_pending());
        drop(others.pop());
        begin(&memory);
    }

    #[test]
    fn there_is_always_enough_for_one() {
        let memory = Memory::new(1);
        let mut only = begin(&memory);
        assert!(only.set(PIECE) && !only.set(PIECE + 1));
        assert!(poll(memory.begin()).is_pending());
    }

    #[test]
    fn what_is_kept_is_claimed_until_the_last_one_has_read_it() {
        let memory = Memory::new(4 * MIB);
        let kept = Kept::new(vec![0; 10], Some(begin(&memory)));
        assert_eq!(memory.used(), 10);
        let reader = kept.clone();
        drop(kept);
        assert_eq!((memory.used(), reader.bytes().len()), (10, 10));
        drop(reader);
        assert_eq!(memory.used(), 0);
    }
}
