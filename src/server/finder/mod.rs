//! Finding characters by the words of their names, for people with telnet and for browsers: two protocols over one index.
//!
//! What a query finds is a set of ranges, and lines are made of it only as fast as somebody takes them: so a hundred thousand
//! characters cost as much as one, and nobody waits for another one's answer.

mod lines;
mod pages;

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::metrics::{Metric, Page};
use crate::unicode::{Index, Query, Ranges, Rows};

pub use lines::LineFinder;
pub use pages::PageFinder;

/// The longest query, in bytes.
pub const LONGEST_QUERY: usize = 1_024;

/// Bytes of an answer that are made at once.
const PIECE: usize = 16 * 1024;

/// One for all servers of a process.
static INDEX: LazyLock<Index> = LazyLock::new(Index::new);

/// Finds, and counts.
#[derive(Debug)]
struct Finder {
    index: &'static Index,
    queries: AtomicU64,
    matches: AtomicU64,
    rows: AtomicU64,
}

impl Finder {
    /// Reads the names, if no other server of this process has done so.
    fn new() -> Self {
        let (queries, matches, rows) = Default::default();
        Self { index: &INDEX, queries, matches, rows }
    }

    fn find(&self, query: &Query) -> Ranges {
        let found = self.index.find(query);
        self.queries.fetch_add(1, Relaxed);
        self.matches.fetch_add(found.total() as u64, Relaxed);
        found
    }

    fn add_metrics(&self, page: &mut Page, labels: &[(&str, &str)]) {
        const QUERIES: Metric = Metric::counter("poetry_charfinder_queries_total", "Queries answered.");
        const MATCHES: Metric =
            Metric::counter("poetry_charfinder_matches_total", "Characters that queries have found.");
        const ROWS: Metric =
            Metric::counter("poetry_charfinder_rows_total", "Characters that were written down for somebody.");
        page.add(QUERIES, labels, self.queries.load(Relaxed));
        page.add(MATCHES, labels, self.matches.load(Relaxed));
        page.add(ROWS, labels, self.rows.load(Relaxed));
    }

    /// Adds lines of an answer, with these ends, until there are [`PIECE`] bytes; whether there may be more.
    fn add_lines(&self, rows: &mut Rows, end: &str, lines: &mut String) -> bool {
        let mut count = 0;
        let has_more = loop {
            if lines.len() >= PIECE {
                break true;
            }
            let Some(found) = rows.next() else { break false };
            found.push_line(lines, false);
            lines.push_str(end);
            count += 1;
        };
        self.rows.fetch_add(count, Relaxed);
        has_more
    }
}
