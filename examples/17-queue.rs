//! A queue between a thread and a task, both ways, with room for two.
//!
//! Who sends into a full queue waits for who takes: that is *backpressure*; memory stays bounded, and nothing is lost.
//! A thread waits by sitting in a call (`blocking_send`), a task by awaiting (`send`), at the two ends of one channel.
//! asyncio's own queue has no face for threads (hence janus). Grown up: `src/client/scribe.rs`, a thread that writes files,
//! and a bound in bytes.
//!
//! ```text
//! $ cargo run --example 17-queue
//! thread: 2 fit, and I sit
//! task:   took [1, 2, 3, 4, 5]
//! task:   2 fit, and I wait
//! task:   meanwhile others run
//! thread: took [1, 2, 3, 4, 5]
//! ```
#![allow(clippy::print_stdout, reason = "what it prints is the lesson")]

use std::{iter, thread};

use tokio::sync::mpsc::{Sender, channel};
use tokio::sync::oneshot;

/// How many fit before somebody would have to wait.
fn fill(queue: &Sender<u32>) -> u32 {
    (0..).find(|&number| queue.try_send(number + 1).is_err()).unwrap_or(0)
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let ((to_task, mut at_task), (to_thread, mut at_thread)) = (channel(2), channel(2));
    let ((tell_full, full), (tell_take, take)) = (oneshot::channel(), oneshot::channel());

    let thread = thread::spawn(move || {
        let fit = fill(&to_task);
        println!("thread: {fit} fit, and I sit");
        tell_full.send(()).expect("the task waits for it");
        for number in fit + 1..=5 {
            to_task.blocking_send(number).expect("the task takes all");
        }
        drop(to_task); // the end
        take.blocking_recv().expect("the task says when");
        let took: Vec<u32> = iter::from_fn(|| at_thread.blocking_recv()).collect();
        println!("thread: took {took:?}");
    });

    full.await.expect("the thread says when");
    let mut took = Vec::new();
    while let Some(number) = at_task.recv().await {
        took.push(number);
    }
    println!("task:   took {took:?}");

    let send = async {
        let fit = fill(&to_thread);
        println!("task:   {fit} fit, and I wait");
        for number in fit + 1..=5 {
            to_thread.send(number).await.expect("the thread takes all");
        }
        drop(to_thread); // the end
    };
    let meanwhile = async {
        println!("task:   meanwhile others run");
        tell_take.send(()).expect("the thread waits for it");
    };
    tokio::join!(send, meanwhile);
    thread.join().expect("it does not panic");
}
