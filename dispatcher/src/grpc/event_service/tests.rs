//! What operators are shown, and what they can do about it. That nobody else can is the door's matter.

use tonic::Code;

use super::*;
use crate::events::{
    parse::Form,
    quarantine::MAX_KEPT_BYTES,
    testing::{Kit, TOKEN, body, record, source, sources},
};

fn service(kit: &Kit) -> Events {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, TOKEN).unwrap();
    Events { intake: Arc::clone(&kit.intake), sources: sources(&file) }
}

async fn listed(events: &Events) -> Vec<pb::QuarantinedEvent> {
    let request = Request::new(pb::ListQuarantinedEventsRequest {});
    events.list_quarantined_events(request).await.unwrap().into_inner().events
}

#[tokio::test]
async fn removals_are_shown_page_by_page_the_latest_first() {
    let (kit, mut seen, mut token) = (Kit::new(), Vec::new(), String::new());
    for n in 0..5 {
        let removed = record("ObjectRemoved:Delete", &format!("users/{n}"));
        kit.intake.take(&source(Form::S3), &body(&[removed])).await.unwrap();
    }
    let events = service(&kit);
    loop {
        let request = pb::ListRemovalsRequest { page_size: 2, page_token: token };
        let page = events.list_removals(Request::new(request)).await.unwrap().into_inner();
        assert!(page.removals.len() <= 2);
        seen.extend(page.removals.into_iter().map(|removal| removal.key));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, ["users/4", "users/3", "users/2", "users/1", "users/0"]);
    for (page_size, token) in [(1001, ""), (1, "x"), (1, "-1")] {
        let request = pb::ListRemovalsRequest { page_size, page_token: token.into() };
        let status = events.list_removals(Request::new(request)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
    }
}

#[tokio::test]
async fn what_is_in_quarantine_is_shown_taken_again_and_discarded() {
    let kit = Kit::new();
    // As if the source had been configured with another form when it came.
    let good = body(&[record("ObjectCreated:Put", "users/a")]);
    kit.intake.set_aside(&source(Form::S3), "the body is not of the source's form", &good).await.unwrap();
    kit.intake.take(&source(Form::S3), b"no \xff JSON").await.unwrap();
    kit.intake.set_aside(&source(Form::S3), "too long", &vec![b' '; MAX_KEPT_BYTES + 1]).await.unwrap();
    let events = service(&kit);
    let [long, odd, mended] = listed(&events).await.try_into().unwrap();
    assert_eq!(
        (odd.source.as_str(), odd.reason.as_str(), odd.size_bytes),
        ("s3", "the body is not UTF-8", 9)
    );
    let get = Request::new(pb::GetQuarantinedEventRequest { id: odd.id.clone() });
    let shown = events.get_quarantined_event(get).await.unwrap().into_inner();
    assert_eq!((shown.event.as_ref(), shown.body.as_ref()), (Some(&odd), b"no \xff JSON".as_slice()));

    let retry = |id: &str| Request::new(pb::RetryQuarantinedEventRequest { id: id.to_owned() });
    let taken = events.retry_quarantined_event(retry(&mended.id)).await.unwrap().into_inner();
    assert!(taken.is_taken && taken.uploads == 1, "{taken:?}");
    assert_eq!(kit.tasks().await.len(), 1);
    let again = events.retry_quarantined_event(retry(&mended.id)).await.unwrap_err();
    assert_eq!(again.code(), Code::NotFound);
    let still = events.retry_quarantined_event(retry(&odd.id)).await.unwrap().into_inner();
    assert!(!still.is_taken && still.unknown == 1, "{still:?}");
    assert_eq!(
        events.retry_quarantined_event(retry(&long.id)).await.unwrap_err().code(),
        Code::FailedPrecondition
    );
    assert_eq!(listed(&events).await.len(), 2, "what is not understood stays");
    // A long one is shown by its beginning and taken whole.
    let records: Vec<String> =
        (0..2_000).map(|n| record("ObjectCreated:Put", &format!("users/{n}"))).collect();
    let large = body(&records);
    assert!(large.len() > 2 * MOST_SHOWN_BYTES);
    kit.intake.set_aside(&source(Form::S3), "the body is not of the source's form", &large).await.unwrap();
    let id = listed(&events).await[0].id.clone();
    let get = Request::new(pb::GetQuarantinedEventRequest { id: id.clone() });
    let shown = events.get_quarantined_event(get).await.unwrap().into_inner();
    assert_eq!(shown.body, large[..MOST_SHOWN_BYTES]);
    let taken = events.retry_quarantined_event(retry(&id)).await.unwrap().into_inner();
    assert!(taken.is_taken && taken.uploads == 2_000, "{taken:?}");

    let gone = Events { sources: Arc::default(), intake: Arc::clone(&kit.intake) };
    assert_eq!(
        gone.retry_quarantined_event(retry(&odd.id)).await.unwrap_err().code(),
        Code::FailedPrecondition
    );

    for was_kept in [true, false] {
        let discard = Request::new(pb::DiscardQuarantinedEventRequest { id: odd.id.clone() });
        let answer = events.discard_quarantined_event(discard).await.unwrap().into_inner();
        assert_eq!(answer.was_kept, was_kept);
    }
    for bad in ["", "x", &"A".repeat(64), &"0".repeat(65)] {
        assert_eq!(
            events.retry_quarantined_event(retry(bad)).await.unwrap_err().code(),
            Code::InvalidArgument
        );
    }
}
