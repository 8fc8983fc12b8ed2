//! Assertions about a race, as people write them: `async <= 1.1 * bound`.
//!
//! ```text
//! QUANTITY := MODEL ["." COST] | "bound"
//! MODEL    := "blocking" | "threads" | "select" | "async" | NAME      (of another client)
//! COST     := "time" | "cpu" | "memory" | "threads" | "switches" | "reads" | "waits"
//! ```
//!
//! The rest of the grammar is that of [`comparison`](crate::comparison). A model alone is its median time. Times are in
//! seconds, memory is in bytes. `bound` is that of the model named first.

use super::racer::BOUND;
use super::{Name, Racer, Standing, Summary};
use crate::client::Model;
use crate::comparison::{Comparison, Quantity, SyntaxError, float, short};

/// An assertion about a race: a comparison of two sums.
#[derive(Debug, Clone, PartialEq)]
pub struct Assertion(Comparison<Value>);

/// The verdict on an assertion.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// Whether the assertion holds.
    pub holds: bool,
    /// The assertion with the values of both sides.
    pub text: String,
    /// The values of both sides; `None`: there are none.
    pub sides: Option<(f64, f64)>,
}

/// What an assertion can speak of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value {
    Of(Racer, Measure),
    Bound,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Measure {
    Time,
    Cpu,
    Memory,
    Threads,
    Switches,
    Reads,
    Waits,
}

impl Quantity for Value {
    const NAMES: &'static str = ", a model or 'bound'";
    const WHAT: &'static str = "model";
    const EXAMPLE: &'static str = "an assertion is like 'async <= 1.1 * bound'";

    fn named(word: &str, part: Option<&str>) -> Result<Self, Option<&'static str>> {
        if word == BOUND && part.is_none() {
            return Ok(Self::Bound);
        }
        let ours = Model::ALL.into_iter().find(|model| model.name() == word).map(Racer::Ours);
        let model = ours.or_else(|| Name::new(word).map(Racer::Theirs)).ok_or(None)?;
        let measure = match part {
            None | Some("time") => Measure::Time,
            Some("cpu") => Measure::Cpu,
            Some("memory") => Measure::Memory,
            Some("threads") => Measure::Threads,
            Some("switches") => Measure::Switches,
            Some("reads") => Measure::Reads,
            Some("waits") => Measure::Waits,
            Some(_) => return Err(Some("an unknown cost")),
        };
        Ok(Self::Of(model, measure))
    }

    fn is_enough(self) -> bool {
        self.model().is_some()
    }
}

impl Value {
    fn model(self) -> Option<Racer> {
        match self {
            Self::Of(model, _) => Some(model),
            Self::Bound => None,
        }
    }
}

impl Assertion {
    /// Parses an assertion.
    ///
    /// # Errors
    /// The text is not of the grammar above.
    pub fn parse(text: &str) -> Result<Self, SyntaxError> {
        Comparison::parse(text).map(Self)
    }

    /// The assertion as it was written.
    pub fn text(&self) -> &str {
        self.0.text()
    }

    /// Whom the assertion names, who have to take part.
    pub fn models(&self) -> Vec<Racer> {
        self.0.quantities().into_iter().filter_map(Value::model).collect()
    }

    /// Judges a race. What speaks of a model that has no run that counts does not hold, nor what speaks of a cost that was
    /// not seen.
    pub fn judge(&self, summaries: &[Summary]) -> Verdict {
        let (text, models) = (self.0.text(), self.models());
        let untrue = |why: String| Verdict { holds: false, text: format!("{text} does not hold: {why}"), sides: None };
        if let Some(absent) = models.iter().find(|&&model| find(summaries, model).is_none()) {
            return untrue(format!("{absent} got all poems in no run"));
        }
        // The bound is that of the model named first.
        let value = |value: Value| {
            let standing = value.model().or(models.first().copied()).and_then(|model| find(summaries, model))?;
            match value {
                Value::Of(_, measure) => measure.of(standing),
                Value::Bound => Some(seconds(standing.bound_us)),
            }
        };
        let unseen = |quantity: &Value| value(*quantity).is_none();
        if let Some(Value::Of(model, _)) = self.0.quantities().into_iter().find(unseen) {
            return untrue(format!("the cost of {model} was not seen"));
        }
        let verdict = self.0.judge(|quantity| value(quantity).unwrap_or(f64::NAN));
        let is = if verdict.holds { "holds" } else { "does not hold" };
        let (left, right) = verdict.sides;
        let text = format!("{text} {is}: {} and {}", short(left), short(right));
        Verdict { holds: verdict.holds, text, sides: Some(verdict.sides) }
    }
}

