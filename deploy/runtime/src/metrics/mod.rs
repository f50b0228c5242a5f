//! Metrics: what a program counts while it works, and how it shows that to Prometheus.
//!
//! A program describes each of its metrics once, as a [`Family`] in its one list of names, keeps [`Counter`]s and [`Histogram`]s as plain
//! fields, and writes them to a [`Page`] when somebody asks. Counting is one or two atomic additions: no registry is searched, nothing
//! is locked and nothing allocated. A label's values are an enum ([`Label`]) or names from the configuration; text that a caller chose
//! can be none, because there is no way to add a value at run time.

mod page;
pub mod process;

use std::{
    marker::PhantomData,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use async_trait::async_trait;

pub use self::page::{Page, Samples};

/// One metric: its name, what it means, and the names of its labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    /// Name, in the words of Prometheus: prefix, what, unit, `_total` for counters.
    pub name: &'static str,
    /// One sentence on what it means.
    pub help: &'static str,
    /// What kind of number it is.
    pub kind: Kind,
    /// Names of its labels, in order.
    pub labels: &'static [&'static str],
}

/// Kinds of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from 0 at the start of the process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts of durations up to each of some bounds, in seconds.
    Histogram,
}

/// Something that can be asked for its metrics.
#[async_trait]
pub trait Source: Send + Sync + std::fmt::Debug + 'static {
    /// Writes all of them. Bounded in time; what cannot be had now is left out.
    async fn write(&self, page: &mut Page);
}

/// A label whose values are known when the program is built.
pub trait Label: Copy + 'static {
    /// All values, in the order of their numbers.
    const ALL: &'static [Self];

    /// The value as Prometheus sees it.
    fn as_str(self) -> &'static str;

    /// Its place in [`Label::ALL`].
    fn index(self) -> usize;
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

/// A counter for each value of a label.
#[derive(Debug)]
pub struct Counters<L> {
    cells: Box<[Counter]>,
    label: PhantomData<fn(L)>,
}

/// A counter for each pair of values of two labels.
#[derive(Debug)]
pub struct Table<A, B> {
    cells: Box<[Counter]>,
    labels: PhantomData<fn(A, B)>,
}

/// How long things took.
#[derive(Debug)]
pub struct Histogram {
    /// One for each bound of [`BOUNDS_SECONDS`], and one for all above.
    buckets: [AtomicU64; BOUNDS_SECONDS.len() + 1],
    sum_micros: AtomicU64,
}

/// A histogram for each value of a label.
#[derive(Debug)]
pub struct Histograms<L> {
    cells: Box<[Histogram]>,
    label: PhantomData<fn(L)>,
}

/// Upper bounds of the buckets of every histogram: a millisecond is quick for Redis, a minute slow for a large part.
pub const BOUNDS_SECONDS: [f64; 14] =
    [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0];

impl Family {
    /// A counter.
    #[must_use]
    pub const fn counter(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        Self { name, help, kind: Kind::Counter, labels }
    }

    /// A gauge.
    #[must_use]
    pub const fn gauge(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        Self { name, help, kind: Kind::Gauge, labels }
    }

    /// A histogram of seconds.
    #[must_use]
    pub const fn histogram(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        Self { name, help, kind: Kind::Histogram, labels }
    }
}

impl Kind {
    /// The word of the exposition format.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

impl Counter {
    /// One more.
    pub fn inc(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// How many so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl<L: Label> Counters<L> {
    /// The counter of a value.
    #[must_use]
    pub fn of(&self, label: L) -> &Counter {
        &self.cells[label.index()]
    }

    /// Every value with its counter.
    pub fn iter(&self) -> impl Iterator<Item = (L, &Counter)> {
        L::ALL.iter().copied().zip(&self.cells)
    }
}

impl<L: Label> Default for Counters<L> {
    fn default() -> Self {
        Self { cells: L::ALL.iter().map(|_| Counter::default()).collect(), label: PhantomData }
    }
}

impl<A: Label, B: Label> Table<A, B> {
    /// The counter of a pair of values.
    #[must_use]
    pub fn of(&self, a: A, b: B) -> &Counter {
        &self.cells[a.index() * B::ALL.len() + b.index()]
    }

