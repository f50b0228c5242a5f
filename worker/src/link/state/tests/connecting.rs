//! Transcripts of streams that begin, end, fall silent and move.

use super::*;

#[test]
fn it_dials_at_once_and_says_hello_first_and_once() {
    let mut bench = Bench::new();
    assert_eq!(bench.effects(), [Effect::Dial]);
    assert_eq!((bench.said(), bench.link.phase()), (vec![], Phase::Detached));
    bench.event(Event::Dialled);
    assert_eq!((bench.effects(), bench.link.phase()), (vec![Effect::Open], Phase::Greeting));
    let said = bench.said();
    let [Message::Hello(hello)] = said.as_slice() else { panic!("{said:?} is not one Hello") };
    assert_eq!((hello.protocol, hello.instance.as_ref(), hello.worker.as_str()), (1, &[3; 16][..], "worker"));
    assert_eq!(hello.locations, ["media", "papers"]);
    assert_eq!(hello.credit, Some(v1::Credit { tasks: 3, bytes: 64 << 20 }));
    assert_eq!(bench.said(), []);
    bench.welcome(vec![]);
    assert_eq!((bench.said(), bench.link.phase()), (vec![], Phase::Attached));
}

#[test]
fn an_unanswered_hello_ends_the_stream() {
    let mut bench = Bench::new();
    bench.greet();
    bench.pass(Duration::from_secs(10));
    assert_eq!(bench.effects(), [Effect::Hangup(HangupReason::NoWelcome)]);
    bench.dials();
}

#[test]
fn a_dispatcher_that_speaks_before_its_welcome_or_welcomes_twice_is_left() {
    for event in [
        Event::Assigned(vec![assignment(&key("a", 1), "media")]),
        Event::LeaseUpdates { seq: 1, updates: vec![] },
        Event::Confirmed(vec![]),
        Event::CancelAsked(vec![]),
        Event::MoveAsked { superseded: false },
    ] {
        let mut bench = Bench::new();
        bench.greet();
        bench.event(event);
        assert_eq!(bench.effects(), [Effect::Hangup(HangupReason::Violation)]);
    }
    let mut bench = Bench::attached(&[]);
    bench.welcome(vec![]);
    assert_eq!(bench.effects(), [Effect::Hangup(HangupReason::Violation)]);
    let mut bench = Bench::new();
    bench.event(Event::Dialled);
    bench.welcome(vec![]);
    assert_eq!(bench.effects().pop(), Some(Effect::Hangup(HangupReason::Violation)), "an answer to nothing");
}

#[test]
fn failed_dials_are_repeated_with_growing_delays() {
    let mut bench = Bench::new();
    bench.effects();
    let mut waited = vec![];
    for _ in 0..12 {
        let since = bench.now;
        bench.event(Event::DialFailed);
        bench.dials();
        waited.push(bench.now - since);
    }
    assert!(waited[0] <= Duration::from_millis(200), "{waited:?}");
    assert!(waited.iter().all(|w| *w >= Duration::from_millis(100) && *w <= Duration::from_secs(10)));
    assert!(waited[7..].iter().any(|w| *w > Duration::from_secs(1)), "{waited:?}");
}

#[test]
fn a_heartbeat_without_an_answer_ends_the_stream_but_not_the_copies() {
    let a = key("a", 1);
    let mut bench = Bench::attached(&[&a]);
    bench.pass(BEAT);
    bench.said();
    bench.event(Event::LeaseUpdates { seq: 1, updates: vec![news(&a, LeaseVerdict::Keep)] });
    bench.pass(BEAT);
    bench.said();
    bench.pass(BEAT);
    bench.said();
    assert_eq!(bench.effects(), []);
    bench.pass(BEAT - Duration::from_secs(4));
    assert_eq!(bench.effects(), []);
    bench.pass(Duration::from_secs(4));
    let effects = bench.effects();
    assert!(effects.contains(&Effect::Hangup(HangupReason::Silent)), "{effects:?}");
}

#[test]
fn a_heartbeat_that_finds_no_room_is_as_bad_as_one_without_an_answer() {
    let mut bench = Bench::attached(&[]);
    bench.pass(BEAT);
    bench.pass(BEAT);
    assert_eq!(bench.effects(), []);
    bench.pass(BEAT);
    assert_eq!(bench.effects(), [Effect::Hangup(HangupReason::Silent)]);
}

