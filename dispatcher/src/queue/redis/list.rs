//! Listings: a page of one tenant's tasks, state by state, newest first.
//!
//! There is no index by time of creation: it would cost every pending task a quarter of its size. So a state with few candidates is
//! read whole and sorted ([`ORDERED`]); one with many is walked along its own index, newest entry first, one shard after the
//! other. Both show each task once. Every page is bounded in what it reads. Nothing here writes.

mod cursor;

use std::cmp::Reverse;

use redis::{Cmd, Value};

use self::cursor::Cursor;
use super::{Shared, codec, counts::TenantCounts, error, failures::Failures, keys, value};
use crate::queue::{ListPage, ListQuery, QueueError, TaskId, TaskRecord, TaskState, UnixMs};

/// Most candidates of a state, over all shards, for a listing in exact order to begin.
const ORDERED: u64 = 2_000;
/// Most candidates for such a listing to go on.
const STILL_ORDERED: u64 = 20_000;
/// Entries of an index, and records, that one call reads.
const PAGE: usize = 100;
/// Records that a page reads along an index before it ends, full or not.
const READS: usize = 1_000;

/// A place in an index: entries from here on, upwards, have been shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    score: u64,
    hash: String,
}

/// The listing cannot go on as it began.
#[derive(Debug, thiserror::Error)]
#[error("the listing has grown too much to go on in order; start again")]
struct Outgrown;

impl Shared {
    /// [`crate::queue::TaskQueue::list`].
    pub(super) async fn list(&self, query: &ListQuery) -> Result<ListPage, QueueError> {
        let limit = usize::try_from(query.limit.max(1)).unwrap_or(usize::MAX);
        let mut cursor = match &query.cursor {
            Some(text) => Some(Cursor::parse(&text.0, self.settings.shards)?),
            None => None,
        };
        let begin = cursor.as_ref().map_or(TaskState::ALL[0], Cursor::state);
        let wanted = |state: &TaskState| query.states.is_empty() || query.states.contains(state);
        let mut page = ListPage::default();
        let mut failures = Failures::default();
        for state in TaskState::ALL.into_iter().filter(|state| *state >= begin && wanted(state)) {
            let from = cursor.take().filter(|cursor| cursor.state() == state);
            let count = self.candidates(query, state, &mut failures).await?;
            let next = match from {
                Some(Cursor::Indexed { shard, place, .. }) => {
                    self.along(query, state, (shard, Some(place)), limit, &mut page.tasks, &mut failures)
                        .await?
                }
                Some(Cursor::Ordered { .. }) if count > STILL_ORDERED => {
                    return Err(QueueError::Rejected(Box::new(Outgrown)));
                }
                None if count > ORDERED => {
                    self.along(query, state, (0, None), limit, &mut page.tasks, &mut failures).await?
                }
                from @ (Some(Cursor::Ordered { .. }) | None) => {
                    self.in_order(query, state, from, limit, &mut page.tasks, &mut failures).await?
                }
            };
            if let Some(next) = next {
                page.next = Some(next.format());
                break;
            }
        }
        page.incomplete = failures.any();
        failures.unless_all_failed(page)
    }

    /// How many tasks a state has that could be the tenant's.
    async fn candidates(
        &self,
        query: &ListQuery,
        state: TaskState,
        failures: &mut Failures,
    ) -> Result<u64, QueueError> {
        let calls = (0..self.settings.shards).map(|shard| match keys::index(state) {
            Some(index) => command("ZCARD", keys::of_shard(shard, index)),
            None => waiting(shard, &query.tenant),
        });
        let mut count = 0;
        for answer in self.send(calls.collect()).await {
            let Some(answer) = failures.unless_away(answer)? else { continue };
            count += match value::integer(&answer) {
                Some(entries) => u64::try_from(entries).unwrap_or_default(),
                None => counts(answer)?.iter().sum(),
            };
        }
        Ok(count)
    }

