//! Characters, queries and answers as people and programs get to see them: nothing of it can hide, move or break what is
//! around it.

use std::fmt::{self, Write as _};
use std::io;

use serde::{Serialize, Serializer};
use serde_json::ser::Formatter;

use super::category::Category;
use super::hex::Hex;
use super::names::{self, Line, Title, Titles};
use super::ranges::Codes;

/// What a mark is put on.
const DOTTED_CIRCLE: char = '\u{25cc}';

/// A character with its code and its name. There are many of them: what they are made of is added to a text that is there,
/// without the machinery of formatting.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    code: u32,
    title: Title,
}

impl Found {
    /// Its code point.
    pub fn code(&self) -> u32 {
        self.code
    }

    /// Adds the line for it, without an end: code, character and name, parted by tabs. `is_raw`: the character as it is.
    pub fn push_line(&self, line: &mut String, is_raw: bool) {
        let begin = line.len();
        self.push_code(line);
        // Seven columns, of which all but the longest codes leave something.
        while line.len() < begin + 7 {
            line.push(' ');
        }
        line.push('\t');
        match char::from_u32(self.code).filter(|_| is_raw) {
            Some(character) => line.push(character),
            None => self.push_shown(line),
        }
        line.push('\t');
        self.push_name(line);
    }

    /// Adds `U+265C`.
    pub fn push_code(&self, text: &mut String) {
        text.push_str("U+");
        text.push_str(Hex::new(self.code).as_str());
    }

    /// Adds a character that stands alone: a mark on a dotted circle, a control as its picture, and what cannot be seen, or
    /// changes the direction or the line, as U+FFFD.
    pub fn push_shown(&self, text: &mut String) {
        let character = char::from_u32(self.code).unwrap_or(char::REPLACEMENT_CHARACTER);
        match Category::of(self.code) {
            Category::Control if self.code < 0x20 => text.push(char::from_u32(0x2400 + self.code).unwrap_or(character)),
            Category::Control if self.code == 0x7f => text.push('\u{2421}'),
            Category::Control | Category::Format => text.push(char::REPLACEMENT_CHARACTER),
            Category::Mark => text.extend([DOTTED_CIRCLE, character]),
            Category::Space | Category::Other => text.push(character),
        }
    }

    /// Adds its name: letters, digits, spaces, hyphens and parentheses, all of them ASCII.
    pub fn push_name(&self, text: &mut String) {
        self.title.push_to(text);
    }

    /// Its name.
    #[cfg(test)]
    pub(super) fn name(&self) -> String {
        self.title.to_string()
    }
}

/// The characters of an answer, one after another, each found when it is asked for.
#[derive(Debug, Clone)]
pub struct Rows {
    codes: Codes,
    titles: Titles,
}

impl Rows {
    /// Those with these codes, for a process that looks up only some names.
    pub fn new(codes: Codes) -> Self {
        Self { codes, titles: Titles::default() }
    }

    /// Those with these codes, whose names are in this table.
    pub(super) fn of_table(codes: Codes, lines: &'static [Line]) -> Self {
        Self { codes, titles: Titles::new(lines) }
    }
}

impl Iterator for Rows {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        let code = self.codes.next()?;
        Some(Found { code, title: self.titles.title(code)? })
    }
}

/// A text of which no character changes what is around it: those that would are U+FFFD.
pub fn harmless(text: &str) -> String {
    let shown = |character: char| match Category::of(character.into()) {
        Category::Control | Category::Format => char::REPLACEMENT_CHARACTER,
        Category::Mark | Category::Space | Category::Other => character,
    };
    text.chars().map(shown).collect()
}

/// A text in quotes as Python's `repr` puts it: what cannot be printed is escaped.
#[derive(Debug, Clone, Copy)]
pub struct Quoted<'a>(pub &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quote = if self.0.contains('\'') && !self.0.contains('"') { '"' } else { '\'' };
        f.write_char(quote)?;
        for character in self.0.chars() {
            match character {
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                '\\' => f.write_str("\\\\")?,
                _ if character == quote => write!(f, "\\{quote}")?,
                _ if is_printable(character) => f.write_char(character)?,
                _ => match u32::from(character) {
                    code @ ..=0xff => write!(f, "\\x{code:02x}")?,
                    code @ ..=0xffff => write!(f, "\\u{code:04x}")?,
                    code => write!(f, "\\U{code:08x}")?,
                },
            }
        }
        f.write_char(quote)
    }
}

fn is_printable(character: char) -> bool {
    match character {
        ' '..='~' => true,
        _ => match Category::of(character.into()) {
            Category::Control | Category::Format | Category::Space => false,
            Category::Mark | Category::Other => names::title(character.into()).is_some(),
        },
    }
}

/// How much was found: `No match for 'x'`, `1 match for 'x'`, `627 matches for 'x'`.
#[derive(Debug, Clone, Copy)]
pub struct Status<'a> {
    /// Characters.
    pub total: usize,
    /// What was asked.
    pub query: &'a str,
}

impl fmt::Display for Status<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.total {
            0 => f.write_str("No match")?,
            1 => f.write_str("1 match")?,
            total => write!(f, "{total} matches")?,
        }
        write!(f, " for {}", Quoted(self.query))
    }
}

/// An answer for programs, or a page of one.
#[derive(Debug, Serialize)]
pub struct Answer<'a, I: Iterator<Item = Found> + Clone> {
    /// What was asked.
    pub query: &'a str,
    /// Characters that were found.
    pub total: usize,
    /// How many of them come before these.
    pub start: usize,
    /// These.
    #[serde(serialize_with = "each")]
    pub items: I,
}

fn each<S: Serializer, I: Iterator<Item = Found> + Clone>(items: &I, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(items.clone())
}

impl Serialize for Found {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Item {
            code: String,
            char: Option<char>,
            name: String,
        }
        let mut item = Item { code: String::new(), char: char::from_u32(self.code), name: String::new() };
        self.push_code(&mut item.code);
        self.push_name(&mut item.name);
        item.serialize(serializer)
    }
}

impl<I: Iterator<Item = Found> + Clone> Answer<'_, I> {
    /// Writes it as JSON, in which all that cannot stand alone is escaped.
    ///
    /// # Errors
    /// Those of `writer`.
    pub fn write_json(&self, writer: impl io::Write) -> io::Result<()> {
        Ok(self.serialize(&mut serde_json::Serializer::with_formatter(writer, Escaping))?)
    }
}

/// Compact JSON with escapes for what a terminal or an editor could fall for.
struct Escaping;

impl Formatter for Escaping {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut plain = 0;
        for (at, character) in fragment.char_indices() {
            if matches!(Category::of(character.into()), Category::Other | Category::Space) {
                continue;
            }
            writer.write_all(&fragment.as_bytes()[plain..at])?;
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            plain = at + character.len_utf8();
        }
        writer.write_all(&fragment.as_bytes()[plain..])
    }
}
