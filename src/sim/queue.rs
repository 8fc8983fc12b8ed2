//! The queue of events to come, in order of virtual time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Nanoseconds of virtual time since the start of the run.
pub(crate) type Nanos = u64;

/// Events, each with its time. Of events at the same time, the one that was put in first comes first: the order follows
/// from the program and from nothing else.
#[derive(Debug)]
pub(super) struct Queue<E> {
    heap: BinaryHeap<Reverse<Entry<E>>>,
    /// Timers, apart: there may be a million of them that nobody will wait for, and the others are few.
    timers: BinaryHeap<Reverse<Entry<E>>>,
    /// Events put in so far.
    number: u64,
}

#[derive(Debug)]
struct Entry<E> {
    at: Nanos,
    number: u64,
    event: E,
}

impl<E> Queue<E> {
    pub(super) fn new() -> Self {
        Self { heap: BinaryHeap::new(), timers: BinaryHeap::new(), number: 0 }
    }

    /// Has an event happen at a time that is not past.
    pub(super) fn push(&mut self, at: Nanos, event: E) {
        self.heap.push(Reverse(Entry { at, number: self.number, event }));
        self.number += 1;
    }

    /// The same for one that is far off, as a rule.
    pub(super) fn push_timer(&mut self, at: Nanos, event: E) {
        self.timers.push(Reverse(Entry { at, number: self.number, event }));
        self.number += 1;
    }

    /// The next event.
    pub(super) fn pop(&mut self) -> Option<(Nanos, E)> {
        let is_timer = match (self.heap.peek(), self.timers.peek()) {
            // The first one is the largest in reverse.
            (Some(event), Some(timer)) => timer > event,
            (event, _) => event.is_none(),
        };
        let heap = if is_timer { &mut self.timers } else { &mut self.heap };
        heap.pop().map(|Reverse(entry)| (entry.at, entry.event))
    }

    /// Events put in so far.
    pub(super) fn events(&self) -> u64 {
        self.number
    }
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<E> Eq for Entry<E> {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn events_come_in_order_of_time_and_else_as_they_were_put_in(times in proptest::collection::vec(0u64..20, 0..200)) {
            let mut queue = Queue::new();
            for (number, time) in times.iter().enumerate() {
                if number % 3 == 0 { queue.push_timer(*time, number) } else { queue.push(*time, number) }
            }
            prop_assert_eq!(queue.events(), times.len() as u64);
            let mut expected: Vec<(u64, usize)> = times.into_iter().zip(0..).collect();
            expected.sort_unstable();
            prop_assert_eq!(std::iter::from_fn(|| queue.pop()).collect::<Vec<_>>(), expected);
        }
    }
}
