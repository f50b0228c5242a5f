//! Copies inside one store: no byte passes through the worker, and the proof is as good.

use std::sync::Arc;

use super::*;
use crate::{
    store::{Operation, StoreErrorKind as Kind, Tag},
    transfer::VerifyLevel,
};

const SIZES: [u64; 5] = [0, 5, 4 * PART, 4 * PART + 1, 13 * PART];

async fn inside(setup: Setup) -> Rig {
    let rig = Rig::with(Setup { same_store: true, ..setup });
    rig.engine.probe().await;
    rig
}

#[tokio::test(start_paused = true)]
async fn no_byte_passes_through_the_worker() {
    let tags = [Tag { key: "a".into(), value: "b".into() }];
    for size in SIZES {
        let rig = inside(Setup::default()).await;
        let attributes = Attributes { content_type: Some("a/b".into()), ..Attributes::default() };
        rig.origin.seed("uploads", "k", bytes(size, 1), attributes, &tags);
        let progress = Arc::<ProgressCell>::default();
        let receipt =
            rig.engine.copy(&request("k"), Arc::clone(&progress), Stop::default()).await.expect("copied");
        rig.assert_holds(&receipt, &bytes(size, 1));
        assert!(receipt.server_side && !receipt.already_present);
        let stored = rig.backup(&receipt.backup_key);
        assert_eq!(stored.tags, tags);
        assert_eq!(
            Record::from_object(&stored.info).expect("ours").attributes.content_type.as_deref(),
            Some("a/b")
        );
        assert_eq!(rig.origin_faults.calls(Operation::Get), 0);
        assert_eq!(rig.vault_faults.calls(Operation::Get), 0);
        let (bytes_done, total, steps) = progress.read();
        assert_eq!((bytes_done, total), (0, size));
        assert_eq!(steps, size.div_ceil(4 * PART).max(1), "progress shows by the part");
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_copy_inside_changes_nothing_and_a_foreign_object_stays() {
    for size in SIZES {
        let rig = inside(Setup::default()).await;
        rig.upload("k", &bytes(size, 1));
        let first = rig.copied("k").await;
        let second = rig.copied("k").await;
        assert!(second.already_present);
        assert_eq!(first.backup_key, second.backup_key);
        rig.assert_holds(&second, &bytes(size, 1));
        rig.origin.seed("backups", &first.backup_key, b"other".to_vec(), Attributes::default(), &[]);
        if size != 5 {
            assert_eq!(rig.fails("k").await, "destination_conflict");
        }
        assert_eq!(rig.vault.open_uploads(), Vec::<String>::new());
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_changes_meanwhile_is_copied_in_its_new_state() {
    for (size, operation) in [(5, Operation::Copy), (13 * PART, Operation::CopyPart)] {
        let rig = inside(Setup::default()).await;
        rig.upload("k", &bytes(size, 1));
        rig.vault_does(Rule::new(operation, rig.overwrite("k", &bytes(size, 2))).on("uploads/k"));
        let receipt = rig.copied("k").await;
        rig.assert_holds(&receipt, &bytes(size, 2));
    }
}

#[tokio::test(start_paused = true)]
async fn where_the_store_will_not_the_worker_carries_the_bytes() {
    for kind in [Kind::Denied, Kind::NotImplemented, Kind::Rejected] {
        for (size, operation) in [(5, Operation::Copy), (13 * PART, Operation::CopyPart)] {
            let rig = inside(Setup::default()).await;
            rig.upload("k", &bytes(size, 1));
            rig.vault_does(Rule::new(operation, Fault::Fail(kind)).times(u32::MAX));
            let receipt = rig.copied("k").await;
            assert!(!receipt.server_side);
            rig.assert_holds(&receipt, &bytes(size, 1));
            let asked = rig.vault_faults.calls(operation);
            rig.upload("other", &bytes(size, 2));
            rig.copied("other").await;
            assert_eq!(rig.vault_faults.calls(operation), asked, "it is asked once");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_without_checksums_is_believed_by_its_etag_and_read_when_asked() {
    let plain = MemoryOptions { crc64nvme: false, ..Setup::default().origin };
    for (verify, reads) in [("receipt", 0), ("readback", 1)] {
        let rig = inside(Setup { origin: plain, verify, ..Setup::default() }).await;
        rig.upload("k", &bytes(100, 1));
        let receipt = rig.copied("k").await;
        assert_eq!(rig.origin_faults.calls(Operation::Get), reads);
        assert_eq!(rig.vault_faults.calls(Operation::Get), reads);
        let crc = if reads == 0 { 0 } else { crc_fast::crc64_nvme(&bytes(100, 1)) };
        assert_eq!(receipt.crc64nvme, crc, "0 where nobody knows it");
        assert_eq!(receipt.verified == VerifyLevel::Readback, reads > 0);
        assert!(rig.copied("k").await.already_present);
    }
}

#[tokio::test(start_paused = true)]
async fn a_sha256_that_the_store_does_not_know_needs_the_bytes() {
    let rig = inside(Setup { sha256: true, ..Setup::default() }).await;
    rig.upload("k", &bytes(100, 1));
    let receipt = rig.copied("k").await;
    assert!(receipt.sha256.is_some() && !receipt.server_side);
}

/// A HEAD need not say how many tags there are.
#[tokio::test(start_paused = true)]
async fn tags_that_a_head_did_not_count_are_named_where_they_are_lost() {
    let tags = [Tag { key: "a".into(), value: "b".into() }];
    for readable in [true, false] {
        let rig = Rig::with(Setup { same_store: true, ..Setup::default() });
        // No tags are written with the probe's credentials.
        let probe =
            Rule::new(Operation::Put, Fault::Fail(Kind::Denied)).on("probe/tags").times(u32::from(readable));
        rig.vault_does(probe);
        rig.engine.probe().await;
        rig.origin.seed("uploads", "k", bytes(13 * PART, 1), Attributes::default(), &tags);
        rig.origin.describe("uploads", "k", |info| info.tag_count = None);
        if !readable {
            rig.origin_does(Rule::new(Operation::GetTags, Fault::Fail(Kind::Denied)));
        }
        let receipt = rig.copied("k").await;
        assert!(receipt.server_side);
        assert_eq!(receipt.not_kept, ["tags"], "readable: {readable}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_copy_does_not_find_and_a_read_does_is_not_gone() {
    for (size, operation) in [(5, Operation::Copy), (13 * PART, Operation::CopyPart)] {
        for kind in [Kind::NoSuchKey, Kind::NoSuchVersion] {
            let rig = inside(Setup::default()).await;
            rig.upload("k", &bytes(size, 1));
            rig.upload("other", &bytes(size, 2));
            rig.vault_does(Rule::new(operation, Fault::Fail(kind)).on("/k~").times(u32::MAX));
            let receipt = rig.copied("k").await;
            rig.assert_holds(&receipt, &bytes(size, 1));
            assert!(!receipt.server_side);
            assert!(rig.copied("other").await.server_side, "others are copied inside as before");
            assert_eq!(rig.vault.open_uploads(), Vec::<String>::new());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn gone_is_gone_and_a_missing_bucket_is_not() {
    let rig = inside(Setup::default()).await;
    assert_eq!(rig.fails("never-there").await, "source_gone");
    let elsewhere = CopyRequest { bucket: "no-such-bucket".into(), ..request("k") };
    let error = rig.engine.copy(&elsewhere, Arc::default(), Stop::default()).await.expect_err("no bucket");
    assert_eq!(error.kind.code(), "no_such_bucket");
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_is_not_its_source_is_made_again_under_a_repair_key() {
    let rig = inside(Setup::default()).await;
    rig.upload("k", &bytes(100, 1));
    rig.vault_does(Rule::new(Operation::Copy, Fault::OtherChecksum).on("/k~"));
    let receipt = rig.copied("k").await;
    assert!(receipt.backup_key.ends_with("~r1") && receipt.server_side);
    rig.assert_holds(&receipt, &bytes(100, 1));

    let rig = inside(Setup { verify: "readback", ..Setup::default() }).await;
    rig.upload("k", &bytes(100, 1));
    rig.vault_does(Rule::new(Operation::Copy, rig.rot("/k~")).on("/k~"));
    let receipt = rig.copied("k").await;
    assert!(receipt.backup_key.ends_with("~r1") && receipt.server_side);
    rig.assert_holds(&receipt, &bytes(100, 1));
}

#[tokio::test(start_paused = true)]
async fn a_store_whose_copies_overwrite_is_looked_at_first() {
    let weak = MemoryOptions { create_only: false, ..Setup::default().origin };
    let rig = inside(Setup { origin: weak, ..Setup::default() }).await;
    rig.upload("k", &bytes(100, 1));
    let key = rig.copied("k").await.backup_key;
    rig.origin.seed("backups", &key, b"other".to_vec(), Attributes::default(), &[]);
    assert_eq!(rig.fails("k").await, "destination_conflict");
    assert_eq!(rig.backup(&key).bytes, b"other"[..]);
}

/// A store that says nothing about its objects: only reading tells what the copy is.
#[tokio::test(start_paused = true)]
async fn where_nothing_can_be_compared_source_and_copy_are_read() {
    let silent = MemoryOptions { crc64nvme: false, md5_etags: false, ..Setup::default().origin };
    let no_crc = MemoryOptions { crc64nvme: false, ..Setup::default().origin };
    // An upload of other parts has another ETag, although the bytes are equal.
    for (origin, size) in [(silent, 100), (silent, 13 * PART), (no_crc, 13 * PART)] {
        let rig = inside(Setup { origin, ..Setup::default() }).await;
        rig.upload("k", &bytes(size, 1));
        let receipt = rig.copied("k").await;
        assert!(receipt.server_side);
        assert_eq!(
            (receipt.crc64nvme, receipt.verified),
            (crc_fast::crc64_nvme(&bytes(size, 1)), VerifyLevel::Readback)
        );
        assert!(rig.origin_faults.calls(Operation::Get) > 0 && rig.vault_faults.calls(Operation::Get) > 0);
        rig.upload("rotten", &bytes(size, 2));
        let operation = if size == 100 { Operation::Copy } else { Operation::CompleteUpload };
        rig.vault_does(Rule::new(operation, rig.rot("/rotten~")).on("/rotten~"));
        let receipt = rig.copied("rotten").await;
        assert!(receipt.backup_key.ends_with("~r1"), "{}", receipt.backup_key);
        rig.assert_holds(&receipt, &bytes(size, 2));
    }
}
