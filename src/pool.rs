//! A pool of threads for calls that block beside a runtime: getaddrinfo(3), a long transform.
//!
//! The runtime has one as well, which panics when the system gives it no thread. This one says so.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::sync::lock;

/// The time after which an idle thread ends.
const IDLE: Duration = Duration::from_secs(10);

/// A pool of threads, which are started when there is something to do and none of them is idle.
pub(crate) struct Pool {
    /// The most threads. Further calls wait for one another.
    most: usize,
    state: Mutex<State>,
    more: Condvar,
}

struct State {
    /// No longer than what those who wait for it have begun: who waits no more leaves a call that does nothing.
    queue: VecDeque<Call>,
    threads: usize,
    idle: usize,
}

type Call = Box<dyn FnOnce() + Send>;

/// Why a call came to nothing.
#[derive(Debug)]
pub(crate) enum NotCalled {
    /// pthread_create(3) failed, and there is no other thread that could take the call.
    NoThread(io::Error),
    /// The call panicked.
    Panicked,
}

impl Pool {
    /// A pool of at most so many threads.
    pub(crate) const fn new(most: usize) -> Self {
        let state = State { queue: VecDeque::new(), threads: 0, idle: 0 };
        Self { most, state: Mutex::new(state), more: Condvar::new() }
    }

    /// Makes a call on a thread of the pool. To drop the future is to wait no longer.
    ///
    /// # Errors
    /// There is no thread for it, or it panicked.
    pub(crate) async fn run<T: Send + 'static>(
        &'static self,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NotCalled> {
        let (tell, told) = oneshot::channel();
        let call = move || {
            if !tell.is_closed() {
                let _ = tell.send(call());
            }
        };
        self.start(Box::new(call)).map_err(NotCalled::NoThread)?;
        told.await.map_err(|_| NotCalled::Panicked)
    }

    /// The threads that there are now: at least those of the last [`IDLE`].
    pub(crate) fn threads(&self) -> usize {
        lock(&self.state).threads
    }

    fn start(&'static self, call: Call) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.queue.push_back(call);
        if state.queue.len() > state.idle && state.threads < self.most {
            match thread::Builder::new().name("blocking".to_owned()).spawn(|| self.work()) {
                Ok(_) => state.threads += 1,
                Err(error) if state.threads == 0 => {
                    state.queue.pop_back();
                    return Err(error);
                }
                // EAGAIN: the next one that is done with its own call takes this one.
                Err(_) => {}
            }
        }
        self.more.notify_one();
        Ok(())
    }

    /// The body of a thread.
    fn work(&self) {
        let mut state = lock(&self.state);
        loop {
            if let Some(call) = state.queue.pop_front() {
                drop(state);
                // Whoever waits for it hears of a panic when the channel is dropped.
                let _ = catch_unwind(AssertUnwindSafe(call));
                state = lock(&self.state);
                continue;
            }
            state.idle += 1;
            let (woken, waited) = self.more.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if waited.timed_out() && state.queue.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    use tokio::runtime::Builder;

    #[test]
    fn calls_run_side_by_side_up_to_the_most_and_then_one_after_another() {
        static POOL: Pool = Pool::new(2);
        static BOTH: Barrier = Barrier::new(2);
        let runtime = Builder::new_current_thread().build().expect("a runtime");
        let names = runtime.block_on(async {
            let call = |_| async {
                let name = || {
                    BOTH.wait();
                    thread::current().id()
                };
                POOL.run(name).await.expect("called")
            };
            let calls: Vec<_> = (0..8).map(call).map(Box::pin).collect();
            let mut set = tokio::task::JoinSet::new();
            let local = tokio::task::LocalSet::new();
            for call in calls {
                set.spawn_local_on(call, &local);
            }
            local.run_until(set.join_all()).await
        });
        let mut threads = names.clone();
        threads.sort_by_key(|id| format!("{id:?}"));
        threads.dedup();
        assert_eq!((names.len(), threads.len()), (8, 2));
    }

    #[test]
    fn a_call_that_panics_is_told_and_the_next_one_is_made() {
        static POOL: Pool = Pool::new(1);
        let runtime = Builder::new_current_thread().build().expect("a runtime");
        let panicked = runtime.block_on(POOL.run(|| {
            if IDLE > Duration::ZERO {
                panic!("a bug")
            }
        }));
        assert!(matches!(panicked, Err(NotCalled::Panicked)), "{panicked:?}");
        assert!(matches!(runtime.block_on(POOL.run(|| 7)), Ok(7)));
    }
}