    /// Every pair with its counter.
    pub fn iter(&self) -> impl Iterator<Item = (A, B, &Counter)> {
        let pairs = A::ALL.iter().flat_map(|a| B::ALL.iter().map(move |b| (*a, *b)));
        pairs.zip(&self.cells).map(|((a, b), counter)| (a, b, counter))
    }
}

impl<A: Label, B: Label> Default for Table<A, B> {
    fn default() -> Self {
        let cells = (0..A::ALL.len() * B::ALL.len()).map(|_| Counter::default()).collect();
        Self { cells, labels: PhantomData }
    }
}

impl Histogram {
    /// Something took so long.
    pub fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = BOUNDS_SECONDS.iter().position(|bound| seconds <= *bound);
        self.buckets[bucket.unwrap_or(BOUNDS_SECONDS.len())].fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.sum_micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// How many things were observed.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }

    /// How many took at most each bound, in the order of the bounds, then how many there were.
    fn cumulative(&self) -> [u64; BOUNDS_SECONDS.len() + 1] {
        let mut sum = 0;
        let mut counts = [0; BOUNDS_SECONDS.len() + 1];
        for (count, bucket) in counts.iter_mut().zip(&self.buckets) {
            sum += bucket.load(Ordering::Relaxed);
            *count = sum;
        }
        counts
    }

    #[expect(clippy::cast_precision_loss, reason = "a sum of years is still exact to the second")]
    fn sum_seconds(&self) -> f64 {
        self.sum_micros.load(Ordering::Relaxed) as f64 / 1e6
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| AtomicU64::new(0)), sum_micros: AtomicU64::new(0) }
    }
}

impl<L: Label> Histograms<L> {
    /// The histogram of a value.
    #[must_use]
    pub fn of(&self, label: L) -> &Histogram {
        &self.cells[label.index()]
    }

    /// Every value with its histogram.
    pub fn iter(&self) -> impl Iterator<Item = (L, &Histogram)> {
        L::ALL.iter().copied().zip(&self.cells)
    }
}

impl<L: Label> Default for Histograms<L> {
    fn default() -> Self {
        Self { cells: L::ALL.iter().map(|_| Histogram::default()).collect(), label: PhantomData }
    }
}

/// Makes an enum a [`Label`]: `labels! { /// Doc. pub enum Outcome { /// Doc. Done => "done", } }`.
#[macro_export]
macro_rules! labels {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($(#[$doc:meta])* $variant:ident => $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        $vis enum $name { $($(#[$doc])* $variant),+ }

        impl $crate::metrics::Label for $name {
            const ALL: &'static [Self] = &[$(Self::$variant),+];

            fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    labels! {
        /// For tests.
        enum Side {
            /// One.
            Left => "left",
            /// Other.
            Right => "right",
        }
    }

    labels! {
        /// For tests.
        enum Kind3 {
            /// First.
            A => "a",
            /// Second.
            B => "b",
            /// Third.
            C => "c",
        }
    }

    #[test]
    fn each_pair_of_labels_has_a_counter_of_its_own() {
        let table = Table::<Side, Kind3>::default();
        let mut expected = Vec::new();
        for (number, (a, b)) in
            Side::ALL.iter().flat_map(|a| Kind3::ALL.iter().map(move |b| (*a, *b))).enumerate()
        {
            table.of(a, b).add(number as u64);
            expected.push((a, b, number as u64));
        }
        let seen: Vec<_> = table.iter().map(|(a, b, counter)| (a, b, counter.get())).collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_duration_is_counted_in_the_first_bucket_that_holds_it() {
        let histogram = Histogram::default();
        for micros in [0, 500, 501, 60_000_000, 61_000_000] {
            histogram.observe(Duration::from_micros(micros));
        }
        let counts = histogram.cumulative();
        assert_eq!((counts[0], counts[1], counts[13], counts[14]), (2, 3, 4, 5));
        assert_eq!(histogram.count(), 5);
        assert!((histogram.sum_seconds() - 121.001_001).abs() < 1e-9);
    }

    #[test]
    fn bounds_rise() {
        assert!(BOUNDS_SECONDS.is_sorted());
    }
}
