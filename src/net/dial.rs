//! Connecting to a server that may have several addresses, on a runtime that must not block.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::address::Address;
use crate::errors::reason;
use crate::pool::{NotCalled, Pool};

/// Threads for names: as many as a runtime would have for what blocks.
static LOOK_UPS: Pool = Pool::new(512);

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
    /// This machine has no thread for the look-up.
    #[error("cannot start a thread: {}", reason(.0))]
    Thread(io::Error),
}

/// Connects to the first address of a name that answers.
///
/// getaddrinfo(3) blocks: it runs on a thread of its own, unless there is nothing to look up. The
/// `limit` is for the look-up, and again for each address. To drop the future is to give up.
///
/// # Errors
/// What became of the last address.
pub async fn dial(address: &Address, limit: Option<Duration>) -> Result<TcpStream, DialError> {
    let mut failure = DialError::Resolve(io::ErrorKind::NotFound.into());
    for address in within(limit, resolve(address)).await?? {
        match connect(address, limit).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

async fn resolve(address: &Address) -> Result<Vec<SocketAddr>, DialError> {
    match address.literal() {
        Some(address) => Ok(vec![address]),
        None => {
            let address = address.clone();
            match LOOK_UPS.run(move || address.resolve()).await {
                Ok(found) => found.map_err(DialError::Resolve),
                Err(NotCalled::NoThread(error)) => Err(DialError::Thread(error)),
                Err(NotCalled::Panicked) => Err(DialError::Resolve(io::Error::other("internal error"))),
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    use tokio::runtime::Builder;

    const LIMIT: Duration = Duration::from_secs(20);

    fn dialed(address: &str, limit: Option<Duration>) -> Result<SocketAddr, DialError> {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let address = address.parse().expect("an address");
        let stream = runtime.block_on(dial(&address, limit))?;
        Ok(stream.peer_addr().expect("connected"))
    }

    #[test]
    fn an_address_is_dialed_with_a_limit_and_without() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        for limit in [None, Some(LIMIT)] {
            assert_eq!(dialed(&address.to_string(), limit).expect("connected"), address);
        }
    }

    #[test]
    fn each_address_of_a_name_is_tried() {
        // Whatever else it is, localhost is this address, too.
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        assert_eq!(dialed(&format!("localhost:{}", address.port()), Some(LIMIT)).expect("connected"), address);
    }

    #[test]
    fn an_error_says_which_step_failed() {
        let unused = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
        let refused = dialed(&unused.to_string(), Some(LIMIT)).expect_err("nobody listens");
        assert!(matches!(refused, DialError::Connect(_)), "{refused:?}");
        assert_eq!(refused.to_string(), "connection refused");
        let unknown = dialed("name.invalid:1", Some(LIMIT)).expect_err("no such name");
        assert!(matches!(unknown, DialError::Resolve(_)), "{unknown:?}");
        let late = dialed(&unused.to_string(), Some(Duration::ZERO)).expect_err("no time");
        assert!(matches!(late, DialError::Timeout(_) | DialError::Connect(_)), "{late:?}");
    }

    #[test]
    fn an_address_that_does_not_answer_is_given_up() {
        // A queue that is full drops further SYNs.
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port");
        listener.listen(0).expect("listening");
        let address = listener.local_addr().expect("an address").as_socket().expect("IPv4");
        let _first = std::net::TcpStream::connect(address).expect("the queue has one place");
        let late = dialed(&address.to_string(), Some(Duration::from_millis(20))).expect_err("no answer");
        assert_eq!(late.to_string(), "no connection for 20ms");
    }
}
