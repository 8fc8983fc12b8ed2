//! The yardstick of the benchmarks: what the kernel needs to give out a poem, and nothing else.
//!
//! One epoll(7) loop a processor, each with a listener of its own; accept, write, close.

use std::io::{self, Write};
use std::net::TcpStream;

use poetry_suite::cli::listen::Trouble;
use poetry_tools::{Client, Next, epoll_loop};

fn main() -> std::process::ExitCode {
    poetry_tools::main("bare_epoll", |listen| listen.bind_shared(Trouble::default()), epoll_loop::<Reader>)
}

struct Reader {
    stream: TcpStream,
    sent: usize,
}

impl Client for Reader {
    fn begin(stream: TcpStream, poem: &[u8]) -> (Self, Next) {
        let mut reader = Self { stream, sent: 0 };
        let next = reader.proceed(poem);
        (reader, next)
    }

    fn proceed(&mut self, poem: &[u8]) -> Next {
        match self.stream.write(&poem[self.sent..]) {
            Ok(n) => self.sent += n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return Next::Close,
        }
        if self.sent == poem.len() { Next::Close } else { Next::Write }
    }

    fn stream(&self) -> &TcpStream {
        &self.stream
    }
}