    /// Reads a whole state, sorts it and shows what comes after `from`. Gives the place to go on at, if there is more.
    async fn in_order(
        &self,
        query: &ListQuery,
        state: TaskState,
        from: Option<Cursor>,
        limit: usize,
        tasks: &mut Vec<TaskRecord>,
        failures: &mut Failures,
    ) -> Result<Option<Cursor>, QueueError> {
        let mut found = Vec::new();
        for shard in 0..self.settings.shards {
            let of_shard = self.whole(query, state, shard).await;
            found.extend(failures.unless_away(of_shard)?.unwrap_or_default());
        }
        let position = |record: &TaskRecord| (Reverse(record.created_at), record.id.clone());
        if let Some(Cursor::Ordered { created_at, id, .. }) = from {
            let shown = (Reverse(created_at), id);
            found.retain(|record| position(record) > shown);
        }
        found.sort_unstable_by_key(position);
        let room = limit - tasks.len();
        let more = found.len() > room;
        found.truncate(room);
        tasks.extend(found);
        let last = tasks.last().filter(|last| more && last.state == state);
        Ok(match last {
            Some(last) => Some(Cursor::Ordered { state, created_at: last.created_at, id: last.id.clone() }),
            // The page was full before this state: it begins with the next page.
            None if more => Some(Cursor::Ordered {
                state,
                created_at: UnixMs(u64::MAX),
                id: TaskId::parse("000-00000000000000000000000000000000")
                    .map_err(|_| error::unexpected("id"))?,
            }),
            None => None,
        })
    }

    /// All tasks of a state in a shard that match.
    async fn whole(
        &self,
        query: &ListQuery,
        state: TaskState,
        shard: u16,
    ) -> Result<Vec<TaskRecord>, QueueError> {
        let indexes = self.indexes(query, state, shard).await?;
        let calls = indexes.into_iter().map(|index| range("ZRANGE", index, 0, -1));
        let mut ids = Vec::new();
        for answer in self.send(calls.collect()).await {
            ids.extend(texts(answer?)?.iter().filter_map(|hash| keys::id(hash)));
        }
        self.matching(query, state, &ids).await
    }

    /// Walks a state along its index, shard by shard, and gives the place to go on at.
    async fn along(
        &self,
        query: &ListQuery,
        state: TaskState,
        from: (u16, Option<Place>),
        limit: usize,
        tasks: &mut Vec<TaskRecord>,
        failures: &mut Failures,
    ) -> Result<Option<Cursor>, QueueError> {
        let (first, mut after) = from;
        let mut reads = 0;
        let shards = self.settings.shards;
        for shard in first..shards {
            loop {
                let entries = self.entries(query, state, shard, after.as_ref()).await;
                let Some(entries) = failures.unless_away(entries)? else { break };
                let Some(last) = entries.last().cloned() else { break };
                let ids: Vec<TaskId> =
                    entries.iter().filter_map(|place| keys::id(place.hash.as_bytes())).collect();
                reads += entries.len();
                let matching = self.matching(query, state, &ids).await;
                let Some(matching) = failures.unless_away(matching)? else { break };
                for record in matching {
                    tasks.push(record);
                    if tasks.len() == limit {
                        let shown = tasks.last().map(|record| record.id.hash().to_owned());
                        let place = entries.into_iter().find(|place| Some(&place.hash) == shown.as_ref());
                        return Ok(place.map(|place| Cursor::Indexed { state, shard, shards, place }));
                    }
                }
                if reads >= READS {
                    return Ok(Some(Cursor::Indexed { state, shard, shards, place: last }));
                }
                after = Some(last);
            }
            after = None;
        }
        Ok(None)
    }

    /// The next entries of a state's index in a shard, the newest first.
    async fn entries(
        &self,
        query: &ListQuery,
        state: TaskState,
        shard: u16,
        after: Option<&Place>,
    ) -> Result<Vec<Place>, QueueError> {
        let mut entries = Vec::new();
        for index in self.indexes(query, state, shard).await? {
            let mut from = 0;
            if let Some(after) = after {
                // Scores are unique in pending and may be shared elsewhere; a shown entry may be gone by now.
                let mut rank = command("ZREVRANK", index.clone());
                rank.arg(&after.hash);
                let mut above = command("ZCOUNT", index.clone());
                above.arg(format!("({}", after.score)).arg("+inf");
                let mut answers = self.send(vec![rank, above]).await.into_iter();
                let mut next = || answers.next().unwrap_or_else(|| Err(error::unexpected("no answer")));
                let (rank, above) = (value::integer(&next()?), value::integer(&next()?));
                from = rank.map(|rank| rank + 1).or(above).unwrap_or_default();
            }
            // Of entries with the same score, those that come first have been shown: pass over them, however many.
            loop {
                let mut page = range("ZREVRANGE", index.clone(), from, from + PAGE as i64 - 1);
                page.arg("WITHSCORES");
                let page = places(self.ask(page).await?)?;
                let read = page.len();
                let fresh: Vec<Place> = page
                    .into_iter()
                    .filter(|place| after.is_none_or(|after| place.comes_after(after)))
                    .collect();
                let go_on = fresh.is_empty() && read == PAGE;
                entries.extend(fresh);
                if !go_on {
                    break;
                }
                from += PAGE as i64;
            }
        }
        entries.sort_unstable_by(|a, b| (b.score, &b.hash).cmp(&(a.score, &a.hash)));
        entries.truncate(PAGE);
        Ok(entries)
    }

