//! What the yardsticks and load generators of the benchmarks share: how a yardstick starts, the barest loop there is, what
//! a process has used.

#![expect(clippy::cast_possible_truncation, reason = "slots are counted in a machine word")]

use std::fs;
use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use clap::Parser;
use poetry_suite::cli::listen::{ListenArgs, address, announce};
use poetry_suite::cli::{Error, open_files};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

pub mod usage;

/// Writes the line that a load generator has to say, or why it has none; returns its exit status.
pub fn tell(name: &str, result: io::Result<String>) -> ExitCode {
    match result {
        Ok(line) => {
            let _ = writeln!(io::stdout(), "{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "{name}: {error}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Parser)]
struct Args {
    /// The poem
    file: Option<PathBuf>,
    #[command(flatten)]
    listen: ListenArgs,
}

/// Starts a yardstick: `serve` is called for each of its listeners, on a thread of its own.
pub fn main(
    name: &'static str,
    listeners: fn(&ListenArgs) -> Result<Vec<TcpListener>, Error>,
    serve: fn(&TcpListener, &Arc<[u8]>) -> io::Result<()>,
) -> ExitCode {
    poetry_suite::cli::run(name, |args: Args| {
        open_files::raise_limit();
        let poem = args.file.map(fs::read).transpose().map_err(|error| Error::cannot("read", "the poem", &error))?;
        let poem: Arc<[u8]> = poem.unwrap_or_default().into();
        let listeners = listeners(&args.listen)?;
        announce("Serving", address(&listeners)?)?;
        let start = |listener| {
            let poem = Arc::clone(&poem);
            thread::spawn(move || serve(&listener, &poem))
        };
        let threads: Vec<_> = listeners.into_iter().map(start).collect();
        for thread in threads {
            let result = thread.join().map_err(|_| Error::failure("a thread panicked"))?;
            result.map_err(|error| Error::cannot("serve", "clients", &error))?;
        }
        Ok(0)
    })
}

/// What one connection is to an [`epoll_loop`].
pub trait Client: Sized {
    /// A new connection, and as much as can be done without waiting.
    fn begin(stream: TcpStream, poem: &[u8]) -> (Self, Next);
    /// It is ready.
    fn proceed(&mut self, poem: &[u8]) -> Next;
    /// Its socket.
    fn stream(&self) -> &TcpStream;
}

/// What a connection waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// For something to read.
    Read,
    /// For room to write.
    Write,
    /// Nothing more: close it.
    Close,
}

/// One epoll(7) loop: accept, serve, close. No polite close, no limits, no timeouts, no stop.
pub fn epoll_loop<C: Client>(listener: &TcpListener, poem: &Arc<[u8]>) -> io::Result<()> {
    const LISTENER: u64 = u64::MAX;
    listener.set_nonblocking(true)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut clients: Vec<Option<(C, Next)>> = Vec::new();
    let mut free = Vec::new();
    let mut events = Vec::with_capacity(256);
    let flags = |next| if next == Next::Read { EventFlags::IN } else { EventFlags::OUT };
    loop {
        events.clear();
        epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None)?;
        for event in &events {
            if event.data.u64() == LISTENER {
                let socket = match accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                    Ok(socket) => socket,
                    Err(Errno::AGAIN | Errno::CONNABORTED | Errno::MFILE) => continue,
                    Err(error) => return Err(error.into()),
                };
                let (client, next) = C::begin(socket.into(), poem);
                if next != Next::Close {
                    let slot = free.pop().unwrap_or_else(|| {
                        clients.push(None);
                        clients.len() - 1
                    });
                    epoll::add(&epoll, client.stream(), EventData::new_u64(slot as u64), flags(next))?;
                    clients[slot] = Some((client, next));
                }
            } else {
                let slot = event.data.u64() as usize;
                let Some((client, waits_for)) = &mut clients[slot] else { continue };
                let next = client.proceed(poem);
                if next == Next::Close {
                    clients[slot] = None;
                    free.push(slot);
                } else if next != *waits_for {
                    *waits_for = next;
                    epoll::modify(&epoll, client.stream(), event.data, flags(next))?;
                }
            }
        }
    }
}
