//! What a directory holds when the store starts on it again.

use std::path::Path;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumMode, CompletedMultipartUpload, CompletedPart};
use backhaul_embedded_s3::{EmbeddedS3, Options, StartError, Storage};

use crate::support::{Fixture, PART, PLAIN, VERSIONED, noise, refused};

fn bodies(directory: &Path) -> Vec<std::path::PathBuf> {
    let shards = std::fs::read_dir(directory.join("bodies")).expect("bodies");
    let files = shards.flat_map(|shard| std::fs::read_dir(shard.expect("a shard").path()).expect("a shard"));
    files.map(|file| file.expect("a file").path()).collect()
}

#[tokio::test]
async fn everything_is_found_again() {
    let store = Fixture::in_directory().await;
    let body = noise(700_000);
    let put = store.client.put_object().bucket(VERSIONED).key("../k").body(ByteStream::from(body.clone()));
    let put = put.metadata("m", "v").content_type("a/b").tagging("t=1").send().await.expect("put");
    store.put(VERSIONED, "../k", "newer").await;
    store.client.delete_object().bucket(VERSIONED).key("../k").send().await.expect("delete");
    store.put(PLAIN, "shared", "shared").await;
    let copy = store.client.copy_object().bucket(PLAIN).key("copy").copy_source("plain/shared");
    copy.send().await.expect("copy");
    store.client.delete_object().bucket(PLAIN).key("shared").send().await.expect("delete");
    let upload = store.client_without_checksums().create_multipart_upload().bucket(PLAIN).key("big");
    let id = upload.send().await.expect("create").upload_id.expect("an id");
    let big = noise(PART + 5);
    let part = async |store: &Fixture, number: i32, body: &[u8]| {
        let part = store.client.upload_part().bucket(PLAIN).key("big").upload_id(&id).part_number(number);
        let part = part.body(ByteStream::from(body.to_vec())).send().await.expect("part");
        CompletedPart::builder().part_number(number).set_e_tag(part.e_tag).build()
    };
    let first = part(&store, 1, &big[..PART]).await;

    let store = store.restart().await;

    assert_eq!(store.get(PLAIN, "copy").await, b"shared");
    let get =
        store.client.get_object().bucket(VERSIONED).key("../k").version_id(put.version_id().expect("an id"));
    let get = get.checksum_mode(ChecksumMode::Enabled).send().await.expect("get");
    assert_eq!((get.content_type(), get.tag_count()), (Some("a/b"), Some(1)));
    assert_eq!(get.checksum_crc32(), put.checksum_crc32());
    assert_eq!(get.body.collect().await.expect("body").to_vec(), body);
    let list = store.client.list_object_versions().bucket(VERSIONED).send().await.expect("list");
    assert_eq!((list.versions().len(), list.delete_markers().len()), (2, 1));
    assert_eq!(list.delete_markers()[0].is_latest(), Some(true));

    let second = part(&store, 2, &big[PART..]).await;
    let parts = CompletedMultipartUpload::builder().parts(first).parts(second).build();
    let complete = || {
        let complete = store.client.complete_multipart_upload().bucket(PLAIN).key("big").upload_id(&id);
        complete.multipart_upload(parts.clone()).send()
    };
    let etag = complete().await.expect("complete").e_tag;
    assert_eq!(complete().await.expect("again").e_tag, etag);

    let store = store.restart().await;
    assert_eq!(store.get(PLAIN, "big").await, big);
    store.store.shutdown().await;
}

#[tokio::test]
async fn bodies_go_with_their_last_object_and_leftovers_at_the_start() {
    let store = Fixture::in_directory().await;
    let directory = store.directory();
    store.put(PLAIN, "a", "one").await;
    store.put(PLAIN, "a", "two").await;
    let copy = store.client.copy_object().bucket(PLAIN).key("b").copy_source("plain/a");
    copy.send().await.expect("copy");
    let wrong = store.client.put_object().bucket(PLAIN).key("c").body(ByteStream::from_static(b"x"));
    refused(wrong.checksum_crc32("AAAAAA==").send().await);
    assert_eq!(bodies(&directory).len(), 1);
    store.client.delete_object().bucket(PLAIN).key("a").send().await.expect("delete");
    assert_eq!(bodies(&directory).len(), 1);
    std::fs::write(directory.join("bodies/00/00000000deadbe00"), b"left over").expect("write");

    let store = store.restart().await;

    assert_eq!(bodies(&directory).len(), 1);
    assert_eq!(store.get(PLAIN, "b").await, b"two");
    store.client.delete_object().bucket(PLAIN).key("b").send().await.expect("delete");
    assert_eq!(bodies(&directory), Vec::<std::path::PathBuf>::new());
    store.store.shutdown().await;
}

#[tokio::test]
async fn a_missing_body_or_a_second_store_stops_the_start() {
    let store = Fixture::in_directory().await;
    let directory = store.directory();
    let start = || {
        EmbeddedS3::start(Options {
            listen: ([127, 0, 0, 1], 0).into(),
            storage: Storage::Directory(directory.clone()),
            credentials: Vec::new(),
            buckets: Vec::new(),
        })
    };
    assert!(matches!(start().await, Err(StartError::InUse { .. })));
    store.put(PLAIN, "a", "one").await;
    store.store.shutdown().await;
    std::fs::remove_file(&bodies(&directory)[0]).expect("remove");
    assert!(matches!(start().await, Err(StartError::MissingBody { .. })));
}
