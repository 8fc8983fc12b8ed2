//! The other half of the two pollers: a PUSH and a PUB of ZeroMQ, on two ports, for one PULL and one SUB.
//!
//! ZeroMQ is a greeting, a READY, and frames: `src/proto/zmtp/mod.rs` makes them out of bytes, and bytes of them, and has
//! no socket. After each message comes a PING, and the next one when its PONG is there: whoever answers has taken what
//! came before, so the pollers print the same lines each time. (What a PUB sends before somebody has subscribed goes
//! nowhere; so this one waits for that.) Grown up: `src/programs/reporter.rs`, a PUB in a thread.
//!
//! ```text
//! $ cargo run --example 21-poller-server -- 5557 5556 &
//! PUSH on 5557, PUB on 5556
//! ```
//!
//! With 0 for a port any free one is taken.
#![allow(clippy::print_stdout, reason = "what it prints is the lesson")]

use std::env;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use poetry_suite::proto::zmtp::{Decoder, Event, GREETING, Role, add_message};

/// A command: flags, length, length of its name, name, how long a silence is (none), and a context (none).
const PING: &[u8] = b"\x04\x07\x04PING\x00\x00";
const PONG: &[u8] = b"\x04\x05\x04PONG";

/// Waits for a peer, and until it can be sent to.
fn accept(listener: &TcpListener, role: Role) -> io::Result<TcpStream> {
    let (mut peer, _) = listener.accept()?;
    peer.set_nodelay(true)?;
    peer.write_all(&GREETING)?;
    let (mut decoder, mut bytes) = (Decoder::new(role, 1024), Vec::new());
    loop {
        let mut rest = &bytes[..];
        while let Some(event) = decoder.decode(&mut rest).map_err(io::Error::other)? {
            match event {
                Event::Answer(answer) => peer.write_all(&answer)?,
                Event::Ready if role == Role::Push => return Ok(peer),
                Event::Subscribed(_) => return Ok(peer),
                _ => {}
            }
        }
        let taken = bytes.len() - rest.len();
        bytes.drain(..taken);
        let mut piece = [0; 256];
        let length = peer.read(&mut piece)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&piece[..length]);
    }
}

fn main() -> io::Result<()> {
    let mut ports = env::args().skip(1).map(|port| port.parse().expect("a port"));
    let mut listen = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, ports.next().unwrap_or(port)));
    let (pushes, publishes) = (listen(5557)?, listen(5556)?);
    println!("PUSH on {}, PUB on {}", pushes.local_addr()?.port(), publishes.local_addr()?.port());

    let mut peers = [accept(&pushes, Role::Push)?, accept(&publishes, Role::Pub)?];
    for number in 0..3 {
        for peer in &mut peers {
            let mut bytes = Vec::new();
            add_message(&mut bytes, &[number.to_string().as_bytes()]);
            bytes.extend_from_slice(PING);
            peer.write_all(&bytes)?;
            let mut answer = [0; PONG.len()];
            peer.read_exact(&mut answer)?;
            assert_eq!(answer, PONG);
        }
    }
    Ok(())
}
