//! Bytes as text: UTF-8, or Latin-1 where that was declared.

use std::borrow::Cow;

use super::quote::quoted;

/// How the characters of a text are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Charset {
    /// UTF-8, and ASCII, which is a part of it.
    Utf8,
    /// ISO-8859-1 as everybody reads it: as windows-1252 (Encoding Standard, section 4.2).
    Latin1,
}

/// Why bytes are no text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoText {
    /// Another encoding was declared.
    #[error("its encoding is {0}, and neither UTF-8 nor Latin-1")]
    Encoding(String),
    /// They are no UTF-8, and no other encoding was declared.
    #[error("it is not UTF-8")]
    NotUtf8,
    /// A byte that no text has.
    #[error("it has a NUL")]
    Nul,
}

/// The longest name of an encoding that is told.
const LONGEST_LABEL: usize = 40;

/// What windows-1252 has in the place of the controls from 0x80 on.
const HIGH: [char; 32] = [
    '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}', '\u{90}', '‘', '’',
    '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
];

impl Charset {
    /// The encoding of this name.
    ///
    /// # Errors
    /// It is neither of the two.
    pub(super) fn of(label: &str) -> Result<Self, NoText> {
        match &*label.trim().to_ascii_lowercase() {
            "utf-8" | "utf8" | "us-ascii" | "ascii" => Ok(Self::Utf8),
            "iso-8859-1" | "iso8859-1" | "iso_8859-1" | "latin1" | "latin-1" | "l1" | "windows-1252" | "cp1252" => {
                Ok(Self::Latin1)
            }
            _ => Err(NoText::Encoding(quoted(label.trim().chars().take(LONGEST_LABEL).collect::<String>().as_bytes()))),
        }
    }

    /// These bytes as text, without a byte order mark.
    ///
    /// # Errors
    /// They are none.
    pub(super) fn decode(self, bytes: &[u8]) -> Result<Cow<'_, str>, NoText> {
        if bytes.contains(&0) {
            return Err(NoText::Nul);
        }
        match self {
            Self::Utf8 => {
                let text = str::from_utf8(bytes).map_err(|_| NoText::NotUtf8)?;
                Ok(Cow::Borrowed(text.strip_prefix('\u{feff}').unwrap_or(text)))
            }
            Self::Latin1 => Ok(bytes.iter().map(|&byte| latin1(byte)).collect::<String>().into()),
        }
    }
}

fn latin1(byte: u8) -> char {
    match byte {
        0x80..0xa0 => HIGH[usize::from(byte - 0x80)],
        byte => byte.into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn encodings_have_many_names() {
        for label in ["UTF-8", "utf8", " us-ascii "] {
            assert_eq!(Charset::of(label), Ok(Charset::Utf8), "{label}");
        }
        for label in ["ISO-8859-1", "latin1", "Windows-1252"] {
            assert_eq!(Charset::of(label), Ok(Charset::Latin1), "{label}");
        }
        assert_eq!(Charset::of("KOI8-R").map_err(|why| why.to_string()), {
            Err("its encoding is KOI8-R, and neither UTF-8 nor Latin-1".to_owned())
        });
        let Err(NoText::Encoding(told)) = Charset::of(&"x".repeat(1_000)) else { panic!("it is none") };
        assert_eq!(told.len(), LONGEST_LABEL);
    }

    #[test]
    fn text_is_decoded_as_it_was_declared() {
        assert_eq!(Charset::Utf8.decode("\u{feff}Вечер".as_bytes()).as_deref(), Ok("Вечер"));
        assert_eq!(Charset::Utf8.decode(b"caf\xe9"), Err(NoText::NotUtf8));
        assert_eq!(Charset::Latin1.decode(b"caf\xe9 \x80 \x93x\x94").as_deref(), Ok("café € “x”"));
        for charset in [Charset::Utf8, Charset::Latin1] {
            assert_eq!(charset.decode(b"a\0b"), Err(NoText::Nul));
        }
    }

    proptest! {
        #[test]
        fn latin_1_has_a_character_for_each_byte(bytes in proptest::collection::vec(1u8.., 0..300)) {
            let text = Charset::Latin1.decode(&bytes).expect("no NUL");
            prop_assert_eq!(text.chars().count(), bytes.len());
        }
    }
}
