//! What the engine relies on, asked of any store: the one in memory, the embedded one, and servers of others.
//!
//! A fake that is never compared with the real thing is fiction; [`all`] is the comparison. Each check writes under keys of its own.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt, future::join_all};

use super::{
    Attributes, ByteRange, Completion, ContentRange, GetResponse, ObjectPath, ObjectStore, PartWritten,
    Payload, Pin, Proof, Put, StoreError, StoreErrorKind as Kind, Tag, Terms, UploadRef, WriteOptions,
    Written,
};

/// A store to be checked, and what it is known not to have.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// A bucket without versions.
    pub bucket: String,
    /// A bucket with versions.
    pub versioned_bucket: String,
    /// Keys begin with this, so that runs do not meet.
    pub prefix: String,
    /// Smallest part that it takes.
    pub part_bytes: usize,
    /// Keeps any key of up to 1,024 bytes exactly.
    pub any_key: bool,
    /// Lists a part that was replaced once, as S3 does; where it does not, an upload with replaced parts cannot be resumed.
    pub replaced_parts_vanish: bool,
    /// Answers a CopyObject with a checksum that was asked for.
    pub checksum_of_copies: bool,
}

/// Runs every check, one after the other.
///
/// # Panics
/// At the first thing that the engine relies on and the store does not do.
pub async fn all(subject: &Subject) {
    what_is_written_is_read(subject).await;
    an_empty_object_is_an_object(subject).await;
    a_range_is_exactly_what_was_asked_for(subject).await;
    a_pin_holds_or_fails(subject).await;
    what_is_missing_is_told_apart(subject).await;
    a_key_is_created_once(subject).await;
    of_racing_writes_one_wins(subject).await;
    wrong_bytes_are_refused(subject).await;
    attributes_and_tags_come_back(subject).await;
    keys_are_kept_exactly(subject).await;
    parts_become_one_object(subject).await;
    parts_are_listed_replaced_and_checked(subject).await;
    an_aborted_upload_is_gone(subject).await;
    uploads_are_listed_by_prefix(subject).await;
    a_completion_does_not_overwrite(subject).await;
    an_object_is_copied_inside_the_store(subject).await;
    parts_are_copied_inside_the_store(subject).await;
    versions_can_be_read_and_pinned(subject).await;
}

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
    let elsewhere = ObjectPath { bucket: "no-such-bucket-anywhere", key: &key };
    let error = s.store.get(elsewhere, &Pin::default(), None).await.expect_err("no bucket");
    assert_eq!(error.kind, Kind::NoSuchBucket);
    let error = s.store.head(s.at(&key), &Pin::default()).await.expect_err("no key");
    assert_eq!(error.kind, Kind::NotFound, "a HEAD does not tell");
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

