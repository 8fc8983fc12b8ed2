//! Ten jobs, three at a time.
//!
//! All ten are tasks from the start, which costs next to nothing; each waits for one of three permits and gives it back
//! when it ends, however it ends. Permits are given out in the order in which they were asked for. Each lane is a job:
//! it waits, or it works; no column has more than three that work.
//! Grown up: `src/net/accept.rs` (`--max-clients`), and `src/client/turns.rs` (`-j`), where it is a value.
//!
//! ```text
//! $ cargo run --example 16-semaphore
//! job  1  ####
//! job  2  #
//! job  3  ###
//! job  4  .##
//! job  5  ...####
//! job  6  ...#
//! job  7  ....####
//! job  8  ....#
//! job  9  .....##
//! job 10  .......#
//! at most 3 at once
//! ```
#![allow(clippy::print_stdout, reason = "what it prints is the lesson")]

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

const LONG: [u64; 10] = [4, 1, 3, 2, 4, 1, 4, 1, 2, 1];

/// A lane: when it has begun to work, and when it has ended, in steps of 10 ms.
async fn work(permits: Arc<Semaphore>, long: u64) -> (u128, u128) {
    let asked = Instant::now();
    let _permit = permits.acquire().await.expect("it is never closed");
    let begun = asked.elapsed().as_millis() / 10;
    sleep(Duration::from_millis(long * 10)).await;
    (begun, asked.elapsed().as_millis() / 10)
}

/// On one thread, with a clock that jumps to the next timer as soon as all tasks wait.
#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() {
    let permits = Arc::new(Semaphore::new(3));
    let jobs = LONG.map(|long| tokio::spawn(work(Arc::clone(&permits), long)));
    let mut lanes = Vec::new();
    for job in jobs {
        lanes.push(job.await.expect("it does not panic"));
    }
    for (number, &(begun, ended)) in (1..).zip(&lanes) {
        let lane = (0..ended).map(|step| if step < begun { '.' } else { '#' });
        println!("job {number:2}  {}", lane.collect::<String>());
    }
    let at_work = |step| lanes.iter().filter(|&&(begun, ended)| (begun..ended).contains(&step)).count();
    println!("at most {} at once", (0..100).map(at_work).max().unwrap_or(0));
}
