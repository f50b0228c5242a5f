//! Memory is bounded whatever the number and size of the objects, and nobody waits for ever.

use futures_util::future::join_all;

use super::*;
use crate::store::Operation;

#[tokio::test(start_paused = true)]
async fn many_copies_of_all_sizes_stay_inside_the_budget() {
    for (verify, sha256) in [("receipt", false), ("readback", true)] {
        let vault = MemoryOptions { create_only: false, ..Setup::default().vault };
        let rig = Rig::with(Setup { verify, sha256, vault, ..Setup::default() });
        for operation in [Operation::Put, Operation::UploadPart] {
            rig.vault_does(Rule::new(operation, Fault::Delay(Duration::from_millis(5))).times(u32::MAX));
        }
        let keys: Vec<String> = (0..60).map(|i| format!("k{i}")).collect();
        let size = |i: usize| (i as u64 * 1777) % (12 * PART);
        for (i, key) in keys.iter().enumerate() {
            rig.upload(key, &bytes(size(i), 3));
        }
        let receipts = join_all(keys.iter().map(|k| rig.copied(k))).await;
        for (i, receipt) in receipts.iter().enumerate() {
            rig.assert_holds(receipt, &bytes(size(i), 3));
        }
        let (most, allowed) = rig.engine.memory_high_water();
        assert!(most <= allowed && allowed <= MEMORY, "{most} of {allowed}");
        assert!(most >= MEMORY / 2, "the test would prove nothing: {most}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_large_object_takes_its_window_and_no_more() {
    let rig = Rig::new();
    rig.upload("k", &bytes(40 * PART, 1));
    rig.vault_does(Rule::new(Operation::UploadPart, Fault::Delay(Duration::from_millis(5))).times(u32::MAX));
    let receipt = rig.copied("k").await;
    rig.assert_holds(&receipt, &bytes(40 * PART, 1));
    let (most, _) = rig.engine.memory_high_water();
    assert_eq!(most, 4 * PART, "the parts in flight");
}
