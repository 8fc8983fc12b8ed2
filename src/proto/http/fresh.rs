//! What a shared cache may do with a request and its reply (RFC 9111): decisions, without a clock and without a store.

use std::time::{Duration, SystemTime};

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::fields::parse_date;

/// What a request asks of a cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wish {
    /// It is about somebody, or about a part: it is forwarded by itself, and its reply is for nobody else.
    pub is_own: bool,
    /// What is kept is no answer (`no-cache`, RFC 9111, section 5.2.1.4).
    pub is_fresh_only: bool,
    /// What is not kept is no answer, either (`only-if-cached`).
    pub is_kept_only: bool,
    /// What is kept must not be older (`max-age`).
    pub max_age: Option<Duration>,
}

/// What a cache does of its own will, where replies say nothing about it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Habits {
    /// For so long a reply is good. `None`: it is not kept.
    pub ttl: Option<Duration>,
    /// What is done with replies that are too old.
    pub stale: Stale,
}

/// For how long a reply may be used that is too old (RFC 5861).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stale {
    /// While upstream is asked for another one.
    pub while_revalidate: Duration,
    /// If upstream has none.
    pub if_error: Duration,
}

impl Stale {
    /// What a reply allows. No habit counts against one that has to be asked about (RFC 9111, section 4.2.4); by
    /// `s-maxage` it has to be, too (section 5.2.2.10), but for what it says itself.
    fn of(control: &Control, habits: &Habits) -> Self {
        if control.has("must-revalidate") || control.has("proxy-revalidate") {
            return Self::default();
        }
        let habit = if control.has("s-maxage") { Self::default() } else { habits.stale };
        Self {
            while_revalidate: control.seconds("stale-while-revalidate").unwrap_or(habit.while_revalidate),
            if_error: control.seconds("stale-if-error").unwrap_or(habit.if_error),
        }
    }

    fn longest(self) -> Duration {
        self.while_revalidate.max(self.if_error)
    }
}

/// Whether a reply with this status is an error for which an old one is better (RFC 5861, section 4).
pub fn is_error(status: u16) -> bool {
    matches!(status, 500 | 502..=504)
}

/// For whom a reply is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// For whoever asks within that time.
    Keep {
        /// The time for which it is fresh, from when it was made.
        lifetime: Duration,
        /// How old it was when it came.
        age: Duration,
        /// And after that.
        stale: Stale,
    },
    /// For those who wait for it now.
    Share,
    /// For the one who asked.
    Own,
}

/// Fields with which a request asks for something that nobody else has asked for. Those with conditions and parts are
/// upstream's to answer.
const OWN: [HeaderName; 8] = [
    header::AUTHORIZATION,
    header::COOKIE,
    header::RANGE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
    header::IF_RANGE,
];

impl Wish {
    /// The wish of a request with these fields.
    pub fn of(fields: &HeaderMap) -> Self {
        let control = Control::of(fields);
        // For caches before HTTP/1.1 (RFC 9111, section 5.4).
        let pragma = !fields.contains_key(header::CACHE_CONTROL)
            && list(fields, &header::PRAGMA).any(|word| word.eq_ignore_ascii_case("no-cache"));
        Self {
            is_own: control.has("no-store") || OWN.iter().any(|name| fields.contains_key(name)),
            is_fresh_only: pragma || control.has("no-cache"),
            is_kept_only: control.has("only-if-cached"),
            max_age: control.seconds("max-age"),
        }
    }
}

impl Use {
    /// The use of a reply that came at this moment, so long after it was asked for.
    pub fn of(status: u16, fields: &HeaderMap, came: SystemTime, delay: Duration, habits: &Habits) -> Self {
        let control = Control::of(fields);
        let is_private = ["no-store", "private", "no-cache"].iter().any(|word| control.has(word)) || !control.is_clear;
        // A part, or what is a reply to a condition only, is for who asked for that.
        let is_partial = matches!(status, 206 | 304);
        if is_private || fields.contains_key(header::SET_COOKIE) || varies_by_all(fields) || is_partial {
            return Self::Own;
        }
        let date = fields.get(header::DATE).and_then(|date| parse_date(date.as_bytes()));
        let expires = || {
            let expires = fields.get(header::EXPIRES)?;
            // What is no date has passed (RFC 9111, section 5.3).
            let expires = parse_date(expires.as_bytes());
            Some(expires.and_then(|at| at.duration_since(date.unwrap_or(came)).ok()).unwrap_or_default())
        };
        let said = control.seconds("s-maxage").or_else(|| control.seconds("max-age")).or_else(expires);
        // An error that says nothing is over soon.
        let lifetime = said.or(habits.ttl.filter(|_| is_kept_by_default(status)));
        let by_date = date.and_then(|date| came.duration_since(date).ok()).unwrap_or_default();
        // It may be as old as that when upstream began to send it (RFC 9111, section 4.2.3).
        let by_field = fields.get(header::AGE).and_then(seconds).unwrap_or_default() + delay;
        let age = by_date.max(by_field);
        let stale = Stale::of(&control, habits);
        match lifetime {
            Some(lifetime) if lifetime.saturating_add(stale.longest()) > age => Self::Keep { lifetime, age, stale },
            _ => Self::Share,
        }
    }
}

