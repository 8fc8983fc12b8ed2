//! Whether a server is alive: not whether its threads exist, but whether its runtimes get round to things.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::sync::watch;

/// Asks all workers of a server a question that each can answer only by doing its work.
///
/// It costs a worker nothing as long as nobody asks.
#[derive(Debug, Clone)]
pub struct Pulse {
    beat: watch::Sender<usize>,
    workers: Arc<AtomicUsize>,
    answers: Arc<AtomicUsize>,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { beat: watch::Sender::new(0), workers: Arc::default(), answers: Arc::default() }
    }
}

impl Pulse {
    /// Asks the next question, and returns whether every worker has answered the last one. The first answer is yes.
    pub fn check(&self) -> bool {
        let answered = self.answers.swap(0, Relaxed) >= self.workers.load(Relaxed) || *self.beat.borrow() == 0;
        self.beat.send_modify(|beat| *beat += 1);
        answered
    }

    /// Answers for a worker, as a task of its runtime, until the runtime ends.
    pub(super) async fn answer(self) {
        let mut beats = self.beat.subscribe();
        self.workers.fetch_add(1, Relaxed);
        // What was asked before does not count against it.
        self.answers.fetch_add(1, Relaxed);
        while beats.changed().await.is_ok() {
            self.answers.fetch_add(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::runtime::{Builder, Runtime};
    use tokio::task::yield_now;

    fn worker(pulse: &Pulse) -> Runtime {
        let runtime = Builder::new_current_thread().build().expect("a runtime");
        runtime.spawn(pulse.clone().answer());
        runtime
    }

    #[test]
    fn a_worker_that_does_not_get_round_to_it_is_noticed() {
        let pulse = Pulse::default();
        let (one, other) = (worker(&pulse), worker(&pulse));
        let work = |runtime: &Runtime| {
            runtime.block_on(async {
                for _ in 0..10 {
                    yield_now().await;
                }
            });
        };
        assert!(pulse.check());
        for _ in 0..3 {
            work(&one);
            work(&other);
            assert!(pulse.check());
        }
        work(&one);
        assert!(!pulse.check());
        work(&one);
        work(&other);
        assert!(pulse.check());
    }
}
