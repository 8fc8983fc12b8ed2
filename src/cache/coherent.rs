//! A cache that is kept coherent by invalidation: whoever changes a value tells everybody that it has changed, and whoever
//! holds it forgets it.
//!
//! ```text
//!   look ──▶ Hit                                     changed ──▶ forgotten, and fetched again if it was in use
//!        ──▶ Joined: somebody fetches it                 │
//!        ──▶ Fill ── fetch ──▶ land ──▶ stored ◀── unless one has come since the fetch began
//! ```
//!
//! Two things make such caches lie. A fetch that began before a change may end after its announcement, and what it brings
//! is old: here a fill that was *overtaken* answers those who wait for it already, and is not stored; whoever asks later
//! begins another one. And announcements may cease without a word: while nobody listens ([`stop`](Coherent::stop)),
//! everything is a bypass, and what was held before is forgotten when somebody listens again
//! ([`resume`](Coherent::resume)). Announcements carry no values: two quick ones would step back for a moment.
//!
//! [`Trust::Blind`] leaves all of that out, to show what it is good for.

use std::collections::HashMap;
use std::hash::Hash;

use super::shelf::Shelf;

/// The most fetches under way that nobody waits for.
pub const MOST_REFETCHES: usize = 64;

/// The part of the memory that is for values that are not there: who asks for one number after another must not drive out
/// what others use.
const ABSENT_SHARE: usize = 8;

/// What is made of announcements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// They are all there is, and may be missed: the cache above.
    Earned,
    /// They always come, and in time: whatever a fetch brings is stored, and silence means that nothing has changed.
    Blind,
}

/// Values by keys, some of which are not there; `W` is somebody who waits for one.
#[derive(Debug)]
pub struct Coherent<K, V, W> {
    trust: Trust,
    /// What is fetched again when it has changed.
    refetches: bool,
    /// What was held is kept while nobody listens, for [`stale`](Self::stale).
    keeps_stale: bool,
    is_listening: bool,
    has_room: bool,
    values: Shelf<K, Kept<V>>,
    absent: Shelf<K, ()>,
    /// The newest fill of each key.
    fills: HashMap<K, Fill<W>>,
    /// Fills that have been overtaken, by number.
    overtaken: HashMap<u64, Vec<W>>,
    next: u64,
    background: usize,
    counts: Counts,
}

/// What has happened to a cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// How often all was forgotten.
    pub clears: u64,
    /// Fills that were not stored, for something had changed meanwhile.
    pub overtaken: u64,
    /// Fetches that were begun because a value had changed.
    pub refetches: u64,
}

#[derive(Debug)]
enum Kept<V> {
    Value(V),
    /// It was in use until it was changed here: to be fetched again when that is announced.
    Wanted,
}

#[derive(Debug)]
struct Fill<W> {
    number: u64,
    waiting: Vec<W>,
}

/// The right to bring the value of a key, and the duty: each ends in [`land`](Coherent::land) or [`fail`](Coherent::fail).
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Ticket<K> {
    /// Whose value is to be fetched.
    pub key: K,
    number: u64,
    is_background: bool,
}

/// What a cache has for somebody who asks.
#[derive(Debug, PartialEq, Eq)]
pub enum Lookup<K, V> {
    /// The value; `None`: it is known that there is none.
    Hit(Option<V>),
    /// It is being fetched, and whoever asks waits for that.
    Joined,
    /// It is to be fetched, and whoever asks waits for that.
    Fill(Ticket<K>),
    /// It is to be fetched for whoever asks alone.
    Bypass,
}

/// What is announced of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is there now, and likely to be asked for.
    Made,
    /// It is another one.
    Changed,
    /// It is there no more.
    Gone,
}

impl<K: Hash + Eq + Copy, V: Clone, W> Coherent<K, V, W> {
    /// A cache of so many bytes, to which nobody listens yet.
    pub fn new(limit: usize, trust: Trust, refetches: bool, keeps_stale: bool) -> Self {
        let absent = limit / ABSENT_SHARE;
        Self {
            trust,
            refetches,
            keeps_stale,
            is_listening: false,
            has_room: limit > 0,
            values: Shelf::new(limit - absent),
            absent: Shelf::new(absent),
            fills: HashMap::new(),
            overtaken: HashMap::new(),
            next: 0,
            background: 0,
            counts: Counts::default(),
        }
    }

