//! Cases on bounds: caps of shards and tenants, credit of a request.

use std::sync::Arc;

use super::harness::{Factory, Harness, done, exact, failed, latest, s};
use crate::queue::{
    DEFAULT_COST_BYTES, FailureClass, LeaseRequest, NewTask, Priority, QueueError, SettleOutcome,
    SubmitOutcome, TaskState,
};

pub(super) async fn a_full_shard_refuses_new_tasks_one_by_one(make: Factory) {
    let h = make.start_with(|settings| settings.shard_cap = 2).await;
    let batch = vec![exact("t", "a"), latest("t", "b"), exact("u", "c"), exact("t", "a"), latest("t", "b")];
    let answers = h.queue.submit(batch).await;
    assert!(matches!(&answers[..], [Ok(_), Ok(_), Err(QueueError::Full), Ok(_), Ok(_)]), "{answers:?}");
    let leased = h.work().await;
    assert!(matches!(h.try_submit(exact("u", "c")).await, Err(QueueError::Full)));
    h.settle(&leased, done()).await;
    assert_eq!(h.submit(exact("u", "c")).await.outcome, SubmitOutcome::Created);
}

pub(super) async fn tasks_in_every_queue_count_towards_the_shards_cap(make: Factory) {
    let h = make.start_with(|settings| settings.shard_cap = 4).await;
    h.submit(NewTask { process_at: h.at(s(600)), ..exact("t", "scheduled") }).await;
    let delayed = h.work_on(exact("t", "delayed")).await;
    h.settle(&delayed, failed(FailureClass::Retry)).await;
    h.work_on(exact("t", "working")).await;
    h.submit(exact("t", "pending")).await;
    assert!(matches!(h.try_submit(exact("t", "more")).await, Err(QueueError::Full)));
    let leased = h.work().await;
    h.settle(&leased, failed(FailureClass::Permanent)).await;
    h.submit(exact("t", "more")).await;
}

pub(super) async fn a_tenant_at_its_cap_is_refused_and_others_are_not(make: Factory) {
    let h = make.start_with(|settings| settings.tenant_cap = 2).await;
    let batch = vec![exact("t", "a"), exact("t", "b"), exact("t", "c"), exact("u", "c"), exact("t", "a")];
    let answers = h.queue.submit(batch).await;
    let refused = matches!(&answers[..], [Ok(_), Ok(_), Err(QueueError::TenantFull), Ok(_), Ok(_)]);
    assert!(refused, "{answers:?}");
    let leased = h.work().await;
    assert_eq!(leased.spec.tenant, "t");
    h.settle(&leased, done()).await;
    h.submit(exact("t", "c")).await;
    assert!(matches!(h.try_submit(exact("t", "d")).await, Err(QueueError::TenantFull)));
}

pub(super) async fn a_full_shard_is_said_before_a_full_tenant(make: Factory) {
    let h = make.start_with(|settings| (settings.shard_cap, settings.tenant_cap) = (1, 1)).await;
    h.submit(exact("t", "a")).await;
    assert!(matches!(h.try_submit(exact("t", "b")).await, Err(QueueError::Full)));
}

pub(super) async fn dead_tasks_count_for_their_tenant_and_a_new_run_takes_their_place(make: Factory) {
    let h = make.start_with(|settings| settings.tenant_cap = 1).await;
    let leased = h.work_on(exact("t", "a")).await;
    h.settle(&leased, failed(FailureClass::Permanent)).await;
    assert!(matches!(h.try_submit(exact("t", "b")).await, Err(QueueError::TenantFull)));
    assert_eq!(h.submit(exact("t", "a")).await.outcome, SubmitOutcome::Created);
    let leased = h.work().await;
    h.settle(&leased, failed(FailureClass::SourceGone)).await;
    h.submit(exact("t", "b")).await;
}

pub(super) async fn a_late_success_of_a_dead_task_frees_its_tenants_place(make: Factory) {
    let h = make.start_with(|settings| (settings.tenant_cap, settings.max_crashes) = (1, 1)).await;
    let leased = h.work_on(exact("t", "a")).await;
    h.lose(&leased).await;
    assert_eq!(h.state(&leased.id).await, TaskState::Dead);
    assert!(matches!(h.try_submit(exact("t", "b")).await, Err(QueueError::TenantFull)));
    assert_eq!(h.settle(&leased, done()).await, SettleOutcome::Stored(TaskState::Done));
    h.submit(exact("t", "b")).await;
    assert!(matches!(h.try_submit(exact("t", "c")).await, Err(QueueError::TenantFull)));
}

pub(super) async fn a_task_that_runs_again_needs_no_room(make: Factory) {
    let h = make.start_with(|settings| (settings.shard_cap, settings.tenant_cap) = (1, 1)).await;
    let leased = h.work_on(latest("t", "a")).await;
    assert_eq!(h.submit(latest("t", "a")).await.outcome, SubmitOutcome::RunsAgain);
    assert_eq!(h.settle(&leased, done()).await, SettleOutcome::RunsAgain);
    assert!(matches!(h.try_submit(exact("u", "b")).await, Err(QueueError::Full)));
    let leased = h.work().await;
    h.settle(&leased, done()).await;
    h.submit(exact("u", "b")).await;
}

