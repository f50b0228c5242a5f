//! A look at all tasks in Redis: counts from the indexes, ages from the records at their heads, moves from the counters of the shards.
//!
//! Bounded in what it reads, and nothing here writes. An index orders by what happens next and not by age, so the oldest task is
//! looked for among the first [`HEADS`] of an index, and among the first of each line for pending ones.

use std::time::Duration;

use async_trait::async_trait;
use redis::{Cmd, Value};

use super::{RedisQueue, Shared, codec, error, keys, value};
use crate::queue::{
    QueueError, TaskId, TaskState,
    snapshot::{Aside, Load, Observe, Snapshot},
};

/// Entries of an index whose age is looked at.
const HEADS: i64 = 100;
/// Lines (tenant, location, band) of a shard whose head is looked at.
const LINES: usize = 500;

/// What is known of a shard before its records are read.
#[derive(Debug, Default)]
struct Heads {
    working: Vec<TaskId>,
    delayed: Vec<TaskId>,
    pending: Vec<TaskId>,
}

#[async_trait]
impl Observe for RedisQueue {
    async fn load(&self) -> Result<Load, QueueError> {
        self.shared.load().await
    }

    async fn snapshot(&self) -> Result<Snapshot, QueueError> {
        self.shared.snapshot().await
    }
}

impl Shared {
    async fn load(&self) -> Result<Load, QueueError> {
        let leased = (0..self.settings.shards).map(|shard| key("ZCARD", of(shard, TaskState::Working)));
        let mut working = 0;
        for answer in self.send(leased.collect()).await {
            working += count(&answer?)?;
        }
        let mut pending = 0;
        for bands in self.pending().await {
            pending += bands?.iter().sum::<u64>();
        }
        Ok(Load { pending, working })
    }

    async fn aside(&self) -> Result<Aside, QueueError> {
        let sizes = [keys::QUARANTINE_ORDER, keys::REMOVALS].map(|name| key("ZCARD", name.to_owned()));
        let [quarantined, removals] = <[_; 2]>::try_from(self.send(sizes.to_vec()).await)
            .map_err(|_| error::unexpected("a command was not answered"))?;
        Ok(Aside { quarantined: count(&quarantined?)?, removals: count(&removals?)? })
    }

    async fn snapshot(&self) -> Result<Snapshot, QueueError> {
        let mut snapshot = Snapshot { depths: self.depths().await?, ..Snapshot::default() };
        let server_ms = self.server_ms().await?;
        snapshot.aside = Some(self.aside().await?);
        for shard in 0..self.settings.shards {
            let (now_ms, heads) = self.look(shard, server_ms, &mut snapshot).await?;
            let ago = |created: Option<u64>| {
                created.map(|created| Duration::from_millis(now_ms.saturating_sub(created)))
            };
            let oldest = &mut snapshot.oldest;
            oldest.working = oldest.working.max(ago(self.first_created(&heads.working).await?));
            oldest.delayed = oldest.delayed.max(ago(self.first_created(&heads.delayed).await?));
            oldest.pending = oldest.pending.max(ago(self.first_created(&heads.pending).await?));
        }
        Ok(snapshot)
    }

    /// The time of a shard (ms), and its heads; counters and sweep are noted.
    async fn look(
        &self,
        shard: u16,
        server_ms: u64,
        snapshot: &mut Snapshot,
    ) -> Result<(u64, Heads), QueueError> {
        let mut swept = key("HGET", keys::of_shard(shard, "sweep"));
        swept.arg("swept");
        let calls = vec![
            key("GET", keys::meta(shard)),
            key("HGETALL", keys::of_shard(shard, "stats")),
            swept,
            first(of(shard, TaskState::Working), HEADS),
            first(of(shard, TaskState::Delayed), HEADS),
            key("SMEMBERS", keys::of_shard(shard, "locations")),
        ];
        let mut answers = self.send(calls).await.into_iter();
        let mut next = || answers.next().unwrap_or_else(|| Err(error::unexpected("no answer")));
        // The times of a shard are on its own clock, which may be ahead of its server's.
        let clock = value::bytes(next()?).as_deref().and_then(codec::clock);
        let (reached_ms, added_ms) = clock.unwrap_or_default();
        let added_ms = if self.clock.virtual_now().is_some() { 0 } else { added_ms };
        let now_ms = server_ms.saturating_add(added_ms).max(reached_ms);
        // What the shard itself says is added: the difference to a clock that was read before is also the time that passed since.
        snapshot.clock_ahead = snapshot.clock_ahead.max(Some(Duration::from_millis(added_ms)));
        let moves: Vec<(String, u64)> =
            redis::from_redis_value(next()?).map_err(|_| error::unexpected("stats are no counters"))?;
        for (name, count) in moves {
            *snapshot.moves.entry(name).or_default() += count;
        }
        let swept_ms = value::bytes(next()?).and_then(|ms| String::from_utf8(ms).ok()?.parse::<u64>().ok());
        if let Some(ms) = swept_ms {
            let ago = Duration::from_millis(now_ms.saturating_sub(ms));
            snapshot.swept_ago = snapshot.swept_ago.max(Some(ago));
        }
        let (working, delayed) = (tasks(next()?)?, tasks(next()?)?);
        let pending = self.line_heads(shard, &texts(next()?)?).await?;
        Ok((now_ms, Heads { working, delayed, pending }))
    }

