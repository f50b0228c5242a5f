//! The audit of what lies in Redis: [`fsck`] compares records, indexes, lines and counters, and mends what is safe to mend.
//!
//! The record decides: indexes, lines and counters can be made again from it, so they are, and a record is never written. It runs
//! beside dispatchers. Whatever it reads, page by page, is only where to look; what it reports was found by one script at one
//! moment, or, for counters, by a recount during which no task moved. Nothing here may delete a record or end a lease.
//!
//! In order: keys and records (`tasks`), entries of indexes (`tasks`), moves (`flows`) and counters (`counters`), rings and turns
//! (`lines`), each of which trusts what came before it.

mod counters;
mod flows;
mod lines;
mod names;
mod report;
mod tasks;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use redis::{Cmd, Value};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

pub use self::report::{Finding, Problem, Report};
use self::{names::Line, tasks::Orphan};
use super::{
    check::{RESHARDING, SCHEMA},
    endpoint::Endpoint,
    error, keys,
    nodes::{Maker, Nodes},
    options::RedisOptions,
    scout::Scout,
    scripts::{Answer, Call, Script},
    trouble::Trouble,
    value,
};
use crate::queue::{QueueError, id::MAX_SHARDS};

/// Keys or entries that are asked for at a time; a server may give a few more.
const PAGE: usize = 100;

/// How an audit is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FsckOptions {
    /// Mend what is safe to mend.
    pub repair: bool,
    /// How long an index entry has to be without a record before it is dropped: while a cluster moves a slot, the record may be at
    /// the other node already.
    pub orphan_grace: Duration,
    /// Examples kept of each problem.
    pub examples: usize,
}

