//! Taking each as it ends: asyncio's `as_completed`, Rust's `JoinSet`.
//!
//! The order is that of the ends, not of the starts. Whoever waits for them in the order of the starts has nothing to show
//! for 40 ms, and then four at once; the time for all is the same. The tasks may run as soon as they are
//! spawned; a future that is not a task does nothing until somebody awaits it.
//! Grown up: `src/client/tasks.rs`.
//!
//! ```text
//! $ cargo run --example 14-as-completed
//! as they end:        sun 10, flea 20, rose 30, ecstasy 40
//! as they were begun: ecstasy 40, sun 40, rose 40, flea 40
//! futures, no tasks:  ecstasy 40, sun 50, rose 80, flea 100
//! ```
#![allow(clippy::print_stdout, reason = "what it prints is the lesson")]

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

const POEMS: [(&str, u64); 4] = [("ecstasy", 40), ("sun", 10), ("rose", 30), ("flea", 20)];

async fn fetch((name, milliseconds): (&str, u64)) -> &str {
    sleep(Duration::from_millis(milliseconds)).await;
    name
}

/// On one thread, with a clock that jumps to the next timer as soon as all tasks wait.
#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() {
    let start = Instant::now();
    let (mut tasks, mut seen) = (JoinSet::new(), Vec::new());
    for poem in POEMS {
        tasks.spawn(fetch(poem));
    }
    while let Some(name) = tasks.join_next().await {
        seen.push(format!("{} {}", name.expect("it does not panic"), start.elapsed().as_millis()));
    }
    println!("as they end:        {}", seen.join(", "));

    let (start, mut seen) = (Instant::now(), Vec::new());
    let tasks = POEMS.map(|poem| tokio::spawn(fetch(poem)));
    for task in tasks {
        seen.push(format!("{} {}", task.await.expect("it does not panic"), start.elapsed().as_millis()));
    }
    println!("as they were begun: {}", seen.join(", "));

    let (start, mut seen) = (Instant::now(), Vec::new());
    let futures = POEMS.map(fetch);
    for future in futures {
        seen.push(format!("{} {}", future.await, start.elapsed().as_millis()));
    }
    println!("futures, no tasks:  {}", seen.join(", "));
}
