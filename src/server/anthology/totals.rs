//! What an anthology has done so far.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::metrics::{Metric, Page as Metrics};
use crate::report::Status;

/// How somebody got a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// From memory.
    Hit,
    /// It began a fetch.
    Miss,
    /// It joined a fetch.
    Join,
    /// An aged one from memory.
    Stale,
}

impl Role {
    const ALL: [Self; 4] = [Self::Hit, Self::Miss, Self::Join, Self::Stale];

    fn word(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Join => "join",
            Self::Stale => "stale",
        }
    }
}

/// How a fetch ended, by name; the last one is that of which nobody wanted the end.
const OUTCOMES: [&str; 10] =
    ["ok", "not_found", "truncated", "refused", "reset", "timeout", "unreachable", "interrupted", "error", "canceled"];

/// Counts of what was done.
#[derive(Debug, Default)]
pub(super) struct Totals {
    by_role: [AtomicU64; Role::ALL.len()],
    pub(super) fetches: AtomicU64,
    ended: [AtomicU64; OUTCOMES.len()],
    pub(super) pages: AtomicU64,
    pub(super) viewers: AtomicU64,
}

impl Totals {
    pub(super) fn of(&self, role: Role) -> &AtomicU64 {
        &self.by_role[role as usize]
    }

    /// A fetch has ended: well (`Some(None)`), or not, or nobody wanted its end.
    pub(super) fn ended(&self, how: Option<Option<Status>>) {
        let word = how.map_or("canceled", |status| status.unwrap_or(Status::Ok).word());
        if let Some(at) = OUTCOMES.iter().position(|outcome| *outcome == word) {
            self.ended[at].fetch_add(1, Relaxed);
        }
    }

    /// Fetches that brought nothing.
    pub(super) fn failed(&self) -> u64 {
        self.ended[1..OUTCOMES.len() - 1].iter().map(|count| count.load(Relaxed)).sum()
    }

    pub(super) fn add_metrics(&self, page: &mut Metrics, labels: &[(&str, &str)]) {
        const PAGES: Metric = Metric::counter("poetry_anthology_pages_total", "Pages and answers that were begun.");
        const VIEWERS: Metric = Metric::gauge("poetry_anthology_viewers", "Viewers who wait for sources now.");
        const ANSWERS: Metric = Metric::counter(
            "poetry_anthology_answers_total",
            "Sources that somebody wanted, by how that was answered.",
        );
        const FETCHES: Metric = Metric::counter("poetry_anthology_fetches_total", "Fetches that were begun.");
        const ENDED: Metric = Metric::counter("poetry_anthology_fetches_ended_total", "Fetches by outcome.");
        page.add(PAGES, labels, self.pages.load(Relaxed));
        page.add(VIEWERS, labels, self.viewers.load(Relaxed));
        for role in Role::ALL {
            page.add(ANSWERS, &[labels, &[("answer", role.word())]].concat(), self.of(role).load(Relaxed));
        }
        page.add(FETCHES, labels, self.fetches.load(Relaxed));
        for (outcome, count) in OUTCOMES.iter().zip(&self.ended) {
            page.add(ENDED, &[labels, &[("outcome", outcome)]].concat(), count.load(Relaxed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_is_counted_by_its_name() {
        let totals = Totals::default();
        for how in [None, Some(None), Some(Some(Status::Timeout)), Some(Some(Status::Error))] {
            totals.ended(how);
        }
        let mut page = Metrics::default();
        totals.add_metrics(&mut page, &[]);
        for outcome in ["ok", "timeout", "error", "canceled"] {
            let line = format!("poetry_anthology_fetches_ended_total{{outcome=\"{outcome}\"}} 1\n");
            assert!(page.text().contains(&line), "{outcome}");
        }
        assert_eq!(totals.failed(), 2);
    }
}
