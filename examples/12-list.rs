//! Waiting for all, of which some fail: Twisted's `DeferredList`, asyncio's `gather(return_exceptions=True)`.
//!
//! They end in any order; whoever awaits their handles one after another has the outcomes in the order in which they were
//! begun, and waits no longer than for the slowest. A failure is an outcome like others: it ends its own task and nobody
//! else's, even if it is a panic. Grown up: `src/client/ordered.rs`, poems in their order, and yet live.
//!
//! ```text
//! $ cargo run --example 12-list
//!  10 ms  sun ends
//!  20 ms  flea ends
//!  30 ms  rose ends
//!  40 ms  ecstasy ends
//! rose: Ok(20)
//! sun: Err("reset by peer")
//! ecstasy: Ok(76)
//! flea: panicked
//! ```
#![allow(clippy::print_stdout, reason = "what it prints is the lesson")]

use std::panic;
use std::time::Duration;

use tokio::time::{Instant, sleep};

const POEMS: [(&str, u64); 4] = [("rose", 30), ("sun", 10), ("ecstasy", 40), ("flea", 20)];

async fn fetch(name: &str, milliseconds: u64, start: Instant) -> Result<u32, String> {
    sleep(Duration::from_millis(milliseconds)).await;
    println!("{:3} ms  {name} ends", start.elapsed().as_millis());
    match name {
        "rose" => Ok(20),
        "ecstasy" => Ok(76),
        "flea" => panic!("nobody has expected this"),
        _ => Err("reset by peer".to_owned()),
    }
}

/// On one thread, with a clock that jumps to the next timer as soon as all tasks wait.
#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() {
    panic::set_hook(Box::new(|_| {})); // who waits for a task hears of its panic, so stderr need not
    let start = Instant::now();
    let tasks = POEMS.map(|(name, milliseconds)| tokio::spawn(fetch(name, milliseconds, start)));
    let mut list = Vec::new();
    for task in tasks {
        list.push(task.await.map_or("panicked".to_owned(), |outcome| format!("{outcome:?}")));
    }
    for ((name, _), outcome) in POEMS.iter().zip(list) {
        println!("{name}: {outcome}");
    }
}
