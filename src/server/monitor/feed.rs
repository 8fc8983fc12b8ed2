//! The feed: server-sent events (HTML Standard, section 9.2) for any number of browsers. Whoever has an event puts it into
//! the sockets of all who have read everything before it; the others read the [`Ring`] as fast as they can.

use std::future::poll_fn;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::task::{Poll, Waker};

use tokio_util::bytes::Bytes;

use super::ring::{Next, Ring, chunk, unchunked};
use crate::errors::is_for_later;
use crate::net::{Connection, Outlet};
use crate::pace::Ending;
use crate::sync::lock;

/// The most of the ring that is copied for a reader at once.
const PIECE: usize = 64 * 1024;

/// The last chunk.
const LAST: &str = "0\r\n\r\n";

/// The ring, and those who read it.
#[derive(Debug)]
pub(super) struct Feed {
    ring: RwLock<Ring>,
    streams: RwLock<Vec<Arc<Stream>>>,
    /// Events that a browser was too slow for.
    missed: AtomicU64,
}

/// A browser that reads the feed.
#[derive(Debug)]
struct Stream {
    /// Whether it knows chunks.
    is_chunked: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// `None` as soon as nothing more is to be sent from elsewhere.
    outlet: Option<Outlet>,
    /// The number of the event that comes next.
    next: u64,
    /// What is left of something that was begun.
    begun: Bytes,
    /// It is behind, or its socket takes nothing: its task does the rest.
    is_behind: bool,
    /// Why it cannot be sent to any more.
    broken: Option<io::ErrorKind>,
    task: Option<Waker>,
}

impl State {
    fn fall_behind(&mut self) {
        self.is_behind = true;
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }

    fn has_broken(&mut self, error: &io::Error) {
        (self.outlet, self.broken) = (None, Some(error.kind()));
        self.fall_behind();
    }
}

impl Feed {
    pub(super) fn new(ring: Ring) -> Self {
        Self { ring: RwLock::new(ring), streams: RwLock::default(), missed: AtomicU64::new(0) }
    }

    pub(super) fn ring(&self) -> RwLockReadGuard<'_, Ring> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ring_mut(&self) -> RwLockWriteGuard<'_, Ring> {
        self.ring.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn streams(&self) -> RwLockReadGuard<'_, Vec<Arc<Stream>>> {
        self.streams.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many read it now.
    pub(super) fn readers(&self) -> usize {
        self.streams().len()
    }

    /// Events that somebody was too slow for.
    pub(super) fn missed(&self) -> u64 {
        self.missed.load(Relaxed)
    }

    /// Gives chunks that are in the ring to those who have read all before `start`; after them comes `end`.
    pub(super) fn offer(&self, chunks: &Bytes, start: u64, end: u64) {
        for stream in &*self.streams() {
            let state = &mut *lock(&stream.state);
            if state.is_behind {
                continue;
            }
            if state.next == start {
                state.next = end;
                stream.send(state, chunks);
            } else {
                state.fall_behind();
            }
        }
    }

    /// Says something that keeps connections open to those who wait.
    pub(super) fn keep_alive(&self) {
        let comment = Bytes::from(chunk(":\n\n"));
        for stream in &*self.streams() {
            let state = &mut *lock(&stream.state);
            if !state.is_behind {
                stream.send(state, &comment);
            }
        }
    }

    /// Sends the feed from an event on, after `greeting`, until the reader leaves or the server stops.
    pub(super) async fn serve(
        &self,
        connection: &Connection,
        is_chunked: bool,
        greeting: Vec<u8>,
        next: u64,
    ) -> io::Result<Ending> {
        let state = State {
            outlet: Some(connection.outlet()),
            next,
            begun: greeting.into(),
            is_behind: true,
            broken: None,
            task: None,
        };
        let reader = Reader { feed: self, stream: Arc::new(Stream { is_chunked, state: Mutex::new(state) }) };
        self.streams.write().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&reader.stream));
        loop {
            tokio::select! {
                biased;
                () = connection.closing() => break,
                () = reader.stream.falls_behind() => {}
                // It has nothing more to say.
                read = leaves(connection) => return read.map(|()| Ending::Fin),
            }
            tokio::select! {
                biased;
                sent = connection.send_some(|_| reader.catch_up()) => drop(sent?),
                () = connection.closing() => break,
            }
        }
        connection.send_all(&reader.end()).await?;
        Ok(Ending::Fin)
    }
}

