//! Waking up on time: timerfd_create(2), for what has to be better than the millisecond of the runtime's own timers.
//!
//! Each worker has one descriptor, from the first alarm on, which is set for the next of all alarms. Where there is none, on
//! other threads or because the system has none, it is the runtime's timer that wakes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::time::{Sleep, sleep_until};

/// The least time from one wake-up to the next: alarms in between are so much late, and thousands of them are one.
const GRAIN: Duration = Duration::from_micros(200);

thread_local! {
    static ALARMS: RefCell<Option<Alarms>> = const { RefCell::new(None) };
}

/// The alarms of one worker.
#[derive(Debug, Default)]
struct Alarms {
    waiting: BTreeMap<(Instant, u64), Waker>,
    /// The number of the last one.
    last: u64,
    /// There is a first one.
    begun: Arc<Notify>,
    timer: Option<Arc<OwnedFd>>,
    /// When the last ones were woken.
    woken: Option<Instant>,
}

impl Alarms {
    /// Sets the descriptor for the first of them.
    fn set(&self) {
        let (Some(timer), Some(&(due, _))) = (&self.timer, self.waiting.keys().next()) else { return };
        let now = Instant::now();
        let due = self.woken.map_or(due, |woken| due.max(woken + GRAIN));
        // Zero would be no time at all.
        let left = due.saturating_duration_since(now).max(Duration::from_nanos(1));
        let seconds = left.as_secs().try_into().unwrap_or(i64::MAX);
        let it_value = Timespec { tv_sec: seconds, tv_nsec: left.subsec_nanos().into() };
        let once = Itimerspec { it_interval: Timespec::default(), it_value };
        // It cannot fail for a time that is one.
        let _ = timerfd_settime(timer, TimerfdTimerFlags::empty(), &once);
    }

    /// Wakes those that are due.
    fn ring(&mut self) {
        let now = Instant::now();
        while let Some(first) = self.waiting.first_entry()
            && first.key().0 <= now
        {
            first.remove().wake();
        }
        self.woken = Some(now);
        self.set();
    }
}

/// Calls this with the alarms of this thread, if it has any.
fn with<R>(call: impl FnOnce(&mut Alarms) -> R) -> Option<R> {
    ALARMS.with_borrow_mut(|alarms| alarms.as_mut().map(call))
}

/// Wakes whoever has an alarm on this worker, as a task of its runtime.
pub(super) async fn ring() {
    /// Without it, alarms are the runtime's timers.
    struct Driven;
    impl Drop for Driven {
        fn drop(&mut self) {
            let left = ALARMS.with_borrow_mut(Option::take);
            left.into_iter().flat_map(|alarms| alarms.waiting).for_each(|(_, waker)| waker.wake());
        }
    }
    ALARMS.with_borrow_mut(|alarms| *alarms = Some(Alarms::default()));
    let _until = Driven;
    if let Some(begun) = with(|alarms| Arc::clone(&alarms.begun)) {
        begun.notified().await;
    }
    let Ok(timer) = timer() else { return };
    with(|alarms| {
        alarms.timer = Some(Arc::clone(timer.get_ref()));
        alarms.set();
    });
    while let Ok(mut rings) = timer.readable().await {
        // Nothing is read: to set it anew takes back that it has rung.
        rings.clear_ready();
        with(Alarms::ring);
    }
}

/// A descriptor that becomes readable when it is time.
fn timer() -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
    let timer = Arc::new(timerfd_create(TimerfdClockId::Monotonic, flags)?);
    // Deprecated for types that might close their descriptor early; this one keeps its own.
    #[expect(deprecated, reason = "the replacement is unsafe, and needed only for other types")]
    AsyncFd::with_interest(timer, Interest::READABLE)
}

/// Waits until that moment: never less, and no more than a fraction of a millisecond longer if the worker has time.
pub(super) fn wait_until(due: Instant) -> Alarm {
    Alarm { due, number: None, sleep: None }
}

/// The future of [`wait_until`].
#[derive(Debug)]
pub(super) struct Alarm {
    due: Instant,
    /// If it is one of those of its worker.
    number: Option<u64>,
    /// If its worker has none.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Future for Alarm {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let due = self.due;
        if Instant::now() >= due {
            return Poll::Ready(());
        }
        let number = self.number;
        let registered = with(|alarms| {
            let number = number.unwrap_or_else(|| {
                alarms.last += 1;
                alarms.last
            });
            let waker = alarms.waiting.entry((due, number)).or_insert_with(|| context.waker().clone());
            waker.clone_from(context.waker());
            if alarms.waiting.keys().next() == Some(&(due, number)) {
                alarms.set();
            }
            if alarms.timer.is_none() {
                alarms.begun.notify_one();
            }
            number
        });
        self.number = registered;
        if registered.is_some() {
            return Poll::Pending;
        }
        self.sleep.get_or_insert_with(|| Box::pin(sleep_until(due.into()))).as_mut().poll(context)
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            with(|alarms| alarms.waiting.remove(&(self.due, number)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::runtime::{Builder, Runtime};
    use tokio::time::timeout;

    const LONG: Duration = Duration::from_secs(60);

    fn runtime() -> Runtime {
        Builder::new_current_thread().enable_all().build().expect("a runtime")
    }

    #[test]
    fn alarms_ring_in_their_order_and_never_too_early() {
        for is_driven in [true, false] {
            runtime().block_on(async {
                if is_driven {
                    tokio::spawn(ring());
                    tokio::task::yield_now().await;
                }
                let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
                let start = Instant::now();
                for millis in [30, 10, 20, 0, 10] {
                    let (tell, due) = (tell.clone(), start + Duration::from_millis(millis));
                    tokio::spawn(async move {
                        wait_until(due).await;
                        assert!(Instant::now() >= due);
                        let _ = tell.send(millis);
                    });
                }
                drop(tell);
                let mut rung = Vec::new();
                while let Some(millis) = timeout(LONG, told.recv()).await.expect("it rings") {
                    rung.push(millis);
                }
                assert_eq!(rung, [0, 10, 10, 20, 30], "{is_driven}");
            });
        }
    }

    #[test]
    fn an_alarm_that_nobody_waits_for_is_gone() {
        runtime().block_on(async {
            tokio::spawn(ring());
            tokio::task::yield_now().await;
            assert!(timeout(Duration::from_millis(5), wait_until(Instant::now() + LONG)).await.is_err());
            assert_eq!(with(|alarms| alarms.waiting.len()), Some(0));
            // The descriptor is set for one that is gone, and then for another one.
            timeout(LONG, wait_until(Instant::now() + Duration::from_millis(5))).await.expect("it rings");
        });
    }

    #[test]
    fn who_waits_when_the_worker_stops_ringing_wakes_by_other_means() {
        runtime().block_on(async {
            let driver = tokio::spawn(ring());
            tokio::task::yield_now().await;
            let waits = tokio::spawn(wait_until(Instant::now() + Duration::from_millis(20)));
            tokio::task::yield_now().await;
            driver.abort();
            timeout(LONG, waits).await.expect("it wakes").expect("no panic");
        });
    }
}
