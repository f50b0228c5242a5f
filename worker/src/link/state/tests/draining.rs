//! Transcripts of a worker that leaves.

use super::*;

#[test]
fn an_idle_worker_drains_at_once() {
    let mut bench = Bench::attached(&[]);
    bench.event(Event::DrainAsked { within: Duration::from_secs(20) });
    let clean = Departure { leases: 0, unconfirmed: 0 };
    assert_eq!(bench.effects(), [Effect::Drain, Effect::Leave(clean)]);
    assert_eq!((bench.link.phase(), bench.link.poll_timeout()), (Phase::Closed, None));
    bench.event(Event::Dialled);
    bench.pass(BEAT);
    assert_eq!((bench.effects(), bench.said()), (vec![], vec![]), "nothing follows");
}

#[test]
fn a_drain_finishes_what_fits_hands_back_the_rest_and_waits_for_confirmations() {
    let (quick, slow) = (key("quick", 1), key("slow", 1));
    let mut bench = Bench::attached(&[&quick, &slow]);
    bench.event(Event::DrainAsked { within: Duration::from_secs(20) });
    assert_eq!(bench.effects(), [Effect::Drain]);
    assert_eq!(bench.said(), [Message::Draining(v1::Draining { finish_within_ms: 20_000 })]);
    bench.event(Event::Assigned(vec![assignment(&key("late", 1), "media")]));
    assert_eq!(bench.refusals(), [AcceptRefusal::Draining]);
    bench.event(finished(&quick));
    bench.said();
    bench.event(confirmed(&quick, true));
    bench.pass(BEAT);
    assert!(matches!(bench.said().as_slice(), [Message::Heartbeat(_)]), "also while draining");
    bench.event(Event::LeaseUpdates { seq: 1, updates: vec![news(&slow, LeaseVerdict::Keep)] });
    assert_eq!(bench.effects(), []);
    bench.pass(Duration::from_secs(5));
    assert_eq!(bench.effects(), [Effect::Stop(slow.clone(), StopReason::HandBack)]);
    bench.event(finished(&slow));
    assert_eq!((bench.effects(), bench.link.phase()), (vec![], Phase::Draining));
    assert!(matches!(bench.said().as_slice(), [Message::Results(_)]));
    bench.event(confirmed(&slow, true));
    assert_eq!(bench.effects(), [Effect::Leave(Departure { leases: 0, unconfirmed: 0 })]);
}

#[test]
fn a_drain_ends_in_time_whatever_is_missing() {
    let (stuck, unconfirmed) = (key("stuck", 1), key("unconfirmed", 1));
    let mut bench = Bench::attached(&[&stuck, &unconfirmed]);
    bench.event(finished(&unconfirmed));
    bench.event(Event::DrainAsked { within: Duration::from_secs(20) });
    bench.event(Event::DrainAsked { within: Duration::from_secs(3_600) });
    bench.pass(Duration::from_secs(20));
    let effects = bench.effects();
    assert_eq!(effects.last(), Some(&Effect::Leave(Departure { leases: 1, unconfirmed: 1 })));
}

#[test]
fn a_worker_that_lost_its_stream_while_draining_connects_again_to_report() {
    let a = key("a", 1);
    let mut bench = Bench::attached(&[&a]);
    bench.event(Event::DrainAsked { within: Duration::from_secs(20) });
    bench.event(Event::StreamEnded);
    bench.effects();
    bench.event(finished(&a));
    bench.dials();
    let hello = bench.greet();
    assert_eq!((hello.credit.map(|c| c.tasks), hello.unconfirmed.len()), (Some(0), 1));
    bench.welcome(vec![]);
    assert!(matches!(bench.said().as_slice(), [Message::Draining(_)]), "said on every stream");
    bench.event(confirmed(&a, true));
    assert_eq!(bench.effects(), [Effect::Leave(Departure { leases: 0, unconfirmed: 0 })]);
}
