//! A bell between threads that poll(2) can hear: a socketpair(2) whose one end is readable when the other has rung.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// The end that is heard: readable since it has rung.
#[derive(Debug)]
pub(super) struct Bell {
    heard: UnixStream,
    rope: Rope,
}

/// The end that rings, for any number of threads.
#[derive(Debug, Clone)]
pub(super) struct Rope(Arc<UnixStream>);

impl Bell {
    pub(super) fn new() -> io::Result<Self> {
        let (heard, rope) = UnixStream::pair()?;
        heard.set_nonblocking(true)?;
        rope.set_nonblocking(true)?;
        Ok(Self { heard, rope: Rope(Arc::new(rope)) })
    }

    pub(super) fn rope(&self) -> Rope {
        self.rope.clone()
    }

    /// Makes it silent again. Whatever it has rung for is to be looked at after this, not before.
    pub(super) fn silence(&self) {
        let mut rings = [0; 64];
        while matches!((&self.heard).read(&mut rings), Ok(n) if n == rings.len()) {}
    }
}

impl Rope {
    pub(super) fn ring(&self) {
        // EAGAIN: the socket is full, and readable.
        let _ = (&*self.0).write(&[1]);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.heard.as_fd()
    }
}
