//! Cases on the passing of time: leases that run out, amnesty, due tasks, retention, bounds.

use super::harness::{Factory, done, exact, failed, latest, s};
use crate::queue::{
    Depths, FailureClass, NewTask, QueueError, RenewOutcome, SettleOutcome, SweepReport, TaskReason,
    TaskState, policy,
};

pub(super) async fn a_vanished_worker_is_a_crash_and_no_attempt(make: Factory) {
    let h = make.start().await;
    let leased = h.work_on(exact("t", "a")).await;
    assert_eq!(h.sweep_after(h.settings.lease - s(1)).await.expired, 0);
    let report = h.sweep_after(s(1)).await;
    assert_eq!((report.expired, report.unaccepted), (1, 0));
    let record = h.get(&leased.id).await;
    assert_eq!((record.state, record.reason), (TaskState::Delayed, TaskReason::LeaseExpired));
    assert_eq!((record.attempts, record.crashes, record.returns), (0, 1, 0));
    let jitter = policy::spread(&leased.id, 1, policy::Counters::default());
    assert_eq!(record.process_at, h.at(h.settings.retry.backoff(0, jitter)));
    assert_eq!((record.lease, record.accepted), (Some(leased.lease), true));
}

pub(super) async fn too_many_vanished_workers_quarantine_the_task(make: Factory) {
    let h = make.start().await;
    let id = h.submit(exact("t", "a")).await.id;
    for crash in 1..=3 {
        let leased = h.work().await;
        h.lose(&leased).await;
        let record = h.get(&id).await;
        assert_eq!((record.crashes, record.attempts), (crash, 0));
        if crash < 3 {
            h.await_due(&id).await;
        }
    }
    let record = h.get(&id).await;
    assert_eq!((record.state, record.reason), (TaskState::Dead, TaskReason::CrashedTooOften));
    assert_eq!(record.finished_at, Some(h.now()));
}

pub(super) async fn quarantine_does_not_swallow_a_newer_request(make: Factory) {
    let h = make.start_with(|settings| settings.max_crashes = 1).await;
    let leased = h.work_on(latest("t", "a")).await;
    h.submit(latest("t", "a")).await;
    assert_eq!(h.sweep_after(h.settings.lease).await.expired, 1);
    let record = h.get(&leased.id).await;
    assert_eq!((record.state, record.run, record.crashes), (TaskState::Pending, 2, 0));
    assert!(!record.dirty);
    assert_eq!(h.settle(&leased, done()).await, SettleOutcome::Fenced);
}

pub(super) async fn a_lease_that_nobody_accepted_costs_only_a_return(make: Factory) {
    let h = make.start().await;
    let id = h.submit(exact("t", "a")).await.id;
    h.lease_next().await;
    assert_eq!(h.sweep_after(h.settings.accept_within - s(1)).await.unaccepted, 0);
    let report = h.sweep_after(s(1)).await;
    assert_eq!((report.expired, report.unaccepted), (0, 1));
    let record = h.get(&id).await;
    assert_eq!((record.state, record.reason), (TaskState::Pending, TaskReason::HandedBack));
    assert_eq!((record.attempts, record.crashes, record.returns), (0, 0, 1));
    assert_eq!(record.process_at, None);
}

pub(super) async fn leases_that_nobody_ever_accepts_use_up_the_task_in_the_end(make: Factory) {
    let h = make.start_with(|settings| settings.max_returns = 1).await;
    let mut task = exact("t", "a");
    task.spec.max_attempts = 1;
    let id = h.submit(task).await.id;
    for state in [TaskState::Pending, TaskState::Dead] {
        let leased = h.lease_next().await;
        h.lose(&leased).await;
        assert_eq!(h.state(&id).await, state);
    }
    assert_eq!(h.get(&id).await.reason, TaskReason::AttemptsUsedUp);
}

pub(super) async fn sweeps_closer_than_their_interval_do_nothing(make: Factory) {
    let h = make.start_with(|settings| settings.sweep_every = s(5)).await;
    let id = h.submit(NewTask { process_at: h.at(s(2)), ..exact("t", "a") }).await.id;
    assert_eq!(h.sweep_after(s(4)).await, SweepReport::default());
    assert_eq!(h.state(&id).await, TaskState::Scheduled);
    assert_eq!(h.sweep_after(s(1)).await.promoted, 1);
    assert_eq!(h.state(&id).await, TaskState::Pending);
}

pub(super) async fn a_queue_that_was_never_swept_grants_an_amnesty(make: Factory) {
    let h = make.start_cold(|_| {}).await;
    h.submit(exact("t", "a")).await;
    let leased = h.work().await;
    let report = h.sweep_after(h.settings.lease * 2).await;
    assert_eq!((report.amnesty, report.expired), (true, 0));
    assert_eq!(h.state(&leased.id).await, TaskState::Working);
}

