//! The yardstick for brokers: what the kernel needs to give each message to every subscriber, and nothing else.
//!
//! One epoll(7) loop on one thread: a read from a sender, then one send(2) for each subscriber of what that read completed.
//! It knows one channel, holds no queue (one subscriber that stalls stops everybody), and believes every length.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;

use poetry_suite::cli::listen::{BACKLOG, Trouble};
use poetry_suite::proto::frame;
use rustix::event::{PollFd, PollFlags, epoll, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::sockopt::set_tcp_nodelay;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send};

fn main() -> ExitCode {
    poetry_tools::main(
        "bare_fanout",
        |listen| listen.bind(BACKLOG, Trouble::default()).map(|listener| vec![listener]),
        |listener, _| FanOut::new()?.serve(listener),
    )
}

/// Bytes that one read(2) asks for.
const CHUNK: usize = 64 * 1024;

/// The channel of those who only send.
const NULL: &[u8] = b"/null";

struct FanOut {
    epoll: OwnedFd,
    /// Those who have not said their channel yet, and senders.
    talkers: HashMap<u64, Talker>,
    subscribers: BTreeMap<u64, TcpStream>,
    /// A talker's unfinished message, and what was read behind it.
    input: Vec<u8>,
    /// Data messages of one read.
    output: Vec<u8>,
}

struct Talker {
    stream: TcpStream,
    sends: bool,
    /// The beginning of a message.
    rest: Vec<u8>,
}

impl FanOut {
    fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let (talkers, subscribers) = (HashMap::new(), BTreeMap::new());
        Ok(Self { epoll, talkers, subscribers, input: Vec::new(), output: Vec::new() })
    }

    fn serve(mut self, listener: &TcpListener) -> io::Result<()> {
        const LISTENER: u64 = 0;
        listener.set_nonblocking(true)?;
        epoll::add(&self.epoll, listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
        let mut number = LISTENER;
        let mut events = Vec::with_capacity(256);
        loop {
            events.clear();
            epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None)?;
            for event in &events {
                match event.data.u64() {
                    LISTENER => {
                        number += 1;
                        self.accept(listener, number)?;
                    }
                    known => self.proceed(known),
                }
            }
        }
    }

    fn accept(&mut self, listener: &TcpListener, number: u64) -> io::Result<()> {
        let socket = match accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok(socket) => socket,
            Err(Errno::AGAIN | Errno::CONNABORTED | Errno::MFILE) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        // Otherwise a message waits until the one before it is acknowledged (Nagle's algorithm).
        set_tcp_nodelay(&socket, true)?;
        epoll::add(&self.epoll, &socket, epoll::EventData::new_u64(number), epoll::EventFlags::IN)?;
        self.talkers.insert(number, Talker { stream: socket.into(), sends: false, rest: Vec::new() });
        Ok(())
    }

    /// Reads once.
    fn proceed(&mut self, number: u64) {
        let Some(talker) = self.talkers.get_mut(&number) else {
            // A subscriber has nothing to say but its end.
            let end = |stream| {
                recv(stream, &mut [0; 64], RecvFlags::empty()).map_or_else(|e| e != Errno::AGAIN, |(n, _)| n == 0)
            };
            if self.subscribers.get(&number).is_some_and(end) {
                self.subscribers.remove(&number);
            }
            return;
        };
        let begun = talker.rest.len();
        if self.input.len() < begun + CHUNK {
            self.input.resize(begun + CHUNK, 0);
        }
        let end = match recv(&talker.stream, &mut self.input[begun..], RecvFlags::empty()) {
            Ok((n, _)) if n > 0 => begun + n,
            Err(Errno::AGAIN) => return,
            _ => {
                self.talkers.remove(&number);
                return;
            }
        };
        self.input[..begun].copy_from_slice(&talker.rest);
        talker.rest.clear();
        let mut left = &self.input[..end];
        if !talker.sends {
            match take(&mut left) {
                Some(NULL) => talker.sends = true,
                Some(_) => {
                    let subscriber = self.talkers.remove(&number).map(|talker| (number, talker.stream));
                    return self.subscribers.extend(subscriber);
                }
                None => return talker.rest.extend_from_slice(left),
            }
        }
        self.output.clear();
        while let Some(data) = take_pair(&mut left) {
            self.output.extend_from_slice(&frame::prefix(data.len()));
            self.output.extend_from_slice(data);
        }
        talker.rest.extend_from_slice(left);
        for stream in self.subscribers.values() {
            send_all(stream, &self.output);
        }
    }
}

/// The next message.
fn take<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    frame::decode(bytes, frame::LONGEST).ok().flatten()
}

/// The data of the next pair, if both its messages are there.
fn take_pair<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let mut left = *bytes;
    let data = take(&mut left).and_then(|_channel| take(&mut left))?;
    *bytes = left;
    Some(data)
}

/// Sends everything, and waits for room where there is none. Whoever is gone is told so by epoll(7) soon.
fn send_all(stream: &TcpStream, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match send(stream, bytes, SendFlags::NOSIGNAL) {
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::AGAIN) => {
                let _ = poll(&mut [PollFd::new(stream, PollFlags::OUT)], None);
            }
            Err(_) => return,
        }
    }
}
