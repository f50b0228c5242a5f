//! Names of the keys in Redis; nowhere else is a key spelt, except where a script derives one from the same prefix.
//!
//! Everything about shard N carries the hash tag `{bh:NNN}`, so that a script and all it touches stay in one slot of a cluster:
//!
//! | Key | Type | Content |
//! |---|---|---|
//! | `t:<hash>` | STRING | packed record of a task (see `codec`) |
//! | `pending:<band>:<location>:<tenant>` | ZSET | tasks that may be leased, by order number |
//! | `pending:ring:<band>:<location>` | ZSET | tenants with such tasks, by turn (a lower bound of it) |
//! | `pending:turns:<band>` | ZSET | tenants that wait, by turn |
//! | `pending:parked:<tenant>` | SET | rings that a tenant has left because it holds as many leases as it may |
//! | `pending:rested:<band>` | ZSET | tenants that wait no more and whose next turn lies ahead, by turn |
//! | `locations` | SET | locations that tasks were ever pending for |
//! | `working` | ZSET | leased tasks, by the end of the lease (ms) |
//! | `working:scheduled` | ZSET | tasks that wait for their processing time (ms) |
//! | `delay` | ZSET | tasks that wait for their retry time (ms) |
//! | `done`, `dead`, `cancelled` | ZSET | finished tasks, by when (ms) |
//! | `tenants` | HASH | by tenant: unfinished and dead tasks, leases, pending tasks of each band, scheduled, delayed, dead; packed |
//! | `damaged` | ZSET | tasks taken out of an index because their record cannot be decoded, by when (ms) |
//! | `meta` | STRING | clock, until when changes are logged, newest place in line, tasks unfinished and pending, time of each band, bytes of done and cancelled records; packed |
//! | `events` | STREAM | log of changes, while somebody watches: an entry for each script call, by tenant the tasks it changed |
//! | `sweep` | HASH | when the shard was swept, whether that was all, until when no lease ends |
//! | `stats` | HASH | moves of each kind since the data was created, some of them also by the index that they go from or to |
//! | `walk:<hash>` | STRING | record of a walk, in JSON behind its revision |
//! | `walk:open:<hash>` | ZSET | its open tasks, in the order in which they were opened |
//! | `walk:failed:<hash>` | LIST | objects of it that could not be backed up, in JSON |
//! | `walks` | ZSET | all walks, by when they are forgotten (ms) |
//! | `walks:active` | ZSET | those that are not finished |
//! | `memo:<session>` | STRING | the last lease request of a session and what it got |

use redis::{Arg, Cmd};

use crate::queue::{TaskId, TaskState, walk::WalkId};

/// Slots of a cluster.
pub(super) const SLOTS: u16 = 16_384;

/// What this deployment was created with: schema and shard count. The only key of the queue without a shard.
pub(super) const CONFIG: &str = "bh:config";
/// Bodies that nobody understands, by digest. These five are outside of the shards: they are no part of the queue.
pub(crate) const QUARANTINE_BODIES: &str = "{bh:aside}:bodies";
/// What is known of each of them, by digest.
pub(crate) const QUARANTINE_ABOUT: &str = "{bh:aside}:about";
/// Their digests by the time when they came.
pub(crate) const QUARANTINE_ORDER: &str = "{bh:aside}:order";
/// Removals that origins told of, by time.
pub(crate) const REMOVALS: &str = "{bh:aside}:removals";
/// What is kept of rules, by their names.
pub(crate) const RULES: &str = "{bh:aside}:rules";
/// Channel on which a shard announces that a tenant waits anew; the message is the shard and what is pending there by band.
pub(super) const READY_CHANNEL: &str = "bh:ready";

/// Channel on which whoever changes the number of shards listens, so that there is one at a time. Nothing is said there.
pub(super) const RESHARD_CHANNEL: &str = "bh:reshard";

/// `{bh:NNN}:<name>`.
pub(super) fn of_shard(shard: u16, name: &str) -> String {
    format!("{{bh:{shard:03x}}}:{name}")
}

