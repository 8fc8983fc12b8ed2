//! The yardstick for transform servers: one request read, its poem in lower case, one reply written, close.
//!
//! It believes every byte of a request: no limit, no name looked up, no malformed netstring refused, no polite close.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use poetry_suite::cli::listen::Trouble;
use poetry_tools::{Client, Next, epoll_loop};

fn main() -> std::process::ExitCode {
    poetry_tools::main("bare_transform", |listen| listen.bind_shared(Trouble::default()), epoll_loop::<Asker>)
}

struct Asker {
    stream: TcpStream,
    /// The request as it arrives.
    request: Vec<u8>,
    reply: Vec<u8>,
    sent: usize,
}

impl Client for Asker {
    fn begin(stream: TcpStream, poem: &[u8]) -> (Self, Next) {
        let mut asker = Self { stream, request: Vec::new(), reply: Vec::new(), sent: 0 };
        let next = asker.proceed(poem);
        (asker, next)
    }

    fn proceed(&mut self, _: &[u8]) -> Next {
        if self.reply.is_empty() {
            let mut buffer = [0; 64 * 1024];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Next::Close,
                Ok(n) => self.request.extend_from_slice(&buffer[..n]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Next::Read,
                Err(_) => return Next::Close,
            }
            match reply(&self.request) {
                Some(reply) => self.reply = reply,
                None => return Next::Read,
            }
        }
        match self.stream.write(&self.reply[self.sent..]) {
            Ok(n) => self.sent += n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return Next::Close,
        }
        if self.sent == self.reply.len() { Next::Close } else { Next::Write }
    }

    fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

/// The reply to a request, if it is complete.
fn reply(request: &[u8]) -> Option<Vec<u8>> {
    let colon = request.iter().take(20).position(|&byte| byte == b':')?;
    let length: usize = std::str::from_utf8(&request[..colon]).ok()?.parse().ok()?;
    let payload = request.get(colon + 1..colon + 1 + length)?;
    request.get(colon + 1 + length)?;
    let dot = payload.iter().position(|&byte| byte == b'.')?;
    let poem = &payload[dot + 1..];
    let mut reply = Vec::with_capacity(poem.len() + 20);
    reply.extend_from_slice(format!("{}:", poem.len()).as_bytes());
    reply.extend(poem.iter().map(u8::to_ascii_lowercase));
    reply.push(b',');
    Some(reply)
}
