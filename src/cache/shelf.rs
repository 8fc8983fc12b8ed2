//! A keyed store that is bounded in bytes: what was not used for longest goes first (LRU).

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// What an entry counts beside its own weight: its key twice, and two tables.
pub const OVERHEAD: usize = 256;

/// Values by their keys. Each has a weight, in bytes, and all of them together no more than the limit.
#[derive(Debug)]
pub struct Shelf<K, V> {
    entries: HashMap<K, Entry<V>>,
    /// Keys by when they were used last.
    order: BTreeMap<u64, K>,
    now: u64,
    weight: usize,
    limit: usize,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    weight: usize,
    used: u64,
}

impl<K: Hash + Eq + Clone, V> Shelf<K, V> {
    /// An empty one for so many bytes.
    pub fn new(limit: usize) -> Self {
        Self { entries: HashMap::new(), order: BTreeMap::new(), now: 0, weight: 0, limit }
    }

    /// The value of a key, which is used by that.
    pub fn get(&mut self, key: &K) -> Option<&mut V> {
        let entry = self.entries.get_mut(key)?;
        if let Some(key) = self.order.remove(&entry.used) {
            self.now += 1;
            entry.used = self.now;
            self.order.insert(self.now, key);
        }
        Some(&mut entry.value)
    }

    /// Puts a value there instead of what is there, and throws away what that takes too much room for. One that is heavier
    /// than all may be together is not kept, and neither is what it was to take the place of.
    pub fn put(&mut self, key: K, value: V, weight: usize) {
        self.remove(&key);
        let weight = weight.saturating_add(OVERHEAD);
        if weight > self.limit {
            return;
        }
        while self.weight + weight > self.limit {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            self.weight -= self.entries.remove(&oldest).map_or(0, |entry| entry.weight);
        }
        self.now += 1;
        self.weight += weight;
        self.order.insert(self.now, key.clone());
        self.entries.insert(key, Entry { value, weight, used: self.now });
    }

    /// Takes a value away.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let entry = self.entries.remove(key)?;
        self.order.remove(&entry.used);
        self.weight -= entry.weight;
        Some(entry.value)
    }

    /// Takes away everything.
    pub fn clear(&mut self) {
        *self = Self::new(self.limit);
    }

    /// Bytes of everything.
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Get(u8),
        Put(u8, usize),
        Remove(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        let key = 0..6u8;
        prop_oneof![
            key.clone().prop_map(Step::Get),
            (key.clone(), 0..900usize).prop_map(|(key, weight)| Step::Put(key, weight)),
            key.prop_map(Step::Remove),
        ]
    }

    proptest! {
        /// The model is a list, in which the one that was used last is the last.
        #[test]
        fn what_was_not_used_for_longest_goes_first(steps in vec(step(), 0..60)) {
            const LIMIT: usize = 2_000;
            let (mut shelf, mut model) = (Shelf::new(LIMIT), Vec::<(u8, usize)>::new());
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Get(key) => {
                        let at = model.iter().position(|(its, _)| *its == key);
                        prop_assert_eq!(shelf.get(&key).is_some(), at.is_some());
                        if let Some(at) = at {
                            let entry = model.remove(at);
                            model.push(entry);
                        }
                    }
                    Step::Put(key, weight) => {
                        shelf.put(key, number, weight);
                        model.retain(|(its, _)| *its != key);
                        model.push((key, weight + OVERHEAD));
                        while model.iter().map(|(_, weight)| weight).sum::<usize>() > LIMIT {
                            model.remove(0);
                        }
                    }
                    Step::Remove(key) => {
                        prop_assert_eq!(shelf.remove(&key).is_some(), model.iter().any(|(its, _)| *its == key));
                        model.retain(|(its, _)| *its != key);
                    }
                }
                prop_assert_eq!(shelf.weight(), model.iter().map(|(_, weight)| weight).sum::<usize>());
                prop_assert_eq!((shelf.len(), shelf.order.len()), (model.len(), model.len()));
                prop_assert!(model.iter().all(|(key, _)| shelf.entries.contains_key(key)));
            }
        }
    }

    #[test]
    fn what_is_too_heavy_for_all_throws_away_nothing_else() {
        let mut shelf = Shelf::new(1_000);
        shelf.put("a", 1, 100);
        shelf.put("b", 2, 745);
        assert_eq!((shelf.get(&"a").copied(), shelf.get(&"b").copied()), (Some(1), None));
        shelf.put("a", 3, 745);
        assert!(shelf.is_empty());
        shelf.put("a", 4, 744);
        shelf.clear();
        assert_eq!((shelf.weight(), shelf.len()), (0, 0));
    }
}