#[test]
fn a_lost_stream_keeps_the_leases_and_the_next_hello_resumes_them() {
    let (a, b, c) = (key("a", 1), key("b", 1), key("c", 1));
    let mut bench = Bench::attached(&[&a, &b, &c]);
    bench.event(Event::StreamEnded);
    assert_eq!((bench.effects(), bench.link.held()), (vec![], 3));
    bench.dials();
    let held: Vec<_> = bench.greet().held.into_iter().map(|h| h.task_id).collect();
    assert_eq!(held, ["a", "b", "c"]);
    let hello_at = bench.now;
    bench.pass(Duration::from_secs(3));
    bench.welcome(vec![
        news(&a, LeaseVerdict::Keep),
        news(&b, LeaseVerdict::Lost),
        news(&c, LeaseVerdict::Cancel),
    ]);
    assert_eq!(bench.effects(), [Effect::Stop(b, StopReason::Lost), Effect::Stop(c, StopReason::Cancelled)]);
    bench.event(Event::StreamEnded);
    bench.pass(hello_at + Duration::from_secs(27) - bench.now - Duration::from_millis(1));
    assert!(!bench.effects().contains(&Effect::Stop(a.clone(), StopReason::Lost)));
    bench.pass(Duration::from_millis(1));
    assert!(bench.effects().contains(&Effect::Stop(a, StopReason::Lost)), "counted from Hello");
}

#[test]
fn answers_to_a_lost_stream_are_not_said_on_the_next_one() {
    let mut bench = Bench::attached(&[]);
    bench.event(Event::Assigned(vec![assignment(&key("a", 1), "media")]));
    bench.event(Event::StreamEnded);
    bench.effects();
    bench.dials();
    assert_eq!(bench.greet().held.len(), 1, "Hello says it all");
    bench.welcome(vec![]);
    assert_eq!(bench.said(), []);
}

#[test]
fn a_move_keeps_the_old_stream_until_the_new_connection_is_there() {
    let a = key("a", 1);
    let mut bench = Bench::attached(&[&a]);
    bench.event(Event::MoveAsked { superseded: false });
    assert_eq!((bench.effects(), bench.link.phase()), (vec![], Phase::Attached));
    bench.dials();
    bench.event(Event::DialFailed);
    bench.event(Event::MoveAsked { superseded: false });
    bench.dials();
    bench.event(finished(&a));
    assert!(matches!(bench.said().as_slice(), [Message::Results(_)]), "the old stream still serves");
    bench.event(Event::Dialled);
    assert_eq!((bench.effects(), bench.link.phase()), (vec![Effect::Open], Phase::Greeting));
    assert!(matches!(bench.said().as_slice(), [Message::Hello(h)] if h.unconfirmed.len() == 1));
}

#[test]
fn a_superseded_stream_is_left_and_not_fought_for() {
    let mut bench = Bench::attached(&[&key("a", 1)]);
    let mut waits = vec![];
    for _ in 0..12 {
        bench.event(Event::MoveAsked { superseded: true });
        assert_eq!(bench.effects(), [Effect::Hangup(HangupReason::Superseded)]);
        let since = bench.now;
        bench.pass(Duration::from_millis(50));
        while !bench.effects().contains(&Effect::Dial) {
            bench.pass(Duration::from_millis(50));
        }
        waits.push(bench.now - since);
        bench.greet();
        bench.welcome(vec![]);
    }
    assert!(
        waits[8..].iter().any(|w| *w > Duration::from_secs(1)),
        "two processes take turns slowly: {waits:?}"
    );
}

#[test]
fn a_stable_connection_starts_the_delays_from_the_shortest() {
    let mut bench = Bench::new();
    bench.effects();
    for _ in 0..10 {
        bench.event(Event::DialFailed);
        bench.dials();
    }
    bench.greet();
    bench.welcome(vec![]);
    bench.pass(BEAT);
    bench.event(Event::StreamEnded);
    let since = bench.now;
    bench.dials();
    assert!(bench.now - since <= Duration::from_millis(200));
}

#[test]
fn answers_to_the_old_stream_are_not_said_after_a_move() {
    let mut bench = Bench::attached(&[]);
    bench.event(Event::MoveAsked { superseded: false });
    bench.dials();
    bench.event(Event::Assigned(vec![assignment(&key("a", 1), "media")]));
    bench.effects();
    assert_eq!(bench.greet().held.len(), 1, "Hello says it all");
    bench.welcome(vec![]);
    assert_eq!(bench.said(), []);
}

#[test]
fn a_move_is_no_failure_and_waits_only_a_moment() {
    let mut bench = Bench::new();
    bench.effects();
    for _ in 0..10 {
        bench.event(Event::DialFailed);
        bench.dials();
    }
    bench.greet();
    bench.welcome(vec![]);
    bench.event(Event::MoveAsked { superseded: false });
    let since = bench.now;
    bench.dials();
    assert!(bench.now - since <= Duration::from_millis(200));
}
