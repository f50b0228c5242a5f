//! An origin that goes wrong: it changes, breaks off, answers something else, or asks for less load. Nothing wrong is ever kept.

use std::{
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use super::*;
use crate::{
    store::{Operation, StoreErrorKind as Kind},
    transfer::TransferErrorKind,
};

/// Both ways of copying.
const SIZES: [u64; 2] = [PART, 5 * PART + 1];

#[tokio::test(start_paused = true)]
async fn a_source_that_changes_is_copied_again_and_never_mixed() {
    for calls_before in 0..6 {
        let rig = Rig::new();
        let (old, new) = (bytes(5 * PART + 1, 1), bytes(5 * PART + 1, 2));
        rig.upload("k", &old);
        rig.origin_does(Rule::new(Operation::Get, rig.overwrite("k", &new)).after(calls_before));
        let receipt = rig.copied("k").await;
        rig.assert_holds(&receipt, &new);
        assert_eq!(rig.backups(), [receipt.backup_key]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_shrinks_or_grows_to_another_way_of_copying_is_still_copied() {
    for (before, after) in [(5 * PART, 3), (5 * PART, 0), (5 * PART, 9 * PART)] {
        let rig = Rig::new();
        rig.upload("k", &bytes(before, 1));
        rig.origin_does(Rule::new(Operation::Get, rig.overwrite("k", &bytes(after, 2))).after(2));
        let receipt = rig.copied("k").await;
        rig.assert_holds(&receipt, &bytes(after, 2));
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_never_rests_ends_the_attempt_and_leaves_nothing() {
    let rig = Rig::new();
    rig.upload("k", &bytes(5 * PART, 0));
    let origin = Arc::clone(&rig.origin);
    let seed = AtomicU8::new(1);
    let overwrite = Fault::Before(Arc::new(move || {
        let bytes = bytes(5 * PART, seed.fetch_add(1, Ordering::Relaxed));
        origin.seed("uploads", "k", bytes, Attributes::default(), &[]);
    }));
    rig.origin_does(Rule::new(Operation::Get, overwrite).times(u32::MAX));
    assert_eq!(rig.fails("k").await, "source_changed");
    assert!(rig.origin_faults.calls(Operation::Get) < 40, "it ends soon");
    assert_eq!(rig.backups(), Vec::<String>::new());
    assert_eq!(rig.vault.open_uploads(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn an_origin_that_ignores_pins_and_keeps_no_checksums_is_seen_through() {
    let origin = MemoryOptions { pins: false, crc64nvme: false, ..Setup::default().origin };
    for size in SIZES {
        for calls_before in 1..6 {
            let rig = Rig::with(Setup { origin, ..Setup::default() });
            rig.upload("k", &bytes(size, 1));
            rig.origin_does(Rule::new(Operation::Get, Fault::CutBody { after: 1000 }));
            rig.origin_does(
                Rule::new(Operation::Get, rig.overwrite("k", &bytes(size, 2))).after(calls_before),
            );
            let receipt = rig.copied("k").await;
            let overwritten = rig.origin_faults.calls(Operation::Get) > u64::from(calls_before) + 1;
            rig.assert_holds(&receipt, &bytes(size, if overwritten { 2 } else { 1 }));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_gone_says_so() {
    let rig = Rig::new();
    assert_eq!(rig.fails("never-there").await, "source_gone");
    rig.upload("k", &bytes(5 * PART, 1));
    let origin = Arc::clone(&rig.origin);
    let remove = Fault::Before(Arc::new(move || origin.remove("uploads", "k")));
    rig.origin_does(Rule::new(Operation::Get, remove).after(3));
    assert_eq!(rig.fails("k").await, "source_gone");
    assert_eq!(rig.vault.open_uploads(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_missing_bucket_is_no_missing_object() {
    let rig = Rig::new();
    let elsewhere = CopyRequest { bucket: "no-such-bucket".into(), ..request("k") };
    let error = rig.engine.copy(&elsewhere, Arc::default(), Stop::default()).await.expect_err("no bucket");
    assert_eq!(error.kind, TransferErrorKind::NoSuchBucket);
    // A 404 that does not say what is missing.
    rig.upload("k", b"x");
    rig.origin_does(Rule::new(Operation::Get, Fault::Fail(Kind::NotFound)));
    assert_eq!(rig.fails("k").await, "denied");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_off_anywhere_is_gone_on_with() {
    for size in SIZES {
        for after in [0, 1, 999, 1_000, 1_001, 4_095] {
            for fault in [Fault::CutBody { after }, Fault::EndBody { after }, Fault::HangBody { after }] {
                for calls_before in [0, 1] {
                    let rig = Rig::new();
                    rig.upload("k", &bytes(size, 1));
                    rig.origin_does(Rule::new(Operation::Get, fault.clone()).after(calls_before).times(2));
                    let receipt = rig.copied("k").await;
                    rig.assert_holds(&receipt, &bytes(size, 1));
                    let parts = if size > PART { size.div_ceil(PART) + 1 } else { 1 };
                    let asked = rig.origin_faults.calls(Operation::Get);
                    assert!(asked <= parts + 2, "{fault:?} {after}: {asked} reads, so some was read twice");
                    assert!(rig.vault_faults.calls(Operation::CreateUpload) <= 1, "begun again");
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_origin_that_sends_a_byte_at_a_time_does_not_hold_the_worker_for_ever() {
    let rig = Rig::new();
    rig.upload("k", &bytes(PART, 1));
    rig.origin_does(Rule::new(Operation::Get, Fault::CutBody { after: 1 }).times(u32::MAX));
    assert_eq!(rig.fails("k").await, "io");
    assert!(rig.origin_faults.calls(Operation::Get) < 100);
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_not_what_was_asked_for_are_not_believed() {
    for size in SIZES {
        for fault in [Fault::ExtraBytes, Fault::ShiftRange, Fault::IgnoreRange, Fault::OtherEtag] {
            for calls_before in 0..3 {
                let rig = Rig::new();
                rig.upload("k", &bytes(size, 1));
                rig.origin_does(Rule::new(Operation::Get, fault.clone()).after(calls_before));
                let receipt = rig.copied("k").await;
                rig.assert_holds(&receipt, &bytes(size, 1));
                if matches!(fault, Fault::ShiftRange) && size > PART && calls_before > 0 {
                    let once = size.div_ceil(PART) + 1;
                    assert_eq!(rig.origin_faults.calls(Operation::Get), once + 1, "read again");
                }
                let begun = rig.vault_faults.calls(Operation::CreateUpload);
                assert!(
                    begun <= 1 || matches!(fault, Fault::OtherEtag),
                    "{fault:?}: read to the end in vain"
                );
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_bit_that_flips_on_the_way_is_found_with_the_origin_s_checksum() {
    for size in SIZES {
        let rig = Rig::new();
        rig.upload("k", &bytes(size, 1));
        // The first large read only discovers.
        let first_read = u32::from(size > PART);
        rig.origin_does(Rule::new(Operation::Get, Fault::FlipBody { at: 7 }).after(first_read));
        let receipt = rig.copied("k").await;
        rig.assert_holds(&receipt, &bytes(size, 1));
        assert_eq!(rig.backups(), [receipt.backup_key]);

        let rig = Rig::new();
        rig.upload("k", &bytes(size, 1));
        rig.origin_does(Rule::new(Operation::Get, Fault::FlipBody { at: 7 }).times(u32::MAX));
        assert_eq!(rig.fails("k").await, "integrity");
        assert_eq!(rig.backups(), Vec::<String>::new());
        assert_eq!(rig.vault.open_uploads(), Vec::<String>::new());
    }
}

#[tokio::test(start_paused = true)]
async fn a_bit_that_flips_is_found_with_the_etag_where_there_is_no_checksum() {
    let origin = MemoryOptions { crc64nvme: false, ..Setup::default().origin };
    let rig = Rig::with(Setup { origin, ..Setup::default() });
    rig.upload("k", &bytes(100, 1));
    rig.origin_does(Rule::new(Operation::Get, Fault::FlipBody { at: 7 }));
    let receipt = rig.copied("k").await;
    rig.assert_holds(&receipt, &bytes(100, 1));
}

/// Origins that keep no CRC-64/NVME, and backup stores that check an MD5 or do not.
fn without_checksums() -> [Setup; 3] {
    let strong = Setup::default().origin;
    let origin = MemoryOptions { crc64nvme: false, ..strong };
    [
        Setup { origin, ..Setup::default() },
        Setup { origin, vault: MemoryOptions { checks_md5: false, ..strong }, ..Setup::default() },
        Setup { origin, vault: MemoryOptions { crc64nvme: false, ..strong }, ..Setup::default() },
    ]
}

#[tokio::test(start_paused = true)]
async fn bytes_that_are_not_those_of_their_etag_are_copied_and_named_each_time() {
    for setup in without_checksums() {
        for size in SIZES {
            let rig = Rig::with(setup);
            // At rest the bytes are stable, and their ETag is that of others: rotten, or it is no MD5.
            for key in ["one", "another"] {
                rig.upload(key, &bytes(size, 1));
                rig.origin.rot("uploads", key);
                let receipt = rig.copied(key).await;
                assert_eq!(receipt.not_kept, ["source-md5"], "{key} of {size}");
                assert_eq!(rig.vault.open_uploads(), Vec::<String>::new());
                let at_origin = rig.origin.versions("uploads", key);
                assert_eq!(rig.backup(&receipt.backup_key).bytes, at_origin[0].bytes);
            }
            rig.upload("sound", &bytes(size, 1));
            let receipt = rig.copied("sound").await;
            assert_eq!(receipt.not_kept, Vec::<String>::new());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_one_object_s_etag_is_says_nothing_about_the_next() {
    for setup in without_checksums() {
        for size in SIZES {
            let rig = Rig::with(setup);
            rig.engine.probe().await;
            rig.upload("rotten", &bytes(size, 1));
            rig.origin.rot("uploads", "rotten");
            rig.copied("rotten").await;
            rig.upload("k", &bytes(size, 2));
            let first_read = u32::from(size > PART);
            rig.origin_does(Rule::new(Operation::Get, Fault::FlipBody { at: 7 }).after(first_read));
            let receipt = rig.copied("k").await;
            rig.assert_holds(&receipt, &bytes(size, 2));
            assert_eq!(receipt.not_kept, Vec::<String>::new());
            let kept = rig.backups().into_iter().filter(|key| key.contains("/k~") && !key.ends_with(".json"));
            assert_eq!(kept.collect::<Vec<_>>(), [receipt.backup_key], "nothing wrong was stored");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn hiccups_are_bridged_and_outages_are_told() {
    let throttled = Kind::Throttled { retry_after: Duration::from_millis(500) };
    for kind in [Kind::Server, Kind::Timeout, Kind::Connection, throttled, Kind::CredentialsExpired] {
        for size in SIZES {
            let rig = Rig::new();
            rig.upload("k", &bytes(size, 1));
            rig.origin_does(Rule::new(Operation::Get, Fault::Fail(kind)).times(3));
            let receipt = rig.copied("k").await;
            rig.assert_holds(&receipt, &bytes(size, 1));
        }
    }
    let rig = Rig::new();
    rig.upload("k", b"x");
    rig.origin_does(Rule::new(Operation::Get, Fault::Fail(throttled)).times(u32::MAX));
    let error = rig.copy("k").await.expect_err("down");
    assert_eq!(error.kind, TransferErrorKind::Throttled { retry_after: Duration::from_millis(500) });
}

#[tokio::test(start_paused = true)]
async fn what_somebody_must_change_is_not_tried_again() {
    for (kind, code) in [
        (Kind::Denied, "denied"),
        (Kind::ClockSkew, "denied"),
        (Kind::Archived, "unsupported"),
        (Kind::Rejected, "unsupported"),
    ] {
        let rig = Rig::new();
        rig.upload("k", b"x");
        rig.origin_does(Rule::new(Operation::Get, Fault::Fail(kind)));
        assert_eq!(rig.fails("k").await, code);
        assert_eq!(rig.origin_faults.calls(Operation::Get), 1);
    }
}
