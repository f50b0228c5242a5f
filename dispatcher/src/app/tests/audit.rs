//! What a served dispatcher records: every decision, with who asked for it, and nothing secret.

use std::{fs, path::Path, sync::Mutex};

use backhaul_proto::v1::task_result::Outcome;
use backhaul_runtime::{audit::Verification, tls::TlsSettings};
use serde_json::Value;

use super::{
    journey::{Worker, receipt},
    security::{Authority, CALLER, DAY, WORKER, connect},
    tokens::{Scene, with_token},
    *,
};
use crate::{grpc::testing::record, queue::memory::MemoryQueue};

/// A dispatcher with an audit log.
struct Audited {
    served: Served,
    dir: tempfile::TempDir,
}

impl Audited {
    async fn serve(queue: Arc<dyn TaskQueue>, flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let own = ["--audit-log", path.to_str().unwrap()];
        let served = serve_queue(config(&[&own, flags].concat()), queue).await;
        Self { served, dir }
    }

    /// Stops the dispatcher and gives the lines of its log, which must be whole.
    async fn ended(self) -> Vec<Value> {
        self.ended_with_text().await.0
    }

    async fn ended_with_text(self) -> (Vec<Value>, String) {
        self.served.stop.cancel();
        self.served.ended().await.unwrap();
        let path = self.dir.path().join("audit.jsonl");
        (lines(&path), fs::read_to_string(&path).unwrap())
    }
}

fn lines(path: &Path) -> Vec<Value> {
    let report = Verification { files: vec![path.to_owned()], ..Verification::default() }.run().unwrap();
    assert!(report.flaw.is_none() && !report.is_cut_off, "{report:?}");
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The calls of that name.
fn calls<'l>(lines: &'l [Value], rpc: &str) -> Vec<&'l Value> {
    let path = format!("/backhaul.v1.BackupService/{rpc}");
    lines.iter().filter(|line| line["event"] == "call" && line["rpc"] == path.as_str()).collect()
}

