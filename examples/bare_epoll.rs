//! The yardstick of the benchmarks: what the kernel needs to give out a poem, and nothing else.
//!
//! One epoll(7) loop a processor, each with a listener of its own; accept, write, close. No polite close, no
//! limits, no timeouts, no stop.

#![expect(clippy::cast_possible_truncation, reason = "slots are counted in a machine word")]

use std::fs;
use std::io::{self, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use clap::Parser;
use poetry_suite::cli::listen::{ListenArgs, announce};
use poetry_suite::cli::{Error, open_files, run};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

#[derive(Parser)]
struct Args {
    file: PathBuf,
    #[command(flatten)]
    listen: ListenArgs,
}

fn main() -> std::process::ExitCode {
    run("bare_epoll", |args: Args| {
        open_files::raise_limit();
        let poem: Arc<[u8]> = fs::read(&args.file).map_err(|error| Error::cannot("read", "the poem", &error))?.into();
        let listeners = args.listen.bind_shared()?;
        announce("Serving", &listeners[0])?;
        let threads: Vec<_> = listeners
            .into_iter()
            .map(|listener| {
                let poem = Arc::clone(&poem);
                thread::spawn(move || serve(&listener, &poem))
            })
            .collect();
        for thread in threads {
            let result = thread.join().map_err(|_| Error::failure("a thread panicked"))?;
            result.map_err(|error| Error::cannot("serve", "the poem", &error))?;
        }
        Ok(0)
    })
}

fn serve(listener: &std::net::TcpListener, poem: &[u8]) -> io::Result<()> {
    const LISTENER: u64 = u64::MAX;
    listener.set_nonblocking(true)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut clients: Vec<Option<(TcpStream, usize)>> = Vec::new();
    let mut free = Vec::new();
    let mut events = Vec::with_capacity(256);
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
                let mut stream = TcpStream::from(socket);
                let sent = stream.write(poem).unwrap_or(0);
                if sent < poem.len() {
                    let slot = free.pop().unwrap_or_else(|| {
                        clients.push(None);
                        clients.len() - 1
                    });
                    epoll::add(&epoll, &stream, EventData::new_u64(slot as u64), EventFlags::OUT)?;
                    clients[slot] = Some((stream, sent));
                }
            } else {
                let slot = event.data.u64() as usize;
                let Some((stream, sent)) = &mut clients[slot] else { continue };
                match stream.write(&poem[*sent..]) {
                    Ok(n) => *sent += n,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => *sent = poem.len(),
                }
                if *sent == poem.len() {
                    clients[slot] = None;
                    free.push(slot);
                }
            }
        }
    }
}
