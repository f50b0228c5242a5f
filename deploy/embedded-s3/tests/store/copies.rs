//! CopyObject and UploadPartCopy.

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    ChecksumAlgorithm, ChecksumMode, CompletedMultipartUpload, CompletedPart, MetadataDirective,
    StorageClass, TaggingDirective,
};

use crate::support::{Fixture, PART, PLAIN, VERSIONED, noise, on_both_storages, refused};

async fn put_source(store: &Fixture) -> String {
    let put = store.client.put_object().bucket(PLAIN).key("source").body(ByteStream::from_static(b"body"));
    let put = put
        .content_type("a/b")
        .metadata("m", "source")
        .tagging("t=source")
        .storage_class(StorageClass::StandardIa);
    put.send().await.expect("put").e_tag.expect("an etag")
}

#[tokio::test]
async fn a_copy_keeps_or_replaces_metadata_and_tags() {
    on_both_storages(async |store: &Fixture| {
        let etag = put_source(store).await;
        let copy = || store.client.copy_object().bucket(PLAIN).copy_source("plain/source");
        let copied = copy().key("kept").send().await.expect("copy");
        assert_eq!(copied.copy_object_result().and_then(|result| result.e_tag()), Some(etag.as_str()));
        let head = store.client.head_object().bucket(PLAIN).key("kept").send().await.expect("head");
        assert_eq!((head.content_type(), head.tag_count()), (Some("a/b"), Some(1)));
        assert_eq!(head.metadata().expect("metadata")["m"], "source");
        assert_eq!(head.storage_class(), None, "a copy is STANDARD unless it says otherwise");

        let replace =
            copy().key("replaced").metadata_directive(MetadataDirective::Replace).metadata("n", "new");
        let replace = replace.tagging_directive(TaggingDirective::Replace).tagging("x=1&y=2");
        replace.content_type("c/d").send().await.expect("copy");
        let head = store.client.head_object().bucket(PLAIN).key("replaced").send().await.expect("head");
        assert_eq!((head.content_type(), head.tag_count()), (Some("c/d"), Some(2)));
        assert_eq!(head.metadata().expect("metadata").keys().collect::<Vec<_>>(), ["n"]);

        // The bodies are shared, and outlive their first owner.
        store.client.delete_object().bucket(PLAIN).key("source").send().await.expect("delete");
        store.put(PLAIN, "kept", "overwritten").await;
        assert_eq!(store.get(PLAIN, "replaced").await, b"body");
    })
    .await;
}

#[tokio::test]
async fn a_copy_onto_itself_must_change_something() {
    on_both_storages(async |store: &Fixture| {
        put_source(store).await;
        let copy = || store.client.copy_object().bucket(PLAIN).key("source").copy_source("plain/source");
        let same = copy().storage_class(StorageClass::StandardIa).send().await;
        assert_eq!(refused(same), (400, "InvalidRequest".into()));
        let replace = copy().metadata_directive(MetadataDirective::Replace).send().await;
        replace.expect("metadata may change in place");
        assert_eq!(store.get(PLAIN, "source").await, b"body");
    })
    .await;
}

#[tokio::test]
async fn copies_honour_conditions_on_both_ends() {
    on_both_storages(async |store: &Fixture| {
        let etag = put_source(store).await;
        let copy = || store.client.copy_object().bucket(PLAIN).key("copy").copy_source("plain/source");
        assert_eq!(
            refused(copy().copy_source_if_match("\"x\"").send().await),
            (412, "PreconditionFailed".into())
        );
        assert_eq!(refused(copy().copy_source_if_none_match(&etag).send().await).0, 412);
        copy().copy_source_if_match(&etag).if_none_match("*").send().await.expect("copy");
        assert_eq!(refused(copy().if_none_match("*").send().await), (412, "PreconditionFailed".into()));
        let missing =
            store.client.copy_object().bucket(PLAIN).key("copy").copy_source("plain/none").send().await;
        assert_eq!(refused(missing), (404, "NoSuchKey".into()));
    })
    .await;
}

#[tokio::test]
async fn a_copy_names_the_source_version() {
    on_both_storages(async |store: &Fixture| {
        let put = store.client.put_object().bucket(VERSIONED).key("k").body(ByteStream::from_static(b"old"));
        let old = put.send().await.expect("put").version_id.expect("a version");
        store.put(VERSIONED, "k", "new").await;
        let copy = store.client.copy_object().bucket(VERSIONED).key("copy");
        let copied = copy.copy_source(format!("versioned/k?versionId={old}")).send().await.expect("copy");
        assert_eq!(copied.copy_source_version_id(), Some(old.as_str()));
        assert!(copied.version_id().is_some_and(|version| version != old));
        assert_eq!(store.get(VERSIONED, "copy").await, b"old");

        store.client.delete_object().bucket(VERSIONED).key("k").send().await.expect("delete");
        let copy =
            store.client.copy_object().bucket(VERSIONED).key("copy").copy_source("versioned/k").send().await;
        assert_eq!(refused(copy), (404, "NoSuchKey".into()));
    })
    .await;
}

#[tokio::test]
async fn a_copy_can_change_the_checksum() {
    on_both_storages(async |store: &Fixture| {
        put_source(store).await;
        let copy = store.client.copy_object().bucket(PLAIN).key("copy").copy_source("plain/source");
        let copied = copy.checksum_algorithm(ChecksumAlgorithm::Sha256).send().await.expect("copy");
        let result = copied.copy_object_result().expect("a result");
        assert!(result.checksum_sha256().is_some());
        let head = store.client.head_object().bucket(PLAIN).key("copy").checksum_mode(ChecksumMode::Enabled);
        assert_eq!(head.send().await.expect("head").checksum_sha256(), result.checksum_sha256());
    })
    .await;
}

#[tokio::test]
async fn parts_are_copied_from_ranges() {
    on_both_storages(async |store: &Fixture| {
        let body = noise(PART + 100);
        store.put(PLAIN, "source", body.clone()).await;
        let create = store.client_without_checksums().create_multipart_upload().bucket(PLAIN).key("k");
        let id = create.send().await.expect("create").upload_id.expect("an id");
        let copy = |number: i32, range: String| {
            let copy =
                store.client.upload_part_copy().bucket(PLAIN).key("k").upload_id(&id).part_number(number);
            copy.copy_source("plain/source").copy_source_range(range)
        };
        let mut parts = Vec::new();
        for (number, range) in [(1, 50..PART + 50), (2, 0..50)] {
            let copied =
                copy(number, format!("bytes={}-{}", range.start, range.end - 1)).send().await.expect("copy");
            let etag = copied.copy_part_result.and_then(|result| result.e_tag);
            parts.push(CompletedPart::builder().part_number(number).set_e_tag(etag).build());
        }
        for range in [format!("bytes=0-{}", PART + 100), "bytes=5-".into(), "bytes=-5".into()] {
            assert_eq!(refused(copy(3, range).send().await), (400, "InvalidArgument".into()));
        }
        store.client.delete_object().bucket(PLAIN).key("source").send().await.expect("delete");
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let complete = store.client.complete_multipart_upload().bucket(PLAIN).key("k").upload_id(&id);
        complete.multipart_upload(parts).send().await.expect("complete");
        let expected = [&body[50..PART + 50], &body[..50]].concat();
        assert_eq!(store.get(PLAIN, "k").await, expected);
    })
    .await;
}
