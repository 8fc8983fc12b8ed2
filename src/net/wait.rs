//! Waiting for one client: for room to send, for bytes to come, and not for ever.

use std::future::poll_fn;
use std::io;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::bytes::BytesMut;
use tracing::warn;

/// Calls `send` when the client takes something, and returns how much that was.
///
/// # Errors
/// The client is gone, or has taken nothing for so long.
pub(crate) async fn send_some(
    stream: &TcpStream,
    limit: Option<Duration>,
    mut send: impl FnMut() -> io::Result<usize>,
) -> io::Result<usize> {
    loop {
        let writable = poll_fn(|context| stream.poll_write_ready(context));
        if let Some(limit) = limit {
            match timeout(limit, writable).await {
                Ok(writable) => writable?,
                // The kernel says so only when a good part of its buffer is free: the client may have taken something
                // all the same.
                Err(_) => return send().map_err(|_| stalled(stream, limit)),
            }
        } else {
            writable.await?;
        }
        match stream.try_io(Interest::WRITABLE, &mut send) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
}

/// Waits until the client resets the connection, and returns how it is told.
pub(crate) async fn gone(stream: &TcpStream) -> io::Error {
    match stream.ready(Interest::ERROR).await.and_then(|_| stream.take_error()) {
        Ok(error) => error.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()),
        Err(error) => error,
    }
}

/// Appends what the client says, when it says something; 0 is the end of what it says.
///
/// # Errors
/// The client is gone, or has said nothing for so long (`TimedOut`).
pub(crate) async fn read_some(stream: &TcpStream, buffer: &mut BytesMut, limit: Option<Duration>) -> io::Result<usize> {
    loop {
        let readable = poll_fn(|context| stream.poll_read_ready(context));
        match limit {
            Some(limit) => timeout(limit, readable).await??,
            None => readable.await?,
        }
        match stream.try_read_buf(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
}

fn stalled(stream: &TcpStream, limit: Duration) -> io::Error {
    let limit = humantime::format_duration(limit);
    warn!("Dropped {}: it took nothing for {limit}", super::Peer(stream.peer_addr().ok()));
    io::ErrorKind::TimedOut.into()
}
