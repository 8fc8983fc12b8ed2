//! A [`Plan`] at work: the transfers of a poem server, and the recording of what really happened.
//!
//! Both poem servers, the blocking and the async one, do only what a [`Transfer`] says, and tell it how far that got,
//! in the order of calls of a [`Cursor`]. Time is an argument.

use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::net::SendFlags;
use tracing::info;

use super::recorder::Recorder;
use super::wire::Body;
use crate::metrics::{Metric, Page};
use crate::pace::recording::{Entry, Happening};
use crate::pace::{Cursor, Departure, Ending, Next, Pace, Plan};
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
    body: Body,
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
    pub(super) fn begin(&self, peer: &impl ToString, body: Body, now: Instant, socket: impl AsFd) -> Transfer {
        let connection = self.connections.fetch_add(1, Relaxed) + 1;
        let cursor = Cursor::new(self.plan.schedule(connection), now);
        let transfer = Transfer { connection, body, cursor, recorder: self.recorder.clone() };
        transfer.record(now, || Happening::Accept { peer: Some(peer.to_string()), time: Some(Recorder::time(now)) });
        if let Some(recorder) = &self.recorder {
            recorder.watch(connection, now, socket);
        }
        transfer
    }

    /// Records a client whose connection was accepted at `now`, and is reset because there is no poem for it.
    pub(super) fn refuse(&self, peer: &impl ToString, now: Instant, socket: impl AsFd) {
        self.begin(peer, Body::Plain(Vec::new().into()), now, socket).give_up(Instant::now());
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

    /// Connections that were cut as planned.
    pub fn cuts(&self) -> u64 {
        self.faults.all().iter().sum()
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
    /// A transfer at once and without faults, which no plan knows of.
    pub(super) fn unplanned(body: Body, now: Instant) -> Self {
        let cursor = Cursor::new(Plan::uniform(0, Pace::default()).schedule(1), now);
        Self { connection: 0, body, cursor, recorder: None }
    }

    /// What to do at the moment `now`: see [`Cursor::next`]. A send of no bytes of the body is one of what is around it.
    pub(super) fn next(&mut self, now: Instant) -> Next {
        let next = self.cursor.next(now, self.body.len(), true);
        let end = self.cursor.position();
        match next {
            // A cut by time comes whatever is still to be said.
            Next::End(how) if self.cursor.time_left(now) != Some(Duration::ZERO) => {
                match self.body.is_owing(how == Ending::Fin && end == self.body.len()) {
                    true => Next::Send { bytes: end..end, is_last: false },
                    false => next,
                }
            }
            Next::Flush if self.body.is_owing(false) => Next::Send { bytes: end..end, is_last: false },
            // With its framing, the end of a body is not that of the stream.
            Next::Send { bytes, .. } if matches!(self.body, Body::Framed(_)) => Next::Send { bytes, is_last: false },
            next => next,
        }
    }

    /// Sends these bytes of the body, or what is to be said before, or as much as the kernel takes, and counts and records
    /// it. Returns how many bytes that were in all.
    ///
    /// # Errors
    /// Those of the system call; `WouldBlock` if the kernel takes nothing now, unless `flags` have it wait.
    pub(super) fn send(
        &mut self,
        socket: BorrowedFd<'_>,
        bytes: Range<u64>,
        flags: SendFlags,
        now: impl FnOnce() -> Instant,
    ) -> io::Result<usize> {
        let (sent, of_body) = self.body.send(socket, bytes, flags)?;
        if of_body > 0 {
            let (bytes, now) = (of_body as u64, now());
            self.record(now, || Happening::Send { bytes });
            self.cursor.sent(bytes, now);
        }
        Ok(sent)
    }

    /// Whether all of it has been sent, and that it is all.
    pub(super) fn is_whole(&self) -> bool {
        self.cursor.position() == self.body.len()
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
        how != Ending::Fin || !self.is_whole()
    }

    /// What a planned end is, for the log: `Reset 127.0.0.1:40000 after 100 of 653 bytes in 1.0 s, as planned`. `None`:
    /// the end of a whole poem.
    pub(super) fn cut(&self, peer: &impl fmt::Display, how: Ending, elapsed: Duration) -> Option<String> {
        let what = match how {
            Ending::Fin => "Ended",
            Ending::Rst => "Reset",
            Ending::Hang => "Silent to",
        };
        let (sent, all, time) = (self.bytes_sent(), count(self.body.len(), "byte"), human(elapsed));
        self.is_cut(how).then(|| format!("{what} {peer} after {sent} of {all} in {time}, as planned"))
    }

    /// Number of bytes of the whole body.
    pub(super) fn len(&self) -> u64 {
        self.body.len()
    }

    /// Number of its bytes that the client took.
    pub(super) fn bytes_sent(&self) -> u64 {
        self.cursor.position()
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
        assert!(size_of::<Transfer>() <= 152);
    }
}
