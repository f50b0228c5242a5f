//! Transcripts of assignments and the leases they bring.

use super::*;

#[test]
fn an_assignment_is_accepted_at_once_and_started() {
    let mut bench = Bench::attached(&[]);
    let (a, b) = (key("a", 1), key("b", 1));
    bench.event(Event::Assigned(vec![assignment(&a, "media"), assignment(&b, "papers")]));
    let started: Vec<_> = bench.effects();
    assert!(
        matches!(started.as_slice(), [Effect::Start(x), Effect::Start(y)] if x.lease == a && y.lease == b)
    );
    assert_eq!(bench.refusals(), [AcceptRefusal::Unspecified, AcceptRefusal::Unspecified]);
    assert_eq!(bench.link.held(), 2);
}

#[test]
fn what_cannot_be_done_is_refused_and_not_started() {
    let mut bench = Bench::attached(&[]);
    bench.event(Event::Assigned(vec![assignment(&key("a", 1), "elsewhere"), assignment(&key("b", 1), "")]));
    assert_eq!(bench.effects(), []);
    assert_eq!(bench.refusals(), [AcceptRefusal::UnknownLocation; 2]);
}

#[test]
fn an_assignment_beyond_credit_is_refused_as_busy() {
    let (a, b, c, d) = (key("a", 1), key("b", 1), key("c", 1), key("d", 1));
    let mut bench = Bench::attached(&[&a, &b, &c]);
    bench.event(Event::Assigned(vec![assignment(&d, "media")]));
    assert_eq!((bench.effects(), bench.refusals()), (vec![], vec![AcceptRefusal::Busy]));
    bench.event(finished(&a));
    bench.said();
    bench.event(Event::Assigned(vec![assignment(&d, "media")]));
    assert_eq!(bench.refusals(), [AcceptRefusal::Unspecified]);
}

#[test]
fn bytes_beyond_twice_the_credit_are_refused_but_a_giant_alone_is_not() {
    let mut bench = Bench::attached(&[]);
    let sized = |task: &str, size| {
        let mut assignment = assignment(&key(task, 1), "media");
        assignment.size_hint_bytes = size;
        assignment
    };
    bench.event(Event::Assigned(vec![
        sized("giant", Some(1 << 40)),
        sized("b", Some(64 << 20)),
        sized("c", None),
    ]));
    assert_eq!(
        bench.refusals(),
        [AcceptRefusal::Unspecified, AcceptRefusal::Unspecified, AcceptRefusal::Busy]
    );
}

#[test]
fn a_newer_lease_on_a_task_voids_the_older_one() {
    let (older, newer) = (key("a", 1), key("a", 2));
    let mut bench = Bench::attached(&[&older]);
    bench.event(Event::Assigned(vec![assignment(&newer, "media")]));
    let effects = bench.effects();
    assert_eq!(effects.first(), Some(&Effect::Stop(older.clone(), StopReason::Lost)));
    assert!(matches!(effects.as_slice(), [_, Effect::Start(started)] if started.lease == newer));
    bench.event(finished(&older));
    assert_eq!((bench.link.held(), bench.link.unconfirmed()), (1, 0));
}

#[test]
fn heartbeats_carry_every_lease_with_its_progress_and_count_up() {
    let (a, b) = (key("a", 1), key("b", 2));
    let mut bench = Bench::attached(&[&a, &b]);
    for seq in 1..=3 {
        bench.pass(BEAT);
        let said = bench.said();
        let [Message::Heartbeat(beat)] = said.as_slice() else { panic!("{said:?} is not one Heartbeat") };
        assert_eq!(beat.seq, seq);
        let held: Vec<_> =
            beat.held.iter().map(|h| (h.task_id.as_str(), h.bytes_done, h.upload_id.as_str())).collect();
        assert_eq!(held, [("a", 5, "u"), ("b", 5, "u")]);
        let updates = vec![news(&a, LeaseVerdict::Keep), news(&b, LeaseVerdict::Keep)];
        bench.event(Event::LeaseUpdates { seq, updates });
    }
    assert_eq!(bench.effects(), []);
}

#[test]
fn a_lease_counts_from_when_the_answered_heartbeat_was_sent_less_a_margin() {
    let a = key("a", 1);
    let mut bench = Bench::attached(&[&a]);
    bench.pass(BEAT);
    bench.said();
    // The answer takes nine seconds; the lease ends 30 s after the question, and is used 27 s of them.
    bench.pass(Duration::from_secs(9));
    bench.event(Event::LeaseUpdates { seq: 1, updates: vec![news(&a, LeaseVerdict::Keep)] });
    bench.event(Event::StreamEnded);
    bench.effects();
    bench.pass(Duration::from_millis(17_999));
    assert_eq!(bench.link.held(), 1);
    bench.effects();
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.effects(), [Effect::Stop(a.clone(), StopReason::Lost)]);
    bench.event(finished(&a));
    assert_eq!((bench.link.held(), bench.link.unconfirmed()), (0, 0), "nothing is reported");
}

