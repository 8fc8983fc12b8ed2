//! What those who read have seen of what somebody wrote: whether anybody saw an old row, and for how long.
//!
//! One program writes and reads, so there is one clock. A version is *confirmed* when the answer to its write has come.
//! Whoever asks after that and gets an earlier version has seen an old row, by as long as it was confirmed before they
//! asked.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use crate::comparison::{Comparison, Quantity, SyntaxError, float, short};
use crate::latencies::Latencies;
use crate::units::{count, in_one_unit};

/// Writes that are remembered. Of an older version it is known only that it is as old as the oldest of these at least.
const MOST: usize = 10_000;

/// The writes so far.
#[derive(Debug, Default)]
pub(super) struct Writes {
    /// Versions, in their order, and when they were confirmed.
    confirmed: VecDeque<(u64, Instant)>,
    /// Versions that perhaps were written, perhaps later than the next ones.
    doubtful: VecDeque<u64>,
    total: u64,
    unanswered: u64,
}

impl Writes {
    pub(super) fn confirm(&mut self, version: u64, at: Instant) {
        self.total += 1;
        self.confirmed.push_back((version, at));
        if self.confirmed.len() > MOST {
            self.confirmed.pop_front();
        }
    }

    pub(super) fn doubt(&mut self, version: u64) {
        self.total += 1;
        self.unanswered += 1;
        self.doubtful.push_back(version);
        if self.doubtful.len() > MOST {
            self.doubtful.pop_front();
        }
    }

    /// How old a version was when it was asked for; `None`: it was not, as far as is known.
    fn age(&self, version: u64, asked: Instant) -> Option<Duration> {
        let newer = self.confirmed.partition_point(|(known, _)| *known <= version);
        let (_, confirmed) = self.confirmed.get(newer)?;
        let age = asked.checked_duration_since(*confirmed).filter(|age| !age.is_zero())?;
        (!self.doubtful.contains(&version)).then_some(age)
    }
}

/// What one reader has seen.
#[derive(Debug, Default)]
pub(super) struct Reads {
    total: u64,
    unanswered: u64,
    old: u64,
    longest: Duration,
    /// From the answer to each write to the end of the first read that shows it.
    fresh: Latencies,
    /// Versions that were seen for the first time, until it is known when they were confirmed.
    seen: VecDeque<(u64, Instant)>,
    /// The last version whose freshness is known.
    judged: u64,
}

impl Reads {
    /// A read has shown this version; `None`: it has shown none.
    pub(super) fn see(&mut self, version: Option<u64>, asked: Instant, answered: Instant, writes: &Writes) {
        self.total += 1;
        let Some(version) = version else {
            self.unanswered += 1;
            return;
        };
        if let Some(age) = writes.age(version, asked) {
            self.old += 1;
            self.longest = self.longest.max(age);
        }
        if self.seen.back().map_or(version > self.judged, |(newest, _)| version > *newest) {
            self.seen.push_back((version, answered));
        }
        self.judge(writes);
    }

    /// How fresh each write was that was confirmed since, as far as it has been seen.
    fn judge(&mut self, writes: &Writes) {
        let from = writes.confirmed.partition_point(|(version, _)| *version <= self.judged);
        for (version, confirmed) in writes.confirmed.range(from..) {
            while self.seen.front().is_some_and(|(seen, _)| seen < version) {
                self.seen.pop_front();
            }
            let Some((_, seen)) = self.seen.front() else { return };
            self.fresh.add(seen.saturating_duration_since(*confirmed));
            self.judged = *version;
        }
    }
}

/// What was proved.
#[derive(Debug)]
pub(super) struct Proof {
    pub(super) writes: Writes,
    /// By the URL through which it was read.
    pub(super) reads: Vec<(String, Reads)>,
    pub(super) took: Duration,
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let through = self.reads.first().map_or("", |(url, _)| url);
        let Writes { total, unanswered, .. } = self.writes;
        write!(f, "{} through {through}", count(total, "write"))?;
        writeln!(f, " in {}, {unanswered} without an answer", humantime::format_duration(self.took))?;
        for (url, Reads { total, unanswered, old, longest, fresh, .. }) in &self.reads {
            write!(f, "{url}: {}, {unanswered} without an answer, {old} of an old row", count(*total, "read"))?;
            if *old > 0 {
                write!(f, " (for {} at most)", humantime::format_duration(whole_micros(*longest)))?;
            }
            if let (Some(p50), Some(p99), Some(max)) = (fresh.percentile(50), fresh.percentile(99), fresh.longest()) {
                let times = in_one_unit(&[p50, p99, max]);
                write!(
                    f,
                    "; a write shows after {} at the median, {} at 99 %, {} at most",
                    times[0], times[1], times[2]
                )?;
            }
            writeln!(f)?;
        }
        match self.value(Claim::Stale) {
            Some(stale) if stale > 0.0 => {
                let stale = whole_micros(Duration::from_secs_f64(stale));
                writeln!(f, "The longest time that anybody saw an old row: {}", humantime::format_duration(stale))
            }
            Some(_) => writeln!(f, "Nobody saw an old row"),
            None => writeln!(f, "Nobody saw anything"),
        }
    }
}

