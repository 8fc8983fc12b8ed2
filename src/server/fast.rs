//! The async server: the whole poem at once to any number of clients, or a trickle to as many.

use std::future::poll_fn;
use std::io;
use std::net::TcpStream;
use std::path::{self, Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::poll::PollTimeout;
use socket2::SockRef;
use tokio::task::coop::consume_budget;
use tokio::time::{sleep_until, timeout};

use super::fault_plan::{FaultPlan, Transfer};
use crate::net::counts::Counts;
use crate::net::wait::{gone, send_some};
use crate::net::{Handler, Peer, Progress, close, send_now, timer};
use crate::pace::{Ending, Next};
use crate::poem::Poem;
use crate::sync::lock;

/// Pieces sent before a client is made to wait for its turn like others.
const PIECES: usize = 16;

/// Gives out a poem that is in memory once, however many clients are at it.
#[derive(Debug)]
pub struct FastServer {
    file: PathBuf,
    /// The same, from wherever.
    place: PathBuf,
    poem: Mutex<Poem>,
    /// Only one at a time reads the poem again, so that the last one who asked for it gets what is there then.
    reloading: Mutex<()>,
    fault_plan: FaultPlan,
    write_timeout: Option<Duration>,
    counts: Counts,
}

impl FastServer {
    /// Serves the poem that was read from this file. A client that takes nothing for the `write_timeout` is dropped.
    ///
    /// # Errors
    /// There is no current directory that the file could be in.
    pub fn new(file: &Path, poem: Poem, fault_plan: FaultPlan, write_timeout: Option<Duration>) -> io::Result<Self> {
        // The process may change its directory before it reads the poem again.
        let (place, poem) = (path::absolute(file)?, Mutex::new(poem));
        Ok(Self {
            file: file.to_owned(),
            place,
            poem,
            reloading: Mutex::new(()),
            fault_plan,
            write_timeout,
            counts: Counts::default(),
        })
    }

    /// How it treats its clients.
    pub fn fault_plan(&self) -> &FaultPlan {
        &self.fault_plan
    }

    /// Reads the poem again, and returns its length. Clients under way keep the one they began with.
    ///
    /// # Errors
    /// The poem cannot be read; the old one stays.
    pub fn reload(&self) -> io::Result<usize> {
        let _in_turn = lock(&self.reloading);
        let poem = Poem::load(&self.place)?;
        let bytes = poem.bytes().len();
        *lock(&self.poem) = poem;
        Ok(bytes)
    }

    /// The file it was read from, as it was named.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The poem that the next client gets.
    pub fn poem(&self) -> Poem {
        lock(&self.poem).clone()
    }
}

impl Handler for FastServer {
    /// In a box, because a future keeps every argument that is handed on, once for each hand.
    type Rest = Box<Transfer>;

    fn counts(&self) -> &Counts {
        &self.counts
    }

    fn start(&self) -> io::Result<()> {
        self.fault_plan.start()
    }

    fn try_serve(&self, socket: &TcpStream, peer: Peer) -> io::Result<Progress<Self::Rest>> {
        let now = Instant::now();
        let mut transfer = self.fault_plan.begin(&peer, self.poem(), now);
        Ok(match self.advance(socket, &mut transfer, now)? {
            Halt::End(how) => Progress::End(how),
            Halt::Later(due) => Progress::Later(due, Box::new(transfer)),
            Halt::Blocked => Progress::Rest(Box::new(transfer)),
        })
    }

    fn on_timer(&self, socket: &TcpStream, mut transfer: Self::Rest) -> io::Result<Progress<Self::Rest>> {
        Ok(match self.advance(socket, &mut transfer, Instant::now())? {
            Halt::End(how) => Progress::End(how),
            Halt::Later(due) => Progress::Later(due, transfer),
            Halt::Blocked => Progress::Rest(transfer),
        })
    }

    async fn serve(&self, stream: &tokio::net::TcpStream, mut transfer: Self::Rest) -> io::Result<Ending> {
        let result = self.give(stream, &mut transfer).await;
        match &result {
            Ok(how) => transfer.end(*how, Instant::now()),
            // Given up: it is the server that resets the connection.
            Err(error) if error.kind() == io::ErrorKind::TimedOut => transfer.end(Ending::Rst, Instant::now()),
            Err(_) => transfer.lose(Instant::now()),
        }
        result
    }
}

/// Why a transfer stops for now.
enum Halt {
    /// The schedule is over.
    End(Ending),
    /// The next piece is due at a moment in the near future.
    Later(Instant),
    /// The socket would block, what was written has to be flushed, or the next piece is due much later; or it is the
    /// turn of other clients.
    Blocked,
}

impl FastServer {
    /// Sends what is due at the moment `now`, without waiting for the client.
    fn advance(&self, socket: &TcpStream, transfer: &mut Transfer, now: Instant) -> io::Result<Halt> {
        // A client that takes its pieces as fast as they come must not keep others waiting.
        for _ in 0..PIECES {
            match transfer.next(now) {
                Next::End(how) => {
                    transfer.end(how, now);
                    return Ok(Halt::End(how));
                }
                Next::Wait(time) if time <= timer::LONGEST => return Ok(Halt::Later(now + time)),
                Next::Wait(_) | Next::Flush => break,
                Next::Send { bytes, is_last } => {
                    let piece = transfer.part(bytes);
                    let len = piece.len();
                    match send_now(socket, piece, is_last) {
                        Ok(n) => {
                            self.sent(transfer, n, now);
                            if n < len {
                                break;
                            }
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => {
                            transfer.lose(now);
                            return Err(error);
                        }
                    }
                }
            }
        }
        Ok(Halt::Blocked)
    }

    /// Walks the rest of the schedule as a task, and returns how the connection is to end.
    async fn give(&self, stream: &tokio::net::TcpStream, transfer: &mut Transfer) -> io::Result<Ending> {
        loop {
            let now = Instant::now();
            match transfer.next(now) {
                Next::Wait(time) => wait(stream, time).await?,
                Next::Send { bytes, is_last } => {
                    // A client that takes everything at once must not keep others waiting.
                    consume_budget().await;
                    let piece = transfer.part(bytes);
                    let sending = send_some(stream, self.write_timeout, || send_now(stream, piece, is_last));
                    let sent = match transfer.time_left(now) {
                        None => sending.await?,
                        // Boxed: only a transfer with a cut by time pays for the timer.
                        Some(left) => match Box::pin(timeout(left, sending)).await {
                            Ok(sent) => sent?,
                            Err(_) => continue,
                        },
                    };
                    self.sent(transfer, sent, Instant::now());
                }
                Next::Flush => {
                    Box::pin(self.departure(stream)).await?;
                    transfer.flushed();
                }
                Next::End(how) => return Ok(how),
            }
        }
    }

    /// Counts bytes that the client took.
    fn sent(&self, transfer: &mut Transfer, bytes: usize, now: Instant) {
        self.counts.send(bytes);
        transfer.sent(bytes, now);
    }

    /// Waits until the kernel has sent all that was written, because a reset discards the rest.
    async fn departure(&self, stream: &tokio::net::TcpStream) -> io::Result<()> {
        for unsent in close::departing() {
            close::call_when_unsent(&SockRef::from(stream), unsent)?;
            let departed = || match close::has_departed(stream, PollTimeout::ZERO)? {
                true => Ok(0),
                false => Err(io::ErrorKind::WouldBlock.into()),
            };
            send_some(stream, self.write_timeout, departed).await?;
        }
        Ok(())
    }
}

/// Waits, unless the client resets the connection: a slow schedule must not hold the place of one that is gone.
async fn wait(stream: &tokio::net::TcpStream, time: Duration) -> io::Result<()> {
    let until = Instant::now() + time;
    if timeout(time, poll_fn(|context| stream.poll_read_ready(context))).await.is_err() {
        return Ok(());
    }
    // It has said something, or closed its side, as it may: from now on only an error counts. That takes a larger
    // future, which the silent majority should not pay for.
    Box::pin(async {
        tokio::select! {
            () = sleep_until(until.into()) => Ok(()),
            error = gone(stream) => Err(error),
        }
    })
    .await
}
