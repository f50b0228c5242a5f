//! The life of multipart uploads: lost answers, resumption, being told to stop.

use std::sync::Arc;

use super::*;
use crate::{
    store::{ObjectPath, Operation, Payload, Proof, StoreErrorKind as Kind, UploadRef},
    transfer::TransferErrorKind,
};

const SIZE: u64 = 6 * PART + 1;

async fn ready() -> Rig {
    rig_with(Setup::default()).await
}

async fn rig_with(setup: Setup) -> Rig {
    let rig = Rig::with(setup);
    rig.engine.probe().await;
    rig.upload("k", &bytes(SIZE, 1));
    rig
}

/// A copy that hangs at a request, and is then told to stop; its progress.
async fn stopped(rig: &Rig, hang: Rule, hand_back: bool) -> Arc<ProgressCell> {
    stopped_with(rig, request("k"), hang, hand_back).await
}

async fn stopped_with(rig: &Rig, request: CopyRequest, hang: Rule, hand_back: bool) -> Arc<ProgressCell> {
    rig.vault_does(hang);
    let progress = Arc::<ProgressCell>::default();
    let stop = Stop::default();
    let copy = rig.engine.copy(&request, Arc::clone(&progress), stop.clone());
    let order = async {
        // Paused time: this passes when everything else waits.
        tokio::time::sleep(Duration::from_secs(1)).await;
        if hand_back { stop.hand_back.cancel() } else { stop.abort.cancel() }
    };
    let (ended, ()) = tokio::join!(copy, order);
    assert_eq!(ended.expect_err("told to stop").kind, TransferErrorKind::Cancelled);
    progress
}

fn hang_at_part(parts_before: u32) -> Rule {
    Rule::new(Operation::UploadPart, Fault::Hang).after(parts_before).times(u32::MAX)
}

