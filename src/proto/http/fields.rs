//! The fields of a head, and what they mean.

use std::time::{Duration, SystemTime};

use httparse::Header;

/// Fields as they stand in a buffer, in their order. Names are compared without regard to case.
///
/// A value has no white space around it. In a reply it may be folded, with line ends within; as a list it is read as if
/// each were a space.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a>(pub(super) &'a [Header<'a>]);

impl<'a> Fields<'a> {
    /// Every field.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + use<'a> {
        self.0.iter().map(|field| (field.name, field.value))
    }

    /// The values of all fields of this name.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.iter().filter(move |(its, _)| its.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The value of the first field of this name.
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.all(name).next()
    }

    /// The elements of a list, from all fields of this name; empty ones are none (RFC 9110, section 5.6.1).
    pub fn list(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let elements = self.all(name).flat_map(|value| value.split(|&byte| byte == b','));
        elements.map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
    }

    /// Whether a list has this token.
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.list(name).any(|element| element.eq_ignore_ascii_case(token.as_bytes()))
    }

    /// Whether a field is for this connection only, and never passed on: one of those that RFC 9110, section 7.6.1,
    /// names, or one that `Connection` names.
    pub fn is_hop_by_hop(&self, name: &str) -> bool {
        HOP_BY_HOP.iter().any(|known| known.eq_ignore_ascii_case(name)) || self.has_token("connection", name)
    }
}

/// Fields that are for one connection, whoever sends them, in lower case.
pub const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// How long a server asks to be left alone: `Retry-After` (RFC 9110, section 10.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryAfter {
    /// For so long.
    In(Duration),
    /// Until then.
    At(SystemTime),
}

impl RetryAfter {
    /// The field of a reply; `None`: it has none, or none that could be understood.
    pub fn of(fields: &Fields<'_>) -> Option<Self> {
        let value = fields.get("retry-after")?;
        if !value.is_empty() && value.iter().all(u8::is_ascii_digit) {
            // One that does not fit is as long as never.
            let seconds = str::from_utf8(value).ok()?.parse().unwrap_or(u64::MAX);
            return Some(Self::In(Duration::from_secs(seconds)));
        }
        let until = parse_date(value)?;
        // By the clock of the server, if it shows it: ours may be another one.
        match fields.get("date").and_then(parse_date) {
            Some(now) => Some(Self::In(until.duration_since(now).unwrap_or_default())),
            None => Some(Self::At(until)),
        }
    }

    /// The time from `now` on.
    pub fn from(self, now: SystemTime) -> Duration {
        match self {
            Self::In(time) => time,
            Self::At(until) => until.duration_since(now).unwrap_or_default(),
        }
    }
}

/// A time as a field has it: `Sun, 06 Nov 1994 08:49:37 GMT`.
pub fn date(time: SystemTime) -> String {
    httpdate::fmt_http_date(time)
}

/// The time in a field, in one of the three forms of RFC 9110, section 5.6.7.
pub fn parse_date(value: &[u8]) -> Option<SystemTime> {
    httpdate::parse_http_date(str::from_utf8(value).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::super::head::{Room, request};
    use super::*;

    fn with_fields(lines: &str, check: impl FnOnce(Fields<'_>)) {
        let head = format!("GET / HTTP/1.1\r\n{lines}\r\n");
        check(request(head.as_bytes(), &mut Room::default()).expect("a head").expect("all of it").fields);
    }

    #[test]
    fn fields_of_one_name_are_one_list() {
        with_fields("Via: a, b\r\nX: y\r\nvia:,  c ,\r\nVIA:\r\n", |fields| {
            assert_eq!(fields.list("via").collect::<Vec<_>>(), [b"a", b"b", b"c"]);
            assert_eq!(fields.all("Via").count(), 3);
            assert_eq!((fields.get("x"), fields.get("z")), (Some(&b"y"[..]), None));
            assert!(fields.has_token("via", "B") && !fields.has_token("via", "a, b"));
        });
    }

    #[test]
    fn some_fields_are_for_one_connection() {
        with_fields("Connection: close, X-Mine\r\nKeep-Alive: 5\r\nx-mine: 1\r\nAccept: */*\r\n", |fields| {
            let kept: Vec<&str> =
                fields.iter().map(|(name, _)| name).filter(|name| !fields.is_hop_by_hop(name)).collect();
            assert_eq!(kept, ["Accept"]);
        });
    }

    #[test]
    fn a_server_asks_to_be_left_alone_for_seconds_or_until_a_date() {
        let time = UNIX_EPOCH + Duration::from_secs(784_111_777);
        let dated = "Retry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
        for (lines, expected) in [
            ("Retry-After: 120\r\n".to_owned(), Some(RetryAfter::In(Duration::from_secs(120)))),
            (dated.to_owned(), Some(RetryAfter::At(time))),
            (format!("{dated}Date: Sun, 06 Nov 1994 08:49:30 GMT\r\n"), Some(RetryAfter::In(Duration::from_secs(7)))),
            (format!("{dated}Date: Sun, 06 Nov 1994 08:50:00 GMT\r\n"), Some(RetryAfter::In(Duration::ZERO))),
            (
                "Retry-After: 99999999999999999999999\r\n".to_owned(),
                Some(RetryAfter::In(Duration::from_secs(u64::MAX))),
            ),
            ("Retry-After: -1\r\n".to_owned(), None),
            ("Retry-After:\r\n".to_owned(), None),
            (String::new(), None),
        ] {
            with_fields(&lines, |fields| assert_eq!(RetryAfter::of(&fields), expected, "{lines}"));
        }
        let at = RetryAfter::At(time);
        assert_eq!(at.from(time - Duration::from_secs(9)), Duration::from_secs(9));
        assert_eq!(at.from(time + Duration::from_secs(9)), Duration::ZERO);
    }

    #[test]
    fn a_date_is_read_in_three_forms_and_written_in_one() {
        let time = UNIX_EPOCH + Duration::from_secs(784_111_777);
        for text in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(parse_date(text.as_bytes()), Some(time), "{text}");
        }
        assert_eq!(date(time), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(parse_date(b"yesterday"), None);
        assert_eq!(parse_date(b"\xff"), None);
    }
}
