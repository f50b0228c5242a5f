//! What the worker counts, and how it is shown.
//!
//! [`Metrics`] has a row of counters for each configured location, made once at the start: text that comes with a task can never make
//! another. [`Exposed`] writes them, together with what is only looked at when somebody asks. Names are in [`names`], and nowhere else.

mod copier;
mod labels;
pub mod names;
mod store;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use backhaul_runtime::metrics::{Counter, Counters, Histogram, Histograms, Label as _, Page, Source};

use self::labels::{Fault, Outcome, Standing, Verb};
pub use self::{copier::MeteredCopier, store::MeteredStore};
use crate::{
    link::{CreditLimit, LinkGauges},
    transfer::Engine,
};

/// Stands for every location that is none of ours; no location can have this name.
const OTHER: &str = "_other";

/// What is counted while the worker works.
#[derive(Debug)]
pub struct Metrics {
    sites: BTreeMap<String, Arc<Site>>,
    /// Of tasks whose location is none of ours, which a dispatcher with another file may send.
    other: Arc<Site>,
    copying: AtomicU64,
}

/// What is counted for one location.
#[derive(Debug, Default)]
pub(crate) struct Site {
    copies: Counters<Outcome>,
    copy_time: Histogram,
    copied_bytes: Counter,
    request_time: Histograms<Verb>,
    request_errors: Counters<Fault>,
    read_time: Histogram,
    read_bytes: Counter,
    written_bytes: Counter,
}

/// Everything that is shown.
#[derive(Debug)]
pub struct Exposed {
    /// What was counted.
    pub metrics: Arc<Metrics>,
    /// The stream.
    pub link: Arc<LinkGauges>,
    /// What is held at a time.
    pub credit: CreditLimit,
    /// The engine, for its memory and limiters.
    pub engine: Arc<Engine>,
}

impl Metrics {
    /// Counters for these locations.
    #[must_use]
    pub fn new<'n>(locations: impl Iterator<Item = &'n str>) -> Self {
        Self {
            sites: locations.map(|name| (name.to_owned(), Arc::default())).collect(),
            other: Arc::default(),
            copying: AtomicU64::new(0),
        }
    }

    /// The counters of a location.
    pub(crate) fn site(&self, location: &str) -> &Arc<Site> {
        self.sites.get(location).unwrap_or(&self.other)
    }

    fn all(&self) -> impl Iterator<Item = (&str, &Site)> {
        let sites = self.sites.iter().map(|(name, site)| (name.as_str(), &**site));
        sites.chain([(OTHER, &*self.other)])
    }
}

#[async_trait]
impl Source for Exposed {
    async fn write(&self, page: &mut Page) {
        let (link, metrics) = (&self.link, &self.metrics);
        page.value(&names::READY, u8::from(link.ready.is_ready()));
        page.value(&names::WELCOMES, link.welcomes.get());
        page.value(&names::CREDIT_TASKS, self.credit.tasks);
        page.value(&names::CREDIT_BYTES, self.credit.bytes);
        page.value(&names::LEASES, link.leases());
        page.value(&names::UNCONFIRMED, link.unconfirmed());
        page.value(&names::LOST, link.lost.get());
        page.value(&names::IGNORED, link.ignored());
        page.value(&names::COPYING, metrics.copying.load(Ordering::Relaxed));
        metrics.write(page);
        page.value(&names::MEMORY, self.engine.memory_high_water().0);
        let sites = self.engine.sites();
        let mut retries = page.family(&names::RETRIES);
        sites.iter().for_each(|site| retries.value(&[&site.name], site.retries));
        let mut allowed = page.family(&names::ALLOWED);
        sites.iter().for_each(|site| allowed.value(&[&site.name], site.allowed));
        let mut in_flight = page.family(&names::IN_FLIGHT);
        sites.iter().for_each(|site| in_flight.value(&[&site.name], site.in_flight));
        let mut states = page.family(&names::STORE);
        for site in &sites {
            for state in Standing::ALL {
                states.value(&[&site.name, state.as_str()], u8::from(Standing::from(site.state) == *state));
            }
        }
    }
}

impl Metrics {
    fn write(&self, page: &mut Page) {
        let mut copies = page.family(&names::COPIES);
        for (name, site) in self.all() {
            for (outcome, count) in site.copies.iter() {
                copies.value(&[name, outcome.as_str()], count.get());
            }
        }
        let mut times = page.family(&names::COPY_TIME);
        self.all().for_each(|(name, site)| times.histogram(&[name], &site.copy_time));
        let mut bytes = page.family(&names::COPIED);
        self.all().for_each(|(name, site)| bytes.value(&[name], site.copied_bytes.get()));
        let mut times = page.family(&names::REQUEST_TIME);
        for (name, site) in self.all() {
            for (verb, time) in site.request_time.iter().filter(|(_, time)| time.count() > 0) {
                times.histogram(&[name, verb.as_str()], time);
            }
        }
        let mut errors = page.family(&names::REQUEST_ERRORS);
        for (name, site) in self.all() {
            for (fault, count) in site.request_errors.iter() {
                errors.value(&[name, fault.as_str()], count.get());
            }
        }
        let mut times = page.family(&names::READ_TIME);
        self.all().for_each(|(name, site)| times.histogram(&[name], &site.read_time));
        let mut bytes = page.family(&names::READ);
        self.all().for_each(|(name, site)| bytes.value(&[name], site.read_bytes.get()));
        let mut bytes = page.family(&names::WRITTEN);
        self.all().for_each(|(name, site)| bytes.value(&[name], site.written_bytes.get()));
    }
}
