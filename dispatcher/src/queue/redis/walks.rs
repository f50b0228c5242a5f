//! Walks in Redis: one record, one set of open tasks and one list of failures for each, changed together by `walk_save.lua`.
//!
//! What a walk is stays on this side: the script compares revisions and keeps the parts in step.

use async_trait::async_trait;
use redis::Cmd;

use super::{
    RedisQueue, error,
    failures::Failures,
    keys, millis,
    scripts::{Answer, Call, Script},
    value, walk_codec,
    writer::{Write, Written},
};
use crate::queue::{
    QueueError, TaskId, UnixMs,
    walk::{Change, FailedObject, Look, MOST_ACTIVE, MOST_FAILURES, Saved, Stored, WalkId, WalkStore},
};

/// A change, encoded.
#[derive(Debug)]
pub(super) struct WalkChange {
    keys: [String; 3],
    expected: Option<u64>,
    record: Vec<u8>,
    retain_ms: u64,
    opened: Vec<TaskId>,
    closed: Vec<TaskId>,
    failures: Vec<Vec<u8>>,
}

impl WalkChange {
    /// The call that makes it.
    pub(super) fn call(&self, shard: u16, now: u64) -> Cmd {
        let mut call = Call::new(Script::WalkSave, shard, self.keys.iter().cloned())
            .arg(now)
            .arg(self.expected.map(|revision| revision.to_string()).unwrap_or_default())
            .arg(self.record.as_slice())
            .arg(self.retain_ms)
            .arg(MOST_ACTIVE)
            .arg(MOST_FAILURES)
            .arg(self.opened.len())
            .arg(self.closed.len());
        for task in self.opened.iter().chain(&self.closed) {
            call.push(task.as_str());
        }
        for failure in &self.failures {
            call.push(failure.as_slice());
        }
        call.into_command()
    }

    /// Its size, roughly.
    pub(super) fn bytes(&self) -> usize {
        let ids = (self.opened.len() + self.closed.len()) * 36;
        self.record.len() + ids + self.failures.iter().map(Vec::len).sum::<usize>()
    }
}

#[async_trait]
impl WalkStore for RedisQueue {
    fn id(&self, tenant: &str, request_id: &str) -> WalkId {
        WalkId::derive(tenant, request_id)
    }

    async fn look(&self, finished: bool) -> Result<Look, QueueError> {
        let shards = self.shared.settings.shards;
        let call = |shard| {
            Call::new(Script::WalkLook, shard, [].into_iter())
                .arg(self.shared.now())
                .arg(u8::from(finished))
                .arg(MOST_ACTIVE)
                .into_command()
        };
        let answers = self.shared.send((0..shards).map(call).collect()).await;
        let mut failures = Failures::default();
        let (mut now, mut walks) = (UnixMs(0), Vec::new());
        for answer in answers {
            let Some(answer) = failures.unless_away(answer)? else { continue };
            let mut answer = Answer::read(answer)?;
            now = now.max(UnixMs(answer.unsigned()?));
            while !answer.is_over() {
                let (hash, record, open) = (answer.bytes()?, answer.bytes()?, answer.unsigned()?);
                let id = keys::id(&hash).map(WalkId::from);
                let id = id.ok_or_else(|| error::unexpected("an index of walks names something else"))?;
                match walk_codec::decode(&id, &record) {
                    Ok((revision, walk)) => walks.push(Stored { id, walk, revision, open }),
                    // One that is damaged must not hide all others.
                    Err(damaged) => tracing::error!(walk = %id, error = %damaged, "a stored walk is damaged"),
                }
            }
        }
        let look = Look { now, walks, incomplete: failures.any() };
        failures.unless_all_failed(look)
    }

    async fn load(&self, id: &WalkId) -> Result<Option<Stored>, QueueError> {
        let [record, open, _] = self.keys_of(id);
        let (mut get, mut count) = (redis::cmd("GET"), redis::cmd("ZCARD"));
        get.arg(record);
        count.arg(open);
        let mut answers = self.shared.send(vec![get, count]).await.into_iter();
        let mut next = || answers.next().unwrap_or_else(|| Err(error::unexpected("no answer")));
        let (record, open) = (next()?, next()?);
        let Some(record) = value::bytes(record) else { return Ok(None) };
        let (revision, walk) = walk_codec::decode(id, &record)?;
        let open = value::integer(&open).and_then(|open| u64::try_from(open).ok()).unwrap_or_default();
        Ok(Some(Stored { id: id.clone(), walk, revision, open }))
    }

    async fn save(&self, change: &Change) -> Result<Saved, QueueError> {
        let revision = change.expected.unwrap_or_default() + 1;
        let retain = self.shared.settings.retain_dead;
        let encoded = WalkChange {
            keys: self.keys_of(&change.id),
            expected: change.expected,
            record: walk_codec::encode(revision, &change.walk)?,
            retain_ms: if change.walk.state.is_finished() { millis(retain).max(1) } else { 0 },
            opened: change.opened.clone(),
            closed: change.closed.clone(),
            failures: change.failures.iter().map(walk_codec::encode_failure).collect::<Result<_, _>>()?,
        };
        let write = Write::Walk(change.id.as_task().clone(), encoded);
        let written = self.write(vec![write]).await.pop();
        match written.unwrap_or_else(|| Err(error::unexpected("no answer")))? {
            Written::Walk([1, open]) => {
                Ok(Saved::Yes { revision, open: u64::try_from(open).unwrap_or_default() })
            }
            Written::Walk([0, _]) => Ok(Saved::Stale),
            Written::Walk([-1, _]) => Ok(Saved::Full),
            Written::Walk(_) | Written::Submit(_) | Written::Cancel(..) | Written::Requeue(_) => {
                Err(error::unexpected("a change of a walk was answered as something else"))
            }
        }
    }

    async fn open_tasks(&self, id: &WalkId, from: u64, limit: u64) -> Result<Vec<TaskId>, QueueError> {
        let [_, open, _] = self.keys_of(id);
        let ids = self.part("ZRANGE", open, from, limit).await?;
        let parse = |id: Vec<u8>| std::str::from_utf8(&id).ok().and_then(|id| TaskId::parse(id).ok());
        Ok(ids.into_iter().filter_map(parse).collect())
    }

    async fn failures(&self, id: &WalkId, from: u64, limit: u64) -> Result<Vec<FailedObject>, QueueError> {
        let [_, _, failed] = self.keys_of(id);
        let failures = self.part("LRANGE", failed, from, limit).await?;
        failures.iter().map(|failure| walk_codec::decode_failure(id, failure)).collect()
    }
}

impl RedisQueue {
    fn keys_of(&self, id: &WalkId) -> [String; 3] {
        keys::walk(self.shared.shard_of(id.as_task()), id)
    }

    /// A part of a list or a set.
    async fn part(
        &self,
        command: &str,
        key: String,
        from: u64,
        limit: u64,
    ) -> Result<Vec<Vec<u8>>, QueueError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let mut command = redis::cmd(command);
        command.arg(key).arg(from).arg(from.saturating_add(limit - 1));
        let answer = self.shared.ask(command).await?;
        let values = value::list(answer).ok_or_else(|| error::unexpected("no list"))?;
        Ok(values.into_iter().filter_map(value::bytes).collect())
    }
}
