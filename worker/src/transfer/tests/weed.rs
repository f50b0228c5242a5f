//! The engine on a store that nobody here wrote: objects that change under its hands, and the keys that it can keep.

use std::path::Path;

use super::{
    bytes, request,
    s3::{PART, put, read},
};
use crate::{
    store::{
        ClientSettings, Clients, S3Store,
        s3_tests::servers::{Server, find},
    },
    transfer::{Copier, Engine, EngineSettings, Stop},
};

const LARGE: u64 = PART + 1000;

struct Rig {
    engine: Engine,
    store: S3Store,
    _server: Server,
    _files: tempfile::TempDir,
}

/// `extra` are more settings of the origin.
async fn rig(extra: &str) -> Option<Rig> {
    let Some(program) = find("BACKHAUL_TEST_WEED", "weed") else {
        println!("NOT RUN: SeaweedFS is not installed: run `make setup`");
        return None;
    };
    let files = tempfile::tempdir().expect("directory");
    let server = Server::seaweedfs(&program);
    server.create_buckets(&["uploads", "backups"]).await;
    let credentials = files.path().join("credentials");
    std::fs::write(&credentials, format!("{}\n{}\n", server.id, server.secret)).expect("write");
    let locations =
        super::s3::locations_with(&server.endpoint, &server.endpoint, Path::new(&credentials), extra);
    let clients = Clients::new(ClientSettings::default()).expect("certificates");
    let store = clients.store(locations.get("photos").expect("there")).expect("credentials");
    // The usual patience: its first writes can take seconds.
    let settings = EngineSettings { part_bytes: PART, copy_part_bytes: PART, ..EngineSettings::default() };
    let engine = Engine::new(&locations, settings).expect("setup");
    for probe in engine.probe().await {
        probe.result.expect("reachable");
    }
    Some(Rig { engine, store, _server: server, _files: files })
}

#[tokio::test]
async fn an_object_that_is_overwritten_in_a_loop_is_never_mixed_on_seaweedfs() {
    for extra in ["without = [\"server-side-copy\"]", ""] {
        let Some(rig) = rig(extra).await else { return };
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
                match rig.engine.copy(&request("hot"), std::sync::Arc::default(), Stop::default()).await {
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

#[tokio::test]
async fn keys_and_sizes_arrive_on_seaweedfs() {
    let Some(rig) = rig("without = [\"server-side-copy\"]").await else { return };
    let deep = vec!["segment".repeat(20); 7].join("/");
    let keys = [
        "a",
        "b/c",
        "sp ace+plus%2F%",
        "é",
        "e\u{301}",
        "😀/x",
        "n\nl",
        "c\u{1}d",
        "q'\"<>&;",
        "x~y!2E",
        deep.as_str(),
    ];
    for key in keys {
        put(&rig.store, "uploads", key, key.as_bytes()).await;
        let receipt = rig.engine.copy(&request(key), std::sync::Arc::default(), Stop::default()).await;
        let receipt = receipt.unwrap_or_else(|e| panic!("{key:?}: {e}"));
        assert!(read(&rig.store, "backups", &receipt.backup_key).await == key.as_bytes(), "{key:?}");
    }
    for size in [0, 1, PART - 1, PART, PART + 1] {
        put(&rig.store, "uploads", "size", &bytes(size, 1)).await;
        let receipt = rig.engine.copy(&request("size"), std::sync::Arc::default(), Stop::default()).await;
        let receipt = receipt.unwrap_or_else(|e| panic!("{size}: {e}"));
        assert!(read(&rig.store, "backups", &receipt.backup_key).await == bytes(size, 1), "{size}");
    }
}
