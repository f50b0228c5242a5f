//! The recount: what `meta` and `tenants` of a shard should say, from the lengths of lines and the records in the other indexes.
//!
//! A recount takes many reads, and tasks move between them. So it is a finding only if no task has moved from its beginning until
//! the script that confirms it; else it is done again, a few times. Pending tasks are counted by their lines, not by their
//! records: entries without a record are a finding of their own.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use bytes::{Buf as _, BufMut as _};

use super::{
    Audit, FsckError, PAGE, Problem, Script,
    names::{self, Line},
};
use crate::queue::{
    TaskState,
    redis::{codec, counts::TenantCounts, keys, value},
};

/// Recounts of a shard before it is left alone as too busy.
const ATTEMPTS: u32 = 5;
/// Where `meta` goes on after its clock.
const CLOCK_BYTES: usize = 18;

/// What is counted of a shard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Totals {
    unfinished: u64,
    pending: [u64; 3],
    /// Bytes of the records of done and cancelled tasks.
    finished_bytes: u64,
}

/// A moment in the life of a shard: equal as long as no task moves.
#[derive(Debug)]
pub(super) struct Moment {
    pub(super) meta: Vec<u8>,
    pub(super) moves: u64,
}

/// A recount.
#[derive(Debug, Default)]
pub(super) struct Tally {
    tenants: BTreeMap<Vec<u8>, TenantCounts>,
    totals: Totals,
    states: BTreeMap<TaskState, u64>,
}

impl Audit {
    /// Compares the counters of a shard with a recount.
    pub(super) async fn recount(&mut self, shard: u16) -> Result<(), FsckError> {
        let mut flowed = false;
        for _ in 0..ATTEMPTS {
            if self.unreadable.contains(&shard) {
                return Ok(());
            }
            let Some(mut moment) = self.moment(shard).await? else { return Ok(()) };
            let Some(kept) = self.kept(shard).await? else { return Ok(()) };
            let Some(tally) = self.count(shard, kept.keys().cloned().collect()).await? else {
                return Ok(());
            };
            // Once: what is wrong there is told with numbers that change as the shard goes on.
            if !flowed && !self.flows(shard, &mut moment, &tally).await? {
                continue;
            }
            flowed = true;
            let Tally { tenants: counted, totals, .. } = tally;
            let wrong: Vec<(Vec<u8>, TenantCounts)> = kept
                .keys()
                .chain(counted.keys().filter(|tenant| !kept.contains_key(*tenant)))
                .map(|tenant| (tenant.clone(), counted.get(tenant).copied().unwrap_or_default()))
                .filter(|(tenant, counts)| kept.get(tenant).copied().flatten() != Some(*counts))
                .collect();
            let totals = (Totals::read(&moment.meta) != totals).then_some(totals);
            if wrong.is_empty() && totals.is_none() {
                return Ok(());
            }
            if self.confirm(shard, &moment, &wrong, totals).await? {
                return Ok(());
            }
        }
        if !self.unreadable.contains(&shard) {
            self.report.unchecked_counters.push(shard);
        }
        Ok(())
    }

    async fn moment(&mut self, shard: u16) -> Result<Option<Moment>, FsckError> {
        let (mut meta, mut stats) = (redis::cmd("GET"), redis::cmd("HVALS"));
        meta.arg(keys::meta(shard));
        stats.arg(keys::of_shard(shard, "stats"));
        let Some(mut answers) = self.ask(shard, vec![meta, stats]).await? else { return Ok(None) };
        let stats = answers.pop().and_then(value::list).unwrap_or_default();
        let meta = answers.pop().and_then(value::bytes).unwrap_or_default();
        let moves = stats.iter().filter_map(|n| value::text(n).parse::<u64>().ok()).sum();
        Ok(Some(Moment { meta: meta.get(CLOCK_BYTES..).unwrap_or_default().to_vec(), moves }))
    }

    /// The counts of all tenants as they are kept; `None` for a tenant whose counts cannot be read.
    async fn kept(
        &mut self,
        shard: u16,
    ) -> Result<Option<BTreeMap<Vec<u8>, Option<TenantCounts>>>, FsckError> {
        let key = names::of_shard(shard, b"tenants");
        let mut kept = BTreeMap::new();
        let mut cursor = Some(0);
        while let Some(at) = cursor {
            let Some((next, entries)) = self.page("HSCAN", shard, &key, at).await? else { return Ok(None) };
            cursor = next;
            for entry in entries.chunks_exact(2) {
                kept.insert(entry[0].clone(), TenantCounts::read(&entry[1]));
            }
        }
        Ok(Some(kept))
    }

