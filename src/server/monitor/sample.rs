//! A sample: what a server says once a second of what it does and what it costs. The form is that of the sender in
//! *Using Asyncio in Python*, chapter 4: `{"color": "red", "timestamp": "2026-11-27T21:50:22+00:00", "cpu": 1.5, "mem": 12.3}`.

use serde_json::{Map, Number, Value};

use crate::proto::timestamp;

/// The longest name of a source, in bytes.
const LONGEST_NAME: usize = 64;
/// The longest name of a number, in bytes.
const LONGEST_KEY: usize = 32;
/// The most numbers.
const MOST_NUMBERS: usize = 16;
/// The most events.
const MOST_EVENTS: usize = 8;
/// A clock that is off by more is told so.
const SKEW_MS: i64 = 2_000;

/// What a source has said.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample {
    /// The key of the source; for a browser, a colour if it is one.
    pub(super) color: String,
    /// What the source is called, if it says so.
    name: Option<String>,
    timestamp: String,
    /// The time of its clock, in milliseconds since 1970.
    said_at: i64,
    numbers: Vec<(String, Number)>,
    /// What was done with it since the last one.
    pub(super) events: Vec<String>,
}

/// Why a message is no sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Rejected {
    #[error("it is no JSON")]
    Json,
    #[error("it is no object")]
    Object,
    #[error("color is no text of 1 to {LONGEST_NAME} bytes")]
    Color,
    #[error("timestamp is no date and time as in RFC 3339")]
    Timestamp,
    #[error("name is no text of 1 to {LONGEST_NAME} bytes")]
    Name,
    #[error("events are not up to {MOST_EVENTS} texts of 1 to {LONGEST_NAME} bytes")]
    Events,
    #[error("a field is no number, or is not called by up to {LONGEST_KEY} letters and underscores")]
    Number,
    #[error("there are more than {MOST_NUMBERS} numbers")]
    Numbers,
    #[error("there are too many sources already")]
    Sources,
}

impl Rejected {
    pub(super) const ALL: [Self; 9] = [
        Self::Json,
        Self::Object,
        Self::Color,
        Self::Timestamp,
        Self::Name,
        Self::Events,
        Self::Number,
        Self::Numbers,
        Self::Sources,
    ];

    /// The word for it in metrics.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Object => "object",
            Self::Color => "color",
            Self::Timestamp => "timestamp",
            Self::Name => "name",
            Self::Events => "events",
            Self::Number => "number",
            Self::Numbers => "numbers",
            Self::Sources => "sources",
        }
    }
}

impl Sample {
    /// Reads a message.
    pub(super) fn parse(message: &[u8]) -> Result<Self, Rejected> {
        let Value::Object(fields) = serde_json::from_slice(message).map_err(|_| Rejected::Json)? else {
            return Err(Rejected::Object);
        };
        let (mut color, mut name, mut said, mut numbers, mut events) = (None, None, None, Vec::new(), Vec::new());
        for (key, value) in fields {
            match (&*key, value) {
                ("color", value) => color = Some(text(value).ok_or(Rejected::Color)?),
                ("name", value) => name = Some(text(value).ok_or(Rejected::Name)?),
                ("timestamp", Value::String(text)) => said = Some(text),
                ("timestamp", _) => return Err(Rejected::Timestamp),
                ("events", Value::Array(all)) if all.len() <= MOST_EVENTS => {
                    events = all.into_iter().map(text).collect::<Option<_>>().ok_or(Rejected::Events)?;
                }
                ("events", _) => return Err(Rejected::Events),
                // Those are ours to say.
                ("at" | "skew", _) => {}
                (_, Value::Number(number)) if is_key(&key) => numbers.push((key, number)),
                _ => return Err(Rejected::Number),
            }
        }
        if numbers.len() > MOST_NUMBERS {
            return Err(Rejected::Numbers);
        }
        let (color, timestamp) = (color.ok_or(Rejected::Color)?, said.ok_or(Rejected::Timestamp)?);
        let said_at = timestamp::parse(&timestamp).ok_or(Rejected::Timestamp)?;
        Ok(Self { color, name, timestamp, said_at, numbers, events })
    }

    /// What browsers get, and a record has: written anew, with the time of our clock, in milliseconds since 1970.
    pub(super) fn json(&self, at: i64) -> String {
        let mut fields = Map::new();
        fields.insert("color".to_owned(), self.color.clone().into());
        if let Some(name) = &self.name {
            fields.insert("name".to_owned(), name.clone().into());
        }
        fields.insert("timestamp".to_owned(), self.timestamp.clone().into());
        fields.extend(self.numbers.iter().map(|(key, number)| (key.clone(), Value::Number(number.clone()))));
        fields.insert("at".to_owned(), at.into());
        let skew = self.said_at.saturating_sub(at);
        if skew.saturating_abs() > SKEW_MS {
            fields.insert("skew".to_owned(), skew.into());
        }
        Value::Object(fields).to_string()
    }

