//! The async server: the whole poem at once to any number of clients, or a trickle to as many.

use std::future::poll_fn;
use std::io;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::coop::consume_budget;
use tokio::time::{sleep_until, timeout};

use super::wait::{gone, send_some};
use super::{Greeting, Handler, Peer, send_now};
use crate::pace::{Next, Pace, Walk};
use crate::poem::Poem;
use crate::reason::lock;

/// Pieces sent before a client is made to wait for its turn like others.
const GREETING_PIECES: usize = 16;

/// Gives out a poem that is in memory once, however many clients are at it.
#[derive(Debug)]
pub struct FastServer {
    file: PathBuf,
    poem: Mutex<Poem>,
    pace: Arc<Pace>,
    write_timeout: Option<Duration>,
}

/// A client's way through its poem.
#[derive(Debug)]
pub struct Rest {
    poem: Poem,
    walk: Walk,
}

impl FastServer {
    /// Reads the poem. A client that takes nothing for the `write_timeout` is dropped.
    ///
    /// # Errors
    /// The poem cannot be read.
    pub fn new(file: &Path, pace: Pace, write_timeout: Option<Duration>) -> io::Result<Self> {
        let poem = Mutex::new(Poem::load(file)?);
        Ok(Self { file: file.to_owned(), poem, pace: Arc::new(pace), write_timeout })
    }

    /// Reads the poem again, and returns its length. Clients under way keep the one they began with.
    ///
    /// # Errors
    /// The poem cannot be read; the old one stays.
    pub fn reload(&self) -> io::Result<usize> {
        let poem = Poem::load(&self.file)?;
        let bytes = poem.bytes().len();
        *lock(&self.poem) = poem;
        Ok(bytes)
    }

    /// The file it was read from.
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
    type Rest = Box<Rest>;

    fn greet(&self, socket: &TcpStream, _: Peer) -> io::Result<Greeting<Self::Rest>> {
        let now = Instant::now();
        let poem = self.poem();
        let mut walk = Walk::start(&self.pace, poem.bytes().len(), now);
        // A client that takes its pieces as fast as they come must not keep others waiting.
        for _ in 0..GREETING_PIECES {
            match walk.next(now) {
                Next::Close => return Ok(Greeting::Complete),
                Next::Wait(_) => break,
                Next::Send(piece) => {
                    match send_now(socket, &poem.bytes()[piece.clone()], piece.end == poem.bytes().len()) {
                        Ok(n) => {
                            walk.sent(n, now);
                            if n < piece.len() {
                                break;
                            }
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        Ok(Greeting::Rest(Box::new(Rest { poem, walk })))
    }

    async fn serve(&self, stream: &tokio::net::TcpStream, mut rest: Self::Rest) -> io::Result<()> {
        loop {
            match rest.walk.next(Instant::now()) {
                Next::Close => return Ok(()),
                Next::Wait(time) => wait(stream, time).await?,
                Next::Send(piece) => {
                    // A client that takes everything at once must not keep others waiting.
                    consume_budget().await;
                    let (poem, to_the_end) = (rest.poem.bytes(), piece.end == rest.poem.bytes().len());
                    let send = || send_now(stream, &poem[piece.clone()], to_the_end);
                    let sent = send_some(stream, self.write_timeout, send).await?;
                    rest.walk.sent(sent, Instant::now());
                }
            }
        }
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
