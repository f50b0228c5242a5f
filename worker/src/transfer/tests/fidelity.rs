//! What arrives: every size, every key, everything that belongs to an object.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::*;
use crate::{
    store::{Operation, Tag},
    transfer::VerifyLevel,
};

fn with_metadata(metadata: &[(&str, &str)]) -> Attributes {
    Attributes {
        metadata: metadata.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        ..Attributes::default()
    }
}

#[tokio::test(start_paused = true)]
async fn every_size_arrives_whole_at_every_level() {
    for (verify, sha256) in [("receipt", false), ("head", false), ("readback", true)] {
        for size in [0, 1, PART - 1, PART, PART + 1, 2 * PART, 7 * PART + 5] {
            let rig = Rig::with(Setup { verify, sha256, ..Setup::default() });
            let sent = bytes(size, 1);
            rig.upload("a/b", &sent);
            let progress = Arc::<ProgressCell>::default();
            let receipt = rig.engine.copy(&request("a/b"), Arc::clone(&progress), Stop::default()).await;
            let receipt = receipt.unwrap_or_else(|e| panic!("{size} {verify}: {e}"));
            rig.assert_holds(&receipt, &sent);
            let parts = if size <= PART { 0 } else { size.div_ceil(PART) };
            assert_eq!(u64::from(receipt.parts), parts);
            assert_eq!(progress.read(), (size, size, 0));
            assert_eq!(progress.upload_id(), "");
            assert_eq!(receipt.sha256.is_some(), sha256);
            if let Some(sha256) = receipt.sha256 {
                assert_eq!(sha256[..], <sha2::Sha256 as sha2::Digest>::digest(&sent)[..]);
            }
            let wanted = match verify {
                "receipt" => VerifyLevel::Receipt,
                "head" => VerifyLevel::Head,
                _ => VerifyLevel::Readback,
            };
            assert!(receipt.verified >= wanted && !receipt.already_present && !receipt.server_side);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_small_object_costs_one_get_and_one_put() {
    let rig = Rig::new();
    rig.engine.probe().await;
    // Whether silence means that there are no tags is found out on the first ones.
    for first in 0..8 {
        rig.upload(&format!("first-{first}"), b"hello");
        rig.copied(&format!("first-{first}")).await;
    }
    rig.upload("k", b"hello");
    let calls =
        |faults: &FaultyStore| [Operation::Head, Operation::Get, Operation::GetTags].map(|o| faults.calls(o));
    let [heads, gets, tags] = calls(&rig.origin_faults);
    let before = [Operation::Put, Operation::Head].map(|o| rig.vault_faults.calls(o));
    rig.copied("k").await;
    assert_eq!(calls(&rig.origin_faults), [heads, gets + 1, tags]);
    let after = [Operation::Put, Operation::Head].map(|o| rig.vault_faults.calls(o));
    assert_eq!(after, [before[0] + 1, before[1]]);
}

#[tokio::test(start_paused = true)]
async fn every_key_arrives_under_a_name_of_its_own() {
    let rig = Rig::new();
    let long = "k".repeat(1024);
    let deep = vec!["seg".repeat(30); 11].join("/");
    let keys = [
        "a",
        "a/b",
        "a//b",
        "/a",
        "a/",
        "..",
        ".",
        "a/../b",
        "a/./b",
        "sp ace+%2F%",
        "n\nl",
        "\0",
        "\u{7f}",
        "\u{fffe}",
        "é",
        "e\u{301}",
        "😀",
        "a~b",
        "a~20260101T000000Z-x",
        "!",
        &long,
        &deep,
    ];
    let mut names = std::collections::BTreeSet::new();
    for key in keys {
        rig.upload(key, key.as_bytes());
        let receipt = rig.copied(key).await;
        rig.assert_holds(&receipt, key.as_bytes());
        let parsed = ParsedKey::parse("copies", &receipt.backup_key).expect("ours");
        match parsed.key {
            Some(found) => assert_eq!(found, key),
            None => {
                let manifest = rig.backup(&(receipt.backup_key.clone() + "~manifest.json"));
                let record: Record = serde_json::from_slice(&manifest.bytes).expect("a manifest");
                assert_eq!(record.key, key);
                assert_eq!(record.crc(), Some(receipt.crc64nvme));
            }
        }
        assert!(names.insert(receipt.backup_key));
    }
}

#[tokio::test(start_paused = true)]
async fn everything_that_belongs_to_an_object_is_kept() {
    let attributes = Attributes {
        content_type: Some("image/png".into()),
        content_encoding: Some("aws-chunked,gzip".into()),
        content_disposition: Some("inline".into()),
        content_language: Some("de".into()),
        cache_control: Some("no-cache".into()),
        expires: Some("Thu, 01 Dec 2033 16:00:00 GMT".into()),
        website_redirect: Some("/elsewhere".into()),
        metadata: BTreeMap::from([("owner".to_owned(), "jörg".to_owned())]),
    };
    let tags = [Tag { key: "class".into(), value: "a b".into() }];
    for size in [5, 3 * PART] {
        let rig = Rig::new();
        rig.origin.seed("uploads", "k", bytes(size, 1), attributes.clone(), &tags);
        let receipt = rig.copied("k").await;
        let stored = rig.backup(&receipt.backup_key);
        assert_eq!(stored.tags, tags);
        assert_eq!(receipt.not_kept, Vec::<String>::new());
        let kept = &stored.info.attributes;
        assert_eq!(kept.content_encoding.as_deref(), Some("gzip"));
        let record = Record::from_object(&stored.info).expect("on the object");
        assert_eq!(
            (record.tenant.as_str(), record.task_id.as_str(), record.key.as_str()),
            ("tenant-1", "00-task", "k")
        );
        assert_eq!(record.modified, receipt.source_modified);
        let expected = Attributes { content_encoding: Some("gzip".into()), ..attributes.clone() };
        assert_eq!(record.attributes, expected, "a restore gets back what there was");
    }
}

#[tokio::test(start_paused = true)]
async fn metadata_that_does_not_fit_goes_beside_the_object() {
    let big = "x".repeat(2_045);
    for size in [5, 3 * PART] {
        let rig = Rig::new();
        let attributes = with_metadata(&[("big", &big)]);
        rig.origin.seed("uploads", "k", bytes(size, 1), attributes.clone(), &[]);
        let receipt = rig.copied("k").await;
        rig.assert_holds(&receipt, &bytes(size, 1));
        let manifest = rig.backup(&(receipt.backup_key.clone() + "~manifest.json"));
        let record: Record = serde_json::from_slice(&manifest.bytes).expect("a manifest");
        assert_eq!(record.attributes, attributes);
        assert_eq!(record.crc(), Some(receipt.crc64nvme));
        let again = rig.copied("k").await;
        assert!(again.already_present);
        assert_eq!(rig.backups().len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_kept_is_named() {
    let no_tags = MemoryOptions { tagging: false, ..Setup::default().vault };
    let tags = [Tag { key: "a".into(), value: "b".into() }];
    for size in [5, 3 * PART] {
        let rig = Rig::with(Setup { vault: no_tags, ..Setup::default() });
        rig.origin.seed("uploads", "k", bytes(size, 1), Attributes::default(), &tags);
        let receipt = rig.copied("k").await;
        assert_eq!(receipt.not_kept, ["tags"]);
        rig.assert_holds(&receipt, &bytes(size, 1));
    }
    let rig = Rig::new();
    rig.origin.seed("uploads", "k", Bytes::from_static(b"x"), Attributes::default(), &tags);
    rig.origin_does(Rule::new(Operation::GetTags, Fault::Fail(crate::store::StoreErrorKind::Denied)));
    assert_eq!(rig.copied("k").await.not_kept, ["tags"]);
    let rig = Rig::new();
    rig.upload("k", b"x");
    rig.origin.describe("uploads", "k", |info| (info.locked, info.hidden_metadata) = (true, true));
    assert_eq!(rig.copied("k").await.not_kept, ["metadata", "object-lock"]);
}

#[tokio::test(start_paused = true)]
async fn a_version_that_is_asked_for_is_the_one_that_is_copied() {
    for size in [5, 3 * PART] {
        let rig = Rig::new();
        for seed in [1, 2] {
            rig.origin.seed("versioned", "k", bytes(size, seed), Attributes::default(), &[]);
        }
        let versions = rig.origin.versions("versioned", "k");
        let mut keys = Vec::new();
        for (i, version) in [Some(0), Some(1), None].into_iter().enumerate() {
            let version: Option<String> = version.and_then(|v: usize| versions[v].info.version.clone());
            let request = CopyRequest { bucket: "versioned".into(), version, ..request("k") };
            let receipt = rig.engine.copy(&request, Arc::default(), Stop::default()).await.expect("copied");
            rig.assert_holds(&receipt, &bytes(size, if i == 0 { 1 } else { 2 }));
            assert_eq!(receipt.already_present, i == 2, "the latest is the second");
            keys.push(receipt.backup_key);
        }
        assert!(keys[0] < keys[1], "versions sort by time");
        let gone = CopyRequest { bucket: "versioned".into(), version: Some("v0".into()), ..request("k") };
        let error =
            rig.engine.copy(&gone, Arc::default(), Stop::default()).await.expect_err("no such version");
        assert_eq!(error.kind.code(), "source_gone");
    }
}