pub(super) async fn after_an_outage_every_worker_has_one_lease_of_time_to_come_back(make: Factory) {
    let h = make.start().await;
    let lives = h.work_on(exact("t", "lives")).await;
    let vanished = h.work_on(exact("t", "vanished")).await;
    h.submit(exact("t", "unaccepted")).await;
    let unaccepted = h.lease_next().await;
    let due = h.submit(NewTask { process_at: h.at(s(60)), ..exact("t", "due") }).await.id;
    let report = h.sweep_after(h.settings.outage + s(1)).await;
    assert_eq!((report.amnesty, report.expired, report.unaccepted), (true, 0, 0));
    assert_eq!(report.promoted, 1, "an amnesty spares leases and nothing else");
    assert_eq!(h.state(&due).await, TaskState::Pending);
    let report = h.sweep_after(h.settings.lease - s(1)).await;
    assert_eq!((report.amnesty, report.expired, report.unaccepted), (true, 0, 0));
    assert_eq!(h.renew(&lives, 1).await, RenewOutcome::Keep(h.settings.lease));
    let report = h.sweep_after(s(1)).await;
    assert_eq!((report.amnesty, report.expired, report.unaccepted), (false, 1, 1));
    for (leased, state) in
        [(lives, TaskState::Working), (vanished, TaskState::Delayed), (unaccepted, TaskState::Pending)]
    {
        assert_eq!(h.state(&leased.id).await, state);
    }
}

pub(super) async fn a_gap_just_short_of_an_outage_grants_nothing(make: Factory) {
    let h = make.start().await;
    let leased = h.work_on(exact("t", "a")).await;
    let report = h.sweep_after(h.settings.outage).await;
    assert_eq!((report.amnesty, report.expired), (false, 1));
    assert_eq!(h.state(&leased.id).await, TaskState::Delayed);
}

pub(super) async fn a_delayed_task_is_due_at_its_time_and_not_before(make: Factory) {
    let h = make.start().await;
    let leased = h.work_on(exact("t", "a")).await;
    h.settle(&leased, super::harness::failed_for(FailureClass::Retry, s(20), 0.0)).await;
    assert_eq!(h.sweep_after(s(19)).await.promoted, 0);
    assert_eq!(h.lease(1).await, []);
    assert_eq!(h.sweep_after(s(1)).await.promoted, 1);
    assert_eq!(h.state(&leased.id).await, TaskState::Pending);
}

pub(super) async fn a_burst_of_due_tasks_is_promoted_in_bounded_passes_and_delays_no_expiry(make: Factory) {
    let h = make.start().await;
    let leased = h.work_on(exact("t", "working")).await;
    let due = h.at(s(10));
    let burst = |n| NewTask { process_at: due, ..exact("t", &format!("due{n}")) };
    for answer in h.queue.submit((0..2_000).map(burst).collect()).await {
        assert!(answer.is_ok(), "{answer:?}");
    }
    h.clock.advance(h.settings.lease);
    let first = h.queue.sweep().await.unwrap_or_else(|error| panic!("sweep: {error}"));
    assert_eq!(first.expired, 1);
    assert!(first.more && first.promoted < 2_000, "one pass is bounded: {first:?}");
    assert_eq!(h.state(&leased.id).await, TaskState::Delayed);
    let rest = h.sweep().await;
    assert_eq!(first.promoted + rest.promoted, 2_000);
    let depths = h.depths().await;
    assert_eq!((depths.pending, depths.scheduled, depths.delayed), (2_000, 0, 1));
}

pub(super) async fn a_sweep_says_when_the_next_task_is_due(make: Factory) {
    let h = make.start_with(|settings| settings.sweep_every = s(60)).await;
    assert_eq!(h.sweep_after(s(60)).await.next_due, None);
    let at = |seconds| NewTask { process_at: h.at(s(seconds)), ..exact("t", &seconds.to_string()) };
    h.submit(at(130)).await;
    assert_eq!(h.sweep_after(s(60)).await.next_due, None);
    assert_eq!(h.sweep_after(s(60)).await.next_due, Some(s(10)));
}

