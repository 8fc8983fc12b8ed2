//! The first one wins, and the others are called off: asyncio's `wait(FIRST_COMPLETED)`, Twisted's `fireOnOneCallback`.
//!
//! To take the first is half of it. The others are still under way, and would run to their ends: whoever began them has to
//! end them, and to wait until they have ended, for their clean-up takes its turn as well. A failure is no winner here (for
//! `FIRST_COMPLETED` it is one).
//! Grown up: `src/net/dial.rs`, which connects to the address that answers first (happy eyeballs).
//!
//! ```text
//! $ cargo run --example 15-wait-first
//!  10 ms  north refuses
//!  20 ms  south wins; under way: 2
//!  20 ms  east is called off
//!  20 ms  west is called off
//!  20 ms  under way: 0
//! ```
#![allow(clippy::print_stdout, reason = "what it prints is the lesson")]

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// Tells that it has been called off, if nobody has said before that it has arrived.
struct Attempt {
    server: &'static str,
    start: Instant,
    is_over: bool,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !self.is_over {
            println!("{:3} ms  {} is called off", self.start.elapsed().as_millis(), self.server);
        }
    }
}

async fn connect(server: &'static str, milliseconds: u64) -> Result<&'static str, &'static str> {
    let mut attempt = Attempt { server, start: Instant::now(), is_over: false };
    sleep(Duration::from_millis(milliseconds)).await;
    attempt.is_over = true;
    if server == "north" { Err(server) } else { Ok(server) }
}

/// On one thread, with a clock that jumps to the next timer as soon as all tasks wait.
#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() {
    let (start, mut attempts) = (Instant::now(), JoinSet::new());
    for (server, milliseconds) in [("north", 10), ("east", 40), ("south", 20), ("west", 30)] {
        attempts.spawn(connect(server, milliseconds));
    }
    while let Some(attempt) = attempts.join_next().await {
        let now = start.elapsed().as_millis();
        match attempt.expect("it does not panic") {
            Err(server) => println!("{now:3} ms  {server} refuses"),
            Ok(server) => {
                println!("{now:3} ms  {server} wins; under way: {}", attempts.len());
                attempts.shutdown().await; // abort each, and wait for each
            }
        }
    }
    println!("{:3} ms  under way: {}", start.elapsed().as_millis(), attempts.len());
}
