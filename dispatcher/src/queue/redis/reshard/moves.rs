//! Moving what cannot be made again to the shard that its id names now: copied, proved durable, and only then deleted.
//!
//! Each key, and each entry of an index, is moved by itself and whole, so it does not matter where an earlier run was killed: what is
//! still in the wrong shard is complete there.

use redis::{Cmd, Value};

use super::{ReshardError, Work};
use crate::queue::{
    TaskId,
    redis::{
        check, error, keys,
        link::pipeline,
        options::Durability,
        proof::{barrier_command, proven},
        value,
    },
};

/// Keys that are moved behind one barrier.
const BATCH: usize = 1_000;
/// Entries of one key that are read at a time.
const PAGE: usize = 500;
/// Indexes whose entries no record says.
const INDEXES: [&str; 3] = ["walks", "walks:active", "damaged"];

/// What kind of key is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Set,
    List,
}

/// A key that belongs into a shard by the id in its name.
#[derive(Debug, PartialEq, Eq)]
struct Owned {
    shard: u16,
    kind: Kind,
    /// Its name without the shard, up to the id.
    name: &'static str,
    id: TaskId,
}

impl Work {
    /// Moves all that is in the wrong shard.
    pub(super) async fn move_all(&mut self) -> Result<(), ReshardError> {
        let mut texts: Vec<(Vec<u8>, String)> = Vec::new();
        for primary in self.nodes.primaries() {
            let mut cursor = 0;
            loop {
                let (next, found) = self.scan(&primary, cursor).await?;
                for key in found {
                    let Some(owned) = owner(&key).filter(|owned| owned.id.shard(self.to) != owned.shard)
                    else {
                        continue;
                    };
                    let target = owned.target(self.to);
                    match owned.kind {
                        Kind::Text => texts.push((key, target)),
                        Kind::Set => self.move_set(&key, &target).await?,
                        Kind::List => self.move_list(&key, &target).await?,
                    }
                    if texts.len() >= BATCH {
                        self.move_texts(std::mem::take(&mut texts)).await?;
                    }
                }
                cursor = next;
                if cursor == 0 {
                    break;
                }
            }
        }
        self.move_texts(texts).await?;
        for shard in 0..self.all {
            for index in INDEXES {
                self.move_entries(shard, index).await?;
            }
        }
        Ok(())
    }

    async fn scan(
        &self,
        primary: &crate::queue::redis::primary::Primary,
        cursor: u64,
    ) -> Result<(u64, Vec<Vec<u8>>), ReshardError> {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg("{bh:*").arg("COUNT").arg(PAGE);
        let mut answers = primary.link.send(&pipeline([scan])).await.map_err(error::from_redis)?;
        let answer = answers.pop().unwrap_or(Ok(Value::Nil)).map_err(error::from_redis)?;
        page(answer)
    }

    /// Records of tasks and walks.
    async fn move_texts(&mut self, texts: Vec<(Vec<u8>, String)>) -> Result<(), ReshardError> {
        if texts.is_empty() {
            return Ok(());
        }
        let reads = texts.iter().flat_map(|(key, _)| [command("GET", key), command("PTTL", key)]);
        let answers = self.nodes.send(reads.collect()).await;
        let (mut copies, mut gone) = (Vec::new(), Vec::new());
        for ((key, target), pair) in texts.iter().zip(answers.chunks(2)) {
            let [raw, left] = pair else { return Err(error::unexpected("no answer").into()) };
            // A key of another type is no record: it stays, and the audit names it.
            if raw.as_ref().is_err_and(|error| error.code() == Some("WRONGTYPE")) {
                continue;
            }
            let raw = raw.clone().map_err(error::from_redis)?;
            let left = value::integer(&left.clone().map_err(error::from_redis)?).unwrap_or(-1);
            // What has run out meanwhile is gone.
            let Some(raw) = value::bytes(raw).filter(|_| left != -2) else { continue };
            let mut copy = command("SET", target.as_bytes());
            copy.arg(raw);
            if left >= 0 {
                copy.arg("PX").arg(left.max(1));
            }
            copies.push(copy);
            gone.push(command("DEL", key));
        }
        let moved = copies.len() as u64;
        self.write(copies).await?;
        self.ask(gone).await?;
        self.moved += moved;
        Ok(())
    }

