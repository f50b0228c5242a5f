//! Who is let in, and as whom: a whole dispatcher with certificates, over loopback.

use std::{fs, io, time::SystemTime};

use backhaul_proto::v1::{DrainReason, FromWorker, from_dispatcher, from_worker};
use backhaul_runtime::tls::TlsSettings;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Endpoint, Uri};

use super::*;
use crate::{
    grpc::access::{CONNECT, Role, STATS_OF_ALL, TABLE, Who},
    queue::walk::memory::MemoryWalks,
    transport::testing::Pipes,
};

pub(super) const DISPATCHER: &str = "spiffe://prod/backhaul/dispatcher";
pub(super) const WORKER: &str = "spiffe://prod/backhaul/worker";
pub(super) const CALLER: &str = "spiffe://prod/backhaul/tenant/web";

/// Signs for all programs of a test.
pub(super) struct Authority {
    pub(super) folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        fs::write(folder.path().join("bundle.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { folder, issuer: Issuer::new(params, key) }
    }

    /// The files of a program, whose certificate lasts for that long.
    pub(super) fn program(&self, file: &str, id: &str, lasts: Duration) -> TlsSettings {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        #[expect(clippy::disallowed_methods, reason = "the edge: certificates end by the calendar")]
        let now = SystemTime::now();
        params.not_after = (now + lasts).into();
        let key = KeyPair::generate().unwrap();
        let path = |end: &str| self.folder.path().join(format!("{file}.{end}"));
        fs::write(path("pem"), params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        fs::write(path("key"), key.serialize_pem()).unwrap();
        TlsSettings {
            certificate: path("pem"),
            key: path("key"),
            bundle: self.folder.path().join("bundle.pem"),
            crl: None,
            trust_domains: vec!["prod".parse().unwrap()],
            anonymous_peers: false,
        }
    }

    async fn serve(&self, flags: &[&str]) -> (Served, Arc<ScriptedQueue>) {
        let own = self.program("dispatcher", DISPATCHER, DAY);
        let queue = Arc::new(ScriptedQueue::default());
        let config = Config { tls: Some(own), ..config(flags) };
        let app =
            App::bind_with(config, Arc::<ScriptedQueue>::clone(&queue) as _, locations()).await.unwrap();
        let app = app.with_walks(Arc::new(MemoryWalks::new(2, DAY, QueueClock::Server)));
        let (addr, stop) = (app.addr(), CancellationToken::new());
        let mut running = JoinSet::new();
        running.spawn(app.run(stop.clone()));
        (Served { addr, stop, running }, queue)
    }
}

pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);

/// A channel of a program.
pub(super) async fn connect(
    served: &Served,
    program: TlsSettings,
) -> Result<Channel, tonic::transport::Error> {
    let (tls, _reloader) = Tls::open(program).unwrap();
    let addr = served.addr;
    let connect = tower::service_fn(move |_: Uri| {
        let tls = tls.clone();
        async move {
            let io = TcpStream::connect(addr).await?;
            tls.connect(io, &DISPATCHER.parse().unwrap()).await.map(TokioIo::new)
        }
    });
    Endpoint::from_static("http://dispatcher").connect_with_connector(connect).await
}

#[tokio::test]
async fn a_caller_acts_for_the_tenant_in_its_name() {
    let authority = Authority::new();
    let (served, queue) = authority.serve(&[]).await;
    let channel = connect(&served, authority.program("caller", CALLER, DAY)).await.unwrap();
    BackupServiceClient::new(channel).submit_backup(submit("users/1")).await.unwrap();
    assert_eq!(queue.submitted.lock().unwrap()[0].spec.tenant, "web");
}

/// Every row of the table by every role, and by names that have none.
#[tokio::test]
async fn each_name_may_do_what_the_table_gives_its_role_and_nothing_else() {
    let authority = Authority::new();
    let (served, queue) = authority.serve(&[]).await;
    for (file, id, role) in [
        ("submitter", CALLER, Some(Role::Submitter)),
        ("reader", "spiffe://prod/backhaul/reader/web", Some(Role::Reader)),
        ("operator", "spiffe://prod/backhaul/operator/web", Some(Role::Operator)),
        ("worker", WORKER, Some(Role::Worker)),
        // Its way in is another port.
        ("event-source", "spiffe://prod/backhaul/event-source/web", Some(Role::EventSource)),
        ("other-dispatcher", DISPATCHER, None),
        ("worker-below", "spiffe://prod/backhaul/worker/1", None),
        ("no-tenant", "spiffe://prod/backhaul/tenant/Web", None),
        ("stranger", "spiffe://prod/x", None),
    ] {
        let channel = connect(&served, authority.program(file, id, DAY)).await.unwrap();
        for (what, who) in TABLE {
            let expected = match who {
                Who::Everybody => true,
                Who::Roles(roles) => role.is_some_and(|role| roles.contains(&role)),
            };
            let refused = attempt(channel.clone(), what).await.err();
            let is_denied = refused.as_ref().is_some_and(|status| status.code() == Code::PermissionDenied);
            assert_eq!(!is_denied, expected, "{id} does {what}: {refused:?}");
        }
        // What has no row is closed to everybody.
        let unknown = call(channel, "/backhaul.v1.BackupService/DeleteEverything").await.unwrap_err();
        assert_eq!(told(&unknown), (Code::Unimplemented, "NO_SUCH_CALL".into()));
    }
    assert!(queue.submitted.lock().unwrap().is_empty(), "empty requests submit nothing");
}

/// Does what a row of the table is about.
async fn attempt(channel: Channel, what: &str) -> Result<(), tonic::Status> {
    let Some((path, part)) = what.split_once('#') else { return call(channel, what).await };
    if what == STATS_OF_ALL {
        let request = pb::GetQueueStatsRequest { all_tenants: true, max_tenants: 0 };
        return BackupServiceClient::new(channel).get_queue_stats(request).await.map(drop);
    }
    assert_eq!(path, CONNECT);
    let hello = from_worker::Message::Hello(crate::dispatch::testing::hello("w", 1));
    let message = match part {
        "hello" => None,
        "credit" => Some(from_worker::Message::Credit(pb::Credit::default())),
        "accepts" => Some(from_worker::Message::Accepts(pb::Accepts::default())),
        "heartbeat" => Some(from_worker::Message::Heartbeat(pb::Heartbeat { seq: 1, held: vec![] })),
        "results" => Some(from_worker::Message::Results(pb::Results::default())),
        "draining" => Some(from_worker::Message::Draining(pb::Draining::default())),
        "paused" => Some(from_worker::Message::Paused(pb::Paused::default())),
        "listed" => Some(from_worker::Message::Listed(pb::ListedPage::default())),
        other => panic!("no such message: {other}"),
    };
    let said = [Some(hello), message].into_iter().flatten();
    let said: Vec<_> = said.map(|message| FromWorker { message: Some(message) }).collect();
    let mut answers = WorkerServiceClient::new(channel).connect(tokio_stream::iter(said)).await?.into_inner();
    while answers.message().await?.is_some() {}
    Ok(())
}

/// An empty request to any method, and the first that is answered.
pub(super) async fn call(channel: Channel, path: &str) -> Result<(), tonic::Status> {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let request = tonic::Request::new(tokio_stream::once(()));
    client.streaming(request, path.parse().unwrap(), codec).await.map(drop)
}

#[tokio::test]
async fn without_a_certificate_nothing_is_answered() {
    let authority = Authority::new();
    let (served, queue) = authority.serve(&[]).await;
    let calls = match served.plain().await {
        Ok(channel) => BackupServiceClient::new(channel).submit_backup(submit("users/1")).await.map(drop),
        Err(_) => Err(tonic::Status::unavailable("no connection")),
    };
    assert!(calls.is_err());
    assert!(queue.submitted.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_worker_whose_certificate_is_about_to_end_is_asked_to_prove_itself_anew() {
    let authority = Authority::new();
    let own = authority.program("dispatcher", DISPATCHER, DAY);
    let (door, pipes) = Pipes::new();
    let config = Config { tls: Some(own), ..config(&["--lease", "1h"]) };
    let app = App::on(pipes, config, Arc::new(ScriptedQueue::default()), locations()).unwrap();
    let mut running = JoinSet::new();
    running.spawn(app.run(CancellationToken::new()));

    let lasts = Duration::from_secs(600);
    let (tls, _reloader) = Tls::open(authority.program("worker", WORKER, lasts)).unwrap();
    let secured = tls.connect(door.connect().await, &DISPATCHER.parse().unwrap()).await.unwrap();
    let mut secured = Some(TokioIo::new(secured));
    let connect = tower::service_fn(move |_: Uri| {
        let secured = secured.take().ok_or_else(|| io::Error::other("a connection is made once"));
        async move { secured }
    });
    let channel = Endpoint::from_static("http://dispatcher").connect_with_connector(connect).await.unwrap();
    let (out, messages) = tokio::sync::mpsc::channel(4);
    let hello = crate::dispatch::testing::hello("w", 1);
    out.send(FromWorker { message: Some(from_worker::Message::Hello(hello)) }).await.unwrap();
    let mut inbound =
        WorkerServiceClient::new(channel).connect(ReceiverStream::new(messages)).await.unwrap().into_inner();
    let start = Instant::now();
    loop {
        if let Some(from_dispatcher::Message::Drain(drain)) =
            inbound.message().await.unwrap().expect("an order before the end").message
        {
            assert_eq!(drain.reason(), DrainReason::Reauthenticate);
            break;
        }
    }
    assert!(start.elapsed() < lasts, "while the certificate still lasts");
    // It does not move, and is cut off: the order, not its certificate, was all that kept the stream.
    let ended = loop {
        match inbound.message().await {
            Ok(Some(_)) => {}
            Ok(None) => break None,
            Err(status) => break Some(status.code()),
        }
    };
    assert!(matches!(ended, Some(Code::Unavailable | Code::Unknown) | None), "{ended:?}");
    assert!(start.elapsed() <= lasts);
}

#[tokio::test]
async fn material_that_cannot_be_used_ends_the_start_and_is_named() {
    let authority = Authority::new();
    let own = authority.program("dispatcher", DISPATCHER, DAY);
    fs::write(&own.key, "no key").unwrap();
    let config = Config { tls: Some(own), ..config(&[]) };
    let error = App::bind_with(config, Arc::new(ScriptedQueue::default()), locations()).await.unwrap_err();
    assert!(matches!(&error, AppError::Tls(_)) && error.to_string().contains("dispatcher.key"), "{error}");
}

#[test]
fn what_holds_a_secret_shows_none_of_it() {
    use crate::{
        config::RedisUrl,
        events::sources::{StreamOptions, Tokens},
        queue::LeaseToken,
    };
    let secret = "canary-0123456789abcdef";
    let url = format!("redis://user:{secret}@127.0.0.1:6379/0");
    let stream = StreamOptions { url: url.clone(), stream: "s".into(), group: "g".into(), field: "f".into() };
    let lease = LeaseToken::from_bytes(*b"canary-012345678");
    let redis: RedisUrl = url.parse().unwrap();
    let flags = config(&["--redis-url", &url]);
    let shown = format!("{redis:?} {stream:?} {:?} {lease:?} {flags:?}", Tokens::new([secret]));
    assert!(!shown.contains("canary") && !shown.contains("63616e617279"), "{shown}");
}

#[tokio::test]
async fn tokens_of_event_sources_come_in_plaintext_only_where_that_is_asked_for() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let (token, sources) = (folder.path().join("token"), folder.path().join("sources.toml"));
    fs::write(&token, crate::events::testing::TOKEN).unwrap();
    let text =
        "[[event_source]]\nname = 'o'\nform = 's3'\nlocation = 'uploads'\ntenant = 'web'\ntoken_file = ";
    fs::write(&sources, format!("{text}{token:?}\n")).unwrap();
    let bind = async |insecure: bool| {
        let config = Config {
            tls: Some(authority.program("dispatcher", DISPATCHER, DAY)),
            events_listen: Some(([127, 0, 0, 1], 0).into()),
            event_sources: Some(sources.clone()),
            events_insecure: insecure,
            ..config(&[])
        };
        App::bind_with(config, Arc::new(ScriptedQueue::default()), locations()).await
    };
    let error = bind(false).await.unwrap_err();
    assert!(matches!(error, AppError::PlainTokens), "{error}");
    assert!(bind(true).await.unwrap().events_addr().is_some());
}
