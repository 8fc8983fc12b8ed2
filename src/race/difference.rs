//! What the rounds of a race have shown of two models beside each other, and of all of them in one sentence.

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use super::statistics::Ratio;
use super::summary::CONFIDENCE;
use super::{Racer, Run, Summary};
use crate::units::{Micros, count};

/// Rounds that are needed to show a difference at all.
const LEAST: usize = 3;

/// What the rounds have shown of two models. Runs of one round are a pair: what disturbs a round disturbs both.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// The poems of each run.
    pub poems: usize,
    /// The model with the shorter median time; or the one that the rounds have shown to be the faster one, if that is
    /// another.
    pub faster: Racer,
    /// The other one.
    pub slower: Racer,
    /// Rounds in which both got all poems.
    pub rounds: usize,
    /// How many times as long the slower one takes. All intervals of a race hold together with the confidence that is asked
    /// for: with four models there are six, and each has more (Bonferroni).
    pub ratio: Ratio,
}

impl Difference {
    /// Whether it is about this one and another.
    fn is_of(&self, racer: Racer) -> bool {
        self.faster == racer || self.slower == racer
    }
}

/// One object; an interval that is not known is null.
impl Serialize for Difference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut row = serializer.serialize_struct("Difference", 7)?;
        row.serialize_field("poems", &self.poems)?;
        row.serialize_field("faster", &self.faster)?;
        row.serialize_field("slower", &self.slower)?;
        row.serialize_field("rounds", &self.rounds)?;
        row.serialize_field("ratio", &self.ratio.estimate)?;
        row.serialize_field("interval", &self.ratio.interval)?;
        row.serialize_field("shown", &self.ratio.differs())?;
        row.end()
    }
}

/// The differences of every two models that have a run that counts.
pub fn differences(summaries: &[Summary], runs: &[Run]) -> Vec<Difference> {
    let order = by_time(summaries);
    let number = order.len() * order.len().saturating_sub(1) / 2;
    let confidence = 1.0 - (1.0 - CONFIDENCE) / u32::try_from(number.max(1)).map_or(f64::MAX, f64::from);
    let mut differences = Vec::with_capacity(number);
    for (index, &(faster, poems)) in order.iter().enumerate() {
        for &(slower, _) in &order[index + 1..] {
            let pairs = pairs(slower, faster, runs);
            if let Some(ratio) = Ratio::of_pairs(pairs.iter().copied(), confidence) {
                let is_contrary = ratio.differs() && ratio.estimate < 1.0;
                let (faster, slower) = if is_contrary { (slower, faster) } else { (faster, slower) };
                let ratio = if is_contrary { ratio.inverted() } else { ratio };
                differences.push(Difference { poems, faster, slower, rounds: pairs.len(), ratio });
            }
        }
    }
    differences
}

/// The models with a time, the fastest first, and the poems of a run.
fn by_time(summaries: &[Summary]) -> Vec<(Racer, usize)> {
    let timed = |summary: &Summary| Some((summary.standing.as_ref()?.time_us, summary.model, summary.poems));
    let mut order: Vec<(Micros, Racer, usize)> = summaries.iter().filter_map(timed).collect();
    order.sort_by_key(|(time_us, ..)| *time_us);
    order.into_iter().map(|(_, model, poems)| (model, poems)).collect()
}

/// The times of two models in each round in which both got all poems.
fn pairs(this: Racer, that: Racer, runs: &[Run]) -> Vec<(Micros, Micros)> {
    let counting = |model| runs.iter().filter(move |run| run.model == model && run.counts());
    let pair = |run: &Run| {
        let other = counting(that).find(|other| other.round == run.round)?;
        Some((run.report.elapsed_us, other.report.elapsed_us))
    };
    counting(this).filter_map(pair).collect()
}

/// What these differences show, in one sentence: `threads, select, async: no difference that 5 rounds can show; blocking 2.8
/// times slower (2.6 to 3.0)`. `None`: there are no two models to compare.
pub fn sentence(differences: &[Difference]) -> Option<String> {
    let rounds = differences.iter().map(|difference| difference.rounds).max()?;
    let (enough, few): (Vec<&Difference>, Vec<&Difference>) =
        differences.iter().partition(|difference| difference.rounds >= LEAST);
    let Some(fastest) = fastest(&enough) else {
        let rounds = count(rounds as u64, "round");
        return Some(format!("{rounds} can show no difference: it takes {LEAST}, and ten are better"));
    };
    let beside = enough.iter().filter(|difference| difference.is_of(fastest)).copied();
    let (slower, equal): (Vec<&Difference>, Vec<&Difference>) =
        beside.partition(|difference| difference.ratio.differs());
    let is_equal = |racer| equal.iter().any(|difference| difference.is_of(racer));
    let among = enough.iter().filter(|difference| {
        difference.ratio.differs()
            && !difference.is_of(fastest)
            && is_equal(difference.faster)
            && is_equal(difference.slower)
    });
    let among: Vec<String> =
        among.map(|one| format!("{} {} than {}", one.slower, slowness(&one.ratio), one.faster)).collect();
    let mut parts = vec![lead(fastest, &equal, among.is_empty())];
    parts.extend(among);
    parts.extend(slower.iter().map(|difference| format!("{} {}", difference.slower, slowness(&difference.ratio))));
    let compared = |racer: &Racer| *racer == fastest || equal.iter().chain(&slower).any(|one| one.is_of(*racer));
    let left: Vec<String> = racers(&few).iter().filter(|racer| !compared(racer)).map(Racer::to_string).collect();
    if !left.is_empty() {
        parts.push(format!("{}: too few rounds with all poems", left.join(", ")));
    }
    Some(parts.join("; "))
}

