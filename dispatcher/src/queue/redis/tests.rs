//! The Redis queue on a real redis-server: the conformance suite, and what only Redis can do to it.

mod server;
mod size;

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use self::server::Server;
use super::{Durability, RedisOptions, RedisQueue};
use crate::queue::{
    QueueClock, QueueSettings, TaskQueue,
    conformance::{Factory, test_settings},
};

/// Settings without caps that a test could meet by chance.
fn settings() -> QueueSettings {
    QueueSettings { shard_cap: 1 << 40, tenant_cap: 1 << 40, ..test_settings() }
}

/// Options for a queue on database `db` of `server`, as fast as it goes.
fn options(server: &Server, db: u32) -> RedisOptions {
    RedisOptions { durability: Durability::None, writers: 2, ..RedisOptions::new(server.url(db)) }
}

/// Queues in databases of one server, which ends with the factory.
fn redis() -> Factory {
    let server = Arc::new(Server::start(&[]));
    let next = Arc::new(AtomicU32::new(0));
    Factory::new(move |settings: QueueSettings, clock: QueueClock| {
        let (server, next) = (Arc::clone(&server), Arc::clone(&next));
        async move {
            let db = next.fetch_add(1, Ordering::Relaxed);
            let queue = RedisQueue::connect(options(&server, db), settings, clock).await.unwrap();
            let queue: Arc<dyn TaskQueue> = Arc::new(queue);
            queue
        }
    })
}

crate::queue_conformance!(redis());
