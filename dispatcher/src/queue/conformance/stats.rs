//! How much there is, and since when.

use std::time::Duration;

use super::harness::{Factory, Harness, done, exact, failed, s};
use crate::queue::{Amount, Backlog, FailureClass, Priority, QueueStats, StatsQuery};

async fn stats(h: &Harness, query: StatsQuery) -> QueueStats {
    h.queue.stats(&query).await.unwrap_or_else(|error| panic!("stats: {error}"))
}

async fn all(h: &Harness) -> QueueStats {
    stats(h, StatsQuery::All { tenants: 10 }).await
}

fn tasks(tasks: u64, oldest: Duration) -> Amount {
    Amount { tasks, oldest: Some(oldest), sampled: false }
}

pub(super) async fn an_empty_queue_has_nothing_of_any_age(factory: Factory) {
    let h = factory.start().await;
    let nothing = QueueStats { done: Some(0), cancelled: Some(0), ..QueueStats::default() };
    assert_eq!(all(&h).await, nothing);
    assert_eq!(stats(&h, StatsQuery::Tenant("t".into())).await, QueueStats::default());
}

pub(super) async fn every_queue_tells_how_much_it_has_and_since_when(factory: Factory) {
    let h = factory.start_with(|settings| settings.shards = 3).await;
    let dead = h.work_on(exact("t", "dead")).await;
    h.clock.advance(s(1));
    h.settle(&dead, failed(FailureClass::Permanent)).await;
    let finished = h.work_on(exact("t", "done")).await;
    h.settle(&finished, done()).await;
    let cancelled = h.submit(exact("t", "cancelled")).await.id;
    h.cancel(&cancelled).await;
    let delayed = h.work_on(exact("t", "delayed")).await;
    h.settle(&delayed, failed(FailureClass::Retry)).await;
    h.clock.advance(s(1));
    h.work_on(exact("t", "working")).await;
    h.clock.advance(s(1));
    let mut later = exact("t", "scheduled");
    later.process_at = h.at(s(3600));
    h.submit(later).await;
    h.clock.advance(s(1));
    for key in ["a", "b", "c"] {
        h.submit(exact("t", key)).await;
    }
    h.clock.advance(s(1));
    let expected = Backlog {
        pending: [Amount::default(), tasks(3, s(1)), Amount::default()],
        scheduled: tasks(1, s(2)),
        working: tasks(1, s(3)),
        delayed: tasks(1, s(4)),
        dead: tasks(1, s(4)),
    };
    let told = all(&h).await;
    assert_eq!(told.total, expected);
    assert_eq!((told.done, told.cancelled), (Some(1), Some(1)));
    assert_eq!(told.tenants, [("t".to_owned(), expected.clone())]);
    assert_eq!(stats(&h, StatsQuery::Tenant("t".into())).await.total, expected);
}

pub(super) async fn priorities_are_told_apart(factory: Factory) {
    let h = factory.start().await;
    for (n, priority) in Priority::ALL.into_iter().enumerate() {
        for key in 0..=n {
            let mut task = exact("t", &format!("{n}-{key}"));
            task.spec.priority = priority;
            h.submit(task).await;
        }
        h.clock.advance(s(10));
    }
    let expected = [tasks(1, s(30)), tasks(2, s(20)), tasks(3, s(10))];
    assert_eq!(all(&h).await.total.pending, expected);
    assert_eq!(stats(&h, StatsQuery::Tenant("t".into())).await.total.pending, expected);
}

pub(super) async fn a_tenant_sees_its_own_share(factory: Factory) {
    let h = factory.start_with(|settings| settings.shards = 2).await;
    h.work_on(exact("u", "working")).await;
    h.submit(exact("u", "waiting")).await;
    h.clock.advance(s(5));
    h.submit(exact("t", "a")).await;
    let share = stats(&h, StatsQuery::Tenant("t".into())).await;
    let pending = [Amount::default(), tasks(1, Duration::ZERO), Amount::default()];
    let expected = QueueStats { total: Backlog { pending, ..Backlog::default() }, ..QueueStats::default() };
    assert_eq!(share, expected);
    assert_eq!(stats(&h, StatsQuery::Tenant("nobody".into())).await, QueueStats::default());
}

pub(super) async fn the_tenants_with_most_come_first_and_what_is_left_out_is_said(factory: Factory) {
    let h = factory.start_with(|settings| settings.shards = 2).await;
    for (tenant, tasks) in [("a", 1), ("b", 3), ("c", 2), ("d", 3)] {
        for key in 0..tasks {
            h.submit(exact(tenant, &key.to_string())).await;
        }
    }
    // Who has only finished tasks is nobody to wait for.
    h.cancel(&h.submit(exact("gone", "x")).await.id).await;
    let told = stats(&h, StatsQuery::All { tenants: 3 }).await;
    let names: Vec<_> = told.tenants.iter().map(|(name, share)| (name.as_str(), share.tasks())).collect();
    assert_eq!(names, [("b", 3), ("d", 3), ("c", 2)]);
    assert_eq!((told.tenants_left_out, told.tenants_sampled), (1, false));
    assert_eq!(told.total.pending[1].tasks, 9);
    let none = stats(&h, StatsQuery::All { tenants: 0 }).await;
    assert_eq!((none.tenants.len(), none.tenants_left_out), (0, 4));
    assert_eq!(all(&h).await.tenants_left_out, 0);
}

pub(super) async fn the_age_of_pending_tasks_is_that_of_the_first_in_line(factory: Factory) {
    let h = factory.start().await;
    let age = async |h: &Harness| all(h).await.total.pending[1].oldest;
    h.submit(exact("t", "a")).await;
    h.clock.advance(s(4));
    let mut elsewhere = exact("t", "b");
    elsewhere.spec.object.location = "archive".into();
    h.submit(elsewhere).await;
    h.clock.advance(s(3));
    assert_eq!(age(&h).await, Some(s(7)));
    let leased = h.lease_next().await;
    assert_eq!((leased.spec.object.key.as_str(), age(&h).await), ("a", Some(s(3))));
    h.lease_next().await;
    assert_eq!(age(&h).await, None);
}
