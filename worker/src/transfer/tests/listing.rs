//! Pages of a prefix: everything once, filters, and what counts as backed up already.

use std::{collections::BTreeSet, sync::Arc};

use super::*;
use crate::{
    store::{Operation, StoreErrorKind as Kind},
    transfer::{PageFilter, PageFound, PageRequest, TransferErrorKind},
};

fn page(prefix: &str, max_entries: u32) -> PageRequest {
    PageRequest {
        location: "photos".into(),
        bucket: "uploads".into(),
        prefix: prefix.into(),
        all_versions: false,
        filter: PageFilter::default(),
        cursor: String::new(),
        max_entries,
    }
}

/// All pages from the first to the last, as one.
async fn walk(rig: &Rig, request: &PageRequest) -> PageFound {
    let mut whole = PageFound::default();
    let mut request = request.clone();
    for _ in 0..1_000 {
        let found = rig.engine.list_page(&request).await.unwrap_or_else(|e| panic!("{e}"));
        whole.missing.extend(found.missing);
        whole.listed += found.listed;
        whole.skipped += found.skipped;
        whole.backed_up += found.backed_up;
        if found.next.is_empty() {
            return whole;
        }
        request.cursor = found.next;
    }
    panic!("the listing has no end")
}

fn keys(found: &PageFound) -> BTreeSet<&str> {
    found.missing.iter().map(|object| object.key.as_str()).collect()
}

/// Keys that something on the way likes to change: blanks, signs, controls, and as long as they may be.
fn hostile() -> Vec<String> {
    let mut keys: Vec<String> = [
        " ",
        "+",
        "a b+c",
        "%2B%20%",
        "ü😀",
        "\u{1}\u{7f}",
        "new\nline",
        "a\\b\"<&>",
        "!x~y",
        "..",
        "a//b",
        "/",
    ]
    .iter()
    .map(|key| format!("h/{key}"))
    .collect();
    keys.push(format!("h/{}", "k".repeat(1022)));
    keys.push(format!("h/{}", "😀".repeat(255)));
    keys
}

#[tokio::test(start_paused = true)]
async fn every_key_is_found_once_whatever_it_is_made_of_and_copied_ones_are_known() {
    let rig = Rig::new();
    let hostile = hostile();
    for key in &hostile {
        rig.upload(key, key.as_bytes());
    }
    rig.upload("other", b"x");
    for entries in [1, 3, 1_000] {
        let found = walk(&rig, &page("h/", entries)).await;
        assert_eq!(keys(&found), hostile.iter().map(String::as_str).collect());
        assert_eq!((found.listed, found.missing.len()), (hostile.len() as u64, hostile.len()));
        assert!(found.missing.iter().all(|object| object.version.is_none()), "the latest is asked for");
    }
    for key in &hostile {
        rig.copied(key).await;
    }
    for entries in [1, 1_000] {
        let found = walk(&rig, &page("h/", entries)).await;
        assert_eq!((found.backed_up, keys(&found)), (hostile.len() as u64, BTreeSet::new()));
    }
    // What was written since is another version.
    rig.upload("h/+", b"newer");
    assert_eq!(keys(&walk(&rig, &page("h/", 4)).await), BTreeSet::from(["h/+"]));
}

#[tokio::test(start_paused = true)]
async fn filters_leave_out_and_count_what_they_leave_out() {
    let rig = Rig::new();
    for (key, size) in [("f/a.jpg", 10), ("f/b.png", 10), ("f/c.jpg", 99), ("f/d.jpg", 100), ("f/e.jpg", 9)] {
        rig.upload(key, &bytes(size, 1));
    }
    let middle = rig.origin.now();
    rig.upload("f/late.jpg", &bytes(50, 1));
    let filter = PageFilter {
        suffix: ".jpg".into(),
        min_size_bytes: 10,
        max_size_bytes: Some(99),
        modified_since: None,
    };
    let by = |filter: PageFilter| PageRequest { filter, ..page("f/", 2) };
    let found = walk(&rig, &by(filter.clone())).await;
    assert_eq!(keys(&found), BTreeSet::from(["f/a.jpg", "f/c.jpg", "f/late.jpg"]));
    assert_eq!((found.listed, found.skipped, found.backed_up), (6, 3, 0));
    let since = PageFilter { modified_since: Some((middle + 1, 0)), ..filter };
    let found = walk(&rig, &by(since)).await;
    assert_eq!((keys(&found), found.skipped), (BTreeSet::from(["f/late.jpg"]), 5));
}

#[tokio::test(start_paused = true)]
async fn all_versions_are_found_and_each_is_known_by_its_own_copy() {
    let rig = Rig::new();
    let seed = |key: &str, text: &str| {
        rig.origin.seed("versioned", key, Bytes::from(text.to_owned()), Attributes::default(), &[]);
    };
    for text in ["one", "two", "three"] {
        seed("v/a", text);
    }
    seed("v/b", "other");
    let request = PageRequest { bucket: "versioned".into(), all_versions: true, ..page("v/", 1) };
    let found = walk(&rig, &request).await;
    let versions: BTreeSet<_> = found.missing.iter().map(|v| (v.key.clone(), v.version.clone())).collect();
    assert_eq!((found.listed, versions.len()), (4, 4));
    assert!(versions.iter().all(|(_, version)| version.is_some()), "each is named: {versions:?}");
    let second = rig.origin.versions("versioned", "v/a")[1].info.version.clone();
    let copy = CopyRequest { bucket: "versioned".into(), version: second.clone(), ..super::request("v/a") };
    rig.engine.copy(&copy, Arc::default(), Stop::default()).await.expect("copied");
    let found = walk(&rig, &request).await;
    assert_eq!((found.listed, found.backed_up, found.missing.len()), (4, 1, 3));
    assert!(found.missing.iter().all(|v| v.version != second));
}

