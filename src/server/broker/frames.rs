//! Frames that came together and are kept together: many subscribers share one copy of them.

use std::sync::Arc;

use tokio_util::bytes::Bytes;

/// What a kept frame counts beside its bytes: so that a queue of empty messages has an end, too.
pub const OVERHEAD: usize = 64;

/// A run of consecutive frames, one at least, in memory that others share. To clone it is cheap.
#[derive(Debug, Clone)]
pub(super) struct Frames {
    batch: Arc<Batch>,
    from: usize,
    to: usize,
}

/// Frames one behind another.
#[derive(Debug)]
struct Batch {
    bytes: Bytes,
    /// Where each ends.
    ends: Box<[usize]>,
}

impl Batch {
    fn start(&self, index: usize) -> usize {
        index.checked_sub(1).map_or(0, |before| self.ends[before])
    }
}

impl Frames {
    /// Frames one behind another, each of which ends at one of these.
    pub(super) fn new(bytes: impl Into<Bytes>, ends: impl Into<Box<[usize]>>) -> Self {
        let batch = Batch { bytes: bytes.into(), ends: ends.into() };
        debug_assert_eq!(batch.ends.last(), Some(&batch.bytes.len()));
        Self { from: 0, to: batch.ends.len(), batch: Arc::new(batch) }
    }

    /// How many they are.
    pub(super) fn count(&self) -> usize {
        self.to - self.from
    }

    /// All their bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.batch.bytes[self.batch.start(self.from)..self.batch.ends[self.to - 1]]
    }

    /// What a queue counts for them.
    pub(super) fn weight(&self) -> usize {
        self.bytes().len() + OVERHEAD * self.count()
    }

    /// How many of the first of them weigh no more than this.
    pub(super) fn within_weight(&self, limit: usize) -> usize {
        if self.weight() <= limit {
            return self.count();
        }
        let (start, ends) = (self.batch.start(self.from), &self.batch.ends[self.from..self.to]);
        let fits = |index: usize| ends[index] - start + OVERHEAD * (index + 1) <= limit;
        // A binary search: the weights grow.
        let (mut fitting, mut too_many) = (0, ends.len());
        while fitting < too_many {
            let middle = usize::midpoint(fitting, too_many);
            if fits(middle) {
                fitting = middle + 1;
            } else {
                too_many = middle;
            }
        }
        fitting
    }

    /// How many are whole within the first so many bytes, and how many bytes there are of the next one.
    pub(super) fn within_bytes(&self, bytes: usize) -> (usize, usize) {
        let until = self.batch.start(self.from) + bytes;
        let whole = self.batch.ends[self.from..self.to].partition_point(|&end| end <= until);
        (whole, until - self.batch.start(self.from + whole))
    }

    /// The first so many; `None` if that is none.
    pub(super) fn first(&self, count: usize) -> Option<Self> {
        self.part(self.from, self.from + count)
    }

    /// All but the first so many; `None` if that is none.
    pub(super) fn after(&self, count: usize) -> Option<Self> {
        self.part(self.from + count, self.to)
    }

    fn part(&self, from: usize, to: usize) -> Option<Self> {
        let to = to.min(self.to);
        (from < to).then(|| Self { batch: Arc::clone(&self.batch), from, to })
    }

    /// Joins what follows at once in the same memory; returns what does not.
    pub(super) fn join(&mut self, next: Self) -> Option<Self> {
        if !Arc::ptr_eq(&self.batch, &next.batch) || self.to != next.from {
            return Some(next);
        }
        self.to = next.to;
        None
    }

    /// The same frames, in memory of their own if they are less than three quarters of what they share: what is kept for
    /// long costs what it counts for.
    pub(super) fn compact(&mut self) {
        let bytes = self.bytes();
        if bytes.len() * 4 >= self.batch.bytes.len() * 3 {
            return;
        }
        let start = self.batch.start(self.from);
        let ends: Vec<usize> = self.batch.ends[self.from..self.to].iter().map(|end| end - start).collect();
        *self = Self::new(Bytes::copy_from_slice(bytes), ends);
    }
}

#[cfg(test)]
impl Frames {
    /// Frames with these payloads.
    pub(super) fn of(payloads: &[&[u8]]) -> Self {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for payload in payloads {
            bytes.extend_from_slice(&crate::proto::frame::prefix(payload.len()));
            bytes.extend_from_slice(payload);
            ends.push(bytes.len());
        }
        Self::new(bytes, ends)
    }

    /// Their payloads.
    pub(super) fn payloads(&self) -> Vec<Vec<u8>> {
        let mut rest = self.bytes();
        let next = |rest: &mut &[u8]| crate::proto::frame::decode(rest, usize::MAX).expect("short").map(<[u8]>::to_vec);
        std::iter::from_fn(|| next(&mut rest)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_know_where_they_are() {
        let all = Frames::of(&[b"1", b"", b"333", b"4"]);
        assert_eq!((all.count(), all.bytes().len(), all.weight()), (4, 21, 21 + 4 * OVERHEAD));
        for (bytes, expected) in [(0, (0, 0)), (4, (0, 4)), (5, (1, 0)), (8, (1, 3)), (9, (2, 0)), (21, (4, 0))] {
            assert_eq!(all.within_bytes(bytes), expected, "{bytes}");
        }
        let middle = all.after(1).and_then(|rest| rest.first(2)).expect("two");
        assert_eq!(middle.payloads(), [&b""[..], b"333"]);
        assert_eq!(middle.within_bytes(6), (1, 2));
        let own = OVERHEAD + 4;
        for (limit, count) in [(own - 1, 0), (own, 1), (2 * own + 2, 1), (2 * own + 3, 2), (usize::MAX, 2)] {
            assert_eq!(middle.within_weight(limit), count, "{limit}");
        }
        assert!(all.after(4).is_none() && all.first(0).is_none());
        assert_eq!(all.first(9).expect("all of them").count(), 4);
    }

    #[test]
    fn what_follows_at_once_is_joined() {
        let all = Frames::of(&[b"a", b"b", b"c"]);
        let mut run = all.first(1).expect("one");
        assert!(run.join(all.after(2).expect("one")).is_some(), "b is between them");
        assert!(run.join(all.after(1).expect("two")).is_none());
        assert_eq!(run.payloads(), [b"a", b"b", b"c"]);
        assert!(run.join(Frames::of(&[b"d"])).is_some(), "other memory");
    }

    #[test]
    fn a_few_of_many_get_memory_of_their_own() {
        let all = Frames::of(&[&b"aaaa"[..]; 8]);
        let shares = |run: &Frames| Arc::ptr_eq(&run.batch, &all.batch);
        let (mut many, mut few) = (all.after(2).expect("six"), all.after(5).expect("three"));
        many.compact();
        few.compact();
        assert!(shares(&many) && !shares(&few));
        assert_eq!((few.payloads(), few.batch.bytes.len()), (vec![b"aaaa".to_vec(); 3], 24));
    }
}
