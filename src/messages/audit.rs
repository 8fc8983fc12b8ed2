//! The judge of stamped messages: what was lost, came twice, or out of order, and how late it was.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::stamp::Stamp;
use crate::comparison::{Comparison, Quantity, SyntaxError, float, short};
use crate::latencies::Latencies;
use crate::units::{count, in_one_unit};

/// What the stamps of messages prove, so far.
///
/// A message is lost if one with a higher number has come from its sender, and it has not. So what a sender sent before
/// anybody listened counts as lost, and what it sent last and nobody got is not noticed.
#[derive(Debug, Default)]
pub struct Audit {
    senders: HashMap<String, Seen>,
    received: u64,
    unstamped: u64,
    duplicated: u64,
    reordered: u64,
    latencies: Latencies,
}

/// Senders that are told apart. The messages of others count as unstamped.
const MOST_SENDERS: usize = 100_000;

/// Gaps that are known of a sender. Of the oldest of more, what comes yet counts as duplicated, and as lost all the same.
const MOST_GAPS: usize = 10_000;

/// What has come from one sender.
#[derive(Debug, Default)]
struct Seen {
    highest: u64,
    /// The numbers that are missing below it: where a gap begins, and its end, which is not missing.
    gaps: BTreeMap<u64, u64>,
    forgotten: u64,
}

enum Verdict {
    Next,
    Late,
    Again,
}

impl Seen {
    fn see(&mut self, number: u64) -> Verdict {
        if number > self.highest {
            if number > self.highest + 1 {
                self.gaps.insert(self.highest + 1, number);
                if self.gaps.len() > MOST_GAPS
                    && let Some((start, end)) = self.gaps.pop_first()
                {
                    self.forgotten += end - start;
                }
            }
            self.highest = number;
            return Verdict::Next;
        }
        let gap = self.gaps.range(..=number).next_back().map(|(&start, &end)| (start, end));
        let Some((start, end)) = gap.filter(|(_, end)| number < *end) else { return Verdict::Again };
        self.gaps.remove(&start);
        if start < number {
            self.gaps.insert(start, number);
        }
        if number + 1 < end {
            self.gaps.insert(number + 1, end);
        }
        Verdict::Late
    }

    fn lost(&self) -> u64 {
        self.gaps.iter().map(|(start, end)| end - start).sum::<u64>() + self.forgotten
    }
}

impl Audit {
    /// A message has come at this time, since the Unix epoch.
    pub fn hear(&mut self, message: &[u8], now: Duration) {
        self.received += 1;
        let Some((stamp, _)) = Stamp::read(message) else {
            self.unstamped += 1;
            return;
        };
        if !self.senders.contains_key(stamp.sender) {
            if self.senders.len() == MOST_SENDERS {
                self.unstamped += 1;
                return;
            }
            self.senders.insert(stamp.sender.to_owned(), Seen::default());
        }
        match self.senders.get_mut(stamp.sender).map(|seen| seen.see(stamp.number)) {
            Some(Verdict::Late) => self.reordered += 1,
            Some(Verdict::Again) => self.duplicated += 1,
            Some(Verdict::Next) | None => {}
        }
        // Clocks of two machines differ: nothing comes before it was sent.
        self.latencies.add(now.saturating_sub(stamp.sent));
    }

    /// What is proved.
    pub fn findings(&self) -> Findings {
        let Self { received, unstamped, duplicated, reordered, .. } = *self;
        let latencies = &self.latencies;
        let latency = |longest| {
            let of = |percent| latencies.percentile(percent).unwrap_or(longest);
            Latency { p50: of(50), p99: of(99), max: longest }
        };
        Findings {
            received,
            lost: self.senders.values().map(Seen::lost).sum(),
            duplicated,
            reordered,
            unstamped,
            senders: self.senders.len() as u64,
            latency_us: latencies.longest().map(latency),
        }
    }
}