fn find(summaries: &[Summary], model: Racer) -> Option<&Standing> {
    summaries.iter().find(|summary| summary.model == model)?.standing.as_ref()
}

fn seconds(micros: u64) -> f64 {
    float(micros) / 1e6
}

impl Measure {
    /// The value of this measure; `None`: it was not seen.
    fn of(self, standing: &Standing) -> Option<f64> {
        let cost = &standing.cost;
        match self {
            Self::Time => Some(seconds(standing.time_us)),
            Self::Cpu => cost.cpu_us.map(seconds),
            Self::Memory => cost.peak_rss_kb.map(|kb| float(kb * 1024)),
            Self::Threads => cost.peak_threads.map(float),
            Self::Switches => Some(float(cost.voluntary_switches? + cost.involuntary_switches?)),
            Self::Reads => cost.reads.map(float),
            Self::Waits => cost.waits.map(float),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::race::Cost;

    fn summary(model: impl Into<Racer>, time_us: u64, bound_us: u64) -> Summary {
        let (cpu_us, peak_rss_kb, peak_threads) = (Some(5_000), Some(3_000), Some(4));
        let cost = Cost { cpu_us, peak_rss_kb, peak_threads, ..Cost::default() };
        let standing = Standing { time_us, interval_us: None, spread_us: (time_us, time_us), bound_us, cost };
        Summary { model: model.into(), poems: 3, runs: 1, missing: 0, standing: Some(standing) }
    }

    fn judge(text: &str) -> (bool, String) {
        let none = Summary { model: Model::Select.into(), poems: 3, runs: 0, missing: 9, standing: None };
        let blocking = summary(Model::Blocking, 22_500_000, 22_400_000);
        let summaries = [blocking, summary(Model::Async, 9_900_000, 9_000_000), none];
        let verdict = Assertion::parse(text).unwrap_or_else(|error| panic!("{error}")).judge(&summaries);
        (verdict.holds, verdict.text)
    }

    #[test]
    fn assertions_hold_or_do_not_and_say_what_they_compared() {
        for (text, holds, sides) in [
            ("async <= 1.1 * bound", true, "9.9 and 9.9"),
            ("async<1.1*bound", false, "9.9 and 9.9"),
            ("blocking <= bound + 100ms", true, "22.5 and 22.5"),
            ("async < 10s", true, "9.9 and 10"),
            ("blocking / async > 2", true, "2.272727 and 2"),
            ("2 * (async - 0.9s) >= 18", true, "18 and 18"),
            ("async.cpu < 5ms", false, "0.005 and 0.005"),
            ("async.memory < 4000000", true, "3072000 and 4000000"),
            ("blocking.threads + async.threads <= 8", true, "8 and 8"),
            ("0.1 m > async - 4", true, "6 and 5.9"),
            ("async == 9.9", true, "9.9 and 9.9"),
            ("blocking.threads = 5", false, "4 and 5"),
            ("async / 0 > 1", false, "inf and 1"),
            ("1 < async / (bound - bound)", false, "1 and inf"),
        ] {
            let is = if holds { "holds" } else { "does not hold" };
            assert_eq!(judge(text), (holds, format!("{text} {is}: {sides}")));
        }
    }

    #[test]
    fn nothing_holds_of_a_model_without_a_run_that_counts() {
        for text in ["select < 1000 m", "0 * select.cpu <= async", "async < select", "select > 0"] {
            assert_eq!(judge(text), (false, format!("{text} does not hold: select got all poems in no run")));
        }
    }

    #[test]
    fn nothing_holds_of_a_cost_that_was_not_seen() {
        for text in ["async.waits <= 10", "async.switches >= 0"] {
            assert_eq!(judge(text), (false, format!("{text} does not hold: the cost of async was not seen")));
        }
    }

    #[test]
    fn what_is_no_assertion_is_refused_where_it_goes_wrong() {
        for (text, what, rest) in [
            ("", "a number, a model or 'bound' was expected", "the end"),
            ("a_b <= 1", "<, <=, =, >= or > was expected", "'_b <= 1'"),
            ("async ! 1", "<, <=, =, >= or > was expected", "'! 1'"),
            ("async.smell < 1", "an unknown cost", "'async.smell < 1'"),
            ("1 < 2", "no model is named", "'1 < 2'"),
            ("1 < bound", "no model is named", "'1 < bound'"),
        ] {
            let error = format!("{what} at {rest}; an assertion is like 'async <= 1.1 * bound'");
            assert_eq!(Assertion::parse(text).map_err(|error| error.to_string()), Err(error), "{text}");
        }
    }
}
