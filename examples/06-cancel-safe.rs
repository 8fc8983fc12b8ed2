//! Reading under `select!`: a read that may be dropped at any time, and one that takes bytes along when it is.
//!
//! Seven bytes come, then a tick, then ten more. Each tick drops the read that waits beside it, and the next turn begins a
//! new one. `read` has taken nothing as long as it waits: it is *cancel safe*. `read_exact` has taken seven bytes, and is
//! the only one who knows that; the next one begins anew. Cure: keep what has come, and how much it is, outside of what
//! may be dropped.
//! Grown up: `src/messages/framed.rs`, where the buffer outlives all reads.
//!
//! ```text
//! $ cargo run --example 06-cancel-safe
//! read:        17 bytes of 17, lost: 0
//! read_exact:  10 bytes of 17, lost: 7
//! ```
#![allow(clippy::print_stdout, reason = "what it prints is the lesson")]

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::{Instant, interval_at, sleep};

const LINE: &[u8] = b"Go, lovely rose!\n";

async fn write(mut to: DuplexStream) {
    let (early, late) = LINE.split_at(7);
    to.write_all(early).await.expect("somebody reads");
    sleep(Duration::from_millis(15)).await;
    to.write_all(late).await.expect("somebody reads");
}

async fn read(mut from: DuplexStream, exactly: bool) -> usize {
    let tick = Duration::from_millis(10);
    let mut ticks = interval_at(Instant::now() + tick, tick);
    let (mut arrived, mut buffer) = (0, [0; 10]);
    loop {
        let some = async { if exactly { from.read_exact(&mut buffer).await } else { from.read(&mut buffer).await } };
        tokio::select! {
            some = some => match some {
                Ok(0) | Err(_) => return arrived,
                Ok(length) => arrived += length,
            },
            _ = ticks.tick() => {} // and `some` is dropped
        }
    }
}

/// On one thread, with a clock that jumps to the next timer as soon as all tasks wait.
#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() {
    for (name, exactly) in [("read:", false), ("read_exact:", true)] {
        let (ours, theirs) = duplex(64);
        let (arrived, ()) = tokio::join!(read(ours, exactly), write(theirs));
        println!("{name:<12} {arrived} bytes of {}, lost: {}", LINE.len(), LINE.len() - arrived);
    }
}
