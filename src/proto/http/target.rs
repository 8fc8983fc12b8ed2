//! What a request asks for: the path of a target, decoded, and safe to be looked for below a directory.

/// Why a target names nothing that a server could have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPath {
    /// It is no path, and no address with one.
    #[error("the target is no path")]
    NoPath,
    /// A `%` is not followed by two hexadecimal digits, or what they stand for cannot be in a name.
    #[error("the path has an escape that means nothing")]
    Escape,
    /// It leads upwards, or to a name that begins with a dot.
    #[error("the path has a segment that begins with a dot")]
    Dot,
}

/// The path of a request target, as its segments, decoded. The target is `/PATH?QUERY` or, as to a proxy,
/// `http://HOST/PATH?QUERY` (RFC 9112, section 3.2); the query is left out. An empty segment at the end stands for a slash
/// there; others are left out.
///
/// # Errors
/// There is no such path, or none that is looked for: segments that begin with a dot are refused, escaped or not, and so
/// is a slash that is escaped.
pub fn path(target: &str) -> Result<Vec<String>, BadPath> {
    let path = match target.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => {
            rest.find('/').map_or("/", |slash| &rest[slash..])
        }
        _ => target,
    };
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let path = path.strip_prefix('/').ok_or(BadPath::NoPath)?;
    let mut segments = Vec::new();
    let count = path.split('/').count();
    for (index, segment) in path.split('/').enumerate() {
        let segment = decoded(segment)?;
        if segment.starts_with('.') {
            return Err(BadPath::Dot);
        }
        if !segment.is_empty() || index + 1 == count {
            segments.push(segment);
        }
    }
    Ok(segments)
}

/// Undoes percent-encoding (RFC 3986, section 2.1).
fn decoded(segment: &str) -> Result<String, BadPath> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        bytes.push(match byte {
            b'%' => {
                let digits = rest.split_off(..2).ok_or(BadPath::Escape)?;
                let digits = str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'));
                digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).ok_or(BadPath::Escape)?
            }
            byte => byte,
        });
    }
    let text = String::from_utf8(bytes).map_err(|_| BadPath::Escape)?;
    if text.contains(['/', '\0']) { Err(BadPath::Escape) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_its_segments_decoded() {
        for (target, expected) in [
            ("/", &[""][..]),
            ("/a", &["a"]),
            ("/a/", &["a", ""]),
            ("//a///b", &["a", "b"]),
            ("/a?b/../c", &["a"]),
            ("/a%20b/%C3%a9", &["a b", "\u{e9}"]),
            ("http://host:80/a/b?c", &["a", "b"]),
            ("HTTP://host", &[""]),
        ] {
            assert_eq!(
                path(target).as_deref(),
                Ok(expected.iter().map(ToString::to_string).collect::<Vec<_>>().as_slice()),
                "{target}"
            );
        }
    }

    #[test]
    fn nothing_leads_upwards_or_into_the_dark() {
        for (target, why) in [
            ("/..", BadPath::Dot),
            ("/a/../b", BadPath::Dot),
            ("/%2e%2e/b", BadPath::Dot),
            ("/.%2E/b", BadPath::Dot),
            ("/.git/config", BadPath::Dot),
            ("/.", BadPath::Dot),
            ("/a%2fb", BadPath::Escape),
            ("/a%00", BadPath::Escape),
            ("/a%", BadPath::Escape),
            ("/a%4", BadPath::Escape),
            ("/a%zz", BadPath::Escape),
            ("/a%+1", BadPath::Escape),
            ("/%ff", BadPath::Escape),
            ("a", BadPath::NoPath),
            ("*", BadPath::NoPath),
            ("", BadPath::NoPath),
            ("https://host/a", BadPath::NoPath),
            ("host:80", BadPath::NoPath),
        ] {
            assert_eq!(path(target), Err(why), "{target}");
        }
    }
}
