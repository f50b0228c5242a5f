//! Cases on giving leases, and on asking for them again.

use super::harness::{Factory, done, exact, failed, s};
use crate::queue::{FailureClass, LeaseRequest, SettleOutcome, TaskReason, TaskState};

pub(super) async fn a_leased_task_is_working_until_its_lease_must_be_accepted(make: Factory) {
    let h = make.start().await;
    let task = exact("t", "a");
    let id = h.submit(task.clone()).await.id;
    let leased = h.lease_next().await;
    assert_eq!((&leased.id, &leased.spec), (&id, &task.spec));
    assert_eq!((leased.attempts, leased.accept_within), (0, h.settings.accept_within));
    assert_eq!(leased.upload_id, "");
    let record = h.get(&id).await;
    assert_eq!((record.state, record.reason), (TaskState::Working, TaskReason::None));
    assert_eq!(record.process_at, h.at(h.settings.accept_within));
    assert_eq!((record.lease, record.accepted), (Some(leased.lease), false));
    assert_eq!(record.worker, "worker-of-a");
    assert_eq!(h.lease(9).await, []);
}

pub(super) async fn every_lease_has_a_token_of_its_own(make: Factory) {
    let h = make.start().await;
    for n in 0..50 {
        h.submit(exact("t", &n.to_string())).await;
    }
    let mut tokens: Vec<_> = h.lease(50).await.into_iter().map(|task| *task.lease.as_bytes()).collect();
    h.sweep_after(h.settings.accept_within).await;
    tokens.extend(h.lease(50).await.into_iter().map(|task| *task.lease.as_bytes()));
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), 100);
}

pub(super) async fn a_lease_tells_how_often_the_task_has_failed(make: Factory) {
    let h = make.start().await;
    let leased = h.work_on(exact("t", "a")).await;
    h.settle(&leased, failed(FailureClass::Retry)).await;
    h.await_due(&leased.id).await;
    assert_eq!(h.lease_next().await.attempts, 1);
}

pub(super) async fn a_repeated_request_gives_the_same_leases(make: Factory) {
    let h = make.start().await;
    for key in ["a", "b", "c", "d"] {
        h.submit(exact("t", key)).await;
    }
    let request = LeaseRequest { max_tasks: 2, ..h.request("a") };
    let first = h.lease_as(&request).await;
    assert_eq!(first.len(), 2);
    assert_eq!(h.lease_as(&request).await, first);
    let depths = h.depths().await;
    assert_eq!((depths.pending, depths.working), (2, 2));
}

pub(super) async fn a_repeated_request_tells_the_time_that_is_left(make: Factory) {
    let h = make.start().await;
    h.submit(exact("t", "a")).await;
    let request = h.request("a");
    h.lease_as(&request).await;
    h.clock.advance(s(4));
    assert_eq!(h.lease_as(&request).await[0].accept_within, h.settings.accept_within - s(4));
}

pub(super) async fn a_repeated_request_leaves_out_what_has_ended(make: Factory) {
    let h = make.start().await;
    for key in ["a", "b", "c"] {
        h.submit(exact("t", key)).await;
    }
    let request = LeaseRequest { max_tasks: 2, ..h.request("a") };
    let first = h.lease_as(&request).await;
    assert_eq!(h.settle(&first[0], done()).await, SettleOutcome::Stored(TaskState::Done));
    assert_eq!(h.lease_as(&request).await, first[1..]);
    h.lose(&first[1]).await;
    assert_eq!(h.lease_as(&request).await, []);
    assert_eq!(h.depths().await.pending, 2);
}

pub(super) async fn an_older_request_of_a_session_gives_nothing(make: Factory) {
    let h = make.start().await;
    let (older, newer) = (h.request("a"), h.request("a"));
    h.submit(exact("t", "a")).await;
    assert_eq!(h.lease_as(&newer).await.len(), 1);
    h.submit(exact("t", "b")).await;
    assert_eq!(h.lease_as(&older).await, []);
    assert_eq!(h.depths().await.pending, 1);
}

pub(super) async fn an_answer_without_leases_is_not_remembered(make: Factory) {
    let h = make.start().await;
    let request = h.request("a");
    assert_eq!(h.lease_as(&request).await, []);
    h.submit(exact("t", "a")).await;
    assert_eq!(h.lease_as(&request).await.len(), 1);
}

pub(super) async fn sessions_count_their_requests_apart(make: Factory) {
    let h = make.start().await;
    h.submit(exact("t", "a")).await;
    h.submit(exact("t", "b")).await;
    let request = LeaseRequest { max_tasks: 1, ..h.request("a") };
    let a = h.lease_as(&request).await;
    let b = h.lease_as(&LeaseRequest { session: "b".into(), ..request }).await;
    assert_eq!((a.len(), b.len()), (1, 1));
    assert_ne!(a[0].id, b[0].id);
}

pub(super) async fn a_task_under_a_lease_is_nobody_elses(make: Factory) {
    let h = make.start().await;
    h.work_on(exact("t", "a")).await;
    assert_eq!(h.lease_as(&h.request("b")).await, []);
}
