//! Leases and results: what the queue is asked, and what the worker is told of its answers.

use super::*;

#[test]
fn an_accept_is_written_when_its_copy_has_not_ended_after_half_a_second() {
    let mut rig = Rig::attached(10, 1_000);
    rig.offers("a b c");
    rig.drain();
    rig.accepts("a b");
    rig.wait_ms(300);
    rig.accepts("c");
    rig.done("a");
    assert_eq!(rig.drain(), ["settle a=done"], "a result makes the write of its accept needless");
    rig.wait_ms(199);
    assert_eq!(rig.drain(), [""; 0]);
    rig.wait_ms(1);
    assert_eq!(rig.drain(), ["renew Accepts b"]);
    rig.kept(RenewFor::Accepts, 1);
    rig.wait_ms(300);
    assert_eq!(rig.drain(), ["renew Accepts c"]);
}

#[test]
fn accepts_that_wait_are_written_when_the_stream_ends() {
    let mut rig = Rig::attached(10, 1_000);
    rig.copies("a b");
    rig.done("a");
    rig.says(Event::PeerLost);
    assert_eq!(
        rig.drain(),
        ["settle a=done", "renew Accepts b"],
        "a crash must not pass for a task never begun"
    );
}

#[test]
fn a_heartbeat_that_the_queue_has_kept_makes_the_write_of_an_accept_needless() {
    let mut rig = Rig::attached(10, 1_000);
    rig.copies("a b");
    rig.beats(1, "a b");
    assert_eq!(rig.drain(), ["renew Heartbeat(1) a b"]);
    let keep = Ok(RenewOutcome::Keep(Duration::from_secs(30)));
    rig.says(Event::Renewed(RenewFor::Heartbeat(1), vec![keep, unavailable()]));
    assert_eq!(rig.drain(), ["LEASES 1 a=Keep b=Unknown"]);
    rig.wait_ms(500);
    assert_eq!(rig.drain(), ["renew Accepts b"], "it would bring back what the heartbeat has replaced");
}

#[test]
fn an_accept_that_came_late_is_written_before_the_queue_takes_the_task_back() {
    let mut rig = Rig::attached(10, 1_000);
    rig.offers("a");
    rig.drain();
    rig.wait_ms(9_600);
    rig.copies("b");
    rig.wait_ms(200);
    rig.accepts("a");
    rig.wait_ms(199);
    assert_eq!(rig.drain(), [""; 0]);
    rig.wait_ms(1);
    assert_eq!(rig.drain(), ["renew Accepts a"]);
}

#[test]
fn accepts_gather_while_a_call_is_under_way() {
    let mut rig = Rig::attached(10, 1_000);
    rig.offers("a b c");
    rig.drain();
    rig.accepts("a");
    rig.wait_ms(500);
    assert_eq!(rig.drain(), ["renew Accepts a"]);
    rig.accepts("b");
    rig.wait_ms(1);
    rig.accepts("c");
    rig.wait_ms(1_000);
    assert_eq!(rig.drain(), [""; 0]);
    rig.kept(RenewFor::Accepts, 1);
    assert_eq!(rig.drain(), ["renew Accepts b c"]);
}

#[test]
fn a_lease_lost_before_its_accept_was_written_is_stopped_at_once() {
    let mut rig = Rig::attached(10, 1_000);
    rig.copies("a b");
    rig.wait_ms(500);
    rig.drain();
    rig.says(Event::Renewed(RenewFor::Accepts, vec![Ok(RenewOutcome::Lost), Ok(RenewOutcome::Cancel)]));
    assert_eq!(rig.drain(), ["CANCEL a b"]);
}

#[test]
fn an_accept_that_could_not_be_written_is_tried_again() {
    let mut rig = Rig::attached(10, 1_000);
    rig.copies("a");
    rig.wait_ms(500);
    assert_eq!(rig.drain(), ["renew Accepts a"]);
    rig.says(Event::Renewed(RenewFor::Accepts, vec![unavailable()]));
    assert_eq!(rig.drain(), [""; 0]);
    rig.wait_ms(500);
    assert_eq!(rig.drain(), ["renew Accepts a"]);
}

#[test]
fn an_assignment_that_is_not_answered_goes_back_at_no_cost_and_is_called_off() {
    let mut rig = Rig::attached(10, 1_000);
    rig.offers("a b");
    rig.drain();
    rig.accepts("b");
    rig.wait_ms(500);
    rig.drain();
    rig.wait_ms(9_500);
    assert_eq!(rig.drain(), ["settle a=back", "CANCEL a"]);
    assert_eq!(rig.session.standing().outstanding, 1);
    assert_eq!(rig.session.standing().room.tasks, 0, "what it does not answer would only come round again");
    rig.accepts("a");
    assert_eq!(rig.session.counters.ignored, 1, "an answer that comes too late changes nothing");
    assert_eq!(rig.session.standing().room.tasks, 9, "but shows that the worker is awake");
}