async fn wrong_bytes_are_refused(s: &Subject) {
    let attributes = Attributes::default();
    let body = payload(b"hello");
    let proofs =
        [Proof { crc64nvme: Some(crc(b"hellO")), md5: None }, Proof { crc64nvme: None, md5: Some([7; 16]) }];
    for (i, proof) in proofs.into_iter().enumerate() {
        let key = s.key(&format!("wrong-{i}"));
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
}

async fn attributes_and_tags_come_back(s: &Subject) {
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
    let tags = [
        Tag { key: "a".into(), value: "1".into() },
        Tag { key: "key with/symbols".into(), value: "x + y = z".into() },
    ];
    let body = payload(b"x");
    let put = Put {
        body: &body,
        proof: Proof::default(),
        attributes: &attributes,
        tags: &tags,
        terms: Terms::default(),
        create_only: true,
    };
    s.store.put(s.at(&key), put).await.expect("put");
    let head = s.store.head(s.at(&key), &Pin::default()).await.expect("head");
    assert_eq!(head.attributes, attributes);
    let get = s.store.get(s.at(&key), &Pin::default(), None).await.expect("get");
    assert_eq!(get.info.attributes, attributes);
    assert_eq!(get.info.tag_count, Some(2));
    let mut kept = s.store.get_tags(s.at(&key), None).await.expect("tags");
    kept.sort();
    assert_eq!(kept, tags);
}

async fn keys_are_kept_exactly(s: &Subject) {
    let everywhere =
        ["a", "a/b", "A", "é", "e\u{301}", "sp ace+plus%25%&=?#", "quote'\"<>&;", "😀/🎉", "!2E!2E/!/x~y"];
    let some = ["a//b", "//a", "a/", "..", ".", "a/../b", "./a", "back\\slash", "n\nl", "c\u{1}d"];
    let long = "k".repeat(1024 - s.prefix.len());
    let mut keys: Vec<&str> = everywhere.to_vec();
    if s.any_key {
        keys.extend(some);
        keys.push(&long);
    }
    for key in &keys {
        let key = s.key(key);
        s.put(&key, key.as_bytes(), true).await.unwrap_or_else(|e| panic!("{key:?}: {e}"));
    }
    for key in &keys {
        let key = s.key(key);
        let response = s.store.get(s.at(&key), &Pin::default(), None).await;
        let response = response.unwrap_or_else(|e| panic!("{key:?}: {e}"));
        assert_eq!(body(response).await, key.as_bytes());
    }
}

async fn parts_become_one_object(s: &Subject) {
    let key = s.key("parts");
    let (first, second) = (vec![1; s.part_bytes], vec![2; 17]);
    let whole = [first.clone(), second.clone()].concat();
    let id = s.create(&key).await;
    // In any order, as they are uploaded side by side.
    let two = s.part(&key, &id, 2, &second).await;
    let one = s.part(&key, &id, 1, &first).await;
    assert_eq!(one.crc64nvme, Some(crc(&first)));
    let completion =
        Completion { size_bytes: whole.len() as u64, crc64nvme: Some(crc(&whole)), create_only: true };
    let upload = UploadRef { at: s.at(&key), id: &id };
    let written = s.store.complete_upload(upload, &[one, two], completion).await.expect("complete");
    let info = s.store.head(s.at(&key), &Pin::default()).await.expect("head");
    assert_eq!(
        (info.size_bytes, info.etag, info.crc64nvme),
        (whole.len() as u64, written.etag, Some(crc(&whole)))
    );
    assert_eq!(body(s.store.get(s.at(&key), &Pin::default(), None).await.expect("get")).await, whole);
}

async fn parts_are_listed_replaced_and_checked(s: &Subject) {
    let key = s.key("listed");
    let id = s.create(&key).await;
    let upload = UploadRef { at: s.at(&key), id: &id };
    s.part(&key, &id, 2, &vec![1; s.part_bytes]).await;
    let replaced = s.part(&key, &id, 2, &vec![2; s.part_bytes]).await;
    let last = s.part(&key, &id, 5, b"five").await;
    let page = s.store.list_parts(upload, 0).await.expect("list");
    let mut listed: Vec<(u32, u64)> = page.parts.iter().map(|p| (p.part.number, p.size_bytes)).collect();
    if s.replaced_parts_vanish {
        assert_eq!(page.parts[0].part.etag, replaced.etag);
    } else {
        listed.dedup();
    }
    assert_eq!(listed, [(2, s.part_bytes as u64), (5, 4)]);
    assert!(!page.more);
    let rest = s.store.list_parts(upload, 2).await.expect("list");
    assert_eq!(rest.parts.len(), 1);
    let wrong = PartWritten { number: 2, etag: "0".repeat(32), crc64nvme: None };
    let completion = Completion { size_bytes: s.part_bytes as u64, crc64nvme: None, create_only: true };
    let error = s.store.complete_upload(upload, &[wrong], completion).await.expect_err("another part");
    assert_eq!(error.kind, Kind::InvalidPart);
    let whole = [vec![2; s.part_bytes], b"five".to_vec()].concat();
    let completion =
        Completion { size_bytes: whole.len() as u64, crc64nvme: Some(crc(&whole)), create_only: true };
    s.store.complete_upload(upload, &[replaced, last], completion).await.expect("complete");
    assert_eq!(body(s.store.get(s.at(&key), &Pin::default(), None).await.expect("get")).await, whole);
}

async fn an_aborted_upload_is_gone(s: &Subject) {
    let key = s.key("aborted");
    let id = s.create(&key).await;
    let upload = UploadRef { at: s.at(&key), id: &id };
    let part = s.part(&key, &id, 1, b"x").await;
    let _other = s.create(&format!("{key}-and-more")).await;
    assert_eq!(s.store.list_uploads(s.at(&key)).await.expect("list"), std::slice::from_ref(&id));
    s.store.abort_upload(upload).await.expect("abort");
    assert_eq!(s.store.list_uploads(s.at(&key)).await.expect("list"), [""; 0]);
    s.store.abort_upload(upload).await.expect("abort again");
    let completion = Completion { size_bytes: 1, crc64nvme: None, create_only: true };
    let error = s.store.complete_upload(upload, &[part], completion).await.expect_err("gone");
    assert_eq!(error.kind, Kind::NoSuchUpload);
    let error = s.store.list_parts(upload, 0).await.expect_err("gone");
    assert_eq!(error.kind, Kind::NoSuchUpload);
}

async fn uploads_are_listed_by_prefix(s: &Subject) {
    let root = s.key("uploading/");
    let keys = ["a", "b c", "b/d~é"].map(|k| format!("{root}{k}"));
    let mut open = Vec::new();
    for key in &keys {
        open.push((key.clone(), s.create(key).await));
    }
    let beside = s.key("uploading-beside");
    let other = s.create(&beside).await;
    let page = s.store.list_uploads_under(&s.bucket, &root, None).await.expect("list");
    assert!(!page.more && page.uploads.iter().all(|u| u.initiated.is_some()), "{page:?}");
    let mut listed: Vec<_> = page.uploads.iter().map(|u| (u.key.clone(), u.id.clone())).collect();
    listed.sort();
    open.sort();
    assert_eq!(listed, open);
    for (key, id) in open.iter().chain([&(beside, other)]) {
        s.store.abort_upload(UploadRef { at: s.at(key), id }).await.expect("abort");
    }
    let page = s.store.list_uploads_under(&s.bucket, &root, None).await.expect("list");
    assert_eq!(page.uploads, []);
}

async fn a_completion_does_not_overwrite(s: &Subject) {
    let key = s.key("complete-once");
    let id = s.create(&key).await;
    let part = s.part(&key, &id, 1, b"late").await;
    s.put(&key, b"early", true).await.expect("put");
    let completion = Completion { size_bytes: 4, crc64nvme: Some(crc(b"late")), create_only: true };
    let upload = UploadRef { at: s.at(&key), id: &id };
    let error = s.store.complete_upload(upload, &[part], completion).await.expect_err("exists");
    assert_eq!(error.kind, Kind::PreconditionFailed);
    assert_eq!(body(s.store.get(s.at(&key), &Pin::default(), None).await.expect("get")).await, b"early");
    s.store.abort_upload(upload).await.expect("abort");
}

async fn an_object_is_copied_inside_the_store(s: &Subject) {
    let (from, to) = (s.key("copy from +%é"), s.key("copy to"));
    let source = s.put(&from, b"copied", true).await.expect("put");
    let attributes = Attributes {
        content_type: Some("a/b".into()),
        metadata: BTreeMap::from([("new".to_owned(), "metadata".to_owned())]),
        ..Attributes::default()
    };
    let write = WriteOptions {
        attributes: &attributes,
        tags: &[],
        terms: Terms::default(),
        crc64nvme: true,
        create_only: true,
    };
    let pin = Pin { version: None, etag: Some(source.etag) };
    let written = s.store.copy(s.at(&from), &pin, s.at(&to), &write).await.expect("copy");
    if s.checksum_of_copies {
        assert_eq!(written.crc64nvme, Some(crc(b"copied")));
    }
    let response = s.store.get(s.at(&to), &Pin::default(), None).await.expect("get");
    assert_eq!(response.info.attributes, attributes);
    assert_eq!(body(response).await, b"copied");
    let error = s.store.copy(s.at(&from), &pin, s.at(&to), &write).await.expect_err("exists");
    assert_eq!(error.kind, Kind::PreconditionFailed);
    s.put(&from, b"changed", false).await.expect("overwrite");
    let elsewhere = s.key("copy elsewhere");
    let error = s.store.copy(s.at(&from), &pin, s.at(&elsewhere), &write).await.expect_err("changed");
    assert_eq!(error.kind, Kind::PreconditionFailed);
}

async fn parts_are_copied_inside_the_store(s: &Subject) {
    let (from, to) = (s.key("part from"), s.key("part to"));
    let whole: Vec<u8> = (0..s.part_bytes + 10).map(|i| u8::try_from(i % 251).expect("small")).collect();
    let source = s.put(&from, &whole, true).await.expect("put");
    let pin = Pin { version: None, etag: Some(source.etag) };
    let id = s.create(&to).await;
    let upload = UploadRef { at: s.at(&to), id: &id };
    let mut parts = Vec::new();
    for (number, start, length) in [(1, 0, s.part_bytes), (2, s.part_bytes, 10)] {
        let range = ByteRange { start: start as u64, length: length as u64 };
        let part = s.store.copy_part(upload, number, s.at(&from), &pin, range).await.expect("copy part");
        parts.push(part);
    }
    let completion = Completion { size_bytes: whole.len() as u64, crc64nvme: None, create_only: true };
    s.store.complete_upload(upload, &parts, completion).await.expect("complete");
    assert_eq!(body(s.store.get(s.at(&to), &Pin::default(), None).await.expect("get")).await, whole);
}

async fn versions_can_be_read_and_pinned(s: &Subject) {
    let key = s.key("versions");
    let at = ObjectPath { bucket: &s.versioned_bucket, key: &key };
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
            versioned_bucket: "versioned".into(),
            prefix: String::new(),
            part_bytes: 1024,
            any_key: true,
            replaced_parts_vanish: true,
            checksum_of_copies: true,
        };
        all(&subject).await;
    }
}