    /// Asks for a value. `waiting` is asked for somebody only if there is something to wait for.
    pub fn look(&mut self, key: K, waiting: impl FnOnce() -> W) -> Lookup<K, V> {
        if !self.is_listening || !self.has_room {
            return Lookup::Bypass;
        }
        if let Some(Kept::Value(value)) = self.values.get(&key) {
            return Lookup::Hit(Some(value.clone()));
        }
        if self.absent.get(&key).is_some() {
            return Lookup::Hit(None);
        }
        if let Some(fill) = self.fills.get_mut(&key) {
            fill.waiting.push(waiting());
            return Lookup::Joined;
        }
        Lookup::Fill(self.begin(key, vec![waiting()], false))
    }

    /// What was held when listening ceased, if it is kept; whatever has become of it since.
    pub fn stale(&mut self, key: K) -> Option<Option<V>> {
        match self.values.get(&key) {
            Some(Kept::Value(value)) => Some(Some(value.clone())),
            Some(Kept::Wanted) => None,
            None => self.absent.get(&key).map(|()| None),
        }
    }

    /// A fetch has brought its value, or that there is none. Returns who waits for it.
    #[expect(clippy::needless_pass_by_value, reason = "it is used up")]
    pub fn land(&mut self, ticket: Ticket<K>, value: Option<V>, weight: usize) -> Vec<W> {
        let key = ticket.key;
        let (is_newest, waiting) = self.end(&ticket);
        if is_newest {
            match value {
                Some(value) => {
                    self.absent.remove(&key);
                    self.values.put(key, Kept::Value(value), weight);
                }
                None => {
                    self.values.remove(&key);
                    self.absent.put(key, (), 0);
                }
            }
        } else {
            self.counts.overtaken += 1;
        }
        waiting
    }

    /// A fetch has brought nothing. Returns who waits for it.
    #[expect(clippy::needless_pass_by_value, reason = "it is used up")]
    pub fn fail(&mut self, ticket: Ticket<K>) -> Vec<W> {
        self.end(&ticket).1
    }

    /// It is announced that a value has changed. Returns what is to be fetched thereupon, for nobody in particular.
    pub fn changed(&mut self, key: K, change: Change) -> Option<Ticket<K>> {
        let mut was_there = self.values.remove(&key).is_some() | self.absent.remove(&key).is_some();
        match self.trust {
            Trust::Earned => was_there |= self.overtake(key),
            Trust::Blind if self.fills.contains_key(&key) => return None,
            Trust::Blind => {}
        }
        let is_wanted = match change {
            Change::Made => true,
            Change::Changed => was_there,
            Change::Gone => false,
        };
        let may = self.is_listening && self.has_room && self.refetches && self.background < MOST_REFETCHES;
        (may && is_wanted).then(|| {
            self.background += 1;
            self.counts.refetches += 1;
            self.begin(key, Vec::new(), true)
        })
    }

