//! Stores whose names are not those of S3: keys that may not be as long, and versions that are none.

use std::sync::Arc;

use super::*;
use crate::{
    store::Operation,
    transfer::{PageFilter, PageRequest},
};

/// As Garage with its usual database: longer keys are answered as if it were too busy.
fn short() -> MemoryOptions {
    MemoryOptions { key_max_bytes: 479, chokes_on_keys: true, create_only: false, ..Setup::default().vault }
}

async fn listed(rig: &Rig) -> (u64, usize) {
    let request = PageRequest {
        location: "photos".into(),
        bucket: "uploads".into(),
        prefix: String::new(),
        all_versions: false,
        filter: PageFilter::default(),
        cursor: String::new(),
        max_entries: 100,
    };
    let found = rig.engine.list_page(&request).await.unwrap_or_else(|e| panic!("{e}"));
    (found.backed_up, found.missing.len())
}

#[tokio::test(start_paused = true)]
async fn keys_that_are_too_long_for_the_backup_store_are_hashed_and_arrive() {
    for (origin, longest) in [(Setup::default().origin, 1024), (short(), 479)] {
        for same_store in [false, true].into_iter().filter(|same| !same || longest == 479) {
            for size in [5, 5 * PART, 13 * PART] {
                let rig = Rig::with(Setup { origin, vault: short(), same_store, ..Setup::default() });
                let keys = ["k".repeat(300), "k".repeat(longest), "deep/".repeat(longest / 5), "k".into()];
                for key in &keys {
                    rig.upload(key, &bytes(size, 1));
                }
                let (_, missing) = listed(&rig).await;
                assert_eq!(missing, keys.len());
                for key in &keys {
                    let receipt = rig.copied(key).await;
                    rig.assert_holds(&receipt, &bytes(size, 1));
                    assert!(receipt.backup_key.len() <= 479);
                    let parsed = ParsedKey::parse("copies", &receipt.backup_key).expect("ours");
                    assert_eq!(parsed.key.is_none(), key.len() > 1, "{}", receipt.backup_key);
                    if parsed.key.is_none() {
                        let manifest = rig.backup(&(receipt.backup_key.clone() + "~manifest.json"));
                        let record: Record = serde_json::from_slice(&manifest.bytes).expect("a manifest");
                        assert_eq!(record.key, *key);
                    }
                    assert!(rig.copied(key).await.already_present);
                }
                assert_eq!(listed(&rig).await, (keys.len() as u64, 0));
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_upload_under_a_hashed_key_is_gone_on_with() {
    let rig = Rig::with(Setup { vault: short(), ..Setup::default() });
    let (key, sent) = ("k".repeat(400), bytes(5 * PART, 1));
    rig.upload(&key, &sent);
    rig.engine.probe().await;
    rig.vault_does(
        Rule::new(Operation::UploadPart, Fault::Fail(crate::store::StoreErrorKind::Connection))
            .after(3)
            .times(u32::MAX),
    );
    let progress = Arc::<ProgressCell>::default();
    let first = rig.engine.copy(&request(&key), Arc::clone(&progress), Stop::default()).await;
    let code = first.expect_err("the connection broke").kind.code();
    // After so many failures the store counts as away.
    assert!(["io", "throttled"].contains(&code), "{code}");
    rig.vault_faults.clear();
    let uploads = rig.vault_faults.calls(Operation::CreateUpload);
    let request = CopyRequest { resume_upload_id: progress.upload_id(), ..request(&key) };
    let receipt = rig.engine.copy(&request, Arc::default(), Stop::default()).await.expect("copied");
    rig.assert_holds(&receipt, &sent);
    assert_eq!(rig.vault_faults.calls(Operation::CreateUpload), uploads, "the same upload");
}

#[tokio::test(start_paused = true)]
async fn a_prefix_that_leaves_no_room_is_told_and_nothing_is_waited_for() {
    let long = "p".repeat(256).leak();
    let vault = MemoryOptions { key_max_bytes: 400, ..short() };
    let rig = Rig::with(Setup { vault, prefix: long, ..Setup::default() });
    rig.upload("k", b"x");
    assert_eq!(rig.copied("k").await.size_bytes, 1);
    let key = "k".repeat(200);
    rig.upload(&key, b"x");
    for _ in 0..2 {
        let error = rig.copy(&key).await.expect_err("no room");
        assert_eq!(error.kind.code(), "unsupported");
        assert!(
            error.message.contains("`vault` takes keys of") && error.message.contains("shorten the prefix"),
            "{error}"
        );
    }
}

/// `bucket//a` as the source of a copy is `a` to some stores.
#[tokio::test(start_paused = true)]
async fn a_key_that_begins_with_a_slash_is_not_copied_by_the_store_itself() {
    for size in [5, 13 * PART] {
        let rig = Rig::with(Setup { same_store: true, ..Setup::default() });
        for (key, inside) in [("/a", false), ("a", true), ("b//a", true)] {
            rig.upload(key, &bytes(size, 1));
            let receipt = rig.copied(key).await;
            rig.assert_holds(&receipt, &bytes(size, 1));
            assert_eq!(receipt.server_side, inside, "{key}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_that_the_origin_cannot_have_costs_attempts_and_does_not_pause_the_location() {
    for same_store in [false, true] {
        let rig = Rig::with(Setup { origin: short(), same_store, ..Setup::default() });
        rig.engine.probe().await;
        for n in 0..10 {
            let error = rig.copy(&format!("{n}{}", "é".repeat(250))).await.expect_err("it cannot exist");
            assert_eq!(error.kind.code(), "io");
            assert!(error.message.contains("501 bytes") && error.message.contains("`photos`"), "{error}");
        }
        assert!(rig.engine.sites().iter().all(|site| site.state == crate::transfer::StoreState::Answers));
        // One that really is too busy is obeyed.
        let busy = Fault::Fail(crate::store::StoreErrorKind::Throttled { retry_after: Duration::ZERO });
        for operation in [Operation::Get, Operation::Head] {
            rig.origin_does(Rule::new(operation, busy.clone()).times(u32::MAX));
        }
        assert_eq!(rig.fails(&"k".repeat(501)).await, "throttled");
    }
}

#[tokio::test(start_paused = true)]
async fn a_version_that_the_origin_does_not_know_is_not_taken_for_the_latest() {
    let origin = MemoryOptions { false_versions: true, ..Setup::default().origin };
    for same_store in [false, true] {
        for size in [5, 5 * PART, 13 * PART] {
            let rig = Rig::with(Setup { origin, same_store, ..Setup::default() });
            rig.upload("k", &bytes(size, 1));
            let asked = CopyRequest { version: Some("0123abcd".into()), ..request("k") };
            let error = rig.engine.copy(&asked, Arc::default(), Stop::default()).await;
            let error = error.expect_err("nobody has that version");
            assert_eq!(error.kind.code(), "unsupported");
            assert!(error.message.contains("`0123abcd`"), "{error}");
            assert_eq!(rig.backups().iter().filter(|key| key.starts_with("copies/")).count(), 0);
            // What every object is called where there are no versions.
            let null = CopyRequest { version: Some("null".into()), ..request("k") };
            let receipt = rig.engine.copy(&null, Arc::default(), Stop::default()).await.expect("copied");
            rig.assert_holds(&receipt, &bytes(size, 1));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_version_that_only_the_write_tells_is_not_in_the_receipt() {
    let vault = MemoryOptions { false_versions: true, ..Setup::default().vault };
    for verify in ["receipt", "readback"] {
        for (same_store, size) in [(false, 5), (false, 5 * PART), (true, 5), (true, 13 * PART)] {
            let rig = Rig::with(Setup { origin: vault, vault, same_store, verify, ..Setup::default() });
            rig.upload("k", &bytes(size, 1));
            let receipt = rig.copied("k").await;
            rig.assert_holds(&receipt, &bytes(size, 1));
            assert_eq!((receipt.backup_version.as_str(), receipt.server_side), ("", same_store));
        }
    }
}