#[tokio::test]
async fn each_call_is_recorded_with_who_made_it_and_what_came_of_each_task() {
    let mut foreign = record("users/of-another");
    foreign.spec.tenant = "other".to_owned();
    let (own, foreign_id) = (record("users/1"), foreign.id.to_string());
    let own_id = own.id.to_string();
    let queue = ScriptedQueue { records: Mutex::new(vec![own, foreign]), ..ScriptedQueue::default() };
    let audited = Audited::serve(Arc::new(queue), &[]).await;
    let mut backups = audited.served.backups().await;
    let hostile = "users/\u{1b}[31m\n{\"seq\":1,\"decision\":\"allowed\"}\u{2028}";
    let mut too_long = submit("users/2");
    too_long.object.as_mut().unwrap().bucket = "b".repeat(64);
    let requests = vec![submit(hostile), submit("private/1"), too_long];
    backups.submit_backups(pb::SubmitBackupsRequest { requests }).await.unwrap();
    backups.submit_backup(submit("private/2")).await.unwrap_err();
    for id in [&own_id, &foreign_id] {
        backups.get_backup(pb::GetBackupRequest { task_id: id.clone() }).await.ok();
    }
    backups.cancel_backup(pb::CancelBackupRequest { task_id: own_id.clone() }).await.unwrap_err();
    let said = audited.ended().await;
    assert_eq!((&said[0]["event"], &said.last().unwrap()["event"]), (&"start".into(), &"stop".into()));

    let batch = calls(&said, "SubmitBackups")[0];
    for (field, value) in [
        ("decision", "allowed"),
        ("code", "Ok"),
        ("name", "anybody"),
        ("role", "submitter"),
        ("tenant", "web"),
    ] {
        assert_eq!(batch[field], value, "{batch}");
    }
    assert!(batch["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{batch}");
    let tasks = batch["tasks"].as_array().unwrap();
    let refused = |task: &Value| task["refused"].as_str().map(str::to_owned);
    assert_eq!(
        tasks.iter().map(refused).collect::<Vec<_>>(),
        [Some("not granted".to_owned()), Some("invalid fields".to_owned()), None]
    );
    assert_eq!((&tasks[2]["key"], &tasks[2]["outcome"]), (&hostile.into(), &"created".into()));

    let single = calls(&said, "SubmitBackup")[0];
    assert_eq!((&single["decision"], &single["reason"]), (&"refused".into(), &"KEY_NOT_ALLOWED".into()));
    assert_eq!(single["tasks"][0]["key"], "private/2");
    let looks = calls(&said, "GetBackup");
    assert_eq!((&looks[0]["decision"], &looks[0]["task"]), (&"allowed".into(), &own_id.into()));
    assert_eq!((&looks[1]["decision"], &looks[1]["reason"]), (&"refused".into(), &"TASK_NOT_FOUND".into()));
    assert_eq!(looks[1]["tasks"][0]["owner"], "other", "the log knows what the caller is not told");
    let cancel = calls(&said, "CancelBackup")[0];
    assert_eq!((&cancel["decision"], &cancel["code"]), (&"failed".into(), &"Unavailable".into()));
    assert_eq!(cancel["tasks"][0]["outcome"], "queue unavailable");
}

#[tokio::test]
async fn whoever_is_not_let_in_is_recorded_and_health_is_not() {
    let audited = Audited::serve(Arc::new(ScriptedQueue::default()), &[]).await;
    until(&mut audited.served.watch(BACKUPS).await, ServingStatus::Serving).await;
    let mut grpc = tonic::client::Grpc::new(audited.served.channel().await);
    grpc.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<pb::GetBackupRequest, pb::Backup>::default();
    let path = http::uri::PathAndQuery::from_static("/backhaul.v1.BackupService/DeleteEverything");
    grpc.unary(tonic::Request::new(pb::GetBackupRequest::default()), path, codec).await.unwrap_err();
    let said = audited.ended().await;
    assert!(!said.iter().any(|line| line["rpc"].as_str().is_some_and(|rpc| rpc.contains("Health"))));
    let refused = calls(&said, "DeleteEverything")[0];
    assert_eq!((&refused["decision"], &refused["reason"]), (&"refused".into(), &"NO_SUCH_CALL".into()));
    assert_eq!(refused["name"], "anybody");
}

#[tokio::test]
async fn what_a_worker_is_given_and_reports_is_recorded_without_its_leases() {
    let queue = MemoryQueue::new(config(&[]).queue, QueueClock::Server);
    let audited = Audited::serve(Arc::new(queue), &[]).await;
    let mut worker = Worker::connect(&audited.served, 1).await;
    let mut backups = audited.served.backups().await;
    let task = backups.submit_backup(submit("users/1")).await.unwrap().into_inner().task_id;
    let assignment = worker.accept().await;
    let forged = pb::Assignment { lease: vec![7; 16].into(), ..assignment.clone() };
    for lease in [&forged, &assignment] {
        worker.report(lease, Outcome::Receipt(receipt())).await;
    }
    drop(worker);
    let (said, text) = audited.ended_with_text().await;
    for secret in [&forged.lease, &assignment.lease] {
        assert!(!text.contains(&hex::encode(secret)), "a lease is in the log");
    }
    let of = |event: &str| said.iter().filter(|line| line["event"] == event).collect::<Vec<_>>();
    let (lease, reports) = (of("lease")[0], of("report"));
    assert_eq!(lease["tasks"][0]["task"], task.as_str());
    assert_eq!((&lease["tasks"][0]["key"], &lease["tasks"][0]["tenant"]), (&"users/1".into(), &"web".into()));
    assert_eq!(of("hello")[0]["session"], lease["session"]);
    let outcomes: Vec<_> =
        reports.iter().map(|line| (&line["tasks"][0]["decision"], &line["tasks"][0]["outcome"])).collect();
    assert_eq!(outcomes, [(&"refused".into(), &"fenced".into()), (&"allowed".into(), &"done".into())]);
    assert_eq!(reports[1]["tasks"][0]["receipt"]["backup"]["key"], receipt().backup.unwrap().key);
    assert_eq!((&reports[1]["role"], &reports[1]["session"]), (&"worker".into(), &lease["session"]));
    assert_eq!(of("stream_end")[0]["session"], lease["session"]);
}

/// Who has proved a name, by certificate or token, is on record with it, whatever it says of itself and whatever comes of it.
#[tokio::test]
async fn entries_name_who_has_proved_a_name_and_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let scene = Scene::start_with(&["--audit-log", path.to_str().unwrap()]).await;
    let (app, viewer) = (scene.token("web-app", 600), scene.token("viewer", 600));
    let forged = scene.token("web-app", 600) + "A";
    let mut anonymous = BackupServiceClient::new(scene.anonymous().await);
    let program = |file: &str, id: &str| connect(&scene.served, scene.authority.program(file, id, DAY));
    let mut certified = BackupServiceClient::new(program("caller", CALLER).await.unwrap());
    // Calls.
    let mut posing = with_token(submit("users/1"), &app);
    posing.metadata_mut().insert("x-tenant", tonic::metadata::MetadataValue::from_static("other"));
    anonymous.submit_backup(posing).await.unwrap();
    certified.submit_backup(submit("users/2")).await.unwrap();
    // Streams.
    let watching = || pb::WatchBackupsRequest { task_ids: Vec::new(), ..Default::default() };
    anonymous.watch_backups(with_token(watching(), &viewer)).await.ok();
    let (open, messages) = tokio::sync::mpsc::channel(1);
    let messages = tokio_stream::wrappers::ReceiverStream::new(messages);
    let mut worker = WorkerServiceClient::new(program("worker", WORKER).await.unwrap());
    let mut stream = worker.connect(messages).await.unwrap().into_inner();
    drop(open);
    stream.message().await.ok();
    // Refusals: of a role, of a token that is none, of nobody, and of a connection.
    anonymous.submit_backup(with_token(submit("users/3"), &viewer)).await.unwrap_err();
    anonymous.submit_backup(with_token(submit("users/4"), &forged)).await.unwrap_err();
    anonymous.submit_backup(submit("users/5")).await.unwrap_err();
    // Of an authority that nobody here trusts, which its name does not help.
    let other = Authority::new();
    let bundle = scene.authority.folder.path().join("bundle.pem");
    let stranger = TlsSettings { bundle, ..other.program("stranger", CALLER, DAY) };
    let answer = match connect(&scene.served, stranger).await {
        Ok(channel) => BackupServiceClient::new(channel).submit_backup(submit("users/6")).await.is_ok(),
        Err(_) => false,
    };
    assert!(!answer);

    scene.served.stop.cancel();
    scene.served.ended().await.unwrap();
    let said = lines(&path);
    let who = |line: &Value| {
        let text = |field: &str| line[field].as_str().unwrap_or("-").to_owned();
        assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
        [text("name"), text("role"), text("tenant"), text("decision")]
    };
    let submits: Vec<_> = calls(&said, "SubmitBackup").into_iter().map(who).collect();
    assert_eq!(
        submits,
        [
            ["token:test:web-app", "submitter", "web", "allowed"],
            [CALLER, "submitter", "web", "allowed"],
            ["token:test:viewer", "reader", "web", "refused"],
            // What nobody has proved is not written down, as if it were a name.
            ["-", "-", "-", "refused"],
            ["-", "-", "-", "refused"],
        ]
    );
    let watch = who(calls(&said, "WatchBackups")[0]);
    assert_eq!(watch[..3], ["token:test:viewer", "reader", "web"]);
    let event = |name: &str| said.iter().find(|line| line["event"] == name).unwrap();
    let connects = said.iter().find(|line| line["rpc"] == crate::grpc::access::CONNECT).unwrap();
    let end = event("stream_end");
    assert_eq!((&end["name"], &end["role"]), (&WORKER.into(), &"worker".into()));
    assert_eq!((&connects["name"], &connects["session"]), (&WORKER.into(), &end["session"]));
    let handshake = event("handshake");
    assert_eq!(who(handshake), ["-", "-", "-", "refused"]);
    assert!(handshake["reason"].as_str().unwrap().contains("certificate"), "{handshake}");
    let text = fs::read_to_string(&path).unwrap();
    for token in [&app, &viewer, &forged] {
        let parts: Vec<_> = token.split('.').collect();
        assert!(!text.contains(parts[1]) && !text.contains(parts[2]), "a token was written down");
    }
}

#[tokio::test]
async fn a_log_that_cannot_be_opened_ends_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let nowhere = dir.path().join("none/audit");
    let bound = App::bind_with(
        config(&["--audit-log", nowhere.to_str().unwrap()]),
        Arc::new(ScriptedQueue::default()),
        locations(),
    );
    assert!(matches!(bound.await.unwrap_err(), AppError::Audit(_)));
}
