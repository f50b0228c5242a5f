//! Moving listings: what lies beside a record first, the record last, so that a record that is there is whole.
//!
//! They are few and each is small beside its tasks, so each is moved by itself. The server's own time of forgetting goes with it.

use redis::{Cmd, Value};

use super::{ReshardError, Work, command};
use crate::queue::{
    TaskId,
    redis::{error, keys, value},
    walk::{MOST_ACTIVE, WalkId},
};

/// Entries that are copied at a time.
const PAGE: usize = 1_000;
/// The indexes of a shard that name listings.
const INDEXES: [&str; 2] = ["walks", "walks:active"];

impl Work {
    /// Looks whether dispatchers can drive as many in each shard as there are to be.
    pub(super) async fn walks_fit(&self, from: u16) -> Result<(), ReshardError> {
        let mut found = vec![0_u64; usize::from(self.mark.to)];
        for shard in 0..from {
            let mut range = command("ZRANGE", keys::of_shard(shard, "walks:active"));
            range.arg(0).arg(-1);
            let ids = self.ask(vec![range]).await?.pop().and_then(value::list).unwrap_or_default();
            for id in ids.into_iter().filter_map(value::bytes).filter_map(|hash| keys::id(&hash)) {
                found[usize::from(id.shard(self.mark.to))] += 1;
            }
        }
        match (0..).zip(found).find(|(_, found)| *found > MOST_ACTIVE) {
            Some((shard, found)) => Err(ReshardError::TooManyWalks { shard, found, most: MOST_ACTIVE }),
            None => Ok(()),
        }
    }

    /// Moves a listing that is in `shard`.
    pub(super) async fn move_walk(&mut self, shard: u16, id: &TaskId) -> Result<(), ReshardError> {
        let (walk, home) = (WalkId::from(id.clone()), id.shard(self.mark.to));
        let ([record, open, failed], theirs) = (keys::walk(shard, &walk), keys::walk(home, &walk));
        let mut answers = self
            .ask(vec![command("GET", &record), command("PTTL", &record), command("GET", &theirs[0])])
            .await?
            .into_iter();
        let mut next = || answers.next().unwrap_or(Value::Nil);
        let (raw, left_ms, there) = (value::bytes(next()), value::integer(&next()), value::bytes(next()));
        // Its time ran out a moment ago.
        let Some(raw) = raw.filter(|_| left_ms != Some(-2)) else { return Ok(()) };
        match there {
            None => {
                // What an earlier run has left there is here too.
                self.write(vec![unlink(&theirs[1..])]).await?;
                self.copy_open(&open, &theirs[1]).await?;
                self.copy_failed(&failed, &theirs[2]).await?;
                self.copy_record(shard, home, id, (raw, left_ms.filter(|left| *left >= 0)), &theirs).await?;
            }
            Some(there) if there == raw => {}
            Some(_) => return Err(ReshardError::Differs { key: record }),
        }
        let mut gone: Vec<Cmd> = INDEXES.iter().map(|index| entry("ZREM", shard, index, id)).collect();
        gone.push(unlink(&[record, open, failed]));
        self.write(gone).await?;
        self.moved += 1;
        Ok(())
    }

    /// What lies beside a listing that is forgotten is nobody's.
    pub(super) async fn drop_leftovers(&self, shard: u16, id: &TaskId) -> Result<(), ReshardError> {
        let [record, open, failed] = keys::walk(shard, &WalkId::from(id.clone()));
        let there = self.ask(vec![command("EXISTS", &record)]).await?;
        if there.first().and_then(value::integer) == Some(0) {
            self.write(vec![unlink(&[open, failed])]).await?;
        }
        Ok(())
    }

    async fn copy_open(&self, from: &str, to: &str) -> Result<(), ReshardError> {
        let mut at = 0;
        loop {
            let mut range = command("ZRANGE", from);
            range.arg(at).arg(at + PAGE - 1).arg("WITHSCORES");
            let entries = self.texts(range).await?;
            if entries.is_empty() {
                return Ok(());
            }
            at += PAGE;
            let mut add = command("ZADD", to);
            for entry in entries.chunks_exact(2) {
                add.arg(entry[1].as_slice()).arg(entry[0].as_slice());
            }
            self.write(vec![add]).await?;
        }
    }

    async fn copy_failed(&self, from: &str, to: &str) -> Result<(), ReshardError> {
        let mut at = 0;
        loop {
            let mut range = command("LRANGE", from);
            range.arg(at).arg(at + PAGE - 1);
            let entries = self.texts(range).await?;
            if entries.is_empty() {
                return Ok(());
            }
            at += PAGE;
            let mut push = command("RPUSH", to);
            push.arg(entries);
            self.write(vec![push]).await?;
        }
    }

    /// Copies entries of indexes, and the record itself last.
    async fn copy_record(
        &self,
        shard: u16,
        home: u16,
        id: &TaskId,
        (raw, left_ms): (Vec<u8>, Option<i64>),
        theirs: &[String; 3],
    ) -> Result<(), ReshardError> {
        let scores = INDEXES.iter().map(|index| entry("ZSCORE", shard, index, id)).collect();
        let mut writes = Vec::new();
        for (index, score) in INDEXES.iter().zip(self.ask(scores).await?) {
            if let Some(score) = score_text(score) {
                let mut add = command("ZADD", keys::of_shard(home, index));
                add.arg(score).arg(id.hash());
                writes.push(add);
            }
        }
        let mut set = command("SET", &theirs[0]);
        set.arg(raw);
        if let Some(left_ms) = left_ms {
            set.arg("PX").arg(left_ms.max(1));
            let mut expire = command("PEXPIRE", &theirs[2]);
            expire.arg(left_ms.max(1));
            writes.push(expire);
        }
        writes.push(set);
        self.write(writes).await.map(drop)
    }

    async fn texts(&self, question: Cmd) -> Result<Vec<Vec<u8>>, ReshardError> {
        let answer = self.ask(vec![question]).await?.pop().and_then(value::list);
        let answer = answer.ok_or_else(|| error::unexpected("a part of a listing gave no list"))?;
        Ok(answer.into_iter().filter_map(value::bytes).collect())
    }
}

fn entry(name: &str, shard: u16, index: &str, id: &TaskId) -> Cmd {
    let mut command = command(name, keys::of_shard(shard, index));
    command.arg(id.hash());
    command
}

fn unlink(keys: &[String]) -> Cmd {
    command("UNLINK", keys)
}

/// A score as the server takes it back; whichever protocol it came over.
fn score_text(score: Value) -> Option<Vec<u8>> {
    if let Value::Double(score) = score { Some(score.to_string().into_bytes()) } else { value::bytes(score) }
}
