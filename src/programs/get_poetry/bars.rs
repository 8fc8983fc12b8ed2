//! Progress bars on a terminal: one line per poem, folded to the height of the screen.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use console::{Term, truncate_str};
use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::terminal::Screen;
use crate::client::{Event, Observer, Source, Task};
use crate::report::Status;
use crate::sync::lock;

/// The time between two drawings. People see no faster change.
const TICK: Duration = Duration::from_millis(100);

/// The observer that draws bars. Events change a board; a thread draws the board ten times a second.
#[derive(Debug)]
pub(super) struct Bars {
    board: Arc<Mutex<Board>>,
    drawing: Arc<Mutex<Drawing>>,
    /// The end of a channel, dropped to end the thread.
    _alive: mpsc::Sender<()>,
}

impl Bars {
    /// Bars for these poems on `screen`, if it has any; times count from `clock`.
    pub(super) fn new(screen: &Screen, sources: &[Source], clock: Instant) -> Option<Self> {
        let bars = screen.bars()?;
        let board = Arc::new(Mutex::new(Board::new(sources)));
        let drawing = Arc::new(Mutex::new(Drawing { bars, lines: Vec::new(), closed: false }));
        let (alive, ticks) = mpsc::channel();
        let (shared_board, shared_canvas) = (Arc::clone(&board), Arc::clone(&drawing));
        let draw = move || {
            while ticks.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                let (rows, columns) = Term::stderr().size();
                let lines = lock(&shared_board).render(rows.into(), clock.elapsed());
                // One less: what is cleared behind a line that fills its row would be its last character.
                let width = columns.saturating_sub(1).into();
                let cut = |line: &String| truncate_str(line, width, "").into_owned();
                let lines: Vec<_> = lines.iter().map(cut).collect();
                lock(&shared_canvas).draw(&lines);
            }
        };
        // Without a thread there are no bars; the poems matter more.
        thread::Builder::new().name("bars".to_owned()).spawn(draw).ok()?;
        Some(Self { board, drawing, _alive: alive })
    }

    /// Takes the bars off the screen for good.
    pub(super) fn clear(&self) {
        let mut drawing = lock(&self.drawing);
        drawing.closed = true;
        // Nothing can be done about a terminal that does not take it.
        let _ = drawing.bars.clear();
        // indicatif would redraw them after the next log line.
        drawing.bars.set_draw_target(ProgressDrawTarget::hidden());
    }
}

impl Observer for Bars {
    fn observe(&self, task: Task<'_>, at: Duration, event: &Event<'_>) {
        lock(&self.board).note(task.number - 1, at, event);
    }
}

/// The lines on the screen.
#[derive(Debug)]
struct Drawing {
    bars: MultiProgress,
    lines: Vec<ProgressBar>,
    /// Whether nothing is to be drawn any more.
    closed: bool,
}

impl Drawing {
    fn draw(&mut self, lines: &[String]) {
        if self.closed {
            return;
        }
        while self.lines.len() > lines.len()
            && let Some(bar) = self.lines.pop()
        {
            bar.finish_and_clear();
            self.bars.remove(&bar);
        }
        while self.lines.len() < lines.len() {
            let style = ProgressStyle::with_template("{msg}").expect("a valid template");
            let bar = self.bars.add(ProgressBar::no_length().with_style(style));
            self.lines.push(bar);
        }
        for (bar, line) in self.lines.iter().zip(lines) {
            bar.set_message(line.clone());
        }
    }
}

/// The state of every poem, as far as bars show it.
#[derive(Debug)]
struct Board {
    poems: Vec<Poem>,
    done: usize,
    not_found: usize,
    failed: usize,
}

#[derive(Debug)]
struct Poem {
    title: String,
    state: State,
    bytes: u64,
    /// The bytes that there will be, if that is known.
    length: Option<u64>,
    connected: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    NotStarted,
    Connecting,
    Waiting,
    Receiving,
    Transforming,
    Delivering,
    Pausing,
    Over,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::NotStarted => "not started",
            Self::Connecting => "connecting",
            Self::Waiting => "waiting",
            Self::Receiving => "receiving",
            Self::Transforming => "transforming",
            Self::Delivering => "delivering",
            Self::Pausing => "to be retried",
            Self::Over => "over",
        }
    }
}

