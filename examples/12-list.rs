//! Waiting for all, of which some fail: Twisted's `DeferredList`, asyncio's `gather(return_exceptions=True)`.
//!
//! A set of tasks gives out its members as they end, and each failure as a value: an error, or a panic, which ends its
//! task and nobody else. Whoever wants the order in which they were begun lets each of them carry its number.
//! Grown up: `src/client/ordered.rs`, poems in order and yet live.
//!
//! ```text
//! $ cargo run --example 12-list
//!  10 ms  sun has ended
//!  20 ms  flea has ended
//!  30 ms  rose has ended
//!  40 ms  ecstasy has ended
//! 1. rose: Ok("17 lines")
//! 2. sun: Err("reset by peer")
//! 3. ecstasy: Ok("76 lines")
//! 4. flea: Err("it panicked: a flea has no lines")
//! ```
#![allow(clippy::print_stdout, reason = "what it prints is the lesson")]

use std::collections::HashMap;
use std::panic;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep};

const POEMS: [(&str, u64); 4] = [("rose", 30), ("sun", 10), ("ecstasy", 40), ("flea", 20)];

async fn fetch(name: &str, milliseconds: u64) -> Result<String, String> {
    sleep(Duration::from_millis(milliseconds)).await;
    match name {
        "rose" => Ok("17 lines".to_owned()),
        "ecstasy" => Ok("76 lines".to_owned()),
        "flea" => panic!("a flea has no lines"),
        _ => Err("reset by peer".to_owned()),
    }
}

fn panicked(error: JoinError) -> Result<String, String> {
    let said = error.into_panic().downcast::<&str>();
    Err(format!("it panicked: {}", said.map_or("", |said| *said)))
}

/// On one thread, with a clock that jumps to the next timer as soon as all tasks wait.
#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() {
    panic::set_hook(Box::new(|_| {})); // it is told of below
    let (start, mut tasks, mut begun, mut ended) =
        (Instant::now(), JoinSet::new(), HashMap::new(), [const { None }; 4]);
    for (number, (name, milliseconds)) in POEMS.into_iter().enumerate() {
        begun.insert(tasks.spawn(fetch(name, milliseconds)).id(), number);
    }
    while let Some(joined) = tasks.join_next_with_id().await {
        let id = joined.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        println!("{:3} ms  {} has ended", start.elapsed().as_millis(), POEMS[begun[&id]].0);
        ended[begun[&id]] = Some(joined.map_or_else(panicked, |(_, outcome)| outcome));
    }
    for (number, (outcome, (name, _))) in ended.into_iter().flatten().zip(POEMS).enumerate() {
        println!("{}. {name}: {outcome:?}", number + 1);
    }
}
