//! Finds out which servers are primaries, and of what: from the settings, from Sentinels, or from the nodes of a cluster.
//!
//! It asks when somebody reports trouble and now and then without a reason, because a primary that has been replaced need not know
//! it. Of several answers the one of the latest epoch counts. Nothing here may use a server, only look for it.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use redis::{Cmd, ErrorKind, RedisResult, Value, aio::MultiplexedConnection};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    access::Address,
    endpoint::{Endpoint, within},
    map::Map,
    nodes::Nodes,
    trouble::Trouble,
    value::{self, text},
};

/// Servers that are asked at a time.
const ASKED: usize = 7;
/// How long to wait for later answers after the first.
const LATER_ANSWERS: Duration = Duration::from_millis(200);
/// Shortest time between two looks, whatever is reported.
const SHORTEST: Duration = Duration::from_millis(100);

/// How servers are found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Layout {
    /// The URL names the one server.
    #[default]
    Single,
    /// The URL names Sentinels, which know the primary of this name.
    Sentinel(String),
    /// The URL names some nodes of a Redis Cluster.
    Cluster,
}

/// Looks for primaries.
#[derive(Debug)]
pub(super) struct Scout {
    layout: Layout,
    endpoint: Endpoint,
    /// As the settings name them.
    seeds: Vec<Address>,
    /// Connections to servers that answered the last time.
    open: Vec<(Address, MultiplexedConnection)>,
}

/// What one server said, and how new it is.
type Sighting = (Epoch, Map);
/// Whether the server thinks itself able to serve, and the number of the configuration it knows.
type Epoch = (bool, i64);

impl Scout {
    pub(super) const fn new(layout: Layout, endpoint: Endpoint, seeds: Vec<Address>) -> Self {
        Self { layout, endpoint, seeds, open: Vec::new() }
    }

    /// Asks once.
    ///
    /// # Errors
    /// When nobody that is known gave an answer.
    pub(super) async fn look(&mut self, known: &[Address]) -> RedisResult<Map> {
        if self.layout == Layout::Single {
            let first = self.seeds.first().cloned();
            return first
                .map(Map::single)
                .ok_or_else(|| (ErrorKind::InvalidClientConfig, "no server is named").into());
        }
        let mut asked = self.whom(known);
        fastrand::shuffle(&mut asked);
        asked.truncate(ASKED);
        let mut open = std::mem::take(&mut self.open);
        let mut answers: FuturesUnordered<_> = asked
            .into_iter()
            .map(|address| {
                let at = open.iter().position(|(known, _)| *known == address);
                let connection = at.map(|at| open.swap_remove(at).1);
                self.ask(address, connection)
            })
            .collect();
        let (mut best, mut failure): (Option<Sighting>, _) = (None, None);
        let mut until = Instant::now() + self.endpoint.timeouts.connect + self.endpoint.timeouts.response;
        let mut answered = Vec::new();
        while let Ok(Some((address, result))) = tokio::time::timeout_at(until, answers.next()).await {
            match result {
                Ok((connection, sighting)) => {
                    answered.push((address, connection));
                    until = until.min(Instant::now() + LATER_ANSWERS);
                    if best.as_ref().is_none_or(|(epoch, _)| *epoch < sighting.0) {
                        best = Some(sighting);
                    }
                }
                Err(error) => failure = Some(error),
            }
        }
        drop(answers);
        self.open = answered;
        match (best, failure) {
            (Some((_, map)), _) => Ok(map),
            (None, Some(error)) => Err(error),
            (None, None) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        }
    }

    /// Looks again and again until `stop`, and tells `nodes`.
    pub(super) async fn run(
        mut self,
        nodes: Arc<Nodes>,
        trouble: Arc<Trouble>,
        every: Duration,
        stop: CancellationToken,
    ) {
        if self.layout == Layout::Single {
            return;
        }
        let mut lost = false;
        loop {
            let wait = async {
                tokio::time::sleep(SHORTEST).await;
                tokio::select! {
                    () = trouble.noticed() => {}
                    () = tokio::time::sleep(every) => {}
                }
            };
            if stop.run_until_cancelled(wait).await.is_none() {
                return;
            }
            let moves = trouble.moves();
            if !moves.is_empty() {
                let mut map = nodes.map();
                for (slot, address) in moves {
                    map.moved(slot, address);
                }
                nodes.follow(map);
            }
            let known = nodes.map();
            let Some(found) = stop.run_until_cancelled(self.look(known.primaries())).await else { return };
            match found {
                Ok(map) => {
                    if std::mem::replace(&mut lost, false) {
                        tracing::info!("the layout of Redis can be asked again");
                    }
                    nodes.follow(map);
                }
                // What is known may still be right: each server is checked before it is used.
                Err(error) => {
                    if !std::mem::replace(&mut lost, true) {
                        tracing::warn!(%error, "nobody says where the primaries of Redis are; going on with the last known ones");
                    }
                }
            }
        }
    }