#[test]
fn a_heartbeat_is_answered_lease_by_lease_with_its_number() {
    let mut rig = Rig::attached(10, 1_000);
    rig.copies("a b c d");
    rig.beats(1, "a b c d");
    assert_eq!(rig.drain(), ["renew Heartbeat(1) a b c d"]);
    rig.says(Event::Renewed(
        RenewFor::Heartbeat(1),
        vec![
            Ok(RenewOutcome::Keep(Duration::from_secs(30))),
            Ok(RenewOutcome::Lost),
            Ok(RenewOutcome::Cancel),
            unavailable(),
        ],
    ));
    assert_eq!(rig.drain(), ["LEASES 1 a=Keep b=Lost c=Cancel d=Unknown"]);
    assert_eq!(rig.session.standing().outstanding, 3, "a lost lease frees its credit");
}

#[test]
fn when_the_queue_is_silent_every_lease_is_unknown() {
    let mut rig = Rig::attached(10, 1_000);
    rig.beats(1, "a b");
    rig.drain();
    rig.says(Event::Renewed(RenewFor::Heartbeat(1), Vec::new()));
    assert_eq!(rig.drain(), ["LEASES 1 a=Unknown b=Unknown"]);
}

#[test]
fn a_heartbeat_while_one_is_under_way_waits_and_only_the_newest_is_asked() {
    let mut rig = Rig::attached(10, 1_000);
    rig.beats(1, "a");
    assert_eq!(rig.drain(), ["renew Heartbeat(1) a"]);
    rig.beats(2, "a");
    rig.beats(3, "a");
    assert_eq!(rig.drain(), [""; 0]);
    rig.kept(RenewFor::Heartbeat(1), 1);
    assert_eq!(rig.drain(), ["renew Heartbeat(3) a", "LEASES 1 a=Keep"]);
}

#[test]
fn a_heartbeat_accepts_what_it_lists() {
    let mut rig = Rig::attached(10, 1_000);
    rig.offers("a");
    rig.drain();
    rig.beats(1, "a");
    rig.drain();
    rig.kept(RenewFor::Heartbeat(1), 1);
    rig.beats(2, "a");
    rig.wait_ms(10_000);
    assert!(!rig.effects().iter().any(|effect| effect.contains("back")));
    assert_eq!(rig.session.counters.accepted, 1);
}

#[test]
fn a_heartbeat_without_leases_is_answered_too() {
    let mut rig = Rig::attached(10, 1_000);
    rig.beats(1, "");
    assert_eq!(rig.drain(), ["renew Heartbeat(1) "]);
    rig.kept(RenewFor::Heartbeat(1), 0);
    assert_eq!(rig.drain(), ["LEASES 1"]);
}

#[test]
fn a_lease_that_the_worker_forgot_stops_using_credit_when_its_time_is_over() {
    let mut rig = Rig::attached(10, 1_000);
    rig.copies("a");
    for beat in 1..=4 {
        rig.wait_ms(9_000);
        rig.beats(beat, "");
        rig.drain();
        rig.kept(RenewFor::Heartbeat(beat), 0);
        let expected = u32::from(beat < 4);
        assert_eq!(rig.session.standing().outstanding, expected, "beat {beat}");
    }
}

#[test]
fn a_result_is_confirmed_only_when_the_queue_has_stored_it() {
    let mut rig = Rig::attached(10, 1_000);
    rig.copies("a b");
    rig.done("a");
    assert_eq!(rig.drain(), ["settle a=done"]);
    rig.done("b");
    assert_eq!(rig.drain(), [""; 0], "one call at a time, the rest gathers");
    rig.stored(1);
    assert_eq!(rig.drain(), ["settle b=done", "CONFIRM a=Stored"]);
}

#[test]
fn each_answer_of_the_queue_has_its_confirm() {
    let answers = [
        (Ok(SettleOutcome::Stored(TaskState::Delayed)), "Stored"),
        (Ok(SettleOutcome::Duplicate), "Duplicate"),
        (Ok(SettleOutcome::RunsAgain), "RunsAgain"),
        (Ok(SettleOutcome::Fenced), "Fenced"),
        (Ok(SettleOutcome::Superseded), "Superseded"),
        (Ok(SettleOutcome::Cancelled), "Cancelled"),
        (Ok(SettleOutcome::Gone), "Gone"),
        (unavailable(), "TryAgain"),
        (Err(QueueError::Rejected("no".into())), "TryAgain"),
        (Err(QueueError::Corrupt { task: "a".into(), what: "spec" }), "Gone"),
    ];
    for (answer, word) in answers {
        let mut rig = Rig::attached(10, 1_000);
        rig.offers("a");
        rig.drain();
        rig.done("a");
        rig.drain();
        rig.says(Event::Settled(vec![answer]));
        assert_eq!(rig.drain(), [format!("CONFIRM a={word}")]);
        assert_eq!(rig.session.standing().outstanding, u32::from(word == "TryAgain"), "{word}");
    }
}

