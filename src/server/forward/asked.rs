//! What a client asks a forward proxy for: judged before anything is done for it.

use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode, Version};

use crate::proto::http::fresh::Wish;
use crate::proto::http::target::{BadUrl, Url};
use crate::proto::http::{REQUEST_LINE, SERVER_HEAD};

/// A request that may be forwarded.
#[derive(Debug)]
pub(super) struct Asked {
    /// GET or HEAD.
    pub(super) method: Method,
    pub(super) url: Url,
    /// Those that go up, which is what a reply can vary by.
    pub(super) fields: HeaderMap,
    pub(super) wish: Wish,
}

/// Why a request is not forwarded: a status, a sentence, and whether its end can be told, so that another may follow.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) why: String,
    pub(super) is_last: bool,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, why: impl Into<String>) -> Self {
        Self { status, why: why.into(), is_last: false }
    }

    /// What follows could be anything.
    fn last(status: StatusCode, why: impl Into<String>) -> Self {
        Self { is_last: true, ..Self::new(status, why) }
    }
}

impl Asked {
    /// Makes sense of a request. `own_name`: what this proxy calls itself in `Via`.
    pub(super) fn of(request: Parts, own_name: &str) -> Result<Self, Refusal> {
        let Parts { method, uri, version, headers: fields, .. } = request;
        let bad = |why: &str| Refusal::last(StatusCode::BAD_REQUEST, why);
        // Before anything else: two programs could see two requests in it (RFC 9112, section 6.1).
        let has_coding = fields.contains_key(header::TRANSFER_ENCODING);
        let has_length = fields.get_all(header::CONTENT_LENGTH).iter().any(|length| length != "0");
        if has_coding && (has_length || fields.contains_key(header::CONTENT_LENGTH)) {
            return Err(bad("There are a length and a coding together"));
        }
        let codings: Vec<&HeaderValue> = fields.get_all(header::TRANSFER_ENCODING).iter().collect();
        if has_coding && (version == Version::HTTP_10 || !matches!(codings[..], [only] if is_chunked(only))) {
            return Err(bad("There is a coding that is not chunked, or one in HTTP/1.0"));
        }
        let hosts = fields.get_all(header::HOST).iter().map(HeaderValue::as_bytes);
        if let Some(why) = host_fault(hosts, version != Version::HTTP_10) {
            return Err(bad(why));
        }
        if method == Method::CONNECT {
            return Err(bad("A tunnel begins a connection: CONNECT has to be its first request"));
        }
        if !matches!(method, Method::GET | Method::HEAD) {
            // Whatever body it has is not waited for.
            return Err(Refusal::last(
                StatusCode::NOT_IMPLEMENTED,
                format!("{method} is not forwarded, only GET and HEAD"),
            ));
        }
        if has_coding || has_length {
            return Err(bad(&format!("A {method} with a body is not forwarded")));
        }
        let target = uri.to_string();
        if target.len() > REQUEST_LINE {
            let why = format!("The target is longer than {REQUEST_LINE} bytes");
            return Err(Refusal::last(StatusCode::URI_TOO_LONG, why));
        }
        let size: usize = fields.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        if size + target.len() > SERVER_HEAD {
            let why = format!("The head is longer than {SERVER_HEAD} bytes");
            return Err(Refusal::last(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, why));
        }
        let url = Url::as_sent(&target).map_err(|why| match why {
            BadUrl::Https => Refusal::new(StatusCode::BAD_REQUEST, "https goes through CONNECT, and not like this"),
            BadUrl::Scheme if target.starts_with('/') => Refusal::new(
                StatusCode::BAD_REQUEST,
                "This is a proxy, and no server: ask it for http://HOST/PATH, as curl -x does",
            ),
            why => Refusal::new(StatusCode::BAD_REQUEST, format!("{target}: {why}")),
        })?;
        if by_proxies(&fields).any(|name| name == own_name) {
            return Err(Refusal::new(StatusCode::LOOP_DETECTED, "The request has been here before"));
        }
        let wish = Wish::of(&fields);
        Ok(Self { method, url, fields: forwarded(fields), wish })
    }

    /// Whether the connection to upstream is the client's from then on, so that nobody else may use it: there are two schemes
    /// by which not a request says who it is from, but a connection (RFC 4559, section 6; MS-NTHT).
    pub(super) fn claims_connection(&self) -> bool {
        let scheme = |value: &HeaderValue| value.to_str().ok()?.split(' ').next().map(str::to_ascii_lowercase);
        let mut schemes = self.fields.get_all(header::AUTHORIZATION).iter().map(scheme);
        // What is not known may be a third one.
        schemes.any(|scheme| !matches!(scheme.as_deref(), Some("basic" | "bearer" | "digest")))
    }
}

