//! What the backup location asks for, and what a copy cannot keep: storage class, retention, tags, rights, metadata.

use std::collections::BTreeMap;

use super::*;
use crate::store::{Operation, Retention, StoreErrorKind as Kind, Tag};

const SIZES: [u64; 2] = [5, 3 * PART];

fn tag() -> [Tag; 1] {
    [Tag { key: "class".into(), value: "a".into() }]
}

#[tokio::test(start_paused = true)]
async fn class_and_retention_are_asked_for_on_every_kind_of_write() {
    let backup = "storage_class = \"COLD\"\nretain = { mode = \"compliance\", days = 30 }";
    let week = |days: i64| crate::transfer::clock::wall_seconds() + days * 86_400;
    for same_store in [false, true] {
        for size in [5, 3 * PART, 13 * PART] {
            let rig = Rig::with(Setup { backup, same_store, ..Setup::default() });
            rig.upload("k", &bytes(size, 1));
            let receipt = rig.copied("k").await;
            assert_eq!(receipt.server_side, same_store);
            rig.assert_holds(&receipt, &bytes(size, 1));
            let info = rig.backup(&receipt.backup_key).info;
            assert_eq!(info.storage_class.as_deref(), Some("COLD"));
            let retained = info.retained.expect("retained");
            assert!(retained.compliance && (week(29)..week(31)).contains(&retained.until), "{retained:?}");
            assert_eq!(receipt.not_kept, Vec::<String>::new());
            // A second copy finds it, retained as it is.
            let again = rig.copied("k").await;
            assert!(again.already_present && again.not_kept.is_empty());
            let (vault, key) = (&rig.vault, &receipt.backup_key);
            for (has, kept) in [
                (None, false),
                (Some(Retention { compliance: false, until: week(20) }), false),
                (Some(Retention { compliance: true, until: week(-1) }), false),
                (Some(Retention { compliance: true, until: week(1) }), true),
            ] {
                vault.describe("backups", key, |info| info.retained = has);
                let expected: &[&str] = if kept { &[] } else { &["retention"] };
                assert_eq!(rig.copied("k").await.not_kept, expected, "{has:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_is_kept_for_as_long_as_its_retention_class_says() {
    let backup = "retain = { mode = \"governance\", days = 1 }\n\
                  retention_class.long = { mode = \"compliance\", days = 30 }";
    let week = |days: i64| crate::transfer::clock::wall_seconds() + days * 86_400;
    for same_store in [false, true] {
        let rig = Rig::with(Setup { backup, same_store, ..Setup::default() });
        for (key, class, compliance, days) in [("a", Some("long"), true, 30), ("b", None, false, 1)] {
            rig.upload(key, b"x");
            let asked = CopyRequest { retention_class: class.map(ToOwned::to_owned), ..request(key) };
            let receipt =
                rig.engine.copy(&asked, Arc::default(), Stop::default()).await.expect("it is copied");
            let retained = rig.backup(&receipt.backup_key).info.retained.expect("retained");
            assert_eq!(retained.compliance, compliance, "{class:?}");
            assert!((week(days - 1)..=week(days)).contains(&retained.until), "{class:?}: {retained:?}");
        }
        // A copy that was made for less is named.
        let asked = CopyRequest { retention_class: Some("long".into()), ..request("b") };
        let again = rig.engine.copy(&asked, Arc::default(), Stop::default()).await.expect("it is there");
        assert_eq!((again.already_present, again.not_kept), (true, vec!["retention".to_owned()]));
        // What nobody knows is never copied under something else.
        rig.upload("c", b"x");
        let asked = CopyRequest { retention_class: Some("ever".into()), ..request("c") };
        let error = rig.engine.copy(&asked, Arc::default(), Stop::default()).await.expect_err("unknown");
        assert!(error.kind.code() == "unsupported" && error.message.contains("`ever`"), "{}", error.message);
        assert_eq!(rig.engine.probe().await.len(), 2, "each lock is tried out");
    }
}

#[tokio::test(start_paused = true)]
async fn a_manifest_is_retained_like_its_object() {
    let backup = "storage_class = \"COLD\"\nretain = { mode = \"governance\", days = 1 }";
    let rig = Rig::with(Setup { backup, ..Setup::default() });
    let key = "k".repeat(1024);
    rig.upload(&key, b"x");
    let receipt = rig.copied(&key).await;
    let manifest = rig.backup(&(receipt.backup_key + "~manifest.json")).info;
    assert!(manifest.retained.is_some_and(|r| !r.compliance));
    assert_eq!(manifest.storage_class, None, "read at each restore");
}

#[tokio::test(start_paused = true)]
async fn without_the_retention_that_is_asked_for_nothing_is_copied() {
    let backup = "retain = { mode = \"governance\", days = 1 }";
    let vault = MemoryOptions { locking: false, ..Setup::default().vault };
    let rig = Rig::with(Setup { backup, vault, ..Setup::default() });
    rig.upload("k", b"x");
    let error = rig.copy("k").await.expect_err("not retained");
    assert_eq!(error.kind.code(), "unsupported");
    assert!(error.message.contains("retention"), "{}", error.message);
    assert_eq!(rig.backups(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn where_copies_inside_the_store_forget_the_retention_the_worker_carries_the_bytes() {
    let backup = "retain = { mode = \"governance\", days = 1 }";
    let forgetful = MemoryOptions { locks_copies: false, ..Setup::default().origin };
    let rig = Rig::with(Setup { backup, origin: forgetful, same_store: true, ..Setup::default() });
    for size in [5, 13 * PART] {
        rig.upload("k", &bytes(size, 1));
        let receipt = rig.copied("k").await;
        rig.assert_holds(&receipt, &bytes(size, 1));
        assert_eq!(receipt.server_side, size > 4 * PART, "in parts it is written as any other");
        assert!(rig.backup(&receipt.backup_key).info.retained.is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn rights_on_single_objects_are_named_where_the_location_has_them() {
    for same_store in [false, true] {
        let rig = Rig::with(Setup { photos: "acls = true", same_store, ..Setup::default() });
        for key in ["shared", "own"] {
            rig.upload(key, b"x");
        }
        rig.origin.grant("shared");
        assert_eq!(rig.copied("shared").await.not_kept, ["acl"]);
        assert_eq!(rig.copied("own").await.not_kept, Vec::<String>::new());
        rig.upload("hidden", b"x");
        rig.origin_does(Rule::new(Operation::GetAcl, Fault::Fail(Kind::Denied)));
        assert_eq!(rig.copied("hidden").await.not_kept, ["acl"], "better named in vain than lost unseen");
        rig.upload("none", b"x");
        rig.origin_does(Rule::new(Operation::GetAcl, Fault::Fail(Kind::NotImplemented)));
        assert_eq!(rig.copied("none").await.not_kept, Vec::<String>::new());
    }
    let rig = Rig::new();
    rig.upload("shared", b"x");
    rig.origin.grant("shared");
    rig.copied("shared").await;
    assert_eq!(rig.origin_faults.calls(Operation::GetAcl), 0, "nobody asked for it");
}

#[tokio::test(start_paused = true)]
async fn tags_that_an_origin_does_not_tell_of_are_found_or_named() {
    for size in SIZES {
        let origin = MemoryOptions { counts_tags: false, ..Setup::default().origin };
        let rig = Rig::with(Setup { origin, ..Setup::default() });
        for n in 0..20 {
            let key = format!("k{n}");
            rig.origin.seed("uploads", &key, bytes(size, 1), Attributes::default(), &tag());
            let receipt = rig.copied(&key).await;
            assert_eq!(rig.backup(&receipt.backup_key).tags, tag());
        }
        // Without the right to read tags there is no count either.
        let rig = Rig::with(Setup { origin, ..Setup::default() });
        rig.origin_does(Rule::new(Operation::GetTags, Fault::Fail(Kind::Denied)).times(u32::MAX));
        for n in 0..20 {
            let key = format!("k{n}");
            rig.origin.seed("uploads", &key, bytes(size, 1), Attributes::default(), &tag());
            assert_eq!(rig.copied(&key).await.not_kept, ["tags"]);
        }
        assert!(rig.origin_faults.calls(Operation::GetTags) < 20, "it is not asked in vain each time");
    }
}

#[tokio::test(start_paused = true)]
async fn metadata_at_the_limit_arrives_whole_on_the_object_or_beside_it() {
    // Names and values together are at most 2,048 bytes at the origin; here with values that no header can carry as they are.
    let mut on_object = 0;
    for length in [10, 400, 680, 1_000, 1_360, 2_030] {
        for letter in ["x", "é", "😀"] {
            let value: String = letter.repeat(length / letter.len());
            let attributes = Attributes {
                metadata: BTreeMap::from([("note".to_owned(), value), ("plain".to_owned(), "v".to_owned())]),
                ..Attributes::default()
            };
            for size in SIZES {
                let rig = Rig::new();
                rig.origin.seed("uploads", "k", bytes(size, 1), attributes.clone(), &tag());
                let receipt = rig.copied("k").await;
                rig.assert_holds(&receipt, &bytes(size, 1));
                assert_eq!(receipt.not_kept, Vec::<String>::new());
                let record = match Record::from_object(&rig.backup(&receipt.backup_key).info) {
                    Some(record) => {
                        on_object += 1;
                        assert_eq!(rig.backups().len(), 1, "a manifest only where it is needed");
                        record
                    }
                    None => {
                        let manifest = rig.backup(&(receipt.backup_key + "~manifest.json"));
                        serde_json::from_slice(&manifest.bytes).expect("a manifest")
                    }
                };
                assert_eq!(record.attributes, attributes, "{length} {letter}");
            }
        }
    }
    assert!((8..30).contains(&on_object), "both ways are gone: {on_object} of 36");
}

#[tokio::test(start_paused = true)]
async fn what_a_location_must_not_use_is_not_used() {
    let vault_location =
        "without = [\"conditional-writes\", \"checksums\", \"tagging\", \"server-side-copy\"]";
    for size in SIZES {
        let rig = Rig::with(Setup { vault_location, same_store: true, ..Setup::default() });
        rig.origin.seed("uploads", "k", bytes(size, 1), Attributes::default(), &tag());
        let receipt = rig.copied("k").await;
        rig.assert_holds(&receipt, &bytes(size, 1));
        assert!(!receipt.server_side);
        assert_eq!(receipt.not_kept, ["tags"]);
        assert_eq!(rig.backup(&receipt.backup_key).info.crc64nvme, None, "an MD5 was sent");
        assert_eq!(rig.vault_faults.calls(Operation::Copy) + rig.vault_faults.calls(Operation::CopyPart), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn configured_rates_slow_a_copy_down() {
    let photos = "limits = { requests_per_second = 2, bytes_per_second = \"64KiB\" }";
    let rig = Rig::with(Setup { photos, ..Setup::default() });
    rig.upload("k", &bytes(40 * PART, 1));
    let begun = tokio::time::Instant::now();
    let receipt = rig.copied("k").await;
    rig.assert_holds(&receipt, &bytes(40 * PART, 1));
    let took = begun.elapsed().as_secs();
    assert!((19..25).contains(&took), "about 42 requests at 2 a second: {took} s");
}