/// Waits until a reader closes its side, or resets; what it says is thrown away.
async fn leaves(connection: &Connection) -> io::Result<()> {
    loop {
        connection.readable().await?;
        let mut buffer = [0; 512];
        match connection.stream().try_read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if is_for_later(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

impl Stream {
    /// Sends chunks to a reader that is not behind, as far as its socket takes them.
    fn send(&self, state: &mut State, chunks: &Bytes) {
        let Some(outlet) = &state.outlet else { return };
        let bytes = if self.is_chunked { chunks.clone() } else { each_unchunked(chunks) };
        match outlet.send(&bytes) {
            Ok(sent) if sent == bytes.len() => {}
            Ok(sent) => {
                state.begun = bytes.slice(sent..);
                state.fall_behind();
            }
            Err(error) if is_for_later(&error) => {
                state.begun = bytes;
                state.fall_behind();
            }
            Err(error) => state.has_broken(&error),
        }
    }

    async fn falls_behind(&self) {
        poll_fn(|context| {
            let state = &mut *lock(&self.state);
            if state.is_behind {
                return Poll::Ready(());
            }
            match &mut state.task {
                Some(task) => task.clone_from(context.waker()),
                none => *none = Some(context.waker().clone()),
            }
            Poll::Pending
        })
        .await;
    }
}

/// What is in these chunks.
fn each_unchunked(chunks: &Bytes) -> Bytes {
    let (mut rest, mut all) = (chunks.clone(), Vec::new());
    while let Some(end) = rest.windows(2).position(|end| end == b"\r\n") {
        let length = str::from_utf8(&rest[..end]).ok().and_then(|hex| usize::from_str_radix(hex, 16).ok());
        let whole = rest.split_to((end + 2 + length.unwrap_or_default() + 2).min(rest.len()));
        all.extend_from_slice(&unchunked(&whole));
    }
    all.into()
}

/// A reader in the list of all, until this is dropped.
struct Reader<'a> {
    feed: &'a Feed,
    stream: Arc<Stream>,
}

impl Reader<'_> {
    /// Sends a piece of what it is behind with. The outlet counts it.
    fn catch_up(&self) -> io::Result<usize> {
        let state = &mut *lock(&self.stream.state);
        if let Some(kind) = state.broken {
            return Err(kind.into());
        }
        if state.begun.is_empty() {
            let next = self.feed.ring().next(state.next, PIECE);
            let chunks = match next {
                Next::Nothing => {
                    state.is_behind = false;
                    return Ok(0);
                }
                Next::Chunks(chunks, next) => {
                    state.next = next;
                    chunks
                }
                Next::Missed(count, newest) => {
                    self.feed.missed.fetch_add(count, Relaxed);
                    state.next = newest;
                    chunk(&missed(count)).into()
                }
            };
            state.begun = if self.stream.is_chunked { chunks } else { each_unchunked(&chunks) };
        }
        let Some(outlet) = &state.outlet else { return Err(io::ErrorKind::BrokenPipe.into()) };
        let sent = outlet.send(&state.begun)?;
        drop(state.begun.split_to(sent));
        if state.begun.is_empty() {
            // An empty piece of a larger one would hold that.
            state.begun = Bytes::new();
        }
        Ok(0)
    }

    /// Ends all sending to it, and returns what is left to be said.
    fn end(&self) -> Vec<u8> {
        let state = &mut *lock(&self.stream.state);
        state.outlet = None;
        let last = if self.stream.is_chunked { LAST } else { "" };
        [&std::mem::take(&mut state.begun)[..], last.as_bytes()].concat()
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        lock(&self.stream.state).outlet = None;
        let mut streams = self.feed.streams.write().unwrap_or_else(PoisonError::into_inner);
        streams.retain(|other| !Arc::ptr_eq(other, &self.stream));
    }
}

/// What a reader is told that was too slow.
pub(super) fn missed(count: u64) -> String {
    format!("event: missed\ndata: {{\"count\":{count}}}\n\n")
}
