//! Names that follow from codes: those of ideographs end with the code, those of Hangul syllables with their letters
//! (The Unicode Standard, section 4.8, rules NR1 and NR2). So 114,173 names are fourteen lines.

use std::sync::LazyLock;

use super::hex::Hex;
use super::ranges::{Range, Ranges};
use super::words::words;

/// `FIRST..LAST PREFIX*`, sorted.
static TEXT: &str = include_str!("../../assets/unicode/ranges.txt");

static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| TEXT.lines().filter_map(Rule::parse).collect());

/// The letters of Hangul as syllables spell them: initial consonants, vowels, final consonants.
const LETTERS: [&[&str]; 3] = [
    &["G", "GG", "N", "D", "DD", "R", "M", "B", "BB", "S", "SS", "", "J", "JJ", "C", "K", "T", "P", "H"],
    &[
        "A", "AE", "YA", "YAE", "EO", "E", "YEO", "YE", "O", "WA", "WAE", "OE", "YO", "U", "WEO", "WE", "WI", "YU",
        "EU", "YI", "I",
    ],
    &[
        "", "G", "GG", "GS", "N", "NJ", "NH", "D", "L", "LG", "LM", "LB", "LS", "LT", "LP", "LH", "M", "B", "BS", "S",
        "SS", "NG", "J", "C", "K", "T", "P", "H",
    ],
];

/// A range of characters whose names follow from their codes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rule {
    pub(super) range: Range,
    prefix: &'static str,
}

impl Rule {
    fn parse(line: &'static str) -> Option<Self> {
        let (range, prefix) = line.strip_suffix('*')?.split_once(' ')?;
        let (first, last) = range.split_once("..")?;
        let code = |hex| u32::from_str_radix(hex, 16).ok();
        Some(Self { range: Range { first: code(first)?, last: code(last)? }, prefix })
    }

    /// The rule for a character; `None`: its name is written down, or it has none.
    pub(super) fn of(code: u32) -> Option<&'static Self> {
        RULES.iter().find(|rule| rule.has(code))
    }

    /// Whether it has the name of a character.
    pub(super) fn has(&self, code: u32) -> bool {
        (self.range.first..=self.range.last).contains(&code)
    }

    fn spells_codes(&self) -> bool {
        self.prefix.ends_with('-')
    }

    /// Adds the name of one of its characters to a text.
    pub(super) fn push_name(&self, code: u32, text: &mut String) {
        text.push_str(self.prefix);
        if self.spells_codes() {
            return text.push_str(Hex::new(code).as_str());
        }
        let at = (code - self.range.first) as usize;
        let [_, vowels, finals] = LETTERS.map(<[_]>::len);
        let (initial, vowel, last) = (at / finals / vowels, at / finals % vowels, at % finals);
        text.extend([LETTERS[0][initial], LETTERS[1][vowel], LETTERS[2][last]]);
    }

    /// Those of its characters that are spelled like this, or whose spelling begins so.
    fn spelled(&self, word: &str, is_prefix: bool) -> Vec<Range> {
        match self.spells_codes() {
            true => self.coded(word, is_prefix),
            false => self.syllables(word, is_prefix),
        }
    }

    fn coded(&self, hex: &str, is_prefix: bool) -> Vec<Range> {
        let Ok(number) = u32::from_str_radix(hex, 16) else { return Vec::new() };
        if hex.starts_with(['+', '0']) || hex.len() > 5 {
            return Vec::new();
        }
        let missing = if is_prefix { hex.len()..=5 } else { hex.len()..=hex.len() };
        // Codes have four digits, or five.
        let of_length = |digits: usize| {
            let shift = 4 * (digits - hex.len());
            let (first, last) = (number << shift, (number << shift) | ((1 << shift) - 1));
            Range { first: first.max(self.range.first), last: last.min(self.range.last) }
        };
        missing.filter(|&digits| digits >= 4).map(of_length).filter(|range| range.first <= range.last).collect()
    }

    fn syllables(&self, letters: &str, is_prefix: bool) -> Vec<Range> {
        let [_, vowels, finals] = LETTERS.map(<[_]>::len);
        let mut found = Vec::new();
        let mut add = |first: usize, count: usize| {
            let at = |n: usize| self.range.first + u32::try_from(n).unwrap_or(u32::MAX);
            found.push(Range { first: at(first), last: at(first + count - 1) });
        };
        for (initial, rest) in spelled_on(LETTERS[0], letters, is_prefix) {
            let Some(rest) = rest else {
                add(initial * vowels * finals, vowels * finals);
                continue;
            };
            for (vowel, rest) in spelled_on(LETTERS[1], rest, is_prefix) {
                let first = (initial * vowels + vowel) * finals;
                match rest {
                    None => add(first, finals),
                    Some(rest) => spelled_on(LETTERS[2], rest, is_prefix)
                        .filter(|(_, rest)| rest.is_none_or(str::is_empty))
                        .for_each(|(last, _)| add(first + last, 1)),
                }
            }
        }
        found
    }
}

/// The parts with which a word can begin, and what is left of it then; `None`: a prefix ends within the part.
fn spelled_on<'a>(parts: &'a [&str], word: &'a str, is_prefix: bool) -> impl Iterator<Item = (usize, Option<&'a str>)> {
    parts.iter().enumerate().filter_map(move |(at, part)| match word.strip_prefix(part) {
        Some("") if is_prefix => Some((at, None)),
        Some(rest) => Some((at, Some(rest))),
        None => (is_prefix && part.starts_with(word)).then_some((at, None)),
    })
}

/// Characters that have this word in a name that follows from a code, or one that begins so.
pub(super) fn find(word: &str, is_prefix: bool) -> Ranges {
    let is_it = |its: &str| if is_prefix { its.starts_with(word) } else { its == word };
    let of_rule = |rule: &Rule| match words(rule.prefix).any(is_it) {
        true => vec![rule.range],
        false => rule.spelled(word, is_prefix),
    };
    let mut found: Vec<Range> = RULES.iter().flat_map(of_rule).collect();
    found.sort();
    found.into_iter().collect()
}

/// The words that all names of a rule have, by rule.
pub(super) fn all_words() -> impl Iterator<Item = &'static str> {
    RULES.iter().flat_map(|rule| words(rule.prefix))
}
