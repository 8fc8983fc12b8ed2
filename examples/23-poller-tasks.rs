//! A PULL and a SUB of ZeroMQ in two tasks: what 22-poller does, from top to bottom.
//!
//! Each conversation is a function that awaits its socket. Where it is is what the compiler remembers; the loop is the
//! runtime's. And a third conversation is a third `spawn`. Grown up: `src/server/monitor/collector.rs`. The server may also
//! be one of pyzmq's.
//!
//! ```text
//! $ cargo run --example 21-poller-server -- 5557 5556 &
//! $ cargo run --example 23-poller-tasks -- 5557 5556
//! Via PULL: 0
//! Via SUB: 0
//! Via PULL: 1
//! Via SUB: 1
//! Via PULL: 2
//! Via SUB: 2
//! ```
#![allow(clippy::print_stdout, reason = "what it prints is the lesson")]

use std::net::Ipv4Addr;
use std::{env, io};

use poetry_suite::proto::zmtp::{Decoder, Event, GREETING, Role, subscribe};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn listen(role: Role, port: u16) -> io::Result<()> {
    let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    socket.write_all(&GREETING).await?;
    let (mut decoder, mut bytes) = (Decoder::new(role, 1024), Vec::new());
    while socket.read_buf(&mut bytes).await? > 0 {
        let mut rest = &bytes[..];
        while let Some(event) = decoder.decode(&mut rest).map_err(io::Error::other)? {
            match event {
                Event::Answer(answer) => socket.write_all(&answer).await?,
                Event::Ready if role == Role::Sub => socket.write_all(&subscribe(b"")).await?,
                Event::Message(message) => {
                    println!("Via {}: {}", role.name(), String::from_utf8_lossy(message.last()));
                }
                _ => {}
            }
        }
        let taken = bytes.len() - rest.len();
        bytes.drain(..taken);
    }
    decoder.finish(&bytes).map_err(io::Error::other) // not within a message?
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let mut ports = env::args().skip(1).map(|port| port.parse().expect("a port"));
    let pull = tokio::spawn(listen(Role::Pull, ports.next().unwrap_or(5557)));
    let sub = tokio::spawn(listen(Role::Sub, ports.next().unwrap_or(5556)));
    pull.await??;
    sub.await?
}
