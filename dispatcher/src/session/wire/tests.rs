//! The bounds of the contract, field by field.

use proptest::prelude::*;

use super::*;

fn decoded(message: Message) -> Event {
    decode(pb::FromWorker { message: Some(message) }, &mut fastrand::Rng::with_seed(1))
}

fn hello() -> pb::Hello {
    pb::Hello {
        protocol: 1,
        instance: vec![7; 16].into(),
        worker: "backhaul-worker-0".into(),
        locations: vec!["uploads".into(), "archive".into(), "uploads".into()],
        ..pb::Hello::default()
    }
}

fn reason(event: Event) -> Option<CloseReason> {
    if let Event::Broken(reason) = event { Some(reason) } else { None }
}

fn lease() -> Bytes {
    vec![1; 16].into()
}

fn result(outcome: Option<pb::task_result::Outcome>) -> Event {
    let result = pb::TaskResult { task_id: "x".into(), lease: lease(), outcome };
    decoded(Message::Results(pb::Results { results: vec![result] }))
}

fn outcome(event: Event) -> Outcome {
    let Event::Results(mut reports) = event else { panic!("unexpected {event:?}") };
    reports.remove(0).outcome
}

#[test]
fn a_hello_is_read_with_its_locations_sorted_and_each_once() {
    let Event::Hello(hello) = decoded(Message::Hello(hello())) else { panic!("a Hello") };
    assert_eq!(*hello.worker.locations, ["archive".to_owned(), "uploads".to_owned()]);
    assert_eq!(hello.worker.instance, [7; 16]);
    assert_eq!(hello.credit, Credit::default(), "no credit unless given");
}

#[test]
fn each_field_of_hello_has_its_bound() {
    let long = |n: usize| "x".repeat(n);
    let field = |name| Some(CloseReason::Broken(Violation::Field(name)));
    let count = |what, limit| Some(CloseReason::TooMuch(Excess::Count { what, limit }));
    let held = |n| vec![pb::HeldLease { task_id: "x".into(), lease: lease(), ..pb::HeldLease::default() }; n];
    let results = |n| vec![pb::TaskResult { task_id: "x".into(), lease: lease(), outcome: None }; n];
    let names = |n: usize| (0..n).map(|n| format!("l{n}")).collect::<Vec<_>>();
    let table = [
        (pb::Hello { protocol: 0, ..hello() }, Some(Violation::Protocol(0).into())),
        (pb::Hello { instance: vec![7; 15].into(), ..hello() }, field("Hello.instance")),
        (pb::Hello { instance: Bytes::new(), ..hello() }, field("Hello.instance")),
        (pb::Hello { worker: String::new(), ..hello() }, field("Hello.worker")),
        (pb::Hello { worker: long(128), ..hello() }, None),
        (pb::Hello { worker: long(129), ..hello() }, field("Hello.worker")),
        (pb::Hello { worker: "line\nbreak".into(), ..hello() }, field("Hello.worker")),
        (pb::Hello { version: long(64), ..hello() }, None),
        (pb::Hello { version: long(65), ..hello() }, field("Hello.version")),
        (pb::Hello { locations: vec!["Up".into()], ..hello() }, field("Hello.locations")),
        (pb::Hello { locations: vec![String::new()], ..hello() }, field("Hello.locations")),
        (pb::Hello { locations: vec![long(64)], ..hello() }, field("Hello.locations")),
        (pb::Hello { locations: names(1_000), ..hello() }, None),
        (pb::Hello { locations: names(1_001), ..hello() }, count("Hello.locations", 1_000)),
        (pb::Hello { held: held(10_000), ..hello() }, None),
        (pb::Hello { held: held(10_001), ..hello() }, count("Hello.held", 10_000)),
        (pb::Hello { unconfirmed: results(10_000), ..hello() }, None),
        (pb::Hello { unconfirmed: results(10_001), ..hello() }, count("Hello.unconfirmed", 10_000)),
    ];
    for (hello, expected) in table {
        let shown = format!("{:.200}", format!("{hello:?}"));
        assert_eq!(reason(decoded(Message::Hello(hello))), expected, "{shown}");
    }
}