#[test]
fn a_result_that_could_not_be_stored_may_come_again() {
    let mut rig = Rig::attached(10, 1_000);
    rig.offers("a");
    rig.drain();
    rig.done("a");
    rig.drain();
    rig.says(Event::Settled(Vec::new()));
    assert_eq!(rig.drain(), ["CONFIRM a=TryAgain"]);
    rig.done("a");
    assert_eq!(rig.drain(), ["settle a=done"]);
    rig.stored(1);
    assert_eq!(rig.drain(), ["CONFIRM a=Stored"]);
}

#[test]
fn a_result_sent_twice_before_its_answer_is_settled_once() {
    let mut rig = Rig::attached(10, 1_000);
    rig.offers("a");
    rig.drain();
    rig.done("a");
    rig.drain();
    rig.done("a");
    assert_eq!(rig.drain(), [""; 0]);
    rig.stored(1);
    assert_eq!(rig.drain(), ["CONFIRM a=Stored"]);
}

#[test]
fn results_of_leases_that_this_stream_never_gave_are_settled_all_the_same() {
    let mut rig = Rig::attached(10, 1_000);
    let task = rig.name("x");
    rig.says(Event::Results(vec![Report { task, lease: lease("x"), outcome: failure() }]));
    assert_eq!(rig.drain(), ["settle x=failed"]);
    rig.says(Event::Settled(vec![Ok(SettleOutcome::Fenced)]));
    assert_eq!(rig.drain(), ["CONFIRM x=Fenced"]);
}

#[test]
fn ids_that_no_queue_can_hold_are_answered_without_asking_it() {
    let mut rig = Rig::attached(10, 1_000);
    let task = TaskName::Foreign("v2-zz".into());
    let lease = lease("x");
    rig.says(Event::Results(vec![Report { task: task.clone(), lease, outcome: failure() }]));
    assert_eq!(rig.drain(), ["CONFIRM v2-zz=Gone"]);
    let held = vec![Held { task, lease, progress: Progress::default(), upload_id: String::new() }];
    rig.says(Event::Heartbeat { seq: 1, held });
    assert_eq!(rig.drain(), ["renew Heartbeat(1) "]);
    rig.kept(RenewFor::Heartbeat(1), 0);
    assert_eq!(rig.drain(), ["LEASES 1 v2-zz=Lost"]);
}

#[test]
fn a_cancel_goes_to_the_worker_that_holds_the_copy() {
    let mut rig = Rig::attached(1, 1_000);
    rig.offers("a b");
    rig.drain();
    for key in ["a", "a", "b", "x"] {
        let key = rig.key(key);
        rig.says(Event::StopCopy(key));
    }
    assert_eq!(
        rig.drain(),
        ["settle b=unsent", "CANCEL a"],
        "what was not sent needs no message, what is unknown no answer"
    );
}

#[test]
fn a_result_that_overtakes_the_answer_to_a_heartbeat_keeps_its_own_answer() {
    let mut rig = Rig::attached(10, 1_000);
    rig.copies("a");
    rig.beats(1, "a");
    rig.done("a");
    assert_eq!(rig.drain(), ["settle a=done", "renew Heartbeat(1) a"]);
    rig.says(Event::Renewed(RenewFor::Heartbeat(1), vec![Ok(RenewOutcome::Lost)]));
    assert_eq!(rig.drain(), ["LEASES 1 a=Lost"]);
    assert_eq!(
        rig.session.standing().outstanding,
        1,
        "its credit is free when its Confirm is sent, not before"
    );
    rig.stored(1);
    assert_eq!(rig.drain(), ["CONFIRM a=Stored"]);
    assert_eq!(rig.session.standing().outstanding, 0);
}

#[test]
fn a_heartbeat_that_lists_what_is_being_settled_does_not_bring_it_back() {
    let mut rig = Rig::attached(10, 1_000);
    rig.done("x");
    rig.beats(1, "x");
    assert_eq!(rig.session.standing().outstanding, 0);
    rig.drain();
    rig.stored(1);
    rig.kept(RenewFor::Heartbeat(1), 1);
    assert_eq!(rig.session.standing().outstanding, 0);
}
