//! The log of a server on its stderr, written by a thread of its own, so that a reader who does not read holds up nobody.
//!
//! ```text
//!   a worker ── a line ──▶ backlog (1 MiB) ──▶ the thread ── write(2) ──▶ stderr
//!                             full: waits as long as stderr takes something now and then; lost and counted if not
//! ```
//!
//! Until [`Journal::start`] there is no thread, and lines are written where they are logged: a program that is to become
//! another user's must not have one before that.

use std::io::{self, Write};
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;
use tracing_subscriber::fmt::MakeWriter;

use super::Error;
use super::terminal::write_patiently;
use crate::sync::lock;

/// Bytes of lines that wait for stderr. If there are more, whoever logs one has to wait.
const CAPACITY: usize = 1 << 20;

/// A stderr that takes nothing for so long has no reader; from then on lines are lost until it has caught up.
const PATIENCE: Duration = Duration::from_secs(2);

/// `PIPE_BUF`: so much is written to a pipe as a whole, and each such write shows that there is a reader.
const PIECE: usize = 4096;

/// A buffer as large as this is kept for the next lines.
const SPARE: usize = 64 * 1024;

/// The journal of this process, once it has its thread.
static STARTED: OnceLock<Journal> = OnceLock::new();

/// Lines on their way to stderr. Clones speak of the same ones.
#[derive(Debug, Clone)]
pub struct Journal(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// There are lines for the thread.
    filled: Condvar,
    /// Something was written.
    written: Condvar,
}

#[derive(Debug)]
struct State {
    backlog: Backlog,
    /// The thread waits for lines.
    is_idle: bool,
    /// So many wait until something is written.
    waiting: usize,
}

impl Journal {
    /// A journal whose own lines are JSON, like all others, or text.
    pub fn new(is_json: bool) -> Self {
        let state = State { backlog: Backlog::new(is_json, Instant::now()), is_idle: false, waiting: 0 };
        Self(Arc::new(Shared { state: Mutex::new(state), filled: Condvar::new(), written: Condvar::new() }))
    }

    /// Starts the thread. It is the journal of this process from then on, for [`flush`].
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(&self) -> Result<(), Error> {
        let shared = Arc::clone(&self.0);
        let started = thread::Builder::new().name("log".to_owned()).spawn(move || shared.write_for_ever());
        started.map_err(|error| Error::no_thread(&error))?;
        let _ = STARTED.set(self.clone());
        Ok(())
    }
}

/// Writes a line to stderr, after all that has been logged. A failure is ignored: there is no other place to report it.
pub(super) fn say(line: &str) {
    match STARTED.get() {
        Some(journal) => journal.0.push(line.as_bytes()),
        None => drop(io::stderr().write_all(line.as_bytes())),
    }
}

/// Waits until all lines are written, at most for the time `limit`. Those that are lost by then are told of at the end.
pub fn flush(limit: Duration) {
    if let Some(Journal(shared)) = STARTED.get() {
        shared.flush(limit);
    }
}

impl<'a> MakeWriter<'a> for Journal {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

impl Write for &Journal {
    /// Takes whole lines; always succeeds.
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        match STARTED.get() {
            Some(_) => {
                self.0.push(lines);
                Ok(lines.len())
            }
            None => write_patiently(io::stderr(), lines),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn push(&self, line: &[u8]) {
        let mut state = lock(&self.state);
        while let Push::Wait(time) = state.backlog.push(line, Instant::now()) {
            state = self.wait(state, time);
        }
        self.wake(&mut state);
    }

    /// Wakes the thread, if it sleeps and there is something to do.
    fn wake(&self, state: &mut State) {
        if state.backlog.has_lines() && mem::take(&mut state.is_idle) {
            self.filled.notify_one();
        }
    }

    /// Waits until something is written, or for the time `limit`.
    fn wait<'a>(&self, mut state: MutexGuard<'a, State>, limit: Duration) -> MutexGuard<'a, State> {
        state.waiting += 1;
        let (mut state, _) = self.written.wait_timeout(state, limit).unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
        state
    }

    fn flush(&self, limit: Duration) {
        let until = Instant::now() + limit;
        let mut state = lock(&self.state);
        state.backlog.tell_loss();
        self.wake(&mut state);
        while !state.backlog.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.wait(state, left);
        }
    }

    /// What the thread does.
    fn write_for_ever(&self) {
        let mut lines = Vec::new();
        loop {
            let mut state = lock(&self.state);
            while !state.backlog.has_lines() {
                state.is_idle = true;
                state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.is_idle = false;
            state.backlog.take(&mut lines, Instant::now());
            drop(state);
            for piece in pieces(&lines) {
                self.write_piece(piece);
            }
            lines.clear();
            if lines.capacity() > SPARE {
                lines = Vec::new();
            }
        }
    }

    fn write_piece(&self, mut piece: &[u8]) {
        while !piece.is_empty() {
            // What cannot be written is written nowhere: nobody could be told.
            let written = match write_patiently(io::stderr(), piece) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Ok(0) | Err(_) => piece.len(),
                Ok(written) => written,
            };
            piece = &piece[written..];
            let mut state = lock(&self.state);
            state.backlog.written(written, Instant::now());
            if state.waiting > 0 {
                self.written.notify_all();
            }
        }
    }
}

/// As many whole lines as fit into a piece, again and again; a longer line alone.
fn pieces(lines: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = lines;
    std::iter::from_fn(move || {
        let newline = |bytes: &[u8]| bytes.iter().rposition(|&byte| byte == b'\n');
        let end = match newline(&rest[..rest.len().min(PIECE)]) {
            Some(last) => last + 1,
            None => rest.iter().position(|&byte| byte == b'\n').map_or(rest.len(), |first| first + 1),
        };
        let (piece, left) = rest.split_at(end);
        rest = left;
        (!piece.is_empty()).then_some(piece)
    })
}