/// The first key of every script; the others of the shard are derived from it.
pub(super) fn meta(shard: u16) -> String {
    of_shard(shard, "meta")
}

/// The record of a task.
pub(super) fn record(shard: u16, id: &TaskId) -> String {
    format!("{{bh:{shard:03x}}}:t:{}", id.hash())
}

/// The record of a walk, its open tasks and its failures.
pub(super) fn walk(shard: u16, id: &WalkId) -> [String; 3] {
    let key = |part: &str| of_shard(shard, &format!("walk:{part}{}", id.as_task().hash()));
    [key(""), key("open:"), key("failed:")]
}

/// The task that indexes call `hash`; `None` when that is no such name.
pub(super) fn id(hash: &[u8]) -> Option<TaskId> {
    TaskId::from_hash(std::str::from_utf8(hash).ok()?).ok()
}

/// The index of all tasks in `state`; `None` for pending tasks, which have one for each band, location and tenant.
pub(super) const fn index(state: TaskState) -> Option<&'static str> {
    match state {
        TaskState::Scheduled => Some("working:scheduled"),
        TaskState::Pending => None,
        TaskState::Working => Some("working"),
        TaskState::Delayed => Some("delay"),
        TaskState::Done => Some("done"),
        TaskState::Dead => Some("dead"),
        TaskState::Cancelled => Some("cancelled"),
    }
}

/// The slot of the first key of a command: the first argument, or of a script the third.
pub(super) fn slot_of(command: &Cmd) -> u16 {
    let bytes = |argument| if let Arg::Simple(bytes) = argument { bytes } else { [].as_slice() };
    let mut arguments = command.args_iter().map(bytes);
    let key = match arguments.next() {
        Some(b"EVALSHA" | b"EVAL") => arguments.nth(2),
        Some(_) | None => arguments.next(),
    };
    slot(key.unwrap_or_default())
}

/// The slot of a key: a checksum of its hash tag, or of all of it when it has none.
pub(super) fn slot(key: &[u8]) -> u16 {
    let open = key.iter().position(|&byte| byte == b'{');
    let tag = open.and_then(|open| {
        let rest = &key[open + 1..];
        let close = rest.iter().position(|&byte| byte == b'}')?;
        (close > 0).then_some(&rest[..close])
    });
    let sum = tag.unwrap_or(key).iter().fold(0_u16, |sum, &byte| {
        (0..8).fold(
            sum ^ u16::from(byte) << 8,
            |sum, _| if sum & 0x8000 == 0 { sum << 1 } else { sum << 1 ^ 0x1021 },
        )
    });
    sum % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_a_cluster() {
        // As CLUSTER KEYSLOT says.
        assert_eq!(slot(b"123456789"), 12_739);
        assert_eq!(slot(b"{bh:000}:meta"), 15_752);
        assert_eq!(slot(b"{bh:000}:anything"), slot(b"bh:000"));
        assert_eq!((slot(b"foo{}{bar}"), slot(b"foo{{bar}}zap")), (8_363, 4_015));
        let mut call = redis::cmd("EVALSHA");
        call.arg("sha").arg(1).arg("{bh:000}:meta").arg("x");
        assert_eq!(slot_of(&call), 15_752);
        let mut get = redis::cmd("GET");
        get.arg("123456789");
        assert_eq!(slot_of(&get), 12_739);
    }

    #[test]
    fn all_keys_of_a_shard_share_its_hash_tag() {
        let id = TaskId::parse("def-0123456789abcdef0123456789abcdef").unwrap();
        let states = TaskState::ALL.into_iter().filter_map(index).map(|name| of_shard(15, name));
        for key in states.chain([record(15, &id), meta(15)]) {
            assert!(key.starts_with("{bh:00f}:"), "{key}");
        }
    }

    #[test]
    fn an_index_entry_leads_back_to_its_task() {
        let hash = "0123456789abcdef0123456789abcdef";
        assert_eq!(id(hash.as_bytes()).unwrap().hash(), hash);
        assert_eq!(id(b"short"), None);
        assert_eq!(id(&[0xff; 32]), None);
    }
}