/// What stamps have proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// Messages, with stamps or without.
    pub received: u64,
    /// Messages that others prove.
    pub lost: u64,
    /// Messages that came again.
    pub duplicated: u64,
    /// Messages that came after a later one of their sender.
    pub reordered: u64,
    /// Messages without a stamp.
    pub unstamped: u64,
    /// Who sent the others.
    pub senders: u64,
    /// How late messages were, in microseconds; `None`: none had a stamp.
    pub latency_us: Option<Latency>,
}

/// How late messages were, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Latency {
    /// Half of them, or fewer, were later.
    pub p50: u64,
    /// One in a hundred, or fewer.
    pub p99: u64,
    /// None.
    pub max: u64,
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { received, lost, duplicated, reordered, unstamped, senders, latency_us } = self;
        let (received, senders) = (count(*received, "message"), count(*senders, "sender"));
        write!(f, "{received} from {senders}: {lost} lost, {duplicated} duplicated, {reordered} reordered")?;
        if *unstamped > 0 {
            write!(f, ", {unstamped} without a stamp")?;
        }
        let Some(Latency { p50, p99, max }) = latency_us else { return Ok(()) };
        let times = in_one_unit(&[*p50, *p99, *max]);
        write!(f, "\nlate by {} at the median, {} at 99 %, {} at most", times[0], times[1], times[2])
    }
}

