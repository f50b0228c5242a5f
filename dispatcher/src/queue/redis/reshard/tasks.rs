//! Moving tasks: read in the shard where they are, taken in where they belong, let go where they were.
//!
//! What the last batch has copied is let go together with the copying of the next one, so that one proof serves both. What is in memory is
//! bounded by the bytes of a batch.

use std::collections::BTreeMap;

use redis::Cmd;

use super::{ReshardError, Work, command};
use crate::queue::{
    TaskId,
    redis::{
        codec, error, keys,
        link::pipeline,
        primary::Primary,
        scripts::{Answer, BATCH, Call, Script},
        value,
    },
};

/// Keys that are asked for at a time; a server may give a few more.
const PAGE: usize = 1_000;
/// Records that are copied behind one proof, and their bytes.
const MOST_RECORDS: usize = 5_000;
const MOST_BYTES: usize = 4 << 20;

/// A record that is in the wrong shard.
#[derive(Debug)]
struct Record {
    shard: u16,
    id: TaskId,
    raw: Vec<u8>,
}

/// What no shard may be behind of: else tasks would be finished in the future there, or later ones stand before them.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Furthest {
    /// Time (ms).
    clock_ms: u64,
    /// Newest place in line.
    place: u64,
}

/// What is on its way.
#[derive(Debug, Default)]
pub(super) struct Moving {
    furthest: Furthest,
    /// Keys that there were at the beginning, and that were looked at.
    pub(super) of: u64,
    pub(super) looked_at: u64,
    /// To be copied.
    records: Vec<Record>,
    bytes: usize,
    /// Copied, and proved durable.
    copied: Vec<Record>,
}

/// What a key of a shard holds that belongs into the shard that its id says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    Task(TaskId),
    Walk(TaskId),
    /// What lies beside a listing.
    OfWalk(TaskId),
}

impl Moving {
    pub(super) fn new(furthest: Furthest, of: u64) -> Self {
        Self { furthest, of, ..Self::default() }
    }
}

impl Work {
    /// How far the shards are.
    pub(super) async fn furthest(&self) -> Result<Furthest, ReshardError> {
        let metas = (0..self.mark.most).map(|shard| command("GET", keys::meta(shard)));
        let mut furthest = Furthest::default();
        for meta in self.ask(metas.collect()).await?.into_iter().filter_map(value::bytes) {
            let (reached_ms, _) = codec::clock(&meta).unwrap_or_default();
            furthest.clock_ms = furthest.clock_ms.max(reached_ms);
            furthest.place = furthest.place.max(codec::newest_place(&meta).unwrap_or_default());
        }
        Ok(furthest)
    }

    /// Brings all shards as far as the furthest of them.
    pub(super) async fn catch_up(&self, moving: &Moving) -> Result<(), ReshardError> {
        let calls = (0..self.mark.to).map(|shard| call(Script::MoveIn, shard, &[], Some(moving.furthest)));
        self.write(calls.collect()).await.map(drop)
    }

    /// How many keys all servers have, about.
    pub(super) async fn keys_there(&self) -> Result<u64, ReshardError> {
        let mut keys = 0;
        for primary in self.nodes.primaries() {
            let answers =
                primary.link.send(&pipeline([redis::cmd("DBSIZE")])).await.map_err(error::from_redis)?;
            for answer in answers {
                keys += value::integer(&answer.map_err(error::from_redis)?).unwrap_or(0).unsigned_abs();
            }
        }
        Ok(keys)
    }

    /// The next keys of a server, and where to go on.
    pub(super) async fn scan(
        &self,
        primary: &Primary,
        cursor: u64,
    ) -> Result<(Option<u64>, Vec<Vec<u8>>), ReshardError> {
        let mut scan = command("SCAN", cursor);
        scan.arg("MATCH").arg("{bh:*").arg("COUNT").arg(PAGE);
        let answer = primary.link.send(&pipeline([scan])).await.map_err(error::from_redis)?.pop();
        let answer = answer.transpose().map_err(error::from_redis)?;
        Ok(crate::queue::redis::fsck::read_page(answer)?)
    }

    /// Moves those of the keys that are in the wrong shard, sooner or later.
    pub(super) async fn move_some(
        &mut self,
        moving: &mut Moving,
        keys: &[Vec<u8>],
    ) -> Result<(), ReshardError> {
        let mut tasks: BTreeMap<u16, Vec<TaskId>> = BTreeMap::new();
        for key in keys {
            let Some((shard, part)) = part_of(key).filter(|(shard, _)| *shard < self.mark.most) else {
                continue;
            };
            match part {
                Part::Task(id) if id.shard(self.mark.to) != shard => tasks.entry(shard).or_default().push(id),
                Part::Walk(id) if id.shard(self.mark.to) != shard => self.move_walk(shard, &id).await?,
                Part::OfWalk(id) if id.shard(self.mark.to) != shard => {
                    self.drop_leftovers(shard, &id).await?
                }
                Part::Task(_) | Part::Walk(_) | Part::OfWalk(_) => {}
            }
        }
        let pieces: Vec<(u16, &[TaskId])> =
            tasks.iter().flat_map(|(shard, ids)| ids.chunks(BATCH).map(|ids| (*shard, ids))).collect();
        let reads = pieces.iter().map(|(shard, ids)| {
            command("MGET", ids.iter().map(|id| keys::record(*shard, id)).collect::<Vec<_>>())
        });
        for ((shard, ids), raws) in pieces.iter().zip(self.ask(reads.collect()).await?) {
            let raws = value::list(raws).ok_or_else(|| error::unexpected("MGET gave no list"))?;
            for (id, raw) in ids.iter().zip(raws) {
                // A scan may give a key twice: what has gone meanwhile is elsewhere.
                let Some(raw) = value::bytes(raw) else { continue };
                moving.bytes += raw.len();
                moving.records.push(Record { shard: *shard, id: id.clone(), raw });
            }
        }
        if moving.records.len() >= MOST_RECORDS || moving.bytes >= MOST_BYTES {
            self.copy(moving).await?;
        }
        Ok(())
    }

