//! The upstream half of the proxy: one connection, from its beginning to its end.

use std::future::Future;
use std::io;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::{Config, Why};
use crate::cache::flight::Writer;
use crate::cache::memory::{Memory, PIECE};
use crate::errors::reason;
use crate::net::close;
use crate::net::dial::{DialError, dial};

/// Why a fetch ended too early.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("{}", reason(.0))]
    Io(#[from] io::Error),
    #[error("no byte for {}", humantime::format_duration(*.0))]
    Silent(Duration),
    #[error("no memory for {}: what is under way takes all of it", humantime::format_duration(*.0))]
    Memory(Duration),
    #[error("nobody wants it any more")]
    Abandoned,
}

/// Fetches the poem, and hands on what arrives, as soon as there is memory for it.
pub(super) async fn fetch(config: &Config, memory: &Memory, writer: &Writer<Why>) -> Result<(), FetchError> {
    let limit = config.upstream_timeout;
    writer.claim(unless_abandoned(writer, within(limit, memory.begin(), FetchError::Memory)).await?);
    let mut stream = unless_abandoned(writer, async { Ok(dial(&config.upstream, limit).await?) }).await?;
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
