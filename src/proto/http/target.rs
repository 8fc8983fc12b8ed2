//! What a request asks for: a URL as somebody writes it, which a client turns into a request, and the path of a target,
//! decoded, and safe to be looked for below a directory.

use std::fmt;
use std::str::FromStr;

use super::REQUEST_LINE;
use super::form::undo_percent;
use crate::address::Address;

/// An `http` URL (RFC 9110, section 4.2.1): a server, and what is asked for there. [`fmt::Display`] writes it in its
/// canonical form, without a port of 80 and without dot segments.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Url {
    address: Address,
    /// The path and the query, percent-encoded, as a request has them.
    path: String,
}

/// Why a text is no [`Url`] that can be fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    /// `https`: what is said there is encrypted.
    #[error("https is not spoken here; put socat or stunnel in front")]
    Https,
    /// Another scheme, or none.
    #[error("a URL begins with http://")]
    Scheme,
    /// A user or a password before the host.
    #[error("a URL has no user here")]
    User,
    /// The host or the port is none.
    #[error("{0}")]
    Address(&'static str),
    /// A space, a control character, or something else that has to be percent-encoded.
    #[error("a URL has no spaces and no control characters")]
    Character,
    /// A `%` without two hexadecimal digits.
    #[error("there are two hexadecimal digits after each % of a URL")]
    Escape,
    /// It is longer than any first line of a request.
    #[error("a URL is not longer than {REQUEST_LINE} bytes")]
    TooLong,
}

impl Url {
    /// The server.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The path and the query: what a request asks for, in origin-form.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The server for the `Host` field: without a port of 80.
    pub fn authority(&self) -> String {
        let whole = self.address.to_string();
        whole.strip_suffix(":80").map_or(whole.clone(), str::to_owned)
    }

    /// What a reference (`../b.json`, `/c`, `//host/d`, `?e`, or a whole URL) means beside this URL (RFC 3986, section
    /// 5.2).
    ///
    /// # Errors
    /// It leads to nothing that can be fetched.
    pub fn join(&self, reference: &str) -> Result<Self, BadUrl> {
        let reference = reference.split('#').next().unwrap_or_default();
        if has_scheme(reference) {
            return reference.parse();
        }
        if let Some(rest) = reference.strip_prefix("//") {
            return format!("http://{rest}").parse();
        }
        let (own_path, own_query) = split_query(&self.path);
        let (path, query) = split_query(reference);
        let (path, query) = match path {
            "" => (own_path.to_owned(), query.or(own_query)),
            absolute if absolute.starts_with('/') => (absolute.to_owned(), query),
            relative => {
                let directory = own_path.rfind('/').map_or("/", |slash| &own_path[..=slash]);
                (format!("{directory}{relative}"), query)
            }
        };
        let path = canonical(&path, query)?;
        Ok(Self { address: self.address.clone(), path })
    }

    /// A URL as a client of a proxy has sent it. The path stays as it is, dots and all, and may have what a browser does not
    /// encode: a proxy must not change it (RFC 9110, section 7.7). [`FromStr`] is for those who write one.
    ///
    /// # Errors
    /// It leads to nothing that can be fetched; or it would end a line of a request.
    pub fn as_sent(text: &str) -> Result<Self, BadUrl> {
        if text.bytes().any(|byte| byte.is_ascii_control() || byte == b' ') {
            return Err(BadUrl::Character);
        }
        let (address, rest) = parts(text)?;
        let path = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
        Ok(Self { address, path })
    }

    /// The last segment of the path, decoded: what a file could be called. `None`: it ends with a slash, or is no text.
    pub fn name(&self) -> Option<String> {
        let (path, _) = split_query(&self.path);
        let segment = path.rsplit('/').next().filter(|segment| !segment.is_empty())?;
        decoded(segment).ok()
    }
}

impl FromStr for Url {
    type Err = BadUrl;

    fn from_str(text: &str) -> Result<Self, BadUrl> {
        let (address, rest) = parts(text)?;
        let (path, query) = split_query(rest);
        Ok(Self { address, path: canonical(if path.is_empty() { "/" } else { path }, query)? })
    }
}

/// The server of a URL, and the rest of it but for a fragment.
fn parts(text: &str) -> Result<(Address, &str), BadUrl> {
    if text.len() > REQUEST_LINE {
        return Err(BadUrl::TooLong);
    }
    let (scheme, rest) = text.split_once("://").ok_or(BadUrl::Scheme)?;
    match &*scheme.to_ascii_lowercase() {
        "http" => {}
        "https" => return Err(BadUrl::Https),
        _ => return Err(BadUrl::Scheme),
    }
    let rest = rest.split('#').next().unwrap_or_default();
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    if authority.contains('@') {
        return Err(BadUrl::User);
    }
    Ok((address(authority)?, rest))
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority(), self.path)
    }
}