    /// A value is about to be another one by what was done here, and that will be announced, too: nobody who asks from now
    /// on gets the old one.
    pub fn written(&mut self, key: K) {
        if self.trust == Trust::Blind {
            return;
        }
        self.absent.remove(&key);
        let was_there = self.values.remove(&key).is_some() | self.overtake(key);
        if was_there && self.refetches {
            self.values.put(key, Kept::Wanted, 0);
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.counts.clears += 1;
        self.values.clear();
        self.absent.clear();
        for (_, fill) in self.fills.drain() {
            self.overtaken.insert(fill.number, fill.waiting);
        }
    }

    /// Nobody listens to announcements any more.
    pub fn stop(&mut self) {
        if self.trust == Trust::Blind || !self.is_listening {
            return;
        }
        self.is_listening = false;
        if !self.keeps_stale {
            self.clear();
        }
    }

    /// From now on each change is announced. What changed before was perhaps not: all that is held is forgotten.
    pub fn resume(&mut self) {
        if self.trust == Trust::Earned && !(self.is_empty() && self.fills.is_empty()) {
            self.clear();
        }
        self.is_listening = true;
    }

    /// Whether somebody listens to announcements.
    pub fn is_listening(&self) -> bool {
        self.is_listening
    }

    /// Bytes of all that is held.
    pub fn weight(&self) -> usize {
        self.values.weight() + self.absent.weight()
    }

    /// How many values are held, those that are known not to be there among them.
    pub fn len(&self) -> usize {
        self.values.len() + self.absent.len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many wait for something.
    pub fn waiting(&self) -> usize {
        self.fills.values().map(|fill| fill.waiting.len()).chain(self.overtaken.values().map(Vec::len)).sum()
    }

    /// What has happened to it.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn begin(&mut self, key: K, waiting: Vec<W>, is_background: bool) -> Ticket<K> {
        self.next += 1;
        self.fills.insert(key, Fill { number: self.next, waiting });
        Ticket { key, number: self.next, is_background }
    }

    /// Ends a fill: whether what it brings may be stored, and who waits for it.
    fn end(&mut self, ticket: &Ticket<K>) -> (bool, Vec<W>) {
        let Ticket { key, number, is_background } = *ticket;
        self.background -= usize::from(is_background);
        match self.fills.get(&key) {
            Some(fill) if fill.number == number => {
                (true, self.fills.remove(&key).map(|fill| fill.waiting).unwrap_or_default())
            }
            _ => (false, self.overtaken.remove(&number).unwrap_or_default()),
        }
    }

    /// Whether a fill of this key was under way. What it brings is for those only who wait for it already.
    fn overtake(&mut self, key: K) -> bool {
        let Some(fill) = self.fills.remove(&key) else { return false };
        self.overtaken.insert(fill.number, fill.waiting);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, VecDeque};

    use super::*;

    const KEYS: u8 = 3;

    #[derive(Debug, Clone)]
    enum Step {
        /// Somebody asks.
        Look(u8),
        /// The fetch that was begun first reads.
        Read,
        /// What was read first arrives, or what was read last.
        Land,
        LandLast,
        /// A fetch brings nothing.
        Fail,
        /// Somebody else changes a value, which is announced.
        Write(u8),
        /// It is changed here: that is known before it is announced.
        WriteHere(u8),
        /// The oldest announcement comes.
        Announce,
        /// Nobody hears announcements any more; that is noticed later.
        Deaf,
        Notice,
        Listen,
    }

    fn step(chance: &mut fastrand::Rng) -> Step {
        let key = chance.u8(0..KEYS);
        match chance.u8(0..23) {
            0..=4 => Step::Look(key),
            5..=7 => Step::Read,
            8..=10 => Step::Land,
            11 => Step::LandLast,
            12 => Step::Fail,
            13..=15 => Step::Write(key),
            16 => Step::WriteHere(key),
            17..=19 => Step::Announce,
            20 => Step::Deaf,
            21 => Step::Notice,
            _ => Step::Listen,
        }
    }

    /// A database, the way to it, and the way of its announcements.
    struct World {
        cache: Coherent<u8, u64, (u8, u64)>,
        rows: HashMap<u8, u64>,
        announcements: VecDeque<(u8, u64)>,
        is_heard: bool,
        /// What has been announced of each key, or was so when listening began.
        known: HashMap<u8, u64>,
        asked: VecDeque<Ticket<u8>>,
        read: VecDeque<(Ticket<u8>, u64)>,
        /// Somebody got a value that was older than what had been announced before it was asked for.
        lies: usize,
    }

    impl World {
        fn new(trust: Trust, refetches: bool) -> Self {
            let mut cache = Coherent::new(4 * 1024, trust, refetches, false);
            cache.resume();
            let (rows, announcements, known, asked, read) = Default::default();
            Self { cache, rows, announcements, is_heard: true, known, asked, read, lies: 0 }
        }

        fn row(&self, key: u8) -> u64 {
            self.rows.get(&key).copied().unwrap_or_default()
        }

        fn known(&self, key: u8) -> u64 {
            self.known.get(&key).copied().unwrap_or_default()
        }

        fn land(&mut self, (ticket, version): (Ticket<u8>, u64)) {
            let key = ticket.key;
            for (its, known) in self.cache.land(ticket, Some(version), 1) {
                assert_eq!(its, key);
                self.lies += usize::from(version < known);
            }
        }

        fn write(&mut self, key: u8) {
            *self.rows.entry(key).or_default() += 1;
            if self.is_heard {
                self.announcements.push_back((key, self.row(key)));
            }
        }

        fn announce(&mut self) {
            let Some((key, version)) = self.announcements.pop_front() else { return };
            let known = self.known.entry(key).or_default();
            *known = (*known).max(version);
            self.asked.extend(self.cache.changed(key, Change::Changed));
        }

        fn step(&mut self, step: &Step) {
            match *step {
                Step::Look(key) => {
                    match self.cache.look(key, || (key, self.known.get(&key).copied().unwrap_or_default())) {
                        Lookup::Hit(value) => self.lies += usize::from(value < Some(self.known(key))),
                        Lookup::Fill(ticket) => self.asked.push_back(ticket),
                        Lookup::Joined | Lookup::Bypass => {}
                    }
                }
                Step::Read => {
                    if let Some(ticket) = self.asked.pop_front() {
                        let version = self.row(ticket.key);
                        self.read.push_back((ticket, version));
                    }
                }
                Step::Land => self.read.pop_front().into_iter().for_each(|read| self.land(read)),
                Step::LandLast => self.read.pop_back().into_iter().for_each(|read| self.land(read)),
                Step::Fail => {
                    if let Some(ticket) = self.asked.pop_front() {
                        let _ = self.cache.fail(ticket);
                    }
                }
                Step::Write(key) => self.write(key),
                Step::WriteHere(key) => {
                    self.write(key);
                    self.cache.written(key);
                    self.known.insert(key, self.row(key));
                }
                Step::Announce => self.announce(),
                Step::Deaf => {
                    self.is_heard = false;
                    self.announcements.clear();
                }
                Step::Notice if !self.is_heard => self.cache.stop(),
                Step::Listen if !self.is_heard => {
                    self.is_heard = true;
                    self.cache.stop();
                    self.cache.resume();
                    self.known = self.rows.clone();
                }
                Step::Notice | Step::Listen => {}
            }
        }

        /// Everything that is under way arrives; then whoever asks gets what is there.
        fn settle(&mut self) {
            self.step(&Step::Listen);
            while !(self.asked.is_empty() && self.read.is_empty() && self.announcements.is_empty()) {
                for step in [Step::Announce, Step::Read, Step::Land] {
                    self.step(&step);
                }
            }
            for key in 0..KEYS {
                if let Lookup::Hit(value) = self.cache.look(key, || (key, 0)) {
                    self.lies += usize::from(value != Some(self.row(key)));
                }
            }
            assert!(self.cache.overtaken.is_empty() && self.cache.background == 0);
        }
    }

    #[test]
    fn nobody_gets_what_is_older_than_what_was_announced_before() {
        for seed in 0..10_000 {
            let mut chance = fastrand::Rng::with_seed(seed);
            let steps: Vec<Step> = (0..60).map(|_| step(&mut chance)).collect();
            let mut world = World::new(Trust::Earned, chance.bool());
            for (number, step) in steps.iter().enumerate() {
                world.step(step);
                assert_eq!(world.lies, 0, "seed {seed}, at the end of {:?}", &steps[..=number]);
            }
            world.settle();
            assert_eq!(world.lies, 0, "seed {seed}, at rest after {steps:?}");
        }
    }

    #[test]
    fn a_cache_that_trusts_blindly_lies() {
        // A fetch is overtaken by a change.
        let overtaken = [Step::Look(0), Step::Read, Step::Write(0), Step::Announce, Step::Land];
        // Nobody listens.
        let deaf = [Step::Look(0), Step::Read, Step::Land, Step::Deaf, Step::Write(0)];
        for steps in [overtaken, deaf] {
            for (trust, lies) in [(Trust::Blind, true), (Trust::Earned, false)] {
                let mut world = World::new(trust, false);
                steps.iter().for_each(|step| world.step(step));
                world.settle();
                assert_eq!(world.lies > 0, lies, "{trust:?} {steps:?}");
            }
        }
    }

    fn cache(limit: usize, keeps_stale: bool) -> Coherent<u32, &'static str, ()> {
        let mut cache = Coherent::new(limit, Trust::Earned, true, keeps_stale);
        cache.resume();
        cache
    }

