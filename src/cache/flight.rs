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
//! The buffer keeps every byte up to its limit, for those who come late and for a cache, as long as the [`Memory`] of all
//! flights has room. A longer poem passes through: what every reader has had is dropped, no more than [`WINDOW`] is held
//! for those who are behind, and the fetch waits for the slowest of them.
//!
//! That is backpressure, and a reader alone, or several of the same pace, may be as slow as they like. But a reader that is
//! behind by more than half of the buffer while another one has taken everything holds up that other one: when it has done
//! so for a while ([`patience`](super::patience)), it is let go ([`Readable::LetGo`]). The time is measured by the fetch,
//! when it has to wait; a reader has no timer.
//!
//! Nothing here knows of sockets, and no lock is held across an await.
//!
//! [`Memory`]: super::memory::Memory

use std::collections::BTreeMap;
use std::mem;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::memory::{Claim, Kept};
use super::patience::{Blame, Debt};

/// What is held of a poem that passes through.
pub const WINDOW: usize = 1024 * 1024;

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
    place: Arc<Place>,
}

/// Where a reader is.
#[derive(Debug, Default)]
struct Place {
    /// Bytes taken so far.
    taken: AtomicU64,
    is_let_go: AtomicBool,
}

/// A reader, as the writer sees it.
#[derive(Debug)]
struct Seat {
    place: Arc<Place>,
    debt: Debt,
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
    /// This reader has held up others for too long: it gets no more.
    LetGo,
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
    /// A reader was let go.
    parting: Notify,
    /// Whether the writer waits for room.
    is_full: AtomicBool,
}

#[derive(Debug)]
struct State<E> {
    buffer: Buffer,
    /// Bytes that have passed through, and are no longer in the buffer.
    dropped: u64,
    readers: BTreeMap<u64, Seat>,
    /// Whether a reader was seen to hold up others, when the writer last waited.
    is_held_up: bool,
    /// When something last came from the fetch; at first, when it began.
    last: Instant,
    /// The memory of the buffer. `None`: as much as the limit allows.
    claim: Option<Claim>,
    /// Readers that ever joined.
    joined: u64,
    end: Option<End<E>>,
}

#[derive(Debug)]
enum Buffer {
    Growing(Vec<u8>),
    Whole(Kept),
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
            Self::Whole(kept) => kept.bytes(),
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

impl Place {
    fn taken(&self) -> u64 {
        self.taken.load(Ordering::Acquire)
    }
}

impl<E> State<E> {
    /// Everything that has come so far.
    fn length(&self) -> u64 {
        self.dropped + self.buffer.len() as u64
    }

    /// Whether there is room for so many more bytes, perhaps after dropping what all readers have taken.
    fn make_room(&mut self, bytes: usize, limit: usize) -> bool {
        loop {
            let length = self.buffer.len();
            let limit = if self.dropped > 0 { limit.min(WINDOW) } else { limit };
            // One piece fits always: the memory that a flight begins with has it.
            let fits = length == 0
                || length + bytes <= limit && self.claim.as_mut().is_none_or(|claim| claim.set(length + bytes));
            if fits || !self.drop_taken() {
                return fits;
            }
        }
    }

    /// Drops what all readers have taken, unless that is so little that moving the rest would cost more than it gains.
    fn drop_taken(&mut self) -> bool {
        let needed = self.needed();
        let Buffer::Growing(bytes) = &mut self.buffer else { return false };
        let Some(slowest) = self.readers.values().map(|seat| seat.place.taken()).min().filter(|&taken| taken >= needed)
        else {
            return false;
        };
        bytes.drain(..usize::try_from(slowest - self.dropped).unwrap_or(usize::MAX).min(bytes.len()));
        if bytes.capacity() / 2 > WINDOW.max(bytes.len()) {
            bytes.shrink_to(WINDOW);
        }
        self.dropped = slowest;
        if let Some(claim) = &mut self.claim {
            claim.set(bytes.len());
        }
        true
    }

