//! The terminal behind stderr: messages beside progress bars, colours, size.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use console::Term;
use indicatif::{MultiProgress, ProgressDrawTarget, TermLike};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing_subscriber::fmt::MakeWriter;

use crate::report::waterfall::text::Canvas;

/// The terminal behind stderr, shared by progress bars and everything else that is written there.
///
/// The default has no bars. As a [`MakeWriter`] a screen is where log lines go: [`Stderr`].
#[derive(Debug, Clone, Default)]
pub struct Screen(Option<MultiProgress>);

impl Screen {
    /// A screen with bars at its bottom.
    pub fn with_bars() -> Self {
        Self(Some(MultiProgress::with_draw_target(draw_target())))
    }

    /// Whether bars are drawn.
    pub fn has_bars(&self) -> bool {
        self.0.is_some()
    }

    /// The bars, if there are any.
    pub fn bars(&self) -> Option<MultiProgress> {
        self.0.clone()
    }

    /// Takes the bars away while `write` writes to the terminal.
    pub fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        match &self.0 {
            Some(bars) => bars.suspend(write),
            None => write(),
        }
    }
}

impl<'a> MakeWriter<'a> for Screen {
    type Writer = Stderr;

    fn make_writer(&'a self) -> Stderr {
        Stderr(self.clone())
    }
}

/// stderr beside the bars of a [`Screen`], one whole message a write.
#[derive(Debug)]
pub struct Stderr(Screen);

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.aside(|| write_patiently(io::stderr(), bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One write(2), past any buffer. If another process that shares the terminal or pipe has set O_NONBLOCK, poll(2) waits
/// until the stream takes something.
pub(super) fn write_patiently(stream: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match nix::unistd::write(stream.as_fd(), bytes) {
            Err(Errno::EAGAIN) => {
                poll(&mut [PollFd::new(stream.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE)?;
            }
            result => return Ok(result?),
        }
    }
}

/// Whether stderr is a terminal, and `NO_COLOR` does not forbid colours (no-color.org).
pub fn colour() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stderr().is_terminal() && !refused
}

/// The size, characters and colours of a picture on stderr.
pub fn canvas() -> Canvas {
    let (rows, columns) = Term::stderr().size_checked().unwrap_or((60, 80));
    let locale =
        ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(std::env::var_os).find(|value| !value.is_empty());
    let locale = locale.unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    Canvas {
        width: columns.into(),
        // The picture with its axis, and the messages before it, fit on one screen.
        lanes: usize::from(rows).saturating_sub(6).max(3),
        unicode: locale.contains("utf-8") || locale.contains("utf8"),
        colour: colour(),
    }
}

/// Redraws of the bars in a second at most, however many lines change.
const REDRAWS: u8 = 20;

/// Columns that lines of bars leave free at the right edge, for the echo of a key or two.
pub const MARGIN: u16 = 4;

/// The draw target of bars: stderr, which has to be a terminal.
pub fn draw_target() -> ProgressDrawTarget {
    let terminal = OffTheEdge { terminal: Term::buffered_stderr(), at_edge: AtomicBool::new(false) };
    ProgressDrawTarget::term_like_with_hz(Box::new(terminal), REDRAWS)
}

/// A terminal whose cursor does not rest at its right edge after a drawing.
///
/// The last line of the bars is filled up to the edge. The `^C` that a terminal echoes would begin a new line there,
/// and what is then cleared would be one line too low.
#[derive(Debug)]
struct OffTheEdge {
    terminal: Term,
    /// Whether something is drawn, and the cursor has not moved yet.
    at_edge: AtomicBool,
}

impl TermLike for OffTheEdge {
    fn width(&self) -> u16 {
        TermLike::width(&self.terminal)
    }

    fn height(&self) -> u16 {
        TermLike::height(&self.terminal)
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.terminal.move_cursor_up(n)
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.terminal.move_cursor_down(n)
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.terminal.move_cursor_right(n)
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.terminal.move_cursor_left(n)
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.terminal.write_line(text)
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.at_edge.store(true, Relaxed);
        self.terminal.write_str(text)
    }

    fn clear_line(&self) -> io::Result<()> {
        self.terminal.clear_line()
    }

    /// Ends a drawing. The next one begins at the start of a line.
    fn flush(&self) -> io::Result<()> {
        if self.at_edge.swap(false, Relaxed) {
            self.terminal.move_cursor_left(MARGIN.into())?;
        }
        self.terminal.flush()
    }
}
