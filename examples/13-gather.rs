//! Waiting for all, when one failure is enough: asyncio's `gather`, Rust's `join!` and `try_join!`.
//!
//! Both wait for several futures within one task, side by side, and give their outcomes in the order in which they stand
//! there. `join!` waits for all of them whatever happens. `try_join!` ends with the first error and drops the others where
//! they wait; asyncio's `gather` raises, too, but lets them run on, which surprises many (its `TaskGroup` does not).
//! Grown up: `--fail-early`, in `src/programs/get_poetry/finish.rs`.
//!
//! ```text
//! $ cargo run --example 13-gather
//! join:
//!    10 ms  rose has arrived
//!    20 ms  sun has failed
//!    30 ms  ecstasy has arrived
//!    30 ms  Ok("ecstasy"), Err("sun"), Ok("rose")
//! try_join:
//!    10 ms  rose has arrived
//!    20 ms  sun has failed
//!    20 ms  ecstasy is dropped
//!    20 ms  Err("sun")
//! ```
#![allow(clippy::print_stdout, reason = "what it prints is the lesson")]

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// A fetch that tells what becomes of it, also if that is that it is dropped.
struct Fetch {
    name: &'static str,
    start: Instant,
    outcome: &'static str,
}

impl Drop for Fetch {
    fn drop(&mut self) {
        println!("  {:3} ms  {} {}", self.start.elapsed().as_millis(), self.name, self.outcome);
    }
}

async fn fetch(name: &'static str, milliseconds: u64) -> Result<&'static str, &'static str> {
    let mut fetch = Fetch { name, start: Instant::now(), outcome: "is dropped" };
    sleep(Duration::from_millis(milliseconds)).await;
    fetch.outcome = if name == "sun" { "has failed" } else { "has arrived" };
    if name == "sun" { Err(name) } else { Ok(name) }
}

/// On one thread, with a clock that jumps to the next timer as soon as all tasks wait.
#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() {
    println!("join:");
    let start = Instant::now();
    let (first, second, third) = tokio::join!(fetch("ecstasy", 30), fetch("sun", 20), fetch("rose", 10));
    println!("  {:3} ms  {first:?}, {second:?}, {third:?}", start.elapsed().as_millis());

    println!("try_join:");
    let start = Instant::now();
    let all = tokio::try_join!(fetch("ecstasy", 30), fetch("sun", 20), fetch("rose", 10));
    println!("  {:3} ms  {all:?}", start.elapsed().as_millis());
}
