//! The statistics of a few noisy measurements: medians, their confidence intervals, and ratios of pairs.
//!
//! Both intervals are frequentist: of a hundred of them, as many cover the truth as their confidence says, whatever it is.
//! There is no chance in them: the same measurements have the same intervals.
//!
//! - [`interval`] of a median is made of order statistics (Hettmansperger and Sheather, "Confidence intervals based on
//!   interpolated order statistics", 1986). It asks next to nothing of the distribution (of two lumps far apart, six
//!   measurements cover the median in 93 of 100), and needs six measurements.
//! - [`Ratio`] is that of two things that were measured in pairs. The logarithms of the pairs' ratios are trimmed, so that one
//!   outlier in ten is nothing, and Student's t says how far the mean of the rest may be off (Yuen, "The two-sample
//!   trimmed t for unequal population variances", 1974; here of one sample). Three pairs are enough.
//!
//! A bootstrap over the rounds of a race would be simpler to tell. With five rounds, though, what it calls 95 of 100 are 76 to
//! 94 (of medians), and with outliers never more than 92 (of studentized means): a few rounds have too few resamples.

/// The share of measurements that is trimmed from each end.
const TRIMMED: f64 = 0.1;

/// The median; of an even number of values the mean of the two in the middle, rounded down. `None`: there is no value.
pub fn median(values: impl IntoIterator<Item = u64>) -> Option<u64> {
    let mut values: Vec<u64> = values.into_iter().collect();
    values.sort_unstable();
    let upper = *values.get(values.len() / 2)?;
    let lower = values[(values.len() - 1) / 2];
    Some(lower + (upper - lower) / 2)
}

/// A confidence interval of a median, rounded outwards. `None`: there are too few values for this confidence.
pub fn interval(values: &[u64], confidence: f64) -> Option<(u64, u64)> {
    let mut values = values.to_vec();
    values.sort_unstable();
    let covered = covered_by_order(values.len());
    let depth = (1..=covered.len()).rev().find(|depth| covered[depth - 1] >= confidence)?;
    let (low, high) = (values[depth - 1], values[values.len() - depth]);
    let inner = covered.get(depth).copied().unwrap_or(0.0);
    let step = (covered[depth - 1] - confidence) / (covered[depth - 1] - inner);
    // How far towards the next order statistic: that between them it is not linear is the point of the paper.
    let (outside, inside) = (float(depth), float(values.len() - depth));
    let share = inside * step / (outside + (inside - outside) * step);
    let (next_low, next_high) = (values.get(depth).copied()?, values.get(values.len() - depth - 1).copied()?);
    let towards = |from: u64, to: u64| share * (wide(to) - wide(from));
    Some((narrow((wide(low) + towards(low, next_low)).floor()), narrow((wide(high) + towards(high, next_high)).ceil())))
}

/// The probability that the median lies between the order statistics of each depth, from both ends: from 1 to the middle.
fn covered_by_order(number: usize) -> Vec<f64> {
    // Its logarithm: of a thousand values the first term is already less than a float can be.
    let mut term = -float(number) * std::f64::consts::LN_2;
    let mut outside = 0.0;
    let mut covered = Vec::new();
    for depth in 1..=number / 2 {
        outside += 2.0 * term.exp();
        covered.push(1.0 - outside);
        term += (float(number - depth + 1) / float(depth)).ln();
    }
    covered
}

/// The ratio of two things that were measured in pairs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio {
    /// The estimate.
    pub estimate: f64,
    /// The confidence interval; `None`: there are fewer than three pairs.
    pub interval: Option<(f64, f64)>,
}

impl Ratio {
    /// The ratio of these pairs; `None`: there is none. A time of 0 counts as 1.
    pub fn of_pairs(pairs: impl IntoIterator<Item = (u64, u64)>, confidence: f64) -> Option<Self> {
        let logarithm = |(this, that): (u64, u64)| wide(this.max(1)).ln() - wide(that.max(1)).ln();
        let mut logs: Vec<f64> = pairs.into_iter().map(logarithm).collect();
        logs.sort_unstable_by(f64::total_cmp);
        let number = logs.len();
        let trimmed = trimmed(number);
        let kept = logs.get(trimmed..number - trimmed).filter(|kept| !kept.is_empty())?;
        let mean = kept.iter().sum::<f64>() / float(kept.len());
        let off = (number >= 3).then(|| margin(&logs, trimmed, confidence));
        Some(Self { estimate: mean.exp(), interval: off.map(|off| ((mean - off).exp(), (mean + off).exp())) })
    }

