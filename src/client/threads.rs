//! The threads model: the blocking code, once for each poem, on a thread of its own.
//!
//! Each thread still waits in every call, but they wait side by side: the run takes as long as its slowest
//! poem. The price is a stack and a scheduler's entry for every poem, and locks around whatever they share.

use std::sync::Arc;
use std::sync::mpsc;
use std::thread;

use super::blocking;
use super::fetch::Fetch;
use super::{Failure, Job};

/// Says, however a thread ends, that it has ended.
struct SendOnDrop(mpsc::Sender<()>);

impl Drop for SendOnDrop {
    fn drop(&mut self) {
        // Nobody listens any more after the last poem has been started.
        let _ = self.0.send(());
    }
}

pub(super) fn run(job: &Arc<Job>) {
    let (ended, endings) = mpsc::channel();
    thread::scope(|scope| {
        let mut running = 0;
        for index in 0..job.addresses.len() {
            loop {
                if running < job.limits.max_concurrency.get() {
                    let ended = ended.clone();
                    let body = move || {
                        let _at_the_end = SendOnDrop(ended);
                        blocking::fetch(job, index);
                    };
                    match thread::Builder::new().name(format!("poem {}", index + 1)).spawn_scoped(scope, body) {
                        Ok(_) => {
                            running += 1;
                            break;
                        }
                        Err(error) if running == 0 => {
                            let what = "start a thread";
                            Fetch::begin(job, index).ended(Err(Failure::Local { what, error }));
                            break;
                        }
                        // The system has no more threads now; one of ours will give its own back.
                        Err(_) => {}
                    }
                }
                // A `SendOnDrop` is in every thread, so there is one to come.
                let _ = endings.recv();
                running -= 1;
            }
        }
    });
}
