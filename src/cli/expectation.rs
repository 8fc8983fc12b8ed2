//! What a person expects of the command that a server runs: `left < 4s`.

use std::time::Duration;

use crate::comparison::{Comparison, Quantity, SyntaxError, float, short};
use crate::net::counts::Counts;

/// An expectation of what a command does to the server beside which it runs: a comparison of two sums.
#[derive(Debug, Clone, PartialEq)]
pub struct Expectation(Comparison<Seen>);

/// What a server sees of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Left,
    Bytes,
    Clients,
    Served,
    Lost,
}

impl Seen {
    const ALL: [Self; 5] = [Self::Left, Self::Bytes, Self::Clients, Self::Served, Self::Lost];

    fn name(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Bytes => "bytes",
            Self::Clients => "clients",
            Self::Served => "served",
            Self::Lost => "lost",
        }
    }

    /// Its value; `None`: there is none.
    fn of(self, seen: &Totals) -> Option<f64> {
        Some(match self {
            Self::Left => seen.left?.as_secs_f64(),
            Self::Bytes => float(seen.bytes),
            Self::Clients => float(seen.clients),
            Self::Served => float(seen.served),
            Self::Lost => float(seen.lost),
        })
    }

    /// Its value as a part of a sentence.
    fn tell(self, seen: &Totals) -> String {
        match (self, self.of(seen)) {
            (Self::Left, Some(value)) => format!("left is {} s", short(value)),
            (_, Some(value)) => format!("{} is {}", self.name(), short(value)),
            (_, None) => format!("{} has no value, for nobody came", self.name()),
        }
    }
}

impl Quantity for Seen {
    const NAMES: &'static str = ", or one of left, bytes, clients, served and lost";
    const WHAT: &'static str = "quantity";
    const EXAMPLE: &'static str = "an expectation is like 'left < 4s' or 'clients = 3'";

    fn named(word: &str, part: Option<&str>) -> Result<Self, Option<&'static str>> {
        Self::ALL.into_iter().find(|it| it.name() == word && part.is_none()).ok_or(None)
    }
}

/// What servers have seen of their clients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    left: Option<Duration>,
    bytes: u64,
    clients: u64,
    served: u64,
    lost: u64,
}

impl Totals {
    /// Of all these servers together.
    pub(super) fn of(servers: &[&Counts]) -> Self {
        let sum = |of: fn(&Counts) -> u64| servers.iter().map(|counts| of(counts)).sum();
        Self {
            left: servers.iter().filter_map(|counts| counts.longest_stay()).max(),
            bytes: sum(Counts::bytes),
            clients: sum(Counts::accepted),
            served: sum(Counts::served),
            lost: sum(Counts::lost),
        }
    }
}

impl Expectation {
    /// Parses an expectation: a [`Comparison`] of `left`, how long the client that stayed longest was there, `bytes` sent,
    /// `clients` accepted, `served` and `lost`.
    ///
    /// # Errors
    /// The text is none.
    pub fn parse(text: &str) -> Result<Self, SyntaxError> {
        Comparison::parse(text).map(Self)
    }

    /// What is to be said if it does not hold. What speaks of a quantity without a value does not hold.
    pub(super) fn disappointment(&self, seen: &Totals) -> Option<String> {
        self.0.disappointment("--expect", |quantity| quantity.of(seen), |quantity| quantity.tell(seen))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_hold_is_said_with_its_values() {
        let seen = Totals { left: Some(Duration::from_millis(5_002)), bytes: 3_003, clients: 2, served: 1, lost: 1 };
        let nobody = Totals::default();
        for (text, seen, said) in [
            ("left < 4s", &seen, Some("left is 5.002 s")),
            ("left < 6s", &seen, None),
            ("left <= 5002 ms", &seen, None),
            ("bytes >= 3003", &seen, None),
            ("bytes > 3003", &seen, Some("bytes is 3003")),
            ("clients == 2", &seen, None),
            ("clients = 3", &seen, Some("clients is 2")),
            ("served + lost = 3 * lost", &seen, Some("served is 1, lost is 1")),
            ("bytes / clients < left", &seen, Some("bytes is 3003, clients is 2, left is 5.002 s")),
            ("left < 4s", &nobody, Some("left has no value, for nobody came")),
            ("left >= 0 * left", &nobody, Some("left has no value, for nobody came")),
            ("clients = 0", &nobody, None),
            ("bytes / clients = 0", &nobody, Some("bytes is 0, clients is 0")),
        ] {
            let expectation = Expectation::parse(text).expect("an expectation");
            let said = said.map(|said| format!("--expect '{text}' does not hold: {said}"));
            assert_eq!(expectation.disappointment(seen), said);
        }
    }

    #[test]
    fn what_is_no_expectation_is_refused_with_the_names_of_what_could_be() {
        for (text, what) in [
            ("gone < 4s", "a number, or one of left, bytes, clients, served and lost was expected at 'gone < 4s'"),
            (
                "left.cpu < 4s",
                "a number, or one of left, bytes, clients, served and lost was expected at 'left.cpu < 4s'",
            ),
            ("left", "<, <=, =, >= or > was expected at the end"),
            ("1 < 2", "no quantity is named at '1 < 2'"),
        ] {
            let error = format!("{what}; an expectation is like 'left < 4s' or 'clients = 3'");
            assert_eq!(Expectation::parse(text).map_err(|error| error.to_string()), Err(error));
        }
    }
}
