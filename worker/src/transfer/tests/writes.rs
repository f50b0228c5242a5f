//! A backup store that goes wrong, and keys that are taken: nothing is overwritten, nothing bad is called done.

use std::sync::Arc;

use tokio::sync::Barrier;

use super::*;
use crate::store::{Operation, StoreErrorKind as Kind};

const SIZES: [u64; 2] = [PART, 5 * PART + 1];

/// The key that a copy will get.
async fn key_of(size: u64) -> String {
    let rig = Rig::new();
    rig.upload("k", &bytes(size, 1));
    rig.copied("k").await.backup_key
}

fn weak() -> [MemoryOptions; 4] {
    let strong = Setup::default().vault;
    [
        strong,
        MemoryOptions { create_only: false, ..strong },
        MemoryOptions { crc64nvme: false, ..strong },
        MemoryOptions { create_only: false, crc64nvme: false, tagging: false, copying: false, ..strong },
    ]
}

#[tokio::test(start_paused = true)]
async fn a_second_copy_of_the_same_version_changes_nothing() {
    for vault in weak() {
        for size in SIZES {
            for verify in ["receipt", "readback"] {
                let rig = Rig::with(Setup { vault, verify, ..Setup::default() });
                rig.upload("k", &bytes(size, 1));
                let first = rig.copied("k").await;
                rig.assert_holds(&first, &bytes(size, 1));
                let before = rig.backups();
                let second = rig.copied("k").await;
                assert!(second.already_present && !first.already_present);
                assert_eq!(
                    (&first.backup_key, first.crc64nvme, &first.backup_etag),
                    (&second.backup_key, second.crc64nvme, &second.backup_etag)
                );
                assert_eq!(rig.backups(), before);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn another_object_under_the_key_is_a_conflict_and_stays_as_it_is() {
    for vault in weak() {
        for size in SIZES {
            let key = key_of(size).await;
            for other in [bytes(size, 9), b"short".to_vec()] {
                let rig = Rig::with(Setup { vault, ..Setup::default() });
                rig.upload("k", &bytes(size, 1));
                rig.vault.seed("backups", &key, other.clone(), Attributes::default(), &[]);
                assert_eq!(rig.fails("k").await, "destination_conflict");
                assert_eq!(rig.backup(&key).bytes, other);
                assert_eq!(rig.vault.open_uploads(), Vec::<String>::new());
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_damaged_copy_of_our_own_does_not_block_its_key() {
    for size in SIZES {
        let rig = Rig::with(Setup { verify: "readback", ..Setup::default() });
        rig.upload("k", &bytes(size, 1));
        let first = rig.copied("k").await;
        rig.vault.rot("backups", &first.backup_key);
        let second = rig.copied("k").await;
        assert!(!second.already_present);
        assert_eq!(second.backup_key, first.backup_key.clone() + "~r1");
        rig.assert_holds(&second, &bytes(size, 1));
        let third = rig.copied("k").await;
        assert_eq!((third.already_present, third.backup_key), (true, second.backup_key));
    }
}

#[tokio::test(start_paused = true)]
async fn a_bit_that_flips_on_the_way_to_the_store_is_refused_and_sent_again() {
    for vault in weak() {
        for size in SIZES {
            let operation = if size <= PART { Operation::Put } else { Operation::UploadPart };
            let rig = Rig::with(Setup { vault, ..Setup::default() });
            rig.engine.probe().await;
            rig.upload("k", &bytes(size, 1));
            rig.vault_does(Rule::new(operation, Fault::FlipUpload));
            let receipt = rig.copied("k").await;
            rig.assert_holds(&receipt, &bytes(size, 1));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_keeps_other_bytes_than_it_was_sent_is_caught() {
    let rig = Rig::new();
    rig.engine.probe().await;
    rig.upload("small", &bytes(100, 1));
    rig.vault_does(Rule::new(Operation::Put, Fault::FlipUploadUnnoticed).on("/small"));
    let receipt = rig.copied("small").await;
    assert!(receipt.backup_key.ends_with("~r1"), "the bad copy is left and not called done");
    rig.assert_holds(&receipt, &bytes(100, 1));

    rig.upload("large", &bytes(3 * PART, 1));
    rig.vault_does(Rule::new(Operation::UploadPart, Fault::FlipUploadUnnoticed).on("/large"));
    let receipt = rig.copied("large").await;
    rig.assert_holds(&receipt, &bytes(3 * PART, 1));
    assert_eq!(rig.vault_faults.calls(Operation::CompleteUpload), 1, "found at the part already");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_always_spoils_what_it_gets_ends_the_attempt() {
    let rig = Rig::new();
    rig.engine.probe().await;
    rig.upload("k", &bytes(100, 1));
    rig.vault_does(Rule::new(Operation::Put, Fault::FlipUploadUnnoticed).times(u32::MAX));
    assert_eq!(rig.fails("k").await, "integrity");
    assert!(rig.backups().len() <= 4, "bounded");
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_to_a_write_is_our_own_success() {
    for kind in [Kind::Timeout, Kind::Connection, Kind::Server] {
        for vault in weak() {
            let rig = Rig::with(Setup { vault, ..Setup::default() });
            rig.engine.probe().await;
            rig.upload("k", &bytes(100, 1));
            rig.vault_does(Rule::new(Operation::Put, Fault::LoseAnswer(kind)));
            let receipt = rig.copied("k").await;
            assert!(!receipt.already_present);
            rig.assert_holds(&receipt, &bytes(100, 1));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_workers_at_once_one_writes_and_both_are_done() {
    for (size, operation) in [(PART, Operation::Put), (5 * PART, Operation::CompleteUpload)] {
        let rig = Rig::new();
        rig.engine.probe().await;
        rig.upload("k", &bytes(size, 1));
        let barrier = Arc::new(Barrier::new(2));
        rig.vault_does(Rule::new(operation, Fault::Meet(barrier)).times(2));
        let (one, other) = tokio::join!(rig.copied("k"), rig.copied("k"));
        assert_eq!(one.backup_key, other.backup_key);
        // Of two that shared one upload, both may say that they wrote it.
        assert!(!(one.already_present && other.already_present));
        assert_eq!(rig.vault.open_uploads(), Vec::<String>::new());
        rig.assert_holds(&one, &bytes(size, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_full_of_requests_is_obeyed_and_told() {
    let rig = Rig::new();
    rig.engine.probe().await;
    rig.upload("k", &bytes(5 * PART, 1));
    let throttled = Kind::Throttled { retry_after: std::time::Duration::from_secs(60) };
    rig.vault_does(Rule::new(Operation::UploadPart, Fault::Fail(throttled)).times(u32::MAX));
    assert_eq!(rig.fails("k").await, "throttled");
    assert_eq!(rig.vault.open_uploads().len(), 1, "the next attempt goes on with it");
    assert!(rig.vault_faults.calls(Operation::UploadPart) <= 4, "a minute is not waited inside a copy");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_refuses_writes_is_told_and_leaves_nothing() {
    for (operation, size) in
        [(Operation::Put, 5), (Operation::CreateUpload, 5 * PART), (Operation::UploadPart, 5 * PART)]
    {
        let rig = Rig::new();
        rig.engine.probe().await;
        rig.upload("k", &bytes(size, 1));
        rig.vault_does(Rule::new(operation, Fault::Fail(Kind::Denied)).times(u32::MAX));
        assert_eq!(rig.fails("k").await, "denied");
        assert_eq!(rig.vault.open_uploads(), Vec::<String>::new());
        assert_eq!(rig.backups(), Vec::<String>::new());
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_rots_as_soon_as_it_is_written_is_not_called_done() {
    for (size, operation) in [(PART, Operation::Put), (5 * PART, Operation::CompleteUpload)] {
        let rig = Rig::with(Setup { verify: "readback", ..Setup::default() });
        rig.engine.probe().await;
        rig.upload("k", &bytes(size, 1));
        rig.vault_does(Rule::new(operation, rig.rot("/k~")));
        let receipt = rig.copied("k").await;
        assert!(receipt.backup_key.ends_with("~r1"));
        rig.assert_holds(&receipt, &bytes(size, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_says_nothing_about_what_it_wrote_is_read_back() {
    let vault = MemoryOptions { crc64nvme: false, md5_etags: false, ..Setup::default().vault };
    for (size, operation) in [(PART, Operation::Put), (5 * PART, Operation::CompleteUpload)] {
        let rig = Rig::with(Setup { vault, ..Setup::default() });
        rig.engine.probe().await;
        rig.upload("k", &bytes(size, 1));
        let receipt = rig.copied("k").await;
        assert_eq!(receipt.verified, crate::transfer::VerifyLevel::Readback);
        rig.upload("rotten", &bytes(size, 2));
        rig.vault_does(Rule::new(operation, rig.rot("/rotten~")));
        let receipt = rig.copied("rotten").await;
        assert!(receipt.backup_key.ends_with("~r1"));
        rig.assert_holds(&receipt, &bytes(size, 2));
        assert!(rig.copied("k").await.already_present);
    }
}

#[tokio::test(start_paused = true)]
async fn where_creation_is_not_atomic_the_engine_looks_again_before_it_completes() {
    let vault = MemoryOptions { create_only: false, ..Setup::default().vault };
    let key = key_of(5 * PART).await;
    let rig = Rig::with(Setup { vault, ..Setup::default() });
    rig.upload("k", &bytes(5 * PART, 1));
    let (store, taken) = (Arc::clone(&rig.vault), key.clone());
    let take = Fault::Before(Arc::new(move || {
        store.seed("backups", &taken, b"other".to_vec(), Attributes::default(), &[]);
    }));
    rig.vault_does(Rule::new(Operation::UploadPart, take).after(2));
    assert_eq!(rig.fails("k").await, "destination_conflict");
    assert_eq!(rig.backup(&key).bytes, b"other"[..]);
    assert_eq!(rig.vault.open_uploads(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn any_number_of_damaged_copies_of_before_does_not_block_the_key() {
    for vault in [Setup::default().vault, MemoryOptions { create_only: false, ..Setup::default().vault }] {
        for same_store in [false, true] {
            for size in SIZES {
                let rig = Rig::with(Setup { vault, verify: "readback", same_store, ..Setup::default() });
                rig.upload("k", &bytes(size, 1));
                for repair in 0..7 {
                    let receipt = rig.copied("k").await;
                    assert_eq!(receipt.backup_key.ends_with(&format!("~r{repair}")), repair > 0);
                    rig.assert_holds(&receipt, &bytes(size, 1));
                    rig.vault.rot("backups", &receipt.backup_key);
                }
            }
        }
    }
}

/// A worker wrote it and died before anything was compared: the store's own checksum of it proves nothing.
#[tokio::test(start_paused = true)]
async fn a_copy_that_was_never_proven_is_compared_with_its_source() {
    let origin = MemoryOptions { crc64nvme: false, ..Setup::default().origin };
    for size in SIZES {
        for wrong in [true, false] {
            let rig = Rig::with(Setup { origin, ..Setup::default() });
            rig.upload("k", &bytes(size, 1));
            let key = rig.copied("k").await.backup_key;
            let stored = rig.backup(&key);
            rig.vault.remove("backups", &key);
            let seed = if wrong { 9 } else { 1 };
            rig.vault.seed("backups", &key, bytes(size, seed), stored.info.attributes, &[]);
            let again = rig.copied("k").await;
            assert_eq!(again.already_present, !wrong, "{size}");
            assert_eq!(again.backup_key.ends_with("~r1"), wrong, "{size}");
            rig.assert_holds(&again, &bytes(size, 1));
        }
    }
}