/// What a person says of messages: `lost == 0`, `p99 < 5ms`.
#[derive(Debug, Clone, PartialEq)]
pub struct Assertion(Comparison<Quality>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quality {
    Received,
    Lost,
    Duplicated,
    Reordered,
    Unstamped,
    Senders,
    P50,
    P99,
    Max,
}

impl Quality {
    const ALL: [(Self, &'static str); 9] = [
        (Self::Received, "received"),
        (Self::Lost, "lost"),
        (Self::Duplicated, "duplicated"),
        (Self::Reordered, "reordered"),
        (Self::Unstamped, "unstamped"),
        (Self::Senders, "senders"),
        (Self::P50, "p50"),
        (Self::P99, "p99"),
        (Self::Max, "max"),
    ];

    /// Its value, times in seconds; `None`: there is none.
    fn of(self, findings: &Findings) -> Option<f64> {
        let seconds = |of: fn(Latency) -> u64| findings.latency_us.map(|latency| float(of(latency)) / 1e6);
        Some(float(match self {
            Self::Received => findings.received,
            Self::Lost => findings.lost,
            Self::Duplicated => findings.duplicated,
            Self::Reordered => findings.reordered,
            Self::Unstamped => findings.unstamped,
            Self::Senders => findings.senders,
            Self::P50 => return seconds(|latency| latency.p50),
            Self::P99 => return seconds(|latency| latency.p99),
            Self::Max => return seconds(|latency| latency.max),
        }))
    }

    fn tell(self, findings: &Findings) -> String {
        let name = Self::ALL.iter().find(|(it, _)| *it == self).map_or("", |(_, name)| name);
        let unit = if matches!(self, Self::P50 | Self::P99 | Self::Max) { " s" } else { "" };
        match self.of(findings) {
            Some(value) => format!("{name} is {}{unit}", short(value)),
            None => format!("{name} has no value, for no message had a stamp"),
        }
    }
}

impl Quantity for Quality {
    const NAMES: &'static str =
        ", or one of received, lost, duplicated, reordered, unstamped, senders, p50, p99 and max";
    const WHAT: &'static str = "quantity";
    const EXAMPLE: &'static str = "an assertion is like 'lost = 0' or 'p99 < 5ms'";

    fn named(word: &str, part: Option<&str>) -> Result<Self, Option<&'static str>> {
        Self::ALL.into_iter().find(|(_, name)| *name == word && part.is_none()).map(|(it, _)| it).ok_or(None)
    }
}

impl Assertion {
    /// Parses an assertion: a [`Comparison`] of the findings' names; times are in seconds.
    ///
    /// # Errors
    /// The text is none.
    pub fn parse(text: &str) -> Result<Self, SyntaxError> {
        Comparison::parse(text).map(Self)
    }

    /// What is to be said if it does not hold. What speaks of a quantity without a value does not hold.
    pub fn disappointment(&self, findings: &Findings) -> Option<String> {
        self.0.disappointment("--assert", |quality| quality.of(findings), |quality| quality.tell(findings))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn heard(numbers: &[u64]) -> Findings {
        let mut audit = Audit::default();
        for &number in numbers {
            let stamp = Stamp { number, sender: "a", sent: Duration::from_millis(1_000) };
            audit.hear(stamp.text().as_bytes(), Duration::from_millis(1_000 + number));
        }
        audit.findings()
    }

    #[test]
    fn what_is_lost_twice_or_late_is_told_apart() {
        for (numbers, lost, duplicated, reordered) in [
            (&[1, 2, 3][..], 0, 0, 0),
            (&[3], 2, 0, 0),
            (&[1, 4, 6], 3, 0, 0),
            (&[1, 3, 2], 0, 0, 1),
            (&[1, 1, 5, 3, 3], 2, 2, 1),
        ] {
            let findings = heard(numbers);
            let found = (findings.lost, findings.duplicated, findings.reordered);
            assert_eq!(found, (lost, duplicated, reordered), "{numbers:?}");
        }
        let mut audit = Audit::default();
        audit.hear(b"no stamp", Duration::ZERO);
        audit.hear(b"1 b 5 x", Duration::ZERO);
        let findings = audit.findings();
        assert_eq!((findings.received, findings.unstamped, findings.senders), (2, 1, 1));
        assert_eq!(findings.latency_us, Some(Latency { p50: 0, p99: 0, max: 0 }));
    }

    #[test]
    fn gaps_have_a_limit_and_are_lost_all_the_same() {
        let numbers: Vec<u64> = (1..=MOST_GAPS as u64 + 5).map(|n| 2 * n).collect();
        let findings = heard(&numbers);
        assert_eq!(findings.lost, MOST_GAPS as u64 + 5);
    }

    #[test]
    fn it_is_told_in_two_lines_and_asserted_in_words() {
        let findings = heard(&[1, 2, 4]);
        let text = findings.to_string();
        assert_eq!(
            text,
            "3 messages from 1 sender: 1 lost, 0 duplicated, 0 reordered\nlate by 2.0 ms at the median, 4.0 ms at 99 %, 4.0 ms at most"
        );
        let nothing = Audit::default().findings();
        assert_eq!(nothing.to_string(), "0 messages from 0 senders: 0 lost, 0 duplicated, 0 reordered");
        for (text, findings, said) in [
            ("lost = 0", &findings, Some("lost is 1")),
            ("lost <= 1", &findings, None),
            ("p99 < 5ms", &findings, None),
            ("max < 4ms", &findings, Some("max is 0.004 s")),
            ("lost / received < 0.1", &findings, Some("lost is 1, received is 3")),
            ("p99 < 5ms", &nothing, Some("p99 has no value, for no message had a stamp")),
        ] {
            let assertion = Assertion::parse(text).expect("an assertion");
            let said = said.map(|said| format!("--assert '{text}' does not hold: {said}"));
            assert_eq!(assertion.disappointment(findings), said);
        }
        let error = Assertion::parse("loss = 0").expect_err("no such quantity").to_string();
        assert!(error.contains("one of received, lost,") && error.contains("an assertion is like"), "{error}");
    }

    proptest! {
        #[test]
        fn every_number_is_lost_or_has_come(numbers in vec(1_u64..40, 1..60)) {
            let findings = heard(&numbers);
            let (mut seen, mut highest) = (HashSet::new(), 0);
            let (mut duplicated, mut reordered) = (0, 0);
            for number in numbers {
                match seen.insert(number) {
                    false => duplicated += 1,
                    true if number < highest => reordered += 1,
                    true => {}
                }
                highest = highest.max(number);
            }
            prop_assert_eq!(findings.lost, highest - seen.len() as u64);
            prop_assert_eq!((findings.duplicated, findings.reordered), (duplicated, reordered));
        }
    }
}
