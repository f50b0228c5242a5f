//! What is found out about stores of every kind, and found again at the next start.

use std::{collections::BTreeSet, sync::Arc};

use backhaul_runtime::locations::{RateLimits, Retain};
use tokio::sync::OnceCell;

use super::*;
use crate::{
    store::{
        ObjectStore, Operation,
        faulty::{Fault, FaultyStore, Rule},
        memory::{MemoryOptions, MemoryStore},
    },
    transfer::{gate::Gate, route::Site},
};

fn target(store: Arc<dyn ObjectStore>) -> Target {
    target_with(store, BTreeSet::new(), None, None)
}

fn target_with(
    store: Arc<dyn ObjectStore>,
    without: BTreeSet<Feature>,
    storage_class: Option<String>,
    retain: Option<Retain>,
) -> Target {
    let gate = Gate::new(8, RateLimits::default(), Arc::default());
    let site = Site { name: "vault".into(), store, gate, without, pulse_bucket: "backups".into() };
    Target {
        site: Arc::new(site),
        bucket: "backups".into(),
        prefix: "p".into(),
        storage_class,
        retain,
        capabilities: OnceCell::new(),
    }
}

async fn probed(options: MemoryOptions) -> Capabilities {
    let store = Arc::new(MemoryStore::new(options, &["backups"]));
    target(store).capabilities().await.expect("reachable")
}

#[tokio::test]
async fn a_store_that_can_do_everything_is_believed() {
    let all = probed(MemoryOptions::default()).await;
    let every = Capabilities {
        create_only: true,
        create_only_copy: true,
        copy_terms: true,
        crc64nvme: true,
        md5: true,
        tagging: true,
        storage_class: true,
        key_max_bytes: 1024,
        // The bucket keeps none.
        versions: false,
    };
    assert_eq!(all, every);
}

#[tokio::test]
async fn what_must_not_be_used_is_not_even_tried() {
    let memory = Arc::new(MemoryStore::new(MemoryOptions::default(), &["backups"]));
    let faulty = Arc::new(FaultyStore::new(Arc::clone(&memory) as _));
    let without = [Feature::ConditionalWrites, Feature::Checksums, Feature::Tagging, Feature::ServerSideCopy];
    let target = target_with(Arc::clone(&faulty) as _, without.into(), None, None);
    let found = target.capabilities().await.expect("reachable");
    assert!(!(found.create_only || found.create_only_copy || found.tagging));
    assert!(!(found.crc64nvme || found.md5));
    // How long keys may be is not a thing to be used or not.
    assert!(memory.keys("backups").iter().all(|key| key.ends_with("/short") || key.contains("/long-")));
    for feature in without {
        let memory = Arc::new(MemoryStore::new(MemoryOptions::default(), &["backups"]));
        let found =
            target_with(memory, [feature].into(), None, None).capabilities().await.expect("reachable");
        assert_eq!(found.create_only, feature != Feature::ConditionalWrites);
        assert_eq!(found.crc64nvme, feature != Feature::Checksums);
        assert_eq!(found.tagging, feature != Feature::Tagging);
        let copies = feature != Feature::ServerSideCopy && feature != Feature::ConditionalWrites;
        assert_eq!(found.create_only_copy, copies, "{feature:?}");
    }
}

#[tokio::test]
async fn a_store_that_forgets_a_retention_is_not_used_where_one_is_asked_for() {
    let retain = Some(Retain { compliance: true, days: 30 });
    for locking in [true, false] {
        let options = MemoryOptions { locking, ..MemoryOptions::default() };
        let store = Arc::new(MemoryStore::new(options, &["backups"]));
        // The second time the object of the first is there.
        for _ in 0..2 {
            let cold = Some("COLD".into());
            let target = target_with(Arc::clone(&store) as _, BTreeSet::new(), cold, retain);
            match target.capabilities().await {
                Ok(found) => assert!(locking && found.storage_class),
                Err(error) => assert!(!locking && error.kind == Kind::NotImplemented, "{error}"),
            }
        }
    }
}

