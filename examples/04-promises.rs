//! Twisted's Deferred runs all callbacks before `callback()` returns; who awaits a future runs when `send` is long over.
//!
//! The two transcripts differ in the reader's line. The callback of the Deferred runs in the middle of whoever fires it, and sees
//! what is half done there: the poem has been handed out, but is not counted yet. To hold a lock while one fires is to have
//! strangers run under it. A task runs when the one before it waits or ends: no other task of this thread sees what is half
//! done between two `.await`s. Grown up: `src/cache/flight.rs`, which wakes all who wait for one fetch.
//!
//! ```text
//! $ cargo run --example 04-promises
//! deferred:
//!   the server has a poem
//!     the reader has it, and the server has counted 0
//!   the server has counted 1
//! future:
//!   the server has a poem
//!   the server has counted 1
//!     the reader has it, and the server has counted 1
//! ```
#![allow(clippy::print_stdout, reason = "what it prints is the lesson")]

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::oneshot;
use tokio::task::{LocalSet, yield_now};

type Callback = Box<dyn FnOnce(&str)>;

/// What there will be one day, and who is called then.
#[derive(Default)]
struct Deferred {
    result: Option<&'static str>,
    callbacks: Vec<Callback>,
}

impl Deferred {
    fn add_callback(&mut self, callback: impl FnOnce(&str) + 'static) {
        match self.result {
            Some(result) => callback(result), // at once
            None => self.callbacks.push(Box::new(callback)),
        }
    }
    fn callback(&mut self, result: &'static str) {
        self.result = Some(result);
        for callback in self.callbacks.drain(..) {
            callback(result);
        }
    }
}

fn serve(counted: &Cell<u32>, hand_out: impl FnOnce(&'static str)) {
    println!("  the server has a poem");
    hand_out("Go, lovely rose!");
    counted.set(counted.get() + 1);
    println!("  the server has counted {}", counted.get());
}

fn read(_poem: &str, counted: &Cell<u32>) {
    println!("    the reader has it, and the server has counted {}", counted.get());
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    println!("deferred:");
    let (counted, mut deferred) = (Rc::new(Cell::new(0)), Deferred::default());
    let seen = Rc::clone(&counted);
    deferred.add_callback(move |poem| read(poem, &seen));
    serve(&counted, |poem| deferred.callback(poem));

    println!("future:");
    let (promise, future) = oneshot::channel();
    let counted = Rc::new(Cell::new(0));
    let seen = Rc::clone(&counted);
    let tasks = LocalSet::new(); // for what may not leave its thread, as `Rc`
    let reader = tasks.spawn_local(async move { read(future.await.expect("a poem"), &seen) });
    tasks.run_until(yield_now()).await; // now it waits
    serve(&counted, |poem| promise.send(poem).expect("somebody waits"));
    tasks.run_until(reader).await.expect("it does not panic");
}