#[test]
fn batches_have_their_bounds_and_tokens_their_length() {
    let accepts = |n: usize, lease: &Bytes| {
        let accept = pb::Accept { task_id: "x".into(), lease: lease.clone(), refusal: 0 };
        decoded(Message::Accepts(pb::Accepts { accepts: vec![accept; n] }))
    };
    assert_eq!(reason(accepts(1_000, &lease())), None);
    assert_eq!(
        reason(accepts(1_001, &lease())),
        Some(Excess::Count { what: "Accepts.accepts", limit: 1_000 }.into())
    );
    for length in [0, 15, 17] {
        let short = vec![1; length].into();
        assert_eq!(reason(accepts(1, &short)), Some(Violation::Field("lease").into()));
    }
    let upload_id = |n: usize| {
        let held = pb::HeldLease {
            task_id: "x".into(),
            lease: lease(),
            upload_id: "u".repeat(n),
            ..pb::HeldLease::default()
        };
        decoded(Message::Heartbeat(pb::Heartbeat { seq: 1, held: vec![held] }))
    };
    assert_eq!(reason(upload_id(1_024)), None);
    assert_eq!(reason(upload_id(1_025)), Some(Violation::Field("upload_id").into()));
}

#[test]
fn a_task_name_is_ours_or_foreign_or_none_at_all() {
    let name = |text: &str| task_name(text.to_owned());
    let ours = "def-0123456789abcdef0123456789abcdef";
    assert_eq!(name(ours).unwrap(), TaskName::Known(TaskId::parse(ours).unwrap()));
    assert_eq!(name("v2-abc").unwrap(), TaskName::Foreign("v2-abc".into()));
    for text in ["", "A", "a b", "ü", &"a".repeat(65)] {
        assert!(name(text).is_err(), "{text}");
    }
}

#[test]
fn an_unknown_refusal_is_still_a_refusal() {
    let accept = pb::Accept { task_id: "x".into(), lease: lease(), refusal: 99 };
    let event = decoded(Message::Accepts(pb::Accepts { accepts: vec![accept] }));
    let Event::Accepts(answers) = event else { panic!("Accepts") };
    assert_eq!(answers[0].refusal, pb::AcceptRefusal::Busy);
}

#[test]
fn a_receipt_is_kept_as_it_is_unless_it_is_too_large() {
    let backup = pb::BackupObject {
        location: "vault".into(),
        bucket: "backups".into(),
        key: "k~1".into(),
        ..pb::BackupObject::default()
    };
    let receipt = pb::Receipt { backup: Some(backup), size_bytes: 5, ..pb::Receipt::default() };
    let kept = outcome(result(Some(pb::task_result::Outcome::Receipt(receipt.clone()))));
    assert_eq!(kept, Outcome::Done { receipt: receipt.encode_to_vec().into() });
    let large = pb::Receipt { not_kept: vec!["x".repeat(9_000)], ..pb::Receipt::default() };
    let refused = outcome(result(Some(pb::task_result::Outcome::Receipt(large))));
    assert!(
        matches!(&refused, Outcome::Failed { failure, .. } if failure.class == FailureClass::Permanent && failure.code == "receipt_too_large"),
        "{refused:?}"
    );
}

#[test]
fn a_receipt_that_does_not_say_where_the_copy_is_completes_nothing() {
    let nowhere = pb::BackupObject { location: "vault".into(), ..pb::BackupObject::default() };
    for backup in [None, Some(pb::BackupObject::default()), Some(nowhere)] {
        let receipt = pb::Receipt { backup, size_bytes: 5, ..pb::Receipt::default() };
        let refused = outcome(result(Some(pb::task_result::Outcome::Receipt(receipt))));
        assert!(
            matches!(&refused, Outcome::Failed { failure, .. } if failure.class == FailureClass::Retry && failure.code == "receipt_incomplete"),
            "{refused:?}"
        );
    }
}

#[test]
fn an_outcome_of_a_later_version_is_a_failure_that_is_retried_not_the_end_of_the_stream() {
    let failed = outcome(result(None));
    assert!(matches!(failed, Outcome::Failed { failure, .. } if failure.class == FailureClass::Retry));
}

