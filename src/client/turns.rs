//! Whose turn it is: poems begin in their order, as many at once as may be under way.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::num::NonZeroUsize;

use super::source::Source;

/// The most poems under way at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concurrency {
    /// Of all poems together.
    Together(NonZeroUsize),
    /// Of those over HTTP, and of the others. (A server of HTTP has to be asked gently, RFC 9112, section 9.4.)
    Apart {
        /// Over HTTP.
        http: NonZeroUsize,
        /// From servers that send their poem as soon as they are connected to.
        poems: NonZeroUsize,
    },
}

/// Poems over HTTP at once, if nobody says how many.
const HTTP_AT_ONCE: NonZeroUsize = NonZeroUsize::new(50).expect("not 0");

impl Concurrency {
    /// As many as are wanted: of all together, or 50 over HTTP and all others.
    pub fn wanted(wanted: Option<NonZeroUsize>) -> Self {
        match wanted {
            Some(most) => Self::Together(most),
            None => Self::Apart { http: HTTP_AT_ONCE, poems: NonZeroUsize::MAX },
        }
    }

    /// The same, but of all of these poems together not more than `possible`.
    #[must_use]
    pub fn at_most(self, possible: NonZeroUsize, sources: &[Source]) -> Self {
        let number = |kind| sources.iter().filter(|source| self.kind(source) == kind).count();
        match self {
            Self::Together(all) => Self::Together(all.min(possible)),
            Self::Apart { http, poems } => {
                let http = http.min(possible);
                let left = possible.get().saturating_sub(http.get().min(number(1)));
                Self::Apart { http, poems: poems.min(NonZeroUsize::new(left).unwrap_or(NonZeroUsize::MIN)) }
            }
        }
    }

    /// How many of these poems can be under way at once.
    pub fn of(self, sources: &[Source]) -> usize {
        let limits = self.limits();
        let number = |kind| sources.iter().filter(|source| self.kind(source) == kind).count();
        [0, 1].into_iter().map(|kind| number(kind).min(limits[kind])).sum()
    }

    /// The most poems of one kind, and in all.
    fn limits(self) -> [usize; 2] {
        match self {
            Self::Together(all) => [all.get(), 0],
            Self::Apart { http, poems } => [poems.get(), http.get()],
        }
    }

    /// Which limit a poem from there comes under.
    fn kind(self, source: &Source) -> usize {
        match (self, source) {
            (Self::Apart { .. }, Source::Http(_)) => 1,
            _ => 0,
        }
    }

    /// The least time in which poems can come that each take so long, if they begin in this order and no time is lost.
    pub fn bound<'a>(self, poems: impl IntoIterator<Item = (&'a Source, u64)>) -> u64 {
        let limits = self.limits();
        // When each of those under way will end.
        let mut ends = [BinaryHeap::new(), BinaryHeap::new()];
        for (source, took) in poems {
            let kind = self.kind(source);
            let ends = &mut ends[kind];
            let start = if ends.len() < limits[kind] { 0 } else { ends.pop().map_or(0, |Reverse(end)| end) };
            ends.push(Reverse(start + took));
        }
        ends.iter().flatten().map(|Reverse(end)| *end).max().unwrap_or(0)
    }
}

/// The poems that have not begun, by kind, and how many more of each may.
#[derive(Debug)]
pub(crate) struct Turns {
    concurrency: Concurrency,
    waiting: [VecDeque<usize>; 2],
    free: [usize; 2],
}

impl Turns {
    pub(crate) fn new(sources: &[Source], concurrency: Concurrency) -> Self {
        let mut waiting = [VecDeque::new(), VecDeque::new()];
        for (index, source) in sources.iter().enumerate() {
            waiting[concurrency.kind(source)].push_back(index);
        }
        Self { concurrency, waiting, free: concurrency.limits() }
    }

    /// The next poem that may begin now.
    pub(crate) fn next(&mut self) -> Option<usize> {
        let first = |kind: &usize| self.waiting[*kind].front().filter(|_| self.free[*kind] > 0);
        let kind = [0, 1].into_iter().filter(|kind| first(kind).is_some()).min_by_key(|kind| first(kind).copied())?;
        self.free[kind] -= 1;
        self.waiting[kind].pop_front()
    }

    /// A poem of this source is settled.
    pub(crate) fn settled(&mut self, source: &Source) {
        self.free[self.concurrency.kind(source)] += 1;
    }

    /// Whether every poem has begun.
    pub(crate) fn are_over(&self) -> bool {
        self.waiting.iter().all(VecDeque::is_empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at_once(number: usize) -> NonZeroUsize {
        NonZeroUsize::new(number).expect("not 0")
    }

    fn sources(texts: &[&str]) -> Vec<Source> {
        texts.iter().map(|text| text.parse().expect("a source")).collect()
    }

    #[test]
    fn poems_begin_in_their_order_and_each_kind_has_its_limit() {
        let all = sources(&["http://a/1", "1", "http://a/2", "2", "http://a/3", "3"]);
        let begun = |turns: &mut Turns| std::iter::from_fn(|| turns.next()).collect::<Vec<_>>();
        let mut turns = Turns::new(&all, Concurrency::Apart { http: at_once(1), poems: at_once(2) });
        assert_eq!(begun(&mut turns), [0, 1, 3]);
        turns.settled(&all[0]);
        assert_eq!((begun(&mut turns), turns.are_over()), (vec![2], false));
        turns.settled(&all[1]);
        turns.settled(&all[2]);
        assert_eq!((begun(&mut turns), turns.are_over()), (vec![4, 5], true));

        let mut turns = Turns::new(&all, Concurrency::Together(at_once(3)));
        assert_eq!(begun(&mut turns), [0, 1, 2]);
        turns.settled(&all[2]);
        assert_eq!(begun(&mut turns), [3]);
    }

    #[test]
    fn the_bound_is_the_time_of_a_client_that_loses_none() {
        let all = sources(&["http://a/1", "1", "http://a/2", "2"]);
        let took = |concurrency: Concurrency| concurrency.bound(all.iter().zip([3, 4, 5, 6]));
        assert_eq!(took(Concurrency::Together(at_once(1))), 18);
        assert_eq!(took(Concurrency::Together(at_once(2))), 10, "3 and then 5, 4 and then 6");
        assert_eq!(took(Concurrency::Together(at_once(9))), 6);
        assert_eq!(took(Concurrency::Apart { http: at_once(1), poems: at_once(9) }), 8);
    }
}
