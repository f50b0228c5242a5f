//! Every fault at every request of every kind of copy: each ends in the right state, with the right bytes and nothing left behind.
//!
//! A copy without faults is made first, to count its requests; then one copy for each of these and each fault.

use super::*;
use crate::store::{Operation, StoreErrorKind as Kind};

/// Requests of a copy to its origin, and to the backup location.
const ORIGIN: [Operation; 3] = [Operation::Head, Operation::Get, Operation::GetTags];
const VAULT: [Operation; 9] = [
    Operation::Head,
    Operation::Get,
    Operation::Put,
    Operation::Copy,
    Operation::ListUploads,
    Operation::CreateUpload,
    Operation::UploadPart,
    Operation::CopyPart,
    Operation::CompleteUpload,
];

/// Failures that pass when the request is sent again, whether it was executed or not.
const PASSING: [Kind; 7] = [
    Kind::Server,
    Kind::Timeout,
    Kind::Connection,
    Kind::BadAnswer,
    Kind::CredentialsExpired,
    Kind::Throttled { retry_after: Duration::ZERO },
    Kind::Throttled { retry_after: Duration::from_secs(1) },
];
/// What may have been executed although it failed.
const UNCERTAIN: [Kind; 4] = [Kind::Server, Kind::Timeout, Kind::Connection, Kind::BadAnswer];

#[derive(Debug, Clone, Copy)]
struct Case {
    same_store: bool,
    size: u64,
    verify: &'static str,
}

const CASES: [Case; 6] = [
    Case { same_store: false, size: 0, verify: "receipt" },
    Case { same_store: false, size: PART, verify: "readback" },
    Case { same_store: false, size: 3 * PART + 1, verify: "head" },
    Case { same_store: false, size: 2 * PART, verify: "readback" },
    Case { same_store: true, size: PART, verify: "head" },
    Case { same_store: true, size: 9 * PART + 1, verify: "readback" },
];

impl Case {
    async fn rig(self) -> Rig {
        let Self { same_store, verify, .. } = self;
        let rig = Rig::with(Setup { same_store, verify, ..Setup::default() });
        rig.engine.probe().await;
        rig.upload("k", &self.bytes());
        rig
    }

    fn bytes(self) -> Vec<u8> {
        bytes(self.size, 1)
    }

    /// How often each request is made when nothing goes wrong.
    async fn requests(self) -> Vec<(bool, Operation, u32)> {
        let rig = self.rig().await;
        let count = |faults: &FaultyStore, o| u32::try_from(faults.calls(o)).expect("few");
        let probed: Vec<u32> = VAULT.map(|o| count(&rig.vault_faults, o)).into();
        rig.copied("k").await;
        let origin = ORIGIN.map(|o| (true, o, count(&rig.origin_faults, o)));
        let vault =
            VAULT.iter().zip(probed).map(|(o, before)| (false, *o, count(&rig.vault_faults, *o) - before));
        origin.into_iter().chain(vault).filter(|(_, _, n)| *n > 0).collect()
    }

    /// Makes the copy with one fault at the `nth` of such requests, and checks what came of it.
    async fn meets(self, at_origin: bool, operation: Operation, nth: u32, fault: Fault, expected: &str) {
        let rig = self.rig().await;
        let rule = Rule::new(operation, fault.clone()).after(nth).on("k");
        if at_origin {
            rig.origin_does(rule);
        } else {
            rig.vault_does(rule);
        }
        let what = format!(
            "{self:?}: {fault:?} at {operation} {nth} of the {}",
            if at_origin { "origin" } else { "backup" }
        );
        match rig.copy("k").await {
            Ok(receipt) => {
                assert_eq!(expected, "done", "{what}");
                let not_kept: &[&str] =
                    if operation == Operation::GetTags && matches!(fault, Fault::Fail(Kind::Denied)) {
                        &["tags"]
                    } else {
                        &[]
                    };
                assert_eq!(receipt.not_kept, not_kept, "{what}");
                assert!(!receipt.already_present, "{what}");
                rig.assert_holds(&receipt, &self.bytes());
                assert_eq!(rig.backups(), [receipt.backup_key], "{what}");
            }
            Err(error) => {
                assert_eq!(error.kind.code(), expected, "{what}: {error}");
                assert_eq!(rig.backups(), Vec::<String>::new(), "{what}");
            }
        }
        assert_eq!(rig.vault.open_uploads(), Vec::<String>::new(), "{what}");
        // Whatever it was, it has left nothing that hinders the next copy.
        rig.origin_faults.clear();
        rig.vault_faults.clear();
        rig.assert_holds(&rig.copied("k").await, &self.bytes());
    }
}

