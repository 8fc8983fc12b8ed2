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

/// A character that stands alone: a mark on a dotted circle, a control as its picture, and what cannot be seen, or changes
/// the direction or the line, as U+FFFD.
#[derive(Debug, Clone, Copy)]
pub struct Shown(pub u32);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(code) = *self;
        let character = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
        match Category::of(code) {
            Category::Control if code < 0x20 => f.write_char(char::from_u32(0x2400 + code).unwrap_or(character)),
            Category::Control if code == 0x7f => f.write_char('\u{2421}'),
            Category::Control | Category::Format => f.write_char(char::REPLACEMENT_CHARACTER),
            Category::Mark => write!(f, "{DOTTED_CIRCLE}{character}"),
            Category::Space | Category::Other => f.write_char(character),
        }
    }
}

/// A character with its code and its name.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    /// Its code point.
    pub code: u32,
    /// Its name.
    pub title: Title,
}

impl Found {
    /// Adds the line for it, without an end: code, character and name, parted by tabs. `is_raw`: the character as it is.
    pub fn write_line(&self, line: &mut String, is_raw: bool) {
        let Self { code, title } = *self;
        let digits = Hex::new(code);
        line.push_str("U+");
        line.push_str(digits.as_str());
        // Seven columns, which all but the longest codes leave something of.
        line.push_str(if digits.as_str().len() == 4 { " \t" } else { "\t" });
        // Writing to a text cannot fail.
        let _ = match char::from_u32(code).filter(|_| is_raw) {
            Some(character) => write!(line, "{character}\t{title}"),
            None => write!(line, "{}\t{title}", Shown(code)),
        };
    }
}

/// `U+265C`.
#[derive(Debug, Clone, Copy)]
pub struct Code(pub u32);

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("U+").and_then(|()| f.write_str(Hex::new(self.0).as_str()))
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
        let (code, name) = (Code(self.code).to_string(), self.title.to_string());
        Item { code, char: char::from_u32(self.code), name }.serialize(serializer)
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
            writer.write_all(fragment[plain..at].as_bytes())?;
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            plain = at + character.len_utf8();
        }
        writer.write_all(fragment[plain..].as_bytes())
    }
}
