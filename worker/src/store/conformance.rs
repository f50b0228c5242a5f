//! What the engine relies on, asked of any store: the one in memory, the embedded one, and servers of others.
//!
//! A fake that is never compared with the real thing is fiction; [`all`] is the comparison. Each check writes under keys of its own.
//! What servers of others do not do is listed with their tests, and in the worker's README.

mod listings;
mod parts;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{
    StreamExt,
    future::{BoxFuture, join_all},
};
use tokio::{task::JoinSet, time::timeout};

use self::listings::{
    every_object_is_listed_page_by_page, every_version_is_listed_page_by_page,
    ordinary_keys_are_listed_exactly,
};
use self::parts::{
    a_completion_does_not_overwrite, a_copy_does_not_overwrite, a_copy_is_answered_with_its_checksum,
    a_replaced_part_is_listed_once, an_aborted_upload_is_gone, an_object_is_copied_inside_the_store,
    parts_are_copied_inside_the_store, parts_are_listed_and_checked, parts_become_one_object,
    uploads_are_listed_by_prefix,
};
use super::{
    Attributes, ByteRange, ContentRange, GetResponse, ObjectPath, ObjectStore, PartWritten, Payload, Pin,
    Proof, Put, StoreError, StoreErrorKind as Kind, Tag, Terms, UploadRef, WriteOptions, Written,
};

/// A store to be checked.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// A bucket without versions.
    pub bucket: String,
    /// A bucket with versions; `None` where the store keeps none.
    pub versioned_bucket: Option<String>,
    /// Keys begin with this, so that runs do not meet.
    pub prefix: String,
    /// Smallest part that it takes.
    pub part_bytes: usize,
}

/// What a store does, or does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Name of the check.
    pub check: &'static str,
    /// What was seen instead; `None` when the store does it.
    pub failure: Option<String>,
}

type Check = (&'static str, fn(Subject) -> BoxFuture<'static, ()>);

macro_rules! checks {
    ($($name:ident),* $(,)?) => {
        /// Every check, in the order in which they run.
        const CHECKS: &[Check] = &[$((stringify!($name), |s| Box::pin(async move { $name(&s).await }))),*];
    };
}

checks![
    what_is_written_is_read,
    an_empty_object_is_an_object,
    a_range_is_exactly_what_was_asked_for,
    a_pin_holds_or_fails,
    what_is_missing_is_told_apart,
    a_missing_bucket_is_told_apart,
    a_key_is_created_once,
    of_racing_writes_one_wins,
    a_wrong_crc64nvme_is_refused,
    a_wrong_md5_is_refused,
    attributes_come_back,
    tags_come_back,
    ordinary_keys_are_kept_exactly,
    any_key_is_kept_exactly,
    parts_become_one_object,
    parts_are_listed_and_checked,
    a_replaced_part_is_listed_once,
    an_aborted_upload_is_gone,
    uploads_are_listed_by_prefix,
    a_completion_does_not_overwrite,
    an_object_is_copied_inside_the_store,
    a_copy_is_answered_with_its_checksum,
    a_copy_does_not_overwrite,
    parts_are_copied_inside_the_store,
    versions_can_be_read_and_pinned,
    every_object_is_listed_page_by_page,
    ordinary_keys_are_listed_exactly,
    every_version_is_listed_page_by_page,
];

/// Runs every check, one after the other. A check that fails, and one that has not ended after two minutes, is a finding.
pub async fn examine(subject: &Subject) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (check, run) in CHECKS {
        // As a task, so that a check that panics is a finding.
        let mut running = JoinSet::new();
        running.spawn(timeout(PATIENCE, run(subject.clone())));
        let failure = match running.join_next().await {
            None | Some(Ok(Ok(()))) => None,
            Some(Ok(Err(_))) => Some("it did not end".to_owned()),
            Some(Err(error)) => Some(error.to_string().chars().take(300).collect()),
        };
        findings.push(Finding { check, failure });
    }
    findings
}

/// Runs every check: those in `lacks`, and no others, must fail. So what is known of a store stays true when the store or the check changes.
///
/// # Panics
/// When the store does something else.
pub async fn assert_lacks(subject: &Subject, lacks: &[&str]) {
    assert_lacks_but(subject, lacks, &[]).await;
}

/// As [`assert_lacks`], without a look at those that are `undecided`: what the store does by chance.
///
/// # Panics
/// When the store does something else.
pub async fn assert_lacks_but(subject: &Subject, lacks: &[&str], undecided: &[&str]) {
    let findings = examine(subject).await;
    let failed = findings.iter().filter(|f| f.failure.is_some() && !undecided.contains(&f.check));
    let failed: Vec<&str> = failed.map(|f| f.check).collect();
    assert_eq!(failed, lacks, "what the store does not do is on the left; why:\n{findings:#?}");
}