/// What is wrong with the Host of a request, if anything is (RFC 9112, section 3.2).
pub(super) fn host_fault<'a>(mut hosts: impl Iterator<Item = &'a [u8]>, is_needed: bool) -> Option<&'static str> {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%:[]".contains(byte);
    match (hosts.next(), hosts.next()) {
        (None, _) => is_needed.then_some("There is no Host field"),
        (Some(_), Some(_)) => Some("There are two Host fields"),
        (Some(host), None) => (!host.iter().all(is_part)).then_some("The Host field is no host"),
    }
}

/// Fields without those of the connection that they came by, and those that the proxy says itself.
fn forwarded(mut fields: HeaderMap) -> HeaderMap {
    use crate::proto::http::fields::HOP_BY_HOP;
    let lists = fields.get_all(header::CONNECTION).iter().map(|list| String::from_utf8_lossy(list.as_bytes()));
    let named: Vec<String> =
        lists.flat_map(|list| list.split(',').map(|word| word.trim().to_owned()).collect::<Vec<_>>()).collect();
    let own = [header::HOST.as_str(), header::CONTENT_LENGTH.as_str(), header::EXPECT.as_str()];
    for name in named.iter().map(String::as_str).chain(HOP_BY_HOP.iter().copied()).chain(own) {
        fields.remove(name);
    }
    fields
}

fn is_chunked(coding: &HeaderValue) -> bool {
    coding.as_bytes().eq_ignore_ascii_case(b"chunked")
}

/// The names of those who have forwarded a message before (RFC 9110, section 7.6.3).
fn by_proxies(fields: &HeaderMap) -> impl Iterator<Item = &str> {
    let lists = fields.get_all(header::VIA).iter().filter_map(|via| via.to_str().ok());
    lists.flat_map(|list| list.split(',')).filter_map(|via| via.split_whitespace().nth(1))
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    fn asked(method: &str, target: &str, fields: &[(&str, &str)]) -> Result<String, (u16, String, bool)> {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).expect("a request").into_parts();
        let refused = |refusal: Refusal| (refusal.status.as_u16(), refusal.why, refusal.is_last);
        Asked::of(parts, "poetry-proxy-1").map(|asked| asked.url.to_string()).map_err(refused)
    }

    const HOST: (&str, &str) = ("host", "somebody");

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        let refused = |fields: &[(&str, &str)]| asked("GET", "http://a/", fields).expect_err("refused");
        let both = "There are a length and a coding together";
        for length in ["3", "0"] {
            let fields = [HOST, ("content-length", length), ("transfer-encoding", "chunked")];
            assert_eq!(refused(&fields), (400, both.to_owned(), true));
        }
        for coding in ["chunked, gzip", "gzip, chunked", "xchunked", "chunked,", ""] {
            let why = "There is a coding that is not chunked, or one in HTTP/1.0".to_owned();
            assert_eq!(refused(&[HOST, ("transfer-encoding", coding)]), (400, why, true), "{coding}");
        }
        assert!(refused(&[HOST, ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")]).2);
        assert_eq!(refused(&[HOST, HOST]), (400, "There are two Host fields".to_owned(), true));
        assert_eq!(refused(&[]), (400, "There is no Host field".to_owned(), true));
        for body in [("content-length", "3"), ("transfer-encoding", "chunked")] {
            assert_eq!(refused(&[HOST, body]), (400, "A GET with a body is not forwarded".to_owned(), true));
        }
        assert_eq!(asked("GET", "http://a/", &[HOST, ("content-length", "0")]), Ok("http://a/".to_owned()));
    }

    #[test]
    fn only_what_can_be_forwarded_is() {
        let refused = |method: &str, target: &str| asked(method, target, &[HOST]).expect_err("refused");
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"] {
            let why = format!("{method} is not forwarded, only GET and HEAD");
            assert_eq!(refused(method, "http://a/"), (501, why, true));
        }
        assert!(refused("GET", "/poem").1.contains("as curl -x does"));
        assert_eq!(refused("GET", "https://a/").1, "https goes through CONNECT, and not like this");
        assert_eq!(refused("GET", "http://a:0/").0, 400);
        assert_eq!(refused("GET", &format!("http://a/{}", "x".repeat(8_000))).0, 414);
        for (target, canonical) in [
            ("http://Example.COM", "http://example.com/"),
            ("http://a:80/x?y", "http://a/x?y"),
            ("http://[::1]:8080/", "http://[::1]:8080/"),
        ] {
            assert_eq!(asked("HEAD", target, &[HOST]), Ok(canonical.to_owned()));
        }
    }

    #[test]
    fn a_request_that_comes_back_is_a_loop() {
        let via = |via: &str| asked("GET", "http://a/", &[HOST, ("via", via)]);
        assert_eq!(via("1.1 other, 1.0 poetry-proxy-1 (x)").expect_err("a loop").0, 508);
        assert!(via("1.1 poetry-proxy-12, 1.1 x").is_ok());
    }
}
