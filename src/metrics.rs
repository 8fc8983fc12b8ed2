//! A page of metrics, as monitoring systems read them: the Prometheus text format, version 0.0.4.
//!
//! ```text
//! # HELP poetry_sent_bytes_total Bytes sent to clients.
//! # TYPE poetry_sent_bytes_total counter
//! poetry_sent_bytes_total{service="fastpoetry",address="127.0.0.1:10000"} 2999
//! ```

use std::fmt::{Display, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The Content-Type of a page.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A metric: name, kind and help text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// The name, with the unit at its end, and `_total` if it only grows.
    pub name: &'static str,
    /// The `# TYPE`.
    pub kind: Kind,
    /// The `# HELP`: one sentence.
    pub help: &'static str,
}

impl Metric {
    /// A metric that only grows.
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::Counter, help }
    }

    /// A metric that goes up and down.
    pub const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::Gauge, help }
    }

    /// Durations, counted by how long they are; in seconds.
    pub const fn histogram(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::Histogram, help }
    }
}

/// The type of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size.
    Histogram,
}

/// Durations, counted by how long they are: two bounds for each power of ten, from 100 us to 10 s.
#[derive(Debug, Default)]
pub struct Histogram {
    /// How many are no longer than each bound, and longer than the one before it; the last ones are longer than all.
    counts: [AtomicU64; Self::BOUNDS.len() + 1],
    /// In microseconds.
    sum: AtomicU64,
}

impl Histogram {
    /// In microseconds, and as they are written down.
    const BOUNDS: [(u64, &'static str); 11] = [
        (100, "0.0001"),
        (300, "0.0003"),
        (1_000, "0.001"),
        (3_000, "0.003"),
        (10_000, "0.01"),
        (30_000, "0.03"),
        (100_000, "0.1"),
        (300_000, "0.3"),
        (1_000_000, "1"),
        (3_000_000, "3"),
        (10_000_000, "10"),
    ];

    /// Counts one.
    pub fn add(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let at = Self::BOUNDS.partition_point(|(bound, _)| *bound < micros);
        self.counts[at].fetch_add(1, Relaxed);
        self.sum.fetch_add(micros, Relaxed);
    }
}

/// Samples of any number of metrics.
#[derive(Debug, Default)]
pub struct Page {
    families: Vec<(Metric, String)>,
}

impl Page {
    /// Adds a sample. Label names are letters; label values are any text, and escaped.
    pub fn add(&mut self, metric: Metric, labels: &[(&str, &str)], value: u64) {
        self.add_line(metric, "", labels, value);
    }

    /// Adds the samples of a histogram.
    pub fn add_histogram(&mut self, metric: Metric, labels: &[(&str, &str)], histogram: &Histogram) {
        let mut sum = 0;
        let bounds = Histogram::BOUNDS.iter().map(|(_, bound)| *bound).chain(["+Inf"]);
        for (bound, count) in bounds.zip(&histogram.counts) {
            sum += count.load(Relaxed);
            self.add_line(metric, "_bucket", &[labels, &[("le", bound)]].concat(), sum);
        }
        let micros = histogram.sum.load(Relaxed);
        self.add_line(metric, "_sum", labels, format_args!("{}.{:06}", micros / 1_000_000, micros % 1_000_000));
        self.add_line(metric, "_count", labels, sum);
    }

    fn add_line(&mut self, metric: Metric, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        let known = self.families.iter().position(|(known, _)| *known == metric);
        let family = known.unwrap_or_else(|| {
            self.families.push((metric, String::new()));
            self.families.len() - 1
        });
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        // Writing to a string cannot fail.
        let _ = writeln!(self.families[family].1, "{}{suffix}{labels} {value}", metric.name);
    }

    /// The page.
    pub fn text(&self) -> String {
        let family = |(metric, samples): &(Metric, String)| {
            let kind = match metric.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            let Metric { name, help, .. } = metric;
            format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{samples}")
        };
        self.families.iter().map(family).collect()
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: Metric = Metric { name: "sent_bytes_total", kind: Kind::Counter, help: "Bytes sent." };
    const CLIENTS: Metric = Metric { name: "clients", kind: Kind::Gauge, help: "Clients now." };

    #[test]
    fn samples_of_a_metric_stand_together_under_its_help() {
        let mut page = Page::default();
        page.add(BYTES, &[("service", "a")], 1);
        page.add(CLIENTS, &[], 2);
        page.add(BYTES, &[("service", "b"), ("address", "[::1]:1")], 3);
        let text = "# HELP sent_bytes_total Bytes sent.\n# TYPE sent_bytes_total counter\n\
            sent_bytes_total{service=\"a\"} 1\nsent_bytes_total{service=\"b\",address=\"[::1]:1\"} 3\n\
            # HELP clients Clients now.\n# TYPE clients gauge\nclients 2\n";
        assert_eq!(page.text(), text);
    }

    #[test]
    fn durations_are_counted_by_how_long_they_are() {
        const LAG: Metric = Metric::histogram("lag_seconds", "How late it was.");
        let histogram = Histogram::default();
        for micros in [0, 100, 101, 1_000, 2_500_000, 11_000_000] {
            histogram.add(Duration::from_micros(micros));
        }
        let mut page = Page::default();
        page.add_histogram(LAG, &[("service", "a")], &histogram);
        let text = page.text();
        assert!(text.starts_with("# HELP lag_seconds How late it was.\n# TYPE lag_seconds histogram\n"), "{text}");
        for (bound, count) in [("0.0001", 2), ("0.0003", 3), ("0.001", 4), ("1", 4), ("3", 5), ("10", 5), ("+Inf", 6)] {
            let line = format!("lag_seconds_bucket{{service=\"a\",le=\"{bound}\"}} {count}\n");
            assert!(text.contains(&line), "{line} {text}");
        }
        assert!(text.ends_with("lag_seconds_sum{service=\"a\"} 13.501201\nlag_seconds_count{service=\"a\"} 6\n"));
    }

    #[test]
    fn values_of_labels_are_anything() {
        let mut page = Page::default();
        page.add(CLIENTS, &[("file", "a\"b\\c\nd")], 0);
        assert!(page.text().ends_with("clients{file=\"a\\\"b\\\\c\\nd\"} 0\n"), "{}", page.text());
    }
}
