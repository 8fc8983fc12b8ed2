//! Ways to end a connection: FIN and a bounded drain (politely), RST (abruptly), or silence, which is no end.
//!
//! Where EOF delimits the message, FIN means to the client *this is all of it*: a server must take care that the FIN
//! gets through, and that it sends none if the message is not whole. Here are the calls, and the blocking close; the async
//! one, for very many connections, is in `linger.rs`.

use std::io::{self, Read};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{SockRef, TcpKeepalive};

use crate::errors::is_for_later;

/// How long a polite close waits for the peer to close its side; after that, close(2).
pub(crate) const LINGER_TIME: Duration = Duration::from_secs(2);
/// How many bytes a polite close reads from a peer that keeps talking; after that, close(2).
const LINGER_BYTES: u64 = 16 << 20;

/// The polite close of a blocking socket: shutdown(2) of the writing side, then a drain of what the peer sends until it
/// closes, for at most 2 s and 16 MiB. Afterwards the socket can be dropped.
///
/// close(2) on a socket with unread input sends RST, which makes the peer's kernel discard what it has not read yet
/// (RFC 1122, section 4.2.2.13; RFC 2525, section 2.17).
///
/// # Errors
/// The peer reset the connection, or did not close in time: whether it got the poem is not known.
pub fn politely(mut stream: &TcpStream) -> io::Result<()> {
    not_abruptly(&SockRef::from(stream));
    stream.shutdown(Shutdown::Write)?;
    let mut drain = Drain::start();
    let mut buffer = [0; 16 * 1024];
    loop {
        let left = drain.left();
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it does not close its side"));
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => drain.discard(n),
            Err(error) if is_for_later(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

/// The bounds of a drain: what is left of its time and of its bytes.
#[derive(Debug)]
pub(crate) struct Drain {
    until: Instant,
    discarded: u64,
}

impl Drain {
    /// The writing side is shut down now.
    pub(crate) fn start() -> Self {
        Self { until: Instant::now() + LINGER_TIME, discarded: 0 }
    }

    /// The time left; zero: the drain is over.
    pub(crate) fn left(&self) -> Duration {
        if self.discarded > LINGER_BYTES {
            return Duration::ZERO;
        }
        self.until.saturating_duration_since(Instant::now())
    }

    /// So many bytes were read and discarded.
    pub(crate) fn discard(&mut self, bytes: usize) {
        self.discarded += bytes as u64;
    }
}

/// Makes the drop of a socket send RST, so that the peer cannot take a part of the message for all of it.
pub fn abruptly(socket: &SockRef<'_>) {
    // Zero linger makes close(2) send RST instead of FIN, see socket(7). Where setting it fails, the connection
    // is gone already.
    let _ = socket.set_linger(Some(Duration::ZERO));
}

/// Prepares a socket for silence: keepalive probes (tcp(7), `TCP_KEEPIDLE`) tell a peer that is gone, which answers them
/// with RST, from one that has only half-closed. That takes little more than a minute, and tells the peer nothing.
pub(crate) fn silently(socket: &SockRef<'_>) {
    abruptly(socket);
    let probes = TcpKeepalive::new().with_time(PROBE).with_interval(PROBE).with_retries(3);
    // Where setting it fails, the connection is gone already.
    let _ = socket.set_tcp_keepalive(&probes);
}

/// Time from one probe of a silent connection to the next.
const PROBE: Duration = Duration::from_secs(10);

/// Waits until everything that was written has left for the peer, because RST discards what is still in the send buffer.
/// (Segments that the network loses are lost all the same: nothing is sent again after RST.)
///
/// # Errors
/// The peer is gone, or has taken nothing, or hardly anything, for the time `limit` (`WouldBlock`).
pub(crate) fn await_departure(stream: &TcpStream, limit: Option<Duration>) -> io::Result<()> {
    for unsent in departing() {
        call_when_unsent(&SockRef::from(stream), unsent)?;
        let until = limit.and_then(|limit| Instant::now().checked_add(limit));
        loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let timeout = left.and_then(|left| PollTimeout::try_from(left).ok()).unwrap_or(PollTimeout::NONE);
            if has_departed(stream, timeout)? {
                break;
            }
            if left == Some(Duration::ZERO) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
    }
    Ok(())
}

/// Falling watermarks (64 KiB ... 1 B) for `TCP_NOTSENT_LOWAT`, so that a slow reader counts as progress. Below the last
/// one, nothing is unsent.
pub(crate) fn departing() -> impl Iterator<Item = u32> {
    (0..=16).rev().map(|power| 1 << power)
}

/// Makes a socket writable only while less than so many bytes are unsent (`TCP_NOTSENT_LOWAT`, tcp(7)).
pub(crate) fn call_when_unsent(socket: &SockRef<'_>, bytes: u32) -> io::Result<()> {
    socket.set_tcp_notsent_lowat(bytes)
}

/// Whether such a socket is, or becomes within `timeout`, writable.
pub(crate) fn has_departed(socket: &impl AsFd, timeout: PollTimeout) -> io::Result<bool> {
    match poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)], timeout) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Takes [`abruptly`] back: the drop of a socket sends FIN again.
pub(crate) fn not_abruptly(socket: &SockRef<'_>) {
    let _ = socket.set_linger(None);
}

/// Sends RST on a connection that another thread is using, and wakes that thread if it waits in a call.
///
/// Dissolving the association (connect(2) with AF_UNSPEC) is the one way to send RST without closing a
/// descriptor that somebody else still holds.
pub fn reset_now(stream: &TcpStream) {
    let _ = rustix::net::connect_unspec(stream);
}
