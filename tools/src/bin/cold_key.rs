//! Many clients of a forward proxy who ask, all at once, for what it does not have; and the server behind it, which thinks
//! for half a second, and says when its reply left. Both are in one process, and so have one clock.
//!
//! Writes one line of `name=value` pairs: requests that came up, and how long after upstream's first byte that of a client
//! came, in microseconds.

#![expect(clippy::cast_possible_truncation, reason = "slots and samples are counted in a machine word")]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use poetry_suite::cli::open_files;
use rustix::event::epoll::{self, EventData, EventFlags};

/// A reply that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(20);
/// In which all clients have asked.
const THOUGHT: Duration = Duration::from_millis(500);
const REPLY: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 42\r\n\r\nThe woods are lovely, dark, and deep, and ";

#[derive(Parser)]
#[command(about = "Clients at once for what a forward proxy does not have")]
struct Args {
    /// The proxy
    proxy: SocketAddr,
    /// Clients at once
    #[arg(long, default_value_t = 1000)]
    clients: usize,
}

fn main() -> ExitCode {
    open_files::raise_limit();
    poetry_tools::tell("cold_key", run(&Args::parse()))
}

fn run(args: &Args) -> io::Result<String> {
    let (address, replied) = upstream()?;
    let request = format!("GET http://{address}/ HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let mut clients = (0..args.clients).map(|_| TcpStream::connect(args.proxy)).collect::<io::Result<Vec<_>>>()?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for (slot, client) in clients.iter_mut().enumerate() {
        client.write_all(request.as_bytes())?;
        epoll::add(&epoll, &*client, EventData::new_u64(slot as u64), EventFlags::IN)?;
    }
    let mut firsts = Vec::with_capacity(clients.len());
    let mut events = Vec::with_capacity(256);
    let until = Instant::now() + PATIENCE;
    while firsts.len() < clients.len() {
        let left = until.saturating_duration_since(Instant::now());
        let left = rustix::time::Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        events.clear();
        if epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), Some(&left))? == 0 {
            return Err(io::Error::other(format!("{} of {} got a reply", firsts.len(), clients.len())));
        }
        for event in &events {
            firsts.push(Instant::now());
            epoll::delete(&epoll, &clients[event.data.u64() as usize])?;
        }
    }
    let mut joined = 0;
    for client in &mut clients {
        let (mut reply, mut buffer) = (String::new(), [0; 4096]);
        client.set_read_timeout(Some(PATIENCE))?;
        while !reply.ends_with("deep, and ") {
            match client.read(&mut buffer)? {
                0 => return Err(io::Error::other("a reply is not whole")),
                read => reply.push_str(&String::from_utf8_lossy(&buffer[..read])),
            }
        }
        joined += usize::from(reply.contains("collapsed"));
    }
    let start = replied.recv_timeout(PATIENCE).map_err(io::Error::other)?;
    let fetches = 1 + replied.try_iter().count();
    let mut after: Vec<u128> = firsts.into_iter().map(|at| at.saturating_duration_since(start).as_micros()).collect();
    after.sort_unstable();
    let [first, median, most, last] =
        [0, after.len() / 2, after.len() * 99 / 100, after.len() - 1].map(|number| after[number]);
    Ok(format!("fetches={fetches} joined={joined} first={first} median={median} p99={most} last={last}"))
}

/// A server, and when each of its replies left.
fn upstream() -> io::Result<(SocketAddr, Receiver<Instant>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let (sender, receiver) = channel();
    thread::spawn(move || -> io::Result<()> {
        for stream in listener.incoming() {
            let (mut stream, sender) = (stream?, sender.clone());
            thread::spawn(move || -> io::Result<()> {
                let mut request = [0; 4096];
                while stream.read(&mut request)? > 0 {
                    thread::sleep(THOUGHT);
                    let _ = sender.send(Instant::now());
                    stream.write_all(REPLY)?;
                }
                Ok(())
            });
        }
        Ok(())
    });
    Ok((address, receiver))
}
