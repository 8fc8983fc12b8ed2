//! An accepted connection, as a handler sees it: whose it is, and sending and receiving that wait, but not for ever.

use std::cell::Cell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice, Read};
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::poll::PollTimeout;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::bytes::BytesMut;
use tracing::warn;

use super::close;
use super::complaint::Complaint;
use super::counts::Counts;
use super::stop::{Stop, Stoppable};
use crate::address::canonical;
use crate::errors::is_for_later;

/// What all connections of a server share.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) counts: Arc<Counts>,
    pub(super) stop: Stop,
    pub(super) complaint: Complaint,
    pub(super) doors: Vec<&'static str>,
    /// As [`ServerLimits::write_timeout`](super::ServerLimits::write_timeout) has it.
    pub(super) write_timeout: Option<Duration>,
}

/// The address of the other end, for the log, in its canonical form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(Option<SocketAddr>);

impl Peer {
    pub(super) fn new(address: Option<SocketAddr>) -> Self {
        Self(address.map(canonical))
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(address) => address.fmt(f),
            None => f.write_str("an unknown address"),
        }
    }
}

/// The time that the first request of a new connection has to arrive after the server was asked to stop: a round trip
/// or two.
const ON_ITS_WAY: Duration = Duration::from_millis(50);

/// Room for a first read, of which most bring a short request.
const FIRST_READ: usize = 1024;

/// Which of a server's doors a connection came through.
pub(super) type DoorIndex = u16;

/// A connection that has a task: its socket is registered with the worker's runtime.
///
/// The engine keeps the socket, and closes it when the handler has returned. hyper borrows it: [`serve`](super::http::serve).
#[derive(Debug)]
pub struct Connection {
    socket: Arc<Socket>,
    /// Whether a request has ever begun to arrive.
    is_new: bool,
    /// No request is under way: its peer waits for nothing.
    is_idle: bool,
    /// Everything is said.
    is_said: bool,
}

/// What a connection and its outlets share.
#[derive(Debug)]
struct Socket {
    stream: TcpStream,
    peer: Peer,
    door: DoorIndex,
    engine: Arc<Engine>,
}

impl Drop for Connection {
    /// A task that is dropped in the middle of something, or that panics, resets its connection.
    fn drop(&mut self) {
        if !self.is_said && !self.is_idle {
            close::abruptly(&SockRef::from(&self.socket.stream));
        }
    }
}

impl Connection {
    pub(super) fn new(stream: TcpStream, peer: Peer, door: DoorIndex, is_new: bool, engine: Arc<Engine>) -> Self {
        let socket = Arc::new(Socket { stream, peer, door, engine });
        Self { socket, is_new, is_idle: false, is_said: false }
    }

    /// The other end.
    pub fn peer(&self) -> Peer {
        self.socket.peer
    }

