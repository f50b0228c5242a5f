//! Giving up the shards that there are not to be: what they have counted goes to others, and all else that they had is dropped.
//!
//! A record is never dropped here: one that is still in such a shard stays, and the audit names it.

use super::{ReshardError, Work, command, tasks::split};
use crate::queue::redis::{
    error, keys,
    scripts::{Answer, Call, Script},
};

impl Work {
    /// Ends every shard from the new number on, and all logs of changes: their places name shards that are others now.
    pub(super) async fn give_up_shards(&self) -> Result<(), ReshardError> {
        let logs = (0..self.mark.most).map(|shard| command("UNLINK", keys::of_shard(shard, "events")));
        self.write(logs.collect()).await?;
        for shard in self.mark.to..self.mark.most {
            self.fold(shard).await?;
        }
        if self.mark.to < self.mark.most {
            self.drop_rest().await?;
        }
        // The names by which a repeat is known: after all that they stand for.
        let names = (self.mark.to..self.mark.most).map(|shard| {
            let mut forget = command("HDEL", keys::of_shard(self.heir(shard), "stats"));
            forget.arg(folded(shard));
            forget
        });
        self.write(names.collect()).await.map(drop)
    }

    /// Has another shard count what this one has counted.
    async fn fold(&self, shard: u16) -> Result<(), ReshardError> {
        let counted = self.ask(vec![command("HGETALL", keys::of_shard(shard, "stats"))]).await?.pop();
        let counted: Vec<(String, u64)> = redis::from_redis_value(counted.unwrap_or(redis::Value::Nil))
            .map_err(|_| error::unexpected("stats are no counters"))?;
        if counted.is_empty() {
            return Ok(());
        }
        let mut call =
            Call::new(Script::Fold, self.heir(shard), std::iter::empty()).arg(0).arg(folded(shard));
        for (name, count) in counted {
            call.push(name);
            call.push(count);
        }
        for answer in self.write(vec![call.into_command()]).await? {
            Answer::read_plain(answer)?.integer()?;
        }
        Ok(())
    }

    async fn drop_rest(&self) -> Result<(), ReshardError> {
        for primary in self.nodes.primaries() {
            let mut cursor = Some(0);
            while let Some(at) = cursor {
                let (next, keys) = self.scan(&primary, at).await?;
                cursor = next;
                let rest = keys.iter().filter(|key| self.is_rest(key));
                self.write(rest.map(|key| command("UNLINK", key.as_slice())).collect()).await?;
            }
        }
        Ok(())
    }

    /// True for a key of a shard that is given up, unless it is what only a move may take away.
    fn is_rest(&self, key: &[u8]) -> bool {
        split(key)
            .is_some_and(|(shard, name)| (self.mark.to..self.mark.most).contains(&shard) && is_derived(name))
    }

    /// Who counts on for a shard that is given up.
    fn heir(&self, shard: u16) -> u16 {
        shard % self.mark.to
    }
}

/// What is left of a shard without tasks and listings.
fn is_derived(name: &[u8]) -> bool {
    const NAMES: [&[u8]; 7] = [b"meta", b"tenants", b"locations", b"sweep", b"stats", b"events", b"damaged"];
    const LISTINGS: [&[u8]; 2] = [b"walks", b"walks:active"];
    NAMES.contains(&name)
        || LISTINGS.contains(&name)
        || name.starts_with(b"pending:")
        || name.starts_with(b"memo:")
}

fn folded(shard: u16) -> String {
    format!("folded:{shard}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_a_move_takes_away_is_never_dropped() {
        for name in
            ["t:0123456789abcdef0123456789abcdef", "walk:0123456789abcdef0123456789abcdef", "worked", "dead"]
        {
            assert!(!is_derived(name.as_bytes()), "{name}");
        }
        for name in ["meta", "stats", "pending:turns:1", "pending:parked:t", "memo:s", "walks"] {
            assert!(is_derived(name.as_bytes()), "{name}");
        }
    }
}
