//! Keys and records, and the entries of indexes that lead to them.
//!
//! Every task is compared by a script, so that a move in progress is never seen half done. What cannot be decoded here is reported
//! with its key and left: a record is the only thing that nothing else can restore.

use std::time::Duration;

use redis::Value;

use super::{
    Audit, FsckError, PAGE, Problem, Script,
    names::{self, Line, Name},
    read_page,
};
use crate::queue::{
    TaskId, TaskRecord, TaskState,
    redis::{codec, error, keys, link::pipeline, value},
};

/// Indexes with an entry for each task in one state, and the one for tasks that were put aside.
const INDEXES: [&str; 7] = ["working:scheduled", "working", "delay", "done", "dead", "cancelled", "damaged"];
/// How long the memo of a lease request is kept, as in `lease.lua`.
const MEMO: Duration = Duration::from_secs(600);
/// Orphans that one audit waits for; the next one finds the rest.
const MOST_ORPHANS: usize = 10_000;

/// An index entry without a record.
#[derive(Debug)]
pub(super) struct Orphan {
    shard: u16,
    index: Vec<u8>,
    member: Vec<u8>,
}

/// A task to compare, and the index in which it was seen; empty for none.
type Item = (Vec<u8>, Vec<u8>);

/// What `fsck_tasks.lua` may mend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mend {
    Nothing = 0,
    WithRecord = 1,
    Orphans = 2,
}

/// Keys of ours that belong to no shard.
const OUTSIDE: [&str; 6] = [
    keys::CONFIG,
    keys::QUARANTINE_BODIES,
    keys::QUARANTINE_ABOUT,
    keys::QUARANTINE_ORDER,
    keys::REMOVALS,
    keys::RULES,
];

impl Audit {
    /// Looks at every key of the queue, and at every record.
    pub(super) async fn keys(&mut self) -> Result<(), FsckError> {
        for primary in self.nodes.primaries() {
            let mut cursor = Some(0);
            while let Some(at) = cursor {
                let mut scan = redis::cmd("SCAN");
                scan.arg(at).arg("MATCH").arg("*bh:*").arg("COUNT").arg(PAGE);
                let answer = primary.link.send(&pipeline([scan])).await.map_err(error::from_redis)?.pop();
                let (next, found) = read_page(answer.transpose().map_err(error::from_redis)?)?;
                cursor = next;
                for keys in found.chunks(PAGE) {
                    self.some_keys(keys).await?;
                }
            }
        }
        Ok(())
    }

    async fn some_keys(&mut self, found: &[Vec<u8>]) -> Result<(), FsckError> {
        let mut known = Vec::new();
        for key in found {
            match names::parse(key, self.shards) {
                Some((shard, name)) => known.push((key, shard, name)),
                None if OUTSIDE.iter().any(|outside| key == outside.as_bytes()) => {}
                None if key.starts_with(b"{bh:") || key.starts_with(b"bh:") => {
                    self.report.add(Problem::UnknownKey, key, false);
                }
                // Of somebody else, who shares the database.
                None => {}
            }
        }
        let commands = known.iter().map(|(key, _, name)| {
            let mut command = redis::cmd(match name {
                Name::Record(_) => "GET",
                Name::Memo => "PTTL",
                Name::Line(_) | Name::Ring(..) | Name::Other(_) => "TYPE",
            });
            command.arg(key.as_slice());
            command
        });
        let answers = self.nodes.send(commands.collect()).await;
        let mut records: Vec<(u16, Item)> = Vec::new();
        for ((key, shard, name), answer) in known.into_iter().zip(answers) {
            let answer = match answer.map_err(error::from_redis) {
                Err(failure) if error::is_wrong_type(&failure) => Value::Nil,
                answer => answer?,
            };
            match name {
                Name::Record(id) => {
                    if let Some(record) = self.record(shard, key, &id, answer).await? {
                        self.line_of(shard, &record);
                        records.push((shard, (id.hash().as_bytes().to_vec(), Vec::new())));
                    }
                }
                Name::Memo if value::integer(&answer) == Some(-1) => self.endless_memo(shard, key).await?,
                Name::Memo => {}
                Name::Line(_) | Name::Ring(..) | Name::Other(_) => {
                    let kind = value::text(&answer);
                    if kind != "none" && kind != names::type_of(&name) {
                        self.report.add(Problem::UnknownKey, key, false);
                        self.give_up(shard);
                    }
                    let shard = self.found.entry(shard).or_default();
                    if let Name::Line(line) = name {
                        shard.lines.insert(line);
                    } else if let Name::Ring(band, location) = name {
                        shard.rings.insert((band, location));
                    }
                }
            }
        }
        records.sort_by_key(|(shard, _)| *shard);
        for same in records.chunk_by(|(a, _), (b, _)| a == b) {
            let items: Vec<Item> = same.iter().map(|(_, item)| item.clone()).collect();
            self.compare(same[0].0, &items, self.mend()).await?;
        }
        Ok(())
    }