    /// The name of the door that it came through.
    pub fn door(&self) -> &'static str {
        self.socket.engine.doors[usize::from(self.socket.door)]
    }

    /// The number of the door that it came through, from 0, in the order in which the engine was given its doors.
    pub fn door_number(&self) -> usize {
        self.socket.door.into()
    }

    /// The socket.
    pub fn stream(&self) -> &TcpStream {
        &self.socket.stream
    }

    /// Waits until the server is asked to stop.
    pub fn closing(&self) -> impl Future<Output = ()> + '_ {
        self.socket.engine.stop.closing()
    }

    /// Whether the server is asked to stop.
    pub fn is_closing(&self) -> bool {
        self.socket.engine.stop.is_closing()
    }

    /// A second hold on the socket, for those who send on it from elsewhere.
    ///
    /// The engine closes the connection as the handler asks for only if the outlet is dropped before the handler returns.
    pub fn outlet(&self) -> Outlet {
        Outlet(Arc::clone(&self.socket))
    }

    /// The stop of its server.
    pub fn stop(&self) -> Stop {
        self.socket.engine.stop.clone()
    }

    /// The counters of its server.
    pub(super) fn counts(&self) -> &Counts {
        &self.socket.engine.counts
    }

    /// As [`ServerLimits::write_timeout`](super::ServerLimits::write_timeout) has it.
    pub(super) fn write_timeout(&self) -> Option<Duration> {
        self.socket.engine.write_timeout
    }

    /// Whether no request is under way from now on.
    pub fn set_idle(&mut self, is_idle: bool) {
        self.is_idle = is_idle;
    }

    pub(super) fn set_said(&mut self) {
        self.is_said = true;
    }

    /// Whether no request is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.is_idle
    }

    /// Calls `send` when the socket is writable, and returns how many bytes it sent; they are counted.
    ///
    /// # Errors
    /// The connection broke, or its peer took nothing for the server's write timeout (`TimedOut`).
    pub async fn send_some(&self, mut send: impl FnMut(&TcpStream) -> io::Result<usize>) -> io::Result<usize> {
        let stream = &self.socket.stream;
        let sent = loop {
            let writable = poll_fn(|context| stream.poll_write_ready(context));
            match self.socket.engine.write_timeout {
                None => writable.await?,
                Some(limit) => match timeout(limit, writable).await {
                    Ok(writable) => writable?,
                    // The kernel calls a socket writable only when a good part of its buffer is free: the peer may have
                    // taken something all the same.
                    Err(_) => break send(stream).map_err(|_| self.stalled(limit))?,
                },
            }
            match stream.try_io(Interest::WRITABLE, || send(stream)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => break result?,
            }
        };
        self.socket.engine.counts.send(sent);
        Ok(sent)
    }

    /// Sends all of these bytes, as [`send_some`](Self::send_some) does.
    ///
    /// # Errors
    /// As for [`send_some`](Self::send_some).
    pub async fn send_all(&self, bytes: &[u8]) -> io::Result<()> {
        let mut unsent = bytes;
        while !unsent.is_empty() {
            let sent = self.send_some(|stream| send_now(stream, unsent, false)).await?;
            unsent = &unsent[sent..];
        }
        Ok(())
    }

    fn stalled(&self, limit: Duration) -> io::Error {
        warn!("Dropped {}: it took nothing for {}", self.socket.peer, humantime::format_duration(limit));
        io::ErrorKind::TimedOut.into()
    }

    /// Waits until everything that was sent has left for the peer, as `close::await_departure` does: a reset before that
    /// would throw it away.
    ///
    /// # Errors
    /// As for [`send_some`](Self::send_some).
    pub async fn flush(&self) -> io::Result<()> {
        for unsent in close::departing() {
            close::call_when_unsent(&SockRef::from(&self.socket.stream), unsent)?;
            self.send_some(departed).await?;
        }
        Ok(())
    }

    /// Appends bytes that arrive, and returns how many; 0 is the end of the stream.
    ///
    /// # Errors
    /// The connection broke, or nothing arrived for the time `limit` (`TimedOut`).
    pub async fn read_some(&self, buffer: &mut BytesMut, limit: Option<Duration>) -> io::Result<usize> {
        loop {
            match limit {
                Some(limit) => timeout(limit, self.readable()).await??,
                None => self.readable().await?,
            }
            let read = self.read_now(|stream| {
                let room = buffer.capacity() - buffer.len();
                if room > 0 {
                    return Ok((stream.try_read_buf(buffer)?, room));
                }
                // No room is kept for a peer that may be silent for long.
                let mut first = [0; FIRST_READ];
                let read = stream.try_read(&mut first)?;
                buffer.extend_from_slice(&first[..read]);
                Ok((read, FIRST_READ))
            });
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }

    /// Waits until something has arrived, or the end of the stream.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn readable(&self) -> io::Result<()> {
        poll_fn(|context| self.socket.stream.poll_read_ready(context)).await
    }

    /// Calls `read`, which returns how many bytes it read, and for how many it had room; returns the first.
    ///
    /// # Errors
    /// Those of `read`; `WouldBlock`: nothing is there now.
    pub fn read_now(&self, read: impl FnOnce(&TcpStream) -> io::Result<(usize, usize)>) -> io::Result<usize> {
        let (read, room) = read(&self.socket.stream)?;
        if read > 0 && read < room {
            is_drained(&self.socket.stream);
        }
        Ok(read)
    }

    /// Appends the first bytes of a request, as [`read_some`](Self::read_some) does, unless the server is asked to stop
    /// before they arrive: then it returns `None`. If the handler returns thereupon, the end of the stream is sent, and the
    /// peer is waited for only if it has not got all replies yet.
    ///
    /// A new connection's first request may be on its way when the server stops: it has 50 ms to arrive.
    ///
    /// # Errors
    /// As for [`read_some`](Self::read_some).
    pub async fn read_request(&mut self, buffer: &mut BytesMut, limit: Option<Duration>) -> io::Result<Option<usize>> {
        self.is_idle = true;
        let read = tokio::select! {
            biased;
            read = self.read_some(buffer, limit) => Some(read),
            () = self.closing() => None,
        };
        let read = match read {
            Some(read) => read,
            None if self.is_new => match timeout(ON_ITS_WAY, self.read_some(buffer, limit)).await {
                Ok(read) => read,
                Err(_) => return Ok(None),
            },
            None => match SockRef::from(&self.socket.stream).peek(&mut [MaybeUninit::uninit()]) {
                Err(error) if is_for_later(&error) => return Ok(None),
                // Something has come, which the reactor has not said yet.
                _ => self.read_some(buffer, limit).await,
            },
        };
        (self.is_new, self.is_idle) = (false, false);
        read.map(Some)
    }

    /// Sends the end of the stream, and waits until the peer leaves or the server is asked to stop. Nothing is read of what
    /// the peer says.
    pub async fn shut_down_and_ignore(&self) {
        if SockRef::from(&self.socket.stream).shutdown(Shutdown::Write).is_err() {
            return; // The peer is gone.
        }
        let leaves = async {
            while let Ok(ready) = self.socket.stream.ready(Interest::READABLE | Interest::ERROR).await
                && !ready.is_read_closed()
                && !ready.is_error()
            {
                // Until something new happens.
                is_drained(&self.socket.stream);
            }
        };
        tokio::select! {
            () = leaves => {}
            () = self.closing() => {}
        }
    }

    /// Waits until the peer resets the connection, and returns the error that tells so. A peer that closes its side is
    /// still there: it may only have half-closed.
    pub async fn broken(&self) -> io::Error {
        match self.socket.stream.ready(Interest::ERROR).await.and_then(|_| self.socket.stream.take_error()) {
            Ok(error) => error.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()),
            Err(error) => error,
        }
    }
}

