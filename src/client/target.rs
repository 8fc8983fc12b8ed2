//! What a client is to fetch: the source of a poem, and a name for it if it has one: `donne=10001`.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use super::source::{FORMS, Source, SourceError};

/// A target of a client as somebody wrote it: the source of a poem, with `NAME=` before it or without.
///
/// The name is a label in pictures and reports, and nothing else; several targets may have the same one.
/// [`fmt::Display`] writes a form that can be parsed again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The name, not empty.
    pub name: Option<String>,
    /// Where the poem comes from.
    pub source: Source,
}

/// Why a text is no [`Target`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// The name cannot be one.
    #[error("{0}; {FORMS}")]
    Name(&'static str),
    /// The source is none.
    #[error(transparent)]
    Source(SourceError),
}

/// The longest name, in characters. Pictures cut off longer ones than fit.
const LONGEST_NAME: usize = 64;

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let (name, source) = match text.split_once('=') {
            // A URL may have one in its path, or in its query.
            Some((start, _)) if start.contains("://") => (None, text),
            Some((name, source)) => (Some(name), source),
            None => (None, text),
        };
        if let Some(why) = name.and_then(unfit) {
            return Err(TargetError::Name(why));
        }
        if name.is_some() && source.split("://").next().is_some_and(|start| start.contains('=')) {
            return Err(TargetError::Name("a name has no ="));
        }
        let source = source.parse().map_err(TargetError::Source)?;
        Ok(Self { name: name.map(str::to_owned), source })
    }
}

/// Why a text is not to be the name of a poem. A name that could be a host or a port would say where a poem comes from,
/// and be believed: `poems.example=80` is port 80 of this machine.
fn unfit(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("no name before the =")
    } else if name.trim() != name {
        Some("the name begins or ends with a space")
    } else if name.chars().any(is_invisible) {
        Some("the name has a character that cannot be shown")
    } else if name.chars().count() > LONGEST_NAME {
        Some("the name is longer than 64 characters")
    } else if name.bytes().all(|byte| byte.is_ascii_digit()) {
        Some("the name is a number, as ports are")
    } else if name.eq_ignore_ascii_case("localhost") || could_be_a_host(name) {
        Some("the name could be a host")
    } else {
        None
    }
}

/// Whether a name looks like `poems.example`, `poems:80` or an IP address.
fn could_be_a_host(name: &str) -> bool {
    let is_domain = name.contains('.') && !name.contains(char::is_whitespace);
    is_domain || name.parse::<Ipv6Addr>().is_ok() || name.contains([':', '[', ']'])
}

/// Characters that end a line, steer a terminal, turn the direction of text or leave no trace (but those that join
/// letters); and those that XML 1.0 has no form for.
pub(super) fn is_invisible(c: char) -> bool {
    let code = u32::from(c);
    c.is_control()
        || matches!(code, 0x61c | 0xad | 0x200b | 0x200e..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0xfeff)
        || code & 0xfffe == 0xfffe
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = &self.name {
            write!(f, "{name}=")?;
        }
        self.source.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<(Option<String>, String), String> {
        match text.parse::<Target>() {
            Ok(target) => Ok((target.name, target.source.to_string())),
            Err(TargetError::Name(why)) => Err(why.to_owned()),
            Err(error) => Err(error.to_string().split(';').next().unwrap_or_default().to_owned()),
        }
    }

    #[test]
    fn a_name_may_stand_before_each_form_of_an_address() {
        for (text, name, address) in [
            ("10000", None, "127.0.0.1:10000"),
            ("[::1]:80", None, "[::1]:80"),
            ("donne=10000", Some("donne"), "127.0.0.1:10000"),
            ("John Donne, p. 7=poems.example:80", Some("John Donne, p. 7"), "poems.example:80"),
            ("詩=[::1]:80", Some("詩"), "[::1]:80"),
            ("2nd=9", Some("2nd"), "127.0.0.1:9"),
            ("http://poems.example/donne", None, "http://poems.example/donne"),
            ("http://poems.example/a=b?c=d", None, "http://poems.example/a=b?c=d"),
            ("donne=HTTP://poems.example:80?c=d", Some("donne"), "http://poems.example/?c=d"),
        ] {
            assert_eq!(parse(text), Ok((name.map(str::to_owned), address.to_owned())), "{text}");
        }
    }

    #[test]
    fn the_reason_for_a_refusal_is_the_real_one() {
        for (text, why) in [
            ("foo", "no port"),
            ("=10000", "no name before the ="),
            ("donne=", "no port"),
            ("donne=poems", "no port"),
            ("donne=keats=10000", "a name has no ="),
            ("donne==10000", "a name has no ="),
            (" donne=10000", "the name begins or ends with a space"),
            ("don\u{1b}[31mne=1", "the name has a character that cannot be shown"),
            ("don\nne=1", "the name has a character that cannot be shown"),
            ("don\u{202e}ne=1", "the name has a character that cannot be shown"),
            ("don\u{200b}ne=1", "the name has a character that cannot be shown"),
            ("don\u{ffff}ne=1", "the name has a character that cannot be shown"),
            ("10001=10000", "the name is a number, as ports are"),
            ("poems.example=80", "the name could be a host"),
            ("LocalHost=80", "the name could be a host"),
            ("10.0.0.7=80", "the name could be a host"),
            ("127.0.0.1:80=80", "the name could be a host"),
            ("poems:80=80", "the name could be a host"),
            ("::1=80", "the name could be a host"),
            ("a=b=http://poems.example/", "a name has no ="),
            ("donne=https://poems.example/", "https is not spoken here"),
        ] {
            assert_eq!(parse(text).expect_err(text), why, "{text}");
        }
        assert!(parse(&format!("{}=1", "é".repeat(LONGEST_NAME))).is_ok());
        let long = format!("{}=1", "é".repeat(LONGEST_NAME + 1));
        assert_eq!(parse(&long).expect_err("too long"), "the name is longer than 64 characters");
    }

    proptest! {
        #[test]
        fn what_is_shown_parses_to_the_same(text in "(\\PC{0,9}=)?(http://)?[a-z]{1,9}:[1-9](/[a-z=?]{0,9})?") {
            if let Ok(target) = text.parse::<Target>() {
                prop_assert_eq!(&target, &target.to_string().parse::<Target>().expect("shown"));
            }
        }
    }
}
