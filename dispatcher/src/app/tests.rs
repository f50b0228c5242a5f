//! Tests of a whole dispatcher over loopback: what is served, and that it stops in order.

mod audit;
mod journey;
mod security;
mod tokens;

use backhaul_proto::v1::{
    self as pb, backup_service_client::BackupServiceClient, worker_service_client::WorkerServiceClient,
};
use futures_util::FutureExt as _;
use tokio::task::JoinSet;
use tonic::{Code, Streaming, transport::Channel};
use tonic_health::{
    ServingStatus,
    pb::{HealthCheckRequest, HealthCheckResponse, health_client::HealthClient},
};

use super::*;
use crate::grpc::testing::{ScriptedQueue, locations, submit, told, unavailable};

/// A dispatcher under test. Ends with the test.
struct Served {
    addr: SocketAddr,
    stop: CancellationToken,
    running: JoinSet<Result<(), AppError>>,
}

fn config(flags: &[&str]) -> Config {
    let fixed = [
        "backhaul-dispatcher",
        "--insecure",
        "--listen",
        "127.0.0.1:0",
        "--locations",
        "unused",
        "--tenant",
        "web",
    ];
    Config::from_args(fixed.iter().chain(flags)).unwrap()
}

async fn serve_with(queue: ScriptedQueue, flags: &[&str]) -> (Served, Arc<ScriptedQueue>) {
    let queue = Arc::new(queue);
    (serve_queue(config(flags), Arc::<ScriptedQueue>::clone(&queue)).await, queue)
}

async fn serve_queue(config: Config, queue: Arc<dyn TaskQueue>) -> Served {
    let app = App::bind_with(config, queue, locations()).await.unwrap();
    let (addr, stop) = (app.addr(), CancellationToken::new());
    let mut running = JoinSet::new();
    running.spawn(app.run(stop.clone()));
    Served { addr, stop, running }
}

impl Served {
    async fn channel(&self) -> Channel {
        self.plain().await.unwrap()
    }

    async fn plain(&self) -> Result<Channel, tonic::transport::Error> {
        Channel::from_shared(format!("http://{}", self.addr)).unwrap().connect().await
    }

    async fn backups(&self) -> BackupServiceClient<Channel> {
        BackupServiceClient::new(self.channel().await)
    }

    async fn watch(&self, service: &str) -> Streaming<HealthCheckResponse> {
        let request = HealthCheckRequest { service: service.into() };
        HealthClient::new(self.channel().await).watch(request).await.unwrap().into_inner()
    }

    /// The result of the run. There must be an end.
    async fn ended(mut self) -> Result<(), AppError> {
        self.running.join_next().await.unwrap().unwrap()
    }
}

/// Waits until the service has that status.
async fn until(watch: &mut Streaming<HealthCheckResponse>, status: ServingStatus) {
    let wanted = match status {
        ServingStatus::Serving => 1,
        ServingStatus::NotServing => 2,
        ServingStatus::Unknown => 0,
    };
    while watch.message().await.unwrap().expect("the status before the end").status != wanted {}
}

const BACKUPS: &str = "backhaul.v1.BackupService";
const WORKERS: &str = "backhaul.v1.WorkerService";

#[tokio::test]
async fn everything_is_served_on_one_address_and_the_address_file_says_where() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("address");
    let (served, queue) =
        serve_with(ScriptedQueue::default(), &["--address-file", path.to_str().unwrap()]).await;
    until(&mut served.watch(BACKUPS).await, ServingStatus::Serving).await;
    until(&mut served.watch(WORKERS).await, ServingStatus::Serving).await;
    until(&mut served.watch("").await, ServingStatus::Serving).await;
    assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n", served.addr));
    served.backups().await.submit_backup(submit("users/1")).await.unwrap();
    assert_eq!(queue.submitted.lock().unwrap()[0].spec.tenant, "web");

    served.stop.cancel();
    served.ended().await.unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn events_are_taken_on_their_own_port_and_a_stop_lets_one_under_way_end() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let dir = tempfile::tempdir().unwrap();
    let (token, sources) = (dir.path().join("token"), dir.path().join("sources.toml"));
    std::fs::write(&token, crate::events::testing::TOKEN).unwrap();
    let source = format!(
        "[[event_source]]\nname = 'o'\nform = 's3'\nlocation = 'uploads'\ntenant = 'web'\ntoken_file = {token:?}"
    );
    std::fs::write(&sources, source).unwrap();
    let flags = ["--events-listen", "127.0.0.1:0", "--event-sources", sources.to_str().unwrap()];
    let queue = Arc::new(ScriptedQueue::default());
    let app = App::bind_with(config(&flags), Arc::<ScriptedQueue>::clone(&queue), locations()).await.unwrap();
    let (addr, stop) = (app.events_addr().unwrap(), CancellationToken::new());
    let mut running = JoinSet::new();
    running.spawn(app.run(stop.clone()));

    let body =
        crate::events::testing::body(&[crate::events::testing::record("ObjectCreated:Put", "users/a")]);
    let head = format!(
        "POST /events/o HTTP/1.1\r\nhost: o\r\nconnection: close\r\ncontent-length: {}\r\nauthorization: Bearer {}\r\nexpect: 100-continue\r\n\r\n",
        body.len(),
        crate::events::testing::TOKEN
    );
    let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    // It asks for the body, so it has begun with the request.
    let mut answer = vec![0; "HTTP/1.1 100 Continue\r\n\r\n".len()];
    stream.read_exact(&mut answer).await.unwrap();
    stop.cancel();
    stream.write_all(&body).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(queue.submitted.lock().unwrap()[0].spec.object.key, "users/a");
    running.join_next().await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn reflection_describes_both_services_and_health() {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let (served, _queue) = serve_with(ScriptedQueue::default(), &[]).await;
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(served.channel().await);
    let mut answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else { panic!("{answer:?}") };
    let names: Vec<_> = list.service.iter().map(|s| s.name.as_str()).collect();
    for name in [BACKUPS, WORKERS, "grpc.health.v1.Health"] {
        assert!(names.contains(&name), "{names:?}");
    }
}

