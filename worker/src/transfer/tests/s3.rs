//! The engine over HTTP, between two embedded stores that go wrong on demand.

use std::{path::Path, sync::Arc, time::Duration};

use backhaul_embedded_s3::{Action, Bucket, Credentials, EmbeddedS3, Operation, Options, Rule, Storage};
use backhaul_runtime::locations::Locations;
use bytes::Bytes;
use futures_util::StreamExt;

use super::{bytes, request};
use crate::{
    store::{
        Attributes, ClientSettings, Clients, ObjectPath, ObjectStore, Payload, Pin, Proof, Put, S3Store, Tag,
        Terms,
    },
    transfer::{
        Copier, CopyReceipt, CopyRequest, Engine, EngineSettings, RetryPolicy, Stop, TransferError,
        key::ParsedKey, metadata::Record,
    },
};

const MIB: u64 = 1024 * 1024;
pub(super) const PART: u64 = 5 * MIB;
/// Two parts: bytes in an unoptimised build are slow, and more parts seldom show more.
pub(super) const LARGE: u64 = PART + 1000;

pub(super) struct Servers {
    pub(super) origin: Arc<EmbeddedS3>,
    pub(super) vault: Arc<EmbeddedS3>,
    photos: S3Store,
    pub(super) backups: S3Store,
    engine: Engine,
    _files: tempfile::TempDir,
}

async fn server(bucket: &str) -> EmbeddedS3 {
    server_of(&[bucket]).await
}

async fn server_of(buckets: &[&str]) -> EmbeddedS3 {
    let buckets = buckets.iter().map(|name| Bucket { name: (*name).into(), versioned: false });
    EmbeddedS3::start(Options {
        listen: ([127, 0, 0, 1], 0).into(),
        storage: Storage::Memory,
        credentials: vec![Credentials { access_key: "key".into(), secret_key: "secret".into() }],
        buckets: buckets.chain([Bucket { name: "versioned".into(), versioned: true }]).collect(),
    })
    .await
    .expect("start")
}

impl Servers {
    pub(super) async fn start() -> Self {
        Self::on(Arc::new(server("uploads").await), Arc::new(server("backups").await)).await
    }

    /// One store on both sides.
    pub(super) async fn on_one_store() -> Self {
        let both = Arc::new(server_of(&["uploads", "backups"]).await);
        Self::on(Arc::clone(&both), both).await
    }

    async fn on(origin: Arc<EmbeddedS3>, vault: Arc<EmbeddedS3>) -> Self {
        let files = tempfile::tempdir().expect("directory");
        let credentials = files.path().join("credentials");
        std::fs::write(&credentials, "key\nsecret\n").expect("write");
        let locations = locations(&origin.endpoint(), &vault.endpoint(), &credentials);
        let clients = Clients::new(ClientSettings::default()).expect("certificates");
        let store = |name| clients.store(locations.get(name).expect("there")).expect("credentials");
        let engine = Engine::new(&locations, settings()).expect("setup");
        for probe in engine.probe().await {
            let found = probe.result.expect("reachable");
            assert!(found.create_only && found.create_only_copy && found.crc64nvme && found.tagging);
        }
        let (photos, backups) = (store("photos"), store("vault"));
        Self { photos, backups, engine, origin, vault, _files: files }
    }

    pub(super) async fn upload(&self, key: &str, bytes: &[u8]) {
        put(&self.photos, "uploads", key, bytes).await;
    }

    async fn copy(&self, key: &str) -> Result<CopyReceipt, TransferError> {
        self.engine.copy(&request(key), Arc::default(), Stop::default()).await
    }

    /// Copies and compares byte for byte.
    pub(super) async fn copied(&self, key: &str, bytes: &[u8]) -> CopyReceipt {
        let receipt = self.copy(key).await.unwrap_or_else(|e| panic!("{key}: {} {e:?}", e.kind.code()));
        assert!(read(&self.backups, "backups", &receipt.backup_key).await == bytes, "{key} differs");
        assert_eq!(receipt.crc64nvme, crc_fast::crc64_nvme(bytes));
        assert_eq!(ParsedKey::parse("copies", &receipt.backup_key).expect("ours").location, "photos");
        receipt
    }

    pub(super) async fn stop(self) {
        for store in [self.origin, self.vault] {
            if let Some(store) = Arc::into_inner(store) {
                store.shutdown().await;
            }
        }
    }
}

pub(super) fn settings() -> EngineSettings {
    EngineSettings {
        part_bytes: PART,
        whole_bytes: PART,
        copy_part_bytes: PART,
        memory_bytes: 16 * PART,
        // A busy machine answers late; what is tested is not how soon.
        retry: RetryPolicy { attempts: 6, first: Duration::from_millis(10), longest: Duration::from_secs(2) },
        idle_timeout: Duration::from_millis(300),
        client: ClientSettings { first_byte_timeout: Duration::from_secs(4), ..ClientSettings::default() },
        ..EngineSettings::default()
    }
}