    async fn count(&mut self, shard: u16, tenants: BTreeSet<Vec<u8>>) -> Result<Option<Tally>, FsckError> {
        let Tally { tenants: mut counted, mut totals, mut states } = Tally::default();
        let Some(lines) = self.all_lines(shard, tenants).await? else { return Ok(None) };
        for lines in lines.chunks(PAGE) {
            let lengths = lines.iter().map(|line| {
                let mut length = redis::cmd("ZCARD");
                length.arg(names::of_shard(shard, &names::of_line(line)));
                length
            });
            let Some(answers) = self.ask(shard, lengths.collect()).await? else { return Ok(None) };
            for (line, answer) in lines.iter().zip(&answers) {
                let length = value::integer(answer).and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
                if length > 0 {
                    let counts: &mut TenantCounts = counted.entry(line.tenant.clone()).or_default();
                    counts.pending[usize::from(line.band)] += length;
                    counts.kept += length;
                    totals.pending[usize::from(line.band)] += length;
                    totals.unfinished += length;
                    *states.entry(TaskState::Pending).or_default() += length;
                }
            }
        }
        for state in [TaskState::Scheduled, TaskState::Working, TaskState::Delayed, TaskState::Dead] {
            let Some(of_state) = self.count_state(shard, state).await? else { return Ok(None) };
            for (tenant, tasks) in of_state {
                let counts = counted.entry(tenant).or_default();
                counts.kept += tasks;
                *match state {
                    TaskState::Scheduled => &mut counts.scheduled,
                    TaskState::Delayed => &mut counts.delayed,
                    TaskState::Dead => &mut counts.dead,
                    TaskState::Working | TaskState::Pending | TaskState::Done | TaskState::Cancelled => {
                        &mut counts.leases
                    }
                } += tasks;
                totals.unfinished += if state == TaskState::Dead { 0 } else { tasks };
                *states.entry(state).or_default() += tasks;
            }
        }
        for (state, index) in [(TaskState::Done, "done"), (TaskState::Cancelled, "cancelled")] {
            let Some((records, bytes)) = self.bytes_in(shard, index).await? else { return Ok(None) };
            totals.finished_bytes += bytes;
            states.insert(state, records);
        }
        Ok(Some(Tally { tenants: counted, totals, states }))
    }

    /// Records of an index, and their bytes.
    async fn bytes_in(&mut self, shard: u16, index: &str) -> Result<Option<(u64, u64)>, FsckError> {
        let key = names::of_shard(shard, index.as_bytes());
        let (mut records, mut bytes, mut seen) = (0, 0, HashSet::new());
        let mut cursor = Some(0);
        while let Some(at) = cursor {
            let Some((next, entries)) = self.page("ZSCAN", shard, &key, at).await? else { return Ok(None) };
            cursor = next;
            let ids = entries.into_iter().step_by(2).filter_map(|member| keys::id(&member));
            let ids: Vec<_> = ids.filter(|id| seen.insert(id.clone())).collect();
            for ids in ids.chunks(PAGE) {
                let lengths = ids.iter().map(|id| {
                    let mut length = redis::cmd("STRLEN");
                    length.arg(keys::record(shard, id));
                    length
                });
                let Some(answers) = self.ask(shard, lengths.collect()).await? else { return Ok(None) };
                let length = |answer| value::integer(answer).and_then(|n| u64::try_from(n).ok());
                for length in answers.iter().filter_map(length).filter(|length| *length > 0) {
                    records += 1;
                    bytes += length;
                }
            }
        }
        Ok(Some((records, bytes)))
    }

    /// All lines that can have tasks: also those that were begun after the keys were looked at.
    async fn all_lines(
        &mut self,
        shard: u16,
        tenants: BTreeSet<Vec<u8>>,
    ) -> Result<Option<Vec<Line>>, FsckError> {
        let mut lines = self.found.get(&shard).map(|found| found.lines.clone()).unwrap_or_default();
        let key = names::of_shard(shard, b"locations");
        let mut cursor = Some(0);
        while let Some(at) = cursor {
            let Some((next, locations)) = self.page("SSCAN", shard, &key, at).await? else { return Ok(None) };
            cursor = next;
            for location in locations {
                for tenant in &tenants {
                    lines.extend((0..3).map(|band| Line {
                        band,
                        location: location.clone(),
                        tenant: tenant.clone(),
                    }));
                }
            }
        }
        Ok(Some(lines.into_iter().collect()))
    }

