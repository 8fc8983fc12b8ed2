//! An inverted index: from a word to the characters that have it in their names, as ranges. What a query costs does not
//! depend on how much it finds, only on how many pieces that is in.

use std::collections::HashMap;

use super::names::{Entry, Line};
use super::query::{Query, Word};
use super::ranges::{Codes, Ranges};
use super::rules;
use super::show::Rows;

/// What can be looked up without reading.
#[derive(Debug)]
pub struct Index {
    /// All words of names that are written down, sorted, and who has them.
    words: Vec<(&'static str, Ranges)>,
    lines: Vec<Line>,
}

impl Index {
    /// Reads the names, which takes some milliseconds.
    pub fn new() -> Self {
        let mut words: HashMap<&str, Ranges> = HashMap::new();
        for entry in Entry::all() {
            for word in entry.words() {
                words.entry(word).or_default().push(entry.code, entry.code);
            }
        }
        let mut words: Vec<_> = words.into_iter().collect();
        words.sort_unstable_by_key(|(word, _)| *word);
        Self { words, lines: Line::all() }
    }

    /// The characters that a query asks for.
    pub fn find(&self, query: &Query) -> Ranges {
        query.intersection(|word| self.having(word))
    }

    /// The characters with these codes.
    pub fn rows(&'static self, codes: Codes) -> Rows {
        Rows::of_table(codes, &self.lines)
    }

    /// Those that have a word in their names.
    fn having(&self, word: &Word) -> Ranges {
        let first = self.words.partition_point(|(its, _)| **its < *word.text);
        let count = self.words[first..].iter().take_while(|(its, _)| word.is(its)).count();
        let by_rule = rules::find(&word.text, word.is_prefix);
        let written = self.words[first..first + count].iter().map(|(_, ranges)| ranges);
        Ranges::union(written.chain([&by_rule]))
    }

    /// The words, and how many characters have each, the most frequent first. Spellings of ideographs and syllables are no
    /// words.
    pub fn frequencies(&self) -> Vec<(&'static str, usize)> {
        let its_own = self.words.iter().map(|(word, _)| *word);
        let mut words: Vec<&str> = its_own.chain(rules::all_words()).collect();
        words.sort_unstable();
        words.dedup();
        let count = |word| self.having(&Word { text: String::from(word), is_prefix: false }).total();
        let mut counts: Vec<_> = words.into_iter().map(|word| (word, count(word))).collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        counts
    }
}

impl Default for Index {
    fn default() -> Self {
        Self::new()
    }
}
