//! Every kind of fault of the embedded store's plan at every step of a copy, over HTTP.
//!
//! The steps are fewer and the faults closer to the wire than in `faults`, which tries every request.

use backhaul_embedded_s3::{Action, Operation as Op, Rule};

use super::{
    bytes,
    s3::{LARGE, Servers},
};
use crate::store::{ObjectPath, ObjectStore, Pin};

fn status(status: u16, code: &str) -> Action {
    Action::Status { status, code: code.into(), retry_after: None }
}

/// Faults of any request, none of which may cost more than a repetition.
fn of_any() -> Vec<Action> {
    let slow = std::time::Duration::from_millis(50);
    let asked = Some(std::time::Duration::from_secs(1));
    vec![
        status(500, "InternalError"),
        status(503, "SlowDown"),
        Action::Status { status: 429, code: "TooManyRequests".into(), retry_after: asked },
        Action::Delay(slow),
        Action::LostAnswer,
    ]
}

/// Faults of the bytes of an answer.
fn of_answers(range: bool) -> Vec<Action> {
    let mut all = vec![
        Action::CutBody { after: 0 },
        Action::CutBody { after: 70_000 },
        Action::FlipResponseBit { at: 5 },
        Action::ExtraByte,
    ];
    if range {
        all.extend([Action::IgnoreRange, Action::WrongContentRange]);
    }
    all
}

/// Copies an object with one fault; the bytes arrive, once, and nothing else is there.
async fn survives(servers: &Servers, size: u64, at_origin: bool, rule: Rule) {
    let key = format!("k-{:016x}", fastrand::u64(..));
    let bytes = bytes(size, 1);
    servers.upload(&key, &bytes).await;
    let what = format!("{size}: {rule:?}");
    let rule = if at_origin { rule.key(key.as_str()) } else { rule };
    let plan = if at_origin { servers.origin.faults() } else { servers.vault.faults() };
    let id = plan.add(rule);
    let receipt = servers.copied(&key, &bytes).await;
    assert_eq!(plan.fired(id), 1, "{what}");
    plan.clear();
    assert!(!receipt.already_present && !receipt.backup_key.ends_with("~r1"), "{what}");
    let repaired = format!("{}~r1", receipt.backup_key);
    let repaired = ObjectPath { bucket: "backups", key: &repaired };
    assert!(servers.backups.head(repaired, &Pin::default()).await.is_err(), "{what}: a wrong copy was left");
    let open = servers.backups.list_uploads_under("backups", "copies/", None).await.expect("listing");
    assert_eq!(open.uploads, [], "{what}");
}

#[tokio::test]
async fn small_copies_survive_every_fault_of_the_wire() {
    let servers = Servers::start().await;
    let get = of_any().into_iter().chain(of_answers(false)).chain([Action::StallBody { after: 9 }]);
    for action in get {
        survives(&servers, 100_000, true, Rule::new(Op::GetObject, action)).await;
    }
    let put = [Action::FlipRequestBit { at: 5 }, Action::Hang, status(409, "ConditionalRequestConflict")];
    for action in of_any().into_iter().chain(put) {
        survives(&servers, 100_000, false, Rule::new(Op::PutObject, action)).await;
    }
    servers.stop().await;
}

#[tokio::test]
async fn large_copies_survive_every_fault_of_their_reads() {
    let servers = Servers::start().await;
    // The first read only discovers; the next ones are of parts.
    let slow = [Action::StallBody { after: 100_000 }, Action::Hang];
    for action in of_any().into_iter().chain(of_answers(true)).chain(slow) {
        survives(&servers, LARGE, true, Rule::new(Op::GetObject, action).skip(1)).await;
    }
    servers.stop().await;
}

#[tokio::test]
async fn large_copies_survive_every_fault_around_their_upload() {
    let servers = Servers::start().await;
    for operation in [Op::HeadObject, Op::ListMultipartUploads, Op::CreateMultipartUpload] {
        for action in [status(503, "SlowDown"), Action::LostAnswer] {
            survives(&servers, LARGE, false, Rule::new(operation, action)).await;
        }
    }
    servers.stop().await;
}

#[tokio::test]
async fn large_copies_survive_every_fault_of_their_parts() {
    let servers = Servers::start().await;
    for action in of_any().into_iter().chain([Action::FlipRequestBit { at: 5 }, status(404, "NoSuchUpload")])
    {
        survives(&servers, LARGE, false, Rule::new(Op::UploadPart, action).skip(1)).await;
    }
    servers.stop().await;
}

#[tokio::test]
async fn large_copies_survive_every_fault_of_their_completion() {
    let servers = Servers::start().await;
    let complete = [
        Action::ErrorInBody { code: "InternalError".into() },
        status(404, "NoSuchUpload"),
        status(409, "ConditionalRequestConflict"),
        status(412, "PreconditionFailed"),
        status(400, "InvalidPart"),
    ];
    for action in of_any().into_iter().chain(complete) {
        survives(&servers, LARGE, false, Rule::new(Op::CompleteMultipartUpload, action)).await;
    }
    servers.stop().await;
}

#[tokio::test]
async fn copies_inside_a_store_survive_every_fault_of_the_wire() {
    let servers = Servers::on_one_store().await;
    let in_body = || Action::ErrorInBody { code: "InternalError".into() };
    for action in of_any().into_iter().chain([in_body()]) {
        survives(&servers, 100, false, Rule::new(Op::CopyObject, action)).await;
    }
    for action in of_any().into_iter().chain([in_body(), status(404, "NoSuchUpload")]) {
        survives(&servers, LARGE, false, Rule::new(Op::UploadPartCopy, action)).await;
    }
    for action in of_any().into_iter().chain([in_body(), status(404, "NoSuchUpload")]) {
        survives(&servers, LARGE, false, Rule::new(Op::CompleteMultipartUpload, action)).await;
    }
    for action in of_any() {
        survives(&servers, 100, true, Rule::new(Op::HeadObject, action)).await;
    }
    servers.stop().await;
}