#[tokio::test]
async fn a_store_whose_copies_forget_a_retention_is_not_asked_to_copy_by_itself() {
    let retain = Some(Retain { compliance: false, days: 30 });
    for locks_copies in [true, false] {
        let options = MemoryOptions { locks_copies, ..MemoryOptions::default() };
        let store = Arc::new(MemoryStore::new(options, &["backups"]));
        for _ in 0..2 {
            let target = target_with(Arc::clone(&store) as _, BTreeSet::new(), None, retain);
            assert_eq!(target.capabilities().await.expect("reachable").copy_terms, locks_copies);
        }
        assert_eq!(store.open_uploads(), Vec::<String>::new());
    }
    assert!(probed(MemoryOptions { locks_copies: false, ..MemoryOptions::default() }).await.copy_terms);
}

#[tokio::test]
async fn each_weakness_is_found() {
    let strong = MemoryOptions::default();
    assert!(!probed(MemoryOptions { create_only: false, ..strong }).await.create_only);
    assert!(!probed(MemoryOptions { crc64nvme: false, ..strong }).await.crc64nvme);
    assert!(!probed(MemoryOptions { checks_md5: false, ..strong }).await.md5);
    assert!(probed(MemoryOptions { crc64nvme: false, ..strong }).await.md5);
    assert!(!probed(MemoryOptions { tagging: false, ..strong }).await.tagging);
    assert!(!probed(MemoryOptions { copying: false, ..strong }).await.create_only_copy);
}

#[tokio::test]
async fn the_longest_key_is_found_whatever_a_store_says_of_a_longer_one() {
    for chokes_on_keys in [true, false] {
        for key_max_bytes in [300, 479, 1000, 1023, 1024] {
            let options = MemoryOptions { key_max_bytes, chokes_on_keys, ..MemoryOptions::default() };
            let found = probed(options).await.key_max_bytes;
            let least = if key_max_bytes == 1024 { 1024 } else { key_max_bytes - 15 };
            assert!((least..=key_max_bytes).contains(&found), "{found} of {key_max_bytes}");
        }
    }
}

#[tokio::test]
async fn a_store_that_is_busy_for_a_moment_is_not_one_of_short_keys() {
    for (busy, ends) in [(2, Some(1024)), (u32::MAX, None)] {
        let memory = Arc::new(MemoryStore::new(MemoryOptions::default(), &["backups"]));
        let faulty = Arc::new(FaultyStore::new(memory));
        let kind = Kind::Throttled { retry_after: std::time::Duration::ZERO };
        faulty.add(Rule::new(Operation::Put, Fault::Fail(kind)).on("probe/long-").times(busy));
        if ends.is_none() {
            // It takes the first short key, and then nothing any more.
            faulty.add(Rule::new(Operation::Put, Fault::Fail(kind)).on("probe/short").after(1).times(busy));
        }
        let found = target(faulty).capabilities().await;
        assert_eq!(found.ok().map(|found| found.key_max_bytes), ends, "{busy}");
    }
}

#[tokio::test]
async fn versions_that_only_writes_tell_are_none() {
    for (false_versions, bucket, told) in
        [(true, "backups", false), (false, "backups", false), (false, "versioned-backups", true)]
    {
        let options = MemoryOptions { false_versions, ..MemoryOptions::default() };
        let store = MemoryStore::new(options, &[bucket]);
        for _ in 0..2 {
            let found = Capabilities::probe(&store, bucket, "p/").await.expect("reachable");
            assert_eq!(found.versions, told, "{bucket}");
            let written = Written { version: Some("v".into()), ..Written::default() };
            assert_eq!(found.believed(written).version.is_some(), told);
        }
    }
}