#[tokio::test(start_paused = true)]
async fn the_current_version_of_a_bucket_that_keeps_versions_is_known_by_its_copy() {
    let rig = Rig::new();
    let seed = |text: &str| {
        rig.origin.seed("versioned", "v/a", Bytes::from(text.to_owned()), Attributes::default(), &[]);
    };
    seed("one");
    let copy = CopyRequest { bucket: "versioned".into(), ..super::request("v/a") };
    rig.engine.copy(&copy, Arc::default(), Stop::default()).await.expect("copied");
    let request = PageRequest { bucket: "versioned".into(), ..page("v/", 10) };
    let found = walk(&rig, &request).await;
    assert_eq!((found.listed, found.backed_up), (1, 1));
    // A newer version of the same size has no copy, although an older one has.
    seed("two");
    let found = walk(&rig, &request).await;
    assert_eq!((found.listed, found.backed_up, keys(&found)), (1, 0, BTreeSet::from(["v/a"])));
}

#[tokio::test(start_paused = true)]
async fn something_else_under_the_key_of_a_copy_is_no_backup() {
    let rig = Rig::new();
    rig.upload("k/a", b"bytes");
    let copy = rig.copied("k/a").await.backup_key;
    assert_eq!(walk(&rig, &page("k/", 10)).await.backed_up, 1);
    rig.vault.remove("backups", &copy);
    rig.vault.seed("backups", &copy, Bytes::from_static(b"other"), Attributes::default(), &[]);
    assert_eq!(walk(&rig, &page("k/", 10)).await.missing.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_first_backup_asks_for_no_copy_one_by_one() {
    let rig = Rig::new();
    for n in 0..50 {
        rig.upload(&format!("new/{n}"), b"x");
    }
    rig.copied("new/7").await;
    let heads = rig.vault_faults.calls(Operation::Head);
    rig.upload("fresh/1", b"x");
    rig.upload("fresh/2", b"x");
    assert_eq!(walk(&rig, &page("fresh/", 10)).await.missing.len(), 2);
    assert_eq!(rig.vault_faults.calls(Operation::Head), heads);
    let found = walk(&rig, &page("new/", 1_000)).await;
    assert_eq!((found.backed_up, found.missing.len()), (1, 49));
}

#[tokio::test(start_paused = true)]
async fn what_a_store_refuses_decides_what_becomes_of_the_listing() {
    for (kind, code) in [
        (Kind::Denied, "denied"),
        (Kind::NoSuchBucket, "no_such_bucket"),
        (Kind::Throttled { retry_after: Duration::from_secs(30) }, "throttled"),
        (Kind::BadAnswer, "io"),
    ] {
        let rig = Rig::new();
        rig.upload("e/a", b"x");
        rig.origin_does(Rule::new(Operation::ListObjects, Fault::Fail(kind)).times(u32::MAX));
        let error = rig.engine.list_page(&page("e/", 10)).await.expect_err("must fail");
        assert_eq!(error.kind.code(), code);
        if let (TransferErrorKind::Throttled { retry_after }, Kind::Throttled { .. }) = (error.kind, kind) {
            assert_eq!(retry_after, Duration::from_secs(30));
        }
    }
    // A hiccup is bridged, on either side.
    let rig = Rig::new();
    rig.upload("e/a", b"x");
    rig.upload("e/b", b"x");
    rig.copied("e/a").await;
    rig.origin_does(Rule::new(Operation::ListObjects, Fault::Fail(Kind::Server)).times(2));
    rig.vault_does(Rule::new(Operation::ListObjects, Fault::Fail(Kind::Timeout)).times(1));
    rig.vault_does(Rule::new(Operation::Head, Fault::Fail(Kind::Server)).times(2));
    let found = walk(&rig, &page("e/", 10)).await;
    assert_eq!((found.backed_up, keys(&found)), (1, BTreeSet::from(["e/b"])));
    // A backup store that cannot be asked is not one without copies.
    rig.vault_does(Rule::new(Operation::Head, Fault::Fail(Kind::Denied)).times(u32::MAX));
    assert_eq!(rig.engine.list_page(&page("e/", 10)).await.expect_err("must fail").kind.code(), "denied");
}

#[tokio::test(start_paused = true)]
async fn a_cursor_of_nobody_is_refused() {
    let rig = Rig::new();
    let request = PageRequest { cursor: "nonsense".into(), ..page("", 10) };
    assert_eq!(rig.engine.list_page(&request).await.expect_err("must fail").kind.code(), "unsupported");
}