    async fn move_set(&self, key: &[u8], target: &str) -> Result<(), ReshardError> {
        let mut cursor = 0;
        loop {
            let (next, entries) = self.entries(key, cursor).await?;
            self.write(entries.chunks(2).filter_map(|entry| add(target, entry)).collect()).await?;
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        self.ask(vec![command("UNLINK", key)]).await.map(drop)
    }

    async fn move_list(&self, key: &[u8], target: &str) -> Result<(), ReshardError> {
        // What an earlier run left there is in the original too.
        self.write(vec![command("UNLINK", target.as_bytes())]).await?;
        let mut from = 0;
        loop {
            let mut range = command("LRANGE", key);
            range.arg(from).arg(from + PAGE - 1);
            let answer = self.ask(vec![range]).await?.pop().unwrap_or(Value::Nil);
            let items: Vec<Vec<u8>> =
                value::list(answer).unwrap_or_default().into_iter().filter_map(value::bytes).collect();
            if items.is_empty() {
                break;
            }
            from += items.len();
            let mut push = command("RPUSH", target.as_bytes());
            push.arg(items);
            self.write(vec![push]).await?;
        }
        let left = self.ask(vec![command("PTTL", key)]).await?.first().and_then(value::integer).unwrap_or(-1);
        if left >= 0 {
            let mut expire = command("PEXPIRE", target.as_bytes());
            expire.arg(left.max(1));
            self.write(vec![expire]).await?;
        }
        self.ask(vec![command("UNLINK", key)]).await.map(drop)
    }

    /// Entries of an index that lead to what is elsewhere now.
    async fn move_entries(&self, shard: u16, index: &str) -> Result<(), ReshardError> {
        let key = keys::of_shard(shard, index);
        let mut cursor = 0;
        loop {
            let (next, entries) = self.entries(key.as_bytes(), cursor).await?;
            let (mut copies, mut gone) = (Vec::new(), Vec::new());
            for entry in entries.chunks(2) {
                let home = keys::id(&entry[0]).map(|id| id.shard(self.to));
                let Some(home) = home.filter(|home| *home != shard) else { continue };
                copies.extend(add(&keys::of_shard(home, index), entry));
                let mut remove = command("ZREM", key.as_bytes());
                remove.arg(&entry[0]);
                gone.push(remove);
            }
            self.write(copies).await?;
            self.ask(gone).await?;
            cursor = next;
            if cursor == 0 {
                return Ok(());
            }
        }
    }

    async fn entries(&self, key: &[u8], cursor: u64) -> Result<(u64, Vec<Vec<u8>>), ReshardError> {
        let mut scan = command("ZSCAN", key);
        scan.arg(cursor).arg("COUNT").arg(PAGE);
        page(self.ask(vec![scan]).await?.pop().unwrap_or(Value::Nil))
    }

    /// Drops all keys of the shards but those that only a move brings anywhere.
    pub(super) async fn drop_derived(&self) -> Result<(), ReshardError> {
        for primary in self.nodes.primaries() {
            let mut cursor = 0;
            loop {
                let (next, found) = self.scan(&primary, cursor).await?;
                let derived = found.iter().filter(|key| is_derived(key, self.all));
                self.ask(derived.map(|key| command("UNLINK", key)).collect()).await?;
                cursor = next;
                if cursor == 0 {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Makes writes, each at the server that has its key, and proves them durable there.
    pub(super) async fn write(&self, commands: Vec<Cmd>) -> Result<(), ReshardError> {
        let mut groups: Vec<(std::sync::Arc<crate::queue::redis::primary::Primary>, Vec<Cmd>)> = Vec::new();
        for command in commands {
            let primary = self.nodes.of_slot(keys::slot_of(&command)).map_err(error::from_redis)?;
            match groups.iter_mut().find(|(known, _)| std::sync::Arc::ptr_eq(known, &primary)) {
                Some((_, group)) => group.push(command),
                None => groups.push((primary, vec![command])),
            }
        }
        let one_server = self.nodes.primaries().len() == 1;
        for (primary, group) in groups {
            let timeouts = self.writing.endpoint.timeouts;
            let opened = primary.link.opened_within(timeouts.connect).await.map_err(error::from_redis)?;
            // On one server the deletion of an original comes after its copy on disk too.
            let barrier = if one_server || self.writing.durability == Durability::None {
                check::Barrier::Answer
            } else {
                let found = check::fitness(&primary.link, &opened, &self.writing).await?;
                found.map_err(|unfit| ReshardError::NotDurable(format!("{}: {unfit}", primary.address)))?
            };
            let wait = barrier_command(barrier, self.writing.patience);
            let limit = timeouts.response + self.writing.patience;
            let sent = primary.link.send_on(&opened, &pipeline(group), wait.as_ref(), limit).await;
            let mut answers = sent.map_err(error::from_redis)?;
            if wait.is_some() && proven(barrier, answers.pop()).result().is_err() {
                return Err(ReshardError::NotDurable(primary.address.to_string()));
            }
            for answer in answers {
                answer.map_err(error::from_redis)?;
            }
        }
        Ok(())
    }
}

impl Owned {
    fn target(&self, shards: u16) -> String {
        keys::of_shard(self.id.shard(shards), &format!("{}{}", self.name, self.id.hash()))
    }
}

/// Whose a key is; `None` for a key that is not moved.
fn owner(key: &[u8]) -> Option<Owned> {
    const KINDS: [(&str, Kind); 4] =
        [("walk:open:", Kind::Set), ("walk:failed:", Kind::List), ("walk:", Kind::Text), ("t:", Kind::Text)];
    let (shard, rest) = split(key)?;
    let (name, kind) = KINDS.into_iter().find(|(name, _)| rest.starts_with(name.as_bytes()))?;
    Some(Owned { shard, kind, name, id: keys::id(&rest[name.len()..])? })
}

/// True for a key of one of our shards that can be made again, or that is nobody's without a dispatcher.
fn is_derived(key: &[u8], shards: u16) -> bool {
    const OTHERS: [&[u8]; 8] =
        [b"meta", b"tenants", b"locations", b"sweep", b"stats", b"events", b"working", b"working:scheduled"];
    const FINISHED: [&[u8]; 4] = [b"delay", b"done", b"dead", b"cancelled"];
    split(key).is_some_and(|(shard, name)| {
        shard < shards
            && (OTHERS.contains(&name)
                || FINISHED.contains(&name)
                || name.starts_with(b"pending:")
                || name.starts_with(b"memo:"))
    })
}

/// The shard of a key and its name there.
fn split(key: &[u8]) -> Option<(u16, &[u8])> {
    let (digits, rest) = key.strip_prefix(b"{bh:")?.split_at_checked(3)?;
    let shard = u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    Some((shard, rest.strip_prefix(b"}:")?))
}

fn command(name: &str, key: &[u8]) -> Cmd {
    let mut command = redis::cmd(name);
    command.arg(key);
    command
}

/// Adds an entry of a sorted set, as a scan tells it, to another.
fn add(target: &str, entry: &[Vec<u8>]) -> Option<Cmd> {
    let [member, score] = entry else { return None };
    let mut add = command("ZADD", target.as_bytes());
    add.arg(score.as_slice()).arg(member.as_slice());
    Some(add)
}

fn page(answer: Value) -> Result<(u64, Vec<Vec<u8>>), ReshardError> {
    let parts = value::list(answer).unwrap_or_default();
    let Ok([cursor, entries]) = <[Value; 2]>::try_from(parts) else {
        return Err(error::unexpected("a scan was not answered with a page").into());
    };
    let cursor = value::text(&cursor).parse().map_err(|_| error::unexpected("a scan gave no cursor"))?;
    Ok((cursor, value::list(entries).unwrap_or_default().into_iter().filter_map(value::bytes).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_and_what_is_made_again_are_told_apart() {
        let hash = "0123456789abcdef0123456789abcdef";
        for (name, kind) in [
            ("t:", Kind::Text),
            ("walk:", Kind::Text),
            ("walk:open:", Kind::Set),
            ("walk:failed:", Kind::List),
        ] {
            let key = format!("{{bh:00a}}:{name}{hash}");
            let owned = owner(key.as_bytes()).unwrap();
            assert_eq!((owned.shard, owned.kind), (10, kind));
            assert_eq!(owned.target(16), format!("{{bh:00f}}:{name}{hash}"));
            assert!(!is_derived(key.as_bytes(), 16), "{key}");
        }
        for name in ["walks", "walks:active", "damaged", "t:short", "walk:short", "other"] {
            let key = format!("{{bh:00a}}:{name}");
            assert!(owner(key.as_bytes()).is_none() && !is_derived(key.as_bytes(), 16), "{name}");
        }
        for name in
            ["meta", "pending:0:a:b", "pending:turns:1", "working", "working:scheduled", "memo:s", "dead"]
        {
            let key = format!("{{bh:00a}}:{name}");
            assert!(owner(key.as_bytes()).is_none() && is_derived(key.as_bytes(), 16), "{name}");
            assert!(!is_derived(key.as_bytes(), 10), "a shard of nobody");
        }
        assert!(!is_derived(b"bh:config", 16) && !is_derived(b"{bh:aside}:order", 16));
    }
}