fn locations(origin: &str, vault: &str, credentials: &Path) -> Locations {
    locations_with(origin, vault, credentials, "")
}

/// `extra` are more settings of the origin.
pub(super) fn locations_with(origin: &str, vault: &str, credentials: &Path, extra: &str) -> Locations {
    let credentials = credentials.display();
    let text = format!(
        r#"
        [location.photos]
        endpoint = "{origin}"
        path_style = true
        credentials = {{ file = "{credentials}" }}
        {extra}
        [[location.photos.read]]
        bucket = "uploads"
        tenants = ["*"]
        [location.photos.backup]
        location = "vault"
        bucket = "backups"
        prefix = "copies"
        [location.vault]
        endpoint = "{vault}"
        path_style = true
        credentials = {{ file = "{credentials}" }}
        "#
    );
    Locations::parse(&text, Path::new("test.toml")).unwrap_or_else(|e| panic!("{e}"))
}

pub(super) async fn put(store: &S3Store, bucket: &str, key: &str, bytes: &[u8]) {
    let body = Payload::from(Bytes::copy_from_slice(bytes));
    let attributes = Attributes::default();
    let proof = Proof { crc64nvme: Some(crc_fast::crc64_nvme(bytes)), md5: None };
    let put = Put {
        body: &body,
        proof,
        attributes: &attributes,
        tags: &[],
        terms: Terms::default(),
        create_only: false,
    };
    store.put(ObjectPath { bucket, key }, put).await.expect("put");
}

pub(super) async fn read(store: &S3Store, bucket: &str, key: &str) -> Vec<u8> {
    let response = store.get(ObjectPath { bucket, key }, &Pin::default(), None).await.expect("get");
    let mut all = Vec::new();
    let mut body = response.body;
    while let Some(piece) = body.next().await {
        all.extend_from_slice(&piece.expect("body"));
    }
    all
}

#[tokio::test]
async fn objects_of_all_sizes_and_strange_keys_arrive_over_http() {
    let servers = Servers::start().await;
    for size in [0, 1, 100_000, PART - 1, PART, PART + 1, 2 * PART + 1000] {
        let key = format!("size/{size}");
        servers.upload(&key, &bytes(size, 1)).await;
        let receipt = servers.copied(&key, &bytes(size, 1)).await;
        assert!(!receipt.already_present);
        assert!(servers.copied(&key, &bytes(size, 1)).await.already_present);
    }
    let long = "k".repeat(1024);
    for key in ["a//b", "/a", "..", "a/../b", "n\nl", "é😀", "sp ace+%2F", "a/", long.as_str()] {
        servers.upload(key, key.as_bytes()).await;
        servers.copied(key, key.as_bytes()).await;
    }
    servers.stop().await;
}

#[tokio::test]
async fn what_belongs_to_an_object_arrives_over_http() {
    let servers = Servers::start().await;
    let attributes = Attributes {
        content_type: Some("text/plain; charset=utf-8".into()),
        content_encoding: Some("gzip".into()),
        cache_control: Some("max-age=5".into()),
        expires: Some("Thu, 01 Dec 2033 16:00:00 GMT".into()),
        metadata: [("name".to_owned(), "=?UTF-8?B?w6k=?= and more".to_owned())].into(),
        ..Attributes::default()
    };
    let tags = [Tag { key: "a b".into(), value: "c+d".into() }];
    for size in [10, LARGE] {
        let body = Payload::from(Bytes::from(bytes(size, 1)));
        let proof = Proof::default();
        let put = Put {
            body: &body,
            proof,
            attributes: &attributes,
            tags: &tags,
            terms: Terms::default(),
            create_only: false,
        };
        let key = format!("k{size}");
        servers.photos.put(ObjectPath { bucket: "uploads", key: &key }, put).await.expect("put");
        let receipt = servers.copied(&key, &bytes(size, 1)).await;
        assert_eq!(receipt.not_kept, Vec::<String>::new());
        let at = ObjectPath { bucket: "backups", key: &receipt.backup_key };
        let info = servers.backups.head(at, &Pin::default()).await.expect("head");
        let record = Record::from_object(&info).expect("ours");
        assert_eq!(record.attributes, attributes);
        assert_eq!((record.key.as_str(), record.tenant.as_str()), (key.as_str(), "tenant-1"));
        assert_eq!(servers.backups.get_tags(at, None).await.expect("tags"), tags);
    }
    servers.stop().await;
}

#[tokio::test]
async fn a_copy_that_rots_at_rest_is_found_and_repaired_when_it_is_read_back() {
    let servers = Servers::start().await;
    for (size, operation) in [(100, Operation::PutObject), (LARGE, Operation::UploadPart)] {
        let key = format!("k{size}");
        servers.upload(&key, &bytes(size, 1)).await;
        servers.vault.faults().add(Rule::new(operation, Action::CorruptStored { at: 3 }));
        let request = CopyRequest { verify: Some(crate::transfer::VerifyLevel::Readback), ..request(&key) };
        let receipt = servers.engine.copy(&request, Arc::default(), Stop::default()).await.expect("copied");
        assert!(receipt.backup_key.ends_with("~r1"), "{}", receipt.backup_key);
        assert!(read(&servers.backups, "backups", &receipt.backup_key).await == bytes(size, 1));
    }
    servers.stop().await;
}