/// Runs every check on a store that must do everything.
///
/// # Panics
/// At what the engine relies on and the store does not do.
pub async fn all(subject: &Subject) {
    assert_lacks(subject, &[]).await;
}

/// A check that hangs must not hang everything.
const PATIENCE: Duration = Duration::from_secs(120);

impl Subject {
    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn at<'k>(&'k self, key: &'k str) -> ObjectPath<'k> {
        ObjectPath { bucket: &self.bucket, key }
    }

    async fn put(&self, key: &str, bytes: &[u8], create_only: bool) -> Result<Written, StoreError> {
        let body = payload(bytes);
        let proof = Proof { crc64nvme: Some(crc(bytes)), md5: None };
        let attributes = Attributes::default();
        let put = Put {
            body: &body,
            proof,
            attributes: &attributes,
            tags: &[],
            terms: Terms::default(),
            create_only,
        };
        self.store.put(self.at(key), put).await
    }

    async fn create(&self, key: &str) -> String {
        let attributes = Attributes::default();
        let write = WriteOptions {
            attributes: &attributes,
            tags: &[],
            terms: Terms::default(),
            crc64nvme: true,
            create_only: true,
        };
        self.store.create_upload(self.at(key), &write).await.expect("create upload")
    }

    /// Copies bytes from `<name> source` to `<name> copy`, as a new object.
    async fn copy_of(&self, name: &str, bytes: &[u8]) -> Result<Written, StoreError> {
        let (from, to) = (self.key(&format!("{name} source")), self.key(&format!("{name} copy")));
        let source = self.put(&from, bytes, true).await.expect("put");
        let attributes = Attributes::default();
        let write = WriteOptions {
            attributes: &attributes,
            tags: &[],
            terms: Terms::default(),
            crc64nvme: true,
            create_only: true,
        };
        let pin = Pin { version: None, etag: Some(source.etag) };
        self.store.copy(self.at(&from), &pin, self.at(&to), &write).await
    }

    async fn part(&self, key: &str, id: &str, number: u32, bytes: &[u8]) -> PartWritten {
        let proof = Proof { crc64nvme: Some(crc(bytes)), md5: None };
        let upload = UploadRef { at: self.at(key), id };
        self.store.upload_part(upload, number, &payload(bytes), proof).await.expect("upload part")
    }
}

async fn what_is_written_is_read(s: &Subject) {
    let key = s.key("read");
    let written = s.put(&key, b"hello world", true).await.expect("put");
    assert_eq!(written.crc64nvme, Some(crc(b"hello world")), "the answer to a write proves it");
    let info = s.store.head(s.at(&key), &Pin::default()).await.expect("head");
    assert_eq!((info.size_bytes, &info.etag), (11, &written.etag));
    assert_eq!(info.crc64nvme, written.crc64nvme);
    assert!(info.modified.is_some());
    let response = s.store.get(s.at(&key), &Pin::default(), None).await.expect("get");
    assert_eq!((response.info.size_bytes, response.length, response.range), (11, Some(11), None));
    assert_eq!(response.info.etag, written.etag);
    assert_eq!(response.info.crc64nvme, written.crc64nvme, "a GET brings the checksum of the whole object");
    assert_eq!(body(response).await, b"hello world");
}

async fn an_empty_object_is_an_object(s: &Subject) {
    let key = s.key("empty");
    s.put(&key, b"", true).await.expect("put");
    let response = s.store.get(s.at(&key), &Pin::default(), None).await.expect("get");
    assert_eq!(response.info.size_bytes, 0);
    assert_eq!(body(response).await, b"");
}

async fn a_range_is_exactly_what_was_asked_for(s: &Subject) {
    let key = s.key("range");
    s.put(&key, b"0123456789", true).await.expect("put");
    for (start, length) in [(0, 1), (3, 4), (9, 1), (0, 10)] {
        let range = ByteRange { start, length };
        let response = s.store.get(s.at(&key), &Pin::default(), Some(range)).await.expect("get");
        let sent = ContentRange { start, end: start + length - 1, total: 10 };
        assert_eq!((response.range, response.length), (Some(sent), Some(length)));
        assert_eq!(response.info.size_bytes, 10);
        let from = usize::try_from(start).expect("small");
        let to = usize::try_from(start + length).expect("small");
        assert_eq!(body(response).await, b"0123456789"[from..to]);
    }
    let outside = ByteRange { start: 10, length: 1 };
    let error = s.store.get(s.at(&key), &Pin::default(), Some(outside)).await.expect_err("outside");
    assert_eq!(error.kind, Kind::InvalidRange);
}

