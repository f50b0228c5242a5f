//! Another number of shards for data that is there: [`reshard`], while no dispatcher runs.
//!
//! An id says where its task is among any number of shards, so ids stay what they are and only records move: taken in by the script of one
//! shard, proved durable, and then let go by the script of the other. Both keep indexes, lines and counters of their shard with every step, so
//! at each moment every record is in its old shard, in its new one, or, byte for byte the same, in both; and the audit finds each shard right.
//!
//! It may be killed at any moment and is begun again: a mark in `bh:config` keeps dispatchers from starting until it has ended. Nothing here may
//! change a record, or delete one that is not proved to be elsewhere.

mod alone;
mod endings;
mod mark;
mod tasks;
mod walks;
mod writes;

use std::{fmt, sync::Arc, time::Duration};

use redis::{Cmd, Value};

use self::{alone::Presence, mark::Mark, tasks::Moving};
use super::{
    error,
    fsck::{Attached, Audit, FsckError, FsckOptions, Report, attach},
    nodes::Nodes,
    options::{Layout, RedisOptions},
    primary::WriterSettings,
};
use crate::queue::{QueueError, id::MAX_SHARDS};

/// How the number of shards is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReshardOptions {
    /// The number from now on.
    pub shards: u16,
    /// How long nobody may have swept the queue. Longer than dispatchers take from one sweep to the next.
    pub quiet_for: Duration,
    /// How long to wait for a proof that a batch of copies is durable.
    pub patience: Duration,
    /// Mend what the audit at the end finds.
    pub repair: bool,
}

/// What was done.
#[derive(Debug, Clone)]
pub struct Resharded {
    /// The number before.
    pub from: u16,
    /// The number now.
    pub to: u16,
    /// Tasks and listings that were moved in this run.
    pub moved: u64,
    /// What the audit at the end says; `None` when there was nothing to do.
    pub report: Option<Report>,
}

/// What is being done, for whoever waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Looking whether anybody is at work.
    Watching(Duration),
    /// Looking whether the data is as it should be.
    Auditing,
    /// Moving what is in the wrong shard.
    Moving {
        /// Tasks and listings that have moved.
        moved: u64,
        /// Keys that were looked at, and how many there were at the beginning.
        looked_at: u64,
        /// How many there were.
        of: u64,
    },
}

/// Why the number was not changed, or not to the end.
#[derive(Debug, thiserror::Error)]
pub enum ReshardError {
    /// The data cannot be reached, or is not ours.
    #[error(transparent)]
    Data(#[from] FsckError),
    /// A dispatcher is there, perhaps one of another database of the same server.
    #[error("a dispatcher listens at the server; stop all of them, and try again")]
    Dispatcher,
    /// Somebody sweeps.
    #[error("a dispatcher is at work on the data; stop all of them, and try again")]
    Swept,
    /// Two of them would hinder each other.
    #[error("another reshard is at work on this server")]
    Another,
    /// What is wrong already must not be spread.
    #[error(
        "nothing was changed: the data is not as it should be; mend it with `backhaul-dispatcher fsck --repair`\n{0}"
    )]
    Unsound(Box<Report>),
    /// A shard would have more than dispatchers look at.
    #[error(
        "nothing was changed: shard {shard} would have {found} unfinished listings, of which {most} can be driven; finish some first"
    )]
    TooManyWalks {
        /// The shard, by its new number.
        shard: u16,
        /// How many it would have.
        found: u64,
        /// How many it may have.
        most: u64,
    },
    /// The server failed. What was begun can be gone on with.
    #[error("Redis failed; run the same command again to go on")]
    Server(#[from] QueueError),
    /// A copy could not be proved durable, so its original was kept. What was begun can be gone on with.
    #[error("writes are not durable on {0}; mend that, and run the same command again to go on")]
    NotDurable(String),
    /// Two shards have different records of one task or listing: somebody has worked on the data. What was begun can be gone on with, once
    /// somebody has removed one of them.
    #[error(
        "{key} is in another shard too, with other content; both were kept; look at them, remove the wrong one, and run the same command again"
    )]
    Differs {
        /// The one in the shard that it is to leave.
        key: String,
    },
    /// All records are there, and something that leads to them is not right. What was begun can be gone on with.
    #[error(
        "the audit at the end found problems; run the same command again, with --repair to mend what is safe to mend\n{0}"
    )]
    NotClean(Box<Report>),
}

/// Called with each step.
pub type Tell<'a> = &'a mut (dyn FnMut(Step) + Send);

/// A change under way.
struct Work {
    nodes: Arc<Nodes>,
    writing: WriterSettings,
    /// What has been begun.
    mark: Mark,
    moved: u64,
}

