//! Another number of shards for data that is there: [`reshard`], while no dispatcher runs.
//!
//! Ids carry no shard, so they stay what they are; what moves are the records, to where the ids say they are now. All that can be
//! made again from records is dropped and made again by the audit, which then has to find nothing. What cannot (time, places in line,
//! sums of moves) is written down first, in one piece.
//!
//! It may be killed at any moment and is begun again with the same number: until it has ended, a marker in `bh:config` keeps
//! dispatchers from starting. A record is deleted only where a copy of it is durable. Nothing here may change a record.

mod moves;
mod plan;

use std::{sync::Arc, time::Duration};

use redis::{Cmd, Value, aio::PubSub};
use tokio::time::Instant;

use self::plan::Plan;
use super::{
    check::SCHEMA,
    endpoint::Endpoint,
    error,
    fsck::{Attached, Audit, FsckError, FsckOptions, Problem, Report, attach},
    keys,
    nodes::Nodes,
    options::RedisOptions,
    primary::WriterSettings,
    value,
};
use crate::queue::{QueueError, id::MAX_SHARDS};

/// How long the connection of a dispatcher that has ended may still be known to the server.
const JUST_ENDED: Duration = Duration::from_secs(2);
/// Between two looks at who is connected.
const LISTEN_AGAIN: Duration = Duration::from_millis(50);

/// How the number of shards is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReshardOptions {
    /// The number from now on.
    pub shards: u16,
    /// How long nobody may have swept the queue. Longer than `--sweep-every` of the dispatchers.
    pub quiet_for: Duration,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resharded {
    /// The number before.
    pub from: u16,
    /// The number now.
    pub to: u16,
    /// Records that moved in this run.
    pub moved: u64,
    /// Records that there are.
    pub records: u64,
}

