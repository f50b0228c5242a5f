//! The mark in `bh:config` that a change of the number of shards was begun, and is not finished. While it is there, no dispatcher starts.

use redis::Cmd;

use super::{ReshardError, Work, command};
use crate::queue::{
    id::MAX_SHARDS,
    redis::{
        check::{RESHARDING, SCHEMA},
        error,
        fsck::FsckError,
        keys,
        nodes::Nodes,
        value,
    },
};

/// What has been begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    /// The number that there is to be.
    pub(super) to: u16,
    /// No shard from here on has anything.
    pub(super) most: u16,
    /// Something may have been moved, so the data is not as its number says.
    pub(super) moving: bool,
}

impl Mark {
    /// The mark of a change to `to`, of data that was made with `from` and may be on its way to somewhere else.
    pub(super) fn new(from: u16, to: u16, begun: Option<&Self>) -> Self {
        let most = from.max(to).max(begun.map_or(0, |begun| begun.most));
        Self { to, most, moving: begun.is_some_and(|begun| begun.moving) }
    }

    fn format(&self) -> String {
        let moving = if self.moving { " moving" } else { "" };
        format!("{} of {}{moving}", self.to, self.most)
    }

    fn parse(text: &str) -> Option<Self> {
        let (text, moving) = match text.strip_suffix(" moving") {
            Some(text) => (text, true),
            None => (text, false),
        };
        let (to, most) = text.split_once(" of ")?;
        Some(Self { to: number(to)?, most: number(most)?, moving })
    }
}

/// The number of shards that the data has, and what was begun.
pub(super) async fn read(nodes: &Nodes) -> Result<(u16, Option<Mark>), ReshardError> {
    let mut read = command("HMGET", keys::CONFIG);
    read.arg("schema").arg("shards").arg(RESHARDING);
    let answer = nodes.send(vec![read]).await.pop();
    let answer = answer.ok_or_else(|| error::unexpected("no answer"))?.map_err(error::from_redis)?;
    let fields: Vec<String> = value::list(answer).unwrap_or_default().iter().map(value::text).collect();
    let [schema, shards, begun] = fields.as_slice() else {
        return Err(error::unexpected("no list").into());
    };
    if schema != SCHEMA {
        return Err(FsckError::NotOurs("this database holds no queue that this version has laid out").into());
    }
    let shards = number(shards).ok_or(FsckError::NotOurs("bh:config names no number of shards"))?;
    if begun.is_empty() {
        return Ok((shards, None));
    }
    let mark = Mark::parse(begun)
        .ok_or(FsckError::NotOurs("bh:config has no mark of a reshard that makes sense"))?;
    Ok((shards, Some(mark)))
}

impl Work {
    pub(super) async fn put_mark(&self) -> Result<(), ReshardError> {
        let mut set = command("HSET", keys::CONFIG);
        set.arg(RESHARDING).arg(self.mark.format());
        self.write(vec![set]).await.map(drop)
    }

    /// Lets dispatchers in, as before.
    pub(super) async fn drop_mark(&self) -> Result<(), ReshardError> {
        self.write(vec![unmark()]).await.map(drop)
    }

    /// Lets dispatchers in with the new number.
    pub(super) async fn finish(&self) -> Result<(), ReshardError> {
        // In one command; an empty mark is none.
        let mut set = command("HSET", keys::CONFIG);
        set.arg("shards").arg(self.mark.to).arg(RESHARDING).arg("");
        self.write(vec![set, unmark()]).await.map(drop)
    }
}

fn unmark() -> Cmd {
    let mut forget = command("HDEL", keys::CONFIG);
    forget.arg(RESHARDING);
    forget
}

fn number(text: &str) -> Option<u16> {
    text.parse().ok().filter(|shards| (1..=MAX_SHARDS).contains(shards))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_comes_back_from_its_text_and_nothing_else_is_one() {
        for moving in [false, true] {
            let mark = Mark { to: 8, most: 32, moving };
            assert_eq!(Mark::parse(&mark.format()), Some(mark));
        }
        for bad in ["8", "8 of", "8 of 0", "0 of 8", "8 of 1025", "8 of 32 going", "-1 of 2"] {
            assert_eq!(Mark::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_was_begun_before_is_not_forgotten_when_it_goes_elsewhere() {
        let begun = Mark { to: 32, most: 32, moving: true };
        assert_eq!(Mark::new(4, 8, Some(&begun)), Mark { to: 8, most: 32, moving: true });
        assert_eq!(Mark::new(4, 2, None), Mark { to: 2, most: 4, moving: false });
    }
}
