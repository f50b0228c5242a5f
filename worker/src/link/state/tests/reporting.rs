//! Transcripts of what the worker owes a dispatcher: answers, results, credit.

use super::*;

#[test]
fn a_repeated_assignment_is_accepted_again_and_started_once() {
    let a = key("a", 1);
    let mut bench = Bench::attached(&[&a]);
    bench.event(Event::Assigned(vec![assignment(&a, "media")]));
    assert_eq!((bench.effects(), bench.refusals()), (vec![], vec![AcceptRefusal::Unspecified]));
    bench.event(finished(&a));
    assert!(matches!(bench.said().as_slice(), [Message::Results(_)]));
    bench.event(Event::Assigned(vec![assignment(&a, "media")]));
    assert_eq!(bench.effects(), []);
    bench.pass(Duration::from_millis(5));
    assert!(
        matches!(bench.said().as_slice(), [Message::Accepts(_), Message::Results(_)]),
        "its result comes again"
    );
}

#[test]
fn a_result_is_sent_on_every_stream_until_it_is_confirmed() {
    let a = key("a", 1);
    let mut bench = Bench::attached(&[&a]);
    bench.event(finished(&a));
    assert!(matches!(bench.said().as_slice(), [Message::Results(_)]));
    for _ in 0..2 {
        bench.event(Event::StreamEnded);
        bench.dials();
        assert_eq!(bench.greet().unconfirmed.len(), 1);
        bench.welcome(vec![]);
        assert_eq!(bench.said(), []);
    }
    bench.event(confirmed(&a, false));
    bench.pass(Duration::from_millis(999));
    assert_eq!(bench.said(), []);
    bench.pass(Duration::from_millis(1));
    assert!(matches!(bench.said().as_slice(), [Message::Results(_)]), "sent again after TRY_AGAIN");
    bench.event(confirmed(&a, true));
    assert_eq!(bench.link.unconfirmed(), 0);
    bench.event(confirmed(&a, true));
    assert_eq!(bench.link.ignored(), 1);
}

#[test]
fn credit_shrinks_only_while_results_pile_up_unconfirmed() {
    let mut bench = Bench::attached(&[]);
    let keys: Vec<_> = (0..4).map(|n| key(&format!("t{n}"), 1)).collect();
    for lease in &keys {
        bench.event(Event::Assigned(vec![assignment(lease, "media")]));
        bench.event(finished(lease));
    }
    let credits = |said: Vec<Message>| -> Vec<u32> {
        let tasks = |m| if let Message::Credit(c) = m { Some(c.tasks) } else { None };
        said.into_iter().filter_map(tasks).collect()
    };
    assert_eq!(credits(bench.said()), [2]);
    bench.event(confirmed(&keys[0], true));
    assert_eq!(credits(bench.said()), [3]);
    bench.event(confirmed(&keys[1], true));
    assert!(credits(bench.said()).is_empty());
}

#[test]
fn a_dispatcher_that_assigns_without_end_and_takes_no_answers_is_left() {
    let mut bench = Bench::attached(&[]);
    for n in 0..21 {
        let flood = (0..1_000).map(|m| assignment(&key(&format!("{n}-{m}"), 1), "media")).collect();
        bench.event(Event::Assigned(flood));
    }
    let effects = bench.effects();
    assert_eq!(effects.iter().filter(|e| matches!(e, Effect::Start(_))).count(), 3);
    assert_eq!(effects.last(), Some(&Effect::Hangup(HangupReason::Violation)));
}

#[test]
fn accepts_are_cut_to_what_one_message_may_carry() {
    let mut bench = Bench::attached(&[]);
    let flood = (0..2_500).map(|n| assignment(&key(&n.to_string(), 1), "media")).collect();
    bench.event(Event::Assigned(flood));
    let said = bench.said();
    let sizes: Vec<_> =
        said.iter().map(|m| if let Message::Accepts(a) = m { a.accepts.len() } else { 0 }).collect();
    assert_eq!(sizes, [1_000, 1_000, 500]);
}

#[test]
fn the_last_result_waits_for_no_company() {
    let (a, b, c) = (key("a", 1), key("b", 1), key("c", 1));
    let mut bench =
        Bench::with(LinkSettings { credit: CreditLimit { tasks: 400, bytes: 64 << 20 }, ..settings() });
    bench.greet();
    bench.welcome(vec![]);
    bench.event(Event::Assigned(vec![
        assignment(&a, "media"),
        assignment(&b, "media"),
        assignment(&c, "media"),
    ]));
    bench.said();
    let sizes = |said: Vec<Message>| -> Vec<usize> {
        said.into_iter().map(|m| if let Message::Results(r) = m { r.results.len() } else { 0 }).collect()
    };
    bench.event(finished(&a));
    assert_eq!(sizes(bench.said()), [1], "nothing was sent lately");
    bench.event(finished(&b));
    assert!(sizes(bench.said()).is_empty(), "another copy may end soon");
    bench.event(finished(&c));
    assert_eq!(sizes(bench.said()), [2]);
}
