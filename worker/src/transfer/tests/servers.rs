//! The engine on stores that nobody here wrote: objects that change under its hands, the keys that they can keep, what belongs to an object,
//! every level of proof, and two workers at once.

use std::path::Path;

use super::{
    bytes, request,
    s3::{PART, put, read},
};
use crate::{
    store::{
        Attributes, ClientSettings, Clients, ObjectPath, ObjectStore as _, Payload, Pin, Proof, Put, S3Store,
        Tag, Terms,
        s3_tests::servers::{GarageDb, Server},
    },
    transfer::{
        Copier, CopyReceipt, CopyRequest, Engine, EngineSettings, Stop, TransferError, VerifyLevel,
        key::ParsedKey, metadata::Record,
    },
};

const LARGE: u64 = PART + 1000;
const BUCKETS: [&str; 2] = ["uploads", "backups"];
const THROUGH_THE_WORKER: &str = "without = [\"server-side-copy\"]";

struct Rig {
    /// What keys of this rig end with, so that no two rigs on a server share one.
    name: String,
    engine: Engine,
    store: S3Store,
    locations: backhaul_runtime::locations::Locations,
    _files: tempfile::TempDir,
}

impl Rig {
    /// `extra` are more settings of the origin.
    async fn on(server: &Server, extra: &str) -> Self {
        let files = tempfile::tempdir().expect("directory");
        let credentials = files.path().join("credentials");
        std::fs::write(&credentials, format!("{}\n{}\n", server.id, server.secret)).expect("write");
        let locations =
            super::s3::locations_with(&server.endpoint, &server.endpoint, Path::new(&credentials), extra);
        let clients = Clients::new(ClientSettings::default()).expect("certificates");
        let store = clients.store(locations.get("photos").expect("there")).expect("credentials");
        let engine = engine(&locations);
        for probe in engine.probe().await {
            probe.result.expect("reachable");
        }
        Self { name: format!("~{}", extra.len()), engine, store, locations, _files: files }
    }

    async fn copy(&self, key: &str) -> Result<CopyReceipt, TransferError> {
        self.engine.copy(&request(key), std::sync::Arc::default(), Stop::default()).await
    }

    /// Copies and compares byte for byte.
    async fn copied(&self, request: &CopyRequest, bytes: &[u8]) -> CopyReceipt {
        let receipt = self.engine.copy(request, std::sync::Arc::default(), Stop::default()).await;
        let receipt = receipt.unwrap_or_else(|e| panic!("{:?}: {} {e}", request.key, e.kind.code()));
        assert!(read(&self.store, "backups", &receipt.backup_key).await == bytes, "{:?}", request.key);
        assert_eq!(receipt.size_bytes, bytes.len() as u64);
        receipt
    }

    async fn open_uploads(&self) -> usize {
        self.store.list_uploads_under("backups", "", None).await.expect("list").uploads.len()
    }
}

fn engine(locations: &backhaul_runtime::locations::Locations) -> Engine {
    // The usual patience: first writes of some servers can take seconds.
    let settings = EngineSettings { part_bytes: PART, copy_part_bytes: PART, ..EngineSettings::default() };
    Engine::new(locations, settings).expect("setup")
}

async fn nothing_is_mixed(server: Server) {
    server.create_buckets(&BUCKETS).await;
    for extra in [THROUGH_THE_WORKER, ""] {
        let rig = Rig::on(&server, extra).await;
        let versions: Vec<Vec<u8>> = (0..3).map(|seed| bytes(LARGE, seed)).collect();
        put(&rig.store, "uploads", "hot", &versions[0]).await;
        let stop = tokio_util::sync::CancellationToken::new();
        let writer = async {
            for i in 0_usize.. {
                if stop.is_cancelled() {
                    break;
                }
                put(&rig.store, "uploads", "hot", &versions[i % 3]).await;
                tokio::task::yield_now().await;
            }
        };
        let copies = async {
            for _ in 0..3 {
                match rig.copy("hot").await {
                    Ok(receipt) => {
                        let copy = read(&rig.store, "backups", &receipt.backup_key).await;
                        assert!(versions.contains(&copy), "a mixed object");
                    }
                    Err(error) => {
                        let code = error.kind.code();
                        assert!(
                            ["source_changed", "io", "integrity", "throttled"].contains(&code),
                            "{code}: {error}"
                        );
                    }
                }
            }
            stop.cancel();
        };
        tokio::join!(writer, copies);
    }
}