/// Why the number was not changed, or not to the end.
#[derive(Debug, thiserror::Error)]
pub enum ReshardError {
    /// The data cannot be reached, or is not ours. Nothing was changed.
    #[error(transparent)]
    Data(#[from] FsckError),
    /// Nothing was changed.
    #[error("a dispatcher, or another reshard, is at work on this data; stop it and try again")]
    Alive,
    /// Nothing was changed.
    #[error("a reshard to {to} shards was begun and not finished; finish it first (--shards {to})")]
    Begun {
        /// The number that it was begun with.
        to: u16,
    },
    /// What was begun can be gone on with.
    #[error("the server failed; run the same command again to go on")]
    Server(#[from] QueueError),
    /// A copy could not be proved durable, so its original was kept. What was begun can be gone on with.
    #[error("copies are not durable on {0}; mend it, and run the same command again to go on")]
    NotDurable(String),
    /// All records are there; indexes are not right. What was begun can be gone on with.
    #[error("the audit at the end found problems; dispatchers stay out\n{0}")]
    NotClean(Box<Report>),
}

/// A change under way.
struct Work {
    nodes: Arc<Nodes>,
    writing: WriterSettings,
    /// Most shards that there were or are to be.
    all: u16,
    to: u16,
    moved: u64,
}

/// What `bh:config` says.
struct Config {
    shards: u16,
    begun: Option<(u16, u16)>,
    plan: Option<Plan>,
}

/// Gives the data that `redis` names another number of shards.
///
/// # Errors
/// [`ReshardError`]; where it says so, what was begun can be gone on with.
pub async fn reshard(redis: &RedisOptions, options: &ReshardOptions) -> Result<Resharded, ReshardError> {
    let to = options.shards.clamp(1, MAX_SHARDS);
    let Attached { nodes, endpoint, _end } = attach(redis).await?;
    let config = read_config(&nodes).await?;
    let from = match config.begun {
        Some((from, begun)) if begun == to => from,
        Some((_, begun)) => return Err(ReshardError::Begun { to: begun }),
        None => config.shards,
    };
    let writing = WriterSettings {
        count: 0,
        endpoint: Arc::clone(&endpoint),
        durability: redis.durability,
        patience: redis.durability_timeout.max(Duration::from_secs(30)),
        in_cluster: redis.layout == super::Layout::Cluster,
        shards: to,
    };
    let mut work = Work { nodes, writing, all: from.max(to), to, moved: 0 };
    if config.begun.is_none() && from == to {
        let report = work.audit(false).await?;
        return Ok(Resharded { from, to, moved: 0, records: report.records });
    }
    // From here on no dispatcher starts; one that was starting just now is heard, or seen sweeping.
    work.tell(config_set(&[("reshard", format!("{from} {to}"))])).await?;
    let Ok(_heard) = work.alone(&endpoint, options.quiet_for).await? else {
        if config.plan.is_none() {
            work.tell(config_forget()).await?;
        }
        return Err(ReshardError::Alive);
    };
    let plan = match config.plan {
        Some(plan) => plan,
        None => {
            let plan = work.make_plan(from).await?;
            work.tell(config_set(&[("reshard_plan", plan.format())])).await?;
            plan
        }
    };
    work.move_all().await?;
    work.begin_anew(&plan).await?;
    work.audit(true).await?;
    let report = work.audit(false).await?;
    // What was wrong with single records and keys before is so still, and nobody's shard.
    let passes = |problem: &Problem| {
        matches!(problem, Problem::DamagedRecord | Problem::UnknownKey | Problem::NeverEnds)
    };
    if !report.problems.keys().all(passes) || !report.unchecked_counters.is_empty() {
        return Err(ReshardError::NotClean(Box::new(report)));
    }
    // On every server all of it must be durable before dispatchers are let in.
    let last = (0..to).map(|shard| {
        let mut set = redis::cmd("HSET");
        set.arg(keys::of_shard(shard, "sweep")).arg("complete").arg(0);
        set
    });
    work.write(last.collect()).await?;
    work.tell(config_set(&[("shards", to.to_string())])).await?;
    work.tell(config_forget()).await?;
    Ok(Resharded { from, to, moved: work.moved, records: report.records })
}

async fn read_config(nodes: &Nodes) -> Result<Config, ReshardError> {
    let mut read = redis::cmd("HMGET");
    read.arg(keys::CONFIG).arg("schema").arg("shards").arg("reshard").arg("reshard_plan");
    let answer = nodes.send(vec![read]).await.pop();
    let answer = answer.ok_or_else(|| error::unexpected("no answer"))?.map_err(error::from_redis)?;
    let fields: Vec<String> = value::list(answer).unwrap_or_default().iter().map(value::text).collect();
    let [schema, shards, begun, plan] = fields.as_slice() else {
        return Err(error::unexpected("no list").into());
    };
    if schema != SCHEMA {
        return Err(FsckError::NotOurs("this database holds no queue of this version").into());
    }
    let number = |text: &str| text.parse().ok().filter(|shards| (1..=MAX_SHARDS).contains(shards));
    let no_number = || FsckError::NotOurs("bh:config names no number of shards");
    let shards = number(shards).ok_or_else(no_number)?;
    let begun = match begun.split_once(' ') {
        Some((from, to)) => Some((number(from).ok_or_else(no_number)?, number(to).ok_or_else(no_number)?)),
        None => None,
    };
    let plan = if plan.is_empty() {
        None
    } else {
        Some(Plan::parse(plan).ok_or(FsckError::NotOurs("bh:config holds no plan of a reshard"))?)
    };
    Ok(Config { shards, begun, plan })
}

fn config_set(fields: &[(&str, String)]) -> Cmd {
    let mut set = redis::cmd("HSET");
    set.arg(keys::CONFIG);
    for (field, value) in fields {
        set.arg(*field).arg(value);
    }
    set
}

fn config_forget() -> Cmd {
    let mut forget = redis::cmd("HDEL");
    forget.arg(keys::CONFIG).arg("reshard").arg("reshard_plan");
    forget
}

impl Work {
    /// Sends commands; any that fails fails all.
    async fn ask(&self, commands: Vec<Cmd>) -> Result<Vec<Value>, ReshardError> {
        let answers = self.nodes.send(commands).await;
        Ok(answers
            .into_iter()
            .map(|answer| answer.map_err(error::from_redis))
            .collect::<Result<Vec<_>, QueueError>>()?)
    }

    /// Makes one write durable.
    async fn tell(&self, command: Cmd) -> Result<(), ReshardError> {
        self.write(vec![command]).await
    }

    /// Listens as a dispatcher does, so that another reshard hears it, and looks whether anybody else does anything.
    async fn alone(
        &self,
        endpoint: &Endpoint,
        quiet_for: Duration,
    ) -> Result<Result<PubSub, ()>, ReshardError> {
        let primaries = self.nodes.primaries();
        let first = primaries.first().ok_or_else(|| error::unexpected("no server is known"))?;
        let heard =
            endpoint.subscribe(&first.address, keys::READY_CHANNEL).await.map_err(error::from_redis)?;
        // The connections of what has just ended are still there for a moment.
        let until = Instant::now() + JUST_ENDED;
        while self.listeners().await? != 1 {
            if Instant::now() >= until {
                return Ok(Err(()));
            }
            tokio::time::sleep(LISTEN_AGAIN).await;
        }
        let before = (self.listeners().await?, self.swept().await?);
        tokio::time::sleep(quiet_for).await;
        let after = (self.listeners().await?, self.swept().await?);
        Ok(if before.0 == 1 && before == after { Ok(heard) } else { Err(()) })
    }

    /// How many listen for tasks at any server.
    async fn listeners(&self) -> Result<i64, ReshardError> {
        let mut count = redis::cmd("PUBSUB");
        count.arg("NUMSUB").arg(keys::READY_CHANNEL);
        let mut listeners = 0;
        for primary in self.nodes.primaries() {
            let sent = super::link::pipeline([count.clone()]);
            let answers = primary.link.send(&sent).await.map_err(error::from_redis)?;
            for answer in answers {
                let counts = match answer.map_err(error::from_redis)? {
                    Value::Map(pairs) => pairs.into_iter().map(|(_, count)| count).collect(),
                    other => value::list(other).unwrap_or_default(),
                };
                listeners += counts.iter().filter_map(value::integer).sum::<i64>();
            }
        }
        Ok(listeners)
    }

    /// When each shard was swept last.
    async fn swept(&self) -> Result<Vec<String>, ReshardError> {
        let marks = (0..self.all).map(|shard| {
            let mut mark = redis::cmd("HGET");
            mark.arg(keys::of_shard(shard, "sweep")).arg("swept");
            mark
        });
        Ok(self.ask(marks.collect()).await?.iter().map(value::text).collect())
    }

    /// Makes all that can be made from records, or looks whether it is right.
    async fn audit(&self, make: bool) -> Result<Report, ReshardError> {
        let options = FsckOptions { repair: make, orphan_grace: Duration::ZERO, examples: 10 };
        Ok(Audit::new(Arc::clone(&self.nodes), options, self.to, make).run().await?)
    }
}
