//! A reactor: one loop over poll(2), which calls whoever can go on.
//!
//! It waits in one place only: for the next timer, or something to read. A callback that fails is told of, and one that
//! sits makes all others wait. Time is real here, 30 ms of it. Grown up: `src/client/select.rs`, a poem as states.
//!
//! ```text
//! $ cargo run --example 09-reactor
//! 3
//! 2
//! a callback failed, as it was meant to
//! 1
//! heard: lift-off
//! ```
#![allow(clippy::print_stdout, reason = "what it prints is the lesson")]

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

type Call = Box<dyn FnOnce(&mut Reactor) -> io::Result<()>>;

#[derive(Default)]
struct Reactor {
    timers: Vec<(Instant, Call)>,
    readers: Vec<(UnixStream, Call)>,
    is_stopped: bool,
}

impl Reactor {
    fn call_later(&mut self, milliseconds: u64, call: impl FnOnce(&mut Self) -> io::Result<()> + 'static) {
        self.timers.push((Instant::now() + Duration::from_millis(milliseconds), Box::new(call)));
        self.timers.sort_by_key(|&(when, _)| when);
    }

    fn run(&mut self) {
        while !self.is_stopped {
            let first = self.timers.first().map(|(when, _)| when.duration_since(Instant::now()));
            let round_up = |wait| wait + Duration::from_nanos(999_999); // poll(2) knows milliseconds
            let timeout = first.map_or(PollTimeout::NONE, |wait| round_up(wait).try_into().expect("it is short"));
            let readers = self.readers.iter();
            let mut polled: Vec<_> = readers.map(|(one, _)| PollFd::new(one.as_fd(), PollFlags::POLLIN)).collect();
            poll(&mut polled, timeout).expect("these are descriptors");
            let call = if let Some(ready) = polled.iter().position(|one| one.any() == Some(true)) {
                self.readers.remove(ready).1
            } else if self.timers.first().is_some_and(|&(when, _)| when <= Instant::now()) {
                self.timers.remove(0).1
            } else {
                continue;
            };
            if let Err(error) = call(self) {
                println!("a callback failed, {error}");
            }
        }
    }
}

fn main() {
    let (mut here, there) = UnixStream::pair().expect("two sockets");
    let mut reactor = Reactor::default();
    for (delay, number) in [(0, 3), (10, 2), (20, 1)] {
        reactor.call_later(delay, move |_| {
            println!("{number}");
            if number == 2 { Err(io::Error::other("as it was meant to")) } else { Ok(()) }
        });
    }
    reactor.call_later(30, move |_| here.write_all(b"lift-off"));
    let mut heard = there.try_clone().expect("another descriptor");
    let hear: Call = Box::new(move |reactor| {
        let mut bytes = [0; 100]; // all that is there, and no waiting for more
        let read = heard.read(&mut bytes)?;
        println!("heard: {}", String::from_utf8_lossy(&bytes[..read]));
        reactor.is_stopped = true;
        Ok(())
    });
    reactor.readers.push((there, hear));
    reactor.run();
}
