//! Cases on who is served next: bands, turns of tenants, places in line, locations.

use std::sync::Arc;

use super::harness::{Factory, Harness, done, exact, failed, handed_back, s};
use crate::queue::{
    FailureClass, LeaseRequest, NewTask, Outcome, Priority, RenewOutcome, SubmitOutcome, TaskState,
};

pub(super) async fn a_band_is_served_before_all_lower_ones(make: Factory) {
    let h = make.start().await;
    for (key, priority) in
        [("l1", Priority::Low), ("n1", Priority::Normal), ("h1", Priority::High), ("l2", Priority::Low)]
    {
        submit(&h, "t", key, priority).await;
    }
    submit(&h, "u", "h2", Priority::High).await;
    assert_eq!(h.drain_order().await, "h1 h2 n1 l1 l2");
}

pub(super) async fn a_tenant_is_served_in_the_order_of_its_submits(make: Factory) {
    let h = make.start().await;
    submit_all(&h, "t", "9 1 5 10 0 7").await;
    let keys: Vec<_> = h.lease(6).await.into_iter().map(|task| task.spec.object.key).collect();
    assert_eq!(keys, ["9", "1", "5", "10", "0", "7"]);
}

pub(super) async fn tenants_take_turns(make: Factory) {
    let h = make.start().await;
    submit_all(&h, "c", "c1 c2 c3 c4").await;
    submit_all(&h, "a", "a1 a2").await;
    submit_all(&h, "b", "b1 b2 b3").await;
    assert_eq!(h.drain_order().await, "a1 b1 c1 a2 b2 c2 b3 c3 c4");
}

pub(super) async fn a_newcomer_waits_for_at_most_one_task_of_each_other_tenant(make: Factory) {
    let h = make.start().await;
    for n in 0..200 {
        submit_all(&h, "a-flood", &format!("a{n}")).await;
        submit_all(&h, "b-flood", &format!("b{n}")).await;
    }
    h.lease(101).await;
    submit_all(&h, "z", "z1 z2").await;
    let next: Vec<_> = h.lease(6).await.into_iter().map(|task| task.spec.tenant).collect();
    // b has waited longer for this turn; from then on all three take turns.
    assert_eq!(next, ["b-flood", "z", "a-flood", "b-flood", "z", "a-flood"]);
}

pub(super) async fn a_flood_delays_ten_tasks_of_another_by_ten_of_its_own(make: Factory) {
    let h = make.start().await;
    for n in 0..500 {
        submit_all(&h, "flood", &format!("f{n}")).await;
    }
    h.lease(100).await;
    for n in 0..10 {
        submit_all(&h, "small", &format!("s{n}")).await;
    }
    let order: Vec<_> = h.lease(21).await.into_iter().map(|task| task.spec.tenant).collect();
    assert_eq!(order.iter().filter(|tenant| *tenant == "small").count(), 10, "{order:?}");
}

pub(super) async fn a_tenant_with_one_task_at_a_time_gets_no_more_than_its_turn(make: Factory) {
    let h = make.start().await;
    for n in 0..8 {
        submit_all(&h, "many", &format!("m{n}")).await;
    }
    let mut order = Vec::new();
    for n in 0..8 {
        submit_all(&h, "few", &format!("f{n}")).await;
        order.push(h.lease_next().await.spec.tenant);
    }
    assert_eq!(order.iter().filter(|tenant| *tenant == "many").count(), 4, "{order:?}");
}

pub(super) async fn waiting_without_being_served_earns_no_burst(make: Factory) {
    let h = make.start().await;
    for n in 0..6 {
        let mut task = exact("p", &format!("p{n}"));
        task.spec.object.location = "paused".into();
        h.submit(task).await;
    }
    for n in 0..20 {
        submit_all(&h, "q", &format!("q{n}")).await;
    }
    h.lease(10).await;
    let locations: Arc<[String]> = Arc::new(["uploads".to_owned(), "paused".to_owned()]);
    let request = LeaseRequest { max_tasks: 6, locations, ..h.request("a") };
    let order: Vec<_> = h.lease_as(&request).await.into_iter().map(|task| task.spec.tenant).collect();
    assert!(order.iter().filter(|tenant| *tenant == "q").count() >= 2, "{order:?}");
}

pub(super) async fn each_band_has_turns_of_its_own(make: Factory) {
    let h = make.start().await;
    for n in 0..5 {
        submit(&h, "a", &format!("high{n}"), Priority::High).await;
    }
    h.lease(5).await;
    submit_all(&h, "a", "a1 a2").await;
    submit_all(&h, "b", "b1 b2").await;
    assert_eq!(h.drain_order().await, "a1 b1 a2 b2");
}

pub(super) async fn a_promoted_task_joins_the_end_of_its_tenants_line(make: Factory) {
    let h = make.start().await;
    let id = h.submit(NewTask { process_at: h.at(s(5)), ..exact("t", "later") }).await.id;
    submit_all(&h, "t", "a b").await;
    submit_all(&h, "u", "x y z").await;
    h.lease(1).await;
    h.await_due(&id).await;
    submit_all(&h, "t", "c").await;
    assert_eq!(h.drain_order().await, "x b y later z c");
}

pub(super) async fn tasks_due_together_are_promoted_in_the_order_of_their_times(make: Factory) {
    let h = make.start().await;
    for (key, due) in [("c", 30), ("a", 10), ("b", 20)] {
        h.submit(NewTask { process_at: h.at(s(due)), ..exact("t", key) }).await;
    }
    assert_eq!(h.sweep_after(s(40)).await.promoted, 3);
    assert_eq!(h.drain_order().await, "a b c");
}

