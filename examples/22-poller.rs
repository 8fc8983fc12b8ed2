//! A PULL and a SUB of ZeroMQ in one loop over poll(2).
//!
//! How far a conversation is (greeting, handshake, half a message) is a value beside its socket, because nobody may sit in
//! the middle of it (for writing they still may: what is written here is a few bytes). The server may also be one of pyzmq's. Grown up: `src/client/select.rs`.
//!
//! ```text
//! $ cargo run --example 21-poller-server -- 5557 5556 &
//! $ cargo run --example 22-poller -- 5557 5556
//! Via PULL: 0
//! Via SUB: 0
//! Via PULL: 1
//! Via SUB: 1
//! Via PULL: 2
//! Via SUB: 2
//! ```
#![allow(clippy::print_stdout, reason = "what it prints is the lesson")]

use std::env;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use poetry_suite::proto::zmtp::{Decoder, Event, GREETING, Role, subscribe};

/// One conversation: how far it is, and what has come of the next message.
struct Peer {
    role: Role,
    socket: TcpStream,
    decoder: Decoder,
    bytes: Vec<u8>,
    is_over: bool,
}

impl Peer {
    fn connect(role: Role, port: u16) -> io::Result<Self> {
        let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        socket.write_all(&GREETING)?;
        Ok(Self { role, socket, decoder: Decoder::new(role, 1024), bytes: Vec::new(), is_over: false })
    }

    /// There is something to read, be it the end.
    fn go_on(&mut self) -> io::Result<()> {
        let mut piece = [0; 256];
        let length = self.socket.read(&mut piece)?;
        self.is_over = length == 0;
        self.bytes.extend_from_slice(&piece[..length]);
        let mut rest = &self.bytes[..];
        while let Some(event) = self.decoder.decode(&mut rest).map_err(io::Error::other)? {
            match event {
                Event::Answer(answer) => self.socket.write_all(&answer)?,
                Event::Ready if self.role == Role::Sub => self.socket.write_all(&subscribe(b""))?,
                Event::Message(message) => {
                    println!("Via {}: {}", self.role.name(), String::from_utf8_lossy(message.last()));
                }
                _ => {}
            }
        }
        let taken = self.bytes.len() - rest.len();
        self.bytes.drain(..taken);
        Ok(())
    }
}

fn main() -> io::Result<()> {
    let mut ports = env::args().skip(1).map(|port| port.parse().expect("a port"));
    let mut connect = |role, port| Peer::connect(role, ports.next().unwrap_or(port));
    let mut peers = vec![connect(Role::Pull, 5557)?, connect(Role::Sub, 5556)?];
    while !peers.is_empty() {
        let polled = peers.iter().map(|peer| PollFd::new(peer.socket.as_fd(), PollFlags::POLLIN));
        let mut polled: Vec<_> = polled.collect();
        poll(&mut polled, PollTimeout::NONE)?;
        let ready: Vec<_> = polled.iter().map(|one| one.any() == Some(true)).collect();
        for (peer, _) in peers.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
            peer.go_on()?;
        }
        peers.retain(|peer| !peer.is_over);
    }
    Ok(())
}