    fn put(cache: &mut Coherent<u32, &'static str, ()>, key: u32, value: Option<&'static str>) {
        let Lookup::Fill(ticket) = cache.look(key, || ()) else { panic!("{key} is there") };
        assert_eq!(cache.land(ticket, value, value.map_or(0, str::len)), [()]);
    }

    #[test]
    fn one_fetch_is_for_all_who_ask_meanwhile() {
        let mut cache = cache(1 << 20, false);
        let Lookup::Fill(ticket) = cache.look(1, || ()) else { panic!("it is there") };
        for _ in 1..1_000 {
            assert_eq!(cache.look(1, || ()), Lookup::Joined);
        }
        assert_eq!(cache.land(ticket, Some("a"), 1).len(), 1_000);
        assert_eq!(cache.look(1, || ()), Lookup::Hit(Some("a")));
        let Lookup::Fill(ticket) = cache.look(2, || ()) else { panic!("it is there") };
        assert_eq!((cache.look(2, || ()), cache.fail(ticket).len()), (Lookup::Joined, 2));
        assert!(matches!(cache.look(2, || ()), Lookup::Fill(_)));
    }

    #[test]
    fn what_changes_is_fetched_again_if_it_is_in_use_and_not_too_much_at_once() {
        let mut cache = cache(1 << 20, false);
        assert_eq!(cache.changed(1, Change::Changed), None);
        put(&mut cache, 1, Some("a"));
        let ticket = cache.changed(1, Change::Changed).expect("it was in use");
        assert_eq!(cache.look(1, || ()), Lookup::Joined);
        assert_eq!(cache.land(ticket, Some("b"), 1), [()]);
        // What is changed here is no more than wanted until that is announced.
        cache.written(1);
        let ticket = cache.changed(1, Change::Changed).expect("it was in use");
        assert!(cache.land(ticket, Some("c"), 1).is_empty());
        assert_eq!((cache.changed(1, Change::Gone), cache.len()), (None, 0));
        let tickets: Vec<_> = (10..).map_while(|key| cache.changed(key, Change::Made)).collect();
        assert_eq!(tickets.len(), MOST_REFETCHES);
        for ticket in tickets {
            let _ = cache.land(ticket, Some("d"), 1);
        }
        assert_eq!(cache.counts(), Counts { clears: 0, overtaken: 0, refetches: 2 + 64 });
    }

