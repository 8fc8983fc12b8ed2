//! Assertions about a race, as people write them: `async <= 1.1 * bound`.
//!
//! ```text
//! assertion  := sum ("<" | "<=" | ">" | ">=") sum
//! sum        := product (("+" | "-") product)*
//! product    := value (("*" | "/") value)*
//! value      := NUMBER [UNIT] | MODEL ["." COST] | "bound" | "(" sum ")"
//! MODEL      := "blocking" | "threads" | "select" | "async"
//! COST       := "time" | "cpu" | "memory" | "threads" | "switches" | "reads" | "waits"
//! UNIT       := "us" | "ms" | "s" | "m"
//! ```
//!
//! A model alone is its median time. Times are in seconds, memory is in bytes. `bound` is that of the model named
//! first.

use super::{Standing, Summary};
use crate::client::Model;

/// An assertion about a race: a comparison of two sums.
#[derive(Debug, Clone, PartialEq)]
pub struct Assertion {
    text: String,
    left: Sum,
    relation: Relation,
    right: Sum,
    /// The model whose bound is meant: the first one named.
    model: Model,
}

/// The error of a text that is no assertion: what is wrong, and the rest of the text from there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} at '{rest}'; an assertion is like 'async <= 1.1 * bound'")]
pub struct SyntaxError {
    what: &'static str,
    rest: String,
}

/// The verdict on an assertion.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// Whether the assertion holds.
    pub holds: bool,
    /// The assertion with the values of both sides.
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relation {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Debug, Clone, PartialEq)]
enum Sum {
    Number(f64),
    Value(Model, Measure),
    Bound,
    Of(Box<Self>, char, Box<Self>),
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

impl Assertion {
    /// Parses an assertion.
    ///
    /// # Errors
    /// The text is not of the grammar above.
    pub fn parse(text: &str) -> Result<Self, SyntaxError> {
        let mut parser = Parser { rest: text.trim(), model: None, depth: 0 };
        let left = parser.sum()?;
        let relation = parser.relation()?;
        let right = parser.sum()?;
        if !parser.rest.is_empty() {
            return Err(parser.error("an operator was expected"));
        }
        match parser.model {
            Some(model) => Ok(Self { text: text.trim().to_owned(), left, relation, right, model }),
            None => Err(SyntaxError { what: "no model is named", rest: text.trim().to_owned() }),
        }
    }

    /// The models that the assertion names, which have to take part.
    pub fn models(&self) -> Vec<Model> {
        let mut models = vec![self.model];
        self.left.add_models(&mut models);
        self.right.add_models(&mut models);
        models
    }

    /// Judges a race. What speaks of a model that has no run that counts does not hold.
    pub fn judge(&self, summaries: &[Summary]) -> Verdict {
        if let Some(absent) = self.models().into_iter().find(|&model| find(summaries, model).is_none()) {
            let text = format!("{} does not hold: {absent} got all poems in no run", self.text);
            return Verdict { holds: false, text };
        }
        let bound = find(summaries, self.model).map_or(f64::NAN, |standing| seconds(standing.bound_us));
        let (left, right) = (self.left.value(summaries, bound), self.right.value(summaries, bound));
        let holds = match self.relation {
            Relation::Less => left < right,
            Relation::LessOrEqual => left <= right,
            Relation::Greater => left > right,
            Relation::GreaterOrEqual => left >= right,
        };
        let is = if holds { "holds" } else { "does not hold" };
        Verdict { holds, text: format!("{} {is}: {} and {}", self.text, short(left), short(right)) }
    }
}

/// A value with at most six digits behind the point.
fn short(value: f64) -> String {
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn find(summaries: &[Summary], model: Model) -> Option<&Standing> {
    summaries.iter().find(|summary| summary.model == model.name())?.standing.as_ref()
}

#[expect(clippy::cast_precision_loss, reason = "fifteen digits are enough")]
fn float(value: u64) -> f64 {
    value as f64
}

fn seconds(micros: u64) -> f64 {
    float(micros) / 1e6
}

impl Sum {
    fn value(&self, summaries: &[Summary], bound: f64) -> f64 {
        match self {
            Self::Number(number) => *number,
            Self::Bound => bound,
            Self::Value(model, measure) => match find(summaries, *model) {
                Some(standing) => measure.of(standing),
                None => f64::NAN,
            },
            Self::Of(left, operator, right) => {
                let (left, right) = (left.value(summaries, bound), right.value(summaries, bound));
                match operator {
                    '+' => left + right,
                    '-' => left - right,
                    '*' => left * right,
                    _ => left / right,
                }
            }
        }
    }

    fn add_models(&self, models: &mut Vec<Model>) {
        match self {
            Self::Value(model, _) => models.push(*model),
            Self::Of(left, _, right) => {
                left.add_models(models);
                right.add_models(models);
            }
            Self::Number(_) | Self::Bound => {}
        }
    }
}

impl Measure {
    fn of(self, standing: &Standing) -> f64 {
        let cost = &standing.cost;
        match self {
            Self::Time => seconds(standing.time_us),
            Self::Cpu => seconds(cost.cpu_us),
            Self::Memory => float(cost.peak_rss_kb * 1024),
            Self::Threads => float(cost.peak_threads),
            Self::Switches => float(cost.voluntary_switches + cost.involuntary_switches),
            Self::Reads => float(cost.reads),
            Self::Waits => float(cost.waits),
        }
    }
}

struct Parser<'a> {
    rest: &'a str,
    /// The first model named.
    model: Option<Model>,
    depth: u32,
}

impl<'a> Parser<'a> {
    /// The most brackets in one assertion. The parser recurses, and the stack is not endless.
    const DEEPEST: u32 = 100;

