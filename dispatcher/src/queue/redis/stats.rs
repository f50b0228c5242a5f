//! How much there is, and since when: one bounded script call for each shard.
//!
//! Which tenants have most is found by reading their counts, up to [`LOOK_TENANTS`] a shard; the numbers of those that are shown are
//! then read from every shard, so they are exact whichever way they were chosen. A shard that cannot be asked is left out and told.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Shared,
    counts::TenantCounts,
    error,
    failures::Failures,
    keys,
    scripts::{Answer, Call, Script},
    value,
};
use crate::queue::{Amount, Backlog, QueueError, QueueStats, StatsQuery, stats::MOST_TENANTS};

/// Tasks of each index and tenants of each band that a shard looks at for their age.
const LOOK: usize = 100;
/// Tenants of a shard whose counts are read to find those with most.
const LOOK_TENANTS: usize = 5_000;

/// Tenants of one shard.
#[derive(Debug, Default)]
struct TenantsOfShard {
    /// Entries in the index, with those that have nothing unfinished or dead.
    entries: u64,
    kept: BTreeMap<Vec<u8>, u64>,
    /// Not all were looked at.
    sampled: bool,
}

impl Shared {
    /// [`crate::queue::TaskQueue::stats`].
    pub(super) async fn stats(&self, query: &StatsQuery) -> Result<QueueStats, QueueError> {
        match query {
            StatsQuery::Tenant(tenant) => {
                let (all, mut shares) = self.amounts(std::slice::from_ref(tenant)).await?;
                let total = shares.pop().unwrap_or_default();
                Ok(QueueStats { total, incomplete: all.incomplete, ..QueueStats::default() })
            }
            StatsQuery::All { tenants } => {
                let mut failures = Failures::default();
                let (names, of_all, sampled) =
                    self.largest((*tenants).min(MOST_TENANTS), &mut failures).await?;
                let (stats, shares) = self.amounts(&names).await?;
                let shown = names.into_iter().zip(shares).filter(|(_, share)| share.tasks() > 0).collect();
                let mut stats = stats.with_most(shown, *tenants);
                stats.tenants_left_out = of_all.saturating_sub(stats.tenants.len() as u64);
                stats.tenants_sampled = sampled;
                // Of a shard that was away when the names were read, the largest tenants may not be among them.
                stats.incomplete |= failures.any();
                Ok(stats)
            }
        }
    }

    /// The names of the tenants that have most, how many tenants there are, and whether not all of them were looked at.
    async fn largest(
        &self,
        most: u32,
        failures: &mut Failures,
    ) -> Result<(Vec<String>, u64, bool), QueueError> {
        let (mut kept, mut fewest, mut sampled) = (BTreeMap::<Vec<u8>, u64>::new(), 0, false);
        for shard in 0..self.settings.shards {
            let of_shard = self.tenants(shard).await;
            let Some(tenants) = failures.unless_away(of_shard)? else { continue };
            fewest = fewest.max(tenants.entries);
            sampled |= tenants.sampled;
            for (name, of_tenant) in tenants.kept {
                *kept.entry(name).or_default() += of_tenant;
            }
        }
        let of_all = fewest.max(kept.len() as u64);
        let mut tenants: Vec<(Vec<u8>, u64)> = kept.into_iter().collect();
        tenants.sort_by(|(a, of_a), (b, of_b)| of_b.cmp(of_a).then_with(|| a.cmp(b)));
        tenants.truncate(usize::try_from(most).unwrap_or(usize::MAX));
        let name = |(name, _): (Vec<u8>, u64)| String::from_utf8_lossy(&name).into_owned();
        Ok((tenants.into_iter().map(name).collect(), of_all, sampled))
    }

    /// The tenants of a shard with their unfinished and dead tasks, up to [`LOOK_TENANTS`].
    async fn tenants(&self, shard: u16) -> Result<TenantsOfShard, QueueError> {
        let key = keys::of_shard(shard, "tenants");
        let mut length = redis::cmd("HLEN");
        length.arg(&key);
        let length = value::integer(&self.ask(length).await?).unwrap_or_default();
        let entries = u64::try_from(length).unwrap_or_default();
        let mut tenants = TenantsOfShard { entries, ..TenantsOfShard::default() };
        let mut cursor = 0_u64;
        loop {
            let mut scan = redis::cmd("HSCAN");
            scan.arg(&key).arg(cursor).arg("COUNT").arg(1_000);
            let (next, entries): (u64, Vec<Vec<u8>>) = redis::from_redis_value(self.ask(scan).await?)
                .map_err(|_| error::unexpected("HSCAN gave no page"))?;
            for entry in entries.chunks_exact(2) {
                // A scan may give an entry twice.
                let counts = TenantCounts::read(&entry[1]).unwrap_or_default();
                if counts.kept > 0 {
                    tenants.kept.insert(entry[0].clone(), counts.kept);
                }
            }
            cursor = next;
            tenants.sampled |= cursor != 0 && tenants.kept.len() >= LOOK_TENANTS;
            if cursor == 0 || tenants.sampled {
                return Ok(tenants);
            }
        }
    }

    /// What all shards have together, and the shares of these tenants.
    async fn amounts(&self, tenants: &[String]) -> Result<(QueueStats, Vec<Backlog>), QueueError> {
        let calls = (0..self.settings.shards).map(|shard| {
            let mut call = Call::new(Script::Stats, shard, [].into_iter()).arg(self.now()).arg(LOOK);
            for tenant in tenants {
                call.push(tenant.as_str());
            }
            call.into_command()
        });
        let (mut stats, mut shares) = (QueueStats::default(), vec![Backlog::default(); tenants.len()]);
        let (mut done, mut cancelled) = (0, 0);
        let mut failures = Failures::default();
        for (shard, answer) in (0..).zip(self.send(calls.collect()).await) {
            let Some(answer) = failures.unless_away(answer)? else { continue };
            let mut answer = Answer::read(answer)?;
            self.hints.set(shard, answer.pending);
            done += answer.unsigned()?;
            cancelled += answer.unsigned()?;
            stats.total.add(&backlog(&mut answer)?);
            for share in &mut shares {
                share.add(&backlog(&mut answer)?);
            }
        }
        (stats.done, stats.cancelled) = (Some(done), Some(cancelled));
        stats.incomplete = failures.any();
        failures.unless_all_failed((stats, shares))
    }
}

fn backlog(answer: &mut Answer) -> Result<Backlog, QueueError> {
    let mut backlog = Backlog::default();
    for amount in backlog.amounts_mut() {
        let (tasks, age_ms, whole) = (answer.unsigned()?, answer.integer()?, answer.integer()?);
        let oldest = u64::try_from(age_ms).ok().map(Duration::from_millis);
        *amount = Amount { tasks, oldest, sampled: whole == 0 && tasks > 0 };
    }
    Ok(backlog)
}
