//! Sets of code points as ranges: 103,203 ideographs are a few numbers.

use std::cmp::{max, min};

/// Code points from the first to the last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    /// The first.
    pub first: u32,
    /// The last; not below the first.
    pub last: u32,
}

impl Range {
    /// How many they are.
    pub fn count(self) -> usize {
        (self.last - self.first) as usize + 1
    }
}

/// A set of code points: ranges in their order, with gaps between them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges(Vec<Range>);

impl Ranges {
    /// Adds the code points of a range that begins nowhere before the last one of the set.
    pub fn push(&mut self, first: u32, last: u32) {
        match self.0.last_mut() {
            Some(before) if first <= before.last.saturating_add(1) => before.last = max(before.last, last),
            _ => self.0.push(Range { first, last }),
        }
    }

    /// The ranges themselves.
    pub fn as_slice(&self) -> &[Range] {
        &self.0
    }

    /// Whether there is no code point in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many code points there are.
    pub fn total(&self) -> usize {
        self.0.iter().map(|range| range.count()).sum()
    }

    /// Whether a code point is one of them.
    pub fn contains(&self, code: u32) -> bool {
        let at = self.0.partition_point(|range| range.last < code);
        self.0.get(at).is_some_and(|range| range.first <= code)
    }

    /// The code points that are in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let (mut ones, mut others) = (self.0.iter().peekable(), other.0.iter().peekable());
        let mut both = Self::default();
        while let (Some(one), Some(other)) = (ones.peek(), others.peek()) {
            let (first, last) = (max(one.first, other.first), min(one.last, other.last));
            if first <= last {
                both.push(first, last);
            }
            if one.last < other.last {
                ones.next();
            } else {
                others.next();
            }
        }
        both
    }

    /// The code points that are in any of these sets.
    pub fn union<'a>(sets: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut all: Vec<Range> = sets.into_iter().flat_map(|set| &set.0).copied().collect();
        // Sorted runs, which sort() merges.
        all.sort();
        all.into_iter().collect()
    }

    /// The code points in their order, without the first so many. Whole ranges are passed over, not their numbers.
    pub fn into_codes(self, start: usize) -> Codes {
        let (mut at, mut offset) = (0, start);
        while let Some(range) = self.0.get(at)
            && offset >= range.count()
        {
            (at, offset) = (at + 1, offset - range.count());
        }
        Codes { ranges: self, at, offset }
    }
}

impl FromIterator<Range> for Ranges {
    /// From ranges that are sorted; they may overlap.
    fn from_iter<I: IntoIterator<Item = Range>>(ranges: I) -> Self {
        let mut set = Self::default();
        ranges.into_iter().for_each(|range| set.push(range.first, range.last));
        set
    }
}

/// The code points of a set, one after another.
#[derive(Debug, Clone)]
pub struct Codes {
    ranges: Ranges,
    at: usize,
    /// Within that range; less than its count.
    offset: usize,
}

impl Iterator for Codes {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let range = self.ranges.0.get(self.at)?;
        let code = range.first + u32::try_from(self.offset).ok()?;
        self.offset += 1;
        if code == range.last {
            (self.at, self.offset) = (self.at + 1, 0);
        }
        Some(code)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::btree_set;
    use proptest::prelude::*;

    use super::*;

    fn ranges(codes: &BTreeSet<u32>) -> Ranges {
        codes.iter().map(|&code| Range { first: code, last: code }).collect()
    }

    #[test]
    fn neighbours_are_one_range() {
        let set = ranges(&[1, 2, 3, 5, 0x10_ffff].into());
        let range = |first, last| Range { first, last };
        assert_eq!(set.as_slice(), [range(1, 3), range(5, 5), range(0x10_ffff, 0x10_ffff)]);
        assert_eq!(set.total(), 5);
    }

    proptest! {
        #[test]
        fn they_are_as_sets_of_numbers_are(
            one in btree_set(0..60u32, 0..40),
            other in btree_set(0..60u32, 0..40),
            start in 0..70usize,
        ) {
            let (ones, others) = (ranges(&one), ranges(&other));
            prop_assert_eq!(ones.total(), one.len());
            prop_assert_eq!(ones.is_empty(), one.is_empty());
            for code in 0..61 {
                prop_assert_eq!(ones.contains(code), one.contains(&code));
            }
            prop_assert_eq!(ones.intersection(&others), ranges(&(&one & &other)));
            prop_assert_eq!(Ranges::union([&ones, &others]), ranges(&(&one | &other)));
            let codes: Vec<u32> = ones.into_codes(start).collect();
            prop_assert_eq!(codes, one.into_iter().skip(start).collect::<Vec<_>>());
        }
    }
}
