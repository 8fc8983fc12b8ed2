//! Many futures of which only those are polled that were woken: what comes first is first, however many there are.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::AcqRel, Ordering::Release};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use crate::sync::lock;

/// Futures under way, each with a number.
pub(super) struct Together<T> {
    under_way: Vec<Option<UnderWay<T>>>,
    left: usize,
    woken: Arc<Woken>,
}

/// A future, and who is told when it is to be polled.
struct UnderWay<T> {
    number: usize,
    future: Pin<Box<dyn Future<Output = T> + Send>>,
    bell: Arc<Bell>,
}

/// Those that are to be polled: each of them once.
#[derive(Debug, Default)]
struct Woken {
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    indices: VecDeque<usize>,
    /// Who waits for one.
    task: Option<Waker>,
}

#[derive(Debug)]
struct Bell {
    index: usize,
    is_queued: AtomicBool,
    woken: Arc<Woken>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.is_queued.swap(true, AcqRel) {
            return;
        }
        let task = {
            let queue = &mut *lock(&self.woken.queue);
            queue.indices.push_back(self.index);
            queue.task.take()
        };
        if let Some(task) = task {
            task.wake();
        }
    }
}

impl<T> Together<T> {
    pub(super) fn new() -> Self {
        Self { under_way: Vec::new(), left: 0, woken: Arc::default() }
    }

    /// One more.
    pub(super) fn add(&mut self, number: usize, future: impl Future<Output = T> + Send + 'static) {
        let (index, woken) = (self.under_way.len(), Arc::clone(&self.woken));
        let bell = Arc::new(Bell { index, is_queued: AtomicBool::new(false), woken });
        bell.wake_by_ref();
        self.under_way.push(Some(UnderWay { number, future: Box::pin(future), bell }));
        self.left += 1;
    }

    /// How many are under way.
    pub(super) fn len(&self) -> usize {
        self.left
    }

    /// The next one that ends, with its number; `None`: all have ended. To drop the future loses nothing.
    pub(super) async fn next(&mut self) -> Option<(usize, T)> {
        poll_fn(|context| self.poll_next(context)).await
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<(usize, T)>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        loop {
            let index = {
                let queue = &mut *lock(&self.woken.queue);
                let Some(index) = queue.indices.pop_front() else {
                    queue.task = Some(context.waker().clone());
                    return Poll::Pending;
                };
                index
            };
            let Some(UnderWay { number, future, bell }) = &mut self.under_way[index] else { continue };
            bell.is_queued.store(false, Release);
            let waker = Waker::from(Arc::clone(bell));
            if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                let number = *number;
                self.under_way[index] = None;
                self.left -= 1;
                return Poll::Ready(Some((number, output)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering::Relaxed;

    use tokio::sync::oneshot;

    use super::*;

    #[test]
    fn what_comes_first_is_first_and_nobody_else_is_asked() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let (mut together, mut senders) = (Together::new(), Vec::new());
            let polls = Arc::new(AtomicUsize::new(0));
            for number in 0..1_000 {
                let (sender, receiver) = oneshot::channel::<usize>();
                let polls = Arc::clone(&polls);
                let mut receiver = receiver;
                together.add(
                    number,
                    poll_fn(move |context| {
                        polls.fetch_add(1, Relaxed);
                        Pin::new(&mut receiver).poll(context)
                    }),
                );
                senders.push(sender);
            }
            for (number, sender) in senders.into_iter().enumerate().rev() {
                let before = together.len();
                sender.send(number * 2).expect("somebody waits");
                let (its, output) = together.next().await.expect("one more");
                assert_eq!((its, output.expect("sent"), together.len()), (number, number * 2, before - 1));
            }
            assert!(together.next().await.is_none());
            assert!(polls.load(Relaxed) < 4_000, "{polls:?}");
        });
    }

    #[test]
    fn one_that_is_woken_often_is_queued_once() {
        let mut together = Together::new();
        together.add(0, std::future::pending::<()>());
        let bell = Arc::clone(&together.under_way[0].as_ref().expect("it is there").bell);
        for _ in 0..100 {
            bell.wake_by_ref();
        }
        assert_eq!(lock(&together.woken.queue).indices, [0]);
    }
}