/// Gives the data that `redis` names another number of shards.
///
/// # Errors
/// [`ReshardError`]. Until it has ended well, dispatchers are kept out where anything was moved, and not where nothing was.
pub async fn reshard(
    redis: &RedisOptions,
    options: &ReshardOptions,
    tell: Tell<'_>,
) -> Result<Resharded, ReshardError> {
    let to = options.shards.clamp(1, MAX_SHARDS);
    let Attached { nodes, endpoint, _end } = attach(redis).await?;
    let writing = WriterSettings {
        count: 0,
        endpoint: Arc::clone(&endpoint),
        durability: redis.durability,
        patience: options.patience,
        in_cluster: redis.layout == Layout::Cluster,
        shards: to,
    };
    let (from, begun) = mark::read(&nodes).await?;
    if begun.is_none() && from == to {
        return Ok(Resharded { from, to, moved: 0, report: None });
    }
    let mark = Mark::new(from, to, begun.as_ref());
    let mut work = Work { nodes, writing, mark, moved: 0 };
    let presence = work.show(&endpoint).await?;
    // From here on no dispatcher starts; one that was starting just now is heard, or seen sweeping.
    work.put_mark().await?;
    if let Err(error) = work.begin(&presence, from, options, tell).await {
        if !work.mark.moving {
            // If that fails too, dispatchers say what to do.
            drop(work.drop_mark().await);
        }
        return Err(error);
    }
    work.move_everything(tell).await?;
    work.give_up_shards().await?;
    work.still_alone(&presence).await?;
    tell(Step::Auditing);
    let report = work.audit(to, options.repair).await?;
    if !is_right(&report) {
        return Err(ReshardError::NotClean(Box::new(report)));
    }
    work.still_alone(&presence).await?;
    work.finish().await?;
    Ok(Resharded { from, to, moved: work.moved, report: Some(report) })
}

impl Work {
    /// Looks whether it may be done, and notes that it is.
    async fn begin(
        &mut self,
        presence: &Presence,
        from: u16,
        options: &ReshardOptions,
        tell: Tell<'_>,
    ) -> Result<(), ReshardError> {
        tell(Step::Watching(options.quiet_for));
        // Connections of what has just ended are gone by then, too.
        tokio::time::sleep(options.quiet_for).await;
        self.still_alone(presence).await?;
        if !self.mark.moving {
            tell(Step::Auditing);
            let report = self.audit(from, false).await?;
            if !is_right(&report) {
                return Err(ReshardError::Unsound(Box::new(report)));
            }
            self.walks_fit(from).await?;
            self.mark.moving = true;
            self.put_mark().await?;
        }
        Ok(())
    }

    async fn move_everything(&mut self, tell: Tell<'_>) -> Result<(), ReshardError> {
        let mut moving = Moving::new(self.furthest().await?, self.keys_there().await?);
        self.catch_up(&moving).await?;
        for primary in self.nodes.primaries() {
            let mut cursor = Some(0);
            while let Some(at) = cursor {
                let (next, keys) = self.scan(&primary, at).await?;
                cursor = next;
                moving.looked_at += keys.len() as u64;
                self.move_some(&mut moving, &keys).await?;
                tell(Step::Moving { moved: self.moved, looked_at: moving.looked_at, of: moving.of });
            }
        }
        self.settle(&mut moving).await?;
        tell(Step::Moving { moved: self.moved, looked_at: moving.looked_at, of: moving.of });
        Ok(())
    }

    async fn audit(&self, shards: u16, repair: bool) -> Result<Report, ReshardError> {
        let options = FsckOptions { repair, orphan_grace: Duration::ZERO, examples: 10 };
        Ok(Audit::new(Arc::clone(&self.nodes), options, shards).run().await?)
    }

    /// Sends commands that change nothing; any that fails fails all.
    async fn ask(&self, commands: Vec<Cmd>) -> Result<Vec<Value>, ReshardError> {
        let answers = self.nodes.send(commands).await.into_iter();
        Ok(answers.map(|answer| answer.map_err(error::from_redis)).collect::<Result<_, QueueError>>()?)
    }
}

fn is_right(report: &Report) -> bool {
    report.is_clean() && report.unchecked_counters.is_empty()
}

fn command(name: &str, key: impl redis::ToRedisArgs) -> Cmd {
    let mut command = redis::cmd(name);
    command.arg(key);
    command
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Watching(time) => write!(f, "looking for {time:?} whether a dispatcher is at work"),
            Self::Auditing => f.write_str("auditing the data"),
            Self::Moving { moved, looked_at, of } => {
                write!(f, "{looked_at} of about {of} keys looked at, {moved} tasks and listings moved")
            }
        }
    }
}
