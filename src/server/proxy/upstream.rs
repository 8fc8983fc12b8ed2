//! The upstream half of the proxy: one connection, from its beginning to its end.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::{Config, Why};
use crate::cache::flight::Writer;
use crate::cache::memory::{Memory, PIECE};
use crate::errors::reason;
use crate::net::close;
use crate::net::dial::{DialError, Route, dial_by};
use crate::sync::lock;

/// Why a fetch ended too early.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error(transparent)]
    Dial(DialError),
    #[error("upstream is this proxy itself")]
    Itself,
    #[error("{}", reason(.0))]
    Io(#[from] io::Error),
    #[error("no byte for {}", humantime::format_duration(*.0))]
    Silent(Duration),
    #[error("no memory for {}: what is under way takes all of it", humantime::format_duration(*.0))]
    Memory(Duration),
    #[error("nobody wants it any more")]
    Abandoned,
}

impl From<DialError> for FetchError {
    fn from(error: DialError) -> Self {
        match error {
            DialError::Itself => Self::Itself,
            error => Self::Dial(error),
        }
    }
}

/// What is known of the way to upstream, from one fetch to the next.
#[derive(Debug, Default)]
pub(super) struct Way {
    /// Where the proxy itself listens, once it does.
    pub(super) doors: OnceLock<Vec<SocketAddr>>,
    /// The address of which the latest connection failed.
    failed: Mutex<Option<SocketAddr>>,
}

/// Fetches the poem, and hands on what arrives, as soon as there is memory for it.
pub(super) async fn fetch(config: &Config, way: &Way, memory: &Memory, writer: &Writer<Why>) -> Result<(), FetchError> {
    let limit = config.upstream_timeout;
    writer.claim(unless_abandoned(writer, within(limit, memory.begin(), FetchError::Memory)).await?);
    let doors = way.doors.get().map(Vec::as_slice).unwrap_or_default();
    let route = Route { after: *lock(&way.failed), doors, may: None };
    let dialed = unless_abandoned(writer, async { Ok(dial_by(&config.upstream, limit, route).await?) });
    let (mut stream, address) = dialed.await?;
    let result = async {
        let mut buffer = vec![0; PIECE];
        loop {
            match unless_abandoned(writer, read(&mut stream, &mut buffer, limit)).await? {
                0 => return Ok(()),
                n if writer.append(&buffer[..n]).await => {}
                _ => return Err(FetchError::Abandoned),
            }
        }
    }
    .await;
    if let Err(FetchError::Io(_) | FetchError::Silent(_)) = result {
        // It stays the last one to be tried, even if another one serves well in the meantime.
        *lock(&way.failed) = Some(address);
    }
    if result.is_err() {
        // A proxy that is upstream would take the end of the stream for a half-close, and go on for nobody.
        close::abruptly(&SockRef::from(&stream));
    }
    result
}

async fn read(
    stream: &mut tokio::net::TcpStream,
    buffer: &mut [u8],
    limit: Option<Duration>,
) -> Result<usize, FetchError> {
    Ok(within(limit, stream.read(buffer), FetchError::Silent).await??)
}

async fn within<T>(
    limit: Option<Duration>,
    work: impl Future<Output = T>,
    late: fn(Duration) -> FetchError,
) -> Result<T, FetchError> {
    match limit {
        None => Ok(work.await),
        Some(limit) => timeout(limit, work).await.map_err(|_| late(limit)),
    }
}

async fn unless_abandoned<T>(
    writer: &Writer<Why>,
    work: impl Future<Output = Result<T, FetchError>>,
) -> Result<T, FetchError> {
    tokio::select! {
        result = work => result,
        () = writer.abandoned() => Err(FetchError::Abandoned),
    }
}