    /// The ratio of the second to the first.
    pub fn inverted(self) -> Self {
        Self { estimate: 1.0 / self.estimate, interval: self.interval.map(|(low, high)| (1.0 / high, 1.0 / low)) }
    }

    /// Whether the interval says that the two are not equal.
    pub fn differs(&self) -> bool {
        self.interval.is_some_and(|(low, high)| low > 1.0 || high < 1.0)
    }
}

/// How many of so many sorted values are trimmed from each end. Three have to be left.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a tenth of a number")]
fn trimmed(number: usize) -> usize {
    ((float(number) * TRIMMED) as usize).min(number.saturating_sub(3) / 2)
}

/// How far the trimmed mean of sorted values may be off.
fn margin(sorted: &[f64], trimmed: usize, confidence: f64) -> f64 {
    let (first, last) = (sorted[trimmed], sorted[sorted.len() - trimmed - 1]);
    let winsorized: Vec<f64> = sorted.iter().map(|value| value.clamp(first, last)).collect();
    let number = float(sorted.len());
    let mean = winsorized.iter().sum::<f64>() / number;
    let variance = winsorized.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (number - 1.0);
    let kept = float(sorted.len() - 2 * trimmed);
    let error = (variance / number).sqrt() / (kept / number);
    t_quantile(0.5 + confidence / 2.0, kept - 1.0) * error
}

/// The quantile of Student's t distribution with so many degrees of freedom, for a probability above one half.
fn t_quantile(probability: f64, freedom: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    while t_distribution(high, freedom) < probability && high < 1e9 {
        high *= 2.0;
    }
    for _ in 0..80 {
        let middle = f64::midpoint(low, high);
        if t_distribution(middle, freedom) < probability { low = middle } else { high = middle }
    }
    high
}

/// The distribution function of Student's t, for a whole number of degrees of freedom (Abramowitz and Stegun, 26.7.3 and
/// 26.7.4).
fn t_distribution(t: f64, freedom: f64) -> f64 {
    let angle = (t / freedom.sqrt()).atan();
    let (sine, cosine) = angle.sin_cos();
    let is_odd = freedom.rem_euclid(2.0) >= 1.0;
    let (mut term, mut sum, mut index) = if is_odd { (cosine, 0.0, 3.0) } else { (1.0, 0.0, 2.0) };
    while index <= freedom {
        sum += term;
        term *= cosine * cosine * (index - 1.0) / index;
        index += 2.0;
    }
    let within = if is_odd { (angle + sine * sum) * std::f64::consts::FRAC_2_PI } else { sine * sum };
    0.5 + within / 2.0
}

#[expect(clippy::cast_precision_loss, reason = "numbers of measurements")]
fn float(number: usize) -> f64 {
    number as f64
}

