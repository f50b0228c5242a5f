//! Each fault, as a client meets it.

use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumMode, CompletedMultipartUpload, CompletedPart};
use backhaul_embedded_s3::{Action, Operation, Rule};

use crate::support::{Fixture, PLAIN, noise, refused};

/// Longer than any of these requests takes, shorter than a test run.
const PATIENCE: Duration = Duration::from_secs(60);

async fn with_object(body: &[u8]) -> Fixture {
    let store = Fixture::in_memory().await;
    store.put(PLAIN, "k", body).await;
    store
}

async fn get_body(store: &Fixture) -> Result<Vec<u8>, String> {
    let get = store
        .client
        .get_object()
        .bucket(PLAIN)
        .key("k")
        .send()
        .await
        .map_err(|error| format!("{error:?}"))?;
    get.body.collect().await.map(|body| body.to_vec()).map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_status_is_answered_as_often_as_told() {
    let store = with_object(b"body").await;
    let action = Action::Status {
        status: 503,
        code: "SlowDown".into(),
        retry_after: Some(Duration::from_millis(1500)),
    };
    let rule = store.store.faults().add(Rule::new(Operation::PutObject, action).key("slow").skip(1).times(2));
    let mut outcomes = Vec::new();
    for _ in 0..4 {
        let put =
            store.client.put_object().bucket(PLAIN).key("slow").body(ByteStream::from(noise(2_000_000)));
        let outcome = put.send().await;
        if let Err(error) = &outcome {
            let raw = error.raw_response().expect("an answer");
            assert_eq!(raw.headers().get("retry-after"), Some("2"));
            assert_eq!(refused(outcome), (503, "SlowDown".into()));
            outcomes.push(false);
        } else {
            outcomes.push(true);
        }
    }
    assert_eq!(outcomes, [true, false, false, true]);
    assert_eq!(store.store.faults().fired(rule), 2);
    assert_eq!(store.store.faults().requests(Operation::PutObject), 5);
    store.store.shutdown().await;
}

#[tokio::test]
async fn a_delay_ends_and_the_request_is_carried_out() {
    let store = with_object(b"body").await;
    store.store.faults().add(Rule::any(Action::Delay(Duration::from_millis(20))));
    let before = tokio::time::Instant::now();
    assert_eq!(get_body(&store).await.as_deref(), Ok(&b"body"[..]));
    assert!(before.elapsed() >= Duration::from_millis(20));
    store.store.shutdown().await;
}

#[tokio::test]
async fn a_hanging_request_is_never_answered_and_does_not_stop_the_shutdown() {
    let store = with_object(b"body").await;
    let rule = store.store.faults().add(Rule::new(Operation::GetObject, Action::Hang));
    let get = store.client.get_object().bucket(PLAIN).key("k");
    tokio::select! {
        outcome = get.send() => panic!("answered: {outcome:?}"),
        () = store.store.faults().wait_fired(rule, 1) => {}
    }
    assert_eq!(get_body(&store).await.as_deref(), Ok(&b"body"[..]));
    tokio::time::timeout(PATIENCE, store.store.shutdown()).await.expect("the shutdown is bounded");
}

#[tokio::test]
async fn a_shutdown_closes_what_still_hangs() {
    let store = with_object(b"body").await;
    let rule = store.store.faults().add(Rule::new(Operation::GetObject, Action::Hang));
    let faults = store.store.faults().clone();
    let get = store.client.get_object().bucket(PLAIN).key("k").send();
    let stop = async {
        faults.wait_fired(rule, 1).await;
        tokio::time::timeout(PATIENCE, store.store.shutdown()).await.expect("the shutdown is bounded");
    };
    let (outcome, ()) = tokio::join!(get, stop);
    assert_eq!(refused(outcome), (0, String::new()));
}

#[tokio::test]
async fn a_cut_body_is_an_error_and_not_a_short_object() {
    let body = noise(1_000_000);
    let store = with_object(&body).await;
    for after in [0, 1, 500_000, 999_999] {
        store.store.faults().add(Rule::new(Operation::GetObject, Action::CutBody { after }));
        assert!(get_body(&store).await.is_err(), "cut after {after}");
    }
    assert_eq!(get_body(&store).await, Ok(body));
    store.store.shutdown().await;
}

#[tokio::test]
async fn a_stalled_body_stops_on_an_open_connection() {
    let body = noise(1_000_000);
    let store = with_object(&body).await;
    store.store.faults().add(Rule::new(Operation::GetObject, Action::StallBody { after: 300_000 }));
    let mut get = store.client.get_object().bucket(PLAIN).key("k").send().await.expect("get");
    let mut read = 0;
    while read < 300_000 {
        read += get.body.next().await.expect("more").expect("bytes").len();
    }
    assert_eq!(read, 300_000);
    let more = tokio::time::timeout(Duration::from_millis(50), get.body.next()).await;
    assert!(more.is_err(), "nothing more comes");
    drop(get);
    store.store.shutdown().await;
}

#[tokio::test]
async fn flipped_bits_and_extra_bytes_arrive_as_told() {
    let store = with_object(b"body").await;
    let faults = store.store.faults();
    faults.add(Rule::new(Operation::GetObject, Action::FlipResponseBit { at: 1 }));
    let plain = store.client_without_checksums();
    let raw = async || {
        let get = plain.get_object().bucket(PLAIN).key("k").range("bytes=0-3").send().await.expect("get");
        get.body.collect().await.expect("body").to_vec()
    };
    assert_eq!(raw().await, b"bndy");
    faults.add(Rule::new(Operation::GetObject, Action::ExtraByte));
    assert_eq!(raw().await, b"body!");
    assert_eq!(raw().await, b"body");

    faults.add(Rule::new(Operation::GetObject, Action::FlipResponseBit { at: 0 }));
    let get = store.client.get_object().bucket(PLAIN).key("k").checksum_mode(ChecksumMode::Enabled);
    let get = get.send().await.expect("get");
    assert!(get.body.collect().await.is_err(), "the SDK sees the checksum");
    store.store.shutdown().await;
}

#[tokio::test]
async fn ranges_are_ignored_or_named_wrongly() {
    let store = with_object(b"0123456789").await;
    let get = async || {
        let get =
            store.client.get_object().bucket(PLAIN).key("k").range("bytes=2-3").send().await.expect("get");
        let range = get.content_range().map(str::to_owned);
        (range, get.body.collect().await.expect("body").to_vec())
    };
    store.store.faults().add(Rule::new(Operation::GetObject, Action::IgnoreRange));
    assert_eq!(get().await, (None, b"0123456789".to_vec()));
    store.store.faults().add(Rule::new(Operation::GetObject, Action::WrongContentRange));
    assert_eq!(get().await, (Some("bytes 3-4/10".into()), b"23".to_vec()));
    assert_eq!(get().await, (Some("bytes 2-3/10".into()), b"23".to_vec()));
    store.store.shutdown().await;
}

#[tokio::test]
async fn a_lost_answer_leaves_the_work_done() {
    let store = Fixture::in_memory().await;
    store.store.faults().add(Rule::new(Operation::PutObject, Action::LostAnswer));
    let put = store.client.put_object().bucket(PLAIN).key("k").body(ByteStream::from_static(b"body"));
    assert_eq!(refused(put.send().await), (0, String::new()));
    assert_eq!(store.get(PLAIN, "k").await, b"body");
    store.store.shutdown().await;
}

#[tokio::test]
async fn an_error_in_a_successful_answer_leaves_the_work_undone() {
    let store = with_object(b"body").await;
    let faults = store.store.faults();
    let action = Action::ErrorInBody { code: "InternalError".into() };
    faults.add(Rule::new(Operation::CopyObject, action.clone()));
    let copy = || store.client.copy_object().bucket(PLAIN).key("copy").copy_source("plain/k");
    assert_eq!(refused(copy().send().await), (200, "InternalError".into()));
    assert_eq!(store.keys(PLAIN).await, ["k"]);
    copy().send().await.expect("copy");

    let create = store.client_without_checksums().create_multipart_upload().bucket(PLAIN).key("big");
    let id = create.send().await.expect("create").upload_id.expect("an id");
    let part = store.client.upload_part().bucket(PLAIN).key("big").upload_id(&id).part_number(1);
    let part = part.body(ByteStream::from_static(b"part")).send().await.expect("part");
    let part = CompletedPart::builder().part_number(1).set_e_tag(part.e_tag).build();
    let complete = || {
        let complete = store.client.complete_multipart_upload().bucket(PLAIN).key("big").upload_id(&id);
        complete.multipart_upload(CompletedMultipartUpload::builder().parts(part.clone()).build())
    };
    faults.add(Rule::new(Operation::CompleteMultipartUpload, action));
    assert_eq!(refused(complete().send().await), (200, "InternalError".into()));
    complete().send().await.expect("complete");
    store.store.shutdown().await;
}

#[tokio::test]
async fn a_bit_flipped_on_the_way_in_is_caught_by_any_promise() {
    let store = Fixture::in_memory().await;
    let faults = store.store.faults();
    faults.add(Rule::new(Operation::PutObject, Action::FlipRequestBit { at: 2 }));
    let put = store.client.put_object().bucket(PLAIN).key("k").body(ByteStream::from_static(b"body"));
    assert_eq!(refused(put.send().await), (400, "BadDigest".into()));
    assert_eq!(store.keys(PLAIN).await, Vec::<String>::new());

    faults.add(Rule::new(Operation::PutObject, Action::FlipRequestBit { at: 2 }));
    let put = store.client_without_checksums().put_object().bucket(PLAIN).key("k");
    put.body(ByteStream::from_static(b"body")).send().await.expect("nothing was promised");
    assert_eq!(store.get(PLAIN, "k").await, b"boey");
    store.store.shutdown().await;
}

#[tokio::test]
async fn a_corrupted_store_answers_well_and_returns_something_else() {
    let store = Fixture::in_memory().await;
    store.store.faults().add(Rule::new(Operation::PutObject, Action::CorruptStored { at: 0 }));
    let put = store.client.put_object().bucket(PLAIN).key("k").body(ByteStream::from_static(b"123456789"));
    let put = put.send().await.expect("the store believes it");
    assert_eq!(put.checksum_crc32(), Some("y/Q5Jg=="));
    let get = store.client_without_checksums().get_object().bucket(PLAIN).key("k").range("bytes=0-8");
    let get = get.send().await.expect("get");
    assert_eq!(get.body.collect().await.expect("body").to_vec(), b"023456789");
    store.store.shutdown().await;
}