impl Board {
    fn new(sources: &[Source]) -> Self {
        let digits = sources.len().to_string().len();
        let width = sources.iter().map(|source| source.to_string().len()).max().unwrap_or(0);
        let poem = |(index, source): (usize, &Source)| Poem {
            title: format!("Task {:digits$}  {:width$}", index + 1, source.to_string()),
            state: State::NotStarted,
            bytes: 0,
            length: None,
            connected: Duration::ZERO,
        };
        Self { poems: sources.iter().enumerate().map(poem).collect(), done: 0, not_found: 0, failed: 0 }
    }

    fn note(&mut self, index: usize, at: Duration, event: &Event<'_>) {
        let poem = &mut self.poems[index];
        poem.state = match event {
            Event::Replied { length, .. } => {
                poem.length = poem.length.or(*length);
                return;
            }
            Event::Started
            | Event::Requested(_)
            | Event::ConnectedVia
            | Event::Changed(_)
            | Event::Unchanged { .. } => return,
            Event::Attempt(_) => {
                (poem.bytes, poem.length) = (0, None);
                State::Connecting
            }
            Event::Redirected(_) => State::Connecting,
            // What stands beside the poem is asked for when the poem is here.
            Event::Connected { .. } if poem.bytes > 0 => return,
            Event::Connected { .. } => {
                poem.connected = at;
                State::Waiting
            }
            Event::Received(bytes) => {
                poem.bytes += *bytes as u64;
                State::Receiving
            }
            Event::Asking(_) => State::Transforming,
            Event::Whole => State::Delivering,
            Event::Retry { .. } => State::Pausing,
            Event::Done { .. } => {
                self.done += 1;
                State::Over
            }
            Event::Failed(failure) => {
                if poem.state == State::Over {
                    self.done -= 1;
                }
                match failure.status() {
                    Status::NotFound => self.not_found += 1,
                    _ => self.failed += 1,
                }
                State::Over
            }
        };
    }

    /// The lines for a screen of `rows` rows: one for each poem that is not over, and if they are too many the last
    /// line for all the others together.
    fn render(&self, rows: usize, now: Duration) -> Vec<String> {
        let room = rows.saturating_sub(1).max(1);
        let open: Vec<&Poem> = self.poems.iter().filter(|poem| poem.state != State::Over).collect();
        if open.len() <= room {
            return open.iter().map(|poem| poem.line(now)).collect();
        }
        let (shown, folded) = open.split_at(room - 1);
        let mut lines: Vec<String> = shown.iter().map(|poem| poem.line(now)).collect();
        lines.push(self.fold(folded));
        lines
    }

    fn fold(&self, poems: &[&Poem]) -> String {
        let states = [
            State::Receiving,
            State::Transforming,
            State::Delivering,
            State::Waiting,
            State::Connecting,
            State::Pausing,
            State::NotStarted,
        ];
        let count = |state| poems.iter().filter(|poem| poem.state == state).count();
        let mut parts: Vec<String> = states
            .iter()
            .filter(|&&state| count(state) > 0)
            .map(|&state| format!("{} {}", count(state), state.word()))
            .collect();
        parts.push(HumanBytes(poems.iter().map(|poem| poem.bytes).sum()).to_string());
        let mut over = Vec::new();
        if self.done + self.not_found + self.failed > 0 {
            over.push(format!("{} done", self.done));
        }
        for (number, word) in [(self.not_found, "not found"), (self.failed, "failed")] {
            if number > 0 {
                over.push(format!("{number} {word}"));
            }
        }
        let over = if over.is_empty() { String::new() } else { format!("; {}", over.join(", ")) };
        format!("and {} more: {}{over}", poems.len(), parts.join(", "))
    }
}

