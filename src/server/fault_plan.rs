//! A [`Plan`] at work: the transfers of a poem server, and the recording of what really happened.
//!
//! Both poem servers, the blocking and the async one, do only what a [`Transfer`] says, and tell it how far that got,
//! in the order of calls of a [`Cursor`]. Time is an argument.

use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tracing::info;

use super::recorder::Recorder;
use crate::metrics::{Metric, Page};
use crate::pace::recording::{Entry, Happening};
use crate::pace::{Cursor, Departure, Ending, Next, Plan};
use crate::poem::Poem;
use crate::units::{count, human, micros};

/// The plan of a server, its recording, and the number of its connections so far.
#[derive(Debug)]
pub struct FaultPlan {
    plan: Plan,
    recorder: Option<Arc<Recorder>>,
    connections: AtomicU64,
    faults: FaultCounts,
}

/// How many connections were cut as planned, by how they ended.
#[derive(Debug, Default)]
struct FaultCounts {
    fin: AtomicU64,
    rst: AtomicU64,
    hang: AtomicU64,
}

/// The transfer of a poem to one client: the poem, and the cursor in its schedule. A drop before the end is recorded as
/// a reset.
#[derive(Debug)]
pub struct Transfer {
    connection: u64,
    poem: Poem,
    cursor: Cursor,
    /// None once the end is recorded.
    recorder: Option<Arc<Recorder>>,
}

/// The client of a transfer, as long as its departure is watched.
#[derive(Debug)]
pub(super) struct Watched {
    recorder: Arc<Recorder>,
    connection: u64,
}

impl Watched {
    /// It leaves by no will of its own: the server is going to reset it while its connection is open.
    pub(super) fn forget(&self) {
        self.recorder.catch_up();
        self.recorder.forget(self.connection);
    }
}

impl FaultPlan {
    /// A plan at work, recorded if there is a recorder.
    pub fn new(plan: Plan, recorder: Option<Recorder>) -> Self {
        Self { plan, recorder: recorder.map(Arc::new), connections: AtomicU64::new(0), faults: FaultCounts::default() }
    }

    /// Begins the recording, if there is one. To be called before the first client.
    ///
    /// # Errors
    /// The file cannot be written, or its writer's thread cannot be started.
    pub fn start(&self) -> io::Result<()> {
        self.recorder.as_ref().map_or(Ok(()), Recorder::start)
    }

    /// Ends the recording, and returns whether everything that happened is in it, if there is one.
    pub fn finish(&self) -> bool {
        self.recorder.as_ref().is_none_or(|recorder| recorder.finish())
    }

    /// Records who has left by now.
    pub(super) fn catch_up(&self) {
        if let Some(recorder) = &self.recorder {
            recorder.catch_up();
        }
    }

    /// Begins the transfer to a client for whose connection accept(2) returned at `now`.
    pub(super) fn begin(&self, peer: &impl ToString, poem: Poem, now: Instant, socket: impl AsFd) -> Transfer {
        let connection = self.connections.fetch_add(1, Relaxed) + 1;
        let cursor = Cursor::new(self.plan.schedule(connection), now);
        let transfer = Transfer { connection, poem, cursor, recorder: self.recorder.clone() };
        transfer.record(now, || Happening::Accept { peer: Some(peer.to_string()), time: Some(Recorder::time(now)) });
        if let Some(recorder) = &self.recorder {
            recorder.watch(connection, now, socket);
        }
        transfer
    }

    /// Records a client whose connection was accepted at `now`, and is reset because there is no poem for it.
    pub(super) fn refuse(&self, peer: &impl ToString, now: Instant, socket: impl AsFd) {
        self.begin(peer, Poem::from(Vec::new()), now, socket).give_up(Instant::now());
    }

    /// Ends a transfer as planned.
    pub(super) fn end(&self, transfer: &mut Transfer, how: Ending, now: Instant) {
        if transfer.is_cut(how) {
            let FaultCounts { fin, rst, hang } = &self.faults;
            let kind = match how {
                Ending::Fin => fin,
                Ending::Rst => rst,
                Ending::Hang => hang,
            };
            kind.fetch_add(1, Relaxed);
        }
        transfer.end(how, now);
    }

    /// Logs how many connections were cut as planned, if any were.
    pub fn tell_faults(&self) {
        let [fin, rst, hang] = self.faults.all();
        if fin + rst + hang > 0 {
            let parts = [(rst, "by a reset"), (hang, "by silence"), (fin, "by the end of the stream")];
            let parts = parts.iter().filter(|(count, _)| *count > 0).map(|(count, how)| format!("{count} {how}"));
            let (all, parts) = (count(fin + rst + hang, "connection"), parts.collect::<Vec<_>>().join(", "));
            info!(fin, rst, hang, "Cut {all} as planned: {parts}");
        }
    }