    /// Copies what is left, and lets go of all that is copied.
    pub(super) async fn settle(&mut self, moving: &mut Moving) -> Result<(), ReshardError> {
        self.copy(moving).await?;
        self.copy(moving).await
    }

    /// Copies a batch, and lets go of the one before.
    async fn copy(&mut self, moving: &mut Moving) -> Result<(), ReshardError> {
        let (mut records, gone) = (std::mem::take(&mut moving.records), std::mem::take(&mut moving.copied));
        moving.bytes = 0;
        // A scan may give a key twice, and a script must not be given a task twice.
        records.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        records.dedup_by(|a, b| a.id == b.id);
        let (mut commands, mut named) = (Vec::new(), Vec::new());
        for (shard, records) in by_shard(&gone, |record| record.shard) {
            commands.push(call(Script::MoveOut, shard, &records, None));
            named.push((true, records));
        }
        for (shard, records) in by_shard(&records, |record| record.id.shard(self.mark.to)) {
            commands.push(call(Script::MoveIn, shard, &records, Some(moving.furthest)));
            named.push((false, records));
        }
        let answers = self.write(commands).await?;
        for ((let_go, records), answer) in named.iter().zip(answers) {
            let mut answer = Answer::read(answer)?;
            for record in records {
                match answer.integer()? {
                    1 => self.moved += u64::from(*let_go),
                    2 => {}
                    _ => return Err(ReshardError::Differs { key: keys::record(record.shard, &record.id) }),
                }
            }
        }
        drop(named);
        moving.copied = records;
        Ok(())
    }
}

/// Records by a shard, in pieces that a script may be given.
fn by_shard(records: &[Record], shard_of: impl Fn(&Record) -> u16) -> Vec<(u16, Vec<&Record>)> {
    let mut shards: BTreeMap<u16, Vec<&Record>> = BTreeMap::new();
    for record in records {
        shards.entry(shard_of(record)).or_default().push(record);
    }
    let pieces = shards
        .iter()
        .flat_map(|(shard, records)| records.chunks(BATCH).map(|records| (*shard, records.to_vec())));
    pieces.collect()
}

fn call(script: Script, shard: u16, records: &[&Record], furthest: Option<Furthest>) -> Cmd {
    let ids = records.iter().map(|record| &record.id);
    let mut call = Call::about(script, shard, ids).arg(0);
    if let Some(Furthest { clock_ms, place }) = furthest {
        call.push(codec::exact_ms(clock_ms));
        call.push(codec::exact(place));
    }
    for record in records {
        call.push(record.raw.as_slice());
    }
    call.into_command()
}

/// The shard of a key, and what it holds; `None` for a key that belongs to no id.
pub(super) fn part_of(key: &[u8]) -> Option<(u16, Part)> {
    let (shard, name) = split(key)?;
    let id = |prefix: &str| name.strip_prefix(prefix.as_bytes()).map(keys::id);
    let part = if let Some(id) = id("t:") {
        Part::Task(id?)
    } else if let Some(id) = id("walk:open:").or_else(|| id("walk:failed:")) {
        Part::OfWalk(id?)
    } else {
        Part::Walk(id("walk:")??)
    };
    Some((shard, part))
}

/// The shard of a key, and its name there.
pub(super) fn split(key: &[u8]) -> Option<(u16, &[u8])> {
    let (digits, rest) = key.strip_prefix(b"{bh:")?.split_at_checked(3)?;
    let shard = u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    // Only as it is spelt by us.
    let name = rest.strip_prefix(b"}:")?;
    key.starts_with(keys::of_shard(shard, "").as_bytes()).then_some((shard, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_is_known_by_its_key() {
        let hash = "0123456789abcdef0123456789abcdef";
        let id = || TaskId::from_hash(hash).unwrap();
        for (name, part) in [
            ("t:", Part::Task(id())),
            ("walk:", Part::Walk(id())),
            ("walk:open:", Part::OfWalk(id())),
            ("walk:failed:", Part::OfWalk(id())),
        ] {
            assert_eq!(part_of(format!("{{bh:00a}}:{name}{hash}").as_bytes()), Some((10, part)));
            assert_eq!(part_of(format!("{{bh:00A}}:{name}{hash}").as_bytes()), None);
            assert_eq!(part_of(format!("{{bh:00a}}:{name}short").as_bytes()), None);
        }
        for other in ["{bh:00a}:meta", "{bh:00a}:walks", "bh:config", "{bh:aside}:rules", "{bh:00", "x"] {
            assert_eq!(part_of(other.as_bytes()), None, "{other}");
        }
    }
}