/// A socket as one sends on it from another task, or from another worker's thread, without waiting.
#[derive(Debug)]
pub struct Outlet(Arc<Socket>);

impl Outlet {
    /// One `send_now`; the bytes are counted.
    ///
    /// # Errors
    /// `WouldBlock`: the socket takes nothing now. Else the connection broke.
    pub fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        send_now(&self.0.stream, bytes, false).inspect(|&sent| self.0.engine.counts.send(sent))
    }

    /// One `send_parts_now`; the bytes are counted.
    ///
    /// # Errors
    /// As for [`send`](Self::send).
    pub fn send_parts(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        send_parts_now(&self.0.stream, parts).inspect(|&sent| self.0.engine.counts.send(sent))
    }
}

/// A connection that has no task: its socket is non-blocking, and not registered with any runtime.
#[derive(Debug)]
pub struct Unregistered<'a> {
    pub(super) socket: &'a std::net::TcpStream,
    pub(super) peer: Peer,
    pub(super) door: DoorIndex,
    /// Whether something was read.
    pub(super) has_read: &'a Cell<bool>,
    pub(super) engine: &'a Engine,
}

impl AsFd for Unregistered<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Unregistered<'_> {
    /// The other end.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// The name of the door that it came through.
    pub fn door(&self) -> &'static str {
        self.engine.doors[usize::from(self.door)]
    }

    /// One `send_now`; the bytes are counted.
    ///
    /// # Errors
    /// `WouldBlock`: the socket takes nothing now. Else the connection broke.
    pub fn send(&self, bytes: &[u8], is_last: bool) -> io::Result<usize> {
        self.counted(send_now(self.socket, bytes, is_last))
    }

    /// One `send_parts_now`; the bytes are counted.
    ///
    /// # Errors
    /// As for [`send`](Self::send).
    pub fn send_parts(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.counted(send_parts_now(self.socket, parts))
    }

    /// One call of `send` for its socket, which returns how many bytes it sent; they are counted.
    ///
    /// # Errors
    /// As for [`send`](Self::send).
    pub fn send_with(&self, send: impl FnOnce(BorrowedFd<'_>) -> io::Result<usize>) -> io::Result<usize> {
        self.counted(send(self.socket.as_fd()))
    }

    /// One read(2); 0 is the end of the stream.
    ///
    /// # Errors
    /// `WouldBlock`: nothing is there now. Else the connection broke.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut socket = self.socket;
        socket.read(buffer).inspect(|&bytes| self.has_read.set(bytes > 0))
    }

    fn counted(&self, sent: io::Result<usize>) -> io::Result<usize> {
        sent.inspect(|&bytes| self.engine.counts.send(bytes))
    }
}

