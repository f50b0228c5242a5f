//! Whole objects: put, get, head, conditions, ranges, checksums, attributes, delete.

use aws_sdk_s3::config::RequestChecksumCalculation;
use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumMode, ChecksumType, StorageClass};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use md5::Digest as _;

use crate::support::{Fixture, PLAIN, client, noise, on_both_storages, refused};

fn md5(bytes: &[u8]) -> String {
    md5::Md5::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn an_object_comes_back_with_all_that_was_said_about_it() {
    on_both_storages(async |store: &Fixture| {
        let body = noise(300_000);
        let put = store
            .client
            .put_object()
            .bucket(PLAIN)
            .key("all")
            .body(ByteStream::from(body.clone()))
            .content_type("text/plain; charset=utf-8")
            .content_encoding("gzip")
            .content_disposition("attachment; filename=\"a b.txt\"")
            .content_language("de, en")
            .cache_control("max-age=3600")
            .expires(DateTime::from_secs(1_700_000_000))
            .website_redirect_location("/elsewhere")
            .metadata("plain", "value")
            .metadata("encoded", "=?UTF-8?Q?=C3=A9?=")
            .metadata("spaces", "a  b")
            .tagging("team=storage&empty=")
            .storage_class(StorageClass::StandardIa)
            .send()
            .await
            .expect("put");
        assert_eq!(put.e_tag(), Some(format!("\"{}\"", md5(&body)).as_str()));
        assert_eq!(put.version_id(), None);

        let head = store.client.head_object().bucket(PLAIN).key("all").send().await.expect("head");
        assert_eq!(head.content_type(), Some("text/plain; charset=utf-8"));
        assert_eq!(head.content_encoding(), Some("gzip"));
        assert_eq!(head.content_disposition(), Some("attachment; filename=\"a b.txt\""));
        assert_eq!(head.content_language(), Some("de, en"));
        assert_eq!(head.cache_control(), Some("max-age=3600"));
        assert_eq!(head.expires_string(), Some("Tue, 14 Nov 2023 22:13:20 GMT"));
        assert_eq!(head.website_redirect_location(), Some("/elsewhere"));
        let metadata = head.metadata().expect("metadata");
        assert_eq!(metadata.len(), 3);
        assert_eq!(metadata["plain"], "value");
        assert_eq!(metadata["encoded"], "=?UTF-8?Q?=C3=A9?=");
        assert_eq!(metadata["spaces"], "a  b");
        assert_eq!(head.tag_count(), Some(2));
        assert_eq!(head.storage_class(), Some(&StorageClass::StandardIa));
        assert_eq!(head.content_length(), Some(300_000));
        assert_eq!(head.accept_ranges(), Some("bytes"));
        assert!(head.last_modified().is_some());

        assert_eq!(store.get(PLAIN, "all").await, body);
        let overridden = store.client.get_object().bucket(PLAIN).key("all").response_content_type("a/b");
        assert_eq!(overridden.send().await.expect("get").content_type(), Some("a/b"));
    })
    .await;
}

#[tokio::test]
async fn empty_and_default_objects_look_as_in_s3() {
    on_both_storages(async |store: &Fixture| {
        let put = store.client.put_object().bucket(PLAIN).key("empty").send().await.expect("put");
        assert_eq!(put.e_tag(), Some("\"d41d8cd98f00b204e9800998ecf8427e\""));

        let get = store.client.get_object().bucket(PLAIN).key("empty").send().await.expect("get");

        assert_eq!(get.content_length(), Some(0));
        assert_eq!(get.storage_class(), None);
        assert_eq!(get.tag_count(), None);
        assert_eq!(get.body.collect().await.expect("no body").to_vec(), b"");
        let range = store.client.get_object().bucket(PLAIN).key("empty").range("bytes=0-").send().await;
        assert_eq!(refused(range), (416, "InvalidRange".into()));
    })
    .await;
}

#[tokio::test]
async fn ranges_return_exactly_their_bytes() {
    on_both_storages(async |store: &Fixture| {
        let body = noise(600_000);
        store.put(PLAIN, "k", body.clone()).await;
        let table = [
            ("bytes=0-0", 0..1),
            ("bytes=262143-262144", 262_143..262_145),
            ("bytes=599999-", 599_999..600_000),
            ("bytes=500000-9999999", 500_000..600_000),
            ("bytes=-7", 599_993..600_000),
            ("bytes=-9999999", 0..600_000),
        ];
        for (range, expected) in table {
            let get =
                store.client.get_object().bucket(PLAIN).key("k").range(range).send().await.expect(range);
            let shown = format!("bytes {}-{}/600000", expected.start, expected.end - 1);
            assert_eq!(get.content_range(), Some(shown.as_str()), "{range}");
            assert_eq!(get.content_length(), i64::try_from(expected.len()).ok(), "{range}");
            assert_eq!(get.body.collect().await.expect("body").to_vec(), body[expected], "{range}");
            let head =
                store.client.head_object().bucket(PLAIN).key("k").range(range).send().await.expect(range);
            assert_eq!(head.content_range(), Some(shown.as_str()), "{range}");
        }
        for range in ["bytes=600000-", "bytes=-0"] {
            let get = store.client.get_object().bucket(PLAIN).key("k").range(range).send().await;
            assert_eq!(refused(get), (416, "InvalidRange".into()), "{range}");
        }
    })
    .await;
}

#[tokio::test]
async fn read_conditions_are_honoured() {
    on_both_storages(async |store: &Fixture| {
        let etag = store.put(PLAIN, "k", "body").await;
        let get = || store.client.get_object().bucket(PLAIN).key("k");
        assert!(get().if_match(&etag).send().await.is_ok());
        assert_eq!(refused(get().if_match("\"other\"").send().await), (412, "PreconditionFailed".into()));
        assert_eq!(refused(get().if_none_match(&etag).send().await).0, 304);
        assert!(get().if_none_match("\"other\"").send().await.is_ok());
        let (past, future) = (DateTime::from_secs(1_000_000_000), DateTime::from_secs(4_000_000_000));
        assert_eq!(refused(get().if_unmodified_since(past).send().await).0, 412);
        assert_eq!(refused(get().if_modified_since(future).send().await).0, 304);
        assert!(get().if_modified_since(past).if_unmodified_since(future).send().await.is_ok());
        let head = store.client.head_object().bucket(PLAIN).key("k");
        assert_eq!(refused(head.if_none_match(&etag).send().await).0, 304);
        // The connection is still in step after answers without bodies.
        assert_eq!(store.get(PLAIN, "k").await, b"body");
    })
    .await;
}

#[tokio::test]
async fn write_conditions_are_honoured() {
    on_both_storages(async |store: &Fixture| {
        let put = || store.client.put_object().bucket(PLAIN).key("k").body(ByteStream::from_static(b"x"));
        assert_eq!(refused(put().if_match("\"any\"").send().await), (404, "NoSuchKey".into()));
        let created = put().if_none_match("*").send().await.expect("nothing is there");
        assert_eq!(refused(put().if_none_match("*").send().await), (412, "PreconditionFailed".into()));
        assert_eq!(refused(put().if_match("\"other\"").send().await), (412, "PreconditionFailed".into()));
        assert!(put().if_match(created.e_tag().expect("an etag")).send().await.is_ok());
        assert_eq!(refused(put().if_none_match("\"tag\"").send().await), (501, "NotImplemented".into()));

        let delete = store.client.delete_object().bucket(PLAIN).key("k").if_match("\"other\"").send().await;
        assert_eq!(refused(delete), (412, "PreconditionFailed".into()));
        store.client.delete_object().bucket(PLAIN).key("k").send().await.expect("delete");
        assert!(put().if_none_match("*").send().await.is_ok());
    })
    .await;
}

#[tokio::test]
async fn each_checksum_is_verified_kept_and_returned() {
    on_both_storages(async |store: &Fixture| {
        // CRC-32, CRC-32C, CRC-64/NVME, SHA-1 and SHA-256 of "123456789".
        type Promise = fn(PutObjectFluentBuilder, &str) -> PutObjectFluentBuilder;
        let table: [(_, _, Promise); 5] = [
            (ChecksumAlgorithm::Crc32, "y/Q5Jg==", |put, value| put.checksum_crc32(value)),
            (ChecksumAlgorithm::Crc32C, "4waSgw==", |put, value| put.checksum_crc32_c(value)),
            (ChecksumAlgorithm::Crc64Nvme, "rosUhgp5mIg=", |put, value| put.checksum_crc64_nvme(value)),
            (ChecksumAlgorithm::Sha1, "98O8HYCOBHMq32eZZczDTKeuNEE=", |put, value| put.checksum_sha1(value)),
            (ChecksumAlgorithm::Sha256, "FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU=", |put, value| {
                put.checksum_sha256(value)
            }),
        ];
        for (algorithm, value, promise) in table {
            let body = ByteStream::from_static(b"123456789");
            let put = store.client.put_object().bucket(PLAIN).key("k").body(body);
            put.checksum_algorithm(algorithm.clone()).send().await.expect("put");
            let head = store.client.head_object().bucket(PLAIN).key("k").checksum_mode(ChecksumMode::Enabled);
            let head = head.send().await.expect("head");
            let shown = [
                head.checksum_crc32(),
                head.checksum_crc32_c(),
                head.checksum_crc64_nvme(),
                head.checksum_sha1(),
                head.checksum_sha256(),
            ];
            let shown: Vec<_> = shown.into_iter().flatten().collect();
            assert_eq!(shown, [value], "{algorithm}");
            assert_eq!(head.checksum_type(), Some(&ChecksumType::FullObject), "{algorithm}");

            let wrong = store
                .client
                .put_object()
                .bucket(PLAIN)
                .key("wrong")
                .body(ByteStream::from_static(b"12345678"));
            assert_eq!(refused(promise(wrong, value).send().await), (400, "BadDigest".into()), "{algorithm}");
        }
        assert_eq!(store.keys(PLAIN).await, ["k"], "nothing of a refused body is kept");
    })
    .await;
}

#[tokio::test]
async fn without_a_checksum_s3_computes_its_own() {
    on_both_storages(async |store: &Fixture| {
        let client = store.client_without_checksums();
        let put = client.put_object().bucket(PLAIN).key("k").body(ByteStream::from_static(b"123456789"));
        let put = put.send().await.expect("put");
        assert_eq!(put.checksum_crc64_nvme(), Some("rosUhgp5mIg="));
        let head =
            client.head_object().bucket(PLAIN).key("k").checksum_mode(ChecksumMode::Enabled).send().await;
        assert_eq!(head.expect("head").checksum_crc64_nvme(), Some("rosUhgp5mIg="));
    })
    .await;
}

#[tokio::test]
async fn a_streamed_body_with_a_trailing_checksum_is_taken() {
    on_both_storages(async |store: &Fixture| {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (path, body) = (directory.path().join("file"), noise(3_000_000));
        std::fs::write(&path, &body).expect("write");

        let stream = ByteStream::from_path(&path).await.expect("a file");
        store.client.put_object().bucket(PLAIN).key("k").body(stream).send().await.expect("put");

        let get = store.client.get_object().bucket(PLAIN).key("k").checksum_mode(ChecksumMode::Enabled);
        let get = get.send().await.expect("get");
        assert!(get.checksum_crc32().is_some());
        assert_eq!(get.content_encoding(), None, "the transfer encoding is not the object's");
        assert_eq!(get.body.collect().await.expect("verified by the SDK").to_vec(), body);
    })
    .await;
}

#[tokio::test]
async fn content_md5_is_verified() {
    on_both_storages(async |store: &Fixture| {
        let client = store.client_without_checksums();
        let put = || client.put_object().bucket(PLAIN).key("k").body(ByteStream::from_static(b"body"));
        let right = BASE64.encode(md5::Md5::digest(b"body"));
        assert!(put().content_md5(right).send().await.is_ok());
        let wrong = BASE64.encode(md5::Md5::digest(b"other"));
        assert_eq!(refused(put().content_md5(wrong).send().await), (400, "BadDigest".into()));
        assert_eq!(refused(put().content_md5("nonsense").send().await), (400, "InvalidDigest".into()));
    })
    .await;
}

#[tokio::test]
async fn too_much_metadata_and_unknown_classes_are_refused() {
    on_both_storages(async |store: &Fixture| {
        let put = || store.client.put_object().bucket(PLAIN).key("k");
        assert_eq!(
            refused(put().metadata("k", "x".repeat(2048)).send().await),
            (400, "MetadataTooLarge".into())
        );
        assert!(put().metadata("k", "x".repeat(2047)).send().await.is_ok());
        let class = put().storage_class(StorageClass::from("WARM")).send().await;
        assert_eq!(refused(class), (400, "InvalidStorageClass".into()));
        let tags: String = (0..11).map(|n| format!("k{n}=v&")).collect();
        assert_eq!(refused(put().tagging(tags).send().await), (400, "BadRequest".into()));
    })
    .await;
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    on_both_storages(async |store: &Fixture| {
        let get = store.client.get_object();
        assert_eq!(refused(get.bucket(PLAIN).key("none").send().await), (404, "NoSuchKey".into()));
        let get = store.client.get_object();
        assert_eq!(refused(get.bucket("nowhere").key("none").send().await), (404, "NoSuchBucket".into()));
        let put =
            store.client.put_object().bucket("nowhere").key("k").body(ByteStream::from(noise(3_000_000)));
        assert_eq!(refused(put.send().await), (404, "NoSuchBucket".into()));
        let version = store.client.get_object().bucket(PLAIN).key("none").version_id("0123");
        assert_eq!(refused(version.send().await), (404, "NoSuchVersion".into()));
        store
            .client
            .delete_object()
            .bucket(PLAIN)
            .key("none")
            .send()
            .await
            .expect("deleting nothing succeeds");
    })
    .await;
}

#[tokio::test]
async fn an_archived_object_can_be_seen_but_not_read() {
    on_both_storages(async |store: &Fixture| {
        let put = store.client.put_object().bucket(PLAIN).key("cold").body(ByteStream::from_static(b"x"));
        put.storage_class(StorageClass::Glacier).send().await.expect("put");
        let head = store.client.head_object().bucket(PLAIN).key("cold").send().await.expect("head");
        assert_eq!(head.storage_class(), Some(&StorageClass::Glacier));
        let get = store.client.get_object().bucket(PLAIN).key("cold").send().await;
        assert_eq!(refused(get), (403, "InvalidObjectState".into()));
    })
    .await;
}

#[tokio::test]
async fn only_known_keys_with_the_right_secret_may_ask() {
    let store = Fixture::in_memory().await;
    let when = RequestChecksumCalculation::WhenSupported;
    let wrong = client(&store.store, "access", "wrong", when);
    let list = wrong.list_objects_v2().bucket(PLAIN).send().await;
    assert_eq!(refused(list), (403, "SignatureDoesNotMatch".into()));
    let unknown = client(&store.store, "nobody", "secret", when);
    let list = unknown.list_objects_v2().bucket(PLAIN).send().await;
    assert_eq!(refused(list), (403, "InvalidAccessKeyId".into()));
    store.store.shutdown().await;
}

#[tokio::test]
async fn what_is_not_supported_is_refused_and_not_ignored() {
    let store = Fixture::in_memory().await;
    let put = store.client.put_object().bucket(PLAIN).key("k");
    let put = put.server_side_encryption(aws_sdk_s3::types::ServerSideEncryption::AwsKms).send().await;
    assert_eq!(refused(put), (501, "NotImplemented".into()));
    let acl =
        store.client.put_object().bucket(PLAIN).key("k").acl(aws_sdk_s3::types::ObjectCannedAcl::PublicRead);
    assert_eq!(refused(acl.send().await), (400, "AccessControlListNotSupported".into()));
    let policy = store.client.get_bucket_policy().bucket(PLAIN).send().await;
    assert_eq!(refused(policy), (501, "NotImplemented".into()));
    let owner = store.client.get_object().bucket(PLAIN).key("k").expected_bucket_owner("123456789012");
    assert_eq!(refused(owner.send().await), (403, "AccessDenied".into()));
    store.store.shutdown().await;
}
