//! Whether a server can be trusted with tasks: its role, version and persistence, and whose data it holds.
//!
//! A queue that runs on a server that evicts keys, forgets on restart, or was laid out with another number of shards loses tasks
//! silently. So each of these is refused in the open, with the setting to change. Nothing here may change a server's settings.

use std::collections::HashMap;

use redis::{Cmd, RedisResult, Value};

use super::{
    error, keys,
    link::{Answers, Link, Opened, pipeline},
    nodes::Nodes,
    options::Durability,
    primary::WriterSettings,
    value::{list, text},
};
use crate::queue::QueueError;

/// Version of the layout of keys and records.
pub(super) const SCHEMA: &str = "4";

/// The field of `bh:config` that says which number of shards the data is being given, while it is.
pub(super) const RESHARDING: &str = "resharding";

/// Why a server must not be trusted with tasks, and what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Its answer to `INFO` cannot be understood.
    #[error("its INFO lacks {0}; is this Redis or Valkey?")]
    NoInfo(&'static str),
    /// Writes go elsewhere.
    #[error("it is a {0}, not the primary; connect to the primary")]
    NotPrimary(String),
    /// It answers only for its part of the data.
    #[error("it is a node of a cluster; say that it is one (--redis-cluster)")]
    InCluster,
    /// It is not what the settings say.
    #[error("it is no node of a cluster; leave out --redis-cluster")]
    NoCluster,
    /// Scripts need flags that came with 7.0.
    #[error("it is version {0}; Redis 7.0 or Valkey is needed")]
    TooOld(String),
    /// Tasks would be deleted when the memory is full.
    #[error("maxmemory-policy is {0}; set it to noeviction, or tasks are deleted when the memory is full")]
    Evicts(String),
    /// Nothing would survive a restart.
    #[error("appendonly is off; set appendonly yes, or choose durability none")]
    NoAof,
    /// The disk is full or broken.
    #[error("its last write to the append-only file failed ({0}); look at its disk")]
    AofFailing(String),
    /// Before 7.2 only this tells when a write is on disk.
    #[error("appendfsync is {0}; before Redis 7.2, durability needs appendfsync always")]
    FsyncTooLate(String),
    /// `CONFIG GET` is needed before 7.2.
    #[error("appendfsync cannot be read; allow CONFIG GET, or use Redis 7.2")]
    FsyncUnknown,
    /// The barrier could never be met.
    #[error(
        "{connected} replicas are connected, {wanted} must confirm; add replicas or lower the durability"
    )]
    TooFewReplicas {
        /// Connected now.
        connected: u32,
        /// Asked for.
        wanted: u32,
    },
    /// Another version of this program laid out the data.
    #[error("its data has schema {0}, this program needs {SCHEMA}; use the program that matches the data")]
    OtherSchema(String),
    /// A part of the tasks is where nobody looks for it.
    #[error(
        "a change to {to} shards was begun and not finished; run `backhaul-dispatcher reshard --shards {to}` again"
    )]
    Resharding {
        /// The number that it is to have.
        to: String,
    },
    /// A changed count would split the tasks.
    #[error(
        "its data has {found} shards, {wanted} are configured: use --shards {found}, or change the data with \
         `backhaul-dispatcher reshard --shards {wanted}` while all dispatchers are stopped"
    )]
    OtherShards {
        /// As created.
        found: String,
        /// As configured.
        wanted: u16,
    },
}

/// How to learn that writes are as durable as asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Barrier {
    /// The answer to the write itself says so, or nothing is asked.
    Answer,
    /// `WAITAOF 1 <replicas>`.
    WaitAof(u32),
    /// `WAIT <replicas>`: older servers.
    Wait(u32),
}

/// Looks at the server at the other end of a connection. `Ok(Err(_))` when it answers and is unfit.
///
/// A server that has all the data is also asked whose it is; in a cluster that is one question to all, [`created_as`].
pub(super) async fn inspect(
    link: &Link,
    opened: &Opened,
    settings: &WriterSettings,
) -> Result<Result<Barrier, Unfit>, QueueError> {
    let found = fitness(link, opened, settings).await?;
    if found.is_err() || settings.in_cluster {
        return Ok(found);
    }
    let limit = settings.endpoint.timeouts.response;
    let creation = pipeline(creation(settings.shards));
    let answers = link.send_on(opened, &creation, None, limit).await.map_err(error::from_redis)?;
    Ok(read_creation(answers, settings.shards)?.and(found))
}

