//! Multipart uploads: from creation to every way in which a completion is refused.

use aws_sdk_s3::operation::complete_multipart_upload::CompleteMultipartUploadOutput;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    ChecksumAlgorithm, ChecksumMode, ChecksumType, CompletedMultipartUpload, CompletedPart, ObjectAttributes,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::support::{Fixture, PART, PLAIN, noise, on_both_storages, refused};

const KEY: &str = "big";

/// An upload in progress, driven through the SDK.
struct Upload<'a> {
    store: &'a Fixture,
    id: String,
    algorithm: Option<ChecksumAlgorithm>,
}

impl<'a> Upload<'a> {
    async fn create(store: &'a Fixture, checksum: Option<(ChecksumAlgorithm, ChecksumType)>) -> Self {
        let create = store.client_without_checksums().create_multipart_upload().bucket(PLAIN).key(KEY);
        let (algorithm, kind) = checksum.unzip();
        let create = create.set_checksum_algorithm(algorithm.clone()).set_checksum_type(kind.clone());
        let created =
            create.content_type("x/y").metadata("m", "v").tagging("t=1").send().await.expect("create");
        assert_eq!(created.checksum_algorithm(), algorithm.as_ref());
        assert_eq!(created.checksum_type(), kind.as_ref());
        Self { store, id: created.upload_id().expect("an id").to_owned(), algorithm }
    }

    async fn part(&self, number: i32, body: Vec<u8>) -> CompletedPart {
        // Without checksums of its own the SDK names the algorithm, but sends no value.
        let client = match &self.algorithm {
            Some(_) => self.store.client.clone(),
            None => self.store.client_without_checksums(),
        };
        let part = client.upload_part().bucket(PLAIN).key(KEY).upload_id(&self.id);
        let part = part.part_number(number).body(ByteStream::from(body));
        let part = part.set_checksum_algorithm(self.algorithm.clone()).send().await.expect("part");
        CompletedPart::builder()
            .part_number(number)
            .set_e_tag(part.e_tag)
            .set_checksum_crc32(part.checksum_crc32)
            .set_checksum_crc64_nvme(part.checksum_crc64_nvme)
            .set_checksum_sha256(part.checksum_sha256)
            .build()
    }

    fn request(
        &self,
        parts: Vec<CompletedPart>,
    ) -> aws_sdk_s3::operation::complete_multipart_upload::builders::CompleteMultipartUploadFluentBuilder
    {
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let client = self.store.client_without_checksums();
        client.complete_multipart_upload().bucket(PLAIN).key(KEY).upload_id(&self.id).multipart_upload(parts)
    }

    async fn complete(&self, parts: Vec<CompletedPart>) -> CompleteMultipartUploadOutput {
        self.request(parts).send().await.expect("complete")
    }
}

fn crc64(bytes: &[u8]) -> String {
    BASE64.encode(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, bytes).to_be_bytes())
}

