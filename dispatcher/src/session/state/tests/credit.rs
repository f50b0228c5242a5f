//! Credit: what is sent, what waits, what goes back.

use super::*;

#[test]
fn tasks_are_sent_within_credit_and_the_rest_waits_for_it() {
    let mut rig = Rig::attached(2, 1_000);
    rig.offers("a b c");
    assert_eq!(rig.drain(), ["ASSIGN a b"]);
    rig.accepts("a b");
    rig.done("a");
    assert_eq!(rig.drain(), ["settle a=done"]);
    rig.stored(1);
    assert_eq!(rig.drain(), ["CONFIRM a=Stored", "ASSIGN c"]);
}

#[test]
fn bytes_count_by_size_hint_and_a_task_without_one_counts_a_part() {
    let mut rig = Rig::attached(10, 40);
    rig.offers("a:20 b");
    assert_eq!(rig.drain(), ["ASSIGN a b"]);
    rig.offers("c:5");
    assert_eq!(rig.drain(), [""; 0]);
    assert_eq!(rig.session.standing().outstanding_bytes, 36 * MIB);
}

#[test]
fn a_task_larger_than_the_credit_is_sent_alone() {
    let mut rig = Rig::attached(10, 100);
    rig.offers("g:5000");
    assert_eq!(rig.drain(), ["ASSIGN g"]);
    assert_eq!(rig.session.standing().room, Credit::default());
    rig.offers("a:1");
    assert_eq!(rig.drain(), [""; 0]);
    rig.done("g");
    rig.drain();
    rig.stored(1);
    assert_eq!(rig.drain(), ["CONFIRM g=Stored", "ASSIGN a"]);
}

#[test]
fn a_task_that_does_not_fit_beside_others_waits_and_nothing_is_asked_for_meanwhile() {
    let mut rig = Rig::attached(10, 100);
    rig.offers("a:60");
    assert_eq!(rig.drain(), ["ASSIGN a"]);
    rig.offers("b:60");
    assert_eq!(rig.drain(), [""; 0]);
    assert_eq!(rig.session.standing().room, Credit::default());
    rig.done("a");
    rig.drain();
    rig.stored(1);
    assert_eq!(rig.drain(), ["CONFIRM a=Stored", "ASSIGN b"]);
    assert_eq!(rig.session.standing().room, Credit { tasks: 9, bytes: 40 * MIB });
}

#[test]
fn a_task_that_never_fitted_goes_back_and_the_worker_is_emptied_for_it() {
    let mut rig = Rig::attached(10, 100);
    rig.offers("a:60");
    rig.drain();
    rig.accepts("a");
    rig.offers("g:200");
    rig.drain();
    rig.wait_ms(5_000);
    assert_eq!(rig.effects(), ["settle g=unsent(30s)", "renew Accepts a"]);
    rig.stored(1);
    assert_eq!(
        rig.session.standing().room,
        Credit::default(),
        "room for other tasks would keep the large one out"
    );
    rig.done("a");
    rig.drain();
    rig.stored(1);
    rig.drain();
    assert_eq!(rig.session.standing().room, Credit { tasks: 10, bytes: 100 * MIB });
}

#[test]
fn lowering_credit_below_what_is_held_only_stops_new_tasks() {
    let mut rig = Rig::attached(3, 1_000);
    rig.offers("a b c");
    rig.drain();
    rig.says(Event::Credit(Credit { tasks: 1, bytes: 1_000 * MIB }));
    assert_eq!(rig.drain(), [""; 0]);
    rig.done("a b");
    rig.drain();
    rig.stored(2);
    rig.drain();
    assert_eq!(rig.session.standing().room.tasks, 0);
    rig.done("c");
    rig.drain();
    rig.stored(1);
    rig.drain();
    assert_eq!(rig.session.standing().room.tasks, 1);
}

#[test]
fn a_pause_gives_back_what_was_not_sent() {
    let mut rig = Rig::attached(1, 1_000);
    rig.offers("a b");
    assert_eq!(rig.drain(), ["ASSIGN a"]);
    rig.says(Event::Credit(Credit::default()));
    assert_eq!(rig.drain(), ["settle b=unsent"]);
}

#[test]
fn repeated_credit_is_harmless() {
    let mut rig = Rig::attached(2, 1_000);
    rig.offers("a");
    rig.drain();
    for _ in 0..5 {
        rig.says(Event::Credit(Credit { tasks: 2, bytes: 1_000 * MIB }));
    }
    assert_eq!(rig.session.standing().room.tasks, 1);
}

