//! A page of metrics, as monitoring systems read them: the Prometheus text format, version 0.0.4.
//!
//! ```text
//! # HELP poetry_sent_bytes_total Bytes sent to clients.
//! # TYPE poetry_sent_bytes_total counter
//! poetry_sent_bytes_total{service="fastpoetry",address="127.0.0.1:10000"} 2999
//! ```

use std::fmt::Write;

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
}

/// The type of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// Samples of any number of metrics.
#[derive(Debug, Default)]
pub struct Page {
    families: Vec<(Metric, String)>,
}

impl Page {
    /// Adds a sample. Label names are letters; label values are any text, and escaped.
    pub fn add(&mut self, metric: Metric, labels: &[(&str, &str)], value: u64) {
        let known = self.families.iter().position(|(known, _)| *known == metric);
        let family = known.unwrap_or_else(|| {
            self.families.push((metric, String::new()));
            self.families.len() - 1
        });
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        // Writing to a string cannot fail.
        let _ = writeln!(self.families[family].1, "{}{labels} {value}", metric.name);
    }

    /// The page.
    pub fn text(&self) -> String {
        let family = |(metric, samples): &(Metric, String)| {
            let kind = match metric.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
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
    fn values_of_labels_are_anything() {
        let mut page = Page::default();
        page.add(CLIENTS, &[("file", "a\"b\\c\nd")], 0);
        assert!(page.text().ends_with("clients{file=\"a\\\"b\\\\c\\nd\"} 0\n"), "{}", page.text());
    }
}