/// Looks at the server alone, whatever data it has.
pub(super) async fn fitness(
    link: &Link,
    opened: &Opened,
    settings: &WriterSettings,
) -> Result<Result<Barrier, Unfit>, QueueError> {
    let limit = settings.endpoint.timeouts.response;
    let mut config_get = redis::cmd("CONFIG");
    config_get.arg("GET").arg("appendfsync");
    let questions = pipeline([redis::cmd("INFO"), config_get]);
    let answers = link.send_on(opened, &questions, None, limit).await.map_err(error::from_redis)?;
    let [info, fsync] = two(answers)?;
    let info = info.map_err(error::from_redis)?;
    let info = parse(&text(&info));
    // Refused by servers that lock CONFIG away; needed only before 7.2.
    let fsync = fsync.ok().as_ref().and_then(config_value);
    Ok(judge(&info, fsync.as_deref(), settings.durability, settings.in_cluster))
}

/// Looks what the data was created as, and creates it if there is none.
pub(super) async fn created_as(nodes: &Nodes, shards: u16) -> Result<Result<(), Unfit>, QueueError> {
    read_creation(nodes.send(creation(shards)).await, shards)
}

fn creation(shards: u16) -> Vec<Cmd> {
    let set = |field: &str, value: String| -> Cmd {
        let mut command = redis::cmd("HSETNX");
        command.arg(keys::CONFIG).arg(field).arg(value);
        command
    };
    let mut read = redis::cmd("HMGET");
    read.arg(keys::CONFIG).arg("schema").arg("shards").arg(RESHARDING);
    vec![set("schema", SCHEMA.to_owned()), set("shards", shards.to_string()), read]
}

fn read_creation(mut answers: Answers, shards: u16) -> Result<Result<(), Unfit>, QueueError> {
    let config = answers.pop().ok_or_else(|| error::unexpected("no answer"))?.map_err(error::from_redis)?;
    let [schema, found, resharding]: [String; 3] = list(config)
        .unwrap_or_default()
        .iter()
        .map(text)
        .collect::<Vec<_>>()
        .try_into()
        .map_err(|_| error::unexpected("bh:config is not what it should be"))?;
    Ok(if schema != SCHEMA {
        Err(Unfit::OtherSchema(schema))
    } else if let Some(to) = resharding.split_whitespace().next() {
        Err(Unfit::Resharding { to: to.to_owned() })
    } else if found == shards.to_string() {
        Ok(())
    } else {
        Err(Unfit::OtherShards { found, wanted: shards })
    })
}

fn judge(
    info: &HashMap<String, String>,
    fsync: Option<&str>,
    durability: Durability,
    in_cluster: bool,
) -> Result<Barrier, Unfit> {
    let get = |name: &'static str| info.get(name).map(String::as_str).ok_or(Unfit::NoInfo(name));
    let version = get("redis_version")?;
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let version_number = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version_number < (7, 0) {
        return Err(Unfit::TooOld(version.to_owned()));
    }
    let role = get("role")?;
    if role != "master" {
        return Err(Unfit::NotPrimary(role.to_owned()));
    }
    match (in_cluster, info.get("cluster_enabled").map(String::as_str)) {
        (true, Some("0")) => return Err(Unfit::NoCluster),
        (false, Some("1")) => return Err(Unfit::InCluster),
        (true | false, _) => {}
    }
    let policy = get("maxmemory_policy")?;
    if policy != "noeviction" {
        return Err(Unfit::Evicts(policy.to_owned()));
    }
    let wanted = match durability {
        Durability::None => return Ok(Barrier::Answer),
        Durability::Local => 0,
        Durability::Replicas(wanted) => wanted.max(1),
    };
    if get("aof_enabled")? != "1" {
        return Err(Unfit::NoAof);
    }
    let status = get("aof_last_write_status")?;
    if status != "ok" {
        return Err(Unfit::AofFailing(status.to_owned()));
    }
    let connected = get("connected_slaves")?.parse().unwrap_or(0);
    if connected < wanted {
        return Err(Unfit::TooFewReplicas { connected, wanted });
    }
    if version_number >= (7, 2) {
        return Ok(Barrier::WaitAof(wanted));
    }
    match fsync {
        // Only then is the answer to a write sent after it has reached the disk.
        Some("always") if wanted == 0 => Ok(Barrier::Answer),
        Some("always") => Ok(Barrier::Wait(wanted)),
        // A replica's copy makes up for the second that the disk may be behind.
        Some(_) | None if wanted > 0 => Ok(Barrier::Wait(wanted)),
        Some(other) => Err(Unfit::FsyncTooLate(other.to_owned())),
        None => Err(Unfit::FsyncUnknown),
    }
}

