//! The S3 store against servers: the embedded one always, those of others where they are installed.

pub(crate) mod admin;
pub(crate) mod servers;

use std::sync::Arc;

use backhaul_embedded_s3::{Bucket, Credentials as StoreCredentials, EmbeddedS3, Options, Storage};
use backhaul_runtime::{
    address::AddressRule,
    locations::{Credentials, Location, Owners, VerifyLevel},
};

use self::servers::{GarageDb, Server};
use super::{
    Attributes, ClientSettings, Clients, ObjectPath, ObjectStore, Payload, Pin, Proof, Put, S3Store,
    StoreErrorKind, Terms,
    conformance::{Subject, all, assert_lacks, assert_lacks_but},
};
use crate::probe::{Answer, probe};

pub(super) fn location(endpoint: &str, credentials: Credentials) -> Location {
    Location {
        workers: Vec::new(),
        name: "test".into(),
        endpoint: Some(endpoint.to_owned()),
        region: "us-east-1".into(),
        path_style: true,
        addresses: AddressRule::default(),
        owners: Owners::default(),
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
        versioned_bucket: Some("versioned".into()),
        prefix: "p/".into(),
        part_bytes: 5 * 1024 * 1024,
    }
}

#[tokio::test]
async fn the_embedded_store_does_what_the_engine_relies_on() {
    let server = embedded().await;
    all(&subject(store(&server.endpoint(), "key", "secret"))).await;
    server.shutdown().await;
}

