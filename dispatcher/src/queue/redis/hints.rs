//! What this process believes to be pending, by shard and band: where to ask first, and when to wake who waits for tasks.
//!
//! Filled from the answers of our own calls and from what other dispatchers announce. Only a hint: being wrong costs a round trip
//! or a poll, never a task.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt as _;
use redis::RedisResult;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    endpoint::{Endpoint, within},
    keys,
    link::backoff,
    nodes::Nodes,
};

/// How often to ask whether the server that is listened to is still there.
const LISTENS: Duration = Duration::from_secs(10);

/// Pending tasks as last heard.
#[derive(Debug)]
pub(super) struct Hints {
    shards: Vec<[AtomicU64; 3]>,
    /// Where the next lease request begins, so that no shard is always last.
    first: AtomicUsize,
    ready: Arc<Notify>,
}

impl Hints {
    pub(super) fn new(shards: u16) -> Self {
        let shards = (0..shards).map(|_| Default::default()).collect();
        Self { shards, first: AtomicUsize::new(0), ready: Arc::new(Notify::new()) }
    }

    /// Notes what a shard has.
    pub(super) fn set(&self, shard: u16, pending: [u64; 3]) {
        let Some(known) = self.shards.get(usize::from(shard)) else { return };
        for (known, now) in known.iter().zip(pending) {
            known.store(now, Ordering::Relaxed);
        }
    }

    /// Wakes who waits for tasks.
    pub(super) fn wake(&self) {
        self.ready.notify_one();
    }

    /// Notes what another process said a shard has. It may be older than what is known, so it only adds places to look.
    fn raise(&self, shard: u16, pending: [u64; 3]) {
        let Some(known) = self.shards.get(usize::from(shard)) else { return };
        for (known, now) in known.iter().zip(pending) {
            known.fetch_max(now, Ordering::Relaxed);
        }
        self.wake();
    }

    /// Pending tasks of a band in a shard.
    pub(super) fn pending(&self, shard: u16, band: usize) -> u64 {
        self.shards.get(usize::from(shard)).map_or(0, |bands| bands[band].load(Ordering::Relaxed))
    }

    /// Where a lease request begins.
    pub(super) fn rotate(&self) -> usize {
        self.first.fetch_add(1, Ordering::Relaxed) % self.shards.len().max(1)
    }

    pub(super) fn ready(&self) -> &Arc<Notify> {
        &self.ready
    }

    /// Listens to what other dispatchers announce, until `stop`. Announcements made while the connection is down are lost; the
    /// caller's poll finds those tasks. Any node of a cluster tells what is announced at another.
    pub(super) async fn listen(&self, nodes: &Nodes, endpoint: &Endpoint, stop: &CancellationToken) {
        let mut failures = 0;
        while !stop.is_cancelled() {
            let heard = tokio::select! {
                heard = self.listen_once(nodes, endpoint) => heard,
                () = stop.cancelled() => return,
            };
            match heard {
                Ok(()) => failures = 0,
                Err(error) => {
                    tracing::debug!(%error, "cannot hear ready hints");
                    failures += 1;
                }
            }
            let wait: Duration = backoff(failures);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Listens at one of the servers until its connection breaks or it is no primary any more.
    async fn listen_once(&self, nodes: &Nodes, endpoint: &Endpoint) -> RedisResult<()> {
        let primaries = nodes.primaries();
        let Some(primary) = fastrand::choice(&primaries) else { return Ok(()) };
        let address = primary.address.clone();
        let (mut sink, mut messages) = endpoint.subscribe(&address, keys::READY_CHANNEL).await?.split();
        // Nobody says when a server has fallen silent.
        let mut pings = tokio::time::interval(LISTENS);
        loop {
            tokio::select! {
                message = messages.next() => {
                    let Some(message) = message else { return Ok(()) };
                    if let Some((shard, pending)) = parse(message.get_payload_bytes()) {
                        self.raise(shard, pending);
                    }
                }
                _ = pings.tick() => within(endpoint.timeouts.response, sink.ping::<redis::Value>()).await.map(drop)?,
                () = nodes.until_gone(&address) => return Ok(()),
            }
        }
    }
}

/// `NNN <high> <normal> <low>`: a shard in hex and what is pending there.
fn parse(message: &[u8]) -> Option<(u16, [u64; 3])> {
    let mut words = std::str::from_utf8(message).ok()?.split(' ');
    let shard = u16::from_str_radix(words.next()?, 16).ok()?;
    let mut pending = [0; 3];
    for band in &mut pending {
        *band = words.next()?.parse().ok()?;
    }
    Some((shard, pending))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_names_shard_and_bands_and_anything_else_is_ignored() {
        assert_eq!(parse(b"00f 1 0 23"), Some((15, [1, 0, 23])));
        for bad in [b"".as_slice(), b"00f", b"00f 1 2", b"zzz 1 2 3", b"00f -1 0 0", &[0xff, 0xfe]] {
            assert_eq!(parse(bad), None);
        }
    }

    #[tokio::test]
    async fn an_announcement_adds_places_to_look_and_never_takes_one_away() {
        let hints = Hints::new(2);
        hints.set(1, [0, 3, 4]);
        hints.raise(1, [1, 0, 9]);
        hints.raise(9, [1, 1, 1]);
        hints.ready().notified().await;
        assert_eq!([0, 1, 2].map(|band| hints.pending(1, band)), [1, 3, 9]);
        assert_eq!(hints.pending(9, 0), 0);
    }
}
