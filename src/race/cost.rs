//! The cost of a run: what the process took from the system while it ran.

use serde::Serialize;

use super::statistics::median;
use crate::units::Micros;

/// The cost of a run besides its time. What was not seen is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// The time from the start of the process to its end, less the time of its report.
    pub start_up_us: Option<Micros>,
    /// Processor time, in user mode and in the kernel together.
    pub cpu_us: Option<Micros>,
    /// The part of it in user mode.
    pub user_us: Option<Micros>,
    /// The part of it in the kernel.
    pub system_us: Option<Micros>,
    /// Voluntary context switches: the process waited.
    pub voluntary_switches: Option<u64>,
    /// Involuntary context switches: the process was preempted.
    pub involuntary_switches: Option<u64>,
    /// Peak number of threads.
    pub peak_threads: Option<u64>,
    /// Peak resident set size, in kilobytes of 1,024 bytes.
    pub peak_rss_kb: Option<u64>,
    /// Calls of recv(2).
    pub reads: Option<u64>,
    /// Calls that wait for many sockets.
    pub waits: Option<u64>,
}

/// A field of a cost.
type Field = fn(&mut Cost) -> &mut Option<u64>;

/// All fields, with the names that they have in files.
const FIELDS: [(&str, Field); 10] = [
    ("start_up_us", |cost| &mut cost.start_up_us),
    ("cpu_us", |cost| &mut cost.cpu_us),
    ("user_us", |cost| &mut cost.user_us),
    ("system_us", |cost| &mut cost.system_us),
    ("voluntary_switches", |cost| &mut cost.voluntary_switches),
    ("involuntary_switches", |cost| &mut cost.involuntary_switches),
    ("peak_threads", |cost| &mut cost.peak_threads),
    ("peak_rss_kb", |cost| &mut cost.peak_rss_kb),
    ("reads", |cost| &mut cost.reads),
    ("waits", |cost| &mut cost.waits),
];

impl Cost {
    /// The names of all fields.
    pub fn names() -> impl Iterator<Item = &'static str> {
        FIELDS.into_iter().map(|(name, _)| name)
    }

    /// The values of all fields, in the same order.
    pub fn values(mut self) -> impl Iterator<Item = Option<u64>> {
        FIELDS.into_iter().map(move |(_, field)| *field(&mut self))
    }

    /// The median of each field, of the costs that have it.
    pub fn median(costs: &[Self]) -> Self {
        let mut medians = Self::default();
        for (_, field) in FIELDS {
            *field(&mut medians) = median(costs.iter().filter_map(|cost| *field(&mut cost.clone())));
        }
        medians
    }

    /// Splits processor time by what the system counted in both modes, which may be ticks of some milliseconds. Nothing is
    /// said of a time without a tick.
    #[must_use]
    pub fn split(self, user_us: Micros, system_us: Micros) -> Self {
        let whole = u128::from(user_us) + u128::from(system_us);
        let Some(cpu_us) = self.cpu_us.filter(|_| whole > 0) else { return self };
        let user_us = u64::try_from(u128::from(cpu_us) * u128::from(user_us) / whole).unwrap_or(cpu_us);
        Self { user_us: Some(user_us), system_us: Some(cpu_us - user_us), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_seen_has_no_median_and_disturbs_none() {
        let seen = |cpu_us, peak_threads| Cost { cpu_us, peak_threads, ..Cost::default() };
        let costs = [seen(Some(4), None), seen(Some(10), Some(3)), seen(None, None), seen(Some(6), Some(6))];
        assert_eq!(Cost::median(&costs), seen(Some(6), Some(4)));
        assert_eq!(Cost::median(&[]), Cost::default());
    }

    #[test]
    fn a_split_adds_up_and_is_not_invented() {
        let cost = Cost { cpu_us: Some(1_001), ..Cost::default() };
        let split = |user, system| (cost.split(user, system).user_us, cost.split(user, system).system_us);
        assert_eq!(split(4_000, 0), (Some(1_001), Some(0)));
        assert_eq!(split(1, 2), (Some(333), Some(668)));
        assert_eq!(split(0, 0), (None, None));
    }

    #[test]
    fn the_names_are_those_of_the_json() {
        let json = serde_json::to_value(Cost::default()).expect("JSON");
        let names: Vec<&str> = json.as_object().expect("an object").keys().map(String::as_str).collect();
        let mut expected: Vec<&str> = Cost::names().collect();
        expected.sort_unstable();
        let mut names = names;
        names.sort_unstable();
        assert_eq!(names, expected);
        assert_eq!(Cost { waits: Some(7), ..Cost::default() }.values().last(), Some(Some(7)));
    }
}
