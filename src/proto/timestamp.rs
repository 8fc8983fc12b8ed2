//! A date and time of RFC 3339, section 5.6, as a number: `2026-11-27T21:50:22.5+01:00`.

/// Milliseconds since 1970 of a text; parts of one are dropped. `None`: it is none, or no such day.
pub fn parse(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let number = |from: usize, len: usize| {
        let digits = bytes.get(from..from + len)?;
        digits.iter().try_fold(0, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + i64::from(digit - b'0')))
    };
    let is = |at: usize, any: &[u8]| bytes.get(at).is_some_and(|byte| any.contains(byte));
    if !(is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":")) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 2)?, number(8, 2)?);
    let (hour, minute, second) = (number(11, 2)?, number(14, 2)?, number(17, 2)?);
    // The sixtieth second is that of a leap.
    if !(1..=12).contains(&month)
        || !(1..=days_in(year, month)).contains(&day)
        || hour > 23
        || minute > 59
        || second > 60
    {
        return None;
    }
    let fraction = if is(19, b".") { bytes[20..].iter().take_while(|byte| byte.is_ascii_digit()).count() } else { 0 };
    if is(19, b".") && fraction == 0 {
        return None;
    }
    let milliseconds =
        (0..3).fold(0, |sum, at| sum * 10 + if at < fraction { i64::from(bytes[20 + at] - b'0') } else { 0 });
    let zone = if fraction > 0 { 20 + fraction } else { 19 };
    let offset = match &bytes[zone..] {
        b"Z" | b"z" => 0,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let (hours, minutes) = (number(zone + 1, 2)?, number(zone + 4, 2)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 60 + minutes) * if *sign == b'+' { 60 } else { -60 }
        }
        _ => return None,
    };
    let seconds = ((days_before(year, month) + day - 1) * 24 + hour) * 3600 + minute * 60 + second - offset;
    Some(seconds * 1000 + milliseconds)
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970 to the first of a month.
fn days_before(year: i64, month: i64) -> i64 {
    let leaps = |year: i64| year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let whole = 365 * (year - 1970) + leaps(year - 1) - leaps(1969);
    whole + (1..month).map(|month| days_in(year, month)).sum::<i64>()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn a_time_is_a_number() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01T01:00:00+01:00", 0),
            ("1969-12-31T23:30:00.25-00:30", 250),
            ("2000-02-29t12:00:00.0019z", 951_825_600_001),
            ("2016-12-31 23:59:60Z", 1_483_228_800_000),
            ("2026-11-27T21:50:22.123456+00:00", 1_795_816_222_123),
            ("0000-01-01T00:00:00Z", -62_167_219_200_000),
            ("9999-12-31T23:59:59.999Z", 253_402_300_799_999),
        ] {
            assert_eq!(parse(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_others_write_is_read() {
        for seconds in (0..4_000_000_000).step_by(12_345_678) {
            let text =
                humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).to_string();
            assert_eq!(parse(&text), i64::try_from(seconds * 1000).ok(), "{text}");
        }
    }

    #[test]
    fn what_is_none_is_none() {
        for text in [
            "",
            "2026",
            "2026-11-27",
            "2026-11-27T21:50:22",
            "2026-11-27T21:50:22.Z",
            "2026-11-27T21:50Z",
            "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:60:00Z",
            "2026-01-01T00:00:61Z",
            "2026-01-01T00:00:00+24:00",
            "2026-01-01T00:00:00+0100",
            "2026-01-01T00:00:00Zz",
            "+026-01-01T00:00:00Z",
            "2026-01-01T00:00:00é",
            "20é6-01-01T00:00:00Z",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
