//! Draws whose shares hold: of every hundred, exactly as many as were promised.

use super::prng::Draws;

/// Keeps the draws of a deck apart from those of the jitter, which follow from the same seed.
const DECK: u64 = 0x6465_636b;

/// A hundred cards of which so many are of each kind, shuffled anew for every hundred draws. Which card the draw of a
/// number is follows from the seed and the number, and from nothing else.
#[derive(Debug, Clone)]
pub struct Deck {
    seed: u64,
    /// Cards of each kind; all others are blank.
    shares: Vec<u8>,
    by_chance: bool,
}

const CARDS: usize = 100;

impl Deck {
    /// A deck with so many cards of each kind, a hundred at most. With `by_chance` each card is put back before the next
    /// draw: shares are what one may expect, and no more.
    pub fn new(seed: u64, shares: Vec<u8>, by_chance: bool) -> Self {
        debug_assert!(shares.iter().copied().map(usize::from).sum::<usize>() <= CARDS);
        Self { seed, shares, by_chance }
    }

    /// The kind of the draw of this number, from 1 on; `None`: a blank card.
    pub fn draw(&self, number: u64) -> Option<usize> {
        if self.shares.iter().all(|&share| share == 0) {
            return None;
        }
        let index = number.saturating_sub(1);
        let card = match self.by_chance {
            true => usize::try_from(Draws::new(self.seed ^ DECK, index).up_to(CARDS as u64 - 1)).unwrap_or_default(),
            false => {
                let place = usize::try_from(index % CARDS as u64).unwrap_or_default();
                shuffled(Draws::new(self.seed ^ DECK, index / CARDS as u64))[place]
            }
        };
        let mut below = 0;
        self.shares.iter().position(|&share| {
            below += usize::from(share);
            card < below
        })
    }
}

/// The numbers from 0 to 99 in a random order (Fisher and Yates, in Durstenfeld's form).
fn shuffled(mut draws: Draws) -> [usize; CARDS] {
    let mut cards: [usize; CARDS] = std::array::from_fn(|card| card);
    for last in (1..CARDS).rev() {
        let other = usize::try_from(draws.up_to(last as u64)).unwrap_or_default();
        cards.swap(last, other);
    }
    cards
}

/// Flips of single bits: one in each stretch of so many bytes, at a place that follows from the seed.
#[derive(Debug, Clone)]
pub struct Corruption {
    seed: u64,
    every: u64,
}

impl Corruption {
    /// One bit in each `every` bytes of a stream, which has its own `seed`.
    pub fn new(seed: u64, every: std::num::NonZeroU64) -> Self {
        Self { seed, every: every.get() }
    }

    /// Corrupts these bytes, of which the first is at this offset of the stream.
    pub fn apply(&self, bytes: &mut [u8], offset: u64) {
        let end = offset + bytes.len() as u64;
        let mut stretch = offset / self.every;
        while stretch.saturating_mul(self.every) < end {
            let mut draws = Draws::new(self.seed, stretch);
            let at = stretch * self.every + draws.up_to(self.every - 1);
            let bit = draws.up_to(7);
            let place = at.checked_sub(offset).and_then(|place| usize::try_from(place).ok());
            if let Some(byte) = place.and_then(|place| bytes.get_mut(place)) {
                *byte ^= 1 << bit;
            }
            stretch += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use proptest::prelude::*;

    use super::*;

    fn counts(deck: &Deck, numbers: impl Iterator<Item = u64>) -> [usize; 3] {
        let mut counts = [0; 3];
        for number in numbers {
            counts[deck.draw(number).unwrap_or(2)] += 1;
        }
        counts
    }

    #[test]
    fn of_every_hundred_there_are_exactly_as_many_as_were_promised() {
        for seed in 0..20 {
            let deck = Deck::new(seed, vec![25, 50], false);
            for hundred in 0..5 {
                assert_eq!(counts(&deck, hundred * 100 + 1..=hundred * 100 + 100), [25, 50, 25]);
            }
        }
        assert_eq!(counts(&Deck::new(1, vec![0, 100], false), 1..=300), [0, 300, 0]);
        assert_eq!(counts(&Deck::new(1, Vec::new(), false), 1..=300), [0, 0, 300]);
    }

    #[test]
    fn the_order_follows_from_the_seed_and_is_another_one_in_each_hundred() {
        let draws = |seed, from: u64| -> Vec<Option<usize>> {
            let deck = Deck::new(seed, vec![25, 50], false);
            (from..from + 100).map(|number| deck.draw(number)).collect()
        };
        assert_eq!(draws(7, 1), draws(7, 1));
        assert_ne!(draws(7, 1), draws(7, 101));
        assert_ne!(draws(7, 1), draws(8, 1));
        let sorted = {
            let mut all = draws(7, 1);
            all.sort_unstable();
            all
        };
        assert_ne!(draws(7, 1), sorted, "by chance");
    }

    #[test]
    fn by_chance_shares_are_what_one_may_expect() {
        let deck = Deck::new(3, vec![25, 50], true);
        let [first, second, blank] = counts(&deck, 1..=10_000);
        assert!((2_350..=2_650).contains(&first) && (4_800..=5_200).contains(&second), "{first} {second} {blank}");
        assert_ne!(counts(&deck, 1..=100), [25, 50, 25], "for this seed");
    }

    proptest! {
        #[test]
        fn one_bit_of_each_stretch_is_another_one_however_the_stream_is_cut(
            every in 1u64..40, sizes in proptest::collection::vec(1usize..30, 1..20)
        ) {
            let corruption = Corruption::new(9, NonZeroU64::new(every).expect("not 0"));
            let length = sizes.iter().sum();
            let mut whole = vec![0; length];
            corruption.apply(&mut whole, 0);
            let (mut pieces, mut offset) = (Vec::new(), 0);
            for size in sizes {
                let mut piece = vec![0; size];
                corruption.apply(&mut piece, offset);
                offset += size as u64;
                pieces.extend(piece);
            }
            prop_assert_eq!(&whole, &pieces);
            for stretch in whole.chunks_exact(usize::try_from(every).expect("small")) {
                prop_assert_eq!(stretch.iter().map(|byte| byte.count_ones()).sum::<u32>(), 1);
            }
        }
    }
}
