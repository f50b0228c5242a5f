//! Checks of listings: everything once, page by page, under its exact name.

use std::collections::BTreeSet;

use super::{ObjectPath, Put, Subject, keys_are_kept, payload};
use crate::store::{Attributes, ObjectListed, Proof, Terms, VersionMarker};

pub(super) async fn every_object_is_listed_page_by_page(s: &Subject) {
    let names: Vec<String> = ["a", "a/1", "a/2", "a/b/1", "a-b", "a.b", "b", "b~x", "c/1"]
        .iter()
        .map(|n| format!("list/{n}"))
        .collect();
    keys_are_kept(s, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let found = objects(s, &s.key("list/"), 2).await;
    let keys: BTreeSet<String> = found.iter().map(|o| o.key.clone()).collect();
    assert_eq!(keys, names.iter().map(|n| s.key(n)).collect(), "each is listed");
    assert_eq!(found.len(), names.len(), "and once");
    let one = s.key("list/a/1");
    let listed = found.iter().find(|o| o.key == one).expect("it is listed");
    let head = s.store.head(s.at(&one), &Default::default()).await.expect("head");
    assert_eq!((listed.size_bytes, &listed.etag), (head.size_bytes, &head.etag));
    let second = |at: Option<(i64, u32)>| at.map(|(seconds, _)| seconds);
    assert_eq!(second(listed.modified), second(head.modified), "to the second");
    assert!(objects(s, &s.key("list/nothing"), 2).await.is_empty());
}

pub(super) async fn ordinary_keys_are_listed_exactly(s: &Subject) {
    let names = ["exact/sp ace+plus%25%&=?#", "exact/ü😀", "exact/quote'\"<>&;", "exact/a%20b"];
    keys_are_kept(s, &names).await;
    let found: BTreeSet<String> =
        objects(s, &s.key("exact/"), 1_000).await.into_iter().map(|o| o.key).collect();
    assert_eq!(found, names.iter().map(|n| s.key(n)).collect());
}

pub(super) async fn every_version_is_listed_page_by_page(s: &Subject) {
    let bucket = s.versioned_bucket.as_deref().expect("the store keeps versions");
    let attributes = Attributes::default();
    let mut written = BTreeSet::new();
    for (name, count) in [("versions/a", 3), ("versions/b", 1), ("versions/c", 2)] {
        let key = s.key(name);
        for n in 0..count {
            let body = payload(&vec![b'x'; n + 1]);
            let put = Put {
                body: &body,
                proof: Proof::default(),
                attributes: &attributes,
                tags: &[],
                terms: Terms::default(),
                create_only: false,
            };
            let put = s.store.put(ObjectPath { bucket, key: &key }, put).await.expect("put");
            written.insert((key.clone(), put.version, n + 1 == count, (n + 1) as u64));
        }
    }
    let mut found = BTreeSet::new();
    let mut after: Option<VersionMarker> = None;
    for _ in 0..20 {
        let page = s.store.list_versions(bucket, &s.key("versions/"), after.as_ref(), 2).await.expect("list");
        for v in page.versions {
            assert!(found.insert((v.key, v.version, v.is_latest, v.size_bytes)), "each once");
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert!(after.is_none(), "the listing has an end");
    assert_eq!(found, written);
}

/// All objects below a prefix, `most` at a time.
async fn objects(s: &Subject, prefix: &str, most: u32) -> Vec<ObjectListed> {
    let mut all = Vec::new();
    let mut after = None;
    for _ in 0..100 {
        let page = s.store.list_objects(&s.bucket, prefix, after.as_deref(), most).await.expect("list");
        assert!(page.objects.len() <= most as usize);
        all.extend(page.objects);
        after = page.next;
        if after.is_none() {
            return all;
        }
    }
    panic!("the listing has no end")
}