async fn a_pin_holds_or_fails(s: &Subject) {
    let key = s.key("pin");
    let first = s.put(&key, b"first", false).await.expect("put");
    let pin = Pin { version: None, etag: Some(first.etag) };
    let range = Some(ByteRange { start: 0, length: 2 });
    assert_eq!(body(s.store.get(s.at(&key), &pin, range).await.expect("pinned")).await, b"fi");
    s.put(&key, b"second", false).await.expect("overwrite");
    for range in [None, range] {
        let error = s.store.get(s.at(&key), &pin, range).await.expect_err("changed");
        assert_eq!(error.kind, Kind::PreconditionFailed);
    }
    let error = s.store.head(s.at(&key), &pin).await.expect_err("changed");
    assert_eq!(error.kind, Kind::PreconditionFailed);
}

async fn what_is_missing_is_told_apart(s: &Subject) {
    let key = s.key("missing");
    let error = s.store.get(s.at(&key), &Pin::default(), None).await.expect_err("no key");
    assert_eq!(error.kind, Kind::NoSuchKey);
    let error = s.store.head(s.at(&key), &Pin::default()).await.expect_err("no key");
    assert_eq!(error.kind, Kind::NotFound, "a HEAD does not tell");
}

async fn a_missing_bucket_is_told_apart(s: &Subject) {
    let elsewhere = ObjectPath { bucket: "no-such-bucket-anywhere", key: "k" };
    let error = s.store.get(elsewhere, &Pin::default(), None).await.expect_err("no bucket");
    assert_eq!(error.kind, Kind::NoSuchBucket);
}

async fn a_key_is_created_once(s: &Subject) {
    let key = s.key("once");
    s.put(&key, b"first", true).await.expect("created");
    let error = s.put(&key, b"second", true).await.expect_err("exists");
    assert_eq!(error.kind, Kind::PreconditionFailed);
    let kept = s.store.get(s.at(&key), &Pin::default(), None).await.expect("get");
    assert_eq!(body(kept).await, b"first");
}

async fn of_racing_writes_one_wins(s: &Subject) {
    let key = s.key("race");
    let bodies: Vec<Vec<u8>> = (0..8_u8).map(|i| vec![i; 1000]).collect();
    let ends = join_all(bodies.iter().map(|b| s.put(&key, b, true))).await;
    let winners: Vec<usize> = (0..8).filter(|i| ends[*i].is_ok()).collect();
    assert_eq!(winners.len(), 1, "{ends:?}");
    let kept = s.store.get(s.at(&key), &Pin::default(), None).await.expect("get");
    assert_eq!(body(kept).await, bodies[winners[0]]);
}

async fn a_wrong_crc64nvme_is_refused(s: &Subject) {
    wrong_proof_is_refused(s, "wrong-crc", Proof { crc64nvme: Some(crc(b"hellO")), md5: None }).await;
}

async fn a_wrong_md5_is_refused(s: &Subject) {
    wrong_proof_is_refused(s, "wrong-md5", Proof { crc64nvme: None, md5: Some([7; 16]) }).await;
}

async fn wrong_proof_is_refused(s: &Subject, name: &str, proof: Proof) {
    let (key, body, attributes) = (s.key(name), payload(b"hello"), Attributes::default());
    let put = Put {
        body: &body,
        proof,
        attributes: &attributes,
        tags: &[],
        terms: Terms::default(),
        create_only: true,
    };
    let error = s.store.put(s.at(&key), put).await.expect_err("refused");
    assert_eq!(error.kind, Kind::BadDigest);
    let error = s.store.head(s.at(&key), &Pin::default()).await.expect_err("nothing is kept");
    assert_eq!(error.kind, Kind::NotFound);
}

async fn attributes_come_back(s: &Subject) {
    let key = s.key("attributes");
    let attributes = Attributes {
        content_type: Some("text/x-special; charset=utf-8".into()),
        content_encoding: Some("gzip".into()),
        content_disposition: Some("attachment; filename=\"a b.txt\"".into()),
        content_language: Some("fr".into()),
        cache_control: Some("no-store, max-age=0".into()),
        expires: Some("Thu, 01 Dec 2033 16:00:00 GMT".into()),
        website_redirect: None,
        metadata: BTreeMap::from([
            ("plain".to_owned(), "value".to_owned()),
            ("with-symbols".to_owned(), "a=b; c,d \"e\" %20 =?UTF-8?B?w6k=?=".to_owned()),
        ]),
    };
    let body = payload(b"x");
    let put = Put {
        body: &body,
        proof: Proof::default(),
        attributes: &attributes,
        tags: &[],
        terms: Terms::default(),
        create_only: true,
    };
    s.store.put(s.at(&key), put).await.expect("put");
    let head = s.store.head(s.at(&key), &Pin::default()).await.expect("head");
    assert_eq!(head.attributes, attributes);
    let get = s.store.get(s.at(&key), &Pin::default(), None).await.expect("get");
    assert_eq!(get.info.attributes, attributes);
}