impl Poem {
    fn line(&self, now: Duration) -> String {
        let start = format!("{}  {:10}", self.title, self.state.word());
        if self.state != State::Receiving {
            return start.trim_end().to_owned();
        }
        let millis = now.saturating_sub(self.connected).as_millis().max(1);
        let rate = u64::try_from(u128::from(self.bytes) * 1_000 / millis).unwrap_or(u64::MAX);
        let line =
            format!("{start}  {:>12}  {:>12}/s", HumanBytes(self.bytes).to_string(), HumanBytes(rate).to_string());
        match self.length.filter(|&length| length > 0) {
            None => line,
            Some(length) => {
                let percent = u128::from(self.bytes) * 100 / u128::from(length);
                format!("{line}  {:>3} % of {}", percent.min(100), HumanBytes(length))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Failure;

    const SECOND: Duration = Duration::from_secs(1);

    fn board(poems: u16) -> Board {
        let sources: Vec<Source> = (0..poems).map(|n| (10_000 + n).to_string().parse().expect("a port")).collect();
        Board::new(&sources)
    }

    #[test]
    fn each_poem_has_its_line_until_it_is_over() {
        let mut board = board(3);
        board.note(0, SECOND, &Event::Attempt(1));
        board.note(0, SECOND, &Event::Connected { reused: false });
        board.note(0, 2 * SECOND, &Event::Received(600));
        board.note(1, SECOND, &Event::Attempt(1));
        assert_eq!(
            board.render(24, 3 * SECOND),
            [
                "Task 1  127.0.0.1:10000  receiving          600 B         300 B/s",
                "Task 2  127.0.0.1:10001  connecting",
                "Task 3  127.0.0.1:10002  not started",
            ]
        );
        board.note(0, 3 * SECOND, &Event::Done { bytes: 600, elapsed: SECOND });
        board.note(1, 3 * SECOND, &Event::Failed(&Failure::Bug));
        assert_eq!(board.render(24, 3 * SECOND), ["Task 3  127.0.0.1:10002  not started"]);
    }

    #[test]
    fn what_does_not_fit_is_folded_into_the_last_line() {
        let mut board = board(40);
        for poem in 0..30 {
            board.note(poem, SECOND, &Event::Attempt(1));
            board.note(poem, SECOND, &Event::Connected { reused: false });
            board.note(poem, SECOND, &Event::Received(10));
        }
        board.note(0, SECOND, &Event::Done { bytes: 10, elapsed: SECOND });
        board.note(1, SECOND, &Event::Failed(&Failure::Bug));
        let lines = board.render(10, SECOND);
        assert_eq!(lines.len(), 9);
        assert_eq!(lines[8], "and 30 more: 20 receiving, 10 not started, 200 B; 1 done, 1 failed");
        assert_eq!(board.render(1, SECOND).len(), 1);
    }

    #[test]
    fn a_length_that_is_known_gives_percents_that_begin_anew_with_a_retry() {
        let mut board = board(1);
        let failure = Failure::Bug;
        for _ in 0..2 {
            board.note(0, SECOND, &Event::Attempt(1));
            board.note(0, SECOND, &Event::Connected { reused: false });
            assert_eq!(board.render(24, 3 * SECOND), ["Task 1  127.0.0.1:10000  waiting"]);
            board.note(0, SECOND, &Event::Replied { status: 200, length: Some(1_000) });
            board.note(0, 2 * SECOND, &Event::Received(599));
            let line = "Task 1  127.0.0.1:10000  receiving          599 B         299 B/s   59 % of 1000 B";
            assert_eq!(board.render(24, 3 * SECOND), [line]);
            board.note(0, 2 * SECOND, &Event::Received(900));
            assert!(board.render(24, 3 * SECOND)[0].contains("  100 % of "), "{:?}", board.render(24, 3 * SECOND));
            board.note(0, 3 * SECOND, &Event::Retry { failure: &failure, pause: SECOND });
        }
    }

    #[test]
    fn the_folded_line_counts_outcomes() {
        let mut board = board(40);
        board.note(0, SECOND, &Event::Done { bytes: 10, elapsed: SECOND });
        let not_found = Failure::Status { code: 404, reason: String::new(), retry_after: None };
        board.note(1, SECOND, &Event::Failed(&not_found));
        let last = |board: &Board| board.render(2, SECOND).pop().expect("a line");
        assert_eq!(last(&board), "and 38 more: 38 not started, 0 B; 1 done, 1 not found");
        board.note(2, SECOND, &Event::Failed(&Failure::Bug));
        assert_eq!(last(&board), "and 37 more: 37 not started, 0 B; 1 done, 1 not found, 1 failed");
    }

    #[test]
    fn a_poem_that_fails_after_all_counts_once() {
        let mut board = board(3);
        board.note(0, SECOND, &Event::Done { bytes: 0, elapsed: SECOND });
        board.note(0, SECOND, &Event::Failed(&Failure::Bug));
        assert_eq!((board.done, board.failed), (0, 1));
    }
}