fn parse(info: &str) -> HashMap<String, String> {
    let fields = info.lines().filter_map(|line| line.trim().split_once(':'));
    fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn config_value(answer: &Value) -> Option<String> {
    if let Value::Map(values) = answer {
        values.first().map(|(_, value)| text(value))
    } else {
        list(answer.clone())?.get(1).map(text)
    }
}

fn two(answers: Vec<RedisResult<Value>>) -> Result<[RedisResult<Value>; 2], QueueError> {
    answers.try_into().map_err(|_| error::unexpected("two commands had not two answers"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(changes: &[(&str, &str)]) -> HashMap<String, String> {
        let mut info = parse(
            "# Server\r\nredis_version:7.0.15\r\nrole:master\r\nmaxmemory_policy:noeviction\r\naof_enabled:1\r\n\
             aof_last_write_status:ok\r\nconnected_slaves:1\r\n",
        );
        info.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        info
    }

    #[test]
    fn each_danger_is_refused_by_its_name() {
        let local = |changes: &[_]| judge(&server(changes), Some("always"), Durability::Local, false);
        assert_eq!(local(&[]), Ok(Barrier::Answer));
        assert_eq!(local(&[("redis_version", "6.2.14")]), Err(Unfit::TooOld("6.2.14".into())));
        assert_eq!(local(&[("role", "slave")]), Err(Unfit::NotPrimary("slave".into())));
        assert_eq!(local(&[("maxmemory_policy", "allkeys-lru")]), Err(Unfit::Evicts("allkeys-lru".into())));
        assert_eq!(local(&[("aof_enabled", "0")]), Err(Unfit::NoAof));
        assert_eq!(local(&[("aof_last_write_status", "err")]), Err(Unfit::AofFailing("err".into())));
        assert_eq!(
            judge(&HashMap::new(), None, Durability::None, false),
            Err(Unfit::NoInfo("redis_version"))
        );
        assert_eq!(
            judge(&server(&[]), Some("everysec"), Durability::Local, false),
            Err(Unfit::FsyncTooLate("everysec".into()))
        );
        assert_eq!(judge(&server(&[]), None, Durability::Local, false), Err(Unfit::FsyncUnknown));
        assert_eq!(local(&[("cluster_enabled", "1")]), Err(Unfit::InCluster));
        let node = server(&[("cluster_enabled", "0")]);
        assert_eq!(judge(&node, Some("always"), Durability::Local, true), Err(Unfit::NoCluster));
    }

    #[test]
    fn the_barrier_is_the_strongest_that_the_server_knows() {
        let with = |version, durability| {
            judge(&server(&[("redis_version", version)]), Some("everysec"), durability, false)
        };
        assert_eq!(with("7.2.4", Durability::Local), Ok(Barrier::WaitAof(0)));
        assert_eq!(with("8.2.3", Durability::Replicas(1)), Ok(Barrier::WaitAof(1)));
        assert_eq!(with("7.0.15", Durability::Replicas(1)), Ok(Barrier::Wait(1)));
        assert_eq!(with("7.0.15", Durability::None), Ok(Barrier::Answer));
        assert_eq!(
            with("7.2.4", Durability::Replicas(2)),
            Err(Unfit::TooFewReplicas { connected: 1, wanted: 2 })
        );
    }
}
