//! Requests go to the store that is configured and to nobody else: not where a redirect points, not where a name leads that is not what it
//! was, not into a bucket of somebody else.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use aws_config::{imds, provider_config::ProviderConfig};
use aws_credential_types::provider::ProvideCredentials as _;
use aws_smithy_runtime_api::client::dns::{DnsFuture, ResolveDns};
use backhaul_runtime::{
    address::AddressRule,
    locations::{Credentials, Location, Owners},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::{
    ClientSettings, Clients, ObjectStore as _, Pin, S3Store, ScratchArea, StoreError, StoreErrorKind,
    s3_tests::location,
    s3_verbs::{AT, FROM, verbs},
};

const OWNER: &str = "123456789012";
const SOURCE_OWNER: &str = "210987654321";

/// A server that gives one answer to everything, and remembers what it was asked.
struct Parrot {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<String>>>,
    _serving: JoinSet<()>,
}

impl Parrot {
    async fn new(answer: impl Into<String>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("listen");
        let (address, answer) = (listener.local_addr().expect("address"), answer.into());
        let heard = Arc::new(Mutex::default());
        let mut serving = JoinSet::new();
        let notes = Arc::clone(&heard);
        serving.spawn(async move {
            loop {
                let (connection, _) = listener.accept().await.expect("accept");
                // A client may be gone before it is answered.
                answer_once(connection, &answer, &notes).await.ok();
            }
        });
        Self { address, heard, _serving: serving }
    }

    fn heard(&self) -> Vec<String> {
        std::mem::take(&mut *self.heard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn answer_once(mut stream: TcpStream, answer: &str, heard: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut request = Vec::new();
    let is_whole = |request: &[u8]| {
        let text = String::from_utf8_lossy(request);
        let (head, body) = text.split_once("\r\n\r\n")?;
        let mut lengths = head.lines().filter_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        Some(body.len() >= lengths.next().unwrap_or(0))
    };
    while is_whole(&request) != Some(true) {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let text = String::from_utf8_lossy(&request).into_owned();
    heard.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

/// Names that lead to one address after the other, and stay at the last.
#[derive(Debug, Clone)]
struct Turning(Arc<Mutex<Vec<IpAddr>>>);

impl Turning {
    fn through(addresses: &[&str]) -> Self {
        let addresses = addresses.iter().rev().map(|text| text.parse().expect("an address"));
        Self(Arc::new(Mutex::new(addresses.collect())))
    }
}

impl ResolveDns for Turning {
    fn resolve_dns<'a>(&'a self, _: &'a str) -> DnsFuture<'a> {
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let address = if left.len() > 1 { left.pop() } else { left.last().copied() };
        DnsFuture::ready(Ok(address.into_iter().collect()))
    }
}

fn clients() -> Clients {
    Clients::new(ClientSettings::default()).expect("certificates")
}

fn store_of(clients: &Clients, location: &Location) -> S3Store {
    clients.store_with(location, &|_| Some("test-value".into())).expect("credentials")
}

/// The store at an endpoint, by both ways of sending requests.
fn both(clients: &Clients, change: impl Fn(&mut Location), endpoint: &str) -> [S3Store; 2] {
    let mut location = location(endpoint, Credentials::Environment { prefix: "TEST".into() });
    change(&mut location);
    [store_of(clients, &location), store_of(clients, &location).without_direct()]
}

async fn head(store: &S3Store) -> Result<(), StoreError> {
    store.head(AT, &Pin::default()).await.map(drop)
}

#[tokio::test]
async fn no_redirect_is_followed_by_any_request() {
    let canary = TcpListener::bind(("127.0.0.1", 0)).await.expect("listen");
    let target = canary.local_addr().expect("address");
    let clients = clients();
    for (status, region) in
        [(301, "x-amz-bucket-region: eu-central-1\r\n"), (302, ""), (303, ""), (307, ""), (308, "")]
    {
        let body = "<Error><Code>PermanentRedirect</Code><Message>go there</Message></Error>";
        let answer = format!(
            "HTTP/1.1 {status} Moved\r\nlocation: http://{target}/bucket/key?X-Amz-Signature=s3cr3t\r\n{region}\
             content-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        let server = Parrot::new(answer).await;
        for store in both(&clients, |_| (), &format!("http://{}", server.address)) {
            for (operation, verb) in verbs(&store) {
                let ended = tokio::select! {
                    ended = verb => ended,
                    _ = canary.accept() => panic!("{operation} went on to another host after {status}"),
                };
                let error = ended.expect_err("nothing was done");
                assert_eq!(error.kind, StoreErrorKind::Misdirected, "{operation} {status}: {error}");
                assert!(!error.kind.is_transient() && !error.kind.is_uncertain());
                let said = error.to_string();
                assert!(said.contains(&format!("redirected ({status}) to 127.0.0.1")), "{said}");
                assert!(said.contains("endpoint and region") && !said.contains("s3cr3t"), "{said}");
                assert_eq!(said.contains("in region eu-central-1"), !region.is_empty(), "{said}");
                assert_eq!(server.heard().len(), 1, "{operation} was sent again");
            }
        }
    }
}

#[tokio::test]
async fn a_name_that_comes_to_lead_to_a_forbidden_address_is_not_followed() {
    let server =
        Parrot::new("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
    // 0.0.0.0 is this machine: whoever connected to it would be heard.
    for later in ["0.0.0.0", "169.254.169.254", "fd00:ec2::254", "::ffff:169.254.169.254"] {
        for way in [0, 1] {
            let clients = Clients::over(Turning::through(&["127.0.0.1", "127.0.0.1", later]));
            let endpoint = format!("http://store.test:{}", server.address.port());
            let store = &both(&clients, |_| (), &endpoint)[way];
            for _ in 0..2 {
                assert_eq!(head(store).await.expect_err("no object").kind, StoreErrorKind::NotFound);
                assert_eq!(server.heard().len(), 1);
            }
            for (operation, verb) in verbs(store) {
                let error = verb.await.expect_err("nothing is sent");
                assert_eq!(error.kind, StoreErrorKind::Misdirected, "{operation} to {later}: {error}");
                assert!(error.to_string().contains(later), "{error}");
            }
            assert_eq!(server.heard(), Vec::<String>::new(), "{later} was connected to");
        }
    }
}

#[tokio::test]
async fn a_host_that_is_a_forbidden_address_is_not_connected_to() {
    let server = Parrot::new("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
    let (clients, port) = (clients(), server.address.port());
    for host in ["0.0.0.0", "169.254.169.254", "[fd00:ec2::254]", "[::ffff:169.254.169.254]"] {
        for store in both(&clients, |_| (), &format!("http://{host}:{port}")) {
            let error = head(&store).await.expect_err("nothing is sent");
            assert_eq!(error.kind, StoreErrorKind::Misdirected, "{host}: {error}");
        }
    }
    // What is allowed at one location is not at another, and what is of no machine is never.
    let allowed = |location: &mut Location| location.addresses = AddressRule { allow_link_local: true };
    for store in both(&clients, allowed, &format!("http://0.0.0.0:{port}")) {
        assert_eq!(head(&store).await.expect_err("nothing is sent").kind, StoreErrorKind::Misdirected);
    }
    assert_eq!(server.heard(), Vec::<String>::new());
    for store in both(&clients, allowed, &format!("http://127.0.0.1:{port}")) {
        head(&store).await.expect("what is not forbidden is reached");
    }
}

#[tokio::test]
async fn credentials_are_fetched_from_where_clouds_serve_them() {
    let keys = "{\"Code\":\"Success\",\"Type\":\"AWS-HMAC\",\"AccessKeyId\":\"id\",\"SecretAccessKey\":\"secret\",\
        \"Token\":\"t\",\"LastUpdated\":\"2026-01-01T00:00:00Z\",\"Expiration\":\"2046-01-01T00:00:00Z\"}";
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nx-aws-ec2-metadata-token-ttl-seconds: 600\r\nconnection: close\r\n\r\n{keys}",
        keys.len()
    );
    let server = Parrot::new(answer).await;
    // A forbidden address for stores that is heard here, as 169.254.169.254 would not be.
    let config = ProviderConfig::default().with_http_client(clients().for_credentials().clone());
    let client = imds::Client::builder()
        .configure(&config)
        .endpoint(format!("http://0.0.0.0:{}", server.address.port()))
        .expect("an address")
        .build();
    let provider = imds::credentials::ImdsCredentialsProvider::builder()
        .configure(&config)
        .imds_client(client)
        .profile("role")
        .build();
    let found = provider.provide_credentials().await.expect("credentials");
    assert_eq!(found.access_key_id(), "id");
    assert!(server.heard().iter().any(|request| request.contains("/iam/security-credentials")));
}

#[tokio::test]
async fn every_request_says_whose_bucket_is_meant() {
    let denied = "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let server = Parrot::new(denied).await;
    let (clients, endpoint) = (clients(), format!("http://{}", server.address));
    let owned =
        |location: &mut Location| location.owners = Owners::all_of(OWNER).but(FROM.bucket, SOURCE_OWNER);
    for store in both(&clients, owned, &endpoint) {
        for (operation, verb) in verbs(&store) {
            let error = verb.await.expect_err("denied");
            assert_eq!(error.kind, StoreErrorKind::Denied, "{error}");
            assert!(error.to_string().contains("unless bucket belongs to 123456789012 (owner)"), "{error}");
            let heard = server.heard();
            let [request] = &heard[..] else { panic!("{operation}: {heard:?}") };
            assert!(names_owner(request, "x-amz-expected-bucket-owner", OWNER), "{operation}: {request}");
            let copies = request.contains("x-amz-copy-source: ");
            let names_source = names_owner(request, "x-amz-source-expected-bucket-owner", SOURCE_OWNER);
            assert_eq!(names_source, copies, "{request}");
            let blames_source = error.to_string().contains("unless source belongs to 210987654321 (owner)");
            assert_eq!(blames_source, copies, "{error}");
        }
        let area = ScratchArea::new(&store, "bucket", "p/").expect("random bytes");
        area.list("").await.expect_err("denied");
        area.keeps_versions().await.expect_err("denied");
        area.can_lock().await.expect_err("denied");
        area.remove_all().await.expect_err("denied");
        let heard = server.heard();
        assert_eq!(heard.len(), 5, "versions are listed, then objects: {heard:?}");
        assert!(
            heard.iter().all(|request| names_owner(request, "x-amz-expected-bucket-owner", OWNER)),
            "{heard:?}"
        );
    }
    for store in both(&clients, |_| (), &endpoint) {
        for (_, verb) in verbs(&store) {
            assert!(!verb.await.expect_err("denied").to_string().contains("owner"));
        }
        assert!(server.heard().iter().all(|request| !request.contains("expected-bucket-owner")));
    }
}

/// Whether the header is there, and cannot be taken out on the way.
fn names_owner(request: &str, header: &str, owner: &str) -> bool {
    let signed = request.split("SignedHeaders=").nth(1).and_then(|rest| rest.split(',').next());
    request.contains(&format!("\r\n{header}: {owner}\r\n"))
        && signed.is_some_and(|names| names.split(';').any(|name| name == header))
}
