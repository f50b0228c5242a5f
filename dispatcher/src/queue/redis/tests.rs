//! The Redis queue on a real redis-server: the conformance suite, and what only Redis can do to it.

mod acl;
mod clocks;
mod cluster;
mod clustered;
mod damage;
mod durability;
mod failover;
mod faults;
mod flows;
mod fsck;
mod log;
mod races;
mod reshard;
mod scale;
mod secure;
pub(crate) mod server;
mod silence;
mod size;
mod snapshot;
mod start;
mod walks;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;

use self::server::Server;
use super::{Durability, RedisOptions, RedisQueue, Timeouts};
use crate::queue::{
    Failure, FailureClass, LeaseRequest, LeasedTask, NewTask, ObjectRef, Outcome, Priority, Progress,
    QueueClock, QueueSettings, Renewal, Settlement, TaskQueue, TaskSpec,
    conformance::{Factory, random_history, test_settings},
};

/// Settings without caps that a test could meet by chance.
pub(crate) fn settings() -> QueueSettings {
    QueueSettings { shard_cap: 1 << 40, tenant_cap: 1 << 40, ..test_settings() }
}

/// Options for a queue on database `db` of `server`, as fast as it goes.
fn options(server: &Server, db: u32) -> RedisOptions {
    RedisOptions { durability: Durability::None, writers: 2, ..patient(server.url(db)) }
}

/// Options that take no busy machine for a silent server.
pub(crate) fn patient(url: impl Into<String>) -> RedisOptions {
    let long = Duration::from_secs(60);
    RedisOptions { timeouts: Timeouts { connect: long, response: long }, ..RedisOptions::new(url) }
}

/// A queue on database 0.
async fn queue(server: &Server, settings: QueueSettings, clock: &QueueClock) -> RedisQueue {
    RedisQueue::connect(options(server, 0), settings, clock.clone()).await.unwrap()
}

/// Queues in databases of `server`, which ends with the factory.
fn factory(server: Server, change: fn(&mut RedisOptions)) -> Factory {
    let server = Arc::new(server);
    let next = Arc::new(AtomicU32::new(0));
    Factory::new(move |settings: QueueSettings, clock: QueueClock| {
        let (server, next) = (Arc::clone(&server), Arc::clone(&next));
        async move {
            let mut options = options(&server, next.fetch_add(1, Ordering::Relaxed));
            change(&mut options);
            let queue = RedisQueue::connect(options, settings, clock).await.unwrap();
            let queue: Arc<dyn TaskQueue> = Arc::new(queue);
            queue
        }
    })
}

crate::queue_conformance!(factory(Server::start(&[]), |_| {}));

#[tokio::test]
async fn a_history_in_which_every_call_is_sent_twice_is_the_same_history() {
    let factory = factory(Server::start(&[]), |options| options.repeats = true);
    for seed in 101..105 {
        random_history(&factory, seed).await;
    }
}

/// A task that is due now.
fn task(tenant: &str, n: u32) -> NewTask {
    let spec = TaskSpec {
        tenant: tenant.into(),
        object: ObjectRef {
            location: "uploads".into(),
            bucket: "photos".into(),
            key: format!("{n:06}"),
            version: Some("v1".into()),
        },
        priority: Priority::Normal,
        max_attempts: 5,
        labels: [].into(),
        size_hint_bytes: 1,
        verify: None,
        processing_timeout: Duration::from_secs(120),
        traceparent: String::new(),
        retention_class: String::new(),
    };
    NewTask { spec, process_at: None }
}

fn request(session: &str, request: u64, max_tasks: u32) -> LeaseRequest {
    LeaseRequest {
        session: session.into(),
        request,
        worker: "worker".into(),
        max_tasks,
        max_bytes: u64::MAX,
        locations: Arc::new(["uploads".into()]),
    }
}

fn done(leased: &LeasedTask) -> Settlement {
    let outcome = Outcome::Done { receipt: Bytes::from_static(b"receipt") };
    Settlement { id: leased.id.clone(), lease: leased.lease, outcome }
}

/// A report after which the task is dead.
fn hopeless(leased: &LeasedTask) -> Settlement {
    let failure = Failure {
        class: FailureClass::Permanent,
        code: "denied".into(),
        message: String::new(),
        retry_after: Duration::ZERO,
    };
    let outcome = Outcome::Failed { failure, jitter: 0.5 };
    Settlement { id: leased.id.clone(), lease: leased.lease, outcome }
}

fn renewal(leased: &LeasedTask) -> Renewal {
    Renewal {
        id: leased.id.clone(),
        lease: leased.lease,
        progress: Progress::default(),
        upload_id: String::new(),
        session: "s".into(),
    }
}