/// The first of these that none is shown to be faster than.
fn fastest(differences: &[&Difference]) -> Option<Racer> {
    let racers = racers(differences);
    let is_beaten = |racer: &&Racer| differences.iter().any(|one| one.slower == **racer && one.ratio.differs());
    racers.iter().find(|racer| !is_beaten(racer)).or(racers.first()).copied()
}

/// Whom these are about, each once, in the order in which they are named.
fn racers(differences: &[&Difference]) -> Vec<Racer> {
    let mut racers = Vec::new();
    for racer in differences.iter().flat_map(|difference| [difference.faster, difference.slower]) {
        if !racers.contains(&racer) {
            racers.push(racer);
        }
    }
    racers
}

/// The first words: who is the fastest, or who else may be. `no difference` is said of all of them if that `is_of_all`, and
/// else of each and the fastest.
fn lead(fastest: Racer, equal: &[&Difference], is_of_all: bool) -> String {
    let Some(rounds) = equal.iter().map(|difference| difference.rounds).min() else {
        return format!("{fastest} is the fastest");
    };
    let rounds = count(rounds as u64, "round");
    let mut names: Vec<String> = racers(equal).iter().map(Racer::to_string).collect();
    if is_of_all {
        return format!("{}: no difference that {rounds} can show", names.join(", "));
    }
    names.retain(|name| *name != fastest.name());
    format!("{}: no difference from {fastest} that {rounds} can show", names.join(", "))
}

