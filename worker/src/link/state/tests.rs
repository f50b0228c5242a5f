//! Transcripts: what the link says and does, rule by rule.

use backhaul_proto::v1::{AcceptRefusal, LeaseVerdict, from_worker::Message, task_result::Outcome};
use tokio::time::Instant as Clock;

use super::{super::task::Progress, *};

const LEASE: Duration = Duration::from_secs(30);
const BEAT: Duration = Duration::from_secs(10);

/// A link, the time, and what it said and did since the last look.
struct Bench {
    link: Link,
    now: Instant,
}

fn settings() -> LinkSettings {
    LinkSettings {
        worker: "worker".into(),
        instance: [3; 16],
        version: "1".into(),
        locations: ["media".to_owned(), "papers".to_owned()].into(),
        credit: CreditLimit { tasks: 3, bytes: 64 << 20 },
        welcome_within: Duration::from_secs(10),
        answer_within: Duration::from_secs(20),
        flush_every: Duration::from_millis(5),
        retry_after: Duration::from_secs(1),
        backoff: Backoff::try_new(Duration::from_millis(100), Duration::from_secs(10))
            .expect("the bounds make sense"),
        stable_after: Duration::from_secs(10),
        seed: 7,
    }
}

fn key(task: &str, token: u8) -> LeaseKey {
    LeaseKey::from_wire(task, &[token; 16]).expect("it is well formed")
}

fn assignment(lease: &LeaseKey, location: &str) -> Assignment {
    Assignment {
        lease: lease.clone(),
        lease_for: LEASE,
        object: v1::ObjectRef { location: location.into(), ..Default::default() },
        tenant: "tenant".into(),
        attempt: 1,
        verify: v1::VerifyLevel::Unspecified,
        size_hint_bytes: Some(1),
        resume_upload_id: String::new(),
        traceparent: String::new(),
        priority: v1::Priority::Normal,
    }
}

fn news(lease: &LeaseKey, verdict: LeaseVerdict) -> LeaseNews {
    LeaseNews { lease: lease.clone(), verdict, lease_for: LEASE }
}

fn finished(lease: &LeaseKey) -> Event {
    let outcome = Box::new(Outcome::Receipt(v1::Receipt::default()));
    Event::Finished(Finished { lease: lease.clone(), outcome })
}

fn confirmed(lease: &LeaseKey, settled: bool) -> Event {
    Event::Confirmed(vec![Confirmation { lease: lease.clone(), settled }])
}

impl Bench {
    fn new() -> Self {
        Self::with(settings())
    }

    fn with(settings: LinkSettings) -> Self {
        Self { link: Link::new(settings), now: Clock::now().into_std() }
    }

    /// A link that has said Hello, was welcomed, and holds these leases.
    fn attached(leases: &[&LeaseKey]) -> Self {
        let mut bench = Self::new();
        bench.greet();
        bench.welcome(vec![]);
        for lease in leases {
            bench.event(Event::Assigned(vec![assignment(lease, "media")]));
        }
        bench.effects();
        bench.said();
        bench
    }

    fn greet(&mut self) -> v1::Hello {
        self.event(Event::Dialled);
        self.effects();
        match self.said().pop() {
            Some(Message::Hello(hello)) => hello,
            other => panic!("{other:?} is no Hello"),
        }
    }

    fn welcome(&mut self, held: Vec<LeaseNews>) {
        let session = "session".into();
        self.event(Event::Welcome(Welcomed { session, heartbeat_every: BEAT, held }));
    }

    fn event(&mut self, event: Event) {
        self.link.handle_event(self.now, event);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.link.handle_timeout(self.now);
    }

    fn effects(&mut self) -> Vec<Effect> {
        std::iter::from_fn(|| self.link.next_effect()).collect()
    }

    fn said(&mut self) -> Vec<Message> {
        let progress =
            |_: &LeaseKey| Progress { bytes_done: 5, upload_id: "u".into(), ..Progress::default() };
        std::iter::from_fn(|| self.link.next_message(self.now, progress)).filter_map(|m| m.message).collect()
    }

    /// The refusals of the only Accepts that was said.
    fn refusals(&mut self) -> Vec<AcceptRefusal> {
        match self.said().as_slice() {
            [Message::Accepts(accepts)] => accepts.accepts.iter().map(v1::Accept::refusal).collect(),
            other => panic!("{other:?} is not one Accepts"),
        }
    }

    /// Passes time until the link dials again.
    fn dials(&mut self) {
        let at = self.link.poll_timeout().expect("it waits for something");
        self.pass(at.saturating_duration_since(self.now));
        assert_eq!(self.effects(), [Effect::Dial]);
    }
}

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
fn an_unknown_verdict_lets_the_copy_go_on_while_its_lease_lasts() {
    let a = key("a", 1);
    let mut bench = Bench::attached(&[&a]);
    for seq in 1..=2 {
        bench.pass(BEAT);
        bench.said();
        bench.event(Event::LeaseUpdates { seq, updates: vec![news(&a, LeaseVerdict::Unknown)] });
        assert_eq!(bench.effects(), []);
    }
    bench.pass(Duration::from_secs(7));
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
