//! Rules of the contract, and what breaking them ends in.

use super::*;
use crate::session::{CloseReason, Excess, Violation};

fn ends_as(rig: &Rig, reason: impl Into<CloseReason>) {
    assert_eq!(rig.session.close_reason(), Some(reason.into()));
    assert!(rig.session.can_end_stream());
}

#[test]
fn anything_before_hello_ends_the_stream() {
    for event in [
        Event::Credit(Credit::default()),
        Event::Heartbeat { seq: 1, held: Vec::new() },
        Event::Results(Vec::new()),
        Event::Accepts(Vec::new()),
        Event::WorkerDrains { finish_within: Duration::ZERO },
    ] {
        let mut rig = Rig::new();
        rig.says(event);
        ends_as(&rig, Violation::HelloNotFirst);
    }
}

#[test]
fn no_hello_in_time_ends_the_stream_and_unknown_messages_do_not_help() {
    let mut rig = Rig::new();
    rig.wait_ms(4_999);
    rig.says(Event::Unknown);
    assert_eq!(rig.session.close_reason(), None);
    rig.wait_ms(1);
    ends_as(&rig, CloseReason::HelloMissing(Duration::from_secs(5)));
}

#[test]
fn a_second_hello_ends_the_stream() {
    let mut rig = Rig::attached(1, 1);
    rig.says(hello(Credit::default()));
    ends_as(&rig, Violation::SecondHello);
}

#[test]
fn a_broken_message_ends_the_stream_and_hands_back_what_was_not_accepted() {
    let mut rig = Rig::attached(10, 1_000);
    rig.offers("a b");
    rig.drain();
    rig.accepts("a");
    rig.says(Event::Broken(Violation::Field("lease").into()));
    ends_as(&rig, Violation::Field("lease"));
    assert_eq!(rig.effects(), ["settle b=back", "renew Accepts a"]);
    assert_eq!(rig.messages(), [""; 0]);
}

#[test]
fn unknown_messages_are_ignored_and_counted() {
    let mut rig = Rig::attached(1, 1);
    rig.says(Event::Unknown);
    assert_eq!(rig.drain(), [""; 0]);
    assert_eq!(rig.session.counters.ignored, 1);
    assert_eq!(rig.session.close_reason(), None);
}

#[test]
fn heartbeats_must_count_up() {
    for second in [1, 0] {
        let mut rig = Rig::attached(1, 1);
        rig.beats(1, "");
        rig.beats(second, "");
        ends_as(&rig, Violation::HeartbeatOrder);
    }
}

#[test]
fn a_silent_worker_is_cut_off_after_one_lease_and_any_word_keeps_it() {
    let mut rig = Rig::attached(1, 1);
    rig.wait_ms(29_000);
    rig.says(Event::Credit(Credit::default()));
    rig.wait_ms(29_999);
    assert_eq!(rig.session.close_reason(), None);
    rig.wait_ms(1);
    ends_as(&rig, CloseReason::PeerSilent(Duration::from_secs(30)));
}

#[test]
fn a_flood_of_messages_ends_the_stream() {
    let mut rig = Rig::attached(1, 1);
    for _ in 0..1_001 {
        rig.says(Event::Credit(Credit { tasks: 1, bytes: MIB }));
    }
    ends_as(&rig, Excess::Messages(100));
}

#[test]
fn messages_that_answer_assignments_do_not_count_against_the_rate() {
    let mut rig = Rig::attached(10, 1_000);
    for _ in 0..3_000 {
        rig.offers("a");
        rig.messages();
        rig.accepts("a");
        rig.done("a");
        rig.effects();
        rig.stored(1);
        rig.messages();
    }
    assert_eq!(rig.session.close_reason(), None);
    for _ in 0..1_001 {
        rig.done("a");
        rig.effects();
        rig.stored(1);
        rig.messages();
    }
    ends_as(&rig, Excess::Messages(100));
}

#[test]
fn a_worker_that_reads_nothing_for_a_lease_is_cut_off() {
    let mut rig = Rig::attached(10, 1_000);
    for beat in 1..=6 {
        rig.beats(beat, "");
        rig.effects();
        rig.kept(RenewFor::Heartbeat(beat), 0);
        assert_eq!(rig.session.close_reason(), None);
        rig.wait_ms(5_000);
    }
    ends_as(&rig, Excess::NotReading);
}

#[test]
fn a_worker_that_reports_without_reading_the_answers_is_cut_off_before_memory_grows() {
    let mut rig = Rig::attached(10, 1_000);
    let mut batches = 0;
    while rig.session.close_reason().is_none() {
        let task = TaskName::Foreign("nobody".into());
        let report = Report { task, lease: lease("x"), outcome: failure() };
        rig.says(Event::Results(vec![report; 1_000]));
        batches += 1;
        assert!(batches < 100);
    }
    ends_as(&rig, Excess::NotReading);
    assert_eq!(rig.messages(), [""; 0], "nothing is kept for a worker that does not read");
}

#[test]
fn when_the_queue_does_not_answer_results_are_put_off_before_memory_grows() {
    let mut rig = Rig::attached(10, 1_000);
    rig.done("a");
    assert_eq!(rig.effects(), ["settle a=done"]);
    let id = rig.key("x").id;
    let mut tokens = 0_u128;
    for _ in 0..25 {
        let reports = (0..1_000)
            .map(|_| {
                tokens += 1;
                let lease = LeaseToken::from_bytes(tokens.to_be_bytes());
                Report { task: TaskName::Known(id.clone()), lease, outcome: failure() }
            })
            .collect();
        rig.says(Event::Results(reports));
        rig.messages();
    }
    assert_eq!(rig.session.settles.waiting(), 20_000);
    assert_eq!(rig.session.counters.postponed, 5_000);
}
