//! The reads of a poem, in bounded memory.

use serde::{Deserialize, Serialize};

use crate::units::Micros;

/// The reads of a poem: `[microseconds, bytes]` each.
///
/// Never more than [`Events::LIMIT`] are kept: beyond that, neighbours are merged evenly, each
/// entry then standing for 2, 4, 8, ... reads that ended at its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Events {
    entries: Vec<(Micros, u64)>,
    /// Reads in a full entry.
    #[serde(skip, default = "one")]
    per_entry: u32,
    /// Reads in the last entry.
    #[serde(skip)]
    in_last: u32,
}

fn one() -> u32 {
    1
}

impl Events {
    /// The most entries that are kept.
    pub const LIMIT: usize = 1_000;

    /// The entries in order of time.
    pub fn entries(&self) -> &[(Micros, u64)] {
        &self.entries
    }

    /// Adds a read of `bytes` at the time `at`, not before those already there.
    pub fn push(&mut self, at: Micros, bytes: u64) {
        if self.in_last < self.per_entry
            && let Some(last) = self.entries.last_mut()
        {
            *last = (at, last.1 + bytes);
            self.in_last += 1;
            return;
        }
        if self.entries.len() == Self::LIMIT {
            self.halve();
        }
        self.entries.push((at, bytes));
        self.in_last = 1;
    }

    /// Merges neighbours evenly until there are at most `most` entries. To be called when there are no more reads.
    pub fn merge_to(&mut self, most: usize) {
        while self.entries.len() > most.max(1) {
            self.halve();
        }
        self.entries.shrink_to_fit();
    }

    /// Merges every two neighbours. The limit is even: no entry is left over while reads are added.
    fn halve(&mut self) {
        let merge = |pair: &[(Micros, u64)]| (pair[pair.len() - 1].0, pair.iter().map(|entry| entry.1).sum());
        self.entries = self.entries.chunks(2).map(merge).collect();
        self.per_entry *= 2;
        self.in_last = self.per_entry;
    }
}

impl Default for Events {
    fn default() -> Self {
        Self { entries: Vec::new(), per_entry: 1, in_last: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn up_to_the_limit_every_read_is_kept() {
        let mut events = Events::default();
        for at in 0..1_000 {
            events.push(at, 1);
        }
        assert_eq!(events.entries().len(), 1_000);
        events.push(1_000, 1);
        assert_eq!(events.entries().len(), 501);
        assert_eq!(events.entries()[..2], [(1, 2), (3, 2)]);
        assert_eq!(events.entries()[499..], [(999, 2), (1_000, 1)]);
    }

    #[test]
    fn what_is_over_can_be_merged_further() {
        let mut events = Events::default();
        for at in 1..=9 {
            events.push(at, 1);
        }
        events.merge_to(9);
        assert_eq!(events.entries().len(), 9);
        events.merge_to(3);
        assert_eq!(events.entries(), [(4, 4), (8, 4), (9, 1)]);
        events.merge_to(0);
        assert_eq!(events.entries(), [(9, 9)]);
    }

    proptest! {
        #[test]
        fn merging_loses_no_byte_and_no_order(sizes in proptest::collection::vec(1u64..70_000, 0..9_000)) {
            let mut events = Events::default();
            for (at, &bytes) in sizes.iter().enumerate() {
                events.push(at as Micros, bytes);
            }
            let entries = events.entries();
            prop_assert!(entries.len() <= Events::LIMIT);
            prop_assert!(entries.len() >= sizes.len().min(Events::LIMIT / 2));
            prop_assert_eq!(entries.iter().map(|e| e.1).sum::<u64>(), sizes.iter().sum::<u64>());
            prop_assert!(entries.is_sorted_by(|a, b| a.0 < b.0));
            prop_assert_eq!(entries.last().map(|e| e.0), sizes.len().checked_sub(1).map(|at| at as Micros));
            let per = events.per_entry as usize;
            for (n, entry) in entries.iter().enumerate() {
                let reads = &sizes[n * per..sizes.len().min((n + 1) * per)];
                prop_assert_eq!(entry.1, reads.iter().sum::<u64>());
            }
        }
    }
}
