//! A seeded pseudorandom number generator (PRNG), so that chance can be repeated.

/// SplitMix64: numbers that follow from a seed, with equal values on every machine, today and in later versions.
///
/// From Steele, Lea and Flood, *Fast Splittable Pseudorandom Number Generators* (OOPSLA 2014).
#[derive(Debug, Clone)]
pub(crate) struct Draws {
    state: u64,
}

impl Draws {
    const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

    /// The generator of one connection.
    pub(crate) fn new(seed: u64, connection: u64) -> Self {
        Self { state: mix(mix(seed).wrapping_add(connection)) }
    }

    /// The next number, uniformly distributed from 0 to `most`.
    pub(crate) fn up_to(&mut self, most: u64) -> u64 {
        self.state = self.state.wrapping_add(Self::GAMMA);
        let product = u128::from(mix(self.state)) * (u128::from(most) + 1);
        u64::try_from(product >> 64).unwrap_or(most)
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_splitmix64() {
        // The first outputs for seed 0, as published with the reference implementation.
        let mut draws = Draws { state: 0 };
        let first: Vec<u64> = (0..3).map(|_| draws.up_to(u64::MAX)).collect();
        assert_eq!(first, [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4, 0x06c4_5d18_8009_454f]);
    }

    #[test]
    fn draws_cover_their_range_evenly() {
        let mut draws = Draws::new(1, 1);
        let mut counts = [0_u32; 10];
        for _ in 0..10_000 {
            counts[usize::try_from(draws.up_to(9)).expect("small")] += 1;
        }
        assert!(counts.iter().all(|count| (850..1_150).contains(count)), "{counts:?}");
    }

    #[test]
    fn each_seed_and_each_connection_has_its_own() {
        let first = |seed, connection| Draws::new(seed, connection).up_to(u64::MAX);
        let mut all: Vec<u64> =
            (0..50).flat_map(|seed| (0..50).map(move |connection| first(seed, connection))).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 2_500);
    }
}