#[test]
fn an_answer_to_no_heartbeat_renews_nothing() {
    let a = key("a", 1);
    let mut bench = Bench::attached(&[&a]);
    bench.pass(BEAT);
    bench.said();
    bench.event(Event::LeaseUpdates { seq: 1, updates: vec![] });
    for seq in [0, 1, 2, u64::MAX] {
        bench.event(Event::LeaseUpdates { seq, updates: vec![news(&a, LeaseVerdict::Keep)] });
    }
    assert_eq!(bench.link.ignored(), 4);
    bench.pass(Duration::from_secs(17));
    assert_eq!(bench.effects(), [Effect::Stop(a, StopReason::Lost)]);
}

#[test]
fn each_verdict_has_its_effect() {
    let (keep, lost, cancel) = (key("keep", 1), key("lost", 1), key("cancel", 1));
    let mut bench = Bench::attached(&[&keep, &lost, &cancel]);
    bench.pass(BEAT);
    bench.said();
    let updates = vec![
        news(&keep, LeaseVerdict::Keep),
        news(&lost, LeaseVerdict::Lost),
        news(&cancel, LeaseVerdict::Cancel),
        news(&key("strange", 1), LeaseVerdict::Lost),
    ];
    bench.event(Event::LeaseUpdates { seq: 1, updates });
    let stops = [Effect::Stop(lost, StopReason::Lost), Effect::Stop(cancel.clone(), StopReason::Cancelled)];
    assert_eq!(bench.effects(), stops);
    assert_eq!((bench.link.held(), bench.link.ignored()), (2, 1));
    bench.event(Event::CancelAsked(vec![cancel]));
    assert_eq!(bench.effects(), [], "once is enough");
}

#[test]
fn an_unknown_verdict_lets_the_copy_go_on_for_as_long_as_it_says() {
    let a = key("a", 1);
    let mut bench = Bench::attached(&[&a]);
    for seq in 1..=6 {
        bench.pass(BEAT);
        bench.said();
        bench.event(Event::LeaseUpdates { seq, updates: vec![news(&a, LeaseVerdict::Unknown)] });
        assert_eq!(bench.effects(), [], "an outage of the queue wastes no copy");
    }
    bench.pass(LEASE - LEASE / 10);
    assert_eq!(bench.effects(), [Effect::Stop(a, StopReason::Lost)]);
}

#[test]
fn an_unknown_verdict_that_grants_no_time_leaves_the_lease_as_it_is() {
    let a = key("a", 1);
    let mut bench = Bench::attached(&[&a]);
    bench.pass(BEAT);
    bench.said();
    let updates = vec![LeaseNews { lease_for: Duration::ZERO, ..news(&a, LeaseVerdict::Unknown) }];
    bench.event(Event::LeaseUpdates { seq: 1, updates });
    assert_eq!(bench.effects(), []);
    bench.pass(Duration::from_secs(17));
    assert_eq!(bench.effects(), [Effect::Stop(a, StopReason::Lost)]);
}

#[test]
fn a_cancel_stops_the_copy_and_its_end_is_reported() {
    let a = key("a", 1);
    let mut bench = Bench::attached(&[&a]);
    bench.event(Event::CancelAsked(vec![a.clone(), key("strange", 1)]));
    assert_eq!(bench.effects(), [Effect::Stop(a.clone(), StopReason::Cancelled)]);
    let outcome = Box::new(Outcome::Cancelled(v1::Stopped::default()));
    bench.event(Event::Finished(Finished { lease: a, outcome }));
    let said = bench.said();
    assert!(matches!(said.as_slice(), [Message::Results(r)] if r.results.len() == 1), "{said:?}");
}

#[test]
fn a_paused_location_is_said_once_and_on_every_stream_and_refused_meanwhile() {
    let mut bench = Bench::attached(&[]);
    let media: BTreeSet<String> = ["media".to_owned()].into();
    bench.event(Event::Paused(media.clone()));
    assert_eq!(bench.effects(), [Effect::Pause(media)]);
    let said = |locations: &[&str]| {
        Message::Paused(v1::Paused { locations: locations.iter().map(|l| (*l).to_owned()).collect() })
    };
    assert_eq!(bench.said(), [said(&["media"])]);
    assert_eq!(bench.said(), [], "once");
    bench.event(Event::Assigned(vec![assignment(&key("a", 1), "media"), assignment(&key("b", 1), "papers")]));
    assert_eq!(bench.refusals(), [AcceptRefusal::LocationPaused, AcceptRefusal::Unspecified]);
    bench.event(Event::StreamEnded);
    bench.effects();
    bench.dials();
    assert_eq!(bench.greet().paused, ["media"]);
    bench.event(Event::Paused(BTreeSet::new()));
    bench.welcome(vec![]);
    assert_eq!(bench.said(), [said(&[])], "it changed while the greeting was under way");
}
