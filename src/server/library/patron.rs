//! A patron, as requests and replies have it: JSON in, JSON out.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde_json::Value;

/// The longest name or dish, in bytes.
pub(super) const LONGEST_FIELD: usize = 64 << 10;

/// What a request says of a patron.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Patron {
    pub(super) name: String,
    pub(super) fav_dish: String,
}

/// Why a body is no patron.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadPatron {
    /// It cannot be read.
    #[error("{0}")]
    Json(String),
    /// It can, and something is wrong with one of its keys.
    #[error("{0}")]
    Key(String),
}

/// The members of an object, in their order.
struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::<(String, Value)>::new();
                while let Some((key, value)) = map.next_entry::<String, Value>()? {
                    // What two programs read differently is nothing to store (RFC 8259, section 4).
                    if members.iter().any(|(known, _)| *known == key) {
                        return Err(de::Error::custom(format_args!("the key {} is there twice", shown(&key))));
                    }
                    if members.len() == MOST_KEYS {
                        return Err(de::Error::custom("there are too many keys"));
                    }
                    members.push((key, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Each)
    }
}

/// Of an object with more, no one says which of them is wrong.
const MOST_KEYS: usize = 100;

/// A key as a part of a sentence.
fn shown(key: &str) -> String {
    let short: String = key.chars().take(40).collect();
    format!("{short:?}")
}

impl Patron {
    /// Reads the body of a request.
    pub(super) fn read(body: &[u8]) -> Result<Self, BadPatron> {
        let Members(members) = serde_json::from_slice(body)
            .map_err(|error| BadPatron::Json(format!("the body is no such object: {error}")))?;
        let (mut name, mut fav_dish) = (None, None);
        for (key, value) in members {
            let field = match &*key {
                "name" => &mut name,
                "fav_dish" => &mut fav_dish,
                _ => {
                    return Err(BadPatron::Key(format!(
                        "{} is no key of a patron: name and fav_dish are",
                        shown(&key)
                    )));
                }
            };
            let Value::String(text) = value else { return Err(BadPatron::Key(format!("{key} is not a string"))) };
            if text.len() > LONGEST_FIELD {
                return Err(BadPatron::Key(format!("{key} is longer than 64 KiB")));
            }
            if text.contains('\0') {
                return Err(BadPatron::Key(format!("{key} has a NUL in it, which PostgreSQL does not store")));
            }
            *field = Some(text);
        }
        let missing = |key| BadPatron::Key(format!("{key} is missing"));
        Ok(Self { name: name.ok_or_else(|| missing("name"))?, fav_dish: fav_dish.ok_or_else(|| missing("fav_dish"))? })
    }
}

/// The number of a patron in a path; `None`: no patron has such a one.
pub(super) fn id(text: &str) -> Option<i32> {
    let is_number = (1..=10).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_canonical = text == "0" || !text.starts_with('0');
    text.parse().ok().filter(|_| is_number && is_canonical)
}

/// Adds a row as it is answered. A table of others may have NULL in it.
pub(super) fn add_row(json: &mut String, id: i32, name: Option<&str>, fav_dish: Option<&str>) {
    // A text can always be written as JSON.
    let text = |text: Option<&str>| serde_json::to_string(&text).unwrap_or_default();
    json.extend(["{\"id\":", &id.to_string(), ",\"name\":", &text(name), ",\"fav_dish\":", &text(fav_dish), "}"]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_body_is_a_patron_or_it_is_said_why_not() {
        let carol = Patron { name: "Carol".to_owned(), fav_dish: "SPAM Bruschetta".to_owned() };
        assert_eq!(Patron::read(br#"{"name": "Carol", "fav_dish": "SPAM Bruschetta"}"#), Ok(carol.clone()));
        assert_eq!(Patron::read(br#" {"fav_dish":"SPAM Bruschetta","n\u0061me":"Carol"} "#), Ok(carol));
        let long = format!(r#"{{"name": "{}", "fav_dish": ""}}"#, "x".repeat(LONGEST_FIELD + 1));
        for (body, why) in [
            (r#"{"name": "a"}"#, "fav_dish is missing"),
            ("{}", "name is missing"),
            (r#"{"name": 1, "fav_dish": "b"}"#, "name is not a string"),
            (r#"{"name": "a", "fav_dish": null}"#, "fav_dish is not a string"),
            (r#"{"name": "a", "fav_dish": ["b"]}"#, "fav_dish is not a string"),
            (r#"{"name": "a", "dish": "b"}"#, r#""dish" is no key of a patron: name and fav_dish are"#),
            (r#"{"name": "a\u0000b", "fav_dish": "b"}"#, "name has a NUL in it, which PostgreSQL does not store"),
            (&long, "name is longer than 64 KiB"),
        ] {
            assert_eq!(Patron::read(body.as_bytes()), Err(BadPatron::Key(why.to_owned())), "{body}");
        }
        for (body, part) in [
            (&b""[..], "EOF"),
            (b"[]", "invalid type: sequence, expected an object"),
            (b"name=Carol", "expected"),
            (br#"{"name": "a", "name": "b", "fav_dish": "c"}"#, "the key \"name\" is there twice"),
            (br#"{"name": "a", "fav_dish": "b"} x"#, "trailing characters"),
            (br#"{"name": "\ud800", "fav_dish": "b"}"#, "hex escape"),
            (b"{\"name\": \"\xff\", \"fav_dish\": \"b\"}", "invalid unicode"),
        ] {
            let error = Patron::read(body).expect_err("no patron");
            assert!(matches!(&error, BadPatron::Json(why) if why.contains(part)), "{error}");
        }
        let many: String = (0..101).map(|number| format!("\"{number}\":0,")).collect();
        assert!(matches!(Patron::read(format!("{{{many}\"\":0}}").as_bytes()), Err(BadPatron::Json(_))));
        let deep = format!(r#"{{"name": {}"#, "[".repeat(100_000));
        assert!(matches!(Patron::read(deep.as_bytes()), Err(BadPatron::Json(_))));
    }

    #[test]
    fn an_id_is_what_a_row_can_have() {
        for (text, number) in [("0", 0), ("37", 37), ("2147483647", i32::MAX)] {
            assert_eq!(id(text), Some(number));
        }
        for text in ["", "037", "00", "-1", "+1", "1 ", "2147483648", "99999999999", "1.0", "0x1", "\u{661}", "1;DROP"]
        {
            assert_eq!(id(text), None, "{text}");
        }
    }

    #[test]
    fn a_row_is_written_in_its_order() {
        let mut json = String::new();
        add_row(&mut json, 37, Some("Carol \"C\""), None);
        assert_eq!(json, r#"{"id":37,"name":"Carol \"C\"","fav_dish":null}"#);
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_again(name in "[^\0]*", fav_dish in "[^\0]*") {
            let mut json = String::new();
            add_row(&mut json, 1, Some(&name), Some(&fav_dish));
            let body = json.replacen("\"id\":1,", "", 1);
            prop_assert_eq!(Patron::read(body.as_bytes()), Ok(Patron { name, fav_dish }));
        }

        #[test]
        fn nothing_that_comes_makes_it_panic(body in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Patron::read(&body);
        }
    }
}