pub(super) async fn finished_tasks_stay_for_their_retention_and_then_go(make: Factory) {
    let h = make.start_with(|settings| settings.dedup_window = s(60)).await;
    let mut ids = Vec::new();
    for (key, outcome) in [
        ("done", done()),
        ("gone", failed(FailureClass::SourceGone)),
        ("dead", failed(FailureClass::Permanent)),
    ] {
        let leased = h.work_on(exact("t", key)).await;
        h.settle(&leased, outcome).await;
        ids.push(leased.id);
    }
    let waiting = h.submit(exact("t", "pending")).await.id;
    assert_eq!(h.sweep_after(h.settings.retain_finished - s(1)).await.reaped, 0);
    assert_eq!(h.sweep_after(s(1)).await.reaped, 2);
    let depths = h.depths().await;
    assert_eq!(depths, Depths { pending: 1, dead: 1, ..Depths::default() });
    let left = h.settings.retain_dead - h.settings.retain_finished;
    assert_eq!(h.sweep_after(left - s(1)).await.reaped, 0);
    assert_eq!(h.sweep_after(s(1)).await.reaped, 1);
    for id in ids {
        assert!(matches!(h.queue.get(&id).await, Err(QueueError::NotFound(_))));
    }
    assert_eq!(h.state(&waiting).await, TaskState::Pending);
}

pub(super) async fn a_done_task_stays_as_long_as_it_must_be_recognised(make: Factory) {
    let h = make.start().await;
    assert!(h.settings.dedup_window > h.settings.retain_finished);
    let leased = h.work_on(exact("t", "a")).await;
    h.settle(&leased, done()).await;
    assert_eq!(h.sweep_after(h.settings.dedup_window - s(1)).await.reaped, 0);
    assert_eq!(h.state(&leased.id).await, TaskState::Done);
    assert_eq!(h.sweep_after(s(1)).await.reaped, 1);
}

pub(super) async fn a_reaped_task_is_gone_for_its_worker_and_new_for_its_tenant(make: Factory) {
    let h = make.start_with(|settings| settings.tenant_cap = 1).await;
    let leased = h.work_on(exact("t", "a")).await;
    h.settle(&leased, failed(FailureClass::Permanent)).await;
    h.sweep_after(h.settings.retain_dead).await;
    assert_eq!(h.settle(&leased, done()).await, SettleOutcome::Gone);
    assert_eq!(h.renew(&leased, 1).await, RenewOutcome::Lost);
    assert_eq!(h.submit(exact("t", "b")).await.run, 1);
}

pub(super) async fn a_new_run_is_not_reaped_for_the_end_of_the_old_one(make: Factory) {
    let h = make.start().await;
    let leased = h.work_on(exact("t", "a")).await;
    h.settle(&leased, failed(FailureClass::SourceGone)).await;
    h.sweep_after(h.settings.retain_finished - s(10)).await;
    h.submit(exact("t", "a")).await;
    assert_eq!(h.sweep_after(s(60)).await.reaped, 0);
    assert_eq!(h.state(&leased.id).await, TaskState::Pending);
}

pub(super) async fn too_many_bytes_of_finished_tasks_go_oldest_first_and_dead_ones_stay(make: Factory) {
    let h = make.start_with(|settings| settings.retain_bytes = 3_000).await;
    let buried = h.work_on(exact("t", "dead")).await;
    h.settle(&buried, failed(FailureClass::Permanent)).await;
    let mut finished = Vec::new();
    for n in 0..30 {
        let leased = h.work_on(exact("t", &n.to_string())).await;
        let outcome = if n % 3 == 0 { failed(FailureClass::SourceGone) } else { done() };
        h.settle(&leased, outcome).await;
        finished.push(leased.id);
        h.clock.advance(s(1));
    }
    let mut reaped = 0;
    while let more @ 1.. = h.sweep_after(s(1)).await.reaped {
        reaped += more;
    }
    let depths = h.depths().await;
    assert_eq!((depths.done + depths.cancelled, depths.dead), (30 - reaped, 1));
    assert!((1..30).contains(&reaped), "{reaped}");
    for (n, id) in finished.iter().enumerate() {
        let is_there = h.queue.get(id).await.is_ok();
        assert_eq!(is_there, n as u64 >= reaped, "task {n}, {reaped} went");
    }
    assert_eq!(h.submit(exact("t", "1")).await.run, 1, "what is forgotten is new again");
}

pub(super) async fn depths_count_every_state(make: Factory) {
    let h = make.start().await;
    h.submit(NewTask { process_at: h.at(s(60)), ..exact("t", "scheduled") }).await;
    for (key, outcome) in [
        ("delayed", failed(FailureClass::Retry)),
        ("done", done()),
        ("dead", failed(FailureClass::Permanent)),
        ("cancelled", failed(FailureClass::SourceGone)),
    ] {
        let leased = h.work_on(exact("t", key)).await;
        h.settle(&leased, outcome).await;
    }
    h.work_on(exact("t", "working")).await;
    h.submit(exact("t", "pending")).await;
    let one_each =
        Depths { pending: 1, working: 1, scheduled: 1, delayed: 1, done: 1, dead: 1, cancelled: 1 };
    assert_eq!(h.depths().await, one_each);
}

pub(super) async fn a_queue_in_order_says_so(make: Factory) {
    let h = make.start().await;
    assert!(h.queue.check().await.is_ok());
}