#[test]
fn the_same_tasks_offered_twice_are_sent_once() {
    let mut rig = Rig::attached(10, 1_000);
    rig.offers("a b");
    assert_eq!(rig.drain(), ["ASSIGN a b"]);
    rig.offers("a b");
    assert_eq!(rig.drain(), [""; 0]);
}

#[test]
fn a_worker_that_does_not_read_earns_no_credit() {
    let mut rig = Rig::attached(100, 1_000);
    rig.offers("a");
    assert_eq!(rig.session.standing().room, Credit::default());
    assert_eq!(rig.messages(), ["ASSIGN a"]);
    assert_eq!(rig.session.standing().room.tasks, 99);
    rig.done("a");
    rig.effects();
    rig.stored(1);
    assert_eq!(rig.session.standing().room, Credit::default());
    assert_eq!(rig.messages(), ["CONFIRM a=Stored"]);
    assert_eq!(rig.session.standing().room.tasks, 100);
}

#[test]
fn a_worker_without_room_after_all_is_left_alone_for_a_while() {
    let mut rig = Rig::attached(10, 1_000);
    rig.offers("a");
    rig.drain();
    rig.answers("a", pb::AcceptRefusal::Busy);
    assert_eq!(rig.drain(), ["settle a=back"]);
    assert_eq!(rig.session.standing().room.tasks, 0);
    rig.wait_ms(1_000);
    assert_eq!(rig.session.standing().room.tasks, 10);
    rig.offers("b");
    rig.drain();
    rig.answers("b", pb::AcceptRefusal::Busy);
    rig.says(Event::Credit(Credit { tasks: 5, bytes: 1_000 * MIB }));
    assert_eq!(rig.session.standing().room.tasks, 5);
}

#[test]
fn a_location_that_the_worker_does_not_know_is_not_asked_for_again() {
    let mut rig = Rig::attached(10, 1_000);
    rig.offers("a");
    rig.drain();
    rig.answers("a", pb::AcceptRefusal::UnknownLocation);
    assert_eq!(rig.drain(), ["settle a=back(5s)"]);
    let locations = rig.session.standing().locations.unwrap();
    assert_eq!(*locations, ["archive".to_owned()]);
}

#[test]
fn a_task_under_a_retention_class_is_only_sent_to_a_worker_that_knows_it() {
    let mut rig = Rig::attached(10, 1_000);
    rig.offers_under("long", "a");
    assert_eq!(rig.drain().len(), 1, "it is assigned");
    // Another location's class of that name would be another one.
    rig.offers_under("short", "b");
    assert_eq!(rig.drain(), ["settle b=unsent(5s)"], "another worker may know it");
    assert_eq!(rig.session.standing().outstanding, 1);
}

#[test]
fn a_paused_location_is_not_asked_for_until_it_is_not_paused_any_more() {
    let mut rig = Rig::attached(1, 1_000);
    rig.offers("a b");
    assert_eq!(rig.drain().len(), 1, "the other one waits for room");
    rig.says(Event::Paused(vec!["uploads".into(), "never-heard-of".into(), "uploads".into()]));
    assert_eq!(rig.drain(), ["settle b=unsent"], "what was not sent goes back at no cost");
    rig.stored(1);
    assert_eq!(*rig.session.standing().locations.unwrap(), ["archive".to_owned()]);
    rig.answers("a", pb::AcceptRefusal::LocationPaused);
    assert_eq!(rig.drain(), ["settle a=back(5s)"]);
    assert_eq!(rig.session.standing().room.tasks, 1, "other locations go on");
    rig.says(Event::Paused(Vec::new()));
    assert_eq!(*rig.session.standing().locations.unwrap(), ["archive".to_owned(), "uploads".to_owned()]);
}

#[test]
fn an_unknown_location_stays_unknown_whatever_is_paused() {
    let mut rig = Rig::attached(10, 1_000);
    rig.offers("a");
    rig.drain();
    rig.answers("a", pb::AcceptRefusal::UnknownLocation);
    rig.says(Event::Paused(vec!["archive".into()]));
    assert!(rig.session.standing().locations.unwrap().is_empty());
    rig.says(Event::Paused(Vec::new()));
    assert_eq!(*rig.session.standing().locations.unwrap(), ["archive".to_owned()]);
}

#[test]
fn a_refusal_because_of_a_drain_is_the_last_offer() {
    let mut rig = Rig::attached(1, 1_000);
    rig.offers("a b");
    rig.drain();
    rig.answers("a", pb::AcceptRefusal::Draining);
    assert_eq!(rig.drain(), ["settle b=unsent a=back"]);
    assert_eq!(rig.session.standing().room.tasks, 0);
    rig.stored(2);
    rig.offers("c");
    assert_eq!(rig.drain(), ["settle c=unsent"]);
}
