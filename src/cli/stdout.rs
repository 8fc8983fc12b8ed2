//! stdout as poems and reports need it: unbuffered, beside the bars, and calm when nobody reads any more.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::terminal::Screen;

/// stdout without a line buffer: poems come in large pieces already.
pub struct Stdout {
    file: File,
    screen: Screen,
    is_terminal: bool,
    /// Bars are drawn over a line that has no end.
    ends_lines: bool,
    on_closed: Box<dyn Fn() + Send>,
}

impl Stdout {
    /// Calls `on_closed` when it turns out that nobody reads any more.
    ///
    /// # Errors
    /// There is no descriptor left for it.
    pub fn new(screen: Screen, on_closed: impl Fn() + Send + 'static) -> io::Result<Self> {
        let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let is_terminal = file.is_terminal();
        let ends_lines = screen.has_bars() && is_terminal;
        Ok(Self { file, screen, is_terminal, ends_lines, on_closed: Box::new(on_closed) })
    }
}

/// Writes to a stream that may be non-blocking, because somebody who shares the terminal or pipe has made it so.
pub(super) fn write_patiently(mut stream: impl Write + AsFd, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match stream.write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                poll(&mut [PollFd::new(stream.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE)?;
            }
            result => return result,
        }
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let write = || {
            let written = write_patiently(&self.file, bytes)?;
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