fn whole_micros(duration: Duration) -> Duration {
    Duration::from_micros(crate::units::micros(duration))
}

impl Proof {
    fn value(&self, claim: Claim) -> Option<f64> {
        let reads = self.reads.iter().map(|(_, reads)| reads);
        let answered = |reads: &Reads| reads.total - reads.unanswered;
        match claim {
            // Nothing is proved where nothing was written or read.
            Claim::Stale if self.writes.confirmed.is_empty() || reads.clone().any(|reads| answered(reads) == 0) => None,
            Claim::Stale => reads.map(|reads| reads.longest.as_secs_f64()).reduce(f64::max),
            Claim::Fresh => {
                reads.filter_map(|reads| reads.fresh.percentile(99)).max().map(|micros| float(micros) / 1e6)
            }
            Claim::Writes => Some(float(self.writes.total - self.writes.unanswered)),
            Claim::Reads => Some(float(reads.map(answered).sum())),
            Claim::Old => Some(float(reads.map(|reads| reads.old).sum())),
            Claim::Unanswered => Some(float(self.writes.unanswered + reads.map(|reads| reads.unanswered).sum::<u64>())),
        }
    }
}

/// What a person claims of a proof: `stale < 50ms`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Assertion(Comparison<Claim>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    /// The longest time that anybody saw an old row.
    Stale,
    /// After so long 99 of 100 writes showed everywhere.
    Fresh,
    Writes,
    Reads,
    Old,
    Unanswered,
}

impl Claim {
    const ALL: [(Self, &'static str); 6] = [
        (Self::Stale, "stale"),
        (Self::Fresh, "fresh"),
        (Self::Writes, "writes"),
        (Self::Reads, "reads"),
        (Self::Old, "old"),
        (Self::Unanswered, "unanswered"),
    ];
}

impl Quantity for Claim {
    const NAMES: &'static str = ", or one of stale, fresh, writes, reads, old and unanswered";
    const WHAT: &'static str = "quantity";
    const EXAMPLE: &'static str = "an assertion is like 'stale < 50ms'";

    fn named(word: &str, part: Option<&str>) -> Result<Self, Option<&'static str>> {
        Self::ALL.into_iter().find(|(_, name)| *name == word && part.is_none()).map(|(it, _)| it).ok_or(None)
    }
}

impl Assertion {
    /// Parses a [`Comparison`] of claims; times are in seconds.
    pub(super) fn parse(text: &str) -> Result<Self, SyntaxError> {
        Comparison::parse(text).map(Self)
    }

