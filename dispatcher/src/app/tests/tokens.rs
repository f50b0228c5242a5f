//! Callers with tokens instead of certificates: a whole dispatcher, over loopback and TLS.

use std::{
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

use backhaul_runtime::tls::{Anonymous, TlsSettings, TrustSettings};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tonic::{
    metadata::MetadataValue,
    transport::{Endpoint, Uri},
};

use super::{
    security::{Authority, CALLER, DAY, DISPATCHER, WORKER, call, connect},
    *,
};
use crate::grpc::{testing::record, tokens::tests::Signer};

const ISSUER: &str = "https://issuer.test";

pub(super) struct Scene {
    pub(super) authority: Authority,
    signer: Signer,
    pub(super) served: Served,
    queue: Arc<ScriptedQueue>,
}

impl Scene {
    async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub(super) async fn start_with(flags: &[&str]) -> Self {
        let (authority, signer) = (Authority::new(), Signer::new());
        let file = |name: &str| authority.folder.path().join(name);
        let (keys, issuers) = (file("keys.json"), file("issuers.toml"));
        fs::write(&keys, signer.jwks().to_string()).unwrap();
        let rule = |subject: &str, tenant: &str, role: &str| {
            format!("[[issuer.caller]]\nsubject = '{subject}'\ntenant = '{tenant}'\nrole = '{role}'\n")
        };
        let head = format!(
            "[[issuer]]\nname = 'test'\nissuer = '{ISSUER}'\naudience = 'backhaul'\nkeys_file = {keys:?}\n"
        );
        let rules = rule("web-app", "web", "submitter")
            + &rule("other-app", "other", "submitter")
            + &rule("viewer", "web", "reader");
        fs::write(&issuers, head + &rules).unwrap();
        let own = authority.program("dispatcher", DISPATCHER, DAY);
        let queue = Arc::new(ScriptedQueue::default());
        let config = Config {
            tls: Some(TlsSettings { anonymous_peers: true, ..own }),
            token_issuers: Some(issuers),
            tls_reload_every: Duration::from_millis(10),
            ..config(flags)
        };
        let app =
            App::bind_with(config, Arc::<ScriptedQueue>::clone(&queue) as _, locations()).await.unwrap();
        let (addr, stop) = (app.addr(), CancellationToken::new());
        let mut running = JoinSet::new();
        running.spawn(app.run(stop.clone()));
        Self { authority, signer, served: Served { addr, stop, running }, queue }
    }

    /// A token of that subject, for so many seconds.
    pub(super) fn token(&self, subject: &str, lasts: u64) -> String {
        #[expect(clippy::disallowed_methods, reason = "the edge: tokens end by the calendar")]
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let claims: Value = json!({ "iss": ISSUER, "aud": "backhaul", "sub": subject, "exp": now + lasts });
        self.signer.token(&claims)
    }

    /// A connection of somebody without a certificate.
    pub(super) async fn anonymous(&self) -> Channel {
        let trust = TrustSettings {
            bundle: self.authority.folder.path().join("bundle.pem"),
            crl: None,
            trust_domains: vec!["prod".parse().unwrap()],
        };
        let anonymous = Anonymous::open(&trust, &DISPATCHER.parse().unwrap()).unwrap();
        let addr = self.served.addr;
        let connect = tower::service_fn(move |_: Uri| {
            let anonymous = anonymous.clone();
            async move { anonymous.connect(TcpStream::connect(addr).await?).await.map(TokioIo::new) }
        });
        Endpoint::from_static("http://dispatcher").connect_with_connector(connect).await.unwrap()
    }
}

pub(super) fn with_token<T>(message: T, token: &str) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    let value = MetadataValue::try_from(format!("Bearer {token}")).unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

#[tokio::test]
async fn a_caller_with_a_token_acts_for_its_tenant_and_sees_no_other() {
    let scene = Scene::start().await;
    let mut client = BackupServiceClient::new(scene.anonymous().await);
    let token = scene.token("web-app", 600);
    client.submit_backup(with_token(submit("users/1"), &token)).await.unwrap();
    assert_eq!(scene.queue.submitted.lock().unwrap()[0].spec.tenant, "web");

    // A header that names another tenant changes nothing, and there is no field for it.
    let mut request = with_token(submit("users/2"), &token);
    request.metadata_mut().insert("x-tenant", MetadataValue::from_static("other"));
    client.submit_backup(request).await.unwrap();
    assert!(scene.queue.submitted.lock().unwrap().iter().all(|task| task.spec.tenant == "web"));

    // A task of `web`: the other's token does not find it, as if there were none.
    let task = record("users/1");
    scene.queue.records.lock().unwrap().push(task.clone());
    let get = || pb::GetBackupRequest { task_id: task.id.to_string() };
    client.get_backup(with_token(get(), &token)).await.unwrap();
    let other = scene.token("other-app", 600);
    let status = client.get_backup(with_token(get(), &other)).await.unwrap_err();
    assert_eq!(told(&status), (Code::NotFound, "TASK_NOT_FOUND".into()));
    // Both came on one connection: a name is a call's, not a connection's.
    client.get_backup(with_token(get(), &token)).await.unwrap();
}

#[tokio::test]
async fn a_token_gives_the_rights_of_its_role_and_never_a_workers() {
    let scene = Scene::start().await;
    let channel = scene.anonymous().await;
    let mut client = BackupServiceClient::new(channel.clone());
    let viewer = scene.token("viewer", 600);
    client.list_backups(with_token(pb::ListBackupsRequest::default(), &viewer)).await.unwrap();
    let status = client.submit_backup(with_token(submit("users/1"), &viewer)).await.unwrap_err();
    assert_eq!(told(&status), (Code::PermissionDenied, "ROLE_NOT_ALLOWED".into()));
    let nobody = scene.token("somebody-else", 600);
    let status =
        client.list_backups(with_token(pb::ListBackupsRequest::default(), &nobody)).await.unwrap_err();
    assert_eq!(told(&status), (Code::PermissionDenied, "ROLE_NOT_ALLOWED".into()));
    let mut workers = WorkerServiceClient::new(channel);
    for subject in ["web-app", "viewer", "somebody-else"] {
        let stream = with_token(tokio_stream::empty(), &scene.token(subject, 600));
        let status = workers.connect(stream).await.unwrap_err();
        assert_eq!(told(&status), (Code::PermissionDenied, "ROLE_NOT_ALLOWED".into()), "{subject}");
    }
    assert!(scene.queue.submitted.lock().unwrap().is_empty());
}

#[tokio::test]
async fn without_a_proof_or_with_two_nothing_is_answered_and_the_reason_is_told() {
    let scene = Scene::start().await;
    let mut anonymous = BackupServiceClient::new(scene.anonymous().await);
    let status = anonymous.submit_backup(submit("users/1")).await.unwrap_err();
    assert_eq!(told(&status), (Code::Unauthenticated, "UNAUTHENTICATED".into()));
    assert_eq!(status.message(), "a certificate or a bearer token is needed");
    let health = call(scene.anonymous().await, "/grpc.health.v1.Health/Check").await.unwrap_err();
    assert_eq!(health.code(), Code::Unauthenticated);
    let status = anonymous.submit_backup(with_token(submit("users/1"), "x.y.z")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);

    let certified = connect(&scene.served, scene.authority.program("caller", CALLER, DAY)).await.unwrap();
    let mut certified = BackupServiceClient::new(certified);
    let both = with_token(submit("users/1"), &scene.token("web-app", 600));
    let status = certified.submit_backup(both).await.unwrap_err();
    assert_eq!(status.message(), "a certificate and a token are two names: send one of them");
    assert!(scene.queue.submitted.lock().unwrap().is_empty());

    // Certificates are what they were.
    certified.submit_backup(submit("users/1")).await.unwrap();
    let worker = connect(&scene.served, scene.authority.program("worker", WORKER, DAY)).await.unwrap();
    let (_open, messages) = tokio::sync::mpsc::channel(1);
    let messages = tokio_stream::wrappers::ReceiverStream::new(messages);
    WorkerServiceClient::new(worker).connect(messages).await.unwrap();
}

#[tokio::test]
async fn a_stream_ends_when_the_token_that_opened_it_does() {
    let scene = Scene::start().await;
    let mut health = HealthClient::new(scene.anonymous().await);
    let request = || HealthCheckRequest { service: String::new() };
    // It ends within seconds: a tenth before the token, which lasts for three.
    let mut short =
        health.watch(with_token(request(), &scene.token("viewer", 3))).await.unwrap().into_inner();
    let mut long =
        health.watch(with_token(request(), &scene.token("viewer", 600))).await.unwrap().into_inner();
    assert!(short.message().await.unwrap().is_some() && long.message().await.unwrap().is_some());
    let ended = short.message().await.unwrap_err();
    assert_eq!(told(&ended), (Code::Unavailable, "REAUTHENTICATE".into()));
    assert!(long.message().now_or_never().is_none(), "the other goes on");
}

#[tokio::test]
async fn an_issuer_that_is_removed_is_believed_no_more_and_what_it_let_in_ends() {
    let scene = Scene::start().await;
    let token = scene.token("viewer", 600);
    let request = || HealthCheckRequest { service: String::new() };
    let channel = scene.anonymous().await;
    let mut watch =
        HealthClient::new(channel.clone()).watch(with_token(request(), &token)).await.unwrap().into_inner();
    assert!(watch.message().await.unwrap().is_some());
    let certified = connect(&scene.served, scene.authority.program("caller", CALLER, DAY)).await.unwrap();
    let mut kept = HealthClient::new(certified).watch(request()).await.unwrap().into_inner();
    assert!(kept.message().await.unwrap().is_some());

    fs::write(scene.authority.folder.path().join("issuers.toml"), "issuer = []").unwrap();
    let ended = watch.message().await.unwrap_err();
    assert_eq!(told(&ended), (Code::Unavailable, "REAUTHENTICATE".into()));
    let again = HealthClient::new(channel).watch(with_token(request(), &token)).await.unwrap_err();
    assert_eq!(told(&again), (Code::Unauthenticated, "UNAUTHENTICATED".into()));
    assert!(kept.message().now_or_never().is_none(), "certificates have nothing to do with it");
}

#[tokio::test]
async fn a_file_of_issuers_that_cannot_be_used_ends_the_start_and_is_named() {
    let authority = Authority::new();
    let issuers = authority.folder.path().join("issuers.toml");
    fs::write(&issuers, "[[issuer]]\nname = 1").unwrap();
    let own = authority.program("dispatcher", DISPATCHER, DAY);
    let config = Config { tls: Some(own), token_issuers: Some(issuers), ..config(&[]) };
    let error = App::bind_with(config, Arc::new(ScriptedQueue::default()), locations()).await.unwrap_err();
    assert!(matches!(&error, AppError::File(_)) && error.to_string().contains("issuers.toml"), "{error}");
}
