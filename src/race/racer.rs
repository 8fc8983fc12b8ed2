//! Who takes part in a race: one of our models of waiting, or a client of which only its name is known.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::client::{Concurrency, Model};

/// Who takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Racer {
    /// The client of this model.
    Ours(Model),
    /// A client that is not ours.
    Theirs(Name),
}

/// The name of a client that is not ours: a letter, and then letters and digits, at most 32 in all; and none that means
/// something else in a race. As small as that, it is a value like a model.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Name {
    bytes: [u8; Self::LONGEST],
    length: usize,
}

/// Words of assertions that are no models.
pub(super) const BOUND: &str = "bound";

impl Racer {
    /// The name in tables, pictures and files.
    pub fn name(&self) -> &str {
        match self {
            Self::Ours(model) => model.name(),
            Self::Theirs(name) => name.as_str(),
        }
    }

    /// How many poems it can have under way at once, if so many may be. Nobody knows that of a client that is not ours: the
    /// best that it could be is to have all.
    pub fn concurrency(self, allowed: Concurrency) -> Concurrency {
        match self {
            Self::Ours(model) => model.concurrency(allowed),
            Self::Theirs(_) => Concurrency::Together(std::num::NonZeroUsize::MAX),
        }
    }
}

impl From<Model> for Racer {
    fn from(model: Model) -> Self {
        Self::Ours(model)
    }
}

impl PartialEq<Model> for Racer {
    fn eq(&self, model: &Model) -> bool {
        *self == Self::Ours(*model)
    }
}

impl fmt::Display for Racer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name.
impl Serialize for Racer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl Name {
    /// The most letters and digits.
    pub const LONGEST: usize = 32;

    /// The name that this text is; `None`: it is none, or means something else.
    pub fn new(text: &str) -> Option<Self> {
        Some(text).filter(|text| Self::is_word(text) && !Self::is_taken(text))?;
        let mut bytes = [0; Self::LONGEST];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Some(Self { bytes, length: text.len() })
    }

    /// Whether it has the form of a name.
    pub(super) fn is_word(text: &str) -> bool {
        text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text.len() <= Self::LONGEST
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
    }

    /// Whether it means something else.
    pub(super) fn is_taken(text: &str) -> bool {
        text == BOUND || Model::ALL.into_iter().any(|model| model.name() == text)
    }

    fn as_str(&self) -> &str {
        // All of it is ASCII.
        std::str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_word_that_means_nothing_else() {
        let longest = "a".repeat(Name::LONGEST);
        for text in ["python", "Go2", "x", &longest] {
            let racer = Racer::Theirs(Name::new(text).expect(text));
            assert_eq!((racer.name(), racer.to_string().as_str()), (text, text));
        }
        for text in ["", "2go", "my-client", "é", "bound", "async", "a b", &format!("{longest}a")] {
            assert_eq!(Name::new(text), None, "{text}");
        }
        assert!(Racer::from(Model::Async) == Model::Async && Racer::from(Model::Async).name() == "async");
    }
}
