//! Files written on a thread of their own, for models that must not block while a disk does.
//!
//! To a readiness loop, a file is always ready, and yet its write(2) may take as long as it likes: there is no readiness to
//! ask for. So a scribe writes what the others fetch. Its queue has a bound, in bytes, for each poem and for all together:
//! when it is full, nobody reads more from the network until there is room, and so the servers wait for the disk. What
//! becomes of a file, its poem hears: an error fails the poem, and no poem is done before its file has its name.

use std::mem;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::Failure;
use super::files::Files;
use crate::sync::lock;

/// The bytes in the queue at which everybody has to wait. One more read may come.
const LIMIT: usize = 4 << 20;

/// The bytes of one poem in the queue at which this poem has to wait: a file that blocks stops its poem, and the others go
/// on arriving.
const SHARE: usize = LIMIT / 4;

/// The bytes of a poem that wait until there are more of it, or it is whole: a small file is one order.
const SMALL: usize = 16 << 10;

/// The longest wait at the end of a run, for files that are to be removed. A disk that blocks is not waited for.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What the scribe tells, from its thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// This poem is delivered, or cannot be.
    Settled(usize),
    /// There is room again.
    Room,
}

/// The scribe, as those who fetch know it.
#[derive(Debug)]
pub(super) struct Scribe {
    desk: Arc<Desk>,
    orders: Mutex<Option<mpsc::Sender<Order>>>,
    /// Disconnected when the thread has ended.
    end: Mutex<mpsc::Receiver<()>>,
}

/// What both sides see.
#[derive(Debug)]
struct Desk {
    /// Bytes in the queue.
    queued: AtomicUsize,
    /// Whether somebody waits for room.
    is_waited_for: AtomicBool,
    sheets: Vec<Mutex<Sheet>>,
}

/// What has become of a poem so far.
#[derive(Debug, Default)]
struct Sheet {
    /// The bytes that are no order yet.
    begun: Vec<u8>,
    /// Bytes in the queue.
    queued: usize,
    /// Why it cannot be delivered, until that is told.
    failure: Option<Failure>,
    /// How long its end took, when that is done; until that is told.
    took: Option<Duration>,
}

enum Order {
    Write(usize, Vec<u8>, Range<usize>),
    /// With the last bytes.
    Finish(usize, Vec<u8>, Instant),
    Void(usize),
}