    /// What every reader has to have taken before something is dropped.
    fn needed(&self) -> u64 {
        self.dropped + (self.buffer.len() as u64 / 2).max(1)
    }

    /// Whether a reader has taken everything, and can only wait.
    fn has_waiting(&self) -> bool {
        let length = self.length();
        self.readers.values().any(|seat| seat.place.taken() == length)
    }

    /// There is no room. Finds out who holds up others, and lets go whoever has done so for too long. Returns whether
    /// there is one, and else when it is time to look again, if nothing changes until then.
    fn blame(&mut self, now: Instant) -> (bool, Option<Instant>) {
        let (needed, has_waiting, before) = (self.needed(), self.has_waiting(), self.readers.len());
        let mut next: Option<Instant> = None;
        self.readers.retain(|_, Seat { place, debt }| {
            let blame = match (has_waiting, place.taken() < needed) {
                (false, _) => Blame::Nobody,
                (true, false) => Blame::Others,
                (true, true) => Blame::This,
            };
            debt.look(now, blame);
            let Some(due) = debt.due() else { return true };
            if due > now {
                next = Some(next.map_or(due, |next| next.min(due)));
                return true;
            }
            place.is_let_go.store(true, Ordering::Release);
            false
        });
        self.is_held_up = has_waiting;
        (self.readers.len() < before, next)
    }

