//! Stamps: a number, a sender and a time before a message, by which who gets it can tell what is missing, and how late it is.
//!
//! ```text
//! 17 ab12cd34 1700000000123456789 Had I the heavens embroidered cloths
//! ── ──────── ─────────────────── ────────────────────────────────────
//!  │    │      nanoseconds of the Unix epoch       the message
//!  │   sender
//! from 1
//! ```

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What stands before a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp<'a> {
    /// The number of the message among those of its sender, from 1.
    pub number: u64,
    /// Who sent it: printable, and without a space.
    pub sender: &'a str,
    /// When, since the Unix epoch, by the clock of the sender's machine.
    pub sent: Duration,
}

/// The longest name of a sender, in bytes.
pub const LONGEST_SENDER: usize = 64;

impl<'a> Stamp<'a> {
    /// Takes the stamp off the front of a message; `None`: it has none.
    pub fn read(message: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let mut rest = message;
        let [number, sender, sent] = [next(&mut rest)?, next(&mut rest)?, next(&mut rest)?];
        let is_name = !sender.is_empty() && sender.len() <= LONGEST_SENDER && sender.iter().all(u8::is_ascii_graphic);
        let number = whole(number).filter(|&number| number > 0)?;
        let sent = Duration::from_nanos(whole(sent)?);
        is_name.then_some(())?;
        Some((Self { number, sender: str::from_utf8(sender).ok()?, sent }, rest))
    }

    /// The stamp as it stands before a message, its space included.
    pub fn text(&self) -> String {
        format!("{} {} {} ", self.number, self.sender, self.sent.as_nanos())
    }
}

/// The word up to the next space, which is taken off.
fn next<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let space = rest.iter().position(|&byte| byte == b' ')?;
    let word = &rest[..space];
    *rest = &rest[space + 1..];
    Some(word)
}

fn whole(digits: &[u8]) -> Option<u64> {
    let is_digits = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    str::from_utf8(digits).ok().filter(|_| is_digits)?.parse().ok()
}

/// The time now, since the Unix epoch.
pub fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_that_is_written_is_read() {
        let stamp = Stamp { number: 17, sender: "ab12cd34", sent: Duration::from_nanos(1_700_000_000_123_456_789) };
        assert_eq!(stamp.text(), "17 ab12cd34 1700000000123456789 ");
        for rest in ["", "a poem", " two  spaces"] {
            let message = format!("{}{rest}", stamp.text());
            assert_eq!(Stamp::read(message.as_bytes()), Some((stamp, rest.as_bytes())));
        }
    }

    #[test]
    fn what_is_no_stamp_is_none() {
        for message in [
            "",
            "Had I the heavens",
            "1 a",
            "1 a 2",
            "0 a 2 ",
            "+1 a 2 ",
            "1  2 ",
            "1 \u{e9} 2 ",
            "1 a -2 ",
            "1 a 99999999999999999999 ",
            "x a 1 ",
        ] {
            assert_eq!(Stamp::read(message.as_bytes()), None, "{message}");
        }
        let long = format!("1 {} 2 ", "a".repeat(LONGEST_SENDER + 1));
        assert_eq!(Stamp::read(long.as_bytes()), None);
    }
}