/// `HOST`, `HOST:` or `HOST:PORT`; without a port it is 80.
fn address(authority: &str) -> Result<Address, BadUrl> {
    let port = authority.rsplit_once(':').filter(|(_, port)| !port.contains(']')).map(|(_, port)| port);
    let whole = match port {
        None => format!("{}:80", authority.to_ascii_lowercase()),
        Some("") => format!("{}80", authority.to_ascii_lowercase()),
        Some(_) => authority.to_ascii_lowercase(),
    };
    whole.parse().map_err(|error: crate::address::AddressError| BadUrl::Address(error.why()))
}

/// Whether a reference begins with a scheme (RFC 3986, section 3.1).
fn has_scheme(reference: &str) -> bool {
    let scheme = reference.split([':', '/', '?']).next().unwrap_or_default();
    reference[scheme.len()..].starts_with(':')
        && scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
}

fn split_query(reference: &str) -> (&str, Option<&str>) {
    reference.split_once('?').map_or((reference, None), |(path, query)| (path, Some(query)))
}

/// A path without dot segments (RFC 3986, section 5.2.4), and a query, percent-encoded where they have to be.
fn canonical(path: &str, query: Option<&str>) -> Result<String, BadUrl> {
    let mut segments: Vec<&str> = Vec::new();
    let mut all = path.strip_prefix('/').unwrap_or(path).split('/').peekable();
    while let Some(segment) = all.next() {
        let is_last = all.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    segments.pop();
                }
                if is_last {
                    segments.push("");
                }
            }
            segment => segments.push(segment),
        }
    }
    let whole = match query {
        Some(query) => format!("/{}?{query}", segments.join("/")),
        None => format!("/{}", segments.join("/")),
    };
    encoded(&whole)
}

/// Percent-encodes what is no ASCII; what is has to be right already.
fn encoded(text: &str) -> Result<String, BadUrl> {
    let mut out = String::with_capacity(text.len());
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'%' => {
                let digits = text.as_bytes().get(at + 1..at + 3).unwrap_or_default();
                if digits.len() != 2 || !digits.iter().all(u8::is_ascii_hexdigit) {
                    return Err(BadUrl::Escape);
                }
                out.push('%');
            }
            b'!' | b'#'..=b';' | b'=' | b'?'..=b'[' | b']' | b'_' | b'a'..=b'z' | b'|' | b'~' => out.push(byte.into()),
            0x80.. => out.push_str(&format!("%{byte:02X}")),
            _ => return Err(BadUrl::Character),
        }
    }
    if out.len() > REQUEST_LINE { Err(BadUrl::TooLong) } else { Ok(out) }
}

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
/// there; others are left out, and so are single dots.
///
/// # Errors
/// There is no such path, or none that is looked for: other segments that begin with a dot are refused, escaped or not, and so
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
        let is_last = index + 1 == count;
        // A dot alone is here, which some write as it is (RFC 3986, section 5.2.4).
        let segment = if segment == "." { String::new() } else { segment };
        if segment.starts_with('.') {
            return Err(BadPath::Dot);
        }
        if !segment.is_empty() || is_last {
            segments.push(segment);
        }
    }
    Ok(segments)
}

