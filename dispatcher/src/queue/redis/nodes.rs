//! The primaries that hold the data, and the way of each call to the one that has its key.
//!
//! A call that cannot be asked where it belongs has its own error: it never holds up calls for other primaries. Nothing here may
//! repeat a call, except where a server said that it did not execute it because another has the slot.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use redis::{Cmd, ErrorKind, RedisError, RedisResult, Value};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    access::Address,
    endpoint::Endpoint,
    keys,
    link::{Answers, Link, pipeline},
    map::Map,
    primary::{Primary, WriterSettings},
    trouble::{Trouble, is_moved},
    writer::Context,
};

/// All primaries as they are known now.
#[derive(Debug)]
pub(super) struct Nodes {
    table: watch::Sender<Arc<Table>>,
    maker: Maker,
}

#[derive(Debug)]
struct Table {
    map: Map,
    /// In the order of the map.
    primaries: Vec<Arc<Primary>>,
}

/// What new primaries are made with.
#[derive(Debug)]
pub(super) struct Maker {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) trouble: Arc<Trouble>,
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
    /// `None` for who only reads.
    pub(super) writers: Option<(Arc<Context>, WriterSettings)>,
}

impl Nodes {
    pub(super) fn new(map: Map, maker: Maker) -> Self {
        let table = Table::new(map, &[], &maker);
        Self { table: watch::Sender::new(Arc::new(table)), maker }
    }

    /// The map as it is known now.
    pub(super) fn map(&self) -> Map {
        self.table.borrow().map.clone()
    }

    /// Uses another map from now on. Primaries that are not on it are retired: what they have not yet confirmed is not accepted.
    pub(super) fn follow(&self, map: Map) {
        self.table.send_if_modified(|table| {
            if table.map == map {
                return false;
            }
            let next = Table::new(map, &table.primaries, &self.maker);
            for old in &table.primaries {
                if !next.primaries.iter().any(|kept| Arc::ptr_eq(kept, old)) {
                    tracing::info!(address = %old.address, "a Redis server is not used any more");
                    old.retire();
                }
            }
            *table = Arc::new(next);
            true
        });
    }

    /// All primaries.
    pub(super) fn primaries(&self) -> Vec<Arc<Primary>> {
        self.table.borrow().primaries.clone()
    }

    /// The primary that has a slot.
    ///
    /// # Errors
    /// When nobody has it.
    pub(super) fn of_slot(&self, slot: u16) -> RedisResult<Arc<Primary>> {
        let table = self.table.borrow();
        let owner = table.map.owner(slot).and_then(|at| table.primaries.get(at));
        owner.cloned().ok_or_else(|| {
            (ErrorKind::ClusterConnectionNotFound, "no server has the slot", slot.to_string()).into()
        })
    }

    /// One more connection to the data of a server.
    pub(super) fn link(&self, address: &Address) -> Link {
        let Maker { endpoint, trouble, tasks, stop, .. } = &self.maker;
        Link::new(address.clone(), Arc::clone(endpoint), Arc::clone(trouble), tasks, stop)
    }

    /// Until a primary of this address is none any more.
    pub(super) async fn until_gone(&self, address: &Address) {
        let mut tables = self.table.subscribe();
        // The sender lives as long as this.
        drop(tables.wait_for(|table| !table.map.primaries().contains(address)).await);
    }

    /// Has the map looked at, and waits until it has changed, but not longer than that.
    pub(super) async fn changed_within(&self, limit: Duration) {
        let mut tables = self.table.subscribe();
        self.maker.trouble.report();
        drop(tokio::time::timeout(limit, tables.changed()).await);
    }

    /// Sends each command to the primary that has its first key, all at once, and gives each its own answer.
    pub(super) async fn send(&self, calls: Vec<Cmd>) -> Answers {
        let mut tables = self.table.subscribe();
        let table = Arc::clone(&tables.borrow_and_update());
        let mut answers: Vec<Option<RedisResult<Value>>> = calls.iter().map(|_| None).collect();
        let moved = table.send(calls.into_iter().enumerate().collect(), &mut answers).await;
        if !moved.is_empty() {
            // The scout follows what the servers said, a moment later.
            let limit = self.maker.endpoint.timeouts.response;
            drop(tokio::time::timeout(limit, tables.changed()).await);
            let table = Arc::clone(&tables.borrow());
            // Those that have moved once more keep the answer that says so.
            drop(table.send(moved, &mut answers).await);
        }
        let missing =
            || Err(RedisError::from((ErrorKind::UnexpectedReturnType, "a command was not answered")));
        answers.into_iter().map(|answer| answer.unwrap_or_else(missing)).collect()
    }
}

impl Table {
    fn new(map: Map, known: &[Arc<Primary>], maker: &Maker) -> Self {
        let primary = |address: &Address| {
            let same = known.iter().find(|known| known.address == *address);
            same.cloned().unwrap_or_else(|| Arc::new(Primary::new(address.clone(), maker)))
        };
        let primaries = map.primaries().iter().map(primary).collect();
        Self { map, primaries }
    }

    /// Sends commands, notes the answer of each at its place, and gives back those that another server has to be asked.
    async fn send(
        &self,
        calls: Vec<(usize, Cmd)>,
        answers: &mut [Option<RedisResult<Value>>],
    ) -> Vec<(usize, Cmd)> {
        let mut groups: Vec<(Vec<usize>, Vec<Cmd>)> =
            self.primaries.iter().map(|_| (Vec::new(), Vec::new())).collect();
        for (at, call) in calls {
            let owner =
                if self.primaries.len() == 1 { Some(0) } else { self.map.owner(keys::slot_of(&call)) };
            match owner.and_then(|owner| groups.get_mut(owner)) {
                Some((places, group)) => {
                    places.push(at);
                    group.push(call);
                }
                None => {
                    answers[at] =
                        Some(Err((ErrorKind::ClusterConnectionNotFound, "no server has the slot").into()))
                }
            }
        }
        let sent = self.primaries.iter().zip(groups).filter(|(_, (places, _))| !places.is_empty());
        let exchanges = sent.map(|(primary, (places, group))| async move {
            let group = pipeline(group);
            (primary.link.send(&group).await, places, group)
        });
        let mut moved = Vec::new();
        for (result, places, group) in join_all(exchanges).await {
            match result {
                Ok(group_answers) => {
                    for ((at, answer), call) in places.into_iter().zip(group_answers).zip(group.cmd_iter()) {
                        if answer.as_ref().is_err_and(is_moved) {
                            moved.push((at, call.clone()));
                        }
                        answers[at] = Some(answer);
                    }
                }
                Err(error) => {
                    for at in places {
                        answers[at] = Some(Err(error.clone()));
                    }
                }
            }
        }
        moved
    }
}
