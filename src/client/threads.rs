//! The threads model: the blocking code, once for each poem, on a thread of its own.
//!
//! Each thread still waits in every call, but they wait side by side: the run takes as long as its slowest
//! poem. The price is a stack and a scheduler's entry for every poem, and locks around whatever they share.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use super::blocking::{self, Kept};
use super::fetch::Fetch;
use super::turns::Turns;
use super::{Failure, Job, READ_SIZE};

/// How long a thread that has ended may still count as one of the system's, and the pause between two looks.
const LAST_STEPS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(1));

pub(super) fn run(job: &Arc<Job>) {
    let (ended, endings) = mpsc::channel();
    let kept = Kept::default();
    thread::scope(|scope| {
        let turns = Turns::new(&job.sources, job.limits.concurrency);
        let mut running = Running { job, turns, threads: 0, last_end: None, endings };
        while let Some(index) = running.next() {
            loop {
                match start_one(scope, job, index, &kept, ended.clone()) {
                    Ok(()) => {
                        running.threads += 1;
                        break;
                    }
                    Err(_) if running.threads == 0 && running.last_steps() => thread::sleep(LAST_STEPS.1),
                    Err(error) if running.threads == 0 => {
                        let now = Instant::now();
                        Fetch::begin(job, index, now).ended(Err(Failure::no_thread(error)), now);
                        running.turns.settled(&job.sources[index]);
                        break;
                    }
                    // EAGAIN: the system has no more threads now; one of ours will give its own back.
                    Err(_) => running.wait_for_one(),
                }
            }
        }
    });
}

/// Starts the thread of one poem, which sends to `ended` when it ends.
fn start_one<'scope>(
    scope: &'scope Scope<'scope, '_>,
    job: &'scope Arc<Job>,
    index: usize,
    kept: &'scope Kept,
    ended: Sender<usize>,
) -> io::Result<()> {
    let body = move || {
        job.counts.add_thread();
        let _ended = SendOnDrop(job, ended, index);
        blocking::fetch(job, index, kept, &mut vec![0; READ_SIZE]);
    };
    thread::Builder::new().name(format!("poem {}", index + 1)).spawn_scoped(scope, body).map(|_| ())
}

/// Sends the number of its poem on drop, so that a panic counts as an end.
struct SendOnDrop<'a>(&'a Job, Sender<usize>, usize);

impl Drop for SendOnDrop<'_> {
    fn drop(&mut self) {
        self.0.counts.end_thread();
        // Fails when the last poem has been started: then nothing is waited for but the end of the scope.
        let _ = self.1.send(self.2);
    }
}

/// The threads that have not ended, and the poems that have not begun.
struct Running<'a> {
    job: &'a Job,
    turns: Turns,
    threads: usize,
    /// When the last one ended.
    last_end: Option<Instant>,
    endings: Receiver<usize>,
}

impl Running<'_> {
    /// The next poem, as soon as it may begin.
    fn next(&mut self) -> Option<usize> {
        loop {
            let next = self.turns.next();
            if next.is_some() || self.turns.are_over() {
                return next;
            }
            self.wait_for_one();
        }
    }

    /// Waits for the end of one thread. There must be one.
    fn wait_for_one(&mut self) {
        // Cannot fail: each thread holds a sender until its end.
        if let Ok(index) = self.endings.recv() {
            self.turns.settled(&self.job.sources[index]);
        }
        self.threads -= 1;
        self.last_end = Some(Instant::now());
    }

    /// Whether the last thread may not be quite gone: it says that it ends before it does.
    fn last_steps(&self) -> bool {
        self.last_end.is_some_and(|end| end.elapsed() < LAST_STEPS.0)
    }
}
