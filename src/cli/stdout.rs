//! stdout as poems, reports and address lines need it: unbuffered, beside the bars, and calm when its reader is gone.

use std::io::{self, BufWriter, IsTerminal, Write};

use nix::errno::Errno;

use super::Error;
use super::terminal::{Screen, write_patiently};

/// Bytes of one write(2) of something long.
const PIECE: usize = 64 * 1024;

/// Writes all of `text` to stdout, at once.
///
/// # Errors
/// `cannot write stdout`. EPIPE is none: a reader that closes its pipe has read enough. Nor is EBADF: a program that
/// was started with a stdout that is not open for writing does its work without it, as with [`std::io::stdout`].
pub fn write_all(text: &[u8]) -> Result<(), Error> {
    told(try_write_all(text))
}

/// Calls `write` with stdout for something long, which is written a good deal at a time.
///
/// # Errors
/// As for [`write_all`]: a reader that has read enough ends it early, and well.
pub fn write_with(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Error> {
    let mut stdout = BufWriter::with_capacity(PIECE, Unbuffered(io::stdout()));
    let written = write(&mut stdout).and_then(|()| stdout.flush());
    // What is left has nobody to read it.
    let _ = stdout.into_parts();
    told(unless_closed(written))
}

fn told(written: io::Result<()>) -> Result<(), Error> {
    match written {
        Err(error) if error.raw_os_error() != Some(Errno::EBADF as i32) => {
            Err(Error::cannot("write", "stdout", &error))
        }
        _ => Ok(()),
    }
}

/// Asks stdout, with a write(2) of nothing, whether it is on a device that is full.
///
/// # Errors
/// As for [`write_all`].
pub fn check() -> Result<(), Error> {
    told(unless_closed(write_patiently(io::stdout(), &[]).map(drop)))
}

/// Like [`write_all`], for a caller that has its own words for an error.
///
/// # Errors
/// Those of write(2) but for EPIPE.
pub(crate) fn try_write_all(text: &[u8]) -> io::Result<()> {
    unless_closed(Unbuffered(io::stdout()).write_all(text))
}

fn unless_closed(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// stdout for poems, without a buffer: they come in large pieces already.
pub struct Stdout {
    stdout: Unbuffered,
    screen: Screen,
    is_terminal: bool,
    /// Whether each write ends with a newline: bars would be drawn over a line that has no end.
    ends_lines: bool,
    on_closed: Box<dyn Fn() + Send>,
}

impl Stdout {
    /// stdout beside the bars of `screen`. Calls `on_closed` on EPIPE, when it turns out that nobody reads any more.
    pub fn new(screen: Screen, on_closed: impl Fn() + Send + 'static) -> Self {
        let stdout = io::stdout();
        let is_terminal = stdout.is_terminal();
        let ends_lines = screen.has_bars() && is_terminal;
        Self { stdout: Unbuffered(stdout), screen, is_terminal, ends_lines, on_closed: Box::new(on_closed) }
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut write = || {
            let written = self.stdout.write(bytes)?;
            if self.ends_lines && !bytes[..written].ends_with(b"\n") {
                // On stderr, so that stdout carries the poem and nothing else.
                io::stderr().write_all(b"\n")?;
            }
            Ok(written)
        };
        // A pipe may stay full for long, and is not in the way of the bars.
        let result: io::Result<usize> = if self.is_terminal { self.screen.aside(write) } else { write() };
        if matches!(&result, Err(error) if error.kind() == io::ErrorKind::BrokenPipe) {
            (self.on_closed)();
        }
        result
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The descriptor of stdout, past the line buffer of [`io::Stdout`]; a full pipe or terminal is waited for.
struct Unbuffered(io::Stdout);

impl Write for Unbuffered {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        write_patiently(&self.0, bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