#[tokio::test]
async fn readiness_follows_the_queue_and_liveness_does_not() {
    let queue = ScriptedQueue::default();
    queue.checks.lock().unwrap().push_back(Err(unavailable()));
    let (served, _queue) = serve_with(queue, &[]).await;
    let mut watch = served.watch(BACKUPS).await;
    until(&mut watch, ServingStatus::NotServing).await;
    until(&mut served.watch("").await, ServingStatus::Serving).await;
    until(&mut watch, ServingStatus::Serving).await;
}

#[tokio::test]
async fn watchers_of_health_learn_of_a_stop_and_do_not_hold_it_up() {
    let (served, _queue) = serve_with(ScriptedQueue::default(), &["--drain-within", "1h"]).await;
    let mut watch = served.watch(WORKERS).await;
    let mut liveness = served.watch("").await;
    until(&mut watch, ServingStatus::Serving).await;
    until(&mut liveness, ServingStatus::Serving).await;
    served.stop.cancel();
    until(&mut watch, ServingStatus::NotServing).await;
    assert!(matches!(watch.message().await, Ok(None)));
    assert!(matches!(liveness.message().await, Ok(None)));
    served.ended().await.unwrap();
}

#[tokio::test]
async fn a_call_in_progress_is_answered_before_the_end() {
    let hang = ScriptedQueue { hang: true, ..Default::default() };
    let (served, queue) = serve_with(hang, &["--drain-within", "1h", "--call-deadline", "100ms"]).await;
    let mut client = served.backups().await;
    let mut calls = JoinSet::new();
    calls.spawn(async move { client.submit_backup(submit("users/1")).await.unwrap_err() });
    queue.hanging.notified().await;
    served.stop.cancel();
    served.ended().await.unwrap();
    assert!(queue.dropped.notified().now_or_never().is_some(), "the run ended before the call had");
    let status = calls.join_next().await.unwrap().unwrap();
    assert_eq!(told(&status), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED".into()));
}

#[tokio::test]
async fn a_call_that_does_not_end_holds_a_stop_up_only_to_its_deadline() {
    let hang = ScriptedQueue { hang: true, ..Default::default() };
    let (served, queue) = serve_with(hang, &["--drain-within", "50ms", "--call-deadline", "1h"]).await;
    let mut client = served.backups().await;
    let mut calls = JoinSet::new();
    calls.spawn(async move { client.submit_backup(submit("users/1")).await });
    queue.hanging.notified().await;
    served.stop.cancel();
    served.ended().await.unwrap();
}

#[tokio::test]
async fn limits_on_calls_do_not_touch_the_streams_of_workers_or_health() {
    let hang = ScriptedQueue { hang: true, ..Default::default() };
    let (served, queue) = serve_with(hang, &["--max-calls", "1"]).await;
    let mut client = served.backups().await;
    let mut calls = JoinSet::new();
    let mut busy = client.clone();
    calls.spawn(async move { busy.submit_backup(submit("users/1")).await });
    queue.hanging.notified().await;
    let status = client.get_backup(pb::GetBackupRequest::default()).await.unwrap_err();
    assert_eq!(told(&status), (Code::ResourceExhausted, "OVERLOADED".into()));

    until(&mut served.watch("").await, ServingStatus::Serving).await;
    // A stream is opened all the same; what is said on it is not the matter here.
    let (_open, messages) = tokio::sync::mpsc::channel(1);
    let messages = tokio_stream::wrappers::ReceiverStream::new(messages);
    let mut worker = WorkerServiceClient::new(served.channel().await);
    worker.connect(messages).await.unwrap();
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused_and_the_connection_lives_on() {
    let (served, queue) = serve_with(ScriptedQueue::default(), &[]).await;
    let mut client = served.backups().await;
    let requests = vec![submit(&format!("users/{}", "k".repeat(4000))); 300];
    let status = client.submit_backups(pb::SubmitBackupsRequest { requests }).await.unwrap_err();
    assert_eq!(told(&status), (Code::InvalidArgument, "MESSAGE_TOO_LARGE".into()));
    client.submit_backup(submit("users/1")).await.unwrap();
    assert_eq!(queue.submitted.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let (served, _queue) = serve_with(ScriptedQueue::default(), &[]).await;
    let config = Config { listen: served.addr, ..config(&[]) };
    let error = App::bind_with(config, Arc::new(ScriptedQueue::default()), locations()).await.unwrap_err();
    assert_eq!(error.to_string(), format!("cannot listen on {}", served.addr));
}

#[tokio::test]
async fn an_address_file_that_cannot_be_written_ends_the_start() {
    let (served, _queue) =
        serve_with(ScriptedQueue::default(), &["--address-file", "/proc/no/such/dir"]).await;
    assert!(matches!(served.ended().await, Err(AppError::AddressFile { .. })));
}
