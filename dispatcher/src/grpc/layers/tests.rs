//! Tests of what surrounds a call, over the generated client and server without a network.

use std::sync::Arc;

use backhaul_proto::v1 as pb;
use bytes::Bytes;
use http::{HeaderValue, header::CONTENT_TYPE};
use tonic_types::StatusExt as _;

use super::*;
use crate::grpc::{
    ending::Ending,
    testing::{Client, ScriptedQueue, WIDE, client, client_with, made_by, submit, told},
};

fn hanging() -> Arc<ScriptedQueue> {
    Arc::new(ScriptedQueue { hang: true, ..Default::default() })
}

/// Makes a call that hangs in the queue, and the handle of the task that waits for its answer.
async fn start_hanging(
    queue: &Arc<ScriptedQueue>,
    client: &Client,
) -> tokio::task::JoinSet<Result<(), tonic::Status>> {
    let mut calls = tokio::task::JoinSet::new();
    let mut client = client.clone();
    calls.spawn(async move { client.submit_backup(submit("users/1")).await.map(drop) });
    queue.hanging.notified().await;
    calls
}

/// What the served stack says to raw bytes.
async fn raw(path: &str, body: impl Into<Bytes>) -> Response<Ending<Body>> {
    let queue = Arc::new(ScriptedQueue::default());
    let server = crate::grpc::testing::server(&queue, WIDE);
    let mut request = Request::new(Body::new(http_body_util::Full::new(body.into())));
    *request.uri_mut() = path.parse().unwrap();
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let response = tower::ServiceExt::oneshot(server, request).await.unwrap();
    assert!(queue.submitted.lock().unwrap().is_empty());
    response
}

fn framed(length: u32, message: &[u8]) -> Vec<u8> {
    let mut frame = vec![0];
    frame.extend(length.to_be_bytes());
    frame.extend(message);
    frame
}

fn told_raw<B>(response: &Response<B>) -> (Code, String) {
    told(&tonic::Status::from_header_map(response.headers()).expect("an answer without a message"))
}

