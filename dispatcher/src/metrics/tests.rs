//! What the page of a dispatcher holds: all of the list, nothing else, and nothing that a caller chose.

use std::collections::BTreeSet;

use backhaul_runtime::metrics::{Page, Source as _};

use super::*;
use crate::{
    config::Config,
    dispatch::testing::new_task,
    queue::{
        LeaseRequest, Outcome, QueueClock, QueueError, Settlement, TaskQueue, memory::MemoryQueue,
        snapshot::DepthsOnly,
    },
    session::StreamSettings,
};

fn exposed() -> (Exposed, Metered) {
    let config = Config::from_args(["dispatcher", "--insecure", "--locations", "unused"]).unwrap();
    let queue: Arc<dyn TaskQueue> = Arc::new(MemoryQueue::new(config.queue, QueueClock::Server));
    let metrics = Arc::new(Metrics::default());
    let metered = Metered::new(Arc::clone(&queue), Arc::clone(&metrics));
    let exposed = Exposed {
        metrics,
        ready: Ready::default(),
        dispatch: Dispatch::new(Arc::clone(&queue), StreamSettings::default()),
        watched: Arc::new(Watched::new(Arc::new(DepthsOnly(queue)))),
        barriers: Arc::default(),
        clocks: Arc::default(),
        walked: Arc::default(),
        trust: Trust::default(),
        runs: Arc::default(),
        rules_refused: Arc::default(),
        audit: Arc::default(),
    };
    (exposed, metered)
}

async fn page(exposed: &Exposed) -> String {
    let mut page = Page::default();
    exposed.write(&mut page).await;
    page.into_text()
}

/// The value of a sample, named as on the page.
fn value(page: &str, sample: &str) -> String {
    let found = page.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("no {sample} in\n{page}")).to_owned()
}

#[tokio::test]
async fn every_metric_of_the_list_is_on_the_page_once_and_no_other() {
    let (exposed, _) = exposed();
    let page = page(&exposed).await;
    let shown: Vec<&str> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_whitespace().next()).collect();
    let listed: BTreeSet<&str> = names::FAMILIES.iter().map(|family| family.name).collect();
    assert_eq!(shown.len(), names::FAMILIES.len());
    assert_eq!(shown.into_iter().collect::<BTreeSet<_>>(), listed);
}

#[tokio::test]
async fn ten_thousand_keys_of_many_tenants_make_no_further_sample_and_appear_nowhere() {
    let (exposed, metered) = exposed();
    let work = async |from: usize, to: usize| {
        for chunk in (from..to).collect::<Vec<_>>().chunks(500) {
            let tasks = chunk.iter().map(|n| {
                let mut task = new_task(&format!("secret-key-{n}"));
                task.spec.tenant = format!("secret-tenant-{}", n % 1000);
                task
            });
            metered.submit(tasks.collect()).await;
        }
    };
    work(0, 10).await;
    let few = page(&exposed).await;
    work(10, 10_000).await;
    let many = page(&exposed).await;
    assert_eq!(value(&many, "backhaul_dispatcher_submits_total{outcome=\"created\"}"), "10000");
    assert_eq!(many.lines().count(), few.lines().count());
    assert!(!many.contains("secret"), "{many}");
}

#[tokio::test]
async fn what_is_asked_of_the_queue_is_counted_by_what_became_of_it() {
    let (exposed, metered) = exposed();
    let task = new_task("k");
    let location = task.spec.object.location.clone();
    for _ in 0..2 {
        metered.submit(vec![task.clone()]).await;
    }
    let request = LeaseRequest {
        session: "s".into(),
        request: 1,
        worker: "w".into(),
        max_tasks: 5,
        max_bytes: u64::MAX,
        locations: Arc::new([location]),
    };
    let leased = metered.lease(&request).await.unwrap().remove(0);
    let settle = |outcome| Settlement { id: leased.id.clone(), lease: leased.lease, outcome };
    let done = Outcome::Done { receipt: bytes::Bytes::from_static(b"r") };
    metered.settle(vec![settle(done.clone())]).await;
    metered.settle(vec![settle(done)]).await;
    metered.check().await.unwrap();

    let page = page(&exposed).await;
    for (sample, expected) in [
        ("backhaul_dispatcher_submits_total{outcome=\"created\"}", "1"),
        ("backhaul_dispatcher_leases_total", "1"),
        ("backhaul_dispatcher_settlements_total{report=\"done\",verdict=\"done\"}", "1"),
        ("backhaul_dispatcher_settlements_total{report=\"done\",verdict=\"duplicate\"}", "1"),
        ("backhaul_dispatcher_queue_duration_seconds_count{operation=\"submit\"}", "2"),
        ("backhaul_dispatcher_redis_check{state=\"safe\"}", "1"),
        ("backhaul_dispatcher_redis_check{state=\"unreachable\"}", "0"),
        ("backhaul_queue_tasks{queue=\"done\"}", "1"),
        ("backhaul_queue_visible", "1"),
    ] {
        assert_eq!(value(&page, sample), expected, "{sample}");
    }
}

#[tokio::test]
async fn a_redis_that_could_lose_tasks_is_told_from_one_that_does_not_answer() {
    let queue = crate::grpc::testing::ScriptedQueue::default();
    queue
        .checks
        .lock()
        .unwrap()
        .extend([Err(QueueError::Rejected("unfit".into())), Err(QueueError::Unavailable("gone".into()))]);
    let metrics = Arc::new(Metrics::default());
    let metered = Metered::new(Arc::new(queue), Arc::clone(&metrics));
    assert_eq!(metrics.check.get(), None);
    for expected in [Check::Unsafe, Check::Unreachable, Check::Safe] {
        drop(metered.check().await);
        assert_eq!(metrics.check.get(), Some(expected));
    }
}