/// Undoes percent-encoding (RFC 3986, section 2.1).
fn decoded(segment: &str) -> Result<String, BadPath> {
    let bytes = undo_percent(segment).ok_or(BadPath::Escape)?;
    let text = String::from_utf8(bytes).map_err(|_| BadPath::Escape)?;
    if text.contains(['/', '\0']) { Err(BadPath::Escape) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn url(text: &str) -> Result<String, BadUrl> {
        text.parse::<Url>().map(|url| url.to_string())
    }

    #[test]
    fn a_url_has_one_canonical_form() {
        for (text, canonical) in [
            ("http://poems.example", "http://poems.example/"),
            ("HTTP://Poems.Example:80/", "http://poems.example/"),
            ("http://poems.example:/a", "http://poems.example/a"),
            ("http://poems.example:8001/a?b#c", "http://poems.example:8001/a?b"),
            ("http://poems.example?a=/../b", "http://poems.example/?a=/../b"),
            ("http://[::1]:8001/a", "http://[::1]:8001/a"),
            ("http://[::1]/a", "http://[::1]/a"),
            ("http://127.0.0.1/a/./b/../c//d/.", "http://127.0.0.1/a/c//d/"),
            ("http://poems.example/../../a/..", "http://poems.example/"),
            ("http://poems.example/%7Ea%20b/\u{e9}?\u{e9}", "http://poems.example/%7Ea%20b/%C3%A9?%C3%A9"),
        ] {
            assert_eq!(url(text).as_deref(), Ok(canonical), "{text}");
        }
        let url: Url = "http://Poems.example/a/b%20c.gif?d".parse().expect("a URL");
        assert_eq!((url.address().to_string(), url.path()), ("poems.example:80".to_owned(), "/a/b%20c.gif?d"));
        assert_eq!((url.authority(), url.name()), ("poems.example".to_owned(), Some("b c.gif".to_owned())));
        assert_eq!("http://poems.example/a/".parse::<Url>().map(|url| url.name()), Ok(None));
    }

    #[test]
    fn what_is_no_url_is_refused_for_its_reason() {
        for (text, why) in [
            ("https://poems.example/", BadUrl::Https),
            ("ftp://poems.example/", BadUrl::Scheme),
            ("poems.example/a", BadUrl::Scheme),
            ("http:/poems.example", BadUrl::Scheme),
            ("http://me@poems.example/", BadUrl::User),
            ("http://me:word@poems.example/", BadUrl::User),
            ("http:///a", BadUrl::Address("no host")),
            ("http://:80/a", BadUrl::Address("no host")),
            ("http://poems.example:http/", BadUrl::Address("the port is not a number")),
            ("http://poems.example:0/", BadUrl::Address("the port is not between 1 and 65535")),
            ("http://[::1/", BadUrl::Address("the bracket is never closed")),
            ("http://poems.example/a b", BadUrl::Character),
            ("http://poems.example/a\tb", BadUrl::Character),
            ("http://poems.example/\u{1b}", BadUrl::Character),
            ("http://poems.example/\"<>", BadUrl::Character),
            ("http://poems.example/%", BadUrl::Escape),
            ("http://poems.example/%4", BadUrl::Escape),
            ("http://poems.example/%zz", BadUrl::Escape),
        ] {
            assert_eq!(url(text), Err(why), "{text}");
        }
        let long = |count: usize| format!("http://a/{}", "a".repeat(count));
        assert_eq!(url(&long(REQUEST_LINE)), Err(BadUrl::TooLong));
        assert!(url(&long(REQUEST_LINE - 9)).is_ok());
        assert_eq!(url(&format!("http://a/{}", "\u{e9}".repeat(REQUEST_LINE / 4))), Err(BadUrl::TooLong), "encoded");
    }

    /// The examples of RFC 3986, section 5.4, as far as they are http.
    #[test]
    fn references_are_resolved_as_the_rfc_has_it() {
        let base: Url = "http://a/b/c/d;p?q".parse().expect("a URL");
        for (reference, resolved) in [
            ("g", "http://a/b/c/g"),
            ("./g", "http://a/b/c/g"),
            ("g/", "http://a/b/c/g/"),
            ("/g", "http://a/g"),
            ("//g", "http://g/"),
            ("?y", "http://a/b/c/d;p?y"),
            ("g?y", "http://a/b/c/g?y"),
            ("#s", "http://a/b/c/d;p?q"),
            ("g#s", "http://a/b/c/g"),
            ("g?y#s", "http://a/b/c/g?y"),
            (";x", "http://a/b/c/;x"),
            ("g;x", "http://a/b/c/g;x"),
            ("", "http://a/b/c/d;p?q"),
            (".", "http://a/b/c/"),
            ("./", "http://a/b/c/"),
            ("..", "http://a/b/"),
            ("../", "http://a/b/"),
            ("../g", "http://a/b/g"),
            ("../..", "http://a/"),
            ("../../g", "http://a/g"),
            ("../../../g", "http://a/g"),
            ("/./g", "http://a/g"),
            ("/../g", "http://a/g"),
            ("g.", "http://a/b/c/g."),
            ("..g", "http://a/b/c/..g"),
            ("./../g", "http://a/b/g"),
            ("./g/.", "http://a/b/c/g/"),
            ("g/../h", "http://a/b/c/h"),
            ("g?y/../x", "http://a/b/c/g?y/../x"),
            ("http://h:1/i", "http://h:1/i"),
        ] {
            assert_eq!(base.join(reference).map(|url| url.to_string()).as_deref(), Ok(resolved), "{reference}");
        }
        for (reference, why) in [
            ("https://b/", BadUrl::Https),
            ("ftp://b/", BadUrl::Scheme),
            ("g:h", BadUrl::Scheme),
            ("a b", BadUrl::Character),
        ] {
            assert_eq!(base.join(reference), Err(why), "{reference}");
        }
    }

    proptest! {
        #[test]
        fn a_canonical_form_is_its_own(path in "[a-z./%?;é]{0,30}") {
            if let Ok(url) = format!("http://a/{path}").parse::<Url>() {
                prop_assert_eq!(url.to_string().parse::<Url>(), Ok(url.clone()));
                prop_assert_eq!(url.join(""), Ok(url));
            }
        }
    }

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
            ("/./a/./b", &["a", "b"]),
            ("/a/.", &["a", ""]),
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