/// `2.8 times slower (2.6 to 3.0)`, or `5 % slower (3 % to 7 %)`.
fn slowness(ratio: &Ratio) -> String {
    let (low, high) = ratio.interval.unwrap_or((f64::NAN, f64::NAN));
    if ratio.estimate >= 2.0 {
        let decimals = usize::from(ratio.estimate < 100.0);
        let write = |value: f64| format!("{value:.decimals$}");
        return format!("{} times slower ({} to {})", write(ratio.estimate), write(low), write(high));
    }
    let decimals = usize::from(ratio.estimate < 1.1);
    let write = |value: f64| format!("{:.decimals$} %", (value - 1.0) * 100.0);
    format!("{} slower ({} to {})", write(ratio.estimate), write(low), write(high))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{Concurrency, Model, Source};
    use crate::race::fixtures::run;
    use crate::race::summary::summaries;
    use fastrand::Rng;

    /// What a race says in which each model takes so long, with noise of so many percent.
    fn said(truths: &[(Model, f64)], rounds: usize, percent: f64, chance: &mut Rng) -> String {
        let models: Vec<Racer> = truths.iter().map(|(model, _)| (*model).into()).collect();
        let mut runs = Vec::new();
        for round in 1..=rounds {
            let common = noise(3.0 * percent, chance);
            for (model, truth) in truths {
                let time = truth * 1e6 * common * noise(percent, chance);
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some seconds")]
                runs.push(run(round, *model, &[(0, time as u64)]));
            }
        }
        let sources: Vec<Source> = vec!["1".parse().expect("a source")];
        let summaries = summaries(&models, &runs, &sources, Concurrency::wanted(None));
        sentence(&differences(&summaries, &runs)).expect("two models")
    }

    /// A factor that is 1 but for normal noise.
    fn noise(percent: f64, chance: &mut Rng) -> f64 {
        let uniform = (1.0 - chance.f64(), chance.f64());
        let normal = (-2.0 * uniform.0.ln()).sqrt() * (std::f64::consts::TAU * uniform.1).cos();
        (normal * percent / 100.0).exp()
    }

    const EQUAL: [(Model, f64); 3] = [(Model::Threads, 1.0), (Model::Select, 1.0), (Model::Async, 1.0)];

    #[test]
    fn a_sentence_says_who_is_equal_and_by_how_much_the_others_are_slower() {
        let mut chance = Rng::with_seed(5);
        let all = [&EQUAL[..], &[(Model::Blocking, 2.8)]].concat();
        let said = said(&all, 5, 1.0, &mut chance);
        let (equal, slower) = said.split_once("; ").expect("two parts");
        assert!(equal.ends_with(": no difference that 5 rounds can show"), "{said}");
        assert_eq!(equal.split(',').count(), 3, "{said}");
        let expected = regex_lite::Regex::new(r"^blocking 2\.[78] times slower \(2\.[5-8] to [23]\.[0-9]\)$");
        assert!(expected.expect("a pattern").is_match(slower), "{said}");
    }

    #[test]
    fn equal_models_are_called_equal_in_95_of_100_races() {
        let mut chance = Rng::with_seed(6);
        let all = [&EQUAL[..], &[(Model::Blocking, 1.0)]].concat();
        for rounds in [3, 5, 10] {
            let equal = (0..2_000)
                .filter(|_| {
                    said(&all, rounds, 1.5, &mut chance)
                        .ends_with(&format!(": no difference that {rounds} rounds can show"))
                })
                .count();
            // By 10 of 2,000 the chance of so many races may be off.
            assert!(equal >= 1_880, "{equal} of 2,000 with {rounds} rounds");
        }
    }

    #[test]
    fn five_percent_are_found_with_ten_rounds() {
        let mut chance = Rng::with_seed(7);
        let all = [&EQUAL[..], &[(Model::Blocking, 1.05)]].concat();
        let found = (0..2_000)
            .filter(|_| {
                let said = said(&all, 10, 1.5, &mut chance);
                said.contains("; blocking ") && said.contains(" % slower (")
            })
            .count();
        assert!(found >= 1_900, "{found} of 2,000");
    }

    /// What is said of two models in so many rounds.
    fn pair(faster: Model, slower: Model, rounds: usize, low: f64, high: f64) -> Difference {
        let ratio = Ratio { estimate: f64::midpoint(low, high), interval: Some((low, high)) };
        Difference { poems: 1, faster: faster.into(), slower: slower.into(), rounds, ratio }
    }

    #[test]
    fn one_that_loses_poems_does_not_silence_the_others() {
        use Model::{Async, Blocking, Select};
        let few = pair(Async, Select, 1, 1.0, 1.0);
        let shown = pair(Async, Blocking, 10, 2.0, 2.2);
        let differences = [few.clone(), shown, pair(Select, Blocking, 1, 1.0, 1.0)];
        assert_eq!(
            sentence(&differences).expect("a sentence"),
            "async is the fastest; blocking 2.1 times slower (2.0 to 2.2); select: too few rounds with all poems"
        );
        // The one with the shortest time got it in one round only.
        let lucky = [few, pair(Async, Blocking, 1, 1.0, 1.0), pair(Select, Blocking, 9, 0.9, 1.2)];
        assert_eq!(
            sentence(&lucky).expect("a sentence"),
            "select, blocking: no difference that 9 rounds can show; async: too few rounds with all poems"
        );
    }

    #[test]
    fn two_that_may_be_as_fast_as_the_fastest_need_not_be_equal() {
        use Model::{Async, Select, Threads};
        let differences = [
            pair(Threads, Select, 10, 0.9, 1.1),
            pair(Threads, Async, 10, 0.95, 1.15),
            pair(Select, Async, 10, 1.01, 1.03),
        ];
        assert_eq!(
            sentence(&differences).expect("a sentence"),
            "select, async: no difference from threads that 10 rounds can show; async 2.0 % slower (1.0 % to 3.0 %) than \
             select"
        );
    }

    #[test]
    fn nobody_is_slower_by_less_than_nothing() {
        let times = [(10, 20), (10, 21), (10, 19), (10, 20)];
        let runs: Vec<Run> = (1..)
            .zip(times)
            .flat_map(|(round, (select, waiting))| {
                [run(round, Model::Select, &[(0, select)]), run(round, Model::Async, &[(0, waiting)])]
            })
            .collect();
        let models = [Model::Select, Model::Async].map(Racer::from);
        let sources: Vec<Source> = vec!["1".parse().expect("a source")];
        let mut summaries = summaries(&models, &runs, &sources, Concurrency::wanted(None));
        // The medians say that async is the faster one, and the rounds that it is not.
        summaries[0].standing.as_mut().expect("it ran").time_us = 99;
        let differences = differences(&summaries, &runs);
        let [one] = &differences[..] else { panic!("one pair") };
        assert_eq!((one.faster, one.slower), (Model::Select.into(), Model::Async.into()));
        let said = sentence(&differences).expect("a sentence");
        assert_eq!(said, "select is the fastest; async 100 % slower (87 % to 113 %)");
    }

    #[test]
    fn too_few_rounds_show_nothing() {
        let mut chance = Rng::with_seed(8);
        for (rounds, expected) in [(1, "1 round"), (2, "2 rounds")] {
            let said = said(&EQUAL, rounds, 1.0, &mut chance);
            assert_eq!(said, format!("{expected} can show no difference: it takes 3, and ten are better"));
        }
        assert_eq!(sentence(&[]), None);
    }
}
