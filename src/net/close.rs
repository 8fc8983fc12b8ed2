//! The ways to end a connection: politely, after the whole poem, or abruptly, in the middle of it; or silently, which
//! is no end.
//!
//! To the client the end of the stream (FIN) means *this is the poem*. So a server must take care that the FIN
//! really gets through, and that it sends none if the poem is not whole.

use std::io::{self, Read};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{SockRef, TcpKeepalive};

use crate::errors::is_for_later;

/// How long a polite close waits for the peer to close its side.
pub const LINGER_TIME: Duration = Duration::from_secs(2);
/// How much a polite close reads from a peer that keeps talking.
pub const LINGER_BYTES: u64 = 16 << 20;

/// Ends the stream, so that the peer gets every byte that was written. Afterwards the socket can be dropped.
///
/// close(2) on a socket with unread input sends a reset, which makes the peer's kernel throw away what it has
/// not read yet (RFC 1122, section 4.2.2.13; RFC 2525, section 2.17). So this shuts down the writing side, reads
/// and discards what the peer sends until it closes, and only then closes; but not for longer than
/// [`LINGER_TIME`] and not for more than [`LINGER_BYTES`].
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

/// Whether a polite close should go on reading.
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

    /// How long it may still take; zero: not longer.
    pub(crate) fn left(&self) -> Duration {
        if self.discarded > LINGER_BYTES {
            return Duration::ZERO;
        }
        self.until.saturating_duration_since(Instant::now())
    }

    /// The peer said so much.
    pub(crate) fn discard(&mut self, bytes: usize) {
        self.discarded += bytes as u64;
    }
}

/// Makes the drop of the socket a reset, so that the peer cannot take what it has for the whole poem.
pub fn abruptly(socket: &SockRef<'_>) {
    // Zero linger makes close(2) send RST instead of FIN, see socket(7). Where setting it fails, the connection
    // is gone already.
    let _ = socket.set_linger(Some(Duration::ZERO));
}

/// Falls silent on a connection. Whether the peer is still there is found out without telling it anything: its side
/// may be closed, and that may be all that it closed, but to a probe a peer that is gone answers with a reset, little more
/// than a minute after it left.
pub(crate) fn silently(socket: &SockRef<'_>) {
    abruptly(socket);
    let probes = TcpKeepalive::new().with_time(PROBE).with_interval(PROBE).with_retries(3);
    // Where setting it fails, the connection is gone already.
    let _ = socket.set_tcp_keepalive(&probes);
}

/// Time from one probe of a silent connection to the next.
const PROBE: Duration = Duration::from_secs(10);

/// Waits until everything that was written has left for the peer: a reset before that would throw away what has not. (On
/// a network that loses packets it may still: nothing is sent again after a reset.)
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

/// Of what was written, so many bytes may be unsent, one step after the other: each is progress of a client that takes
/// little at a time. The last one is that nothing is.
pub(crate) fn departing() -> impl Iterator<Item = u32> {
    (0..=16).rev().map(|power| 1 << power)
}

/// From now on a socket is writable when less than so many bytes are unsent, see tcp(7) on TCP_NOTSENT_LOWAT.
pub(crate) fn call_when_unsent(socket: &SockRef<'_>, bytes: u32) -> io::Result<()> {
    socket.set_tcp_notsent_lowat(bytes)
}

/// Whether so much is sent on such a socket, or is so within the time.
pub(crate) fn has_departed(socket: &impl AsFd, timeout: PollTimeout) -> io::Result<bool> {
    match poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)], timeout) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Takes [`abruptly`] back: the drop of the socket is an orderly close again.
pub(crate) fn not_abruptly(socket: &SockRef<'_>) {
    let _ = socket.set_linger(None);
}

/// Resets a connection that another thread is using, and wakes this thread if it waits in a call.
///
/// Dissolving the association (connect(2) with AF_UNSPEC) is the one way to send RST without closing a
/// descriptor that somebody else still holds.
pub fn reset_now(stream: &TcpStream) {
    let _ = rustix::net::connect_unspec(stream);
}
