//! One pass over the names: for a process that is asked once, that is less work than to build an [`Index`](super::Index).

use memchr::memmem;

use super::names::{Entry, TEXT, entry_in, line_around};
use super::query::{Query, Word};
use super::ranges::Ranges;
use super::rules;
use super::words::is_part_of_word;

/// The characters that a query asks for.
pub fn find(query: &Query) -> Ranges {
    let by_rule = query.intersection(|word| rules::find(&word.text, word.is_prefix));
    // The longest word is in the fewest names.
    let Some(needle) = query.words.iter().max_by_key(|word| word.text.len()) else { return by_rule };
    let mut written = Ranges::default();
    let mut done = 0;
    for at in memmem::find_iter(TEXT.as_bytes(), &needle.text) {
        if at < done || !is_word(at, needle) {
            continue;
        }
        let (begin, end) = line_around(at);
        let Some(entry) = entry_in(begin, end).filter(|entry| has_all(entry, query)) else { continue };
        written.push(entry.code, entry.code);
        done = end;
    }
    Ranges::union([&written, &by_rule])
}

/// Whether the bytes there are a word, and not a part of one.
fn is_word(at: usize, word: &Word) -> bool {
    let is_part = |byte: Option<&u8>| byte.is_some_and(|&byte| is_part_of_word(byte.into()));
    let (before, after) = (at.checked_sub(1), at + word.text.len());
    !before.is_some_and(|before| is_part(TEXT.as_bytes().get(before)))
        && (word.is_prefix || !is_part(TEXT.as_bytes().get(after)))
}

fn has_all(entry: &Entry, query: &Query) -> bool {
    query.codes.as_ref().is_none_or(|codes| codes.contains(entry.code))
        && query.words.iter().all(|word| entry.words().any(|its| word.is(its)))
}
