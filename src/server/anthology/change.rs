//! A text that is changed on its way: one exchange with a transform server, both ways a netstring.

use std::future::Future;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::charset::Charset;
use super::content::Unreadable;
use super::record::{Change, Log};
use super::source::{Limits, Transform};
use super::trouble::Trouble;
use crate::net::dial::{Route, dial_by};
use crate::net::relay::Upstream;
use crate::proto::netstring::{Decoder, Outgoing};

/// Characters that a transform may make of one.
const GROWTH: usize = 16;

/// Sends a text through a transform server, in what is left of its time, and writes down what happens when.
///
/// # Errors
/// It is as it was.
pub(super) async fn change(
    transform: &Transform,
    text: &str,
    limits: Limits,
    doors: &[SocketAddr],
    log: &Log,
) -> Result<String, Trouble> {
    let left = log.left(limits.timeout);
    log.change(|change| *change = Some(Change::begin(transform)));
    let exchanged = timeout(left, exchange(transform, text, limits, doors, log)).await;
    let result = exchanged.unwrap_or(Err(Trouble::Slow { limit: limits.timeout, after: 0 }));
    log.change(|change| {
        if let Some(change) = change {
            change.end(result.as_ref().map(String::len));
        }
    });
    result
}

async fn exchange(
    transform: &Transform,
    text: &str,
    limits: Limits,
    doors: &[SocketAddr],
    log: &Log,
) -> Result<String, Trouble> {
    let idle = limits.idle_timeout;
    let (stream, _) = dial_by(&transform.via, Some(idle), Route { doors, ..Route::default() }).await?;
    log.change(|change| {
        if let Some(change) = change {
            change.connected();
        }
    });
    // Who sees the end of what half of a text is, must not take it for all.
    let mut stream = Upstream::new(stream);
    let mut request = Outgoing::new(format!("{}.{text}", transform.name).into_bytes());
    while !request.is_sent() {
        let parts: [IoSlice<'_>; 3] = request.unsent();
        let sent = within(idle, 0, stream.write_vectored(&parts)).await?.map_err(|error| Trouble::broken(error, 0))?;
        request.sent(sent);
    }
    let (mut arrived, limit) = (Vec::new(), limits.max_size.saturating_mul(GROWTH));
    loop {
        let after = arrived.len() as u64;
        let read = within(idle, after, stream.read_buf(&mut arrived)).await?;
        if read.map_err(|error| Trouble::broken(error, after))? == 0 {
            return Err(Trouble::NoReply);
        }
        let mut rest = &arrived[..];
        if let Some(payload) = Decoder::new(limit).decode(&mut rest).map_err(Trouble::Netstring)? {
            let text = Charset::Utf8.decode(payload).map_err(Unreadable::from)?.into_owned();
            stream.close();
            return Ok(text);
        }
    }
}

async fn within<T>(limit: Duration, after: u64, work: impl Future<Output = T>) -> Result<T, Trouble> {
    timeout(limit, work).await.map_err(|_| Trouble::Silent { limit, after })
}