pub(super) async fn a_retried_task_overtakes_nobody(make: Factory) {
    let h = make.start().await;
    submit_all(&h, "t", "a b c").await;
    submit_all(&h, "u", "x y").await;
    let leased = h.work().await;
    h.settle(&leased, failed(FailureClass::Retry)).await;
    h.await_due(&leased.id).await;
    assert_eq!(h.drain_order().await, "x b y c a");
}

pub(super) async fn a_task_that_runs_again_joins_the_end(make: Factory) {
    let h = make.start().await;
    let leased = h.work_on(super::harness::latest("t", "again")).await;
    submit_all(&h, "t", "a b").await;
    h.submit(super::harness::latest("t", "again")).await;
    h.settle(&leased, done()).await;
    assert_eq!(h.drain_order().await, "a b again");
}

pub(super) async fn handed_back_tasks_return_to_their_old_places(make: Factory) {
    let h = make.start().await;
    submit_all(&h, "t", "a b c d").await;
    let leased = h.lease(3).await;
    submit_all(&h, "t", "e").await;
    for task in leased.iter().rev() {
        h.settle(task, handed_back()).await;
    }
    assert_eq!(h.drain_order().await, "a b c d e");
}

pub(super) async fn a_hand_back_with_a_wait_joins_the_end(make: Factory) {
    let h = make.start().await;
    submit_all(&h, "t", "a b").await;
    let leased = h.lease_next().await;
    h.settle(&leased, Outcome::HandedBack { upload_id: String::new(), delay: s(7) }).await;
    h.await_due(&leased.id).await;
    assert_eq!(h.drain_order().await, "b a");
}

pub(super) async fn a_lease_that_nobody_accepted_returns_to_its_old_place(make: Factory) {
    let h = make.start().await;
    submit_all(&h, "t", "a b c").await;
    let leased = h.lease(2).await;
    assert_eq!(h.sweep_after(h.settings.accept_within).await.unaccepted, 2);
    assert_eq!(h.state(&leased[0].id).await, TaskState::Pending);
    assert_eq!(h.drain_order().await, "a b c");
}

pub(super) async fn tasks_of_other_locations_never_block_the_head(make: Factory) {
    let h = make.start().await;
    for n in 0..300 {
        let mut task = exact("t", &format!("blocked{n}"));
        task.spec.object.location = "elsewhere".into();
        h.submit(task).await;
    }
    submit_all(&h, "t", "mine").await;
    assert_eq!(h.drain_order().await, "mine");
    let request = LeaseRequest { locations: Arc::new([]), ..h.request("a") };
    assert_eq!(h.lease_as(&request).await, []);
    let locations: Arc<[String]> = Arc::new(["elsewhere".to_owned()]);
    let request = LeaseRequest { locations, max_tasks: 1, ..h.request("a") };
    assert_eq!(h.lease_as(&request).await[0].spec.object.key, "blocked0");
}

pub(super) async fn a_line_keeps_its_order_across_locations(make: Factory) {
    let h = make.start().await;
    for (key, location) in [("1", "uploads"), ("2", "archive"), ("3", "uploads"), ("4", "archive")] {
        let mut task = exact("t", key);
        task.spec.object.location = location.into();
        h.submit(task).await;
    }
    assert_eq!(h.drain_order().await, "1 2 3 4");
}

pub(super) async fn a_cancelled_task_leaves_its_line(make: Factory) {
    let h = make.start().await;
    submit_all(&h, "t", "a").await;
    let id = h.submit(exact("t", "b")).await.id;
    submit_all(&h, "t", "c").await;
    h.queue.cancel(&id).await.unwrap_or_else(|error| panic!("cancel: {error}"));
    assert_eq!(h.drain_order().await, "a c");
}

pub(super) async fn a_duplicate_does_not_change_whose_turn_it_is(make: Factory) {
    let h = make.start().await;
    submit_all(&h, "0", "o1 o2 o3").await;
    submit_all(&h, "a", "a1 a2 a3").await;
    let mut waiting = exact("b", "b1");
    waiting.spec.object.location = "paused".into();
    h.submit(waiting.clone()).await;
    h.lease(3).await;
    assert_eq!(h.submit(waiting).await.outcome, SubmitOutcome::Duplicate);
    submit_all(&h, "b", "b2").await;
    // It has waited since before the first lease. Waiting anew, it would stand behind a.
    assert_eq!(h.drain_order().await, "b2 a2 o3 a3");
}

pub(super) async fn a_stale_renewal_does_not_change_whose_turn_it_is(make: Factory) {
    let h = make.start().await;
    let mut passed_over = exact("b", "b1");
    passed_over.spec.object.location = "archive".into();
    h.submit(passed_over).await;
    let stale = h.lease_next().await;
    h.settle(&stale, handed_back()).await;
    submit_all(&h, "0", "o1 o2 o3").await;
    submit_all(&h, "a", "a1 a2 a3").await;
    let locations: Arc<[String]> = Arc::new(["uploads".to_owned()]);
    let request = LeaseRequest { max_tasks: 5, locations, ..h.request("a") };
    assert_eq!(h.lease_as(&request).await.len(), 5);
    assert_eq!(h.renew(&stale, 1).await, RenewOutcome::Lost);
    // Waiting anew, b would stand behind a.
    assert_eq!(h.drain_order().await, "b1 a3");
}

async fn submit(h: &Harness, tenant: &str, key: &str, priority: Priority) {
    let mut task = exact(tenant, key);
    task.spec.priority = priority;
    h.submit(task).await;
}

async fn submit_all(h: &Harness, tenant: &str, keys: &str) {
    for key in keys.split(' ') {
        h.submit(exact(tenant, key)).await;
    }
}
