//! The fields of a head, and what they mean.

use std::time::SystemTime;

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

const HOP_BY_HOP: [&str; 9] = [
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
    use std::time::{Duration, UNIX_EPOCH};

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