pub(super) async fn a_request_gets_no_more_tasks_than_it_asks_for(make: Factory) {
    let h = make.start().await;
    for key in ["a", "b", "c"] {
        h.submit(exact("t", key)).await;
    }
    assert_eq!(keys(&h, 2, u64::MAX).await, ["a", "b"]);
    assert_eq!(keys(&h, 2, u64::MAX).await, ["c"]);
}

pub(super) async fn a_request_ends_at_the_first_task_that_does_not_fit_its_bytes(make: Factory) {
    let h = make.start().await;
    for (key, size) in [("a", 60), ("b", 40), ("c", 41), ("d", 1)] {
        submit_sized(&h, key, size).await;
    }
    assert_eq!(keys(&h, 9, 100).await, ["a", "b"]);
    assert_eq!(keys(&h, 9, 41).await, ["c"]);
    assert_eq!(keys(&h, 9, 41).await, ["d"]);
    for (key, size) in [("e", 60), ("f", 41), ("g", 1)] {
        submit_sized(&h, key, size).await;
    }
    assert_eq!(keys(&h, 9, 100).await, ["e"]);
}

pub(super) async fn a_task_that_does_not_fit_holds_back_lower_bands_too(make: Factory) {
    let h = make.start().await;
    for (key, size, priority) in
        [("a", 60, Priority::High), ("b", 60, Priority::High), ("c", 1, Priority::Normal)]
    {
        let mut task = exact("t", key);
        (task.spec.size_hint_bytes, task.spec.priority) = (size, priority);
        h.submit(task).await;
    }
    assert_eq!(keys(&h, 9, 100).await, ["a"]);
    assert_eq!(keys(&h, 9, 100).await, ["b", "c"]);
}

pub(super) async fn the_first_task_is_given_whatever_its_size(make: Factory) {
    let h = make.start().await;
    submit_sized(&h, "a", u64::MAX).await;
    submit_sized(&h, "b", 1).await;
    assert_eq!(keys(&h, 9, 0).await, ["a"]);
    assert_eq!(keys(&h, 9, 0).await, ["b"]);
}

pub(super) async fn a_task_of_unknown_size_counts_as_one_part(make: Factory) {
    let h = make.start().await;
    for key in ["a", "b", "c"] {
        submit_sized(&h, key, 0).await;
    }
    assert_eq!(keys(&h, 9, 2 * DEFAULT_COST_BYTES).await, ["a", "b"]);
    submit_sized(&h, "d", 0).await;
    assert_eq!(keys(&h, 9, 2 * DEFAULT_COST_BYTES - 1).await, ["c"]);
}

pub(super) async fn a_tenant_at_its_in_flight_cap_is_passed_over_until_a_lease_of_it_ends(make: Factory) {
    let h = make.start_with(|settings| settings.tenant_in_flight_cap = 2).await;
    for key in ["a", "b", "c", "d"] {
        h.submit(exact("t", key)).await;
    }
    h.submit(exact("u", "x")).await;
    assert_eq!(keys(&h, 9, u64::MAX).await, ["a", "x", "b"]);
    assert_eq!(h.lease(9).await, []);
    h.sweep_after(h.settings.accept_within).await;
    let working = h.lease(9).await;
    assert_eq!(working.len(), 3);
    for task in working.iter().filter(|task| task.spec.object.key == "a") {
        assert_eq!(h.settle(task, done()).await, SettleOutcome::Stored(TaskState::Done));
    }
    assert_eq!(keys(&h, 9, u64::MAX).await, ["c"]);
}

pub(super) async fn tasks_spread_over_shards_and_all_of_them_are_found(make: Factory) {
    let h = make.start_with(|settings| settings.shards = 4).await;
    let mut ids: Vec<_> = Vec::new();
    for n in 0..40 {
        ids.push(h.submit(exact("t", &n.to_string())).await.id);
    }
    for shard in 0..4 {
        assert!(ids.iter().any(|id| id.shard(h.settings.shards) == shard), "nothing on shard {shard}");
    }
    assert_eq!(h.depths().await.pending, 40);
    let mut leased = Vec::new();
    loop {
        let more = h.lease(7).await;
        assert!(more.len() <= 7);
        if more.is_empty() {
            break;
        }
        leased.extend(more);
    }
    let mut found: Vec<_> = leased.iter().map(|task| task.id.clone()).collect();
    found.sort_unstable();
    ids.sort_unstable();
    assert_eq!(found, ids);
    for task in &leased {
        assert_eq!(h.settle(task, done()).await, SettleOutcome::Stored(TaskState::Done));
    }
    assert_eq!(h.depths().await.done, 40);
}

async fn submit_sized(h: &Harness, key: &str, size_hint_bytes: u64) {
    let mut task = exact("t", key);
    task.spec.size_hint_bytes = size_hint_bytes;
    h.submit(task).await;
}

/// Keys of the tasks that one request gets.
async fn keys(h: &Harness, max_tasks: u32, max_bytes: u64) -> Vec<String> {
    let locations = Arc::new(["uploads".to_owned()]);
    let request = LeaseRequest { max_tasks, max_bytes, locations, ..h.request("a") };
    h.lease_as(&request).await.into_iter().map(|task| task.spec.object.key).collect()
}