async fn tags_come_back(s: &Subject) {
    let (key, body, attributes) = (s.key("tags"), payload(b"x"), Attributes::default());
    let tags = [
        Tag { key: "a".into(), value: "1".into() },
        Tag { key: "key with/symbols".into(), value: "x + y = z".into() },
    ];
    let put = Put {
        body: &body,
        proof: Proof::default(),
        attributes: &attributes,
        tags: &tags,
        terms: Terms::default(),
        create_only: true,
    };
    s.store.put(s.at(&key), put).await.expect("put");
    let get = s.store.get(s.at(&key), &Pin::default(), None).await.expect("get");
    assert_eq!(get.info.tag_count, Some(2));
    let mut kept = s.store.get_tags(s.at(&key), None).await.expect("tags");
    kept.sort();
    assert_eq!(kept, tags);
}

async fn ordinary_keys_are_kept_exactly(s: &Subject) {
    let keys =
        ["a", "a/b", "A", "é", "e\u{301}", "sp ace+plus%25%&=?#", "quote'\"<>&;", "😀/🎉", "!2E!2E/!/x~y"];
    keys_are_kept(s, &keys).await;
}

async fn any_key_is_kept_exactly(s: &Subject) {
    let long = "k".repeat(1024 - s.prefix.len());
    let keys = ["b//b", "//a", "b/", "..", ".", "b/../b", "./b", "back\\slash", "n\nl", "c\u{1}d", &long];
    keys_are_kept(s, &keys).await;
}

async fn keys_are_kept(s: &Subject, keys: &[&str]) {
    for key in keys {
        let key = s.key(key);
        s.put(&key, key.as_bytes(), true).await.unwrap_or_else(|e| panic!("{key:?}: {e}"));
    }
    for key in keys {
        let key = s.key(key);
        let response = s.store.get(s.at(&key), &Pin::default(), None).await;
        let response = response.unwrap_or_else(|e| panic!("{key:?}: {e}"));
        assert_eq!(body(response).await, key.as_bytes());
    }
}

async fn versions_can_be_read_and_pinned(s: &Subject) {
    let key = s.key("versions");
    let bucket = s.versioned_bucket.as_deref().expect("the store keeps versions");
    let at = ObjectPath { bucket, key: &key };
    let attributes = Attributes::default();
    let mut versions = Vec::new();
    for bytes in [b"one", b"two"] {
        let body = payload(bytes);
        let put = Put {
            body: &body,
            proof: Proof::default(),
            attributes: &attributes,
            tags: &[],
            terms: Terms::default(),
            create_only: false,
        };
        versions.push(s.store.put(at, put).await.expect("put"));
    }
    let first = &versions[0];
    assert!(first.version.is_some() && first.version != versions[1].version);
    let pin = Pin { version: first.version.clone(), etag: Some(first.etag.clone()) };
    let range = Some(ByteRange { start: 1, length: 2 });
    let response = s.store.get(at, &pin, range).await.expect("old version");
    assert_eq!(response.info.version, first.version);
    assert_eq!(body(response).await, b"ne");
    let latest = s.store.get(at, &Pin::default(), None).await.expect("latest");
    assert_eq!(latest.info.version, versions[1].version);
}

async fn body(response: GetResponse) -> Vec<u8> {
    let mut all = Vec::new();
    let mut body = response.body;
    while let Some(piece) = body.next().await {
        all.extend_from_slice(&piece.expect("body"));
    }
    all
}

fn payload(bytes: &[u8]) -> Payload {
    // In two pieces, as bodies come from the network.
    let (a, b) = bytes.split_at(bytes.len() / 2);
    Payload::new(vec![Bytes::copy_from_slice(a), Bytes::copy_from_slice(b)])
}

fn crc(bytes: &[u8]) -> u64 {
    crc_fast::crc64_nvme(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::{MemoryOptions, MemoryStore};

    #[tokio::test]
    async fn the_store_in_memory_does_what_the_engine_relies_on() {
        let subject = Subject {
            store: Arc::new(MemoryStore::new(MemoryOptions::default(), &["plain", "versioned"])),
            bucket: "plain".into(),
            versioned_bucket: Some("versioned".into()),
            prefix: String::new(),
            part_bytes: 1024,
        };
        all(&subject).await;
    }
}
