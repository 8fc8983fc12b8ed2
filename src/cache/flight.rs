//! Single flight: many askers, one fetch, live to all.
//!
//! ```text
//!                                    ╭──▶ reader: all from the start, at its own pace
//!   fetch ──▶ Writer ──▶ one buffer ─┼──▶ reader
//!     ▲                              ╰──▶ reader: came late, gets at once what is here, then the rest as it comes
//!     ╰────── abandoned: the last reader has left
//! ```
//!
//! The fetch is a task of its own and belongs to nobody. A [`Reader`] is a place in the one growing buffer, and a
//! guard: to drop it is to leave, and when the last one leaves the fetch is told so ([`Writer::abandoned`]) and nobody
//! can join any more.
//!
//! The buffer keeps every byte up to its limit, for those who come late and for a cache. A longer poem passes through:
//! what every reader has had is dropped, and the fetch waits for the slowest of them.
//!
//! Nothing here knows of sockets, and no lock is held across an await.

use std::collections::BTreeMap;
use std::mem;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::Notify;

use crate::poem::Poem;

/// One fetch under way, for those who want to join it.
#[derive(Debug)]
pub struct Flight<E>(Arc<Shared<E>>);

/// What the fetch does with what it gets. To drop it is to fail without a reason.
#[derive(Debug)]
pub struct Writer<E>(Arc<Shared<E>>);

/// One of those who share the fetch.
#[derive(Debug)]
pub struct Reader<E> {
    shared: Arc<Shared<E>>,
    number: u64,
    /// Bytes taken so far.
    taken: Arc<AtomicU64>,
}

/// What a reader can go on with.
#[derive(Debug, PartialEq, Eq)]
pub enum Readable<E> {
    /// There are bytes to [`take`](Reader::take).
    Bytes,
    /// The poem is whole, and all of it taken.
    End,
    /// The fetch has failed: what was taken is not a poem. `None`: it ended without a reason.
    Failed(Option<E>),
}

#[derive(Debug)]
struct Shared<E> {
    state: RwLock<State<E>>,
    /// The most bytes that are kept.
    limit: usize,
    /// Whether the fetch goes on when nobody reads.
    unattended: bool,
    /// There is something new for readers.
    progress: Notify,
    /// There is something new for the writer: a reader has taken something, or has left.
    room: Notify,
    /// Whether the writer waits for room.
    is_full: AtomicBool,
}

#[derive(Debug)]
struct State<E> {
    buffer: Buffer,
    /// Bytes that have passed through, and are no longer in the buffer.
    dropped: u64,
    /// What each reader has taken.
    readers: BTreeMap<u64, Arc<AtomicU64>>,
    /// Readers that ever joined.
    joined: u64,
    end: Option<End<E>>,
}

#[derive(Debug)]
enum Buffer {
    Growing(Vec<u8>),
    Whole(Poem),
}

#[derive(Debug)]
enum End<E> {
    Landed,
    Failed(Option<E>),
    /// Every reader had left.
    Abandoned,
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Growing(bytes) => bytes,
            Self::Whole(poem) => poem.bytes(),
        }
    }
}

impl<E> Shared<E> {
    fn read(&self) -> RwLockReadGuard<'_, State<E>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State<E>> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, end: End<E>) {
        self.write().end.get_or_insert(end);
        self.progress.notify_waiters();
    }
}

impl<E> State<E> {
    /// Makes room by dropping what all readers have taken, unless that is so little that moving the rest would cost
    /// more than it gains.
    fn drop_taken(&mut self, slowest: u64) {
        let Buffer::Growing(bytes) = &mut self.buffer else { return };
        let taken = usize::try_from(slowest - self.dropped).unwrap_or(usize::MAX).min(bytes.len());
        if taken >= bytes.len() / 2 {
            bytes.drain(..taken);
            self.dropped += taken as u64;
        }
    }
}

impl<E> Flight<E> {
    /// A flight that keeps at most `limit` bytes. If it is `unattended`, it goes on when nobody reads, as long as its
    /// bytes can be kept.
    pub fn new(limit: usize, unattended: bool) -> (Self, Writer<E>) {
        let state =
            State { buffer: Buffer::Growing(Vec::new()), dropped: 0, readers: BTreeMap::new(), joined: 0, end: None };
        let shared = Arc::new(Shared {
            state: RwLock::new(state),
            limit,
            unattended,
            progress: Notify::new(),
            room: Notify::new(),
            is_full: AtomicBool::new(false),
        });
        (Self(Arc::clone(&shared)), Writer(shared))
    }

    /// A [`new`](Self::new) flight with its first reader.
    pub fn with_reader(limit: usize, unattended: bool) -> (Self, Writer<E>, Reader<E>) {
        let (flight, writer) = Self::new(limit, unattended);
        let reader = flight.admit(&mut flight.0.write());
        (flight, writer, reader)
    }

