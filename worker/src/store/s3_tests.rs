//! The S3 store against servers: the embedded one always, SeaweedFS where it is installed.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use backhaul_embedded_s3::{Bucket, Credentials as StoreCredentials, EmbeddedS3, Options, Storage};
use backhaul_runtime::locations::{Credentials, Location, VerifyLevel};
use tokio::time::{Instant, sleep};

use super::{
    ClientSettings, Clients, ObjectPath, ObjectStore, Pin, S3Store, StoreErrorKind,
    conformance::{Subject, all},
};

fn location(endpoint: &str, credentials: Credentials) -> Location {
    Location {
        name: "test".into(),
        endpoint: Some(endpoint.to_owned()),
        region: "us-east-1".into(),
        path_style: true,
        credentials,
        read: Vec::new(),
        backup: None,
        verify: VerifyLevel::Receipt,
        sha256: false,
        acls: false,
        without: std::collections::BTreeSet::new(),
        limits: backhaul_runtime::locations::RateLimits::default(),
    }
}

fn store(endpoint: &str, id: &str, secret: &str) -> S3Store {
    let clients = Clients::new(ClientSettings::default()).expect("certificates");
    let from = location(endpoint, Credentials::Environment { prefix: "TEST".into() });
    let environment = |name: &str| match name {
        "TEST_ACCESS_KEY_ID" => Some(id.into()),
        "TEST_SECRET_ACCESS_KEY" => Some(secret.into()),
        _ => None,
    };
    clients.store_with(&from, &environment).expect("credentials")
}

async fn embedded() -> EmbeddedS3 {
    EmbeddedS3::start(Options {
        listen: ([127, 0, 0, 1], 0).into(),
        storage: Storage::Memory,
        credentials: vec![StoreCredentials { access_key: "key".into(), secret_key: "secret".into() }],
        buckets: vec![
            Bucket { name: "plain".into(), versioned: false },
            Bucket { name: "versioned".into(), versioned: true },
        ],
    })
    .await
    .expect("start")
}

fn subject(store: S3Store) -> Subject {
    Subject {
        store: Arc::new(store),
        bucket: "plain".into(),
        versioned_bucket: "versioned".into(),
        prefix: "p/".into(),
        part_bytes: 5 * 1024 * 1024,
        any_key: true,
        replaced_parts_vanish: true,
        checksum_of_copies: true,
    }
}

#[tokio::test]
async fn the_embedded_store_does_what_the_engine_relies_on() {
    let server = embedded().await;
    all(&subject(store(&server.endpoint(), "key", "secret"))).await;
    server.shutdown().await;
}

#[tokio::test]
async fn refusals_of_a_server_are_told_apart() {
    let server = embedded().await;
    let at = ObjectPath { bucket: "plain", key: "k" };
    let wrong = store(&server.endpoint(), "key", "wrong-secret");
    let error = wrong.get(at, &Pin::default(), None).await.expect_err("wrong signature");
    assert_eq!(error.kind, StoreErrorKind::Denied);
    assert!(!format!("{error} {error:?}").contains("wrong-secret"));
    server.shutdown().await;
    let error = wrong.get(at, &Pin::default(), None).await.expect_err("nobody listens");
    assert_eq!(error.kind, StoreErrorKind::Connection);
}

#[tokio::test]
async fn seaweedfs_does_what_the_engine_relies_on() {
    let Some(weed) = find_weed() else {
        println!("NOT RUN: SeaweedFS is not installed; set BACKHAUL_TEST_WEED to its `weed` program");
        return;
    };
    let directory = tempfile::tempdir().expect("directory");
    let server = Weed::start(&weed, directory.path()).await;
    server.create_buckets(&["plain", "versioned"]).await;
    let seaweed = Subject {
        // Keeps keys as paths of files.
        any_key: false,
        replaced_parts_vanish: false,
        checksum_of_copies: false,
        ..subject(store(&server.endpoint, "access0", "secret00"))
    };
    all(&seaweed).await;
}

/// A SeaweedFS of a test's own.
pub(crate) struct Weed {
    process: Child,
    pub(crate) endpoint: String,
}

/// Its program, where it is installed.
pub(crate) fn find_weed() -> Option<PathBuf> {
    let named = std::env::var_os("BACKHAUL_TEST_WEED").map(PathBuf::from);
    let on_path = std::env::var_os("PATH")
        .into_iter()
        .flat_map(|path| std::env::split_paths(&path).map(|d| d.join("weed")).collect::<Vec<_>>());
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/bin/weed");
    named.into_iter().chain([tools]).chain(on_path).find(|p| p.is_file())
}

impl Weed {
    pub(crate) async fn start(program: &Path, directory: &Path) -> Self {
        let config = directory.join("s3.json");
        let identity = r#"{"identities":[{"name":"admin","credentials":[{"accessKey":"access0","secretKey":"secret00"}],
            "actions":["Admin","Read","List","Tagging","Write"]}]}"#;
        fs::write(&config, identity).expect("config");
        let [master, volume, filer, s3, iceberg, lance] = std::array::from_fn(|_| free_port());
        let process = Command::new(program)
            .args(["server", "-s3", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"])
            .args(["-master.volumeSizeLimitMB=64", "-volume.max=50"])
            .arg(format!("-dir={}", directory.display()))
            .arg(format!("-s3.config={}", config.display()))
            .arg(format!("-master.port={master}"))
            .arg(format!("-volume.port={volume}"))
            .arg(format!("-filer.port={filer}"))
            .arg(format!("-s3.port={s3}"))
            .arg(format!("-s3.port.iceberg={iceberg}"))
            .arg(format!("-s3.port.lance={lance}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start SeaweedFS");
        Self { process, endpoint: format!("http://127.0.0.1:{s3}") }
    }

    /// Creates the buckets as soon as the server answers.
    pub(crate) async fn create_buckets(&self, names: &[&str]) {
        use aws_sdk_s3::{
            Client,
            config::{BehaviorVersion, Builder, Credentials, Region},
            types::{BucketVersioningStatus, VersioningConfiguration},
        };
        let config = Builder::new()
            .behavior_version(BehaviorVersion::latest())
            .endpoint_url(&self.endpoint)
            .region(Region::new("us-east-1"))
            .force_path_style(true)
            .credentials_provider(Credentials::new("access0", "secret00", None, None, "test"))
            .build();
        let client = Client::from_conf(config);
        let patience = Instant::now() + Duration::from_secs(60);
        for name in names {
            loop {
                match client.create_bucket().bucket(*name).send().await {
                    Ok(_) => break,
                    Err(error) if Instant::now() > patience => panic!("SeaweedFS does not answer: {error:?}"),
                    Err(_) => sleep(Duration::from_millis(100)).await,
                }
            }
            if name.starts_with("versioned") {
                let enabled =
                    VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
                let request = client.put_bucket_versioning().bucket(*name).versioning_configuration(enabled);
                request.send().await.expect("versioning");
            }
        }
    }
}

impl Drop for Weed {
    fn drop(&mut self) {
        self.process.kill().expect("kill SeaweedFS");
        self.process.wait().expect("SeaweedFS ends");
    }
}

/// A port that is free, and whose number plus 10,000 is: SeaweedFS takes that for gRPC.
fn free_port() -> u16 {
    let free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
    std::iter::repeat_with(|| fastrand::u16(20_000..29_000))
        .find(|p| free(*p) && free(p + 10_000))
        .expect("a free port")
}