#[tokio::test]
async fn parts_become_one_object_with_a_checksum_over_all_of_it() {
    on_both_storages(async |store: &Fixture| {
        let body = noise(2 * PART + 1000);
        let upload = Upload::create(store, None).await;
        // Out of order, one of them twice: the last one counts.
        let third = upload.part(3, body[2 * PART..].to_vec()).await;
        upload.part(1, noise(10)).await;
        let first = upload.part(1, body[..PART].to_vec()).await;
        let second = upload.part(2, body[PART..2 * PART].to_vec()).await;

        let completed = upload.complete(vec![first, second, third]).await;

        assert!(completed.e_tag().expect("an etag").ends_with("-3\""));
        assert_eq!(completed.checksum_crc64_nvme(), Some(crc64(&body).as_str()));
        assert_eq!(completed.checksum_type(), Some(&ChecksumType::FullObject));
        assert_eq!(store.get(PLAIN, KEY).await, body);
        let head = store.client.head_object().bucket(PLAIN).key(KEY).send().await.expect("head");
        assert_eq!((head.content_type(), head.tag_count()), (Some("x/y"), Some(1)));
        assert_eq!(head.metadata().expect("metadata")["m"], "v");

        let range = format!("bytes={}-{}", PART - 2, PART + 1);
        let get = store.client.get_object().bucket(PLAIN).key(KEY).range(range).send().await.expect("get");
        assert_eq!(get.body.collect().await.expect("body").to_vec(), body[PART - 2..PART + 2]);
        let get = store.client.get_object().bucket(PLAIN).key(KEY).part_number(3).send().await.expect("get");
        assert_eq!(get.parts_count(), Some(3));
        assert_eq!(get.body.collect().await.expect("body").to_vec(), body[2 * PART..]);
        let head =
            store.client.head_object().bucket(PLAIN).key(KEY).part_number(2).send().await.expect("head");
        assert_eq!(head.content_length(), i64::try_from(PART).ok());
        let get = store.client.get_object().bucket(PLAIN).key(KEY).part_number(4).send().await;
        assert_eq!(refused(get).0, 416);
    })
    .await;
}

#[tokio::test]
async fn composite_and_full_checksums_are_what_s3_computes() {
    on_both_storages(async |store: &Fixture| {
        let body = noise(PART + 7);
        let upload = Upload::create(store, Some((ChecksumAlgorithm::Sha256, ChecksumType::Composite))).await;
        let parts =
            vec![upload.part(1, body[..PART].to_vec()).await, upload.part(2, body[PART..].to_vec()).await];
        let without: Vec<_> = parts
            .iter()
            .map(|part| {
                CompletedPart::builder()
                    .part_number(part.part_number().expect("a number"))
                    .set_e_tag(part.e_tag.clone())
                    .build()
            })
            .collect();
        assert_eq!(refused(upload.request(without).send().await), (400, "InvalidRequest".into()));
        let completed = upload.complete(parts).await;
        assert!(completed.checksum_sha256().expect("a checksum").ends_with("=-2"));
        assert_eq!(completed.checksum_type(), Some(&ChecksumType::Composite));

        let attributes = store.client.get_object_attributes().bucket(PLAIN).key(KEY);
        let attributes = attributes
            .object_attributes(ObjectAttributes::Checksum)
            .object_attributes(ObjectAttributes::ObjectParts)
            .object_attributes(ObjectAttributes::ObjectSize);
        let attributes = attributes.send().await.expect("attributes");
        assert_eq!(attributes.object_size(), i64::try_from(body.len()).ok());
        let shown = attributes.checksum().expect("a checksum");
        assert_eq!(shown.checksum_sha256(), completed.checksum_sha256());
        let parts = attributes.object_parts().expect("parts");
        assert_eq!(parts.total_parts_count(), Some(2));
        assert_eq!(parts.parts()[1].size(), Some(7));
        assert!(parts.parts()[1].checksum_sha256().is_some());

        let upload =
            Upload::create(store, Some((ChecksumAlgorithm::Crc64Nvme, ChecksumType::FullObject))).await;
        let parts =
            vec![upload.part(1, body[..PART].to_vec()).await, upload.part(2, body[PART..].to_vec()).await];
        let wrong = upload.request(parts.clone()).checksum_crc64_nvme(crc64(b"other")).send().await;
        assert_eq!(refused(wrong), (400, "BadDigest".into()));
        let right =
            upload.request(parts).checksum_crc64_nvme(crc64(&body)).checksum_type(ChecksumType::FullObject);
        right.send().await.expect("the right checksum");
        let head = store.client.head_object().bucket(PLAIN).key(KEY).checksum_mode(ChecksumMode::Enabled);
        assert_eq!(head.send().await.expect("head").checksum_crc64_nvme(), Some(crc64(&body).as_str()));

        let create = store.client.create_multipart_upload().bucket(PLAIN).key(KEY);
        let create =
            create.checksum_algorithm(ChecksumAlgorithm::Sha1).checksum_type(ChecksumType::FullObject);
        assert_eq!(refused(create.send().await), (400, "InvalidRequest".into()));
    })
    .await;
}