    fn whom(&self, known: &[Address]) -> Vec<Address> {
        let mut all = self.seeds.clone();
        if self.layout == Layout::Cluster {
            all.extend(known.iter().filter(|known| !self.seeds.contains(known)).cloned());
        }
        all
    }

    async fn ask(
        &self,
        address: Address,
        connection: Option<MultiplexedConnection>,
    ) -> (Address, RedisResult<(MultiplexedConnection, Sighting)>) {
        let result = async {
            let mut connection = match connection {
                Some(connection) => connection,
                None => self.endpoint.open(&address).await?,
            };
            let sighting =
                within(self.endpoint.timeouts.response, self.sight(&mut connection, &address)).await?;
            Ok((connection, sighting))
        };
        let result = result.await;
        (address, result)
    }

    async fn sight(
        &self,
        connection: &mut MultiplexedConnection,
        address: &Address,
    ) -> RedisResult<Sighting> {
        match &self.layout {
            Layout::Single => Ok(((true, 0), Map::single(address.clone()))),
            Layout::Sentinel(name) => {
                let answer: Value = sentinel(name).query_async(connection).await?;
                primary_of(answer).ok_or_else(|| nonsense(address))
            }
            Layout::Cluster => {
                let mut pipeline = redis::pipe();
                pipeline.cmd("CLUSTER").arg("INFO").cmd("CLUSTER").arg("SLOTS");
                let [info, slots]: [Value; 2] = pipeline.query_async(connection).await?;
                let map = Map::from_slots(slots, address).ok_or_else(|| nonsense(address))?;
                Ok((epoch_of(&text(&info)), map))
            }
        }
    }
}

fn sentinel(name: &str) -> Cmd {
    let mut command = redis::cmd("SENTINEL");
    command.arg("MASTER").arg(name);
    command
}

fn nonsense(address: &Address) -> redis::RedisError {
    // A cluster that is being set up says nothing yet.
    (ErrorKind::ClusterConnectionNotFound, "it does not say where the primaries are", address.to_string())
        .into()
}

/// Reads the answer to `SENTINEL MASTER`: names and values in turn, or a map.
fn primary_of(answer: Value) -> Option<Sighting> {
    let fields: Vec<(String, String)> = if let Value::Map(pairs) = answer {
        pairs.iter().map(|(name, value)| (text(name), text(value))).collect()
    } else {
        let values: Vec<String> = value::list(answer)?.iter().map(text).collect();
        values.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
    };
    let get = |wanted: &str| fields.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
    let address = Address::Tcp(get("ip")?.to_owned(), get("port")?.parse().ok()?);
    Some(((true, get("config-epoch")?.parse().ok()?), Map::single(address)))
}

/// Reads the answer to `CLUSTER INFO`.
fn epoch_of(info: &str) -> Epoch {
    let get = |wanted: &str| info.lines().find_map(|line| line.strip_prefix(wanted)).map(str::trim);
    let epoch = get("cluster_current_epoch:").and_then(|epoch| epoch.parse().ok()).unwrap_or(0);
    (get("cluster_state:") == Some("ok"), epoch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentinels_name_the_primary_and_the_epoch_in_which_it_became_one() {
        let fields = ["name", "m", "ip", "10.0.0.1", "port", "7001", "flags", "master", "config-epoch", "3"];
        let answer = Value::Array(fields.iter().map(|&field| Value::BulkString(field.into())).collect());
        let map = Map::single(Address::Tcp("10.0.0.1".into(), 7001));
        assert_eq!(primary_of(answer), Some(((true, 3), map)));
        assert_eq!(primary_of(Value::Array(Vec::new())), None);
        assert_eq!(primary_of(Value::Nil), None);
    }

    #[test]
    fn a_node_that_can_serve_is_believed_before_one_that_cannot_and_then_the_later_epoch() {
        let node =
            |state, epoch| epoch_of(&format!("cluster_state:{state}\r\ncluster_current_epoch:{epoch}\r\n"));
        assert!(node("ok", 2) > node("ok", 1));
        assert!(node("ok", 1) > node("fail", 9));
        assert!(epoch_of("") < node("fail", 1));
    }
}
