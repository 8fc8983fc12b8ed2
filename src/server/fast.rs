//! The async server: the whole poem at once to any number of clients, or a trickle to as many.

use std::future::poll_fn;
use std::io;
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio::task::coop::consume_budget;
use tokio::time::{sleep_until, timeout};
use tracing::debug;

use super::fault_plan::{FaultPlan, Transfer};
use crate::net::{Connection, FastPath, Peer, Progress, Unregistered, send_now};
use crate::pace::{Ending, Next};
use crate::poem::Poem;
use crate::sync::lock;
use crate::units::micros;

/// Pieces sent before a client is made to wait for its turn like others.
const PIECES: usize = 16;

/// A connection that pauses for longer gets a task, which sees a reset; a timer's entry notices only when it sends.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The async poem server: one copy of the poem in memory, however many connections it is sent to.
#[derive(Debug)]
pub struct FastServer {
    poem: Mutex<Poem>,
    fault_plan: FaultPlan,
    never_read: bool,
}

impl FastServer {
    /// A server of this poem that treats its connections as planned. If it is to read nothing of what clients say,
    /// their connections end only when they leave.
    pub fn new(poem: Poem, fault_plan: FaultPlan, never_read: bool) -> Self {
        Self { poem: Mutex::new(poem), fault_plan, never_read }
    }

    /// Serves another poem from now on. Connections under way keep the one they began with.
    pub fn set_poem(&self, poem: Poem) {
        *lock(&self.poem) = poem;
    }

    /// How it treats its connections.
    pub fn fault_plan(&self) -> &FaultPlan {
        &self.fault_plan
    }
}

impl FastPath for FastServer {
    const EOF_ENDS_MESSAGE: bool = true;

    /// Boxed: an async fn stores its arguments in the future, and again in each nested one.
    type State = Box<Transfer>;

    fn start(&self) -> io::Result<()> {
        self.fault_plan.start()
    }

    fn try_serve(&self, socket: &Unregistered<'_>) -> io::Result<Progress<Self::State>> {
        let (peer, now) = (socket.peer(), Instant::now());
        debug!(%peer, "Somebody at {peer} wants poetry!");
        let poem = lock(&self.poem).clone();
        let mut transfer = self.fault_plan.begin(&peer, poem, now, socket.as_fd());
        Ok(match self.advance(socket, &mut transfer, now)? {
            Halt::End(how) => Progress::End(how),
            Halt::Later(due) => Progress::Until(due, Box::new(transfer)),
            Halt::Blocked => Progress::Blocked(Box::new(transfer)),
        })
    }

    fn on_timer(&self, socket: &Unregistered<'_>, mut transfer: Self::State) -> io::Result<Progress<Self::State>> {
        Ok(match self.advance(socket, &mut transfer, Instant::now())? {
            Halt::End(how) => Progress::End(how),
            Halt::Later(due) => Progress::Until(due, transfer),
            Halt::Blocked => Progress::Blocked(transfer),
        })
    }

    async fn finish(&self, connection: &mut Connection, mut transfer: Self::State) -> io::Result<Ending> {
        let result = give(connection, &mut transfer).await;
        let now = Instant::now();
        match &result {
            Ok(how) => self.end(&connection.peer(), &mut transfer, *how, now),
            // Given up: it is the server that resets the connection.
            Err(error) if error.kind() == io::ErrorKind::TimedOut => transfer.give_up(now),
            Err(error) => transfer.lose(error, now),
        }
        match result {
            // The polite close reads, to see the client leave and to let nothing be lost by a reset.
            Ok(Ending::Fin) if self.never_read => {
                connection.shut_down_and_ignore().await;
                Ok(Ending::Rst)
            }
            result => result,
        }
    }

    fn before_close(&self) {
        self.fault_plan.catch_up();
    }
}

impl FastServer {
    /// Sends what is due at the moment `now`, without waiting for the client.
    fn advance(&self, socket: &Unregistered<'_>, transfer: &mut Transfer, now: Instant) -> io::Result<Halt> {
        // A client that takes its pieces as fast as they come must not keep others waiting.
        for _ in 0..PIECES {
            match transfer.next(now) {
                Next::End(Ending::Fin) if self.never_read => break,
                Next::End(how) => {
                    self.end(&socket.peer(), transfer, how, now);
                    return Ok(Halt::End(how));
                }
                Next::Wait(time) if time <= LONGEST_PAUSE => return Ok(Halt::Later(now + time)),
                Next::Wait(_) | Next::Flush => break,
                Next::Send { bytes, is_last } => {
                    let piece = transfer.part(bytes);
                    let len = piece.len();
                    match socket.send(piece, is_last) {
                        Ok(n) => {
                            transfer.sent(n, now);
                            if n < len {
                                break;
                            }
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => {
                            transfer.lose(&error, now);
                            return Err(error);
                        }
                    }
                }
            }
        }
        Ok(Halt::Blocked)
    }

    /// Ends a transfer as planned.
    fn end(&self, peer: &Peer, transfer: &mut Transfer, how: Ending, now: Instant) {
        self.fault_plan.end(transfer, how, now);
        if tracing::enabled!(tracing::Level::DEBUG)
            && let Some(cut) = transfer.cut(peer, how, transfer.elapsed(now))
        {
            debug!(%peer, bytes = transfer.bytes_sent(), elapsed_us = micros(transfer.elapsed(now)), "{cut}");
        }
    }
}

/// Why a walk without waiting comes to a halt.
enum Halt {
    /// The schedule is over.
    End(Ending),
    /// The next piece is due at a moment in the near future.
    Later(Instant),
    /// The socket would block, what was written has to be flushed, or the next piece is due much later; or it is the
    /// turn of other clients.
    Blocked,
}

/// Walks the rest of the schedule as a task, and returns how the connection is to end.
async fn give(connection: &Connection, transfer: &mut Transfer) -> io::Result<Ending> {
    loop {
        let now = Instant::now();
        match transfer.next(now) {
            Next::Wait(time) => wait(connection, time).await?,
            Next::Send { bytes, is_last } => {
                // A client that takes everything at once must not keep others waiting.
                consume_budget().await;
                let piece = transfer.part(bytes);
                let sending = connection.send_some(|stream| send_now(stream, piece, is_last));
                let sent = match transfer.time_left(now) {
                    None => sending.await?,
                    // Boxed: only a transfer with a cut by time pays for the timer.
                    Some(left) => match Box::pin(timeout(left, sending)).await {
                        Ok(sent) => sent?,
                        Err(_) => continue,
                    },
                };
                transfer.sent(sent, Instant::now());
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