#[tokio::test]
async fn a_completion_that_does_not_fit_its_parts_is_refused() {
    on_both_storages(async |store: &Fixture| {
        let upload = Upload::create(store, None).await;
        let (first, second) = (upload.part(1, noise(PART)).await, upload.part(2, noise(5)).await);
        let small = upload.part(3, noise(5)).await;
        let refusal = async |parts: Vec<CompletedPart>| refused(upload.request(parts).send().await);
        let renamed = CompletedPart::builder().part_number(1).e_tag("\"0123\"").build();
        let missing = CompletedPart::builder().part_number(9).set_e_tag(first.e_tag.clone()).build();

        assert_eq!(refusal(vec![renamed]).await, (400, "InvalidPart".into()));
        assert_eq!(refusal(vec![first.clone(), missing]).await, (400, "InvalidPart".into()));
        assert_eq!(refusal(vec![second.clone(), first.clone()]).await, (400, "InvalidPartOrder".into()));
        assert_eq!(refusal(vec![first.clone(), first.clone()]).await, (400, "InvalidPartOrder".into()));
        assert_eq!(refusal(vec![first.clone(), second.clone(), small]).await, (400, "EntityTooSmall".into()));
        assert_eq!(refusal(Vec::new()).await, (400, "MalformedXML".into()));
        let size = upload.request(vec![first.clone(), second.clone()]).mpu_object_size(1).send().await;
        assert_eq!(refused(size), (400, "InvalidRequest".into()));
        assert_eq!(store.keys(PLAIN).await, Vec::<String>::new());

        // The upload has survived all of that.
        let size = i64::try_from(PART + 5).expect("small");
        upload.request(vec![first, second]).mpu_object_size(size).send().await.expect("complete");
    })
    .await;
}

#[tokio::test]
async fn completing_twice_gives_the_same_answer_while_the_object_is_there() {
    on_both_storages(async |store: &Fixture| {
        let upload = Upload::create(store, None).await;
        let part = upload.part(1, noise(10)).await;
        let first = upload.complete(vec![part.clone()]).await;
        let second = upload.complete(vec![part.clone()]).await;
        assert_eq!(first.e_tag(), second.e_tag());

        let other = CompletedPart::builder().part_number(1).e_tag("\"0123\"").build();
        assert_eq!(refused(upload.request(vec![other]).send().await), (404, "NoSuchUpload".into()));
        store.client.delete_object().bucket(PLAIN).key(KEY).send().await.expect("delete");
        assert_eq!(refused(upload.request(vec![part]).send().await), (404, "NoSuchUpload".into()));
        let list = store.client.list_parts().bucket(PLAIN).key(KEY).upload_id(&upload.id).send().await;
        assert_eq!(refused(list), (404, "NoSuchUpload".into()));
    })
    .await;
}

#[tokio::test]
async fn a_conditional_completion_never_overwrites() {
    on_both_storages(async |store: &Fixture| {
        let upload = Upload::create(store, None).await;
        let part = upload.part(1, noise(10)).await;
        store.put(PLAIN, KEY, "first").await;
        let complete = upload.request(vec![part.clone()]).if_none_match("*").send().await;
        assert_eq!(refused(complete), (412, "PreconditionFailed".into()));
        assert_eq!(store.get(PLAIN, KEY).await, b"first");
        store.client.delete_object().bucket(PLAIN).key(KEY).send().await.expect("delete");
        upload.request(vec![part]).if_none_match("*").send().await.expect("nothing is there any more");
    })
    .await;
}