#[tokio::test(start_paused = true)]
async fn what_passes_is_survived_wherever_it_happens() {
    for case in CASES {
        for (at_origin, operation, times) in case.requests().await {
            for nth in 0..times {
                for kind in PASSING {
                    case.meets(at_origin, operation, nth, Fault::Fail(kind), "done").await;
                }
                for kind in UNCERTAIN {
                    case.meets(at_origin, operation, nth, Fault::LoseAnswer(kind), "done").await;
                }
                let late = Fault::Delay(Duration::from_secs(20));
                case.meets(at_origin, operation, nth, late, "done").await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_does_not_pass_is_told_and_leaves_nothing() {
    for case in CASES {
        for (at_origin, operation, times) in case.requests().await {
            for nth in 0..times {
                // Tags are named, uploads are not found, and what the store may not copy the worker carries.
                let done = [Operation::GetTags, Operation::ListUploads, Operation::Copy, Operation::CopyPart];
                let denied = if done.contains(&operation) { "done" } else { "denied" };
                // With the copy written already, a denied look at it leaves a copy that the next attempt finds.
                let written = !at_origin && matches!(operation, Operation::Head | Operation::Get);
                let looks_again = case.same_store && at_origin && nth > 0;
                let reads = reads_back(case, at_origin, operation, nth);
                if !(written || looks_again || reads) {
                    case.meets(at_origin, operation, nth, Fault::Fail(Kind::Denied), denied).await;
                }
                if at_origin && operation == Operation::Get && !reads_back(case, at_origin, operation, nth) {
                    for kind in [Kind::NoSuchKey, Kind::NoSuchVersion] {
                        case.meets(true, operation, nth, Fault::Fail(kind), "source_gone").await;
                    }
                    case.meets(true, operation, nth, Fault::Fail(Kind::NoSuchBucket), "no_such_bucket").await;
                    case.meets(true, operation, nth, Fault::Fail(Kind::Archived), "unsupported").await;
                }
                // The store takes back what it said: the copy looks, and begins again where it must.
                let again: &[Kind] = if [Operation::UploadPart, Operation::CopyPart].contains(&operation) {
                    &[Kind::NoSuchUpload]
                } else if operation == Operation::CompleteUpload {
                    &[
                        Kind::NoSuchUpload,
                        Kind::InvalidPart,
                        Kind::Conflict,
                        Kind::PreconditionFailed,
                        Kind::BadDigest,
                    ]
                } else {
                    &[]
                };
                for kind in again {
                    case.meets(at_origin, operation, nth, Fault::Fail(*kind), "done").await;
                }
                if operation == Operation::CreateUpload {
                    case.meets(at_origin, operation, nth, Fault::Fail(Kind::NoSuchBucket), "no_such_bucket")
                        .await;
                }
            }
        }
    }
}

/// Whether such a request is made only after the copy has been written.
fn reads_back(case: Case, at_origin: bool, operation: Operation, _nth: u32) -> bool {
    case.same_store && at_origin && operation == Operation::Get
}

#[tokio::test(start_paused = true)]
async fn bytes_that_are_not_what_they_should_be_are_never_stored() {
    for case in CASES.into_iter().filter(|case| case.size > 0) {
        for (at_origin, operation, times) in case.requests().await {
            for nth in 0..times {
                let spoiled = if at_origin && operation == Operation::Get {
                    vec![
                        Fault::CutBody { after: 100 },
                        Fault::CutBody { after: 0 },
                        Fault::EndBody { after: 1_500 },
                        Fault::HangBody { after: 2_000 },
                        Fault::ExtraBytes,
                        Fault::IgnoreRange,
                        Fault::ShiftRange,
                        Fault::FlipBody { at: 77 },
                        Fault::OtherEtag,
                    ]
                } else if [Operation::Put, Operation::UploadPart].contains(&operation) {
                    vec![Fault::FlipUpload]
                } else {
                    Vec::new()
                };
                // A source that is read only to be compared does not change what is stored.
                let compares = case.same_store && operation == Operation::Get;
                for fault in spoiled {
                    let flips = matches!(fault, Fault::FlipBody { .. } | Fault::OtherEtag);
                    if !(compares && flips) {
                        case.meets(at_origin, operation, nth, fault, "done").await;
                    }
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_that_changes_or_goes_at_any_request_is_copied_whole_or_gone() {
    for case in CASES {
        for (at_origin, operation, times) in case.requests().await {
            for nth in 0..times {
                let rig = case.rig().await;
                let newer = bytes(case.size + 1, 2);
                let change = Rule::new(operation, rig.overwrite("k", &newer)).after(nth).on("k");
                if at_origin {
                    rig.origin_does(change)
                } else {
                    rig.vault_does(change)
                }
                let receipt = rig.copied("k").await;
                let stored = rig.backup(&receipt.backup_key).bytes;
                assert!(stored == case.bytes() || stored == newer, "{case:?} {operation} {nth}: mixed");
                rig.assert_holds(&receipt, &stored);

                let rig = case.rig().await;
                let origin = Arc::clone(&rig.origin);
                let remove = Fault::Before(Arc::new(move || origin.remove("uploads", "k")));
                let remove = Rule::new(operation, remove).after(nth).on("k");
                if at_origin {
                    rig.origin_does(remove)
                } else {
                    rig.vault_does(remove)
                }
                match rig.copy("k").await {
                    Ok(receipt) => rig.assert_holds(&receipt, &case.bytes()),
                    Err(error) => assert_eq!(error.kind.code(), "source_gone", "{case:?} {operation} {nth}"),
                }
                assert_eq!(rig.vault.open_uploads(), Vec::<String>::new());
            }
        }
    }
}