    /// The keys that together index a state in a shard, as far as they can hold what the query asks for.
    async fn indexes(
        &self,
        query: &ListQuery,
        state: TaskState,
        shard: u16,
    ) -> Result<Vec<String>, QueueError> {
        if let Some(index) = keys::index(state) {
            return Ok(vec![keys::of_shard(shard, index)]);
        }
        let calls =
            vec![waiting(shard, &query.tenant), command("SMEMBERS", keys::of_shard(shard, "locations"))];
        let mut answers = self.send(calls).await.into_iter();
        let mut next = || answers.next().unwrap_or_else(|| Err(error::unexpected("no answer")));
        let (waiting, mut locations) = (counts(next()?)?, texts(next()?)?);
        locations
            .retain(|location| query.location.as_ref().is_none_or(|wanted| wanted.as_bytes() == location));
        let bands = (0..3_u8).filter(|&band| waiting[usize::from(band)] > 0);
        let queue = |band, location: &[u8]| {
            let location = String::from_utf8_lossy(location);
            keys::of_shard(shard, &format!("pending:{band}:{location}:{}", query.tenant))
        };
        Ok(bands.flat_map(|band| locations.iter().map(move |location| queue(band, location))).collect())
    }

    /// Those of the tasks that are in `state` and match.
    async fn matching(
        &self,
        query: &ListQuery,
        state: TaskState,
        ids: &[TaskId],
    ) -> Result<Vec<TaskRecord>, QueueError> {
        let calls = ids.chunks(PAGE).map(|ids| {
            let mut command = redis::cmd("MGET");
            command.arg(ids.iter().map(|id| self.record_of(id)).collect::<Vec<_>>());
            command
        });
        let mut found = Vec::new();
        for (ids, answer) in ids.chunks(PAGE).zip(self.send(calls.collect()).await) {
            let values = value::list(answer?).ok_or_else(|| error::unexpected("MGET gave no list"))?;
            for (id, value) in ids.iter().zip(values) {
                let Some(raw) = value::bytes(value) else { continue };
                match codec::decode(id, &raw) {
                    Ok(record) if record.state == state && query.matches(&record) => found.push(record),
                    Ok(_) => {}
                    // One damaged record must not hide the others; reading it by itself tells.
                    Err(damage) => tracing::warn!(error = %damage, "left a damaged record out of a listing"),
                }
            }
        }
        Ok(found)
    }
}

impl Place {
    fn comes_after(&self, other: &Self) -> bool {
        (self.score, &self.hash) < (other.score, &other.hash)
    }
}

fn command(name: &str, key: String) -> Cmd {
    let mut command = redis::cmd(name);
    command.arg(key);
    command
}

fn range(name: &str, key: String, first: i64, last: i64) -> Cmd {
    let mut command = command(name, key);
    command.arg(first).arg(last);
    command
}

/// Asks for what is counted for a tenant.
fn waiting(shard: u16, tenant: &str) -> Cmd {
    let mut command = command("HGET", keys::of_shard(shard, "tenants"));
    command.arg(tenant);
    command
}

/// A tenant's pending tasks by band.
fn counts(answer: Value) -> Result<[u64; 3], QueueError> {
    match value::bytes(answer) {
        None => Ok([0; 3]),
        Some(packed) => TenantCounts::read(&packed)
            .map(|counts| counts.pending)
            .ok_or_else(|| error::unexpected("a tenant's counts are damaged")),
    }
}

fn texts(answer: Value) -> Result<Vec<Vec<u8>>, QueueError> {
    redis::from_redis_value(answer).map_err(|_| error::unexpected("an index gave something else than texts"))
}

fn places(answer: Value) -> Result<Vec<Place>, QueueError> {
    let pairs: Vec<(Vec<u8>, f64)> =
        redis::from_redis_value(answer).map_err(|_| error::unexpected("an index gave no scores"))?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "scores are whole numbers between 0 and 2^53; a cast of anything else saturates"
    )]
    let place = |(hash, score): (Vec<u8>, f64)| Place {
        score: score as u64,
        hash: String::from_utf8_lossy(&hash).into_owned(),
    };
    Ok(pairs.into_iter().map(place).collect())
}

/// The place that a cursor of a queue of `shards` shards stands for, as text again; for fuzzing.
#[cfg(any(test, feature = "test-util"))]
pub(super) fn read_again(text: &str, shards: u16) -> Option<String> {
    Cursor::parse(text, shards).ok().map(|cursor| cursor.format().0)
}
