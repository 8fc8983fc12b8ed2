//! Cancelling a task while a function in it awaits, with a lock, in the middle of something.
//!
//! An `.await` does not let go of a lock: all who want it wait, while others run. To cancel is to drop all that the
//! functions hold, inner first, and only at an `.await` that waits: then the lock is free, not poisoned, and what it guards
//! is half done: ten coins are nowhere. Let no `.await` stand between the halves, or undo the first one in a `drop`.
//! What has not begun has nothing to clean up, and what has ended is not cancelled any more.
//! Grown up: `src/cache/flight.rs`, where the last reader who leaves cancels the fetch.
//!
//! ```text
//! $ cargo run --example 05-cancel
//! cancelled before it begins:
//!   lock: free, cancelled: true, ann has 100 and bob 0
//! cancelled while it waits:
//!   lock: taken
//!   inner cleans up
//!   outer cleans up
//!   lock: free, cancelled: true, ann has 90 and bob 0
//! cancelled after its end:
//!   inner cleans up
//!   outer cleans up
//!   lock: free, cancelled: false, ann has 90 and bob 10
//! ```
#![allow(clippy::print_stdout, reason = "what it prints is the lesson")]

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::sleep;

struct Purses {
    ann: u32,
    bob: u32,
}

/// Whatever ends a function drops what it has: the place for clean-up, in which nothing can be awaited.
struct CleanUp(&'static str);

impl Drop for CleanUp {
    fn drop(&mut self) {
        println!("  {} cleans up", self.0);
    }
}

async fn outer(purses: Arc<Mutex<Purses>>) {
    let _clean_up = CleanUp("outer");
    inner(&purses).await;
}

/// The lock is tokio's: whoever wants `std`'s sits there, and its holder with it, on the same thread, for ever.
async fn inner(purses: &Mutex<Purses>) {
    let _clean_up = CleanUp("inner");
    let mut purses = purses.lock().await;
    purses.ann -= 10;
    sleep(Duration::from_millis(10)).await; // here others run, and here it may end
    purses.bob += 10;
}

/// On one thread, with a clock that jumps to the next timer as soon as all tasks wait.
#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() {
    for (when, after) in [("before it begins", 0), ("while it waits", 5), ("after its end", 20)] {
        println!("cancelled {when}:");
        let purses = Arc::new(Mutex::new(Purses { ann: 100, bob: 0 }));
        let task = tokio::spawn(outer(Arc::clone(&purses)));
        if after > 0 {
            sleep(Duration::from_millis(after)).await;
        }
        if purses.try_lock().is_err() {
            println!("  lock: taken");
        }
        task.abort();
        let cancelled = task.await.is_err_and(|error| error.is_cancelled());
        let Purses { ann, bob } = *purses.try_lock().expect("nobody is left who could have it");
        println!("  lock: free, cancelled: {cancelled}, ann has {ann} and bob {bob}");
    }
}
