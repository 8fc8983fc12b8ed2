//! Durations, sizes and limits as people write them.

use std::ffi::OsStr;
use std::num::{NonZeroU64, NonZeroUsize};
use std::str::FromStr;
use std::time::Duration;

use clap::builder::{PossibleValue, TypedValueParser};
use clap::{Arg, Command};

use crate::pace::CutAt;

/// A time limit; 0 on the command line is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit(pub Option<Duration>);

/// Parses a duration: `100ms`, `1m 30s` (see [`humantime`]), or a bare number of seconds: `5`, `.7`, `0.1`.
///
/// # Errors
/// One line that says what is wrong.
pub fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    if text.starts_with('-') {
        return Err("a duration cannot be negative".to_owned());
    }
    let is_bare = text.contains(|c: char| c.is_ascii_digit()) && text.chars().all(|c| c.is_ascii_digit() || c == '.');
    if is_bare {
        let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
        return Duration::try_from_secs_f64(seconds).map_err(|_| "too long".to_owned());
    }
    humantime::parse_duration(text).map_err(|error| {
        let why = match error {
            humantime::DurationError::UnknownUnit { unit, .. } if !unit.is_empty() => {
                format!("there is no unit '{unit}'; ")
            }
            humantime::DurationError::NumberOverflow => "too long; ".to_owned(),
            _ => String::new(),
        };
        format!("{why}a duration is like 100ms, '1m 30s' or 0.5")
    })
}

/// Parses a [`duration`] that is a limit; 0 is no limit.
///
/// # Errors
/// As for [`duration`].
pub fn limit(text: &str) -> Result<Limit, String> {
    Ok(Limit(Some(duration(text)?).filter(|limit| !limit.is_zero())))
}

/// A parser of whole numbers from `least` to `most`, in decimal digits.
pub fn whole<T: FromStr>(least: u64, most: u64) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    move |text| {
        let text = text.trim();
        let is_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|number| is_digits && (least..=most).contains(number));
        number.and_then(|number| number.to_string().parse().ok()).ok_or_else(|| match most {
            _ if (least, most) == (0, u64::MAX) => "it must be a whole number".to_owned(),
            u64::MAX => format!("it must be a whole number of at least {least}"),
            _ => format!("it must be a whole number from {least} to {most}"),
        })
    }
}

/// A parser of whole numbers that count something, of which there has to be one at least.
pub fn count<T: FromStr>() -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    whole(1, u64::MAX)
}

/// A parser of words of which some are known: shells complete those.
#[derive(Debug, Clone, Copy)]
pub struct Known<T: 'static> {
    /// Those that a shell offers.
    pub known: fn() -> Vec<&'static str>,
    /// Makes sense of any word; the error is one line.
    pub parse: fn(&str) -> Result<T, String>,
}

impl<T: Clone + Send + Sync + 'static> TypedValueParser for Known<T> {
    type Value = T;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<T, clap::Error> {
        self.parse.parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new((self.known)().into_iter().map(PossibleValue::new)))
    }
}

/// Parses the name of a transform: the part before the first `.` of a request.
///
/// # Errors
/// One line that says what is wrong.
pub fn transform(text: &str) -> Result<String, String> {
    match text {
        "" => Err("a transform has a name".to_owned()),
        _ if text.contains('.') => Err("the name of a transform has no '.'".to_owned()),
        _ => Ok(text.to_owned()),
    }
}

/// Parses a name by which browsers may call a server. The dot at the end of a whole name is none of it.
///
/// # Errors
/// One line that says what is wrong.
pub fn host_name(text: &str) -> Result<String, String> {
    let name = text.trim();
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    match !name.is_empty() && !name.starts_with('.') && name.bytes().all(is_part) {
        true => Ok(name.to_owned()),
        false => Err("the name of a host is like poems.example, without a port".to_owned()),
    }
}