    /// A reader from the first byte on; `None` if that is no longer to be had: the flight has failed, was abandoned, or
    /// has let bytes pass through.
    pub fn join(&self) -> Option<Reader<E>> {
        let mut state = self.0.write();
        if state.dropped > 0 || matches!(state.end, Some(End::Failed(_) | End::Abandoned)) {
            return None;
        }
        Some(self.admit(&mut state))
    }

    fn admit(&self, state: &mut State<E>) -> Reader<E> {
        let (number, taken) = (state.joined, Arc::new(AtomicU64::new(0)));
        state.joined += 1;
        state.readers.insert(number, Arc::clone(&taken));
        Reader { shared: Arc::clone(&self.0), number, taken }
    }

    /// Whether this writer writes for this flight.
    pub fn is_by(&self, writer: &Writer<E>) -> bool {
        Arc::ptr_eq(&self.0, &writer.0)
    }

    /// Whether it has come to an end, good or bad.
    pub fn is_over(&self) -> bool {
        self.0.read().end.is_some()
    }
}

impl<E> Writer<E> {
    /// Hands on what the fetch got. False: nobody wants it any more.
    pub async fn append(&self, bytes: &[u8]) -> bool {
        loop {
            {
                let mut state = self.0.write();
                if state.end.is_some() {
                    return false;
                }
                let fits =
                    |state: &State<E>| state.buffer.is_empty() || state.buffer.len() + bytes.len() <= self.0.limit;
                if !fits(&state) {
                    match state.readers.values().map(|taken| taken.load(Ordering::Acquire)).min() {
                        Some(slowest) => state.drop_taken(slowest),
                        None => return false,
                    }
                }
                self.0.is_full.store(!fits(&state), Ordering::Release);
                if fits(&state) {
                    if let Buffer::Growing(buffer) = &mut state.buffer {
                        buffer.extend_from_slice(bytes);
                    }
                    drop(state);
                    self.0.progress.notify_waiters();
                    return true;
                }
            }
            self.0.room.notified().await;
        }
    }

    /// Returns when the last reader has left.
    pub async fn abandoned(&self) {
        while !matches!(self.0.read().end, Some(End::Abandoned)) {
            self.0.room.notified().await;
        }
    }

    /// The fetch has come to its good end. Returns the poem, if all of it was kept.
    pub fn land(&self) -> Option<Poem> {
        let mut state = self.0.write();
        state.end.get_or_insert(End::Landed);
        let nothing_dropped = state.dropped == 0;
        let whole = match &mut state.buffer {
            Buffer::Growing(bytes) if nothing_dropped => {
                bytes.shrink_to_fit();
                Some(Poem::from(mem::take(bytes)))
            }
            _ => None,
        };
        if let Some(poem) = &whole {
            state.buffer = Buffer::Whole(poem.clone());
        }
        drop(state);
        self.0.progress.notify_waiters();
        whole
    }

    /// The fetch has failed.
    pub fn fail(&self, why: E) {
        self.0.end(End::Failed(Some(why)));
    }

    /// How many ever shared it.
    pub fn joined(&self) -> u64 {
        self.0.read().joined
    }
}

impl<E> Drop for Writer<E> {
    fn drop(&mut self) {
        self.0.end(End::Failed(None));
    }
}

impl<E: Clone> Reader<E> {
    /// Waits until there is something to go on with.
    pub async fn next(&self) -> Readable<E> {
        loop {
            // Made before the look: what changes after the look is not missed.
            let progress = self.shared.progress.notified();
            {
                let state = self.shared.read();
                let unseen = state.dropped + state.buffer.len() as u64 > self.taken();
                match &state.end {
                    Some(End::Failed(why)) => return Readable::Failed(why.clone()),
                    Some(End::Abandoned) => return Readable::Failed(None),
                    _ if unseen => return Readable::Bytes,
                    Some(End::Landed) => return Readable::End,
                    None => {}
                }
            }
            progress.await;
        }
    }
}

impl<E> Reader<E> {
    /// Shows `taker` the bytes that are here and not taken yet, and whether they are the last; it returns how many of
    /// them it takes. It must not wait: the fetch does until it returns.
    ///
    /// # Errors
    /// Those of `taker`, which then has taken nothing.
    pub fn take<T>(&self, taker: impl FnOnce(&[u8], bool) -> Result<usize, T>) -> Result<usize, T> {
        let state = self.shared.read();
        let start = usize::try_from(self.taken() - state.dropped).unwrap_or(usize::MAX);
        let taken = taker(&state.buffer[start.min(state.buffer.len())..], matches!(state.end, Some(End::Landed)))?;
        self.taken.fetch_add(taken as u64, Ordering::Release);
        drop(state);
        if self.shared.is_full.load(Ordering::Acquire) {
            self.shared.room.notify_one();
        }
        Ok(taken)
    }