/// Nothing, if what was sent has departed as far as [`close::call_when_unsent`] says.
///
/// # Errors
/// `WouldBlock`: it has not.
pub(super) fn departed(stream: &TcpStream) -> io::Result<usize> {
    match close::has_departed(stream, PollTimeout::ZERO)? {
        true => Ok(0),
        false => Err(io::ErrorKind::WouldBlock.into()),
    }
}

/// Notes that all that had come was read, as a short read tells: the next read waits for the reactor, and does not ask the
/// kernel in vain. Nothing can be missed: what comes after the read is told to the reactor anew (`EPOLLET`, epoll(7)), and
/// on a worker's runtime the reactor has no turn between the two.
pub(super) fn is_drained(stream: &TcpStream) {
    let noted = stream.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
    debug_assert!(noted.is_err());
}

/// Sends what the kernel takes at once, however little, with send(2) and `MSG_DONTWAIT`; poll(2) and a blocking
/// send(2) wait for a good deal of room.
///
/// With `is_last` the end of the stream has to follow at once: `MSG_MORE` lets the FIN ride on the last data segment.
///
/// # Errors
/// Those of send(2); `WouldBlock`: the kernel takes nothing now.
pub(crate) fn send_now(socket: impl AsFd, bytes: &[u8], is_last: bool) -> io::Result<usize> {
    let more = if is_last { SendFlags::MORE } else { SendFlags::empty() };
    Ok(rustix::net::send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL | more)?)
}

/// Sends several parts as [`send_now`] sends one, with sendmsg(2).
///
/// # Errors
/// Those of sendmsg(2); `WouldBlock`: the kernel takes nothing now.
pub(crate) fn send_parts_now(socket: impl AsFd, parts: &[IoSlice<'_>]) -> io::Result<usize> {
    send_parts_with(socket, parts, SendFlags::DONTWAIT)
}

/// Sends several parts with sendmsg(2) and these flags.
///
/// # Errors
/// Those of sendmsg(2).
pub(crate) fn send_parts_with(socket: impl AsFd, parts: &[IoSlice<'_>], flags: SendFlags) -> io::Result<usize> {
    Ok(sendmsg(socket, parts, &mut SendAncillaryBuffer::default(), flags | SendFlags::NOSIGNAL)?)
}
