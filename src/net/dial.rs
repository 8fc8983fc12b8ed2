//! Connecting to a server that may have several addresses, on a runtime that must not block.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::address::Address;
use crate::errors::reason;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name cannot be looked up, or has no address.
    #[error("cannot resolve the name: {}", reason(.0))]
    Resolve(io::Error),
    /// connect(2) failed for the last address.
    #[error("{}", reason(.0))]
    Connect(io::Error),
    /// The look-up, or the last address, did not answer in time.
    #[error("no connection for {}", humantime::format_duration(*.0))]
    Timeout(Duration),
    /// This machine has no socket for it.
    #[error("{}", reason(.0))]
    Socket(io::Error),
}

/// Connects to the first address of a name that answers.
///
/// getaddrinfo(3) blocks: it runs on a thread of the runtime made for that, unless there is nothing to look up. The
/// `limit` is for the look-up, and again for each address. To drop the future is to give up.
///
/// # Errors
/// What became of the last address.
pub async fn dial(address: &Address, limit: Option<Duration>) -> Result<TcpStream, DialError> {
    let mut failure = DialError::Resolve(io::ErrorKind::NotFound.into());
    for address in within(limit, resolve(address)).await?.map_err(DialError::Resolve)? {
        match connect(address, limit).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

async fn resolve(address: &Address) -> io::Result<Vec<SocketAddr>> {
    match address.literal() {
        Some(address) => Ok(vec![address]),
        None => {
            let address = address.clone();
            spawn_blocking(move || address.resolve()).await.unwrap_or_else(|error| Err(error.into()))
        }
    }
}

async fn connect(address: SocketAddr, limit: Option<Duration>) -> Result<TcpStream, DialError> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    within(limit, socket.map_err(DialError::Socket)?.connect(address)).await?.map_err(DialError::Connect)
}

async fn within<T>(limit: Option<Duration>, work: impl Future<Output = T>) -> Result<T, DialError> {
    match limit {
        None => Ok(work.await),
        Some(limit) => timeout(limit, work).await.map_err(|_| DialError::Timeout(limit)),
    }
}