#[tokio::test]
async fn the_client_library_does_the_same_where_requests_go_through_it() {
    let server = embedded().await;
    all(&subject(store(&server.endpoint(), "key", "secret").without_direct())).await;
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
async fn a_probe_finds_what_there_is_and_removes_what_it_wrote_and_nothing_else() {
    let server = embedded().await;
    let store = store(&server.endpoint(), "key", "secret");
    for bucket in ["plain", "versioned"] {
        let others = ["p/.backhaul/probe/race", "p/.backhaul/probe0", "p/copies/a~1"];
        for key in others {
            let attributes = Attributes::default();
            let body = Payload::default();
            let put = Put {
                body: &body,
                proof: Proof::default(),
                attributes: &attributes,
                tags: &[],
                terms: Terms::default(),
                create_only: true,
            };
            store.put(ObjectPath { bucket, key }, put).await.expect("put");
        }
        let report = probe(&store, bucket, "p").await.expect("random bytes");
        assert!(report.is_usable() && report.left_behind.is_empty(), "{report:#?}");
        let said = |name| report.findings.iter().find(|f| f.name == name).map(|f| f.answer);
        for name in ["writes", "create_only", "create_only_copy", "crc64nvme", "tags", "pinned_reads"] {
            assert_eq!(said(name), Some(Answer::Yes), "{name}: {report:#?}");
        }
        for name in ["long_keys", "bucket_owner"] {
            assert_eq!(said(name), Some(Answer::Yes), "{name}: {report:#?}");
        }
        for name in ["ranges", "md5", "multipart", "multipart_create_only", "uploads_listed", "byte_order"] {
            assert_eq!(said(name), Some(Answer::Yes), "{name}: {report:#?}");
        }
        let left = store.client().list_object_versions().bucket(bucket).send().await.expect("list");
        let left: Vec<_> = left.versions().iter().filter_map(|v| v.key()).collect();
        assert_eq!(left, others);
    }
    server.shutdown().await;
}

#[tokio::test]
async fn a_probe_of_a_store_that_takes_nothing_says_so() {
    let server = embedded().await;
    let report = probe(&store(&server.endpoint(), "key", "wrong"), "plain", "").await.expect("random bytes");
    assert!(!report.is_usable(), "{report:#?}");
    server.shutdown().await;
}

/// What each server of others does not do. The table of the worker's README says what the engine does about it.
const SEAWEEDFS_LACKS: [&str; 3] =
    ["any_key_is_kept_exactly", "a_replaced_part_is_listed_once", "a_copy_is_answered_with_its_checksum"];
const MOTO_LACKS: [&str; 11] = [
    "what_is_written_is_read",
    "a_wrong_crc64nvme_is_refused",
    "a_wrong_md5_is_refused",
    "any_key_is_kept_exactly",
    "parts_become_one_object",
    "parts_are_listed_and_checked",
    "a_replaced_part_is_listed_once",
    "an_aborted_upload_is_gone",
    "an_object_is_copied_inside_the_store",
    "a_copy_is_answered_with_its_checksum",
    "a_copy_does_not_overwrite",
];

/// It looks for the key and writes it in two steps: on a busy machine two writes come between.
const MOTO_RACES: [&str; 1] = ["of_racing_writes_one_wins"];
const GARAGE_LACKS: [&str; 8] = [
    "a_key_is_created_once",
    "of_racing_writes_one_wins",
    "tags_come_back",
    LONG_KEYS,
    "a_completion_does_not_overwrite",
    "a_copy_does_not_overwrite",
    "versions_can_be_read_and_pinned",
    "every_version_is_listed_page_by_page",
];
/// In LMDB; SQLite keeps every key.
const LONG_KEYS: &str = "any_key_is_kept_exactly";

#[tokio::test]
async fn seaweedfs_does_what_the_engine_relies_on() {
    let server = Server::seaweedfs();
    server.create_buckets(&["plain", "versioned"]).await;
    assert_lacks(&subject(store(&server.endpoint, &server.id, &server.secret)), &SEAWEEDFS_LACKS).await;
}

#[tokio::test]
async fn moto_does_what_the_engine_relies_on() {
    let server = Server::moto();
    server.create_buckets(&["plain", "versioned"]).await;
    assert_lacks_but(&subject(store(&server.endpoint, &server.id, &server.secret)), &MOTO_LACKS, &MOTO_RACES)
        .await;
}

#[tokio::test]
#[ignore = "Garage takes ten minutes to build: make stores"]
async fn garage_does_what_the_engine_relies_on() {
    for db in [GarageDb::Lmdb, GarageDb::Sqlite] {
        let server = Server::garage(db);
        server.create_buckets(&["plain"]).await;
        let store = store(&server.endpoint, &server.id, &server.secret);
        let subject = Subject { versioned_bucket: None, ..subject(store) };
        let lacks = GARAGE_LACKS.into_iter().filter(|check| db == GarageDb::Lmdb || *check != LONG_KEYS);
        assert_lacks(&subject, &lacks.collect::<Vec<_>>()).await;
    }
}

#[tokio::test]
#[ignore = "Garage takes ten minutes to build: make stores"]
async fn a_probe_finds_what_garage_does_not_do() {
    for db in [GarageDb::Lmdb, GarageDb::Sqlite] {
        let server = Server::garage(db);
        server.create_buckets(&["plain"]).await;
        let store = store(&server.endpoint, &server.id, &server.secret);
        let report = probe(&store, "plain", "p").await.expect("random bytes");
        assert!(report.is_usable() && report.left_behind.is_empty(), "{report:#?}");
        let mut lacks: Vec<&str> = Vec::new();
        for finding in &report.findings {
            match finding.answer {
                Answer::Yes => {}
                Answer::No => lacks.push(finding.name),
                Answer::Fatal | Answer::Unknown => panic!("{finding:#?}"),
            }
        }
        let mut known = vec!["create_only", "create_only_copy", "tags"];
        if db == GarageDb::Lmdb {
            known.push("long_keys");
        }
        known.extend(["multipart_create_only", "bucket_owner", "versions", "object_lock"]);
        assert_eq!(lacks, known);
        let left = store.list_objects("plain", "", None, 1_000).await.expect("list");
        assert_eq!(left.objects, [], "nothing is left");
        let most = report.findings.iter().find(|f| f.name == "long_keys").map(|f| f.remark.contains("471"));
        assert_eq!(most, Some(db == GarageDb::Lmdb));
    }
}
