//! The async server: the whole poem at once to any number of clients, or a trickle to as many.

use std::io;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::SendFlags;
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::{Greeting, Handler};
use crate::pace::{Next, Pace, Walk};
use crate::poem::Poem;
use crate::reason::lock;

/// Gives out a poem that is in memory once, however many clients are at it.
#[derive(Debug)]
pub struct FastServer {
    file: PathBuf,
    poem: Mutex<Poem>,
    pace: Pace,
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
        Ok(Self { file: file.to_owned(), poem, pace, write_timeout })
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
    type Rest = Rest;

    fn greet(&self, socket: &TcpStream) -> io::Result<Greeting<Rest>> {
        let now = Instant::now();
        let poem = self.poem();
        let mut walk = Walk::start(&self.pace, poem.bytes().len(), now);
        loop {
            match walk.next(now) {
                Next::Close => return Ok(Greeting::Complete),
                Next::Wait(_) => break,
                Next::Send(piece) => {
                    match send(socket, &poem.bytes()[piece.clone()], piece.end == poem.bytes().len()) {
                        Ok(n) => {
                            walk.sent(n, now);
                            if n < piece.len() {
                                break;
                            }
                        }
                        Err(Errno::AGAIN) => break,
                        Err(Errno::INTR) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
            }
        }
        Ok(Greeting::Rest(Rest { poem, walk }))
    }

    async fn serve(&self, stream: &tokio::net::TcpStream, rest: Rest) -> io::Result<()> {
        let Rest { poem, mut walk } = rest;
        loop {
            match walk.next(Instant::now()) {
                Next::Close => return Ok(()),
                Next::Wait(time) => sleep(time).await,
                Next::Send(piece) => {
                    self.writable(stream).await?;
                    match stream.try_write(&poem.bytes()[piece]) {
                        Ok(n) => walk.sent(n, Instant::now()),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(error) => return Err(error),
                    }
                }
            }
        }
    }
}

/// The end of the poem is held back for the end of the stream that follows at once: one packet for both, where
/// two would cost everybody on the way twice.
fn send(socket: &TcpStream, bytes: &[u8], to_the_end: bool) -> Result<usize, Errno> {
    let more = if to_the_end { SendFlags::MORE } else { SendFlags::empty() };
    rustix::net::send(socket, bytes, SendFlags::NOSIGNAL | more)
}

impl FastServer {
    /// Waits until the client takes more.
    async fn writable(&self, stream: &tokio::net::TcpStream) -> io::Result<()> {
        let Some(limit) = self.write_timeout else { return stream.writable().await };
        match timeout(limit, stream.writable()).await {
            Ok(result) => result,
            Err(_) => {
                let limit = humantime::format_duration(limit);
                let peer = stream.peer_addr().map_or_else(|_| "a client".to_owned(), |peer| peer.to_string());
                warn!("Dropped {peer}: it took nothing for {limit}");
                Err(io::ErrorKind::TimedOut.into())
            }
        }
    }
}
