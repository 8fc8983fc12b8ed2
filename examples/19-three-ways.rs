//! The same story three ways: with a callback, with a future, and with threads. One line has another place in each.
//!
//! The reader reads inside of the call that sends; or when the server's turn is over; or whenever the kernel likes, unless
//! both need a lock, as here for the story. Grown up: one contract in four models of waiting, `src/client/mod.rs`.
//!
//! ```text
//! $ cargo run --example 19-three-ways
//! deferred         future           threads
//! reader asks      reader asks      reader asks
//! server sends     server sends     server sends
//! READER READS     server has sent  server has sent
//! server has sent  READER READS     others go on
//! others go on     others go on     READER READS
//! ```
#![allow(clippy::print_stdout, reason = "what it prints is the lesson")]

use std::cell::RefCell;
use std::sync::Mutex;
use std::{iter, thread};

use tokio::sync::oneshot;
use tokio::task::yield_now;

type Story = Vec<&'static str>;

fn deferred() -> Story {
    let story = RefCell::new(vec!["reader asks"]);
    let say = |line| story.borrow_mut().push(line);
    let callback = || say("READER READS");

    say("server sends");
    callback();
    say("server has sent");
    say("others go on");
    story.into_inner()
}

async fn future() -> Story {
    let story = RefCell::new(Story::new());
    let say = |line| story.borrow_mut().push(line);
    let (promise, future) = oneshot::channel();
    let reader = async {
        say("reader asks");
        future.await.expect("the server sends");
        say("READER READS");
    };
    let server = async {
        say("server sends");
        promise.send(()).expect("the reader waits");
        say("server has sent");
        yield_now().await; // its turn is over
        say("others go on");
    };
    tokio::join!(biased; reader, server);
    story.into_inner()
}

fn threads() -> Story {
    let story = Mutex::new(vec!["reader asks"]);
    let (sender, receiver) = oneshot::channel();
    thread::scope(|scope| {
        let mut server = story.lock().expect("nobody panics");
        scope.spawn(|| {
            receiver.blocking_recv().expect("the server sends");
            story.lock().expect("nobody panics").push("READER READS");
        });
        server.push("server sends");
        sender.send(()).expect("the reader waits");
        server.extend(["server has sent", "others go on"]);
    });
    story.into_inner().expect("nobody panics")
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    println!("deferred         future           threads");
    for ((first, second), third) in iter::zip(iter::zip(deferred(), future().await), threads()) {
        println!("{first:16} {second:16} {third}");
    }
}
