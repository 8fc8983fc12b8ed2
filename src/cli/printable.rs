//! Text from people and peers in a line for people: it stays one line, and no escape sequence gets through.

use std::borrow::Cow;
use std::fmt::Write as _;

/// The text with an escape (`\n`, `\x1b`, `\u{202e}`) in place of each character that ends a line or steers a terminal.
/// All others, in any script, stay readable as they are.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unprintable) {
        return Cow::Borrowed(text);
    }
    let mut printable = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        // Writing to a string cannot fail.
        let _ = match u8::try_from(c) {
            _ if !is_unprintable(c) => printable.write_char(c),
            Ok(byte) => write!(printable, "{}", byte.escape_ascii()),
            Err(_) => write!(printable, "{}", c.escape_unicode()),
        };
    }
    Cow::Owned(printable)
}

/// Control characters (C0, DEL and C1), the line and paragraph separators, and what turns the direction of text.
fn is_unprintable(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_breaks_lines_or_steers_terminals_is_escaped_and_names_stay_readable() {
        for (text, shown) in [
            ("poetry/sera.txt", "poetry/sera.txt"),
            ("Жди меня, 詩, e\u{301}tude \u{fffd} 'a' \\n", "Жди меня, 詩, e\u{301}tude \u{fffd} 'a' \\n"),
            ("a\nforged \u{1b}[31mred\r\t\u{7f}", r"a\nforged \x1b[31mred\r\t\x7f"),
            ("\u{85}\u{9b}31m", r"\x85\x9b31m"),
            ("\u{2028}\u{202e}txt.exe\u{2066}", r"\u{2028}\u{202e}txt.exe\u{2066}"),
        ] {
            assert_eq!(printable(text), shown);
        }
    }
}