#[expect(clippy::cast_precision_loss, reason = "beyond 285 years, microseconds may be rounded")]
fn wide(micros: u64) -> f64 {
    micros as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time, and between two others")]
fn narrow(micros: f64) -> u64 {
    micros as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastrand::Rng;

    #[test]
    fn a_median_is_in_the_middle() {
        assert_eq!(median([]), None);
        assert_eq!(
            [median([7]), median([9, 1, 5]), median([1, 9]), median([3, 4])],
            [Some(7), Some(5), Some(5), Some(3)]
        );
    }

    #[test]
    fn quantiles_are_those_of_the_tables() {
        for (probability, freedom, expected) in [
            (0.975, 1.0, 12.706),
            (0.975, 2.0, 4.303),
            (0.975, 3.0, 3.182),
            (0.975, 9.0, 2.262),
            (0.975, 30.0, 2.042),
            (0.995, 4.0, 4.604),
            (0.95, 5.0, 2.015),
        ] {
            let found = t_quantile(probability, freedom);
            assert!((found - expected).abs() < 1e-3, "{probability} with {freedom}: {found}");
        }
    }

    #[test]
    fn an_interval_is_within_the_values_and_needs_six_of_them() {
        assert_eq!(interval(&[1, 2, 3, 4, 5], 0.95), None);
        let (low, high) = interval(&[10, 60, 20, 50, 30, 40], 0.95).expect("six");
        assert!((10..20).contains(&low) && (51..=60).contains(&high), "{low} to {high}");
        assert_eq!(interval(&[7; 9], 0.95), Some((7, 7)));
        assert_eq!(interval(&[], 0.95), None);
    }

    #[test]
    fn an_interval_of_very_many_values_is_that_of_the_normal_distribution() {
        for number in [1_000_u32, 1_100, 10_001] {
            let values: Vec<u64> = (1..=number.into()).collect();
            let (low, high) = interval(&values, 0.95).expect("many");
            let half = 1.96 * f64::from(number).sqrt() / 2.0;
            assert!((wide(high - low) - 2.0 * half).abs() < 3.0, "{number}: {low} to {high}");
            assert!((low + high).abs_diff(u64::from(number) + 1) < 2, "{number}: {low} to {high}");
        }
    }

    /// Noise of one of three kinds, with 0 in its middle: well-behaved, with outliers, and late but never early.
    fn noise(kind: usize, chance: &mut Rng) -> f64 {
        let mut uniform = || chance.f64().max(f64::MIN_POSITIVE);
        let normal = (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
        match kind {
            0 => 0.01 * normal,
            1 => (if uniform() < 0.1 { 0.1 } else { 0.01 }) * normal,
            _ => 0.01 * (-uniform().ln() - std::f64::consts::LN_2),
        }
    }

    /// The times of some models in some rounds of a race. What disturbs a round disturbs all of them.
    fn race(truths: &[f64], rounds: usize, kind: usize, chance: &mut Rng) -> Vec<Vec<u64>> {
        let round = |chance: &mut Rng| {
            let common = 3.0 * noise(0, chance);
            truths.iter().map(|truth| narrow(truth * 1e6 * (common + noise(kind, chance)).exp())).collect()
        };
        (0..rounds).map(|_| round(chance)).collect()
    }

    /// In how many of a hundred it is so.
    fn percent(trials: usize, mut is_so: impl FnMut() -> bool) -> f64 {
        100.0 * float((0..trials).filter(|_| is_so()).count()) / float(trials)
    }

    const TRIALS: usize = 10_000;

    #[test]
    fn the_interval_of_a_median_covers_it_in_95_of_100() {
        let mut chance = Rng::with_seed(1);
        for rounds in [6, 7, 10, 20, 50] {
            for kind in 0..3 {
                let covered = percent(TRIALS, || {
                    let times: Vec<u64> = (0..rounds).map(|_| narrow(1e6 * noise(kind, &mut chance).exp())).collect();
                    let (low, high) = interval(&times, 0.95).expect("six or more");
                    (low..=high).contains(&1_000_000)
                });
                assert!((94.0..=96.0).contains(&covered), "{rounds} rounds, noise {kind}: {covered} of 100");
            }
        }
    }

    #[test]
    fn the_interval_of_a_ratio_covers_it_in_95_of_100() {
        let mut chance = Rng::with_seed(2);
        for rounds in [3, 5, 10, 20, 50] {
            for (kind, most) in [(0, 96.0), (1, 98.0), (2, 97.0)] {
                let covered = percent(TRIALS, || {
                    let times = race(&[2.8, 1.0], rounds, kind, &mut chance);
                    let ratio = Ratio::of_pairs(times.iter().map(|round| (round[0], round[1])), 0.95);
                    let (low, high) = ratio.and_then(|ratio| ratio.interval).expect("three or more");
                    (low..=high).contains(&2.8)
                });
                assert!((94.0..=most).contains(&covered), "{rounds} rounds, noise {kind}: {covered} of 100");
            }
        }
    }

    #[test]
    fn fewer_than_three_pairs_show_no_difference() {
        let two = Ratio::of_pairs([(2, 1), (200, 100)], 0.95).expect("two");
        assert_eq!((two.interval, two.differs()), (None, false));
        assert!((two.estimate - 2.0).abs() < 1e-9);
        assert_eq!(Ratio::of_pairs([], 0.95), None);
        let one = Ratio::of_pairs([(0, 0)], 0.95).expect("one");
        assert!((one.estimate - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_ratio_the_other_way_round_is_that_of_the_pairs_the_other_way_round() {
        let pairs = [(20, 10), (22, 10), (24, 11), (19, 9)];
        let there = Ratio::of_pairs(pairs, 0.95).expect("a ratio").inverted();
        let back = Ratio::of_pairs(pairs.map(|(this, that)| (that, this)), 0.95).expect("a ratio");
        let ((low, high), (other_low, other_high)) = (there.interval.expect("four"), back.interval.expect("four"));
        assert!((there.estimate - back.estimate).abs() < 1e-9);
        assert!((low - other_low).abs() < 1e-9 && (high - other_high).abs() < 1e-9);
        assert!(there.differs() && high < 1.0);
    }
}