    /// There is room again: nobody holds up anybody.
    fn forgive(&mut self, now: Instant) {
        if mem::take(&mut self.is_held_up) {
            for seat in self.readers.values_mut() {
                seat.debt.look(now, Blame::Nobody);
            }
        }
    }
}

impl<E> Flight<E> {
    /// A flight that keeps at most `limit` bytes. If it is `unattended`, it goes on when nobody reads, as long as its
    /// bytes can be kept.
    pub fn new(limit: usize, unattended: bool) -> (Self, Writer<E>) {
        let state = State {
            buffer: Buffer::Growing(Vec::new()),
            dropped: 0,
            readers: BTreeMap::new(),
            is_held_up: false,
            last: Instant::now(),
            claim: None,
            joined: 0,
            end: None,
        };
        let shared = Arc::new(Shared {
            state: RwLock::new(state),
            limit,
            unattended,
            progress: Notify::new(),
            room: Notify::new(),
            parting: Notify::new(),
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

    /// A reader from the first byte on; `None` if that is no longer to be had: the flight has failed, was abandoned, has
    /// let bytes pass through, or is about to, because somebody waits for that.
    pub fn join(&self) -> Option<Reader<E>> {
        let mut state = self.0.write();
        if state.dropped > 0 || matches!(state.end, Some(End::Failed(_) | End::Abandoned)) {
            return None;
        }
        if self.0.is_full.load(Ordering::Acquire) && state.has_waiting() {
            return None;
        }
        Some(self.admit(&mut state))
    }

    fn admit(&self, state: &mut State<E>) -> Reader<E> {
        let (number, place) = (state.joined, Arc::new(Place::default()));
        state.joined += 1;
        state.readers.insert(number, Seat { place: Arc::clone(&place), debt: Debt::none(Instant::now()) });
        Reader { shared: Arc::clone(&self.0), number, place }
    }

    /// Whether this writer writes for this flight.
    pub fn is_by(&self, writer: &Writer<E>) -> bool {
        Arc::ptr_eq(&self.0, &writer.0)
    }

    /// Whether it has come to an end, good or bad.
    pub fn is_over(&self) -> bool {
        self.0.read().end.is_some()
    }

    /// How long the fetch has been under way without anything having come from it. A fetch that waits for its readers is
    /// not silent.
    pub fn silence(&self) -> Duration {
        if self.0.is_full.load(Ordering::Acquire) { Duration::ZERO } else { self.0.read().last.elapsed() }
    }
}

impl<E> Writer<E> {
    /// The flight's bytes are this memory's from now on.
    pub fn claim(&self, claim: Claim) {
        self.0.write().claim = Some(claim);
    }

    /// Hands on what the fetch got, which is no longer than a [`PIECE`](super::memory::PIECE). False: nobody wants it any
    /// more.
    pub async fn append(&self, bytes: &[u8]) -> bool {
        loop {
            let now = Instant::now();
            let until = {
                let mut state = self.0.write();
                if state.end.is_some() {
                    return false;
                }
                let has_room = state.make_room(bytes.len(), self.0.limit);
                self.0.is_full.store(!has_room, Ordering::Release);
                if has_room {
                    state.forgive(now);
                    state.last = now;
                    if let Buffer::Growing(buffer) = &mut state.buffer {
                        buffer.extend_from_slice(bytes);
                    }
                    drop(state);
                    self.0.progress.notify_waiters();
                    return true;
                }
                if state.readers.is_empty() {
                    return false;
                }
                let (some_are_let_go, until) = state.blame(now);
                if some_are_let_go {
                    drop(state);
                    self.0.parting.notify_waiters();
                    continue;
                }
                until
            };
            let room = self.0.room.notified();
            match until {
                None => room.await,
                Some(until) => drop(timeout_at(until, room).await),
            }
        }
    }

    /// Returns when the last reader has left.
    pub async fn abandoned(&self) {
        while !matches!(self.0.read().end, Some(End::Abandoned)) {
            self.0.room.notified().await;
        }
    }

    /// The fetch has come to its good end. Returns the poem, if all of it was kept.
    pub fn land(&self) -> Option<Kept> {
        let mut state = self.0.write();
        state.end.get_or_insert(End::Landed);
        self.0.is_full.store(false, Ordering::Release);
        let State { buffer, dropped, claim, .. } = &mut *state;
        let whole = match buffer {
            Buffer::Growing(bytes) if *dropped == 0 => {
                bytes.shrink_to_fit();
                Some(Kept::new(mem::take(bytes), claim.take()))
            }
            _ => None,
        };
        if let Some(kept) = &whole {
            *buffer = Buffer::Whole(kept.clone());
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
                if self.is_let_go() {
                    return Readable::LetGo;
                }
                let unseen = state.length() > self.taken();
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
    /// them it takes. It must not wait: the fetch does until it returns. A reader that was let go is shown nothing.
    ///
    /// # Errors
    /// Those of `taker`, which then has taken nothing.
    pub fn take<T>(&self, taker: impl FnOnce(&[u8], bool) -> Result<usize, T>) -> Result<usize, T> {
        let state = self.shared.read();
        if self.is_let_go() {
            return Ok(0);
        }
        let start = usize::try_from(self.taken() - state.dropped).unwrap_or(usize::MAX);
        let taken = taker(&state.buffer[start.min(state.buffer.len())..], matches!(state.end, Some(End::Landed)))?;
        self.place.taken.fetch_add(taken as u64, Ordering::Release);
        drop(state);
        if self.shared.is_full.load(Ordering::Acquire) {
            self.shared.room.notify_one();
        }
        Ok(taken)
    }

    /// Waits until no more bytes will come, or this reader is let go.
    pub async fn ended(&self) {
        loop {
            let progress = self.shared.progress.notified();
            if self.shared.read().end.is_some() || self.is_let_go() {
                return;
            }
            progress.await;
        }
    }

    /// Bytes taken so far.
    pub fn taken(&self) -> u64 {
        self.place.taken()
    }

    fn is_let_go(&self) -> bool {
        self.place.is_let_go.load(Ordering::Acquire)
    }

    /// Waits until this reader is let go, in the middle of whatever it does.
    pub async fn let_go(&self) {
        loop {
            let parting = self.shared.parting.notified();
            if self.is_let_go() {
                return;
            }
            parting.await;
        }
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
    use super::super::memory::{Memory, PIECE};
    use super::super::patience::PATIENCE;
    use super::*;
    use proptest::prelude::*;
    use std::convert::Infallible;
    use std::future::Future;
    use std::time::Duration;
    use tokio::runtime::Builder;
    use tokio::task::{JoinHandle, yield_now};
    use tokio::time::{sleep, timeout};

    type Why = &'static str;

    const LET_GO: Why = "let go";

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
                Readable::LetGo => return Err(Some(LET_GO)),
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
                sleep(PATIENCE / 2).await;
                drop(stuck);
            });
            assert!(writer.append(b"abc").await);
            assert!(leaving.is_finished());
            drop(writer.land());
            assert_eq!(reader.await.expect("done"), Ok(b"0123456789abc".to_vec()));
        });
    }

    #[test]
    fn who_holds_up_others_is_let_go_when_their_patience_is_over() {
        run(async {
            let (flight, writer) = flight(10);
            let stuck = flight.join().expect("joined");
            let readers = [(); 3].map(|()| spawn_reader(flight.join().expect("joined"), 10, 0));
            let start = Instant::now();
            assert!(writer.append(b"0123456789").await);
            assert!(start.elapsed() < PATIENCE);
            assert!(writer.append(b"abc").await);
            assert_eq!(start.elapsed(), PATIENCE);
            stuck.let_go().await;
            assert_eq!(stuck.next().await, Readable::LetGo);
            assert_eq!(take(&stuck, 10), b"", "and it is shown nothing");
            assert!(writer.append(b"0123456789").await);
            assert_eq!(start.elapsed(), PATIENCE, "that was all");
            drop(writer.land());
            for reader in readers {
                assert_eq!(reader.await.expect("done"), Ok(b"0123456789abc0123456789".to_vec()));
            }
        });
    }

    #[test]
    fn a_slow_reader_is_let_go_however_steadily_it_reads() {
        run(async {
            let (flight, writer) = flight(100);
            // Half of the buffer in half of the patience: it never holds up anybody for all of it at once.
            let slow = spawn_reader(flight.join().expect("joined"), 1, 10);
            let fast = spawn_reader(flight.join().expect("joined"), 100, 0);
            let start = Instant::now();
            let poem = vec![b'x'; 10_000];
            for piece in poem.chunks(10) {
                assert!(writer.append(piece).await);
            }
            assert!(start.elapsed() < 5 * PATIENCE, "{:?}", start.elapsed());
            drop(writer.land());
            assert!(fast.await.expect("done") == Ok(poem));
            assert_eq!(slow.await.expect("done"), Err(Some(LET_GO)));
        });
    }

    #[test]
    fn who_holds_up_nobody_may_be_as_slow_as_they_like() {
        run(async {
            for readers in [1, 5] {
                let (flight, writer) = flight(10);
                let readers = vec![(); readers];
                let readers: Vec<_> =
                    readers.iter().map(|()| spawn_reader(flight.join().expect("joined"), 10, 30_000)).collect();
                for _ in 0..10 {
                    assert!(writer.append(b"0123456789").await);
                }
                drop(writer.land());
                for reader in readers {
                    assert_eq!(reader.await.expect("done"), Ok(b"0123456789".repeat(10)));
                }
            }
        });
    }

    #[test]
    fn nobody_joins_what_is_about_to_lose_its_beginning() {
        run(async {
            let (flight, writer) = flight(10);
            let _stuck = flight.join().expect("joined");
            assert!(writer.append(b"0123456789").await);
            let full = tokio::spawn(async move { writer.append(b"abc").await });
            yield_now().await;
            let quick = flight.join().expect("nobody waits yet");
            assert_eq!(take(&quick, 10), b"0123456789");
            assert!(flight.join().is_none());
            assert!(full.await.expect("done"));
        });
    }

    #[test]
    fn what_passes_through_holds_a_window_of_memory_and_gives_back_the_rest() {
        const LIMIT: usize = 8 * WINDOW;
        run(async {
            let memory = Memory::new(64 * WINDOW);
            let (flight, writer, reader) = Flight::<Why>::with_reader(LIMIT, false);
            writer.claim(memory.begin().await);
            let piece = vec![b'x'; PIECE];
            for _ in 0..LIMIT / PIECE {
                assert!(writer.append(&piece).await);
            }
            assert_eq!(memory.used(), LIMIT + PIECE);
            assert_eq!(take(&reader, LIMIT).len(), LIMIT);
            for _ in 0..WINDOW / PIECE {
                assert!(writer.append(&piece).await);
            }
            assert!(timeout(PATIENCE, writer.append(&piece)).await.is_err(), "it waits for its reader");
            assert_eq!(memory.used(), WINDOW + PIECE);
            assert!(matches!(&flight.0.read().buffer, Buffer::Growing(bytes) if bytes.capacity() <= 2 * WINDOW));
            drop((flight, writer, reader));
            assert_eq!(memory.used(), 0);
        });
    }

    #[test]
    fn with_no_memory_left_a_poem_passes_through_in_what_it_began_with() {
        run(async {
            let memory = Memory::new(1);
            let (flight, writer, reader) = Flight::<Why>::with_reader(1 << 30, false);
            writer.claim(memory.begin().await);
            let reader = spawn_reader(reader, 7_000, 1);
            let poem: Vec<u8> = (0..=250).cycle().take(10 * PIECE).collect();
            for piece in poem.chunks(PIECE) {
                assert!(writer.append(piece).await);
                assert!(memory.used() <= 2 * PIECE);
            }
            assert!(writer.land().is_none());
            assert!(flight.join().is_none());
            assert!(reader.await.expect("done") == Ok(poem));
        });
    }

    #[test]
    fn a_fetch_is_silent_until_something_comes_from_it() {
        run(async {
            let (flight, writer) = flight(10);
            let reader = flight.join().expect("joined");
            sleep(Duration::from_secs(3)).await;
            assert_eq!(flight.silence(), Duration::from_secs(3));
            assert!(writer.append(b"0123456789").await);
            sleep(Duration::from_secs(2)).await;
            assert_eq!(flight.silence(), Duration::from_secs(2));
            assert!(timeout(Duration::from_secs(9), writer.append(b"abc")).await.is_err());
            assert_eq!(flight.silence(), Duration::ZERO, "it is not the fetch that keeps everybody waiting");
            drop(reader);
        });
    }

    proptest! {
        #[test]
        fn whatever_the_pace_all_bytes_come_in_order(
            poem in proptest::collection::vec(any::<u8>(), 0..600),
            piece in 1usize..50,
            limit in 1usize..300,
            readers in proptest::collection::vec((1usize..40, 0u64..50, 0usize..20), 1..6),
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
                let mut arrived = 0;
                for task in tasks {
                    match task.await.expect("done") {
                        Ok(bytes) => prop_assert_eq!(&bytes, &poem),
                        Err(why) => {
                            prop_assert_eq!(why, Some(LET_GO));
                            continue;
                        }
                    }
                    arrived += 1;
                }
                prop_assert!(arrived > 0, "whom the others are let go for");
                Ok::<_, TestCaseError>(())
            })?;
        }

        #[test]
        fn however_slow_some_are_the_fastest_waits_for_none_of_them_for_long(
            limit in 10usize..300,
            slow in proptest::collection::vec((1usize..40, 0u64..5_000), 1..6),
        ) {
            run(async {
                let (flight, writer) = flight(limit);
                let fast = spawn_reader(flight.join().expect("joined"), 300, 0);
                let slow_ones: Vec<_> = slow
                    .iter()
                    .map(|(most, millis)| spawn_reader(flight.join().expect("joined"), *most, *millis))
                    .collect();
                let (start, poem) = (Instant::now(), vec![b'x'; 3_000]);
                for bytes in poem.chunks(10) {
                    prop_assert!(writer.append(bytes).await);
                }
                // A second for each, and a little for what is forgiven.
                prop_assert!(start.elapsed() <= 2 * PATIENCE * u32::try_from(slow.len()).expect("few"));
                drop(writer.land());
                prop_assert!(fast.await.expect("done") == Ok(poem));
                for task in slow_ones {
                    let _ = task.await.expect("done");
                }
                Ok::<_, TestCaseError>(())
            })?;
        }
    }
}