    /// Tasks in one state, by tenant.
    async fn count_state(
        &mut self,
        shard: u16,
        state: TaskState,
    ) -> Result<Option<BTreeMap<Vec<u8>, u64>>, FsckError> {
        let Some(index) = keys::index(state) else { return Ok(Some(BTreeMap::new())) };
        let key = names::of_shard(shard, index.as_bytes());
        let (mut counted, mut seen) = (BTreeMap::new(), HashSet::new());
        let mut cursor = Some(0);
        while let Some(at) = cursor {
            let Some((next, entries)) = self.page("ZSCAN", shard, &key, at).await? else { return Ok(None) };
            cursor = next;
            // A scan may give an entry twice while the server makes its table larger.
            let ids = entries.into_iter().step_by(2).filter_map(|member| keys::id(&member));
            let ids: Vec<_> = ids.filter(|id| seen.insert(id.clone())).collect();
            for ids in ids.chunks(PAGE) {
                let mut get = redis::cmd("MGET");
                get.arg(ids.iter().map(|id| keys::record(shard, id)).collect::<Vec<_>>());
                let Some(mut answers) = self.ask(shard, vec![get]).await? else { return Ok(None) };
                let raws = answers.pop().and_then(value::list).unwrap_or_default();
                for (id, raw) in ids.iter().zip(raws) {
                    let record = value::bytes(raw).and_then(|raw| codec::decode(id, &raw).ok());
                    if let Some(record) = record.filter(|record| record.state == state) {
                        *counted.entry(record.spec.tenant.into_bytes()).or_default() += 1;
                    }
                }
            }
        }
        Ok(Some(counted))
    }

    /// Reports, and mends, what is wrong; false when a task has moved.
    async fn confirm(
        &mut self,
        shard: u16,
        moment: &Moment,
        wrong: &[(Vec<u8>, TenantCounts)],
        totals: Option<Totals>,
    ) -> Result<bool, FsckError> {
        let repair = self.options.repair;
        // The totals last: they are part of the moment that is compared.
        let parts = wrong.chunks(PAGE).map(|tenants| (tenants, None));
        let parts: Vec<_> = parts.chain(totals.map(|totals| (&[][..], Some(totals)))).collect();
        for (tenants, totals) in parts {
            let mut call = Self::script(Script::FsckCounters, shard)
                .arg(u8::from(repair))
                .arg(moment.meta.as_slice())
                .arg(moment.moves)
                .arg(totals.as_ref().map(Totals::pack).unwrap_or_default());
            for (tenant, counts) in tenants {
                call.push(tenant.as_slice());
                call.push(counts.pack());
            }
            let Some(mut answer) = self.call(shard, call).await? else { return Ok(false) };
            if answer.integer()? != 1 {
                return Ok(false);
            }
            for (tenant, _) in tenants {
                let subject = [names::of_shard(shard, b"tenants ").as_slice(), tenant].concat();
                self.report.add(Problem::WrongCounter, &subject, repair);
            }
            if totals.is_some() {
                self.report.add(Problem::WrongCounter, keys::meta(shard).as_bytes(), repair);
            }
        }
        Ok(true)
    }
}

impl Tally {
    /// Tasks in a state.
    pub(super) fn of(&self, state: TaskState) -> u64 {
        self.states.get(&state).copied().unwrap_or(0)
    }
}

impl Totals {
    /// What `meta`, without its clock, says; nothing when there is none.
    fn read(mut meta: &[u8]) -> Self {
        if meta.len() != 9 * 7 {
            return Self::default();
        }
        meta.advance(7);
        let unfinished = meta.get_uint(7);
        let pending = [meta.get_uint(7), meta.get_uint(7), meta.get_uint(7)];
        meta.advance(3 * 7);
        Self { unfinished, pending, finished_bytes: meta.get_uint(7) }
    }

    fn pack(&self) -> Vec<u8> {
        let mut packed = Vec::new();
        for count in [self.unfinished].iter().chain(&self.pending).chain(&[self.finished_bytes]) {
            packed.put_uint(codec::exact(*count), 7);
        }
        packed
    }
}
