//! A channel in which everybody hears everything, and one listener who sleeps.
//!
//! It holds four lines, for however many listen. Ten are sent; nobody waits for the sleeper, who is told how many it has
//! missed, and goes on with the oldest that is left. That is an answer of the channel, not an error that may be thrown
//! away: a chat that ignores it has holes. Grown up: `src/server/monitor/ring.rs` (told what it has missed, too) and
//! `src/server/broker/outbox.rs` (a queue for each, and a choice of what to do when it is full).
//!
//! ```text
//! $ cargo run --example 08-broadcast
//! awake:   heard 1 2 3 4 5 6 7 8 9 10
//! sleeper: missed 6, heard 7 8 9 10
//! ```
#![allow(clippy::print_stdout, reason = "what it prints is the lesson")]

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::broadcast::{self, Receiver};
use tokio::sync::oneshot;
use tokio::task::yield_now;

async fn listen(mut lines: Receiver<u32>) -> String {
    let (mut missed, mut heard) = (String::new(), String::from("heard"));
    loop {
        match lines.recv().await {
            Ok(line) => heard += &format!(" {line}"),
            Err(RecvError::Lagged(number)) => missed += &format!("missed {number}, "),
            Err(RecvError::Closed) => return missed + &heard,
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let (to_all, lines) = broadcast::channel(4);
    let (wake, woken) = oneshot::channel();
    let awake = tokio::spawn(listen(to_all.subscribe()));
    let sleeper = tokio::spawn(async {
        woken.await.expect("somebody wakes it");
        listen(lines).await
    });

    for line in 1..=10 {
        to_all.send(line).expect("somebody listens");
        yield_now().await; // whoever is awake hears it
    }
    wake.send(()).expect("it sleeps");
    drop(to_all); // the end, for both

    println!("awake:   {}", awake.await.expect("it does not panic"));
    println!("sleeper: {}", sleeper.await.expect("it does not panic"));
}