    /// The first task of each line of a shard.
    async fn line_heads(&self, shard: u16, locations: &[String]) -> Result<Vec<TaskId>, QueueError> {
        let rings: Vec<String> = (0..3)
            .flat_map(|band| locations.iter().map(move |location| format!("{band}:{location}")))
            .collect();
        let calls = rings
            .iter()
            .take(LINES)
            .map(|ring| first(keys::of_shard(shard, &format!("pending:ring:{ring}")), HEADS));
        let mut lines = Vec::new();
        for (ring, tenants) in rings.iter().zip(self.send(calls.collect()).await) {
            for tenant in texts(tenants?)? {
                lines.push(keys::of_shard(shard, &format!("pending:{ring}:{tenant}")));
            }
        }
        lines.truncate(LINES);
        let heads = lines.into_iter().map(|line| first(line, 1)).collect();
        let mut found = Vec::new();
        for head in self.send(heads).await {
            found.extend(tasks(head?)?);
        }
        Ok(found)
    }

    /// When the first of these tasks was asked for (ms). Those that have gone meanwhile are passed over.
    async fn first_created(&self, ids: &[TaskId]) -> Result<Option<u64>, QueueError> {
        let calls = ids.iter().map(|id| {
            let mut range = key("GETRANGE", self.record_of(id));
            let (from, to) = codec::CREATED_AT;
            range.arg(from).arg(to);
            range
        });
        let mut first: Option<u64> = None;
        for answer in self.send(calls.collect()).await {
            // A key that holds something else than a record is the audit's to tell.
            let Some(created) = answer.ok().and_then(value::bytes).as_deref().and_then(codec::created_ms)
            else {
                continue;
            };
            first = Some(first.map_or(created, |first| first.min(created)));
        }
        Ok(first)
    }

    /// The server's time, or the virtual one of tests (ms).
    async fn server_ms(&self) -> Result<u64, QueueError> {
        if let Some(now) = self.clock.virtual_now() {
            return Ok(now.0);
        }
        let (seconds, micros): (u64, u64) = redis::from_redis_value(self.ask(redis::cmd("TIME")).await?)
            .map_err(|_| error::unexpected("TIME gave no time"))?;
        Ok(seconds.saturating_mul(1000) + micros / 1000)
    }
}

fn of(shard: u16, state: TaskState) -> String {
    keys::of_shard(shard, keys::index(state).unwrap_or_default())
}

fn key(name: &str, key: String) -> Cmd {
    let mut command = redis::cmd(name);
    command.arg(key);
    command
}

fn first(index: String, count: i64) -> Cmd {
    let mut command = key("ZRANGE", index);
    command.arg(0).arg(count - 1);
    command
}

fn count(answer: &Value) -> Result<u64, QueueError> {
    let count = value::integer(answer).ok_or_else(|| error::unexpected("ZCARD gave no integer"))?;
    Ok(u64::try_from(count).unwrap_or_default())
}

fn texts(answer: Value) -> Result<Vec<String>, QueueError> {
    let texts: Vec<Vec<u8>> =
        redis::from_redis_value(answer).map_err(|_| error::unexpected("an index gave no texts"))?;
    Ok(texts.into_iter().map(|text| String::from_utf8_lossy(&text).into_owned()).collect())
}

fn tasks(answer: Value) -> Result<Vec<TaskId>, QueueError> {
    Ok(texts(answer)?.iter().filter_map(|hash| keys::id(hash.as_bytes())).collect())
}
