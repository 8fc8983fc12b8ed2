//! What somebody looks for: words, beginnings of words, and characters themselves.

use super::names;
use super::ranges::{Range, Ranges};
use super::words::is_part_of_word;

/// The most words of a query; no name has so many.
pub(super) const MOST_WORDS: usize = 32;

/// What a character has to be to be found. The default asks for nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    text: String,
    /// All of them have to be in its names.
    pub(super) words: Vec<Word>,
    /// It has to be one of these, if there are any.
    pub(super) codes: Option<Ranges>,
}

/// A word in upper case, as names have them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) text: String,
    /// Whether a name may have a longer one that begins so.
    pub(super) is_prefix: bool,
}

impl Word {
    pub(super) fn is(&self, word: &str) -> bool {
        if self.is_prefix { word.starts_with(&self.text) } else { word == self.text }
    }
}

/// Why something is no query.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Beyond the last code point.
    #[error("{0} is no code point: the last one is U+10FFFF")]
    NoCodePoint(String),
    /// More than any name has.
    #[error("more than {MOST_WORDS} words")]
    TooManyWords,
}

impl Query {
    /// Reads a query. `cat face` asks for both words, `cat*` for words that begin so; the case does not matter, and what is
    /// neither letter, digit nor low line separates words. `U+265C` and `♜` ask for the character; of several any is right.
    ///
    /// # Errors
    /// There is no such code point, or there are too many words.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let text = text.trim_matches(|c: char| c.is_whitespace() || ('\x1c'..='\x1f').contains(&c));
        let mut query = Self { text: text.to_owned(), words: Vec::new(), codes: None };
        let mut codes: Vec<Range> = Vec::new();
        for part in text.split_whitespace() {
            if let Some(code) = code_point(part) {
                codes.push(code?);
            } else if !part.chars().any(|c| c.is_ascii()) {
                codes.extend(part.chars().map(|c| Range { first: c.into(), last: c.into() }));
            } else {
                query.add_words(part);
            }
        }
        if query.words.len() > MOST_WORDS {
            return Err(Malformed::TooManyWords);
        }
        if !codes.is_empty() {
            codes.sort();
            query.codes = Some(codes.into_iter().collect());
        }
        Ok(query)
    }

    fn add_words(&mut self, mut part: &str) {
        while let Some(begin) = part.find(is_part_of_word) {
            part = &part[begin..];
            let end = part.find(|c| !is_part_of_word(c)).unwrap_or(part.len());
            let word = Word { text: part[..end].to_ascii_uppercase(), is_prefix: part[end..].starts_with('*') };
            part = &part[end..];
            if !self.words.contains(&word) {
                self.words.push(word);
            }
        }
    }

    /// As it was asked, without white space around it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it asks for nothing.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty() && self.codes.is_none()
    }

    /// The characters for which all is right, from those that have each of the words.
    pub(super) fn intersection(&self, find: impl Fn(&Word) -> Ranges) -> Ranges {
        let mut words = self.words.iter();
        let mut found = match (&self.codes, words.next()) {
            (Some(codes), None) => return named(codes),
            (Some(codes), Some(word)) => find(word).intersection(codes),
            (None, Some(word)) => find(word),
            (None, None) => return Ranges::default(),
        };
        for word in words {
            if found.is_empty() {
                break;
            }
            found = found.intersection(&find(word));
        }
        found
    }
}

/// Those that have a name.
fn named(codes: &Ranges) -> Ranges {
    let has_name = |code: &u32| names::title(*code).is_some();
    codes.clone().into_codes(0).filter(has_name).map(|code| Range { first: code, last: code }).collect()
}

/// `U+` and hexadecimal digits; `None`: that is none.
fn code_point(part: &str) -> Option<Result<Range, Malformed>> {
    let hex = part.strip_prefix("U+").or_else(|| part.strip_prefix("u+"))?;
    if hex.is_empty() || !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    Some(match u32::from_str_radix(hex, 16) {
        Ok(code @ 0..=0x10_ffff) => Ok(Range { first: code, last: code }),
        _ => Err(Malformed::NoCodePoint(part.to_owned())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words, prefixes with a `*`, and how many characters it names.
    fn parsed(text: &str) -> (Vec<String>, Option<usize>) {
        let query = Query::parse(text).expect("a query");
        let word = |word: &Word| word.text.clone() + if word.is_prefix { "*" } else { "" };
        (query.words.iter().map(word).collect(), query.codes.map(|codes| codes.total()))
    }

    #[test]
    fn words_are_what_is_between_other_things() {
        let words = |words: &[&str]| (words.iter().map(|&word| word.to_owned()).collect(), None);
        assert_eq!(parsed("cat Face"), words(&["CAT", "FACE"]));
        assert_eq!(parsed(" no-break\tspace, cat* "), words(&["NO", "BREAK", "SPACE", "CAT*"]));
        assert_eq!(parsed("cat cat* cat CAT"), words(&["CAT", "CAT*"]));
        assert_eq!(parsed("a_b *c d** U+ U+12G"), words(&["A_B", "C", "D*", "U", "12G"]));
        assert_eq!(parsed("jabberwocky's café"), words(&["JABBERWOCKY", "S", "CAFé"]));
        assert_eq!(parsed("!!! * -"), words(&[]));
        assert!(Query::parse("!!! \x1c").is_ok_and(|query| query.is_empty() && query.text() == "!!!"));
    }

    #[test]
    fn characters_are_themselves() {
        assert_eq!(parsed("♜ black"), (vec!["BLACK".to_owned()], Some(1)));
        assert_eq!(parsed("♜ U+265C u+2C ♞♞"), (Vec::new(), Some(3)));
        assert_eq!(parsed("👩‍🚀"), (Vec::new(), Some(3)));
        assert_eq!(parsed("U+10FFFF U+00000041"), (Vec::new(), Some(2)));
        for code in ["U+110000", "u+ffffffffffffffffffff"] {
            let why = format!("{code} is no code point: the last one is U+10FFFF");
            assert_eq!(Query::parse(code).expect_err("beyond").to_string(), why);
        }
    }

    #[test]
    fn a_query_has_not_too_many_words() {
        let words = |count: usize| (0..count).map(|n| format!("w{n} ")).collect::<String>();
        assert!(Query::parse(&words(MOST_WORDS)).is_ok());
        assert_eq!(Query::parse(&words(MOST_WORDS + 1)), Err(Malformed::TooManyWords));
        assert!(Query::parse(&"again ".repeat(1_000)).is_ok());
    }
}
