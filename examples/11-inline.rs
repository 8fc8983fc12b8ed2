//! A chain of stages as functions that await each other: Twisted's `inlineCallbacks`, Rust's `async fn`.
//!
//! It reads from top to bottom. A stage that fails fails whoever waits for it, as far up as somebody deals with it: `?` is
//! the lower lane, and `match` is the errback. Who waits for whom is a stack, although no thread has it on its stack while
//! it waits: it is a value, which `page` made and whoever drops it cancels. Grown up: `src/client/tasks.rs`.
//!
//! ```text
//! $ cargo run --example 11-inline
//!   0 ms  page
//!   0 ms  page > poem
//!   0 ms  page > poem > fetch from north
//!  10 ms  page > poem > fetch from south (north: nobody answers)
//!  30 ms  page > poem > translate
//!  35 ms  page: GO, LOVELY ROSE!
//! ```
#![allow(clippy::print_stdout, reason = "what it prints is the lesson")]

use std::cell::RefCell;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Those who wait for each other.
struct Stack {
    names: RefCell<Vec<String>>,
    start: Instant,
}

impl Stack {
    /// Waits for a stage, which is on the stack so long.
    async fn wait<T>(&self, name: &str, stage: impl Future<Output = T>) -> T {
        self.names.borrow_mut().push(name.to_owned());
        println!("{:3} ms  {}", self.start.elapsed().as_millis(), self.names.borrow().join(" > "));
        let outcome = stage.await;
        self.names.borrow_mut().pop();
        outcome
    }
}

async fn fetch(server: &str) -> Result<String, String> {
    sleep(Duration::from_millis(if server == "north" { 10 } else { 20 })).await;
    if server == "north" { Err(format!("{server}: nobody answers")) } else { Ok("Go, lovely rose!".to_owned()) }
}

async fn translate(poem: String) -> Result<String, String> {
    sleep(Duration::from_millis(5)).await;
    Ok(poem.to_uppercase())
}

async fn poem(stack: &Stack) -> Result<String, String> {
    let poem = match stack.wait("fetch from north", fetch("north")).await {
        Ok(poem) => poem,
        Err(error) => stack.wait(&format!("fetch from south ({error})"), fetch("south")).await?,
    };
    stack.wait("translate", translate(poem)).await
}

async fn page(stack: &Stack) -> String {
    stack.wait("poem", poem(stack)).await.unwrap_or_else(|error| format!("no poem: {error}"))
}

/// On one thread, with a clock that jumps to the next timer as soon as all tasks wait.
#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() {
    let stack = Stack { names: RefCell::default(), start: Instant::now() };
    let text = stack.wait("page", page(&stack)).await;
    println!("{:3} ms  page: {text}", stack.start.elapsed().as_millis());
}
