//! Units of time in reports, recordings, logs and messages, and numbers of things.

use std::time::Duration;

/// A time in whole microseconds, within a report or a recording from its start.
pub type Micros = u64;

/// Converts a duration to [`Micros`], rounding down.
pub fn micros(duration: Duration) -> Micros {
    duration.as_micros().try_into().unwrap_or(Micros::MAX)
}

/// A measured duration for people: milliseconds, or microseconds below ten of them.
///
/// ```
/// use poetry_suite::units::human;
/// use std::time::Duration;
///
/// assert_eq!(human(Duration::from_micros(10_126_817)), "10s 126ms");
/// assert_eq!(human(Duration::from_micros(1_817)), "1ms 817us");
/// ```
pub fn human(duration: Duration) -> String {
    let unit = if duration < Duration::from_millis(10) { 1_000 } else { 1_000_000 };
    let rest = duration.subsec_nanos() % unit;
    humantime::format_duration(duration - Duration::from_nanos(rest.into())).to_string()
}

/// Measured times for people, all in the unit of the longest of them: for what stands in one column.
///
/// ```
/// use poetry_suite::units::in_one_unit;
///
/// assert_eq!(in_one_unit(&[10_126_817, 1_817]), ["10.127 s", "0.002 s"]);
/// assert_eq!(in_one_unit(&[10_126, 817]), ["10.1 ms", "0.8 ms"]);
/// assert_eq!(in_one_unit(&[817, 0]), ["817 us", "0 us"]);
/// ```
#[expect(clippy::cast_precision_loss, reason = "for people, who read a few digits")]
pub fn in_one_unit(times: &[Micros]) -> Vec<String> {
    let (unit, per_unit, decimals) = match times.iter().copied().max().unwrap_or_default() {
        ..1_000 => ("us", 1.0, 0),
        1_000..1_000_000 => ("ms", 1e3, 1),
        _ => ("s", 1e6, 3),
    };
    times.iter().map(|&time| format!("{:.decimals$} {unit}", time as f64 / per_unit)).collect()
}

/// A number of things for people.
///
/// ```
/// use poetry_suite::units::count;
///
/// assert_eq!(count(1, "poem"), "1 poem");
/// assert_eq!(count(0, "byte"), "0 bytes");
/// assert_eq!(count(2, "fetch"), "2 fetches");
/// ```
pub fn count(number: u64, thing: &str) -> String {
    let plural = match number {
        1 => "",
        _ if thing.ends_with(['s', 'h']) => "es",
        _ => "s",
    };
    format!("{number} {thing}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_times_keep_their_microseconds() {
        assert_eq!(human(Duration::ZERO), "0s");
        assert_eq!(human(Duration::from_nanos(812_345)), "812us");
        assert_eq!(human(Duration::from_micros(9_999)), "9ms 999us");
        assert_eq!(human(Duration::from_micros(10_999)), "10ms");
        assert_eq!(human(Duration::from_millis(61_000)), "1m 1s");
    }
}