#[tokio::test]
async fn a_part_must_bring_the_checksum_that_the_upload_asks_for() {
    on_both_storages(async |store: &Fixture| {
        let upload = Upload::create(store, Some((ChecksumAlgorithm::Sha256, ChecksumType::Composite))).await;
        let client = store.client_without_checksums();
        let part = || {
            let part = client.upload_part().bucket(PLAIN).key(KEY).upload_id(&upload.id).part_number(1);
            part.body(ByteStream::from_static(b"part"))
        };
        assert_eq!(refused(part().send().await), (400, "InvalidRequest".into()));
        let crc = part().checksum_algorithm(ChecksumAlgorithm::Crc32).send().await;
        assert_eq!(refused(crc), (400, "InvalidRequest".into()));
        let number = client.upload_part().bucket(PLAIN).key(KEY).upload_id(&upload.id).part_number(10_001);
        assert_eq!(refused(number.send().await), (400, "InvalidArgument".into()));
        let nowhere = client.upload_part().bucket(PLAIN).key("other").upload_id(&upload.id).part_number(1);
        assert_eq!(refused(nowhere.send().await), (404, "NoSuchUpload".into()));
    })
    .await;
}

#[tokio::test]
async fn parts_and_uploads_are_listed_page_by_page_and_aborted() {
    on_both_storages(async |store: &Fixture| {
        let upload = Upload::create(store, None).await;
        for number in [1, 4, 9] {
            upload.part(number, noise(10)).await;
        }
        let list = || store.client.list_parts().bucket(PLAIN).key(KEY).upload_id(&upload.id);
        let page = list().max_parts(2).send().await.expect("list");
        let numbers: Vec<_> = page.parts().iter().filter_map(|part| part.part_number()).collect();
        assert_eq!((numbers, page.is_truncated()), (vec![1, 4], Some(true)));
        let marker = page.next_part_number_marker().expect("a marker");
        let page = list().part_number_marker(marker).send().await.expect("list");
        assert_eq!((page.parts()[0].part_number(), page.is_truncated()), (Some(9), Some(false)));

        let second = Upload::create(store, None).await;
        let list = || store.client.list_multipart_uploads().bucket(PLAIN);
        let page = list().max_uploads(1).send().await.expect("list");
        assert_eq!(page.uploads()[0].upload_id(), Some(upload.id.as_str()));
        let page =
            list().set_key_marker(page.next_key_marker).set_upload_id_marker(page.next_upload_id_marker);
        let page = page.send().await.expect("list");
        assert_eq!(page.uploads().len(), 1);
        assert_eq!(page.uploads()[0].upload_id(), Some(second.id.as_str()));

        for id in [&upload.id, &second.id] {
            let abort = store.client.abort_multipart_upload().bucket(PLAIN).key(KEY).upload_id(id);
            abort.send().await.expect("abort");
        }
        assert_eq!(list().send().await.expect("list").uploads(), []);
        let again =
            store.client.abort_multipart_upload().bucket(PLAIN).key(KEY).upload_id(&upload.id).send().await;
        assert_eq!(refused(again), (404, "NoSuchUpload".into()));
    })
    .await;
}

#[tokio::test]
async fn the_default_of_the_sdk_works_from_end_to_end() {
    on_both_storages(async |store: &Fixture| {
        let body = noise(PART + 3);
        let create =
            store.client.create_multipart_upload().bucket(PLAIN).key(KEY).send().await.expect("create");
        let id = create.upload_id().expect("an id");
        let mut parts = Vec::new();
        for (number, chunk) in (1..).zip(body.chunks(PART)) {
            let part = store.client.upload_part().bucket(PLAIN).key(KEY).upload_id(id).part_number(number);
            let part = part.body(ByteStream::from(chunk.to_vec())).send().await.expect("part");
            let part = CompletedPart::builder()
                .part_number(number)
                .set_e_tag(part.e_tag)
                .set_checksum_crc32(part.checksum_crc32);
            parts.push(part.build());
        }
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let complete = store.client.complete_multipart_upload().bucket(PLAIN).key(KEY).upload_id(id);
        complete.multipart_upload(parts).send().await.expect("complete");
        assert_eq!(store.get(PLAIN, KEY).await, body);
    })
    .await;
}