#[tokio::test]
async fn a_store_that_does_not_answer_about_tags_is_asked_again() {
    let memory = Arc::new(MemoryStore::new(MemoryOptions::default(), &["backups"]));
    let faulty = Arc::new(FaultyStore::new(memory));
    faulty.add(Rule::new(Operation::GetTags, Fault::Fail(Kind::Timeout)).times(1));
    let target = target(faulty);
    assert_eq!(target.capabilities().await.expect_err("no answer").kind, Kind::Timeout);
    assert!(target.capabilities().await.expect("an answer").tagging);
}

#[tokio::test]
async fn a_probe_finds_the_same_again_and_leaves_nothing_more() {
    for options in [
        MemoryOptions::default(),
        MemoryOptions { create_only: false, ..MemoryOptions::default() },
        MemoryOptions { crc64nvme: false, ..MemoryOptions::default() },
        MemoryOptions { checks_md5: false, ..MemoryOptions::default() },
        MemoryOptions { tagging: false, ..MemoryOptions::default() },
        MemoryOptions { key_max_bytes: 479, chokes_on_keys: true, ..MemoryOptions::default() },
    ] {
        let store = Arc::new(MemoryStore::new(options, &["backups"]));
        let first = target(Arc::clone(&store) as _).capabilities().await.expect("reachable");
        let keys = store.keys("backups");
        let long = if options.key_max_bytes < 1024 { 10 } else { 1 };
        assert!(
            keys.len() <= 8 + long && keys.iter().all(|k| k.starts_with("p/.backhaul/probe/")),
            "{keys:?}"
        );
        for _ in 0..3 {
            let again = target(Arc::clone(&store) as _).capabilities().await.expect("reachable");
            assert_eq!((again, store.keys("backups")), (first, keys.clone()));
        }
    }
}

#[tokio::test]
async fn a_race_that_nobody_saw_the_end_of_is_run_again() {
    let store = Arc::new(MemoryStore::new(MemoryOptions::default(), &["backups"]));
    let faulty = Arc::new(FaultyStore::new(Arc::clone(&store) as _));
    let prober = Prober { store: &*store, bucket: "backups", root: "p/.backhaul/probe/", gate: None };
    assert_eq!(prober.race("race").await.expect("reachable"), Race::Decided);
    assert!(!prober.exists("race-decided").await.expect("reachable"));
    assert!(target(Arc::clone(&faulty) as _).capabilities().await.expect("reachable").create_only);
    assert!(prober.exists("race-decided").await.expect("reachable"));
    // With the marker, and only with it, the taken key is enough.
    faulty.add(Rule::new(Operation::Head, Fault::Fail(Kind::Connection)).times(1));
    assert_eq!(target(faulty).capabilities().await.expect_err("it looked").kind, Kind::Connection);
}

#[tokio::test]
async fn a_store_that_refuses_conditions_is_not_taken_for_one_that_refuses_writes() {
    for (refused, ends) in [(2, true), (u32::MAX, false)] {
        let memory = Arc::new(MemoryStore::new(MemoryOptions::default(), &["backups"]));
        let faulty = Arc::new(FaultyStore::new(memory));
        faulty.add(Rule::new(Operation::Put, Fault::Fail(Kind::Rejected)).times(refused));
        let found = target(faulty).capabilities().await;
        assert_eq!(found.is_ok_and(|f| !f.create_only), ends);
    }
}

#[tokio::test]
async fn a_store_that_is_down_is_probed_again_later() {
    let memory = Arc::new(MemoryStore::new(MemoryOptions::default(), &["backups"]));
    let faulty = Arc::new(FaultyStore::new(memory));
    faulty.add(Rule::new(Operation::Put, Fault::Fail(Kind::Connection)).times(2));
    let target = target(faulty);
    assert_eq!(target.capabilities().await.expect_err("down").kind, Kind::Connection);
    assert!(target.capabilities().await.expect("up").create_only);
}