    /// The record under a key that was just found; `None` when it is gone by now, or damaged.
    async fn record(
        &mut self,
        shard: u16,
        key: &[u8],
        id: &TaskId,
        answer: Value,
    ) -> Result<Option<TaskRecord>, FsckError> {
        let decoded = match value::bytes(answer) {
            Some(raw) => codec::decode(id, &raw).ok(),
            None => {
                // Gone, or of another type: only then is it still there.
                let mut exists = redis::cmd("EXISTS");
                exists.arg(key);
                let answers = self.ask(shard, vec![exists]).await?.unwrap_or_default();
                if answers.first().and_then(value::integer) != Some(1) {
                    return Ok(None);
                }
                None
            }
        };
        self.report.records += 1;
        if decoded.is_none() {
            self.damaged.insert(shard);
            self.report.add(Problem::DamagedRecord, key, false);
        }
        Ok(decoded)
    }

    /// A record names a line that may be missing.
    fn line_of(&mut self, shard: u16, record: &TaskRecord) {
        if record.state == TaskState::Pending {
            let line = Line {
                band: record.spec.priority as u8,
                location: record.spec.object.location.as_bytes().to_vec(),
                tenant: record.spec.tenant.as_bytes().to_vec(),
            };
            self.found.entry(shard).or_default().lines.insert(line);
        }
    }

    async fn endless_memo(&mut self, shard: u16, key: &[u8]) -> Result<(), FsckError> {
        if self.options.repair {
            let mut expire = redis::cmd("PEXPIRE");
            expire.arg(key).arg(u64::try_from(MEMO.as_millis()).unwrap_or(u64::MAX)).arg("NX");
            self.ask(shard, vec![expire]).await?;
        }
        self.report.add(Problem::NeverEnds, key, self.options.repair);
        Ok(())
    }

    /// Looks at every entry of every index of a shard.
    pub(super) async fn entries(&mut self, shard: u16) -> Result<(), FsckError> {
        let lines = self.found.get(&shard).into_iter().flat_map(|found| &found.lines).map(names::of_line);
        let indexes: Vec<Vec<u8>> =
            INDEXES.iter().map(|index| index.as_bytes().to_vec()).chain(lines).collect();
        for index in indexes {
            let key = names::of_shard(shard, &index);
            let mut cursor = Some(0);
            while let Some(at) = cursor {
                if self.unreadable.contains(&shard) {
                    return Ok(());
                }
                let Some((next, entries)) = self.page("ZSCAN", shard, &key, at).await? else { return Ok(()) };
                cursor = next;
                let items: Vec<Item> =
                    entries.into_iter().step_by(2).map(|member| (member, index.clone())).collect();
                self.compare(shard, &items, self.mend()).await?;
            }
        }
        Ok(())
    }

    /// Drops entries that are still without a record after the grace.
    pub(super) async fn drop_orphans(&mut self) -> Result<(), FsckError> {
        if self.orphans.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(self.options.orphan_grace).await;
        let orphans = std::mem::take(&mut self.orphans);
        for same in orphans.chunk_by(|a, b| a.shard == b.shard) {
            let items: Vec<Item> =
                same.iter().map(|orphan| (orphan.member.clone(), orphan.index.clone())).collect();
            self.compare(same[0].shard, &items, Mend::Orphans).await?;
        }
        Ok(())
    }

    const fn mend(&self) -> Mend {
        if self.options.repair { Mend::WithRecord } else { Mend::Nothing }
    }

    async fn compare(&mut self, shard: u16, items: &[Item], mend: Mend) -> Result<(), FsckError> {
        for items in items.chunks(PAGE) {
            if self.unreadable.contains(&shard) {
                return Ok(());
            }
            let mut call = Self::script(Script::FsckTasks, shard).arg(mend as u8);
            for (member, index) in items {
                call.push(member.as_slice());
                call.push(index.as_slice());
            }
            let Some(mut answer) = self.call(shard, call).await? else { return Ok(()) };
            for (member, index) in items {
                let code = answer.integer()?;
                self.judge(shard, code, member, index, mend);
            }
        }
        Ok(())
    }

    fn judge(&mut self, shard: u16, code: i64, member: &[u8], index: &[u8], mend: Mend) {
        let (problem, repaired) = match code {
            1 if mend == Mend::WithRecord && self.orphans.len() < MOST_ORPHANS => {
                self.orphans.push(Orphan { shard, index: index.to_vec(), member: member.to_vec() });
                return;
            }
            1 => (Problem::Orphan, mend == Mend::Orphans),
            2 => (Problem::Misplaced, mend == Mend::WithRecord),
            3 => (Problem::NotIndexed, mend == Mend::WithRecord),
            4 => (Problem::WrongScore, mend == Mend::WithRecord),
            5 => (Problem::NeverEnds, false),
            _ => return,
        };
        // As a key names it, because an entry need not be the name of a task.
        let task = [names::of_shard(shard, b"t:").as_slice(), member].concat();
        let subject = if index.is_empty() { task } else { [task.as_slice(), b" in ", index].concat() };
        self.report.add(problem, &subject, repaired);
    }
}