    fn error(&self, what: &'static str) -> SyntaxError {
        SyntaxError { what, rest: self.rest.to_owned() }
    }

    fn take(&mut self, token: &str) -> bool {
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest.trim_start();
                true
            }
            None => false,
        }
    }

    /// Takes the longest prefix of characters of one kind.
    fn word(&mut self, is_part: fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest.trim_start();
        word
    }

    fn relation(&mut self) -> Result<Relation, SyntaxError> {
        for (token, relation) in [
            ("<=", Relation::LessOrEqual),
            (">=", Relation::GreaterOrEqual),
            ("<", Relation::Less),
            (">", Relation::Greater),
        ] {
            if self.take(token) {
                return Ok(relation);
            }
        }
        Err(self.error("<, <=, > or >= was expected"))
    }

    fn sum(&mut self) -> Result<Sum, SyntaxError> {
        self.series(&["+", "-"], Self::product)
    }

    fn product(&mut self) -> Result<Sum, SyntaxError> {
        self.series(&["*", "/"], Self::value)
    }

    fn series(
        &mut self,
        operators: &[&str],
        operand: fn(&mut Self) -> Result<Sum, SyntaxError>,
    ) -> Result<Sum, SyntaxError> {
        let mut left = operand(self)?;
        while let Some(operator) = operators.iter().find(|operator| self.take(operator)) {
            let sign = operator.chars().next().unwrap_or_default();
            left = Sum::Of(Box::new(left), sign, Box::new(operand(self)?));
        }
        Ok(left)
    }

    fn value(&mut self) -> Result<Sum, SyntaxError> {
        let begin = self.rest;
        let error = |what| SyntaxError { what, rest: begin.to_owned() };
        if self.take("(") {
            self.depth += 1;
            if self.depth > Self::DEEPEST {
                return Err(error("too many brackets"));
            }
            let sum = self.sum()?;
            return if self.take(")") { Ok(sum) } else { Err(self.error("')' was expected")) };
        }
        if begin.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
            let number: f64 =
                self.word(|c| c.is_ascii_digit() || c == '.').parse().map_err(|_| error("not a number"))?;
            let scale = match self.word(|c| c.is_ascii_alphabetic()) {
                "" | "s" => 1.0,
                "us" => 1e-6,
                "ms" => 1e-3,
                "m" => 60.0,
                _ => return Err(error("an unknown unit")),
            };
            return Ok(Sum::Number(number * scale));
        }
        let name = self.word(|c| c.is_ascii_alphabetic());
        if name == "bound" {
            return Ok(Sum::Bound);
        }
        let model = Model::ALL.into_iter().find(|model| model.name() == name);
        let model = model.ok_or_else(|| error("a number, a model or 'bound' was expected"))?;
        self.model.get_or_insert(model);
        if !self.take(".") {
            return Ok(Sum::Value(model, Measure::Time));
        }
        let measure = match self.word(|c| c.is_ascii_alphabetic()) {
            "time" => Measure::Time,
            "cpu" => Measure::Cpu,
            "memory" => Measure::Memory,
            "threads" => Measure::Threads,
            "switches" => Measure::Switches,
            "reads" => Measure::Reads,
            "waits" => Measure::Waits,
            _ => return Err(error("an unknown cost")),
        };
        Ok(Sum::Value(model, measure))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::race::Cost;

    fn summary(model: &'static str, time_us: u64, bound_us: u64) -> Summary {
        let cost = Cost { cpu_us: 5_000, peak_rss_kb: 3_000, peak_threads: 4, ..Cost::default() };
        let standing = Standing { time_us, spread_us: (time_us, time_us), bound_us, cost };
        Summary { model, runs: 1, missing: 0, standing: Some(standing) }
    }

    fn judge(text: &str) -> (bool, String) {
        let none = Summary { model: "select", runs: 0, missing: 9, standing: None };
        let summaries = [summary("blocking", 22_500_000, 22_400_000), summary("async", 9_900_000, 9_000_000), none];
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
    fn what_is_no_assertion_is_refused_where_it_goes_wrong() {
        let deep = format!("{}async < 1", "(".repeat(1_000));
        for (text, what, rest) in [
            ("", "a number, a model or 'bound' was expected", ""),
            ("async", "<, <=, > or >= was expected", ""),
            ("async <= ", "a number, a model or 'bound' was expected", ""),
            ("asink <= 1", "a number, a model or 'bound' was expected", "asink <= 1"),
            ("async = 1", "<, <=, > or >= was expected", "= 1"),
            ("async <= 1 1", "an operator was expected", "1"),
            ("async.smell < 1", "an unknown cost", "async.smell < 1"),
            ("async < 1 parsec", "an unknown unit", "1 parsec"),
            ("async < 1.2.3", "not a number", "1.2.3"),
            ("(async < 1", "')' was expected", "< 1"),
            ("1 < 2", "no model is named", "1 < 2"),
            (&deep, "too many brackets", &deep[100..]),
        ] {
            let error = SyntaxError { what: Box::leak(what.into()), rest: rest.to_owned() };
            assert_eq!(Assertion::parse(text), Err(error), "{text}");
        }
    }
}
