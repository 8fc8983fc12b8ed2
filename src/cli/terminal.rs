//! The terminal behind stderr: messages beside progress bars, colours, size.

use std::io::{self, IsTerminal, Write};
use std::mem;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Mutex;

use console::Term;
use indicatif::{MultiProgress, ProgressDrawTarget, TermLike};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing_subscriber::fmt::MakeWriter;

use crate::report::waterfall::text::Canvas;
use crate::sync::lock;

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

/// Whether two descriptors lead to the same terminal, pipe or file: fstat(2).
pub fn is_same_stream(one: impl AsFd, other: impl AsFd) -> bool {
    let identity = |stream: BorrowedFd<'_>| nix::sys::stat::fstat(stream).map(|found| (found.st_dev, found.st_ino));
    matches!((identity(one.as_fd()), identity(other.as_fd())), (Ok(one), Ok(other)) if one == other)
}

/// Whether stderr is a terminal, and `NO_COLOR` does not forbid colours (no-color.org).
pub fn colour() -> bool {
    io::stderr().is_terminal() && is_colour_welcome()
}

fn is_colour_welcome() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// The size, characters and colours of a picture on stderr.
pub fn canvas() -> Canvas {
    canvas_of(&Term::stderr(), colour())
}

/// The size, characters and colours of a picture on stdout.
pub fn canvas_on_stdout() -> Canvas {
    canvas_of(&Term::stdout(), io::stdout().is_terminal() && is_colour_welcome())
}

/// Off a terminal it is 80 columns wide.
fn canvas_of(terminal: &Term, colour: bool) -> Canvas {
    let (rows, columns) = terminal.size_checked().unwrap_or((60, 80));
    let locale =
        ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(std::env::var_os).find(|value| !value.is_empty());
    let locale = locale.unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    Canvas {
        width: columns.into(),
        // The picture with its axis, and the messages before it, fit on one screen.
        lanes: usize::from(rows).saturating_sub(6).max(3),
        unicode: locale.contains("utf-8") || locale.contains("utf8"),
        colour,
    }
}

/// Redraws of the bars in a second at most, however many lines change.
const REDRAWS: u8 = 20;

/// The draw target of bars: stderr, which has to be a terminal.
pub fn draw_target() -> ProgressDrawTarget {
    let terminal = Bottom { terminal: Term::buffered_stderr(), drawing: Mutex::default() };
    ProgressDrawTarget::term_like_with_hz(Box::new(terminal), REDRAWS)
}

/// The bottom of a terminal, for bars, which may be resized at any time.
///
/// The library pads its lines up to the right edge, so that they are one long line to the terminal, leaves the cursor
/// at the end, and counts rows to get back. A terminal that breaks its lines anew when it is resized has other rows
/// then. Here each bar is a line of its own, cut off at the edge, and the cursor rests before the first one: what is
/// to be cleared is always all that follows the cursor, however many rows that is, and whatever was typed there.
#[derive(Debug)]
struct Bottom {
    terminal: Term,
    drawing: Mutex<Drawing>,
}

/// A drawing that is being made.
#[derive(Debug, Default)]
struct Drawing {
    lines: Vec<String>,
    /// Whether an earlier one is on the screen.
    is_shown: bool,
}

impl Drawing {
    /// The sequence (ECMA-48) that puts the lines in the place of those that are on the screen.
    ///
    /// It never clears (ED) from the corner of a screen, which some terminals take for a whole page that is to be kept.
    fn take(&mut self) -> String {
        let lines = mem::take(&mut self.lines);
        match (mem::replace(&mut self.is_shown, !lines.is_empty()), lines.len()) {
            (false, 0) => String::new(),
            (true, 0) => "\r \x1b[J\r\x1b[K".to_owned(),
            // DECAWM off: at the right edge a line ends.
            (_, 1) => format!("\r\x1b[?7l{}\x1b[J\x1b[?7h\r", lines[0]),
            (_, n) => format!("\r\x1b[?7l{}\x1b[J\x1b[?7h\r\x1b[{}A", lines.join("\x1b[K\r\n"), n - 1),
        }
    }
}

impl TermLike for Bottom {
    fn width(&self) -> u16 {
        TermLike::width(&self.terminal)
    }

    fn height(&self) -> u16 {
        TermLike::height(&self.terminal)
    }

    // The way back to the first line, and clearing, are no business of the library's.

    fn move_cursor_up(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_down(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_right(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_left(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        Ok(())
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.write_str(text)
    }

    /// Adds a line. What is blank is the padding of one.
    fn write_str(&self, text: &str) -> io::Result<()> {
        if !text.trim().is_empty() {
            lock(&self.drawing).lines.push(text.to_owned());
        }
        Ok(())
    }

    /// Ends a drawing.
    fn flush(&self) -> io::Result<()> {
        self.terminal.write_str(&lock(&self.drawing).take())?;
        self.terminal.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drawing_takes_the_place_of_the_one_before_it_without_counting_rows() {
        let mut drawing = Drawing::default();
        assert_eq!(drawing.take(), "");
        drawing.lines = ["one", "two"].map(str::to_owned).to_vec();
        assert_eq!(drawing.take(), "\r\x1b[?7lone\x1b[K\r\ntwo\x1b[J\x1b[?7h\r\x1b[1A");
        drawing.lines = vec!["three".to_owned()];
        assert_eq!(drawing.take(), "\r\x1b[?7lthree\x1b[J\x1b[?7h\r");
        assert_eq!(drawing.take(), "\r \x1b[J\r\x1b[K");
        assert_eq!(drawing.take(), "");
    }
}
