//! A spinner beside slow work, in a thread of its own, and a flag that stops it.
//!
//! Nobody can stop a thread from outside: it has to look at the flag. This one looks when it wakes, so it hears at 400 ms
//! what has been so since 350. Grown up: `src/net/stop.rs`, which all servers are stopped by.
//!
//! ```text
//! $ cargo run --example 01-spinner-thread
//!   0 ms  | looking for a rhyme with orange
//! 100 ms  / looking for a rhyme with orange
//! 200 ms  - looking for a rhyme with orange
//! 300 ms  \ looking for a rhyme with orange
//! 350 ms  there is none
//! 400 ms  the spinner has stopped
//! ```
#![allow(clippy::print_stdout, reason = "what it prints is the lesson")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::thread;

fn main() {
    let (clock, done) = (Clock::new(2), AtomicBool::new(false)); // for two threads
    thread::scope(|scope| {
        let spinner = scope.spawn(|| spin(&clock, &done));
        clock.sleep(350); // the slow work
        println!("{:3} ms  there is none", clock.lock().now);
        done.store(true, Ordering::Relaxed);
        clock.leave(); // it waits for this thread no longer
        spinner.join().expect("it does not panic");
        println!("{:3} ms  the spinner has stopped", clock.lock().now);
    });
}

fn spin(clock: &Clock, done: &AtomicBool) {
    let mut frames = r"|/-\".chars().cycle();
    while !done.load(Ordering::Relaxed) {
        let frame = frames.next().expect("it goes round");
        println!("{:3} ms  {frame} looking for a rhyme with orange", clock.lock().now);
        clock.sleep(100);
    }
}

/// A make-believe clock, no part of the lesson: when all threads sleep, it jumps to the next alarm.
struct Clock(Mutex<State>, Condvar);

struct State {
    now: u64,
    threads: usize,
    alarms: Vec<u64>,
}

impl Clock {
    fn new(threads: usize) -> Self {
        Self(Mutex::new(State { now: 0, threads, alarms: Vec::new() }), Condvar::new())
    }
    fn sleep(&self, time: u64) {
        let mut state = self.lock();
        let alarm = state.now + time;
        state.alarms.push(alarm);
        self.go_on(&mut state);
        drop(self.1.wait_while(state, |state| state.now < alarm).expect("no thread panics"));
    }
    fn leave(&self) {
        let mut state = self.lock();
        state.threads -= 1;
        self.go_on(&mut state);
    }
    fn go_on(&self, state: &mut State) {
        if state.alarms.len() == state.threads {
            state.now = *state.alarms.iter().min().expect("somebody sleeps");
            state.alarms.retain(|&alarm| alarm > state.now);
            self.1.notify_all();
        }
    }
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no thread panics")
    }
}