/// The lines that wait, and what becomes of one more. Time is an argument.
#[derive(Debug)]
struct Backlog {
    lines: Vec<u8>,
    /// Bytes that are being written.
    in_flight: usize,
    /// When the reader has last taken something, or there was nothing to take.
    moved: Instant,
    /// Lines are lost without waiting, until the reader has caught up.
    is_stalled: bool,
    lost: u64,
    is_json: bool,
}

/// What becomes of a line.
#[derive(Debug, PartialEq)]
enum Push {
    Done,
    /// There is no room: try again when something is written, or after this time.
    Wait(Duration),
}

impl Backlog {
    fn new(is_json: bool, now: Instant) -> Self {
        Self { lines: Vec::new(), in_flight: 0, moved: now, is_stalled: false, lost: 0, is_json }
    }

    /// Takes a line, or counts it as lost.
    fn push(&mut self, line: &[u8], now: Instant) -> Push {
        if self.is_empty() {
            self.moved = now;
        } else if self.len() + line.len() > CAPACITY {
            let left = PATIENCE.saturating_sub(now.saturating_duration_since(self.moved));
            if !self.is_stalled && !left.is_zero() {
                return Push::Wait(left);
            }
            self.is_stalled = true;
            self.lost += 1;
            return Push::Done;
        }
        self.tell_loss();
        self.lines.extend_from_slice(line);
        Push::Done
    }

    /// Says where lines are missing, if some are.
    fn tell_loss(&mut self) {
        if self.lost == 0 {
            return;
        }
        let lines = if self.lost == 1 { "line" } else { "lines" };
        let text = format!("Lost {} {lines} of this log: nobody read stderr", mem::take(&mut self.lost));
        let now = SystemTime::now();
        let line = match self.is_json {
            false => format!("{}  WARN {text}\n", humantime::format_rfc3339_millis(now)),
            true => {
                let timestamp = humantime::format_rfc3339_micros(now).to_string();
                let fields = json!({ "message": text });
                let line =
                    json!({ "timestamp": timestamp, "level": "WARN", "fields": fields, "target": module_path!() });
                format!("{line}\n")
            }
        };
        self.lines.extend_from_slice(line.as_bytes());
    }

    /// Exchanges the lines for an empty buffer; they are to be [written](Self::written) now.
    fn take(&mut self, empty: &mut Vec<u8>, now: Instant) {
        mem::swap(&mut self.lines, empty);
        self.in_flight = empty.len();
        self.moved = now;
    }

    /// So many bytes of those that were taken are written.
    fn written(&mut self, bytes: usize, now: Instant) {
        self.in_flight = self.in_flight.saturating_sub(bytes);
        self.moved = now;
        self.is_stalled &= !self.is_empty();
    }

    fn has_lines(&self) -> bool {
        !self.lines.is_empty()
    }

    fn len(&self) -> usize {
        self.lines.len() + self.in_flight
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_whole_lines() {
        let long = [vec![b'x'; 2 * PIECE], b"\n".to_vec()].concat();
        let text = [b"a\nb\n".to_vec(), long.clone(), b"c\n".repeat(PIECE / 2 + 1), b"d".to_vec()].concat();
        let found: Vec<&[u8]> = pieces(&text).collect();
        assert_eq!(found, [b"a\nb\n", &long[..], &b"c\n".repeat(PIECE / 2), b"c\n", b"d"]);
        assert_eq!(pieces(b"").count(), 0);
    }

    #[test]
    fn a_slow_reader_gets_every_line_and_one_that_is_gone_learns_how_many_it_has_missed() {
        let start = Instant::now();
        let at = |millis: u64| start + Duration::from_millis(millis);
        let line = vec![b'x'; CAPACITY / 2];
        let mut backlog = Backlog::new(false, start);
        for _ in 0..2 {
            assert_eq!(backlog.push(&line, at(0)), Push::Done);
        }
        // Full: it is waited for, as long as something is taken now and then.
        assert_eq!(backlog.push(b"late\n", at(500)), Push::Wait(Duration::from_millis(1_500)));
        let mut taken = Vec::new();
        backlog.take(&mut taken, at(1_000));
        assert_eq!(backlog.push(b"late\n", at(2_500)), Push::Wait(Duration::from_millis(500)));
        backlog.written(1, at(2_900));
        assert_eq!(backlog.push(b"late\n", at(4_800)), Push::Wait(Duration::from_millis(100)));
        // Nobody reads: lines are lost, and nobody waits any more until all that was there is read.
        for _ in 0..3 {
            assert_eq!(backlog.push(b"lost\n", at(4_900)), Push::Done);
        }
        backlog.written(taken.len() - 6, at(5_000));
        assert_eq!(backlog.push(&line, at(5_000)), Push::Done);
        assert_eq!(backlog.push(&line, at(5_000)), Push::Done, "lost without a wait");
        assert_eq!((backlog.lost, backlog.is_stalled), (1, true));
        let text = String::from_utf8(backlog.lines.clone()).expect("text");
        assert!(text.contains("  WARN Lost 3 lines of this log: nobody read stderr\nxxx"), "{}", &text[..100]);
        let mut rest = Vec::new();
        backlog.written(5, at(6_000));
        backlog.take(&mut rest, at(6_000));
        backlog.written(rest.len(), at(6_000));
        assert!(!backlog.is_stalled);
        backlog.tell_loss();
        assert!(String::from_utf8_lossy(&backlog.lines).contains("Lost 1 line of this log"));
    }
}
