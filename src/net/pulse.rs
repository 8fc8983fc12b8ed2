//! Whether a server is alive: not whether its threads exist, but whether its runtimes get round to things.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, watch};

use crate::sync::lock;

/// Asks all workers of a server questions that each can answer only by doing its work. Whoever asks learns of answers to
/// their own question, however many ask.
///
/// It costs a worker nothing as long as nobody asks.
#[derive(Debug, Clone)]
pub struct Pulse {
    /// The number of the last question.
    asked: watch::Sender<u64>,
    /// Of each worker, the last question that it has answered.
    workers: Arc<Mutex<Vec<Arc<AtomicU64>>>>,
    answered: Arc<Notify>,
}

/// A question that was asked.
#[derive(Debug, Clone, Copy)]
pub struct Question(u64);

impl Default for Pulse {
    fn default() -> Self {
        Self { asked: watch::Sender::new(0), workers: Arc::default(), answered: Arc::default() }
    }
}

impl Pulse {
    /// Asks every worker.
    pub fn ask(&self) -> Question {
        let mut number = 0;
        self.asked.send_modify(|asked| {
            *asked += 1;
            number = *asked;
        });
        Question(number)
    }

    /// Whether every worker has answered this question. Those that came later, or have ended, have nothing to answer.
    pub fn is_answered(&self, Question(number): Question) -> bool {
        lock(&self.workers).iter().all(|answered| answered.load(Relaxed) >= number)
    }

    /// Waits until every worker has answered.
    pub async fn answered(&self, question: Question) {
        loop {
            let mut answered = pin!(self.answered.notified());
            // Before the look: an answer that comes in between is heard.
            answered.as_mut().enable();
            if self.is_answered(question) {
                return;
            }
            answered.await;
        }
    }

    /// Answers for a worker, as a task of its runtime, until the runtime ends.
    pub(super) async fn answer(self) {
        let mut asked = self.asked.subscribe();
        let answered = Arc::new(AtomicU64::new(*asked.borrow()));
        lock(&self.workers).push(Arc::clone(&answered));
        let _until = Answering { pulse: &self, answered: &answered };
        while asked.changed().await.is_ok() {
            answered.store(*asked.borrow_and_update(), Relaxed);
            self.answered.notify_waiters();
        }
    }
}

/// A worker that answers, until this is dropped.
struct Answering<'a> {
    pulse: &'a Pulse,
    answered: &'a Arc<AtomicU64>,
}

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        lock(&self.pulse.workers).retain(|other| !Arc::ptr_eq(other, self.answered));
        self.pulse.answered.notify_waiters();
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

    fn work(runtime: &Runtime) {
        runtime.block_on(async {
            for _ in 0..10 {
                yield_now().await;
            }
        });
    }

    #[test]
    fn a_worker_that_does_not_get_round_to_it_is_noticed() {
        let pulse = Pulse::default();
        let before = pulse.ask();
        assert!(pulse.is_answered(before), "there is no worker");
        let (one, other) = (worker(&pulse), worker(&pulse));
        work(&one);
        work(&other);
        assert!(pulse.is_answered(before), "they came later");
        for _ in 0..3 {
            let question = pulse.ask();
            work(&one);
            assert!(!pulse.is_answered(question));
            work(&other);
            assert!(pulse.is_answered(question));
        }
        let question = pulse.ask();
        work(&one);
        assert!(!pulse.is_answered(question));
        drop(other);
        assert!(pulse.is_answered(question), "one that has ended holds up nobody");
    }

    #[test]
    fn whoever_asks_does_not_disturb_another_one() {
        let pulse = Pulse::default();
        let runtime = worker(&pulse);
        work(&runtime);
        let first = pulse.ask();
        work(&runtime);
        let second = pulse.ask();
        assert!(pulse.is_answered(first) && !pulse.is_answered(second));
        let asker = Builder::new_current_thread().build().expect("a runtime");
        let answered = asker.spawn({
            let pulse = pulse.clone();
            async move { pulse.answered(second).await }
        });
        work(&asker);
        assert!(!answered.is_finished());
        work(&runtime);
        work(&asker);
        assert!(answered.is_finished());
    }
}
