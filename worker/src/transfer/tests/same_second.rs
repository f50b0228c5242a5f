//! An object that is overwritten with bytes of the same length within the second that its store counts time in: nothing about it but its ETag, or
//! its version, says that it is another one.

use super::*;
use crate::{
    store::Operation,
    transfer::{PageFilter, PageRequest},
};

/// Both ways of copying.
const SIZES: [u64; 2] = [700, 5 * PART + 1];
const SECOND: (i64, u32) = (1_764_000_000, 0);

fn origins() -> [MemoryOptions; 3] {
    let strong = Setup::default().origin;
    [
        strong,
        // Nothing tells but the ETag, which is none of the bytes.
        MemoryOptions { crc64nvme: false, md5_etags: false, ..strong },
        // And reads are not pinned by the store.
        MemoryOptions { crc64nvme: false, pins: false, ..strong },
    ]
}

impl Rig {
    /// Puts an object into the origin, always at the same time.
    fn upload_then(&self, bytes: &[u8]) {
        self.upload("k", bytes);
        self.origin.describe("uploads", "k", |info| info.modified = Some(SECOND));
    }

    /// A fault that does the same at the moment of a request.
    fn overwrite_then(&self, bytes: &[u8]) -> Fault {
        let (origin, bytes) = (Arc::clone(&self.origin), Bytes::copy_from_slice(bytes));
        Fault::Before(Arc::new(move || {
            origin.seed("uploads", "k", bytes.clone(), Attributes::default(), &[]);
            origin.describe("uploads", "k", |info| info.modified = Some(SECOND));
        }))
    }
}

#[tokio::test(start_paused = true)]
async fn overwritten_during_a_copy_it_is_the_newer_one_that_is_kept_and_no_mixture() {
    for options in origins() {
        for size in SIZES {
            for before in 0..7 {
                let rig = Rig::with(Setup { origin: options, ..Setup::default() });
                let (old, new) = (bytes(size, 1), bytes(size, 2));
                rig.upload_then(&old);
                rig.origin_does(Rule::new(Operation::Get, rig.overwrite_then(&new)).after(before));
                // Each copy reads once at least: before the last one begins, the object is the newer one.
                for _ in 0..before {
                    let receipt = rig.copied("k").await;
                    let kept = &rig.backup(&receipt.backup_key).bytes;
                    assert!(kept == &old || kept == &new, "a mixture, overwritten before read {before}");
                }
                rig.assert_holds(&rig.copied("k").await, &new);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn overwritten_between_two_copies_it_is_another_object() {
    for options in origins() {
        for size in SIZES {
            let rig = Rig::with(Setup { origin: options, ..Setup::default() });
            let versions: Vec<Vec<u8>> = (1..5).map(|seed| bytes(size, seed)).collect();
            let mut keys = std::collections::BTreeSet::new();
            for version in &versions {
                rig.upload_then(version);
                assert_eq!(missing(&rig).await, 1, "a listing takes it for backed up");
                let receipt = rig.copied("k").await;
                assert!(!receipt.already_present);
                rig.assert_holds(&receipt, version);
                assert_eq!(missing(&rig).await, 0);
                keys.insert(receipt.backup_key);
            }
            assert_eq!(keys.len(), versions.len(), "each has a backup of its own");
            // Back to the first: known already.
            rig.upload_then(&versions[0]);
            let first = rig.copied("k").await;
            assert_eq!(first.already_present, options.md5_etags);
            rig.assert_holds(&first, &versions[0]);
        }
    }
}

/// How many objects of the prefix have no backup.
async fn missing(rig: &Rig) -> usize {
    let page = PageRequest {
        location: "photos".into(),
        bucket: "uploads".into(),
        prefix: "k".into(),
        all_versions: false,
        filter: PageFilter::default(),
        cursor: String::new(),
        max_entries: 10,
    };
    rig.engine.list_page(&page).await.unwrap_or_else(|e| panic!("{e}")).missing.len()
}