    /// Adds how many connections were cut as planned.
    pub fn add_metrics(&self, page: &mut Page, labels: &[(&str, &str)]) {
        const CUT: Metric = Metric::counter("poetry_cuts_total", "Connections cut as planned, by how they ended.");
        for (how, count) in ["fin", "rst", "hang"].into_iter().zip(self.faults.all()) {
            page.add(CUT, &[labels, &[("how", how)]].concat(), count);
        }
    }
}

impl FaultCounts {
    /// By FIN, by RST, and by silence.
    fn all(&self) -> [u64; 3] {
        [&self.fin, &self.rst, &self.hang].map(|count| count.load(Relaxed))
    }
}

impl Transfer {
    /// What to do at the moment `now`: see [`Cursor::next`].
    pub(super) fn next(&mut self, now: Instant) -> Next {
        self.cursor.next(now, self.poem.bytes().len() as u64, true)
    }

    /// Counts and records so many bytes that the client took, and goes on to the next ones.
    pub(super) fn sent(&mut self, bytes: usize, now: Instant) {
        let bytes = bytes as u64;
        if bytes > 0 {
            self.record(now, || Happening::Send { bytes });
        }
        self.cursor.sent(bytes, now);
    }

    /// Notes that everything that was written has left the socket's buffer.
    pub(super) fn flushed(&mut self) {
        self.cursor.flushed();
    }

    /// Records how the server ends the connection. From a silence the client can still leave.
    fn end(&mut self, how: Ending, now: Instant) {
        if how != Ending::Hang {
            self.forget();
        }
        self.record(now, || how.into());
        self.recorder = None;
    }

    /// Records that the server resets the connection, and not because that was planned.
    pub(super) fn give_up(&mut self, now: Instant) {
        self.end(Ending::Rst, now);
    }

    /// Records that the client has gone away, which this error tells.
    pub(super) fn lose(&mut self, error: &io::Error, now: Instant) {
        if let Some(recorder) = &self.recorder
            && matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
        {
            recorder.leave(self.connection, Departure::Reset, now);
        }
        self.forget();
        self.record(now, || Happening::Gone);
        self.recorder = None;
    }

    /// Its client, if it is watched.
    pub(super) fn watched(&self) -> Option<Watched> {
        let recorder = Arc::clone(self.recorder.as_ref()?);
        Some(Watched { recorder, connection: self.connection })
    }

    fn forget(&self) {
        if let Some(recorder) = &self.recorder {
            recorder.forget(self.connection);
        }
    }

    /// Whether an end like this is a fault, and not that of a whole poem.
    fn is_cut(&self, how: Ending) -> bool {
        how != Ending::Fin || self.bytes_sent() < self.poem.bytes().len()
    }

    /// What a planned end is, for the log: `Reset 127.0.0.1:40000 after 100 of 653 bytes in 1.0 s, as planned`. `None`:
    /// the end of a whole poem.
    pub(super) fn cut(&self, peer: &impl fmt::Display, how: Ending, elapsed: Duration) -> Option<String> {
        let what = match how {
            Ending::Fin => "Ended",
            Ending::Rst => "Reset",
            Ending::Hang => "Silent to",
        };
        let (sent, all, time) = (self.bytes_sent(), count(self.poem.bytes().len() as u64, "byte"), human(elapsed));
        self.is_cut(how).then(|| format!("{what} {peer} after {sent} of {all} in {time}, as planned"))
    }

    /// The whole poem.
    pub(super) fn poem(&self) -> &[u8] {
        self.poem.bytes()
    }

    /// The part of the poem between two offsets.
    pub(super) fn part(&self, bytes: Range<u64>) -> &[u8] {
        &self.poem()[index(bytes.start)..index(bytes.end)]
    }

    /// Number of bytes that the client took.
    pub(super) fn bytes_sent(&self) -> usize {
        index(self.cursor.position())
    }

    /// Time left until a cut by time, if one is scheduled.
    pub(super) fn time_left(&self, now: Instant) -> Option<Duration> {
        self.cursor.time_left(now)
    }

    /// Time since accept(2).
    pub(super) fn elapsed(&self, now: Instant) -> Duration {
        self.cursor.elapsed(now)
    }

    fn record(&self, now: Instant, event: impl FnOnce() -> Happening) {
        if let Some(recorder) = &self.recorder {
            let at_us = micros(self.cursor.elapsed(now));
            recorder.write(&Entry { connection: self.connection, at_us, event: event() });
        }
    }
}

/// An offset as an index: a poem is in memory, and no offset in it is too large.
fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

impl Drop for Transfer {
    fn drop(&mut self) {
        if self.recorder.is_some() {
            self.give_up(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The async server holds one of them for every client that waits, see [`crate::net::timer`].
    #[test]
    #[cfg(target_pointer_width = "64")]
    fn a_transfer_is_small() {
        assert!(size_of::<Transfer>() <= 144);
    }
}