#[tokio::test(start_paused = true)]
async fn a_completion_whose_answer_is_lost_has_happened() {
    for kind in [Kind::Timeout, Kind::Connection, Kind::Server] {
        for times in [1, 2] {
            let rig = ready().await;
            rig.vault_does(Rule::new(Operation::CompleteUpload, Fault::LoseAnswer(kind)));
            rig.vault_does(Rule::new(Operation::CompleteUpload, Fault::Fail(kind)).times(times - 1));
            let receipt = rig.copied("k").await;
            assert!(!receipt.already_present);
            assert_eq!(receipt.parts, 7);
            rig.assert_holds(&receipt, &bytes(SIZE, 1));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_completion_that_the_store_will_not_do_is_begun_again() {
    for kind in [Kind::NoSuchUpload, Kind::Conflict, Kind::InvalidPart, Kind::BadDigest] {
        let rig = ready().await;
        rig.vault_does(Rule::new(Operation::CompleteUpload, Fault::Fail(kind)));
        let receipt = rig.copied("k").await;
        rig.assert_holds(&receipt, &bytes(SIZE, 1));
        assert_eq!(rig.vault_faults.calls(Operation::CreateUpload), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_vanishes_under_its_parts_is_begun_again() {
    let rig = ready().await;
    rig.vault_does(Rule::new(Operation::UploadPart, Fault::Fail(Kind::NoSuchUpload)).after(3));
    let receipt = rig.copied("k").await;
    rig.assert_holds(&receipt, &bytes(SIZE, 1));
}

#[tokio::test(start_paused = true)]
async fn a_part_whose_answer_is_lost_is_sent_again() {
    let rig = ready().await;
    rig.vault_does(Rule::new(Operation::UploadPart, Fault::LoseAnswer(Kind::Connection)).times(3));
    let receipt = rig.copied("k").await;
    rig.assert_holds(&receipt, &bytes(SIZE, 1));
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_copy_leaves_no_upload_wherever_it_is() {
    let hangs = [hang_at_part(0), hang_at_part(5), Rule::new(Operation::Head, Fault::Hang).times(u32::MAX)];
    for hang in hangs {
        let rig = ready().await;
        let progress = stopped(&rig, hang, false).await;
        assert_eq!(rig.vault.open_uploads(), Vec::<String>::new());
        assert_eq!(progress.upload_id(), "");
        assert_eq!(rig.backups(), Vec::<String>::new());
    }
}

#[tokio::test(start_paused = true)]
async fn a_small_copy_is_cancelled_while_it_waits_for_its_origin() {
    let rig = ready().await;
    rig.upload("k", b"small");
    rig.origin_does(Rule::new(Operation::Get, Fault::HangBody { after: 1 }));
    let never = Rule::new(Operation::AbortUpload, Fault::Hang).times(0);
    stopped(&rig, never, false).await;
    assert_eq!(rig.backups(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn an_abort_that_fails_is_tried_again_and_not_for_ever() {
    let rig = ready().await;
    rig.vault_does(Rule::new(Operation::AbortUpload, Fault::Fail(Kind::Server)).times(2));
    stopped(&rig, hang_at_part(2), false).await;
    assert_eq!(rig.vault.open_uploads(), Vec::<String>::new());

    let rig = ready().await;
    rig.vault_does(Rule::new(Operation::AbortUpload, Fault::Hang).times(u32::MAX));
    stopped(&rig, hang_at_part(2), false).await;
    assert_eq!(rig.vault.open_uploads().len(), 1, "left to the lifecycle rule");
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_is_handed_back_is_gone_on_with_at_the_part() {
    for sha256 in [false, true] {
        let rig = rig_with(Setup { sha256, ..Setup::default() }).await;
        let progress = stopped(&rig, hang_at_part(4), true).await;
        let handed = progress.upload_id();
        assert!(!handed.is_empty() && handed.len() <= 1024);
        assert_eq!(rig.vault.open_uploads().len(), 1);
        let (uploaded, read) =
            (rig.vault_faults.calls(Operation::UploadPart), rig.origin_faults.calls(Operation::Get));
        rig.vault_faults.clear();

        let request = CopyRequest { resume_upload_id: handed, ..request("k") };
        let progress = Arc::<ProgressCell>::default();
        let receipt =
            rig.engine.copy(&request, Arc::clone(&progress), Stop::default()).await.expect("copied");
        rig.assert_holds(&receipt, &bytes(SIZE, 1));
        assert_eq!(receipt.parts, 7);
        assert_eq!(progress.read(), (SIZE, SIZE, 0));
        assert_eq!(rig.vault_faults.calls(Operation::CreateUpload), 1);
        assert_eq!(rig.vault_faults.calls(Operation::UploadPart) - uploaded, 3, "four were there");
        let reads = rig.origin_faults.calls(Operation::Get) - read;
        assert_eq!(reads, if sha256 { 8 } else { 4 }, "a SHA-256 needs every byte");
    }
}

#[tokio::test(start_paused = true)]
async fn an_upload_of_another_version_is_aborted_and_not_gone_on_with() {
    for crc64nvme in [true, false] {
        let origin = MemoryOptions { crc64nvme, ..Setup::default().origin };
        let rig = rig_with(Setup { origin, ..Setup::default() }).await;
        let handed = stopped(&rig, hang_at_part(4), true).await.upload_id();
        rig.vault_faults.clear();
        rig.upload("k", &bytes(SIZE, 2));
        let request = CopyRequest { resume_upload_id: handed, ..request("k") };
        let receipt = rig.engine.copy(&request, Arc::default(), Stop::default()).await.expect("copied");
        rig.assert_holds(&receipt, &bytes(SIZE, 2));
    }
}

#[tokio::test(start_paused = true)]
async fn an_upload_with_parts_of_another_size_is_aborted_and_not_gone_on_with() {
    let rig = ready().await;
    let handed = stopped(&rig, hang_at_part(4), true).await.upload_id();
    rig.vault_faults.clear();
    let uploaded = rig.vault_faults.calls(Operation::UploadPart);
    let larger = EngineSettings {
        part_bytes: 2 * PART,
        whole_bytes: 2 * PART,
        memory_bytes: 2 * MEMORY,
        ..settings()
    };
    let vault = Arc::clone(&rig.vault_faults);
    let origin = Arc::clone(&rig.origin_faults);
    let engine = Engine::with_stores(&locations(Setup::default()), larger, |location| {
        Some(if location.name == "photos" {
            Arc::clone(&origin) as Arc<dyn ObjectStore>
        } else {
            Arc::clone(&vault) as _
        })
    });
    let request = CopyRequest { resume_upload_id: handed, ..request("k") };
    let copy = engine.expect("setup").copy(&request, Arc::default(), Stop::default()).await;
    let receipt = copy.expect("copied");
    rig.assert_holds(&receipt, &bytes(SIZE, 1));
    assert_eq!(receipt.parts, 4);
    assert_eq!(rig.vault_faults.calls(Operation::UploadPart) - uploaded, 4);
}

#[tokio::test(start_paused = true)]
async fn a_part_that_somebody_has_replaced_is_found_when_it_is_read_again() {
    let rig = rig_with(Setup { sha256: true, ..Setup::default() }).await;
    let handed = stopped(&rig, hang_at_part(4), true).await.upload_id();
    rig.vault_faults.clear();
    let (_, id) = handed.split_once('/').expect("version and id");
    let stem = format!("copies/photos/uploads/k~{}", handed.split_once('/').expect("version").0);
    let upload = UploadRef { at: ObjectPath { bucket: "backups", key: &stem }, id };
    let other = Payload::from(Bytes::from(bytes(PART, 9)));
    rig.vault.upload_part(upload, 1, &other, Proof::default()).await.expect("replaced");
    let request = CopyRequest { resume_upload_id: handed.clone(), ..request("k") };
    let receipt = rig.engine.copy(&request, Arc::default(), Stop::default()).await.expect("copied");
    rig.assert_holds(&receipt, &bytes(SIZE, 1));
    assert_eq!(rig.vault_faults.calls(Operation::CreateUpload), 1, "the upload is kept, the part is not");
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_nobody_was_told_of_is_found_and_gone_on_with() {
    let rig = ready().await;
    // A hand-back leaves what a kill leaves; here its name is lost.
    let _lost = stopped(&rig, hang_at_part(4), true).await;
    let uploaded = rig.vault_faults.calls(Operation::UploadPart);
    rig.vault_faults.clear();
    let receipt = rig.copied("k").await;
    rig.assert_holds(&receipt, &bytes(SIZE, 1));
    assert_eq!(rig.vault_faults.calls(Operation::CreateUpload), 1);
    assert_eq!(rig.vault_faults.calls(Operation::UploadPart) - uploaded, 3, "four were there");
    assert_eq!(rig.vault.open_uploads(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_a_passing_failure_ends_is_gone_on_with_at_the_part() {
    let throttled = Kind::Throttled { retry_after: Duration::from_secs(600) };
    for (kind, kept) in [(Kind::Server, true), (throttled, true), (Kind::Denied, false)] {
        let rig = ready().await;
        rig.vault_does(Rule::new(Operation::UploadPart, Fault::Fail(kind)).after(4).times(u32::MAX));
        rig.copy("k").await.expect_err("the store is away");
        assert_eq!(rig.vault.open_uploads().len(), usize::from(kept), "{kind}");
        rig.vault_faults.clear();
        let uploaded = rig.vault_faults.calls(Operation::UploadPart);
        let receipt = rig.copied("k").await;
        rig.assert_holds(&receipt, &bytes(SIZE, 1));
        let again = rig.vault_faults.calls(Operation::UploadPart) - uploaded;
        assert_eq!(again, if kept { 3 } else { 7 }, "{kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_list_uploads_is_copied_to_all_the_same() {
    let rig = ready().await;
    rig.upload("k", &bytes(SIZE, 1));
    rig.vault_does(Rule::new(Operation::ListUploads, Fault::Fail(Kind::Denied)).times(u32::MAX));
    let receipt = rig.copied("k").await;
    rig.assert_holds(&receipt, &bytes(SIZE, 1));
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_cannot_be_used_is_aborted_whatever_the_copy_becomes() {
    // The source is small now, gone now, or backed up meanwhile by somebody else.
    for case in ["small", "gone", "present"] {
        let rig = ready().await;
        let handed = stopped(&rig, hang_at_part(4), true).await.upload_id();
        rig.vault_faults.clear();
        match case {
            "small" => rig.upload("k", b"small"),
            "gone" => rig.origin.remove("uploads", "k"),
            _ => drop(rig.copied_beside_upload().await),
        }
        let request = CopyRequest { resume_upload_id: handed, ..request("k") };
        let ended = rig.engine.copy(&request, Arc::default(), Stop::default()).await;
        assert_eq!(ended.is_ok(), case != "gone", "{case}");
        assert_eq!(rig.vault.open_uploads(), Vec::<String>::new(), "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_upload_with_other_parts_or_a_made_up_name_does_no_harm() {
    let rig = ready().await;
    let handed = stopped(&rig, hang_at_part(4), true).await.upload_id();
    rig.vault_faults.clear();
    for name in ["nonsense", "/", "a/", "/b", "x~r1/y", "20260101T000000Z-x~r999999999999/y", handed.as_str()]
    {
        rig.vault.remove("backups", "k");
        let request = CopyRequest { resume_upload_id: name.to_owned(), ..request("k") };
        let receipt = rig.engine.copy(&request, Arc::default(), Stop::default()).await.expect("copied");
        assert!(rig.backup(&receipt.backup_key).bytes == bytes(SIZE, 1), "{name}");
    }
    assert_eq!(rig.vault.open_uploads(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_hand_back_before_anything_was_done_keeps_the_upload_of_before() {
    let rig = ready().await;
    let handed = stopped(&rig, hang_at_part(4), true).await.upload_id();
    rig.vault_faults.clear();
    rig.origin_does(Rule::new(Operation::Get, Fault::Hang).times(u32::MAX));
    let request = CopyRequest { resume_upload_id: handed.clone(), ..request("k") };
    let hangs = [
        Rule::new(Operation::AbortUpload, Fault::Hang).times(0),
        Rule::new(Operation::Head, Fault::Hang).times(u32::MAX),
        Rule::new(Operation::ListParts, Fault::Hang).times(u32::MAX),
    ];
    for hang in hangs {
        let progress = stopped_with(&rig, request.clone(), hang, true).await;
        assert_eq!(progress.upload_id(), handed);
        assert_eq!(rig.vault.open_uploads().len(), 1);
        rig.origin_faults.clear();
        rig.vault_faults.clear();
    }
}

impl Rig {
    /// A copy by another worker that knows nothing of the upload that is open.
    async fn copied_beside_upload(&self) -> CopyReceipt {
        self.copied("k").await
    }
}
