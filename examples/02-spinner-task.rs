//! The same spinner as a task, stopped by ending the task; and what becomes of it beside a call that sits.
//!
//! A task is a function that can be put aside: an `.await` that has to wait does so, and the thread goes on with another
//! one. Only there do others get a turn, and only there can it be ended from outside: at 370 ms, not at its next frame.
//! While the work sits in a call, the spinner stands still, and so would every other task of this thread.
//! Grown up: `src/pool.rs`, the threads for calls that block.
//!
//! ```text
//! $ cargo run --example 02-spinner-task
//! the work waits:
//!   0 ms  |
//! 100 ms  /
//! 200 ms  -
//! 300 ms  \
//! 370 ms  there is no rhyme with orange
//! 370 ms  the spinner is gone, cancelled: true
//! the work sits in a call:
//!   0 ms  |
//! 100 ms  /
//! 350 ms  -  I stood still for 150 ms
//! 370 ms  there is no rhyme with orange
//! 370 ms  the spinner is gone, cancelled: true
//! ```
#![allow(clippy::print_stdout, reason = "what it prints is the lesson")]

use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::time::{Instant, advance, sleep};

const FRAME: Duration = Duration::from_millis(100);

/// On one thread, with a clock that jumps to the next timer as soon as all tasks wait.
#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() {
    for (how, sits) in [("waits", false), ("sits in a call", true)] {
        println!("the work {how}:");
        let start = Instant::now();
        let spinner = tokio::spawn(spin(start)); // to call it only makes it; `spawn` has it run
        find_a_rhyme(sits).await;
        println!("{:3} ms  there is no rhyme with orange", start.elapsed().as_millis());
        spinner.abort();
        let ended = spinner.await.expect_err("it spins for ever");
        println!("{:3} ms  the spinner is gone, cancelled: {}", start.elapsed().as_millis(), ended.is_cancelled());
    }
}

async fn spin(start: Instant) {
    let mut planned = start;
    for frame in r"|/-\".chars().cycle() {
        let late = planned.elapsed().as_millis();
        let remark = if late > 0 { format!("  I stood still for {late} ms") } else { String::new() };
        println!("{:3} ms  {frame}{remark}", start.elapsed().as_millis());
        planned = Instant::now() + FRAME;
        sleep(FRAME).await;
    }
}

async fn find_a_rhyme(sits: bool) {
    sleep(Duration::from_millis(150)).await;
    let long = Duration::from_millis(200);
    if sits {
        sit(long);
    } else {
        sleep(long).await;
    }
    sleep(Duration::from_millis(20)).await;
}

/// Stands for `std::thread::sleep`: moves the make-believe clock, and lets no task run. How does not matter.
fn sit(time: Duration) {
    let _ = pin!(advance(time)).poll(&mut Context::from_waker(Waker::noop()));
}
