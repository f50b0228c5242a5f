//! Stores that go away and come back, and what is left behind by copies that were cut off.

use std::{collections::BTreeSet, sync::Arc};

use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    store::{ObjectPath, Operation, StoreErrorKind as Kind, WriteOptions},
    transfer::TransferErrorKind,
};

const LARGE: u64 = 6 * PART + 1;

/// Runs the engine's own work beside `work`.
async fn tended<T>(rig: &Rig, work: impl Future<Output = T>) -> T {
    let stop = CancellationToken::new();
    let (done, ()) = tokio::join!(
        async {
            let done = work.await;
            stop.cancel();
            done
        },
        rig.engine.tend(stop.clone())
    );
    done
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_pauses_its_location_and_costs_no_attempts() {
    for (side, operation) in [(0, Operation::Get), (1, Operation::Put)] {
        let rig = Rig::new();
        rig.engine.probe().await;
        let faults = if side == 0 { &rig.origin_faults } else { &rig.vault_faults };
        rig.upload("k", b"hello");
        faults.add(Rule::new(operation, Fault::Fail(Kind::Connection)).times(u32::MAX));
        faults.add(Rule::new(Operation::Head, Fault::Fail(Kind::Connection)).times(4));
        let mut paused = rig.engine.paused();
        tended(&rig, async {
            let mut codes = Vec::new();
            for _ in 0..5 {
                codes.push(rig.fails("k").await);
            }
            assert_eq!(codes[0], "io", "one copy's trouble is its own");
            assert_eq!(codes[4], "throttled", "with the store away it is not");
            paused.wait_for(|p| *p == BTreeSet::from(["photos".to_owned()])).await.expect("paused");
            let error = rig.copy("k").await.expect_err("away");
            let TransferErrorKind::Throttled { retry_after } = error.kind else { panic!("{error}") };
            assert!(!retry_after.is_zero());
            // The requests that look after it find it back, and nobody had to lose an attempt for that.
            let heads = faults.calls(Operation::Head);
            faults.clear();
            paused.wait_for(BTreeSet::is_empty).await.expect("back");
            assert!(faults.calls(Operation::Head) > heads);
            rig.copied("k").await;
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_names_a_time_is_left_alone_for_it() {
    let rig = Rig::new();
    rig.engine.probe().await;
    rig.upload("k", b"hello");
    let asked = Kind::Throttled { retry_after: Duration::from_secs(300) };
    rig.vault_does(Rule::new(Operation::Put, Fault::Fail(asked)));
    let mut paused = rig.engine.paused();
    tended(&rig, async {
        let begun = tokio::time::Instant::now();
        assert_eq!(rig.fails("k").await, "throttled");
        paused.wait_for(|p| !p.is_empty()).await.expect("paused");
        paused.wait_for(BTreeSet::is_empty).await.expect("back");
        assert_eq!(begun.elapsed().as_secs(), 300);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_asks_for_less_load_gets_it_and_every_copy_is_made() {
    let rig = Rig::new();
    rig.engine.probe().await;
    let throttled = Fault::Fail(Kind::Throttled { retry_after: Duration::from_secs(1) });
    // Three of ten requests, for as long as it takes.
    for n in 0..200 {
        rig.vault_does(Rule::new(Operation::Put, throttled.clone()).after(n * 10 / 3 % 7));
    }
    let keys: Vec<String> = (0..60).map(|n| format!("k{n}")).collect();
    for key in &keys {
        rig.upload(key, b"hello");
    }
    let copies = keys.iter().map(|key| async {
        // As the queue does: throttled costs nothing and comes again.
        loop {
            match rig.copy(key).await {
                Ok(receipt) => return receipt,
                Err(error) => assert_eq!(error.kind.code(), "throttled", "{error}"),
            }
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    });
    for receipt in tended(&rig, futures_util::future::join_all(copies)).await {
        rig.assert_holds(&receipt, b"hello");
    }
}

/// Begins a copy, cancels it when it hangs, and drops it where it stands, as the runner does with one that does not stop in time.
async fn cut_off(rig: &Rig, hang: Operation) {
    let stop = Stop::default();
    rig.vault_does(Rule::new(hang, Fault::Hang).times(u32::MAX));
    rig.vault_does(Rule::new(Operation::AbortUpload, Fault::Hang).times(1));
    let asked = request("k");
    let mut copy = Box::pin(rig.engine.copy(&asked, Arc::default(), stop.clone()));
    tokio::select! {
        ended = &mut copy => panic!("{ended:?}"),
        () = tokio::time::sleep(Duration::from_secs(1)) => stop.abort.cancel(),
    }
    let three_seconds = tokio::time::timeout(Duration::from_secs(3), &mut copy).await;
    assert!(three_seconds.is_err(), "it hangs in its abort");
}

#[tokio::test(start_paused = true)]
async fn the_upload_of_a_cancelled_copy_that_was_cut_off_is_aborted_all_the_same() {
    for hang in [Operation::UploadPart, Operation::CompleteUpload] {
        let rig = Rig::new();
        rig.engine.probe().await;
        rig.upload("k", &bytes(LARGE, 1));
        cut_off(&rig, hang).await;
        assert_eq!(rig.vault.open_uploads().len(), 1);
        rig.vault_faults.clear();
        tended(&rig, async {
            while !rig.vault.open_uploads().is_empty() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        })
        .await;
        assert_eq!(rig.backups(), Vec::<String>::new());
    }
}

#[tokio::test(start_paused = true)]
async fn an_upload_whose_name_never_came_is_found_by_its_key() {
    let rig = Rig::new();
    rig.engine.probe().await;
    rig.upload("k", &bytes(LARGE, 1));
    rig.vault_does(Rule::new(Operation::CreateUpload, Fault::LoseAnswer(Kind::Timeout)));
    rig.vault_does(Rule::new(Operation::CreateUpload, Fault::Hang).times(u32::MAX));
    let (stop, asked) = (Stop::default(), request("k"));
    let copy = rig.engine.copy(&asked, Arc::default(), stop.clone());
    assert!(
        tokio::time::timeout(Duration::from_secs(60), async {
            let cancel = async {
                tokio::time::sleep(Duration::from_secs(30)).await;
                stop.abort.cancel();
            };
            tokio::join!(copy, cancel)
        })
        .await
        .is_err()
    );
    assert_eq!(rig.vault.open_uploads().len(), 1, "one was made, and nobody was told");
    tended(&rig, tokio::time::sleep(Duration::from_secs(1))).await;
    assert_eq!(rig.vault.open_uploads(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn an_abort_that_fails_is_tried_again_until_the_end_of_the_worker_and_then_once_more() {
    let rig = Rig::new();
    rig.engine.probe().await;
    rig.upload("k", &bytes(LARGE, 1));
    rig.vault_does(Rule::new(Operation::UploadPart, Fault::Fail(Kind::Denied)));
    rig.vault_does(Rule::new(Operation::AbortUpload, Fault::Fail(Kind::Server)).times(6));
    assert_eq!(rig.fails("k").await, "denied");
    assert_eq!(rig.vault.open_uploads().len(), 1);
    let stop = CancellationToken::new();
    stop.cancel();
    rig.engine.tend(stop.clone()).await;
    assert_eq!(rig.vault.open_uploads().len(), 1, "the store still fails");
    rig.engine.tend(stop.clone()).await;
    rig.engine.tend(stop).await;
    assert_eq!(rig.vault.open_uploads(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn orphans_are_found_by_age_and_nothing_of_anybody_else_is_touched() {
    let options = MemoryOptions { page: 2, ..Setup::default().vault };
    let rig = Rig::with(Setup { vault: options, ..Setup::default() });
    rig.upload("k", b"x");
    let ours = rig.copied("k").await.backup_key;
    let open = async |key: &str| {
        let attributes = Attributes::default();
        let terms = crate::store::Terms::default();
        let write =
            WriteOptions { attributes: &attributes, tags: &[], terms, crc64nvme: true, create_only: true };
        let at = ObjectPath { bucket: "backups", key };
        let vault: &dyn ObjectStore = &*rig.vault;
        vault.create_upload(at, &write).await.expect("upload")
    };
    let (stem, _) = ours.rsplit_once('~').expect("a version");
    let dead = open(&ours).await;
    let repaired = open(&format!("{ours}~r2")).await;
    let worked_on = open(&format!("{stem}-2~20260101T000000Z-v1")).await;
    let kept = [
        open("copies/photos/uploads/no-version").await,
        open("copies/elsewhere/uploads/k~20260101T000000Z-v1").await,
        open("copies2/photos/uploads/k~20260101T000000Z-v1").await,
        open(&format!("{ours}~manifest.json")).await,
    ];
    rig.vault.pass_time(1_000);
    let body = crate::store::Payload::from(Bytes::from_static(b"part"));
    let key = format!("{stem}-2~20260101T000000Z-v1");
    let at = crate::store::UploadRef { at: ObjectPath { bucket: "backups", key: &key }, id: &worked_on };
    let vault: &dyn ObjectStore = &*rig.vault;
    vault.upload_part(at, 1, &body, crate::store::Proof::default()).await.expect("part");
    let young = open(&format!("{stem}-3~20260101T000000Z-v1")).await;
    let swept = rig.engine.sweep_orphans(rig.vault.now() - 500).await;
    assert_eq!(swept.len(), 1);
    assert_eq!(swept[0].1.as_ref().ok(), Some(&2));
    let left: BTreeSet<String> = rig.vault.open_uploads().into_iter().collect();
    assert!(!left.contains(&dead) && !left.contains(&repaired));
    assert!(left.contains(&young) && left.contains(&worked_on), "somebody works on these");
    assert!(kept.iter().all(|id| left.contains(id)), "somebody else's");
    assert_eq!(left.len(), 6);
    rig.vault_does(Rule::new(Operation::ListUploads, Fault::Fail(Kind::Denied)));
    assert!(rig.engine.sweep_orphans(i64::MAX).await[0].1.is_err(), "not being able to look is told");
}
