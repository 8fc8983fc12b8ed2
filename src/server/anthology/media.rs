//! What a server says that its reply is: `Content-Type: text/html; charset=utf-8` (RFC 9110, section 8.3).

/// A media type, and the encoding of its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Media {
    /// `text/html`, in lower case.
    pub(super) essence: String,
    pub(super) charset: Option<String>,
}

/// The longest media type that is told.
const LONGEST: usize = 80;

impl Media {
    /// The media type in a field; `None`: it is empty, or no text.
    pub(super) fn of(value: &[u8]) -> Option<Self> {
        let value = str::from_utf8(value).ok()?;
        let mut parts = value.split(';').map(str::trim);
        let essence: String = parts.next()?.chars().take(LONGEST).collect();
        let charset = parts.find_map(|parameter| {
            let (name, value) = parameter.split_once('=')?;
            name.trim_end().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches('"').to_owned())
        });
        let is_any = !essence.is_empty();
        is_any.then(|| Self { essence: essence.to_ascii_lowercase(), charset: charset.filter(|name| !name.is_empty()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_media_type_may_have_an_encoding() {
        for (value, expected) in [
            ("text/plain", Some(("text/plain", None))),
            ("Text/HTML; Charset=UTF-8", Some(("text/html", Some("UTF-8")))),
            ("text/html; level=1;charset=\"latin1\" ", Some(("text/html", Some("latin1")))),
            ("text/html;charset=", Some(("text/html", None))),
            ("", None),
            (" ; charset=utf-8", None),
        ] {
            let found = Media::of(value.as_bytes());
            let found = found.as_ref().map(|media| (&*media.essence, media.charset.as_deref()));
            assert_eq!(found, expected, "{value}");
        }
        assert_eq!(Media::of(b"\xff"), None);
    }
}