    /// Bytes taken so far.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Acquire)
    }

    /// How many ever shared the fetch.
    pub fn joined(&self) -> u64 {
        self.shared.read().joined
    }
}

impl<E> Drop for Reader<E> {
    fn drop(&mut self) {
        let mut state = self.shared.write();
        state.readers.remove(&self.number);
        if state.readers.is_empty() && !self.shared.unattended {
            state.end.get_or_insert(End::Abandoned);
        }
        drop(state);
        self.shared.room.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::convert::Infallible;
    use std::future::Future;
    use std::time::Duration;
    use tokio::runtime::Builder;
    use tokio::task::JoinHandle;
    use tokio::time::{sleep, timeout};

    type Why = &'static str;

    /// Runs on one thread with a clock that jumps whenever everybody waits.
    fn run<F: Future>(test: F) -> F::Output {
        Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime").block_on(test)
    }

    fn flight(limit: usize) -> (Flight<Why>, Writer<Why>) {
        Flight::new(limit, false)
    }

    /// Takes at most so many bytes.
    fn take(reader: &Reader<Why>, most: usize) -> Vec<u8> {
        let mut taken = Vec::new();
        let take = |bytes: &[u8], _| {
            taken.extend_from_slice(&bytes[..bytes.len().min(most)]);
            Ok::<_, Infallible>(taken.len())
        };
        let n = reader.take(take).unwrap_or_else(|never| match never {});
        assert_eq!(n, taken.len());
        taken
    }

    /// Reads to the end, a few bytes at a time and with a pause after each.
    async fn read_out(reader: Reader<Why>, most: usize, pause: Duration) -> Result<Vec<u8>, Option<Why>> {
        let mut bytes = Vec::new();
        loop {
            match reader.next().await {
                Readable::Bytes => bytes.extend(take(&reader, most)),
                Readable::End => return Ok(bytes),
                Readable::Failed(why) => return Err(why),
            }
            sleep(pause).await;
        }
    }

    fn spawn_reader(reader: Reader<Why>, most: usize, millis: u64) -> JoinHandle<Result<Vec<u8>, Option<Why>>> {
        tokio::spawn(read_out(reader, most, Duration::from_millis(millis)))
    }

    #[test]
    fn everybody_gets_every_byte_whenever_they_came() {
        run(async {
            let (flight, writer) = flight(1_000);
            let first = spawn_reader(flight.join().expect("joined"), 1, 5);
            assert!(writer.append(b"one ").await);
            let second = spawn_reader(flight.join().expect("joined"), 100, 0);
            sleep(Duration::from_millis(7)).await;
            assert!(writer.append(b"two ").await);
            let third = flight.join().expect("joined");
            assert_eq!(take(&third, 100), b"one two ", "what is here is here at once");
            let third = spawn_reader(third, 100, 0);
            assert!(writer.append(b"three").await);
            let poem = writer.land().expect("kept");
            assert_eq!(poem.bytes(), b"one two three");
            let fourth = spawn_reader(flight.join().expect("joined"), 3, 1);
            assert_eq!(first.await.expect("done"), Ok(b"one two three".to_vec()));
            assert_eq!(second.await.expect("done"), Ok(b"one two three".to_vec()));
            assert_eq!(third.await.expect("done"), Ok(b"three".to_vec()));
            assert_eq!(fourth.await.expect("done"), Ok(b"one two three".to_vec()));
            assert_eq!(writer.joined(), 4);
        });
    }

    #[test]
    fn an_empty_poem_is_a_poem() {
        run(async {
            let (flight, writer) = flight(10);
            let reader = spawn_reader(flight.join().expect("joined"), 10, 0);
            assert_eq!(writer.land().expect("kept").bytes(), b"");
            assert_eq!(reader.await.expect("done"), Ok(Vec::new()));
        });
    }

    #[test]
    fn the_last_one_out_cancels() {
        run(async {
            let (flight, writer) = flight(10);
            let (first, second) = (flight.join().expect("joined"), flight.join().expect("joined"));
            drop(first);
            assert!(timeout(Duration::from_secs(1), writer.abandoned()).await.is_err(), "one is left");
            assert!(writer.append(b"on ").await);
            drop(second);
            writer.abandoned().await;
            assert!(!writer.append(b"and on").await);
            assert!(flight.join().is_none(), "too late");
            assert!(flight.is_over());
        });
    }

    #[test]
    fn to_leave_after_the_end_cancels_nothing() {
        run(async {
            let (flight, writer) = flight(10);
            let reader = flight.join().expect("joined");
            assert!(writer.append(b"poem").await);
            assert!(writer.land().is_some());
            drop(reader);
            assert_eq!(read_out(flight.join().expect("joined"), 10, Duration::ZERO).await, Ok(b"poem".to_vec()));
        });
    }

    #[test]
    fn unattended_it_goes_on() {
        run(async {
            let (flight, writer) = Flight::<Why>::new(10, true);
            drop(flight.join());
            assert!(writer.append(b"poem").await);
            assert_eq!(writer.land().expect("kept").bytes(), b"poem");
            let (_flight, writer) = Flight::<Why>::new(10, true);
            assert!(writer.append(b"0123456789").await);
            assert!(!writer.append(b"too long to be kept, and nobody reads it").await);
        });
    }

    #[test]
    fn a_failure_reaches_everybody_at_once() {
        run(async {
            let (flight, writer) = flight(10);
            let waiting = spawn_reader(flight.join().expect("joined"), 10, 0);
            let behind = flight.join().expect("joined");
            assert!(writer.append(b"half").await);
            writer.fail("reset");
            assert_eq!(behind.next().await, Readable::Failed(Some("reset")), "whatever is left to take");
            assert_eq!(waiting.await.expect("done"), Err(Some("reset")));
            assert!(flight.join().is_none());
        });
    }

    #[test]
    fn a_fetch_that_vanishes_has_failed() {
        run(async {
            let (flight, writer) = flight(10);
            let reader = flight.join().expect("joined");
            drop(writer);
            assert_eq!(reader.next().await, Readable::Failed(None));
        });
    }

    #[test]
    fn a_fetch_that_has_ended_well_does_not_fail_when_it_is_dropped() {
        run(async {
            let (flight, writer) = flight(10);
            let reader = flight.join().expect("joined");
            assert!(writer.land().is_some());
            drop(writer);
            assert_eq!(reader.next().await, Readable::End);
        });
    }

    #[test]
    fn a_long_poem_passes_through_at_the_pace_of_the_slowest() {
        run(async {
            let (flight, writer) = flight(100);
            let readers: Vec<_> = [(7, 1), (100, 0), (30, 3)]
                .map(|(most, millis)| (most, millis))
                .into_iter()
                .map(|(most, millis)| spawn_reader(flight.join().expect("joined"), most, millis))
                .collect();
            let poem: Vec<u8> = (0..=255).cycle().take(5_000).collect();
            for piece in poem.chunks(13) {
                assert!(writer.append(piece).await);
                assert!(writer.0.read().buffer.len() <= 100);
            }
            assert!(flight.join().is_none(), "its beginning is gone");
            assert!(writer.land().is_none(), "and it is not kept");
            for reader in readers {
                assert!(reader.await.expect("done").as_ref() == Ok(&poem));
            }
        });
    }

    #[test]
    fn who_leaves_is_not_waited_for() {
        run(async {
            let (flight, writer) = flight(10);
            let stuck = flight.join().expect("joined");
            let reader = spawn_reader(flight.join().expect("joined"), 10, 0);
            assert!(writer.append(b"0123456789").await);
            let leaving = tokio::spawn(async move {
                sleep(Duration::from_secs(30)).await;
                drop(stuck);
            });
            assert!(writer.append(b"abc").await);
            assert!(leaving.is_finished());
            drop(writer.land());
            assert_eq!(reader.await.expect("done"), Ok(b"0123456789abc".to_vec()));
        });
    }

    proptest! {
        #[test]
        fn whatever_the_pace_all_bytes_come_in_order(
            poem in proptest::collection::vec(any::<u8>(), 0..600),
            piece in 1usize..50,
            limit in 1usize..300,
            readers in proptest::collection::vec((1usize..40, 0u64..5, 0usize..20), 1..6),
        ) {
            run(async {
                let (flight, writer) = flight(limit);
                // The first one keeps the flight from being abandoned while the others are yet to come.
                let mut tasks = vec![spawn_reader(flight.join().expect("joined"), 10, 1)];
                for (index, bytes) in poem.chunks(piece).enumerate() {
                    for (most, millis, _) in readers.iter().filter(|(_, _, when)| *when == index) {
                        if let Some(reader) = flight.join() {
                            tasks.push(spawn_reader(reader, *most, *millis));
                        }
                    }
                    prop_assert!(writer.append(bytes).await);
                }
                let kept = writer.land();
                prop_assert!(kept.is_none_or(|kept| kept.bytes() == poem));
                for task in tasks {
                    prop_assert_eq!(task.await.expect("done"), Ok(poem.clone()));
                }
                Ok::<_, TestCaseError>(())
            })?;
        }
    }
}
