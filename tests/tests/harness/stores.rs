//! Both kinds of store are what the programs will meet: behind a gate, and named in a locations file.

use backhaul_runtime::locations::Locations;
use backhaul_tests::{
    gate::Gate,
    locations::{self, ORIGIN, ORIGIN_BUCKET, Read, VAULT, VAULT_BUCKET},
    s3::{Credentials, S3},
    store::{Store, StoreKind},
};
use tempfile::TempDir;

#[tokio::test(flavor = "multi_thread")]
async fn both_kinds_of_store_are_reached_through_a_gate() {
    for kind in [StoreKind::Embedded, StoreKind::Weed] {
        let store = Store::start(kind, &[VAULT_BUCKET]).await.unwrap();
        let gate = Gate::open_to(store.address()).await.unwrap();
        let through = S3::connect(&format!("http://{}", gate.address()), store.credentials());
        let written = through.put_random(VAULT_BUCKET, "a", 1 << 20).await.unwrap();
        assert_eq!(store.client().sha256(VAULT_BUCKET, "a").await.unwrap(), written.sha256, "{kind:?}");
        assert_eq!(through.sha256(VAULT_BUCKET, "a").await.unwrap(), written.sha256, "{kind:?}");
        assert!(gate.answered_bytes() > 1 << 20, "{kind:?}: the object came through the gate");
        assert!(store.client().open_uploads(VAULT_BUCKET).await.unwrap().is_empty(), "{kind:?}");
        assert_eq!(store.faults().is_some(), kind == StoreKind::Embedded);
    }
}

#[test]
fn the_locations_file_says_what_a_scenario_asked_for() {
    let folder = TempDir::new().unwrap();
    let store = |port: u16| locations::Store {
        endpoint: format!("http://127.0.0.1:{port}"),
        credentials: Credentials { access_key: "key".to_owned(), secret_key: "secret".to_owned() },
    };
    let reads = [
        Read { prefixes: vec!["photos/".to_owned(), "a\"b\\".to_owned()], ..Read::all_of(ORIGIN_BUCKET) },
        Read { tenants: vec!["umbrella".to_owned()], ..Read::all_of("other") },
    ];
    let path = locations::write(folder.path(), &store(1), &store(2), &reads).unwrap();
    let read = Locations::load(&path).unwrap();
    assert!(read.authorize("acme", ORIGIN, ORIGIN_BUCKET, "photos/1").is_ok());
    assert!(read.authorize("acme", ORIGIN, ORIGIN_BUCKET, "a\"b\\c").is_ok());
    assert!(read.authorize("acme", ORIGIN, ORIGIN_BUCKET, "secret").is_err());
    assert!(read.authorize("acme", ORIGIN, "other", "x").is_err());
    assert!(read.authorize("umbrella", ORIGIN, "other", "x").is_ok());
    let target = read.get(ORIGIN).unwrap().backup.clone().unwrap();
    assert_eq!((target.location.as_str(), target.bucket.as_str()), (VAULT, VAULT_BUCKET));
    assert_eq!(read.get(VAULT).unwrap().endpoint.as_deref(), Some("http://127.0.0.1:2"));
}
