//! What the engine does besides copying: it watches over stores that are away, and clears up behind copies that could not.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::join_all;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Engine, janitor, route::Site};
use crate::store::{ObjectPath, Pin, StoreError};

/// Longest time that the last aborts may take when the worker ends.
const LAST_ABORTS: Duration = Duration::from_secs(5);
/// Key that is asked for to see whether a store answers. Nothing is ever stored under it.
const PULSE_KEY: &str = ".backhaul/pulse";

impl Engine {
    /// Origins whose tasks are better not taken now, because their store or that of their backups is away; changes while
    /// [`Engine::tend`] runs.
    #[must_use]
    pub fn paused(&self) -> tokio::sync::watch::Receiver<BTreeSet<String>> {
        self.paused.subscribe()
    }

    /// Looks after stores and leftovers until `stop`, then aborts what still waits for it, for a few seconds at most.
    pub async fn tend(&self, stop: CancellationToken) {
        let work = async {
            tokio::join!(self.watch_stores(), self.abort_leftovers(), self.sweep_from_time_to_time());
        };
        stop.run_until_cancelled(work).await;
        if timeout(LAST_ABORTS, self.janitor.work()).await.is_err() {
            debug!("some uploads of cancelled copies are left to be found as orphans");
        }
    }

    /// Aborts multipart uploads in the backup buckets that were begun by some Backhaul worker and that nobody has gone on with since
    /// `before`, in seconds since the epoch. How many there were, by backup location.
    pub async fn sweep_orphans(&self, before: i64) -> Vec<(String, Result<usize, StoreError>)> {
        let mut swept = Vec::new();
        for target in self.targets() {
            let origins: Vec<&str> = self
                .routes
                .iter()
                .filter(|(_, route)| std::sync::Arc::ptr_eq(&route.target, target))
                .map(|(name, _)| name.as_str())
                .collect();
            // What a retention class shares its bucket with is swept for all.
            if origins.is_empty() {
                continue;
            }
            let result = janitor::sweep(target, &origins, before).await;
            swept.push((target.site.name.clone(), result));
        }
        swept
    }

    async fn watch_stores(&self) {
        loop {
            let changed = self.changed.notified();
            self.publish();
            let due = self.sites.iter().filter_map(|site| site.gate.closed_until()).min();
            tokio::select! {
                () = changed => {}
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    let now = Instant::now();
                    let due = self.sites.iter().filter(|s| s.gate.closed_until().is_some_and(|until| until <= now));
                    join_all(due.map(|site| feel_pulse(site))).await;
                }
            }
        }
    }

    fn publish(&self) {
        let paused: BTreeSet<String> = self
            .routes
            .iter()
            .filter(|(_, r)| r.away_until().is_some())
            .map(|(name, _)| name.clone())
            .collect();
        self.paused.send_if_modified(|before| {
            if *before == paused {
                return false;
            }
            for name in paused.difference(before) {
                warn!(location = name, "a store is away; no tasks of this location are taken");
            }
            for name in before.difference(&paused) {
                info!(location = name, "the stores answer again");
            }
            *before = paused;
            true
        });
    }

    async fn abort_leftovers(&self) {
        loop {
            self.janitor.next().await;
            self.janitor.work().await;
        }
    }

    async fn sweep_from_time_to_time(&self) {
        loop {
            // Workers that start together do not list together.
            sleep(self.settings.sweep_every.mul_f64(0.5 + fastrand::f64())).await;
            let age = i64::try_from(self.settings.orphan_age.as_secs()).unwrap_or(i64::MAX);
            for (location, result) in
                self.sweep_orphans(super::clock::wall_seconds().saturating_sub(age)).await
            {
                if let Err(error) = result {
                    debug!(location, %error, "cannot look for orphaned uploads");
                }
            }
        }
    }
}

/// One cheap request that tells whether the store answers; its refusal is an answer too.
async fn feel_pulse(site: &Site) {
    let at = ObjectPath { bucket: &site.pulse_bucket, key: PULSE_KEY };
    let latest = Pin::default();
    site.gate.pulse(site.store.head(at, &latest)).await;
}
