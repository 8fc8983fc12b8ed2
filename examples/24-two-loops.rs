//! Two loops on one thread: a loop of somebody else's gives a runtime its turns, as `reactor.iterate()` does in Twisted.
//!
//! Only one loop can wait. The outer one has the clock and decides how long a turn is; the runtime goes on only while it
//! is inside of `block_on`. Between two turns its tasks stand still, whatever their timers say. A window, a game, a
//! reactor of C can be the outer one. The other way round is easier: a loop that blocks has a thread, and a runtime awaits
//! what it sends (17-queue). Grown up: `src/client/bell.rs`, by which threads are heard in a loop over poll(2).
//!
//! ```text
//! $ cargo run --example 24-two-loops
//! turn 1 of the outer loop
//! turn 2 of the outer loop
//!    16 ms  hello 1, due at 10
//! turn 3 of the outer loop
//!    24 ms  hello 2, due at 20
//! turn 4 of the outer loop
//!    32 ms  hello 3, due at 30
//! turn 5 of the outer loop
//!    40 ms  hello 4, due at 40
//! turn 6 of the outer loop
//! turn 7 of the outer loop
//!    56 ms  hello 5, due at 50
//! ```
#![allow(clippy::print_stdout, reason = "what it prints is the lesson")]

use std::time::Duration;

use tokio::runtime::Builder;
use tokio::task::yield_now;
use tokio::time::{Instant, advance, sleep_until};

async fn hello(start: Instant) {
    for number in 1..=5 {
        sleep_until(start + Duration::from_millis(10 * number)).await;
        println!("  {:3} ms  hello {number}, due at {number}0", start.elapsed().as_millis());
    }
}

fn main() {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    let start = runtime.block_on(async { Instant::now() });
    let task = runtime.spawn(hello(start));
    let mut turns = 0;
    while !task.is_finished() {
        turns += 1;
        println!("turn {turns} of the outer loop");
        runtime.block_on(async {
            advance(Duration::from_millis(8)).await;
            yield_now().await;
        });
    }
    runtime.block_on(task).expect("it does not panic");
}
