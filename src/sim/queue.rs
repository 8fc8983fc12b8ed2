//! The queue of events to come, in order of virtual time: a radix heap.
//!
//! From Ahuja, Mehlhorn, Orlin and Tarjan, *Faster Algorithms for the Shortest Path Problem* (Journal of the ACM 37, 1990). Time
//! only goes on, so what is far off need not be in order yet: it lies with all that has the same first digit in which it differs
//! from now. An event moves from the end of one list to that of another some five times, which is kinder to the caches of a
//! processor than a binary heap.

use std::collections::VecDeque;

/// Nanoseconds of virtual time since the start of the run.
pub(crate) type Nanos = u64;

/// Events, each with its time. Of events at the same time, the one that was put in first comes first: the order follows
/// from the program and from nothing else.
#[derive(Debug)]
pub(super) struct Queue<E> {
    /// Those that are due, in order: at the time `now`, or sooner.
    due: VecDeque<(Nanos, E)>,
    /// The later ones, by the first digit of their time that is another one than that of `now`: by its place, from the last one on,
    /// and its value. Each list is as they were put in.
    later: [Vec<(Nanos, E)>; PLACES * VALUES],
    /// For each place, a bit for each value whose list is not empty.
    filled: [u16; PLACES],
    now: Nanos,
    /// Events put in so far.
    number: u64,
}

/// Bits of a digit of a time.
const DIGIT: usize = 4;
const VALUES: usize = 1 << DIGIT;
const PLACES: usize = Nanos::BITS as usize / DIGIT;

/// Events in a list that keeps its memory when it is empty.
const SHORT: usize = 1 << 10;

impl<E> Queue<E> {
    pub(super) fn new() -> Self {
        let later = std::array::from_fn(|_| Vec::new());
        Self { due: VecDeque::new(), later, filled: [0; PLACES], now: 0, number: 0 }
    }

    /// Has an event happen at a time that is not past, as a rule. One that is comes before all others.
    pub(super) fn push(&mut self, at: Nanos, event: E) {
        self.number += 1;
        if at < self.now {
            let index = self.due.partition_point(|(other, _)| *other <= at);
            return self.due.insert(index, (at, event));
        }
        self.put(at, event);
    }

    fn put(&mut self, at: Nanos, event: E) {
        let Some(bit) = (at ^ self.now).checked_ilog2() else { return self.due.push_back((at, event)) };
        let place = bit as usize / DIGIT;
        let [low, ..] = (at >> (place * DIGIT)).to_le_bytes();
        let value = usize::from(low) % VALUES;
        self.filled[place] |= 1 << value;
        self.later[place * VALUES + value].push((at, event));
    }

    /// The next event.
    pub(super) fn pop(&mut self) -> Option<(Nanos, E)> {
        if self.due.is_empty() {
            self.go_on()?;
        }
        self.due.pop_front()
    }

    /// Lets time go on until the first of the later events, which is due then. None: there is none.
    fn go_on(&mut self) -> Option<()> {
        // The sooner ones differ in later places, and in the same place they have less.
        let place = self.filled.iter().position(|values| *values != 0)?;
        let index = place * VALUES + self.filled[place].trailing_zeros() as usize;
        self.filled[place] &= self.filled[place] - 1;
        let mut list = std::mem::take(&mut self.later[index]);
        self.now = list.iter().map(|(at, _)| *at).min()?;
        list.drain(..).for_each(|(at, event)| self.put(at, event));
        // A short list keeps its memory, a long one gives it back.
        if list.capacity() <= SHORT {
            self.later[index] = list;
        }
        Some(())
    }

    /// Events put in so far.
    pub(super) fn events(&self) -> u64 {
        self.number
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn events_come_in_order_of_time_and_else_as_they_were_put_in(
            steps in proptest::collection::vec((0..3_usize, prop_oneof![0..4_u64, 0..2_000_u64, 0..=u64::MAX]), 0..200),
        ) {
            let mut queue = Queue::new();
            let (mut waiting, mut now) = (Vec::new(), 0_u64);
            for (number, (pops, late)) in steps.iter().enumerate() {
                // Sooner than now, too, by up to a nanosecond.
                let at = now.saturating_add(*late).saturating_sub(1);
                queue.push(at, number);
                waiting.push((at, number));
                for _ in 0..*pops {
                    waiting.sort_unstable();
                    let expected = if waiting.is_empty() { None } else { Some(waiting.remove(0)) };
                    prop_assert_eq!(queue.pop(), expected);
                    now = expected.map_or(now, |(at, _)| at);
                }
            }
            prop_assert_eq!(queue.events(), steps.len() as u64);
            waiting.sort_unstable();
            prop_assert_eq!(std::iter::from_fn(|| queue.pop()).collect::<Vec<_>>(), waiting);
        }
    }
}