#[test]
fn failures_are_cut_to_their_bounds() {
    let failure = pb::Failure {
        class: 99,
        code: "Not A Code".into(),
        message: "ä".repeat(400),
        retry_after_ms: u64::MAX,
    };
    let Outcome::Failed { failure, jitter } =
        outcome(result(Some(pb::task_result::Outcome::Failure(failure))))
    else {
        panic!("a failure")
    };
    assert_eq!((failure.class, failure.code.as_str()), (FailureClass::Retry, "unnamed"));
    assert_eq!(failure.message.len(), 512);
    assert_eq!(failure.retry_after, MAX_WAIT);
    assert!((0.0..1.0).contains(&jitter));
}

#[test]
fn an_assignment_carries_the_whole_task() {
    let task = LeasedTask {
        id: TaskId::parse("def-0123456789abcdef0123456789abcdef").unwrap(),
        lease: LeaseToken::from_bytes([3; 16]),
        spec: crate::dispatch::testing::new_task("k:3").spec,
        attempts: 2,
        accept_within: Duration::from_secs(10),
        upload_id: "u".into(),
    };
    let sent = assignment(task, Duration::from_secs(30));
    let object = sent.object.unwrap();
    assert_eq!(
        (object.location.as_str(), object.bucket.as_str(), object.key.as_str(), object.version.as_str()),
        ("uploads", "photos", "k", "v1")
    );
    assert_eq!((sent.attempt, sent.lease_ms, sent.processing_timeout_ms), (3, 30_000, 600_000));
    assert_eq!(
        (sent.size_hint_bytes, sent.resume_upload_id.as_str(), sent.tenant.as_str()),
        (3 << 20, "u", "t")
    );
    assert_eq!(sent.priority, i32::from(pb::Priority::Normal));
    assert_eq!(sent.lease.as_ref(), [3; 16]);
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(message) = pb::FromWorker::decode(bytes.as_slice()) {
            decode(message, &mut fastrand::Rng::with_seed(1));
        }
    }
}

#[test]
fn a_page_must_add_up_and_keep_its_bounds() {
    let object = |key: &str| pb::ListedObject { key: key.into(), version: String::new(), size_bytes: 1 };
    let good = pb::ListedPage {
        lease: lease(),
        objects: vec![object("a"), object("b")],
        listed: 5,
        skipped: 2,
        backed_up: 1,
        next_cursor: "c".into(),
        failure: None,
    };
    let Event::Listed(_, Ok(found)) = decoded(Message::Listed(good.clone())) else { panic!("a page") };
    assert_eq!((found.objects.len(), found.next.as_deref()), (2, Some("c")));
    assert_eq!(found.objects[0].version, None, "the latest");
    let last = pb::ListedPage { next_cursor: String::new(), ..good.clone() };
    assert!(matches!(decoded(Message::Listed(last)), Event::Listed(_, Ok(PageFound { next: None, .. }))));
    let broken = [
        pb::ListedPage { listed: 6, ..good.clone() },
        pb::ListedPage { skipped: u64::MAX, ..good.clone() },
        pb::ListedPage { listed: 1_001, skipped: 998, ..good.clone() },
        pb::ListedPage { objects: vec![object(""), object("b")], ..good.clone() },
        pb::ListedPage { objects: vec![object(&"k".repeat(1_025)), object("b")], ..good.clone() },
        pb::ListedPage { next_cursor: "c".repeat(16 * 1_024 + 1), ..good.clone() },
        pb::ListedPage { objects: vec![object("a"); 1_001], listed: 1_004, ..good.clone() },
        pb::ListedPage { lease: vec![1; 15].into(), ..good.clone() },
    ];
    for page in broken {
        assert!(reason(decoded(Message::Listed(page.clone()))).is_some(), "{page:?}");
    }
    let failure = pb::Failure { code: "denied".into(), ..pb::Failure::default() };
    let failed = pb::ListedPage { failure: Some(failure), listed: 9, ..good };
    assert!(
        matches!(decoded(Message::Listed(failed)), Event::Listed(_, Err(failure)) if failure.code == "denied")
    );
}

#[test]
fn kinds_of_work_that_nobody_knows_yet_are_ignored() {
    let lists = |kinds: Vec<i32>| {
        let event = decoded(Message::Hello(pb::Hello { kinds, ..hello() }));
        let Event::Hello(hello) = event else { panic!("unexpected {event:?}") };
        hello.worker.lists
    };
    assert!(!lists(vec![]) && !lists(vec![0, 77]) && lists(vec![77, 1]));
}