/// Parses a number of bytes as [`positive_size`] does, or 0.
///
/// # Errors
/// One line that says what is wrong.
pub fn size(text: &str) -> Result<u64, String> {
    let bytes = parse_size::parse_size(text);
    let bytes = bytes.map_err(|_| "a size is a number of bytes like 10, 10k, 64KiB or 1M".to_owned())?;
    // The library rounds.
    if is_whole(text) { Ok(bytes) } else { Err("that is no whole number of bytes".to_owned()) }
}

/// Whether a size comes to a whole number of bytes, as `1.5k` does and `1.5` does not.
fn is_whole(size: &str) -> bool {
    let size = size.trim_end();
    let number = size.trim_end_matches(char::is_alphabetic);
    let (digits, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let fraction = digits.split_once('.').map_or("", |(_, fraction)| fraction);
    let places = fraction.chars().filter(char::is_ascii_digit).count();
    let exponent = exponent.replace([' ', '_'], "").parse::<i64>().unwrap_or(i64::MIN);
    let places = i64::try_from(places).unwrap_or(i64::MAX).saturating_sub(exponent);
    if places <= 0 {
        return true;
    }
    let digits: String = digits.chars().filter(char::is_ascii_digit).collect();
    let unit = parse_size::parse_size(format!("1{}", &size[number.len()..])).unwrap_or(1);
    let all = digits.parse::<u128>().ok().and_then(|digits| digits.checked_mul(unit.into()));
    let power = u32::try_from(places).ok().and_then(|places| 10_u128.checked_pow(places));
    all.zip(power).is_some_and(|(all, power)| all.is_multiple_of(power))
}

/// Parses a number of bytes, not zero: `10`, `10k` (10,000), `64KiB`, `1M`.
///
/// # Errors
/// One line that says what is wrong.
pub fn positive_size(text: &str) -> Result<NonZeroUsize, String> {
    let bytes = usize::try_from(size(text)?).map_err(|_| "too large for this machine".to_owned())?;
    NonZeroUsize::new(bytes).ok_or_else(|| "it must be at least 1".to_owned())
}

/// Parses a rate in bytes per second, written as a [`positive_size`].
///
/// # Errors
/// One line that says what is wrong.
pub fn rate(text: &str) -> Result<NonZeroU64, String> {
    let bytes = positive_size(text)?.get();
    u64::try_from(bytes).ok().and_then(NonZeroU64::new).ok_or_else(|| "too large for this machine".to_owned())
}

/// Parses a number of bytes (`100`, `64KiB`, `1M`) or a duration with its unit (`3s`, `1m`).
///
/// # Errors
/// One line that says what is wrong.
pub fn cut_at(text: &str) -> Result<CutAt, String> {
    let text = text.trim();
    let has_unit = text.ends_with(char::is_alphabetic);
    let cut = match size(text) {
        _ if !has_unit => text.parse().ok().map(CutAt::Bytes),
        // m are minutes, as in all durations; M are megabytes.
        Ok(bytes) if !text.ends_with('m') => Some(CutAt::Bytes(bytes)),
        _ => duration(text).ok().map(CutAt::Time),
    };
    cut.ok_or_else(|| {
        "it is a whole number of bytes like 100, 64KiB or 1M, or a duration like 500ms, 3s or 1m".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_a_host_is_one_that_can_be_called() {
        assert_eq!(host_name(" poems.example. "), Ok("poems.example".to_owned()));
        for text in ["", ".", "poems.example:80", "http://poems.example", "m\u{fc}nchen.example", "*", "[::1", "a b"] {
            assert!(host_name(text).is_err(), "{text}");
        }
    }

    #[test]
    fn whole_numbers_are_digits_within_their_range() {
        let port = whole::<u16>(0, u16::MAX.into());
        assert_eq!((port("0"), port("65535"), port(" 80 ")), (Ok(0), Ok(u16::MAX), Ok(80)));
        for text in ["", "80a", "-1", "+80", "65536", "1.0", "0x50", "99999999999999999999999", "\u{663}"] {
            assert_eq!(port(text), Err("it must be a whole number from 0 to 65535".to_owned()), "{text}");
        }
        assert_eq!(count::<NonZeroU64>()("3"), Ok(NonZeroU64::new(3).expect("not zero")));
        assert_eq!(count::<NonZeroU64>()("0"), Err("it must be a whole number of at least 1".to_owned()));
        assert_eq!(whole::<u64>(0, u64::MAX)("x"), Err("it must be a whole number".to_owned()));
        assert_eq!(whole::<u64>(0, u64::MAX)(&u64::MAX.to_string()), Ok(u64::MAX));
    }

    #[test]
    fn durations_have_units_or_are_seconds() {
        for (text, millis) in [
            ("100ms", 100),
            ("1m 30s", 90_000),
            ("1m30s", 90_000),
            ("5", 5_000),
            (".7", 700),
            ("0.1", 100),
            ("5.", 5_000),
            ("0", 0),
            (" 2s ", 2_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(duration("12us"), Ok(Duration::from_micros(12)));
    }

    #[test]
    fn what_is_no_duration_is_refused_in_one_line() {
        for text in ["", "-1", "-1s", "10x", "ms", ".", "1.2.3", "1e3", "inf", "NaN", "99999999999999999999", "10 20"] {
            let error = duration(text).expect_err(text);
            assert!(!error.is_empty() && !error.contains('\n'), "{text}: {error}");
        }
        assert_eq!(duration("-1").expect_err("negative"), "a duration cannot be negative");
    }

    #[test]
    fn zero_turns_a_limit_off() {
        assert_eq!(limit("0"), Ok(Limit(None)));
        assert_eq!(limit("0s"), Ok(Limit(None)));
        assert_eq!(limit("3s"), Ok(Limit(Some(Duration::from_secs(3)))));
    }

    #[test]
    fn sizes_have_decimal_or_binary_units() {
        for (text, bytes) in [("10", 10), ("10k", 10_000), ("64KiB", 65_536), ("1M", 1_000_000), ("1 MiB", 1 << 20)] {
            assert_eq!(positive_size(text).map(NonZeroUsize::get), Ok(bytes), "{text}");
        }
        for text in ["", "0", "-1", "ten", "10x", "k", "99999999999999999999999"] {
            assert!(positive_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_size_is_a_whole_number_of_bytes() {
        for (text, bytes) in [
            ("1.5k", 1_500),
            ("1.5 kB", 1_500),
            ("0.5KiB", 512),
            ("2.0", 2),
            ("1e3", 1_000),
            ("1.5e1", 15),
            ("25e-1 k", 2_500),
            ("1_000.0", 1_000),
            ("1E", 1_000_000_000_000_000_000),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["1.5", "0.4", "1.5B", "1.0001k", "0.3KiB", "15e-1", "1.9999999999999999999999k", "1e-999"] {
            assert_eq!(size(text).expect_err(text), "that is no whole number of bytes");
            assert!(positive_size(text).is_err() && rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_cut_is_at_a_size_or_at_a_time() {
        for (text, bytes) in [("0", 0), ("100", 100), ("10k", 10_000), ("64KiB", 65_536), ("1M", 1_000_000)] {
            assert_eq!(cut_at(text), Ok(CutAt::Bytes(bytes)), "{text}");
        }
        for (text, millis) in [("500ms", 500), ("3s", 3_000), ("1m", 60_000), ("1m 30s", 90_000), ("1 min", 60_000)] {
            assert_eq!(cut_at(text), Ok(CutAt::Time(Duration::from_millis(millis))), "{text}");
        }
        for text in ["", "-1", "-1s", "ten", "10x", "0.5", "1.5B", "1.0001k", "99999999999999999999999"] {
            assert!(cut_at(text).is_err(), "{text}");
        }
    }
}
