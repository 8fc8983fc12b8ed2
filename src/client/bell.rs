//! A bell between threads that poll(2) can hear: a socketpair(2) whose one end is readable when the other has rung.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// The end that is heard: readable since it has rung.
#[derive(Debug)]
pub(super) struct Bell {
    heard: UnixStream,
    rope: Rope,
}

/// The end that rings, for any number of threads.
#[derive(Debug, Clone)]
pub(super) struct Rope(Arc<Ring>);

#[derive(Debug)]
struct Ring {
    socket: UnixStream,
    /// Whether it rings: once is enough.
    rings: AtomicBool,
}

impl Bell {
    pub(super) fn new() -> io::Result<Self> {
        let (heard, socket) = UnixStream::pair()?;
        heard.set_nonblocking(true)?;
        Ok(Self { heard, rope: Rope(Arc::new(Ring { socket, rings: AtomicBool::new(false) })) })
    }

    pub(super) fn rope(&self) -> Rope {
        self.rope.clone()
    }

    /// Makes it silent again. Whatever it has rung for is to be looked at after this, not before.
    pub(super) fn silence(&self) {
        // EAGAIN: it did not ring.
        let _ = (&self.heard).read(&mut [0]);
        // Not before: who rings now must be heard.
        self.rope.0.rings.store(false, SeqCst);
    }
}

impl Rope {
    pub(super) fn ring(&self) {
        if !self.0.rings.swap(true, SeqCst) {
            // There is room for one byte, and the other end is there as long as anybody listens.
            let _ = (&self.0.socket).write(&[1]);
        }
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.heard.as_fd()
    }
}