    #[test]
    fn who_asks_for_one_number_after_another_drives_out_nothing() {
        let mut cache = cache(64 * 1024, false);
        put(&mut cache, 0, Some("a"));
        for key in 1..10_000 {
            put(&mut cache, key, None);
        }
        assert_eq!((cache.look(9_999, || ()), cache.look(0, || ())), (Lookup::Hit(None), Lookup::Hit(Some("a"))));
        assert!(cache.weight() < 10 * 1024);
    }

    #[test]
    fn while_nobody_listens_nothing_is_held_or_only_for_trouble() {
        for keeps_stale in [false, true] {
            let mut cache = cache(1 << 20, keeps_stale);
            put(&mut cache, 1, Some("a"));
            put(&mut cache, 2, None);
            put(&mut cache, 3, Some("c"));
            let Lookup::Fill(late) = cache.look(4, || ()) else { panic!("it is there") };
            cache.stop();
            cache.written(3);
            assert_eq!(cache.look(1, || ()), Lookup::Bypass);
            let kept = [cache.stale(1), cache.stale(2), cache.stale(3)];
            assert_eq!(kept, if keeps_stale { [Some(Some("a")), Some(None), None] } else { [None; 3] });
            cache.resume();
            let _ = cache.land(late, Some("d"), 1);
            assert!(cache.is_empty() && matches!(cache.look(1, || ()), Lookup::Fill(_)));
        }
        let mut none = cache(0, false);
        assert_eq!(none.look(1, || ()), Lookup::Bypass);
    }
}