#[tokio::test]
async fn the_tenant_is_the_callers_and_no_header_or_body_of_a_call_names_another() {
    let queue = Arc::new(ScriptedQueue::default());
    let mut client = client(&queue);
    client.submit_backup(submit("users/1")).await.unwrap();
    assert_eq!(queue.submitted.lock().unwrap()[0].spec.tenant, "web");
    let status = client.submit_backup(made_by("nobody", submit("users/1"))).await.unwrap_err();
    assert_eq!(told(&status), (Code::Unauthenticated, "UNAUTHENTICATED".into()));
    assert_eq!(queue.submitted.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn above_the_limit_of_calls_in_progress_a_call_is_refused_at_once_and_told_when_to_repeat() {
    let queue = hanging();
    let mut client = client_with(&queue, CallLimits { max_calls: 1, ..WIDE });
    let mut calls = start_hanging(&queue, &client).await;

    let status = client.get_backup(pb::GetBackupRequest::default()).await.unwrap_err();
    assert_eq!(told(&status), (Code::ResourceExhausted, "OVERLOADED".into()));
    assert!(status.message().contains("not processed, safe to retry"));
    assert!(status.get_error_details().retry_info().unwrap().retry_delay.unwrap() > Duration::ZERO);

    // The place is free again when the caller goes away, and what the call waited for is dropped.
    calls.shutdown().await;
    queue.dropped.notified().await;
    let status = client.get_backup(pb::GetBackupRequest::default()).await.unwrap_err();
    assert_eq!(told(&status), (Code::InvalidArgument, "INVALID_FIELDS".into()));
}

#[tokio::test]
async fn above_the_rate_a_call_is_refused_and_told_when_to_repeat() {
    let queue = Arc::new(ScriptedQueue::default());
    let mut client = client_with(&queue, CallLimits { calls_per_second: 1, ..WIDE });
    client.submit_backup(submit("users/1")).await.unwrap();
    let status = client.submit_backup(submit("users/2")).await.unwrap_err();
    assert_eq!(told(&status), (Code::ResourceExhausted, "RATE_LIMITED".into()));
    assert!(status.message().contains("not processed, safe to retry"));
    let wait = status.get_error_details().retry_info().unwrap().retry_delay.unwrap();
    assert!(wait > Duration::ZERO && wait <= Duration::from_secs(1), "{wait:?}");
    assert_eq!(queue.submitted.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_call_ends_with_its_deadline_and_everything_it_waited_for_is_dropped() {
    let queue = hanging();
    let mut client = client_with(&queue, CallLimits { deadline: Duration::from_millis(20), ..WIDE });
    let status = client.submit_backup(submit("users/1")).await.unwrap_err();
    assert_eq!(told(&status), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED".into()));
    queue.dropped.notified().await;
}

#[tokio::test]
async fn a_caller_with_less_time_than_the_configured_deadline_gets_its_answer_within_it() {
    let queue = hanging();
    let mut client = client(&queue);
    let mut request = tonic::Request::new(submit("users/1"));
    request.set_timeout(Duration::from_millis(20));
    let status = client.submit_backup(request).await.unwrap_err();
    assert_eq!(told(&status), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED".into()));
    queue.dropped.notified().await;
}

#[tokio::test]
async fn a_body_that_never_ends_is_cut_off_by_the_deadline() {
    let queue = Arc::new(ScriptedQueue::default());
    let server =
        crate::grpc::testing::server(&queue, CallLimits { deadline: Duration::from_millis(20), ..WIDE });
    let (sender, body) = tokio::sync::mpsc::channel::<Result<http_body::Frame<Bytes>, tonic::Status>>(1);
    let body = http_body_util::StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(body));
    let mut request = Request::new(Body::new(body));
    *request.uri_mut() = "/backhaul.v1.BackupService/SubmitBackup".parse().unwrap();
    let response = tower::ServiceExt::oneshot(server, request).await.unwrap();
    assert_eq!(told_raw(&response).0, Code::DeadlineExceeded);
    assert!(sender.is_closed(), "nobody reads the body any more");
}

#[tokio::test]
async fn a_panic_is_an_internal_error_of_one_call_and_says_nothing_to_the_caller() {
    let queue = Arc::new(ScriptedQueue { panic: true, ..Default::default() });
    let mut client = client_with(&queue, CallLimits { max_calls: 1, ..WIDE });
    for _ in 0..3 {
        let status = client.submit_backup(submit("users/1")).await.unwrap_err();
        assert_eq!(told(&status), (Code::Internal, "INTERNAL".into()));
        assert_eq!(status.message(), "internal error");
    }
}

#[tokio::test]
async fn bytes_that_are_not_the_message_are_the_callers_mistake() {
    let path = "/backhaul.v1.BackupService/SubmitBackup";
    let not_utf8 = [0x0a, 0x04, 0x1a, 0x02, 0xff, 0xfe];
    for (what, body) in [
        ("garbage", framed(3, b"\xff\xff\xff")),
        ("key is not UTF-8", framed(6, &not_utf8)),
        ("cut off in the message", framed(100, b"\x0a")),
        ("cut off in the prefix", vec![0, 0]),
        ("no message", vec![]),
        ("compressed, which was not agreed", {
            let mut frame = framed(1, b"x");
            frame[0] = 1;
            frame
        }),
        ("unknown flag", {
            let mut frame = framed(1, b"x");
            frame[0] = 9;
            frame
        }),
    ] {
        let response = raw(path, body).await;
        assert_eq!(told_raw(&response), (Code::InvalidArgument, "MALFORMED_MESSAGE".into()), "{what}");
    }
}

#[tokio::test]
async fn a_message_above_its_limit_is_refused_by_its_announced_size() {
    let announced = u32::try_from(crate::grpc::backup_service::MAX_MESSAGE_BYTES).unwrap() + 1;
    for length in [announced, u32::MAX] {
        let response = raw("/backhaul.v1.BackupService/SubmitBackups", framed(length, b"")).await;
        assert_eq!(told_raw(&response), (Code::InvalidArgument, "MESSAGE_TOO_LARGE".into()));
    }
}

#[tokio::test]
async fn a_call_that_does_not_exist_is_unimplemented() {
    let response = raw("/backhaul.v1.BackupService/DeleteEverything", framed(0, b"")).await;
    assert_eq!(code(&response), Code::Unimplemented);
}

#[test]
fn the_callers_path_never_becomes_a_log_field() {
    assert_eq!(rpc_of("/backhaul.v1.BackupService/ListBackups").as_str(), "ListBackups");
    for hostile in ["/backhaul.v1.BackupService/\u{1b}[31m", "", "/", "ListBackups/x"] {
        assert_eq!(rpc_of(hostile).as_str(), "unknown");
    }
}

/// What a status says of whose calls there are too many of.
fn of_whom(status: &tonic::Status) -> String {
    status.get_error_details().error_info().unwrap().metadata["of"].clone()
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_one_identity_takes_nothing_from_another() {
    let queue = Arc::new(ScriptedQueue::default());
    let limits = CallLimits { calls_per_second: 20, calls_per_second_of_each: 5, ..WIDE };
    let mut client = client_with(&queue, limits);
    let mut refused = 0;
    for _ in 0..1000 {
        if let Err(status) = client.submit_backup(made_by("web", submit("users/1"))).await {
            assert_eq!(told(&status), (Code::ResourceExhausted, "RATE_LIMITED".into()));
            assert_eq!(of_whom(&status), "identity");
            let wait = status.get_error_details().retry_info().unwrap().retry_delay.unwrap();
            assert!(wait > Duration::ZERO && wait <= Duration::from_secs(1), "{wait:?}");
            refused += 1;
        }
    }
    assert_eq!(refused, 995);
    assert_eq!(queue.submitted.lock().unwrap().len(), 5, "the rest never reached the queue");
    for tenant in ["a", "b", "c"] {
        for _ in 0..5 {
            let call = client.get_backup(made_by(tenant, pb::GetBackupRequest::default()));
            assert_eq!(told(&call.await.unwrap_err()).1, "INVALID_FIELDS", "it was let in");
        }
    }
}

#[tokio::test]
async fn calls_of_one_identity_that_hang_leave_room_for_another() {
    let queue = hanging();
    let mut client = client_with(&queue, CallLimits { max_calls: 2, max_calls_of_each: 1, ..WIDE });
    let _calls = start_hanging(&queue, &client).await;
    let get = || pb::GetBackupRequest::default();
    let status = client.get_backup(made_by("web", get())).await.unwrap_err();
    assert_eq!(told(&status), (Code::ResourceExhausted, "OVERLOADED".into()));
    assert_eq!(of_whom(&status), "identity");
    let status = client.get_backup(made_by("other", get())).await.unwrap_err();
    assert_eq!(told(&status), (Code::InvalidArgument, "INVALID_FIELDS".into()), "it was let in");
}