impl Scribe {
    /// Starts the thread. It calls `tell` whenever it has a word for those who fetch.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(super) fn start(
        files: Arc<Files>,
        poems: usize,
        tell: impl Fn(Word) + Send + 'static,
    ) -> std::io::Result<Self> {
        let sheets = (0..poems).map(|_| Mutex::default()).collect();
        let desk = Arc::new(Desk { queued: AtomicUsize::new(0), is_waited_for: AtomicBool::new(false), sheets });
        let ((orders, queue), (alive, end)) = (mpsc::channel(), mpsc::channel());
        let its = Arc::clone(&desk);
        let body = move || {
            let _alive: mpsc::Sender<()> = alive;
            let mut writing = vec![false; its.sheets.len()];
            for order in queue {
                its.carry_out(order, &files, &mut writing, &tell);
            }
        };
        thread::Builder::new().name("scribe".to_owned()).spawn(body)?;
        Ok(Self { desk, orders: Mutex::new(Some(orders)), end: Mutex::new(end) })
    }

    /// Whether more of a poem may be read from the network. If not, [`Word::Room`] will be told.
    pub(super) fn has_room(&self, task: usize) -> bool {
        let is_full = || self.desk.queued.load(SeqCst) >= LIMIT || lock(&self.desk.sheets[task]).queued >= SHARE;
        if !is_full() {
            return true;
        }
        self.desk.is_waited_for.store(true, SeqCst);
        // Meanwhile it may have come, and nobody was told.
        !is_full()
    }

    /// Takes the next bytes of a poem.
    ///
    /// # Errors
    /// Earlier ones could not be written.
    pub(super) fn write(&self, task: usize, bytes: &[u8]) -> Result<(), Failure> {
        let mut sheet = lock(&self.desk.sheets[task]);
        if sheet.begun.len() + bytes.len() > SMALL {
            let begun = mem::take(&mut sheet.begun);
            drop(sheet);
            if !begun.is_empty() {
                let all = 0..begun.len();
                self.write_part(task, begun, all)?;
            }
            return self.write_part(task, bytes.to_vec(), 0..bytes.len());
        }
        sheet.begun.extend_from_slice(bytes);
        Ok(())
    }

    /// Takes a part of a buffer as the first bytes of a poem.
    ///
    /// # Errors
    /// Earlier ones could not be written.
    pub(super) fn write_part(&self, task: usize, buffer: Vec<u8>, range: Range<usize>) -> Result<(), Failure> {
        let mut sheet = lock(&self.desk.sheets[task]);
        if let Some(failure) = sheet.failure.take() {
            return Err(failure);
        }
        sheet.queued += range.len();
        drop(sheet);
        self.desk.queued.fetch_add(range.len(), SeqCst);
        self.order(Order::Write(task, buffer, range));
        Ok(())
    }

    /// Ends a whole poem. [`Word::Settled`] will be told.
    pub(super) fn finish(&self, task: usize) {
        let begun = mem::take(&mut lock(&self.desk.sheets[task]).begun);
        self.order(Order::Finish(task, begun, Instant::now()));
    }

    /// Drops the bytes of an attempt.
    pub(super) fn void(&self, task: usize) {
        lock(&self.desk.sheets[task]).begun = Vec::new();
        self.order(Order::Void(task));
    }

    /// The end of a poem, if it has come: how long that took, and how it went.
    pub(super) fn settled(&self, task: usize) -> Option<(Duration, Result<(), Failure>)> {
        let mut sheet = lock(&self.desk.sheets[task]);
        let took = sheet.took.take()?;
        Some((took, sheet.failure.take().map_or(Ok(()), Err)))
    }

    /// Waits until nothing is left to be done. Takes no more orders.
    pub(super) fn dismiss(&self) {
        *lock(&self.orders) = None;
        let _ = lock(&self.end).recv_timeout(LAST_WORDS);
    }

    fn order(&self, order: Order) {
        if let Some(orders) = &*lock(&self.orders) {
            // Nobody is there after a panic, and then a poem is not settled: a bug, and told as one.
            let _ = orders.send(order);
        }
    }
}

impl Desk {
    /// Does what is asked for; `writing` are the poems that have a file.
    fn carry_out(&self, order: Order, files: &Files, writing: &mut [bool], tell: &impl Fn(Word)) {
        match order {
            Order::Write(task, buffer, range) => {
                let bytes = &buffer[range];
                if lock(&self.sheets[task]).failure.is_none() {
                    let written = open(files, writing, task).and_then(|()| files.write(task, bytes));
                    self.note(task, written, files, writing);
                }
                let all = self.queued.fetch_sub(bytes.len(), SeqCst) - bytes.len();
                let its = {
                    let mut sheet = lock(&self.sheets[task]);
                    sheet.queued -= bytes.len();
                    sheet.queued
                };
                // With the last order at the latest.
                if all <= LIMIT / 2 && its <= SHARE / 2 && self.is_waited_for.swap(false, SeqCst) {
                    tell(Word::Room);
                }
            }
            Order::Finish(task, bytes, since) => {
                if lock(&self.sheets[task]).failure.is_none() {
                    let opened = open(files, writing, task);
                    let written = opened.and_then(|()| files.write(task, &bytes));
                    let finished = written.and_then(|()| files.finish(task));
                    self.note(task, finished, files, writing);
                }
                writing[task] = false;
                lock(&self.sheets[task]).took = Some(since.elapsed());
                tell(Word::Settled(task));
            }
            Order::Void(task) => {
                files.void(task);
                writing[task] = false;
                lock(&self.sheets[task]).failure = None;
            }
        }
    }

    fn note(&self, task: usize, result: Result<(), Failure>, files: &Files, writing: &mut [bool]) {
        if let Err(failure) = result {
            files.void(task);
            writing[task] = false;
            lock(&self.sheets[task]).failure = Some(failure);
        }
    }
}

/// Opens the file of a poem, if it has none yet.
fn open(files: &Files, writing: &mut [bool], task: usize) -> Result<(), Failure> {
    if !writing[task] {
        files.open(task)?;
        writing[task] = true;
    }
    Ok(())
}