    /// What is to be said if it does not hold.
    pub(super) fn disappointment(&self, proof: &Proof) -> Option<String> {
        let tell = |claim: Claim| {
            let name = Claim::ALL.iter().find(|(it, _)| *it == claim).map_or("", |(_, name)| name);
            match proof.value(claim) {
                Some(value) => {
                    let unit = if matches!(claim, Claim::Stale | Claim::Fresh) { " s" } else { "" };
                    format!("{name} is {}{unit}", short(value))
                }
                None => format!("{name} has no value, for not everybody saw something"),
            }
        };
        self.0.disappointment("--assert", |claim| proof.value(claim), tell)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes of versions at these milliseconds, and then reads: version, asked, answered.
    fn proof(writes: &[(u64, u64)], reads: &[(Option<u64>, u64, u64)]) -> Proof {
        let (begin, mut known, mut seen) = (Instant::now(), Writes::default(), Reads::default());
        let at = |millis| begin + Duration::from_millis(millis);
        let mut writes = writes.iter().peekable();
        for (version, asked, answered) in reads {
            while let Some((version, confirmed)) = writes.next_if(|(_, confirmed)| confirmed <= answered) {
                known.confirm(*version, at(*confirmed));
            }
            seen.see(*version, at(*asked), at(*answered), &known);
        }
        let reads = vec![("http://localhost:8000".to_owned(), seen)];
        Proof { writes: known, reads, took: Duration::from_secs(1) }
    }

    fn stale(writes: &[(u64, u64)], reads: &[(Option<u64>, u64, u64)]) -> Option<f64> {
        proof(writes, reads).value(Claim::Stale)
    }

    #[test]
    fn old_is_what_was_replaced_before_it_was_asked_for() {
        for (reads, expected) in [
            (&[(Some(1), 11, 12)][..], Some(0.0)),
            // It was asked for before the write was confirmed.
            (&[(Some(1), 19, 25)], Some(0.0)),
            (&[(Some(1), 20, 25)], Some(0.0)),
            (&[(Some(1), 21, 25)], Some(0.001)),
            (&[(Some(2), 21, 25), (Some(1), 26, 27)], Some(0.006)),
            // As old as what came first after it.
            (&[(Some(1), 35, 36), (Some(3), 37, 38)], Some(0.015)),
            (&[(Some(2), 35, 36)], Some(0.005)),
            (&[(None, 35, 36)], None),
            (&[], None),
        ] {
            assert_eq!(stale(&[(1, 10), (2, 20), (3, 30)], reads), expected, "{reads:?}");
        }
    }

    #[test]
    fn what_may_have_been_written_later_is_no_old_row() {
        let (begin, mut writes, mut reads) = (Instant::now(), Writes::default(), Reads::default());
        writes.confirm(1, begin);
        writes.doubt(2);
        writes.confirm(3, begin);
        let asked = begin + Duration::from_millis(1);
        reads.see(Some(2), asked, asked, &writes);
        assert_eq!(reads.old, 0);
        reads.see(Some(1), asked, asked, &writes);
        assert_eq!((reads.old, writes.total, writes.unanswered), (1, 3, 1));
    }

    #[test]
    fn each_write_shows_after_some_time_or_before_its_answer() {
        // The second one before it was confirmed, the third never by itself.
        let reads = [(Some(1), 11, 13), (Some(2), 14, 15), (Some(2), 22, 23), (Some(4), 41, 48)];
        let proof = proof(&[(1, 10), (2, 20), (3, 30), (4, 40)], &reads);
        let fresh = &proof.reads[0].1.fresh;
        let times = [fresh.percentile(25), fresh.percentile(50), fresh.longest()].map(Option::unwrap_or_default);
        // A histogram knows them to better than 1 in 64.
        assert_eq!(times.map(|micros| micros / 100), [0, 30, 180]);
        assert_eq!(proof.value(Claim::Fresh), Some(0.018));
    }

    #[test]
    fn a_proof_is_told_and_judged() {
        let found =
            proof(&[(1, 10), (2, 20)], &[(Some(1), 11, 12), (Some(1), 25, 26), (Some(2), 27, 28), (None, 29, 30)]);
        assert_eq!(
            found.to_string(),
            "2 writes through http://localhost:8000 in 1s, 0 without an answer\nhttp://localhost:8000: 4 reads, 1 without an \
             answer, 1 of an old row (for 5ms at most); a write shows after 2.0 ms at the median, 8.0 ms at 99 %, 8.0 ms at \
             most\nThe longest time that anybody saw an old row: 5ms\n"
        );
        for (text, said) in [
            ("stale < 6ms", None),
            ("stale < 5ms", Some("stale is 0.005 s")),
            ("old = 0", Some("old is 1")),
            ("fresh < 2ms", Some("fresh is 0.008 s")),
            ("unanswered / reads < 0.1", Some("unanswered is 1, reads is 3")),
            ("writes = 2", None),
        ] {
            let said = said.map(|said| format!("--assert '{text}' does not hold: {said}"));
            assert_eq!(Assertion::parse(text).expect("one").disappointment(&found), said);
        }
        let nothing = proof(&[], &[]);
        assert!(nothing.to_string().ends_with("Nobody saw anything\n"));
        let said = Assertion::parse("stale < 1s").expect("one").disappointment(&nothing);
        assert_eq!(
            said.as_deref(),
            Some("--assert 'stale < 1s' does not hold: stale has no value, for not everybody saw something")
        );
        assert!(proof(&[(1, 1)], &[(Some(1), 2, 3)]).to_string().ends_with("Nobody saw an old row\n"));
    }

    #[test]
    fn what_is_remembered_of_writes_is_bounded() {
        let (begin, mut writes) = (Instant::now(), Writes::default());
        for version in 1..=2 * MOST as u64 {
            writes.confirm(version, begin);
            writes.doubt(version);
        }
        assert_eq!((writes.confirmed.len(), writes.doubtful.len(), writes.unanswered), (MOST, MOST, 2 * MOST as u64));
    }
}
