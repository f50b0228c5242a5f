//! How many tasks a second the queue in Redis takes through submit, lease, accept and settle, in batches of 100.
//!
//! ```text
//! cargo run --release -p backhaul-dispatcher --example queue_load -- redis://127.0.0.1:6379/0 [tasks] [callers] [none|local] [shards]
//! ```
//!
//! It needs an empty database and leaves its tasks there. It is a yardstick for changes to the scripts, not a benchmark of the system.
#![expect(clippy::print_stdout, reason = "the figures are its output")]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context as _, bail, ensure};
use backhaul_dispatcher::queue::{
    LeaseRequest, LeasedTask, NewTask, ObjectRef, Outcome, Priority, Progress, QueueClock, QueueSettings,
    Renewal, RetryPolicy, Settlement, TaskQueue, TaskSpec,
    redis::{Durability, RedisOptions, RedisQueue},
};
use bytes::Bytes;
use tokio::{task::JoinSet, time::Instant};

const BATCH: u64 = 100;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().context("the first argument is the URL of a Redis server")?;
    let mut number = |default: u64| arguments.next().map_or(Ok(default), |text| text.parse::<u64>());
    let (tasks, callers) = (number(100_000)?, number(8)?);
    let durability = match arguments.next().as_deref() {
        None | Some("none") => Durability::None,
        Some("local") => Durability::Local,
        Some(other) => bail!("unknown durability {other}"),
    };
    let shards = arguments.next().map_or(Ok(16), |text| text.parse())?;
    let options = RedisOptions { durability, ..RedisOptions::new(url) };
    let queue = Arc::new(RedisQueue::connect(options, settings(shards), QueueClock::Server).await?);

    let begin = Instant::now();
    run(callers, |caller| submit(Arc::clone(&queue), tasks, callers, caller)).await?;
    let submitted = begin.elapsed();
    report("submit", tasks, submitted);
    let lease_begin = Instant::now();
    run(callers, |caller| work(Arc::clone(&queue), caller)).await?;
    report("lease, accept, settle", tasks, lease_begin.elapsed());
    report("all", tasks, begin.elapsed());
    let done = queue.depths().await?.done;
    ensure!(done == tasks, "{done} tasks are done; was the database empty?");
    queue.shutdown().await;
    Ok(())
}

async fn run<Fut>(callers: u64, job: impl Fn(u64) -> Fut) -> anyhow::Result<()>
where
    Fut: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let mut set = JoinSet::new();
    for caller in 0..callers {
        set.spawn(job(caller));
    }
    while let Some(ended) = set.join_next().await {
        ended??;
    }
    Ok(())
}

async fn submit(queue: Arc<RedisQueue>, tasks: u64, callers: u64, caller: u64) -> anyhow::Result<()> {
    for first in (caller * BATCH..tasks).step_by(usize::try_from(callers * BATCH)?) {
        let batch = (first..tasks.min(first + BATCH)).map(task).collect();
        for answer in queue.submit(batch).await {
            answer?;
        }
    }
    Ok(())
}

async fn work(queue: Arc<RedisQueue>, caller: u64) -> anyhow::Result<()> {
    let session = format!("load-{caller}");
    for request in 1.. {
        let request = LeaseRequest {
            session: session.clone(),
            request,
            worker: "load".into(),
            max_tasks: 100,
            max_bytes: u64::MAX,
            locations: Arc::new(["uploads".to_owned()]),
        };
        let leased = queue.lease(&request).await?;
        if leased.is_empty() {
            break;
        }
        let accept: Vec<_> = leased.iter().map(|task| renewal(task, &session)).collect();
        for answer in queue.renew(&accept).await {
            answer?;
        }
        for answer in queue.settle(leased.into_iter().map(settlement).collect()).await {
            answer?;
        }
    }
    Ok(())
}

fn task(n: u64) -> NewTask {
    let spec = TaskSpec {
        tenant: format!("tenant-{}", n % 10),
        object: ObjectRef {
            location: "uploads".into(),
            bucket: "user-content".into(),
            key: format!("photos/2026/11/3f2b6c1e-8d4a-4b7e-9c0d-{n:012}/original.jpeg"),
            version: Some(format!("{n:032x}")),
        },
        priority: Priority::Normal,
        max_attempts: 10,
        labels: BTreeMap::new(),
        size_hint_bytes: 1,
        verify: None,
        processing_timeout: Duration::from_secs(300),
        traceparent: String::new(),
        retention_class: String::new(),
    };
    NewTask { spec, process_at: None }
}

fn renewal(task: &LeasedTask, session: &str) -> Renewal {
    Renewal {
        id: task.id.clone(),
        lease: task.lease,
        progress: Progress::default(),
        upload_id: String::new(),
        session: session.to_owned(),
    }
}

fn settlement(task: LeasedTask) -> Settlement {
    let outcome = Outcome::Done { receipt: Bytes::from_static(&[7; 200]) };
    Settlement { id: task.id, lease: task.lease, outcome }
}

fn settings(shards: u16) -> QueueSettings {
    let s = Duration::from_secs;
    QueueSettings {
        shards,
        lease: s(30),
        accept_within: s(10),
        max_crashes: 3,
        max_returns: 20,
        retry: RetryPolicy { base: s(5), max: s(900), floor: s(1) },
        dedup_window: s(3600),
        retain_finished: s(3600),
        retain_dead: s(3600),
        retain_bytes: 1 << 40,
        shard_cap: 1 << 40,
        tenant_cap: 1 << 40,
        tenant_in_flight_cap: 1 << 40,
        outage: s(10),
        sweep_every: s(1),
    }
}

fn report(what: &str, tasks: u64, time: Duration) {
    println!(
        "{what}: {:.0} tasks/s ({tasks} in {:.2} s)",
        tasks as f64 / time.as_secs_f64(),
        time.as_secs_f64()
    );
}