/// Why an audit could not be finished. What it had mended stays mended.
#[derive(Debug, thiserror::Error)]
pub enum FsckError {
    /// The URL cannot be used; change it.
    #[error("invalid Redis URL")]
    Url(#[source] redis::RedisError),
    /// The database holds no queue, or one of another version: probably not the database that was meant.
    #[error("{0}")]
    NotOurs(&'static str),
    /// The server does not answer, or refuses us.
    #[error("cannot use the Redis server")]
    Server(#[from] QueueError),
}

/// An audit under way.
pub(super) struct Audit {
    nodes: Arc<Nodes>,
    options: FsckOptions,
    report: Report,
    shards: u16,
    /// What the keys of each shard showed.
    found: BTreeMap<u16, Found>,
    /// Shards of which a key holds something else than it should, so that scripts fail.
    unreadable: BTreeSet<u16>,
    /// Shards with a record that cannot be decoded.
    damaged: BTreeSet<u16>,
    orphans: Vec<Orphan>,
}

/// Cursor of the next page, `None` after the last, and what this page holds.
pub(super) type Page = (Option<u64>, Vec<Vec<u8>>);

/// Lines and rings of a shard, as their keys and the records name them.
#[derive(Debug, Default)]
struct Found {
    lines: BTreeSet<Line>,
    rings: BTreeSet<(u8, Vec<u8>)>,
}

/// Audits the queue in the database that `redis` names, with or without dispatchers at work on it.
///
/// With [`FsckOptions::repair`], and only if entries without records were found, it waits for their grace.
///
/// # Errors
/// [`FsckError`]. Problems are no error: they are in the report.
pub async fn fsck(redis: &RedisOptions, options: FsckOptions) -> Result<Report, FsckError> {
    let attached = attach(redis).await?;
    let shards = created_with(&attached.nodes).await?;
    Audit::new(Arc::clone(&attached.nodes), options, shards).run().await
}

/// The servers of a database, for a program that is no dispatcher. Dropping it ends all that was started for it.
pub(super) struct Attached {
    pub(super) nodes: Arc<Nodes>,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) _end: DropGuard,
}

/// Finds the servers.
pub(super) async fn attach(redis: &RedisOptions) -> Result<Attached, FsckError> {
    let (seeds, asking, data) = redis.servers().map_err(FsckError::Url)?;
    let mut scout = Scout::new(redis.layout.clone(), asking, seeds);
    let map = scout.look(&[]).await.map_err(error::from_redis)?;
    let (stop, tasks, trouble) = (CancellationToken::new(), TaskTracker::new(), Arc::new(Trouble::default()));
    let (end, endpoint) = (stop.clone().drop_guard(), Arc::new(data));
    let maker = Maker {
        endpoint: Arc::clone(&endpoint),
        trouble: Arc::clone(&trouble),
        tasks: tasks.clone(),
        stop: stop.clone(),
        writers: None,
    };
    let nodes = Arc::new(Nodes::new(map, maker));
    tasks.spawn(scout.run(Arc::clone(&nodes), trouble, redis.look_every, stop));
    Ok(Attached { nodes, endpoint, _end: end })
}

/// How many shards the data was created with.
async fn created_with(nodes: &Nodes) -> Result<u16, FsckError> {
    let mut read = redis::cmd("HMGET");
    read.arg(keys::CONFIG).arg("schema").arg("shards").arg(RESHARDING);
    let answer = nodes.send(vec![read]).await.pop();
    let answer = answer.ok_or_else(|| error::unexpected("no answer"))?.map_err(error::from_redis)?;
    let fields: Vec<String> = value::list(answer).unwrap_or_default().iter().map(value::text).collect();
    let [schema, shards, resharding] = fields.as_slice() else {
        return Err(error::unexpected("no list").into());
    };
    if schema.is_empty() {
        return Err(FsckError::NotOurs("this database holds no queue of Backhaul"));
    }
    if schema != SCHEMA {
        return Err(FsckError::NotOurs(
            "the queue was laid out by another version; use the program that matches it",
        ));
    }
    if !resharding.is_empty() {
        return Err(FsckError::NotOurs(
            "its number of shards is being changed; `backhaul-dispatcher reshard` goes on with that, and ends with an audit",
        ));
    }
    match shards.parse() {
        Ok(shards) if (1..=MAX_SHARDS).contains(&shards) => Ok(shards),
        Ok(_) | Err(_) => Err(FsckError::NotOurs("bh:config names no number of shards")),
    }
}

impl Audit {
    /// An audit of so many shards.
    pub(super) fn new(nodes: Arc<Nodes>, options: FsckOptions, shards: u16) -> Self {
        let report = Report::new(options.examples);
        Self {
            nodes,
            options,
            report,
            shards,
            found: BTreeMap::new(),
            unreadable: BTreeSet::new(),
            damaged: BTreeSet::new(),
            orphans: Vec::new(),
        }
    }

    /// Audits all of them.
    pub(super) async fn run(mut self) -> Result<Report, FsckError> {
        self.keys().await?;
        for shard in 0..self.shards {
            self.entries(shard).await?;
        }
        self.drop_orphans().await?;
        for shard in 0..self.shards {
            self.recount(shard).await?;
            self.lines(shard).await?;
        }
        Ok(self.report)
    }

    /// Sends commands about a shard; `None` when one of them was refused, which makes the shard unreadable.
    async fn ask(&mut self, shard: u16, commands: Vec<Cmd>) -> Result<Option<Vec<Value>>, FsckError> {
        let mut values = Vec::with_capacity(commands.len());
        for answer in self.nodes.send(commands).await {
            match answer.map_err(error::from_redis) {
                Ok(value) => values.push(value),
                Err(error) if error.is_retryable() => return Err(error.into()),
                Err(_) => {
                    self.give_up(shard);
                    return Ok(None);
                }
            }
        }
        Ok(Some(values))
    }

    /// Calls a script of integers; `None` when it failed, which makes the shard unreadable.
    async fn call(&mut self, shard: u16, call: Call) -> Result<Option<Answer>, FsckError> {
        let Some(mut values) = self.ask(shard, vec![call.into_command()]).await? else { return Ok(None) };
        let value = values.pop().ok_or_else(|| error::unexpected("no answer"))?;
        Ok(Some(Answer::read_plain(value)?))
    }

    /// A call of a script on a shard.
    fn script(script: Script, shard: u16) -> Call {
        Call::new(script, shard, std::iter::empty()).arg(0)
    }

    /// Nothing more can be said about a shard until somebody has looked at its keys.
    fn give_up(&mut self, shard: u16) {
        if self.unreadable.insert(shard) {
            self.report.add(Problem::Unreadable, keys::meta(shard).as_bytes(), false);
        }
    }

    /// The next page of an HSCAN, SSCAN or ZSCAN; `None` when the key cannot be read.
    async fn page(
        &mut self,
        command: &str,
        shard: u16,
        key: &[u8],
        cursor: u64,
    ) -> Result<Option<Page>, FsckError> {
        let mut scan = redis::cmd(command);
        scan.arg(key).arg(cursor).arg("COUNT").arg(PAGE);
        let Some(mut answers) = self.ask(shard, vec![scan]).await? else { return Ok(None) };
        Ok(Some(read_page(answers.pop())?))
    }
}

/// Reads the answer to a scan.
pub(super) fn read_page(answer: Option<Value>) -> Result<Page, QueueError> {
    let parts = answer.and_then(value::list).unwrap_or_default();
    let Ok([cursor, entries]) = <[Value; 2]>::try_from(parts) else {
        return Err(error::unexpected("a scan was not answered with a page"));
    };
    let cursor: u64 = value::text(&cursor).parse().map_err(|_| error::unexpected("a scan gave no cursor"))?;
    let entries = value::list(entries).unwrap_or_default().into_iter().filter_map(value::bytes).collect();
    Ok(((cursor != 0).then_some(cursor), entries))
}
