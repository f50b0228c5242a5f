//! The page that Prometheus reads: its text format, version 0.0.4.
//!
//! Decides nothing about what is shown; sees to it that what is written can be read: escaped labels, one block for each family, no
//! sample without its family.

use std::fmt::{Display, Write as _};

use super::{BOUNDS_SECONDS, Counters, Family, Histogram, Histograms, Label, Table};

/// A page of metrics.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
}

/// Writes the samples of one family.
#[derive(Debug)]
pub struct Samples<'p> {
    page: &'p mut Page,
    family: &'static Family,
}

impl Page {
    /// What the answer's `content-type` is.
    pub const CONTENT_TYPE: &'static str = "text/plain; version=0.0.4; charset=utf-8";

    /// Begins a family. Each may be begun once.
    pub fn family(&mut self, family: &'static Family) -> Samples<'_> {
        let Family { name, help, kind, .. } = family;
        self.put(format_args!("# HELP {name} {help}\n# TYPE {name} {}\n", kind.as_str()));
        Samples { page: self, family }
    }

    /// A counter or gauge without labels.
    pub fn value(&mut self, family: &'static Family, value: impl Display) {
        self.family(family).value(&[], value);
    }

    /// A counter for each value of a label.
    pub fn counters<L: Label>(&mut self, family: &'static Family, counters: &Counters<L>) {
        let mut samples = self.family(family);
        for (label, counter) in counters.iter() {
            samples.value(&[label.as_str()], counter.get());
        }
    }

    /// A counter for each pair of labels that was counted at all: tables have more cells than cases.
    pub fn table<A: Label, B: Label>(&mut self, family: &'static Family, table: &Table<A, B>) {
        let mut samples = self.family(family);
        for (a, b, counter) in table.iter() {
            if counter.get() > 0 {
                samples.value(&[a.as_str(), b.as_str()], counter.get());
            }
        }
    }

    /// A histogram for each value of a label.
    pub fn histograms<L: Label>(&mut self, family: &'static Family, histograms: &Histograms<L>) {
        let mut samples = self.family(family);
        for (label, histogram) in histograms.iter() {
            samples.histogram(&[label.as_str()], histogram);
        }
    }

    /// All that was written.
    #[must_use]
    pub fn into_text(self) -> String {
        self.text
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _written = self.text.write_fmt(text);
    }
}

impl Samples<'_> {
    /// A number, with the family's labels in their order.
    pub fn value(&mut self, labels: &[&str], value: impl Display) {
        self.sample("", labels, None, value);
    }

    /// A histogram, with the family's labels in their order.
    pub fn histogram(&mut self, labels: &[&str], histogram: &Histogram) {
        let counts = histogram.cumulative();
        for (bound, count) in BOUNDS_SECONDS.iter().zip(counts) {
            self.sample("_bucket", labels, Some(&bound.to_string()), count);
        }
        let count = counts[BOUNDS_SECONDS.len()];
        self.sample("_bucket", labels, Some("+Inf"), count);
        self.sample("_sum", labels, None, histogram.sum_seconds());
        self.sample("_count", labels, None, count);
    }

    fn sample(&mut self, suffix: &str, labels: &[&str], bound: Option<&str>, value: impl Display) {
        debug_assert_eq!(labels.len(), self.family.labels.len(), "labels of {}", self.family.name);
        self.page.put(format_args!("{}{suffix}", self.family.name));
        let named = self.family.labels.iter().copied().zip(labels.iter().copied());
        let mut separator = '{';
        for (name, label) in named.chain(bound.map(|bound| ("le", bound))) {
            self.page.put(format_args!("{separator}{name}=\"{}\"", escaped(label)));
            separator = ',';
        }
        let close = if separator == ',' { "}" } else { "" };
        self.page.put(format_args!("{close} {value}\n"));
    }
}

fn escaped(label: &str) -> std::borrow::Cow<'_, str> {
    if label.contains(['\\', '"', '\n']) {
        label.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n").into()
    } else {
        label.into()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    static PLAIN: Family = Family::counter("a_total", "Things.", &[]);
    static LABELLED: Family = Family::gauge("b", "Others.", &["x", "y"]);
    static TIMES: Family = Family::histogram("c_seconds", "Times.", &["x"]);

    #[test]
    fn a_page_is_what_prometheus_reads() {
        let mut page = Page::default();
        page.value(&PLAIN, 3_u64);
        page.family(&LABELLED).value(&["q\"\\", "line\nfeed"], 0.5);
        let expected = "# HELP a_total Things.\n# TYPE a_total counter\na_total 3\n\
                        # HELP b Others.\n# TYPE b gauge\nb{x=\"q\\\"\\\\\",y=\"line\\nfeed\"} 0.5\n";
        assert_eq!(page.into_text(), expected);
    }

    #[test]
    fn a_histogram_ends_in_infinity_sum_and_count() {
        let histogram = Histogram::default();
        histogram.observe(Duration::from_millis(1));
        histogram.observe(Duration::from_secs(100));
        let mut page = Page::default();
        page.family(&TIMES).histogram(&["l"], &histogram);
        let text = page.into_text();
        for line in [
            "c_seconds_bucket{x=\"l\",le=\"0.0005\"} 0",
            "c_seconds_bucket{x=\"l\",le=\"0.001\"} 1",
            "c_seconds_bucket{x=\"l\",le=\"60\"} 1",
            "c_seconds_bucket{x=\"l\",le=\"+Inf\"} 2",
            "c_seconds_sum{x=\"l\"} 100.001",
            "c_seconds_count{x=\"l\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
        }
    }
}