async fn keys_arrive(rig: &Rig, keys: &[&str]) {
    for key in keys {
        put(&rig.store, "uploads", key, key.as_bytes()).await;
        let receipt = rig.copied(&request(key), key.as_bytes()).await;
        let parsed = ParsedKey::parse("copies", &receipt.backup_key).expect("one of our keys");
        match parsed.key {
            Some(found) => assert_eq!(found, *key),
            None => {
                let manifest = read(&rig.store, "backups", &(receipt.backup_key + "~manifest.json")).await;
                assert_eq!(serde_json::from_slice::<Record>(&manifest).expect("a manifest").key, *key);
            }
        }
    }
}

async fn sizes_arrive(rig: &Rig) {
    for verify in [VerifyLevel::Receipt, VerifyLevel::Head, VerifyLevel::Readback] {
        for size in [0, 1, PART - 1, PART, PART + 1, 2 * PART + 1] {
            let key = format!("size {verify:?} {size}{}", rig.name);
            put(&rig.store, "uploads", &key, &bytes(size, 1)).await;
            let request = CopyRequest { verify: Some(verify), ..request(&key) };
            let receipt = rig.copied(&request, &bytes(size, 1)).await;
            assert!(receipt.verified >= verify && !receipt.already_present, "{receipt:?}");
            assert!(receipt.backup_version.is_empty(), "the bucket keeps no versions: {receipt:?}");
            let again = rig.copied(&request, &bytes(size, 1)).await;
            assert_eq!((again.already_present, &again.backup_key), (true, &receipt.backup_key));
        }
    }
    assert_eq!(rig.open_uploads().await, 0);
}

/// Where the origin keeps no tags, there are none to be lost.
async fn what_belongs_to_an_object_arrives(rig: &Rig) {
    let tags = [Tag { key: "a b".into(), value: "c+d".into() }];
    let (encoded, most) = ("=?UTF-8?B?w6k=?= and more", "x".repeat(2_030));
    for (size, value) in [(10, encoded), (LARGE, encoded), (10, most.as_str())] {
        let attributes = Attributes {
            content_type: Some("text/plain; charset=utf-8".into()),
            content_encoding: Some("gzip".into()),
            content_disposition: Some("attachment; filename=\"a b.txt\"".into()),
            content_language: Some("fr".into()),
            cache_control: Some("no-store, max-age=0".into()),
            expires: Some("Thu, 01 Dec 2033 16:00:00 GMT".into()),
            metadata: [("name".to_owned(), value.to_owned())].into(),
            ..Attributes::default()
        };
        let body = Payload::from(bytes::Bytes::from(bytes(size, 1)));
        let put = Put {
            body: &body,
            proof: Proof::default(),
            attributes: &attributes,
            tags: &tags,
            terms: Terms::default(),
            create_only: false,
        };
        let key = format!("belongings {size} {}{}", value.len(), rig.name);
        rig.store.put(ObjectPath { bucket: "uploads", key: &key }, put).await.expect("put");
        let receipt = rig.copied(&request(&key), &bytes(size, 1)).await;
        assert_eq!(receipt.not_kept, Vec::<String>::new());
        let at = ObjectPath { bucket: "backups", key: &receipt.backup_key };
        let info = rig.store.head(at, &Pin::default()).await.expect("head");
        let record = match Record::from_object(&info) {
            Some(record) => record,
            None => {
                let manifest = read(&rig.store, "backups", &(receipt.backup_key + "~manifest.json")).await;
                serde_json::from_slice(&manifest).expect("a manifest")
            }
        };
        assert_eq!(record.attributes, attributes);
        assert_eq!((record.key.as_str(), record.tenant.as_str()), (key.as_str(), "tenant-1"));
    }
}

