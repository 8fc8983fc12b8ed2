//! Walks through the schedule of a [`Transfer`] on an async server's connection: without waiting, as far as that goes, and
//! then as a task.

use std::future::poll_fn;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::net::SendFlags;
use tokio::task::coop::consume_budget;
use tokio::time::{sleep_until, timeout};

use super::fault_plan::Transfer;
use crate::net::{Connection, Unregistered};
use crate::pace::{Ending, Next};

/// Pieces sent before a client is made to wait for its turn like others.
const PIECES: usize = 16;

/// A connection that pauses for longer gets a task, which sees a reset; a timer's entry notices only when it sends.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Why a walk without waiting comes to a halt.
pub(super) enum Halt {
    /// The schedule is over.
    End(Ending),
    /// The next piece is due at a moment in the near future.
    Later(Instant),
    /// The socket would block, what was written has to be flushed, or the next piece is due much later; or it is the
    /// turn of other clients.
    Blocked,
}

/// Sends what is due at the moment `now`, without waiting for the client.
///
/// # Errors
/// The connection broke.
pub(super) fn advance(socket: &Unregistered<'_>, transfer: &mut Transfer, now: Instant) -> io::Result<Halt> {
    // A client that takes its pieces as fast as they come must not keep others waiting.
    for _ in 0..PIECES {
        match transfer.next(now) {
            Next::End(how) => return Ok(Halt::End(how)),
            Next::Wait(time) if time <= LONGEST_PAUSE => return Ok(Halt::Later(now + time)),
            Next::Wait(_) | Next::Flush => break,
            Next::Send { bytes, is_last } => {
                let len = bytes.end - bytes.start;
                match socket.send_with(|socket| transfer.send(socket, bytes, at_once(is_last), || now)) {
                    Ok(sent) if (sent as u64) < len => break,
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }
    Ok(Halt::Blocked)
}

/// How bytes are sent that must not make anybody wait. With `is_last` the end of the stream follows at once: the FIN
/// rides on the last segment (MSG_MORE, see send(2)).
fn at_once(is_last: bool) -> SendFlags {
    if is_last { SendFlags::DONTWAIT | SendFlags::MORE } else { SendFlags::DONTWAIT }
}

/// Walks the rest of the schedule as a task, and returns how the connection is to end.
///
/// # Errors
/// The connection broke, or the client takes nothing (`TimedOut`).
pub(super) async fn give(connection: &Connection, transfer: &mut Transfer) -> io::Result<Ending> {
    loop {
        let now = Instant::now();
        match transfer.next(now) {
            Next::Wait(time) => wait(connection, time).await?,
            Next::Send { bytes, is_last } => {
                // A client that takes everything at once must not keep others waiting.
                consume_budget().await;
                let (left, flags) = (transfer.time_left(now), at_once(is_last));
                let sending =
                    connection.send_some(|stream| transfer.send(stream.as_fd(), bytes.clone(), flags, Instant::now));
                match left {
                    None => drop(sending.await?),
                    // Boxed: only a transfer with a cut by time pays for the timer.
                    Some(left) => match Box::pin(timeout(left, sending)).await {
                        Ok(sent) => drop(sent?),
                        Err(_) => continue,
                    },
                }
            }
            Next::Flush => {
                Box::pin(connection.flush()).await?;
                transfer.flushed();
            }
            Next::End(how) => return Ok(how),
        }
    }
}

/// Waits, unless the peer resets the connection: a slow schedule must not hold the permit of a connection that is gone.
async fn wait(connection: &Connection, time: Duration) -> io::Result<()> {
    let until = Instant::now() + time;
    if timeout(time, poll_fn(|context| connection.stream().poll_read_ready(context))).await.is_err() {
        return Ok(());
    }
    // The peer has said something, or closed its side, as it may: from now on only an error counts. Boxed: most peers
    // are silent, and all would have the larger future.
    Box::pin(async {
        tokio::select! {
            () = sleep_until(until.into()) => Ok(()),
            error = connection.broken() => Err(error),
        }
    })
    .await
}
