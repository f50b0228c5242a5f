//! What is made of other things: objects of parts, and copies inside the store.

use std::collections::BTreeMap;

use super::{
    super::{
        Attributes, ByteRange, Completion, PartWritten, Pin, StoreErrorKind as Kind, Terms, UploadRef,
        WriteOptions,
    },
    Subject, body, crc,
};

pub(super) async fn parts_become_one_object(s: &Subject) {
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

pub(super) async fn parts_are_listed_and_checked(s: &Subject) {
    let key = s.key("listed");
    let id = s.create(&key).await;
    let upload = UploadRef { at: s.at(&key), id: &id };
    s.part(&key, &id, 2, &vec![1; s.part_bytes]).await;
    let replaced = s.part(&key, &id, 2, &vec![2; s.part_bytes]).await;
    let last = s.part(&key, &id, 5, b"five").await;
    let page = s.store.list_parts(upload, 0).await.expect("list");
    let mut listed: Vec<(u32, u64)> = page.parts.iter().map(|p| (p.part.number, p.size_bytes)).collect();
    listed.dedup();
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

/// Where it is not, an upload with replaced parts cannot be resumed.
pub(super) async fn a_replaced_part_is_listed_once(s: &Subject) {
    let key = s.key("replaced");
    let id = s.create(&key).await;
    let upload = UploadRef { at: s.at(&key), id: &id };
    s.part(&key, &id, 2, b"first").await;
    let replaced = s.part(&key, &id, 2, b"second").await;
    let page = s.store.list_parts(upload, 0).await.expect("list");
    s.store.abort_upload(upload).await.expect("abort");
    let listed: Vec<&str> = page.parts.iter().map(|p| p.part.etag.as_str()).collect();
    assert_eq!(listed, [replaced.etag.as_str()]);
}

pub(super) async fn an_aborted_upload_is_gone(s: &Subject) {
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

pub(super) async fn uploads_are_listed_by_prefix(s: &Subject) {
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

pub(super) async fn a_completion_does_not_overwrite(s: &Subject) {
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

pub(super) async fn an_object_is_copied_inside_the_store(s: &Subject) {
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
    s.store.copy(s.at(&from), &pin, s.at(&to), &write).await.expect("copy");
    let response = s.store.get(s.at(&to), &Pin::default(), None).await.expect("get");
    assert_eq!(response.info.attributes, attributes);
    assert_eq!(body(response).await, b"copied");
    s.put(&from, b"changed", false).await.expect("overwrite");
    let elsewhere = s.key("copy elsewhere");
    let error = s.store.copy(s.at(&from), &pin, s.at(&elsewhere), &write).await.expect_err("changed");
    assert_eq!(error.kind, Kind::PreconditionFailed);
}

pub(super) async fn a_copy_is_answered_with_its_checksum(s: &Subject) {
    let written = s.copy_of("proven", b"copied").await.expect("copy");
    assert_eq!(written.crc64nvme, Some(crc(b"copied")));
}

pub(super) async fn a_copy_does_not_overwrite(s: &Subject) {
    let to = s.key("once copy");
    s.put(&to, b"early", true).await.expect("put");
    let error = s.copy_of("once", b"late").await.expect_err("exists");
    assert_eq!(error.kind, Kind::PreconditionFailed);
    assert_eq!(body(s.store.get(s.at(&to), &Pin::default(), None).await.expect("get")).await, b"early");
}

pub(super) async fn parts_are_copied_inside_the_store(s: &Subject) {
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