async fn of_two_workers_at_once_both_are_done(rig: &Rig) {
    let other = engine(&rig.locations);
    for size in [1000, LARGE] {
        for n in 0..4 {
            let (key, sent) = (format!("raced {size} {n}{}", rig.name), bytes(size, n));
            put(&rig.store, "uploads", &key, &sent).await;
            let request = request(&key);
            let copy = other.copy(&request, std::sync::Arc::default(), Stop::default());
            let (one, two) = tokio::join!(rig.copied(&request, &sent), copy);
            let two = two.unwrap_or_else(|e| panic!("{key}: {e}"));
            assert_eq!((&one.backup_key, one.crc64nvme), (&two.backup_key, two.crc64nvme));
            assert!(read(&rig.store, "backups", &one.backup_key).await == sent, "{key}");
        }
    }
    assert_eq!(rig.open_uploads().await, 0);
}

async fn another_object_under_the_key_stays(rig: &Rig) {
    for size in [1000, LARGE] {
        let key = format!("taken {size}{}", rig.name);
        put(&rig.store, "uploads", &key, &bytes(size, 1)).await;
        let copy = rig.copied(&request(&key), &bytes(size, 1)).await.backup_key;
        put(&rig.store, "backups", &copy, b"other").await;
        assert_eq!(rig.copy(&key).await.expect_err("taken").kind.code(), "destination_conflict");
        assert!(read(&rig.store, "backups", &copy).await == b"other");
    }
    assert_eq!(rig.open_uploads().await, 0);
}

/// Everything that holds whether or not bytes pass through the worker.
async fn all_arrives(server: &Server, keys: &[&str]) {
    server.create_buckets(&BUCKETS).await;
    for extra in [THROUGH_THE_WORKER, ""] {
        let rig = Rig::on(server, extra).await;
        keys_arrive(&rig, keys).await;
        sizes_arrive(&rig).await;
        what_belongs_to_an_object_arrives(&rig).await;
        of_two_workers_at_once_both_are_done(&rig).await;
        another_object_under_the_key_stays(&rig).await;
    }
}

const ORDINARY: [&str; 10] =
    ["a", "b/c", "sp ace+plus%2F%", "é", "e\u{301}", "😀/x", "n\nl", "c\u{1}d", "q'\"<>&;", "x~y!2E"];
/// Those that stores which keep keys as paths of files do not keep.
const STRANGE: [&str; 9] = ["a//b", "/a", "..", ".", "a/../b", "a/./b", "b/", "back\\slash", "\u{7f}"];

#[tokio::test]
async fn an_object_that_is_overwritten_in_a_loop_is_never_mixed_on_seaweedfs() {
    nothing_is_mixed(Server::seaweedfs()).await;
}

#[tokio::test]
async fn everything_arrives_on_seaweedfs() {
    let deep = vec!["segment".repeat(20); 7].join("/");
    let keys: Vec<&str> = ORDINARY.into_iter().chain([deep.as_str()]).collect();
    all_arrives(&Server::seaweedfs(), &keys).await;
}

#[tokio::test]
#[ignore = "Garage takes ten minutes to build: make stores"]
async fn an_object_that_is_overwritten_in_a_loop_is_never_mixed_on_garage() {
    nothing_is_mixed(Server::garage(GarageDb::Lmdb)).await;
}

#[tokio::test]
#[ignore = "Garage takes ten minutes to build: make stores"]
async fn everything_arrives_on_garage() {
    everything_arrives_from_keys_up_to(GarageDb::Lmdb, 479).await;
}

#[tokio::test]
#[ignore = "Garage takes ten minutes to build: make stores"]
async fn everything_arrives_on_garage_with_sqlite() {
    everything_arrives_from_keys_up_to(GarageDb::Sqlite, 1024).await;
}

async fn everything_arrives_from_keys_up_to(db: GarageDb, most: usize) {
    let (long, deep) = ("k".repeat(most), "segment/".repeat(most / 8));
    let keys: Vec<&str> = ORDINARY.into_iter().chain(STRANGE).chain([long.as_str(), deep.as_str()]).collect();
    all_arrives(&Server::garage(db), &keys).await;
}