/// The statuses that are good for some time without saying so (RFC 9110, section 15.1).
fn is_kept_by_default(status: u16) -> bool {
    matches!(status, 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

/// The fields of requests by which a reply varies, in lower case (`Vary`, RFC 9110, section 12.5.5).
pub fn varies_by(fields: &HeaderMap) -> Vec<HeaderName> {
    let mut names: Vec<HeaderName> = Vec::new();
    for name in list(fields, &header::VARY).filter_map(|name| name.parse().ok()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn varies_by_all(fields: &HeaderMap) -> bool {
    // What is no name may have been meant as one.
    list(fields, &header::VARY).any(|name| name == "*" || name.parse::<HeaderName>().is_err())
}

/// Whether two requests have the same values in these fields.
pub fn agree(names: &[HeaderName], one: &HeaderMap, other: &HeaderMap) -> bool {
    names.iter().all(|name| one.get_all(name).iter().eq(other.get_all(name).iter()))
}

/// The directives of `Cache-Control`.
struct Control {
    directives: Vec<(String, Option<String>)>,
    /// Whether all quotes are closed: else nobody knows what is a directive.
    is_clear: bool,
}

impl Control {
    fn of(fields: &HeaderMap) -> Self {
        let mut control = Self { directives: Vec::new(), is_clear: true };
        for value in fields.get_all(header::CACHE_CONTROL) {
            // What is no ASCII can only be in a value that means nothing here.
            let text = String::from_utf8_lossy(value.as_bytes());
            let (parts, is_clear) = unquoted_parts(&text);
            control.is_clear &= is_clear;
            control.directives.extend(parts.iter().map(|part| directive(part)));
        }
        control
    }

    fn has(&self, name: &str) -> bool {
        self.directives.iter().any(|(its, _)| its == name)
    }

    /// A time; one that makes no sense is none at all, so that nothing is kept for it.
    fn seconds(&self, name: &str) -> Option<Duration> {
        let (_, value) = self.directives.iter().find(|(its, _)| its == name)?;
        Some(value.as_deref().and_then(delta).unwrap_or_default())
    }
}

fn directive(text: &str) -> (String, Option<String>) {
    let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
    let value = value.map(|value| value.trim().trim_matches('"').to_owned());
    (name.trim().to_ascii_lowercase(), value)
}

/// The elements of a list, in which a quoted comma parts nothing (RFC 9110, section 5.6.4), and whether all quotes are
/// closed.
fn unquoted_parts(text: &str) -> (Vec<&str>, bool) {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let parts = text.split(|c| {
        let is_plain = !is_escaped;
        is_escaped = is_quoted && is_plain && c == '\\';
        is_quoted ^= c == '"' && is_plain;
        c == ',' && !is_quoted
    });
    let parts = parts.map(str::trim).filter(|part| !part.is_empty()).collect();
    (parts, !is_quoted)
}

/// The elements of a list of tokens, from all fields of this name. What is no token is none that anybody knows.
fn list(fields: &HeaderMap, name: &HeaderName) -> impl Iterator<Item = String> {
    let texts = fields.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    texts.flat_map(|text| {
        let parts = text.split(',').map(|part| part.trim().to_owned());
        parts.filter(|part| !part.is_empty()).collect::<Vec<_>>()
    })
}

fn seconds(value: &HeaderValue) -> Option<Duration> {
    delta(value.to_str().ok()?.trim())
}

/// Seconds; more than fit are as many as fit (RFC 9111, section 1.2.2).
fn delta(text: &str) -> Option<Duration> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| Duration::from_secs(text.parse().unwrap_or(1 << 31).min(1 << 31)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

    fn fields(lines: &[(&str, &str)]) -> HeaderMap {
        let field = |(name, value): &(&str, &str)| {
            (name.parse::<HeaderName>().expect("a name"), HeaderValue::from_str(value).expect("a value"))
        };
        lines.iter().map(field).collect()
    }

    /// The use of a reply that came four seconds after [`DATE`].
    fn used(status: u16, lines: &[(&str, &str)], ttl: Option<Duration>) -> Use {
        let came = parse_date(DATE.as_bytes()).expect("a date") + 4 * SECOND;
        Use::of(status, &fields(lines), came, Duration::ZERO, &Habits { ttl, ..Habits::default() })
    }

    #[test]
    fn a_reply_is_kept_for_as_long_as_it_says() {
        let keep =
            |lifetime, age| Use::Keep { lifetime: lifetime * SECOND, age: age * SECOND, stale: Stale::default() };
        let ttl = Some(10 * SECOND);
        for (lines, expected) in [
            (&[("cache-control", "max-age=60")][..], keep(60, 0)),
            (&[("cache-control", "public, Max-Age=\"60\"")], keep(60, 0)),
            (&[("cache-control", "max-age=60"), ("date", DATE)], keep(60, 4)),
            (&[("cache-control", "max-age=60"), ("date", DATE), ("age", "50")], keep(60, 50)),
            (&[("cache-control", "max-age=60"), ("age", "60")], Use::Share),
            (&[("cache-control", "max-age=60, s-maxage=5")], keep(5, 0)),
            (&[("cache-control", "max-age=60"), ("expires", "0")], keep(60, 0)),
            (&[("expires", "Sun, 06 Nov 1994 08:50:37 GMT"), ("date", DATE)], keep(60, 4)),
            (&[("expires", "Sun, 06 Nov 1994 08:50:37 GMT")], keep(56, 0)),
            (&[("expires", "0")], Use::Share),
            (&[("cache-control", "max-age=0")], Use::Share),
            (&[("cache-control", "max-age=soon")], Use::Share),
            (&[("cache-control", "max-age=99999999999999999999")], keep(1 << 31, 0)),
            (&[("cache-control", "community=\"max-age=60, private\"")], keep(10, 0)),
            (&[], keep(10, 0)),
        ] {
            assert_eq!(used(200, lines, ttl), expected, "{lines:?}");
        }
        assert_eq!(used(200, &[], None), Use::Share);
        assert_eq!(
            (used(404, &[], ttl), used(500, &[], ttl), used(302, &[], ttl)),
            (keep(10, 0), Use::Share, Use::Share)
        );
        assert_eq!(used(500, &[("cache-control", "max-age=1")], None), keep(1, 0));
    }

    #[test]
    fn the_time_for_which_a_reply_was_waited_for_counts_as_age() {
        let fields = fields(&[("cache-control", "max-age=60"), ("age", "10")]);
        let its = |delay| Use::of(200, &fields, SystemTime::UNIX_EPOCH, delay, &Habits::default());
        let keep = |age| Use::Keep { lifetime: 60 * SECOND, age, stale: Stale::default() };
        assert_eq!(
            (its(Duration::ZERO), its(3 * SECOND), its(50 * SECOND)),
            (keep(10 * SECOND), keep(13 * SECOND), Use::Share)
        );
    }

    #[test]
    fn what_is_too_old_is_used_as_the_reply_says_or_else_by_habit() {
        let stale = |control: &str| {
            let habits = Habits { ttl: None, stale: Stale { while_revalidate: SECOND, if_error: Duration::MAX } };
            match Use::of(200, &fields(&[("cache-control", control)]), SystemTime::UNIX_EPOCH, Duration::ZERO, &habits)
            {
                Use::Keep { stale, .. } => Some((stale.while_revalidate, stale.if_error)),
                Use::Share | Use::Own => None,
            }
        };
        assert_eq!(stale("max-age=9"), Some((SECOND, Duration::MAX)));
        assert_eq!(stale("max-age=0"), Some((SECOND, Duration::MAX)), "it is too old at once, and of use");
        assert_eq!(stale("max-age=9, stale-while-revalidate=5"), Some((5 * SECOND, Duration::MAX)));
        assert_eq!(stale("max-age=9, stale-if-error=5"), Some((SECOND, 5 * SECOND)));
        assert_eq!(
            stale("max-age=9, stale-if-error=0, stale-while-revalidate=x"),
            Some((Duration::ZERO, Duration::ZERO))
        );
        for word in ["must-revalidate", "proxy-revalidate"] {
            let all = format!("max-age=9, stale-if-error=5, stale-while-revalidate=5, {word}");
            assert_eq!(stale(&all), Some((Duration::ZERO, Duration::ZERO)), "{word}");
            assert_eq!(stale(&format!("max-age=0, {word}")), None);
        }
        assert_eq!(stale("s-maxage=9"), Some((Duration::ZERO, Duration::ZERO)));
        assert_eq!(stale("s-maxage=9, stale-if-error=5"), Some((Duration::ZERO, 5 * SECOND)));
        assert_eq!([500, 501, 502, 503, 504, 404, 200].map(is_error), [true, false, true, true, true, false, false]);
    }

    #[test]
    fn what_is_for_one_is_for_nobody_else() {
        for lines in [
            &[("cache-control", "private, max-age=60")][..],
            &[("cache-control", "no-store")],
            &[("cache-control", "max-age=60"), ("cache-control", "no-cache")],
            &[("cache-control", "private=\"set-cookie\"")],
            &[("cache-control", "max-age=60"), ("set-cookie", "a=b")],
            &[("cache-control", "max-age=60"), ("vary", "accept, *")],
        ] {
            assert_eq!(used(200, lines, Some(SECOND)), Use::Own, "{lines:?}");
        }
        for status in [206, 304] {
            assert_eq!(used(status, &[("cache-control", "max-age=60")], None), Use::Own);
        }
        // However it is written.
        for (name, value) in [
            ("cache-control", &b"private, x=\"\xe9\""[..]),
            ("cache-control", b"x=\"a\\\"\", private"),
            ("cache-control", b"x=\"a\\\\\", private"),
            ("cache-control", b"x=\"a, private"),
            ("vary", b"\xe9"),
            ("vary", b"\xe9, *"),
        ] {
            let mut all = fields(&[("expires", "Sun, 06 Nov 2094 08:49:37 GMT")]);
            all.append(name, HeaderValue::from_bytes(value).expect("a value"));
            let its = Use::of(200, &all, SystemTime::UNIX_EPOCH, Duration::ZERO, &Habits::default());
            assert_eq!(its, Use::Own, "{}", value.escape_ascii());
        }
        // A quoted one is none.
        assert_eq!(
            used(200, &[("cache-control", "max-age=9, x=\"a\\\", private\"")], None),
            used(200, &[("cache-control", "max-age=9")], None)
        );
    }

    #[test]
    fn a_request_may_want_no_cache_or_nothing_else() {
        let wish = |lines: &[(&str, &str)]| Wish::of(&fields(lines));
        assert_eq!(wish(&[("accept", "*/*"), ("cache-control", "max-stale")]), Wish::default());
        for own in ["authorization", "cookie", "range", "if-none-match", "if-modified-since", "if-range"] {
            assert!(wish(&[(own, "x")]).is_own, "{own}");
        }
        assert!(wish(&[("cache-control", "no-store")]).is_own);
        assert!(wish(&[("cache-control", "no-cache")]).is_fresh_only && wish(&[("pragma", "no-cache")]).is_fresh_only);
        assert!(!wish(&[("pragma", "no-cache"), ("cache-control", "max-age=5")]).is_fresh_only);
        assert!(wish(&[("cache-control", "only-if-cached")]).is_kept_only);
        assert_eq!(wish(&[("cache-control", "max-age=5")]).max_age, Some(5 * SECOND));
    }

    #[test]
    fn a_reply_varies_by_what_it_names() {
        let names = varies_by(&fields(&[("vary", "Accept-Encoding, "), ("vary", "accept")]));
        assert_eq!(names, ["accept-encoding", "accept"]);
        let one = fields(&[("accept", "a"), ("accept", "b"), ("x", "1")]);
        assert!(agree(&names, &one, &fields(&[("accept", "a"), ("accept", "b"), ("x", "2")])));
        assert!(!agree(&names, &one, &fields(&[("accept", "a")])));
        assert!(!agree(&names, &one, &fields(&[])));
        assert!(agree(&[], &one, &fields(&[])));
    }
}