    /// What browsers get of an event.
    pub(super) fn mark(&self, at: i64, event: &str) -> String {
        serde_json::json!({ "color": self.color, "at": at, "what": event }).to_string()
    }
}

/// When a line of a record was written.
pub(super) fn recorded_at(line: &str) -> Option<i64> {
    serde_json::from_str::<Value>(line).ok()?.get("at")?.as_i64()
}

fn text(value: Value) -> Option<String> {
    let Value::String(text) = value else { return None };
    let is_fit = (1..=LONGEST_NAME).contains(&text.len()) && !text.chars().any(char::is_control);
    is_fit.then_some(text)
}

fn is_key(key: &str) -> bool {
    (1..=LONGEST_KEY).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_book_sends_is_a_sample() {
        let message =
            br#"{"color": "orangered", "timestamp": "2026-11-27T21:50:22.123456+00:00", "cpu": 1.5, "mem": 12}"#;
        let sample = Sample::parse(message).expect("a sample");
        let at = timestamp::parse("2026-11-27T21:50:22.123Z").expect("a time");
        let text = "2026-11-27T21:50:22.123456+00:00";
        let expected = format!(r#"{{"at":{at},"color":"orangered","cpu":1.5,"mem":12,"timestamp":"{text}"}}"#);
        assert_eq!(sample.json(at), expected);
        assert!(sample.json(at + 3_600_000).contains(r#""skew":-3600000,"#));
        assert!(!sample.json(at + 2_000).contains("skew"));
        assert_eq!(recorded_at(&sample.json(at)), Some(at));
    }

    #[test]
    fn names_and_events_are_texts_that_end_nothing() {
        let message = br#"{"color": "</script>\u2028\"", "timestamp": "2026-11-27T21:50:22Z", "name": "a",
            "events": ["reload", "cut"], "clients": 3, "at": "x", "skew": []}"#;
        let sample = Sample::parse(message).expect("a sample");
        assert_eq!(sample.events, ["reload", "cut"]);
        assert_eq!(sample.mark(5, "reload"), "{\"at\":5,\"color\":\"</script>\u{2028}\\\"\",\"what\":\"reload\"}");
        assert!(!sample.json(0).contains('\n'));
    }

    #[test]
    fn whatever_else_is_rejected_with_a_reason() {
        let with = |fields: &str| {
            let message = format!(r#"{{"color": "a", "timestamp": "2026-11-27T21:50:22Z"{fields}}}"#);
            Sample::parse(message.as_bytes()).err()
        };
        assert_eq!(with(""), None);
        for (fields, why) in [
            (r#", "cpu": NaN"#, Rejected::Json),
            (r#", "cpu": 1e999"#, Rejected::Json),
            (r#", "cpu": "1""#, Rejected::Number),
            (r#", "CPU": 1"#, Rejected::Number),
            (r#", "": 1"#, Rejected::Number),
            (r#", "cpu": null"#, Rejected::Number),
            (r#", "color": """#, Rejected::Color),
            (r#", "color": 5"#, Rejected::Color),
            (r#", "color": "a\nb""#, Rejected::Color),
            (r#", "name": []"#, Rejected::Name),
            (r#", "timestamp": "yesterday""#, Rejected::Timestamp),
            (r#", "timestamp": 5"#, Rejected::Timestamp),
            (r#", "events": "reload""#, Rejected::Events),
            (r#", "events": [""]"#, Rejected::Events),
            (r#", "events": ["1","2","3","4","5","6","7","8","9"]"#, Rejected::Events),
        ] {
            assert_eq!(with(fields), Some(why), "{fields}");
        }
        let numbers = |count: u8| (0..count).map(|n| format!(", \"{}\": 1", char::from(b'a' + n))).collect::<String>();
        assert_eq!((with(&numbers(16)), with(&numbers(17))), (None, Some(Rejected::Numbers)));
        for (message, why) in [
            (&b""[..], Rejected::Json),
            (b"\xff", Rejected::Json),
            (b"[]", Rejected::Object),
            (b"{}", Rejected::Color),
            (br#"{"color": "a"}"#, Rejected::Timestamp),
        ] {
            assert_eq!(Sample::parse(message).err(), Some(why), "{}", message.escape_ascii());
        }
    }
}