#[tokio::test]
async fn an_object_that_is_overwritten_in_a_loop_is_never_mixed() {
    let servers = Servers::start().await;
    let versions: Vec<Vec<u8>> = (0..4).map(|seed| bytes(LARGE, seed)).collect();
    servers.upload("hot", &versions[0]).await;
    let stop = tokio_util::sync::CancellationToken::new();
    let writer = async {
        for i in 0_usize.. {
            if stop.is_cancelled() {
                break;
            }
            servers.upload("hot", &versions[i % 4]).await;
        }
    };
    let copies = async {
        let mut done = 0;
        for _ in 0..3 {
            match servers.copy("hot").await {
                Ok(receipt) => {
                    let copy = read(&servers.backups, "backups", &receipt.backup_key).await;
                    assert!(versions.contains(&copy), "a mixed object");
                    done += 1;
                }
                Err(error) => assert_eq!(error.kind.code(), "source_changed"),
            }
        }
        stop.cancel();
        done
    };
    let ((), done) = tokio::join!(writer, copies);
    println!("{done} of 3 copies ended between two writes");
    servers.stop().await;
}

#[tokio::test]
async fn one_server_on_both_sides_copies_by_itself() {
    let server = EmbeddedS3::start(Options {
        listen: ([127, 0, 0, 1], 0).into(),
        storage: Storage::Memory,
        credentials: vec![Credentials { access_key: "key".into(), secret_key: "secret".into() }],
        buckets: vec![
            Bucket { name: "uploads".into(), versioned: true },
            Bucket { name: "backups".into(), versioned: false },
        ],
    })
    .await
    .expect("start");
    let files = tempfile::tempdir().expect("directory");
    let credentials = files.path().join("credentials");
    std::fs::write(&credentials, "key\nsecret\n").expect("write");
    let locations = locations(&server.endpoint(), &server.endpoint(), &credentials);
    let clients = Clients::new(ClientSettings::default()).expect("certificates");
    let store = clients.store(locations.get("photos").expect("there")).expect("credentials");
    let engine = Engine::new(&locations, settings()).expect("setup");
    engine.probe().await;
    for size in [0, 100, LARGE] {
        let key = format!("strange//é {size}/");
        put(&store, "uploads", &key, &bytes(size, 1)).await;
        server.faults().reset_requests();
        let receipt = engine.copy(&request(&key), Arc::default(), Stop::default()).await.expect("copied");
        assert!(receipt.server_side && !receipt.source_version.is_empty());
        assert_eq!(receipt.crc64nvme, crc_fast::crc64_nvme(&bytes(size, 1)));
        assert_eq!(server.faults().requests(Operation::GetObject), 0);
        assert!(read(&store, "backups", &receipt.backup_key).await == bytes(size, 1));
    }
    server.shutdown().await;
}

#[tokio::test]
async fn a_store_that_sends_elsewhere_is_told_by_name_and_nothing_is_stored() {
    for at_origin in [true, false] {
        let servers = Servers::start().await;
        let (store, name) =
            if at_origin { (&servers.origin, "`photos`") } else { (&servers.vault, "`vault`") };
        for size in [100, LARGE] {
            let key = format!("k{size}");
            servers.upload(&key, &bytes(size, 1)).await;
            let action = Action::Status { status: 307, code: "TemporaryRedirect".into(), retry_after: None };
            let rule = store.faults().add(Rule::any(action).always());
            let error = servers.copy(&key).await.expect_err("nobody follows it");
            store.faults().remove(rule);
            assert_eq!(error.kind.code(), "misdirected");
            assert!(error.message.contains(name) && error.message.contains("endpoint and region"), "{error}");
            let stored = servers.backups.list_objects("backups", "copies/photos/", None, 10).await;
            assert_eq!(stored.expect("listed").objects, Vec::new());
        }
        servers.stop().await;
    }
}

#[tokio::test]
async fn a_backup_bucket_that_does_not_exist_is_told_and_not_waited_for() {
    let (origin, vault) = (server("uploads").await, server("another").await);
    let files = tempfile::tempdir().expect("directory");
    let credentials = files.path().join("credentials");
    std::fs::write(&credentials, "key\nsecret\n").expect("write");
    let locations = locations(&origin.endpoint(), &vault.endpoint(), &credentials);
    let engine = Engine::new(&locations, settings()).expect("setup");
    assert!(engine.probe().await[0].result.is_err());
    let error = engine.copy(&request("k"), Arc::default(), Stop::default()).await.expect_err("no bucket");
    assert_eq!(error.kind.code(), "no_such_bucket");
    assert!(error.message.contains("`vault`") && error.message.contains("NoSuchBucket"), "{}", error.message);
    origin.shutdown().await;
    vault.shutdown().await;
}
