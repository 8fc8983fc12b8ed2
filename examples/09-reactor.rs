//! A reactor: one loop over poll(2), which calls whoever can go on.
//!
//! It waits in one place only: until the next timer, or until something can be read. A callback that fails is told of, and
//! the loop goes on; one that sits makes all the others wait. Twisted calls these `callLater`, `addReader` and `stop`.
//! Grown up: `src/client/select.rs`, where a state of a poem goes on. Time is real here: 30 ms of it.
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

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

type Call = Box<dyn FnOnce(&mut Reactor) -> io::Result<()>>;

#[derive(Default)]
struct Reactor {
    timers: Vec<(Instant, Call)>,
    readers: Vec<(Rc<UnixStream>, Call)>,
    is_stopped: bool,
}

impl Reactor {
    fn call_later(&mut self, milliseconds: u64, call: impl FnOnce(&mut Self) -> io::Result<()> + 'static) {
        self.timers.push((Instant::now() + Duration::from_millis(milliseconds), Box::new(call)));
        self.timers.sort_by_key(|&(when, _)| when);
    }

    fn run(&mut self) {
        while !self.is_stopped {
            let wait = self.timers.first().map(|(when, _)| when.duration_since(Instant::now()));
            let timeout = wait.map_or(PollTimeout::NONE, |wait| wait.try_into().expect("it is short"));
            let polled = self.readers.iter().map(|(socket, _)| PollFd::new(socket.as_fd(), PollFlags::POLLIN));
            let mut polled: Vec<_> = polled.collect();
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
    let (there, mut reactor) = (Rc::new(there), Reactor::default());
    for (delay, number) in [(0, 3), (10, 2), (20, 1)] {
        let call = move |_: &mut Reactor| {
            println!("{number}");
            if number == 2 { Err(io::Error::other("as it was meant to")) } else { Ok(()) }
        };
        reactor.call_later(delay, call);
    }
    reactor.call_later(30, move |_| here.write_all(b"lift-off"));
    let heard = Rc::clone(&there);
    let hear = move |reactor: &mut Reactor| {
        println!("heard: {}", io::read_to_string(&*heard)?);
        reactor.is_stopped = true;
        Ok(())
    };
    reactor.readers.push((there, Box::new(hear)));
    reactor.run();
}
