//! Which lines are in order, and which are luck? Choose who goes on, or see all that can happen.
//!
//! Two tasks add one to a counter. Within a task the order is certain, between the two it is luck: a seed chooses who goes
//! on, `--all` tries each choice there is, and four of six lose an addition. Grown up: `src/pace/prng.rs`, luck by a seed.
//!
//! ```text
//! $ cargo run --example 20-interleavings -- --seed 1
//! bob reads 0, bob writes 1, ann reads 1, ann writes 2 -> 2
//! $ cargo run --example 20-interleavings -- --seed 2
//! ann reads 0, bob reads 0, bob writes 1, ann writes 1 -> 1
//! $ cargo run --example 20-interleavings -- --all
//! ann reads 0, ann writes 1, bob reads 1, bob writes 2 -> 2
//! ann reads 0, bob reads 0, ann writes 1, bob writes 1 -> 1
//! ann reads 0, bob reads 0, bob writes 1, ann writes 1 -> 1
//! bob reads 0, ann reads 0, ann writes 1, bob writes 1 -> 1
//! bob reads 0, ann reads 0, bob writes 1, ann writes 1 -> 1
//! bob reads 0, bob writes 1, ann reads 1, ann writes 2 -> 2
//! ```
#![allow(clippy::print_stdout, reason = "what it prints is the lesson")]

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::env;
use std::pin::Pin;
use std::task::{Context, Waker};

use tokio::task::yield_now;

type Task<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// The executor: polls the tasks to their ends. `choose` says which of so many goes on.
fn run(mut tasks: Vec<Task<'_>>, mut choose: impl FnMut(usize) -> usize) {
    while !tasks.is_empty() {
        let chosen = choose(tasks.len());
        if tasks[chosen].as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
            drop(tasks.remove(chosen));
        }
    }
}

async fn add_one(name: &str, counter: &Cell<u32>, story: &RefCell<Vec<String>>) {
    let seen = counter.get();
    story.borrow_mut().push(format!("{name} reads {seen}"));
    yield_now().await; // the other may go on first
    counter.set(seen + 1);
    story.borrow_mut().push(format!("{name} writes {}", seen + 1));
}

fn story(choose: impl FnMut(usize) -> usize) -> String {
    let (counter, story) = (Cell::new(0), RefCell::default());
    run(vec![Box::pin(add_one("ann", &counter, &story)), Box::pin(add_one("bob", &counter, &story))], choose);
    format!("{} -> {}", story.into_inner().join(", "), counter.get())
}

/// Every story, in order, by counting through all choices as one counts through numbers: the last digit first.
fn all() -> BTreeSet<String> {
    let (mut stories, mut choices) = (BTreeSet::new(), Vec::<(usize, usize)>::new());
    loop {
        let mut at = 0;
        stories.insert(story(|of| {
            at += 1;
            choices.resize(choices.len().max(at), (0, of));
            choices[at - 1].0
        }));
        while choices.pop_if(|(chosen, of)| *chosen + 1 == *of).is_some() {}
        match choices.last_mut() {
            Some((chosen, _)) => *chosen += 1,
            None => return stories,
        }
    }
}

fn main() {
    if let Some(seed) = env::args().skip_while(|arg| arg != "--seed").nth(1) {
        let mut chance = fastrand::Rng::with_seed(seed.parse().expect("a number"));
        return println!("{}", story(|of| chance.usize(..of)));
    }
    all().iter().for_each(|story| println!("{story}"));
}
