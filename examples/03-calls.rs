//! asyncio's `call_soon`, `call_later`, `call_at` and `call_soon_threadsafe`, and when they really run.
//!
//! Here they are tasks: one for now, one that sleeps, one that sleeps until, and one that another thread spawns. "Soon"
//! is never at once: it is when whoever asks waits, and then in the order of asking. And a call that sits makes all later
//! ones late: a time is a promise not to be early. Grown up: `src/net/timer.rs`, one timer for thousands.
//!
//! ```text
//! $ cargo run --example 03-calls
//! planned     real
//!    0 ms     0 ms  nobody has been called yet
//!    0 ms     0 ms  soon
//!    0 ms     0 ms  soon, asked for after that
//!    0 ms     0 ms  soon, from another thread
//!   10 ms    10 ms  later
//!   20 ms    20 ms  at 20, and sits there for 30 ms
//!   30 ms    50 ms  later, and late
//!   40 ms    50 ms  at 40, and late
//!   60 ms    60 ms  later
//! ```
#![allow(clippy::print_stdout, reason = "what it prints is the lesson")]

use std::pin::pin;
use std::task::{Context, Waker};
use std::thread;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::{Instant, advance, sleep, sleep_until};

const fn ms(number: u64) -> Duration {
    Duration::from_millis(number)
}

/// On one thread, with a clock that jumps to the next timer as soon as all tasks wait.
#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() {
    let start = Instant::now();
    let said = move |planned: Duration, what: &str| {
        println!("{:4} ms  {:4} ms  {what}", planned.as_millis(), start.elapsed().as_millis());
    };
    let call_soon = move |what| async move { said(ms(0), what) };
    let call_later = move |delay, what| async move {
        sleep(delay).await;
        said(delay, what);
    };
    let call_at = move |when: Instant, what| async move {
        sleep_until(when).await;
        said(when - start, what);
    };

    println!("planned     real");
    let mut calls = JoinSet::new();
    calls.spawn(call_later(ms(60), "later"));
    calls.spawn(call_later(ms(30), "later, and late"));
    calls.spawn(call_later(ms(10), "later"));
    calls.spawn(call_at(start + ms(40), "at 40, and late"));
    calls.spawn(async move {
        call_at(start + ms(20), "at 20, and sits there for 30 ms").await;
        sit(ms(30));
    });
    calls.spawn(call_soon("soon"));
    calls.spawn(call_soon("soon, asked for after that"));
    let (handle, calls_of_all) = (Handle::current(), &mut calls);
    // A handle may go to any thread, and wakes this one (asyncio's `call_soon` would not).
    thread::scope(|scope| {
        scope.spawn(move || calls_of_all.spawn_on(call_soon("soon, from another thread"), &handle));
    });
    said(ms(0), "nobody has been called yet");
    calls.join_all().await;
}

/// Stands for `std::thread::sleep`: moves the make-believe clock, and lets no task run. How does not matter.
fn sit(time: Duration) {
    let _ = pin!(advance(time)).poll(&mut Context::from_waker(Waker::noop()));
}
