//! Who is let in, and as whom: a whole dispatcher with certificates, over loopback.

use std::{fs, time::SystemTime};

use backhaul_proto::v1::{DrainReason, FromWorker, from_dispatcher, from_worker};
use backhaul_runtime::tls::TlsSettings;
use hyper_util::rt::TokioIo;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Endpoint, Uri};

use super::*;
use crate::queue::walk::memory::MemoryWalks;
use crate::transport::testing::Pipes;

const DISPATCHER: &str = "spiffe://prod/backhaul/dispatcher";
const WORKER: &str = "spiffe://prod/backhaul/worker";
const CALLER: &str = "spiffe://prod/backhaul/tenant/web";

/// Signs for all programs of a test.
struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        fs::write(folder.path().join("bundle.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { folder, issuer: Issuer::new(params, key) }
    }

    /// The files of a program, whose certificate lasts for that long.
    fn program(&self, file: &str, id: &str, lasts: Duration) -> TlsSettings {
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
            trust_domains: vec!["prod".parse().unwrap()],
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

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A channel of a program.
async fn connect(served: &Served, program: TlsSettings) -> Result<Channel, tonic::transport::Error> {
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

/// Who may call what: every method of the contract by every kind of name. A service that is added is in no row, so nobody may call it.
#[tokio::test]
async fn each_name_may_make_the_calls_of_its_role_and_no_other() {
    let authority = Authority::new();
    let (served, queue) = authority.serve(&[]).await;
    let contract = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let services =
        contract.file.iter().filter(|file| file.package() == "backhaul.v1").flat_map(|f| &f.service);
    let methods: Vec<(&str, &str)> = services
        .flat_map(|service| service.method.iter().map(|method| (service.name(), method.name())))
        .collect();
    assert!(methods.len() > 6, "{methods:?}");
    for (file, id, allowed) in [
        ("caller", CALLER, &["BackupService", "PrefixService"][..]),
        ("operator", "spiffe://prod/backhaul/operator/web", &["BackupService", "PrefixService"]),
        ("worker", WORKER, &["WorkerService"]),
        ("other-dispatcher", DISPATCHER, &[]),
        ("worker-below", "spiffe://prod/backhaul/worker/1", &[]),
        ("no-tenant", "spiffe://prod/backhaul/tenant/Web", &[]),
        ("stranger", "spiffe://prod/x", &[]),
    ] {
        let channel = connect(&served, authority.program(file, id, DAY)).await.unwrap();
        for (service, method) in &methods {
            let path = format!("/backhaul.v1.{service}/{method}");
            let answer = call(channel.clone(), &path).await;
            let is_denied = answer.is_err_and(|status| {
                status.code() == Code::PermissionDenied && told(&status).1 == "ROLE_NOT_ALLOWED"
            });
            assert_eq!(!is_denied, allowed.contains(service), "{id} calls {path}");
        }
        // Whoever is let in may ask for health, which tells of nobody.
        HealthClient::new(channel).check(HealthCheckRequest::default()).await.unwrap();
    }
    assert!(queue.submitted.lock().unwrap().is_empty(), "empty requests submit nothing");
}

/// An empty request to any method, and the first that is answered.
async fn call(channel: Channel, path: &str) -> Result<(), tonic::Status> {
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
