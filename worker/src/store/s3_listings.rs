//! Listings of objects, versions, uploads and parts, from the client library's shapes to ours.
//!
//! Keys travel encoded (`encoding-type=url`), because XML cannot carry every key. Stores write a blank as `+` or as `%20`, and none that
//! encodes leaves a plus sign as it is. An entry that cannot be read makes the whole page unreadable: an object that is passed over in
//! silence is one without a backup.

use aws_sdk_s3::{
    operation::{list_object_versions::ListObjectVersionsOutput, list_objects_v2::ListObjectsV2Output},
    primitives::DateTime,
    types::EncodingType,
};
use percent_encoding::percent_decode_str;

use super::{
    ObjectListed, ObjectPath, ObjectsPage, Operation, PartListed, PartsPage, S3Store, StoreError,
    StoreErrorKind, UploadListed, UploadRef, UploadsPage, VersionMarker, VersionsPage,
    s3_shapes::{part, unquoted, uploads_listed},
};

/// Lists objects.
pub(super) async fn objects(
    store: &S3Store,
    bucket: &str,
    prefix: &str,
    after: Option<&str>,
    most: u32,
) -> Result<ObjectsPage, StoreError> {
    let output = store
        .client()
        .list_objects_v2()
        .bucket(bucket)
        .set_expected_bucket_owner(store.owner(bucket))
        .prefix(prefix)
        .encoding_type(EncodingType::Url)
        // A place by name is good for ever; a continuation token is for as long as its store likes.
        .set_start_after(after.map(ToOwned::to_owned))
        .max_keys(i32::try_from(most).unwrap_or(i32::MAX))
        .send()
        .await
        .map_err(|e| store.refused(Operation::ListObjects, bucket, e))?;
    objects_listed(&output).ok_or_else(|| unreadable(Operation::ListObjects))
}

/// Lists versions.
pub(super) async fn versions(
    store: &S3Store,
    bucket: &str,
    prefix: &str,
    after: Option<&VersionMarker>,
    most: u32,
) -> Result<VersionsPage, StoreError> {
    let output = store
        .client()
        .list_object_versions()
        .bucket(bucket)
        .set_expected_bucket_owner(store.owner(bucket))
        .prefix(prefix)
        .encoding_type(EncodingType::Url)
        .set_key_marker(after.map(|a| a.key.clone()))
        .set_version_id_marker(after.and_then(|a| a.version.clone()))
        .max_keys(i32::try_from(most).unwrap_or(i32::MAX))
        .send()
        .await
        .map_err(|e| store.refused(Operation::ListVersions, bucket, e))?;
    versions_listed(&output).ok_or_else(|| unreadable(Operation::ListVersions))
}

/// Ids of the uploads of one key.
pub(super) async fn uploads_of(store: &S3Store, at: ObjectPath<'_>) -> Result<Vec<String>, StoreError> {
    let output = store
        .client()
        .list_multipart_uploads()
        .bucket(at.bucket)
        .set_expected_bucket_owner(store.owner(at.bucket))
        .prefix(at.key)
        .send()
        .await
        .map_err(|e| store.refused(Operation::ListUploads, at.bucket, e))?;
    // Longer keys with this prefix come after it, so the first page has all there are for it.
    let ours = output.uploads().iter().filter(|u| u.key() == Some(at.key));
    Ok(ours.filter_map(|u| u.upload_id().map(ToOwned::to_owned)).collect())
}

/// Lists uploads.
pub(super) async fn uploads(
    store: &S3Store,
    bucket: &str,
    prefix: &str,
    after: Option<&UploadListed>,
) -> Result<UploadsPage, StoreError> {
    let output = store
        .client()
        .list_multipart_uploads()
        .bucket(bucket)
        .set_expected_bucket_owner(store.owner(bucket))
        .prefix(prefix)
        // Or a key with a control character cannot be told.
        .encoding_type(EncodingType::Url)
        .set_key_marker(after.map(|a| a.key.clone()))
        .set_upload_id_marker(after.map(|a| a.id.clone()))
        .send()
        .await
        .map_err(|e| store.refused(Operation::ListUploads, bucket, e))?;
    let uploads = uploads_listed(&output);
    Ok(UploadsPage { more: output.is_truncated().unwrap_or(false) && !uploads.is_empty(), uploads })
}

/// Lists parts.
pub(super) async fn parts(
    store: &S3Store,
    upload: UploadRef<'_>,
    after: u32,
) -> Result<PartsPage, StoreError> {
    let output = store
        .client()
        .list_parts()
        .bucket(upload.at.bucket)
        .set_expected_bucket_owner(store.owner(upload.at.bucket))
        .key(upload.at.key)
        .upload_id(upload.id)
        .set_part_number_marker((after > 0).then(|| after.to_string()))
        .send()
        .await
        .map_err(|e| store.refused(Operation::ListParts, upload.at.bucket, e))?;
    let listed = |p: &aws_sdk_s3::types::Part| {
        let number = p.part_number().and_then(|n| u32::try_from(n).ok())?;
        let size_bytes = p.size().and_then(|n| u64::try_from(n).ok())?;
        let part = part(Operation::ListParts, number, p.e_tag(), p.checksum_crc64_nvme()).ok()?;
        Some(PartListed { part, size_bytes, modified: p.last_modified().map(DateTime::secs) })
    };
    let parts: Option<Vec<PartListed>> = output.parts().iter().map(listed).collect();
    let parts = parts.ok_or_else(|| {
        StoreError::new(Operation::ListParts, StoreErrorKind::BadAnswer, "a part without number or size")
    })?;
    Ok(PartsPage { more: output.is_truncated().unwrap_or(false) && !parts.is_empty(), parts })
}

fn unreadable(operation: Operation) -> StoreError {
    StoreError::new(operation, StoreErrorKind::BadAnswer, "a listing that cannot be read whole")
}

fn objects_listed(output: &ListObjectsV2Output) -> Option<ObjectsPage> {
    let encoded = output.encoding_type() == Some(&EncodingType::Url);
    let listed = |object: &aws_sdk_s3::types::Object| {
        Some(ObjectListed {
            key: text(object.key()?, encoded)?,
            version: None,
            is_latest: true,
            size_bytes: u64::try_from(object.size()?).ok()?,
            etag: unquoted(object.e_tag()),
            modified: object.last_modified().map(modified),
        })
    };
    let objects: Vec<ObjectListed> = output.contents().iter().map(listed).collect::<Option<_>>()?;
    let next = match (output.is_truncated().unwrap_or(false), objects.last()) {
        (true, Some(last)) => Some(last.key.clone()),
        (true, None) => return None,
        (false, _) => None,
    };
    Some(ObjectsPage { objects, next })
}

fn versions_listed(output: &ListObjectVersionsOutput) -> Option<VersionsPage> {
    let encoded = output.encoding_type() == Some(&EncodingType::Url);
    let listed = |version: &aws_sdk_s3::types::ObjectVersion| {
        Some(ObjectListed {
            key: text(version.key()?, encoded)?,
            version: version.version_id().filter(|id| !id.is_empty()).map(ToOwned::to_owned),
            is_latest: version.is_latest().unwrap_or(false),
            size_bytes: u64::try_from(version.size()?).ok()?,
            etag: unquoted(version.e_tag()),
            modified: version.last_modified().map(modified),
        })
    };
    let versions: Vec<ObjectListed> = output.versions().iter().map(listed).collect::<Option<_>>()?;
    let next = if output.is_truncated().unwrap_or(false) {
        // Not the last version's: a delete marker may come behind it.
        let key = text(output.next_key_marker().filter(|key| !key.is_empty())?, encoded)?;
        let version = output.next_version_id_marker().filter(|id| !id.is_empty()).map(ToOwned::to_owned);
        Some(VersionMarker { key, version })
    } else {
        None
    };
    Some(VersionsPage { versions, next })
}

/// A text as it was before it was encoded for its way; `None` when that is no text.
fn text(text: &str, encoded: bool) -> Option<String> {
    if !encoded {
        return Some(text.to_owned());
    }
    let blanks = text.replace('+', " ");
    percent_decode_str(&blanks).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

fn modified(at: &DateTime) -> (i64, u32) {
    (at.secs(), at.subsec_nanos())
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::types::Object;

    use super::*;

    fn page(keys: &[&str], more: bool) -> ListObjectsV2Output {
        let object = |key: &&str| Object::builder().key(*key).size(1).build();
        ListObjectsV2Output::builder()
            .set_contents(Some(keys.iter().map(object).collect()))
            .encoding_type(EncodingType::Url)
            .is_truncated(more)
            .build()
    }

    #[test]
    fn keys_come_out_as_the_store_has_them_whichever_way_it_writes_blanks() {
        let page = objects_listed(&page(&["a+b%2Bc%20d%25/%F0%9F%98%80%01"], true)).expect("it can be read");
        assert_eq!(page.objects[0].key, "a b+c d%/😀\u{1}");
        assert_eq!(page.next.as_deref(), Some("a b+c d%/😀\u{1}"));
        let plain =
            ListObjectsV2Output::builder().contents(Object::builder().key("a+b%20").size(0).build()).build();
        assert_eq!(objects_listed(&plain).expect("it can be read").objects[0].key, "a+b%20");
    }

    #[test]
    fn a_page_with_something_unreadable_is_no_page() {
        assert_eq!(objects_listed(&page(&["good", "%FF"], false)), None);
        assert_eq!(objects_listed(&page(&[], true)), None, "there is more, and nobody knows where");
        let without_size =
            ListObjectsV2Output::builder().contents(Object::builder().key("a").build()).build();
        assert_eq!(objects_listed(&without_size), None);
        let lost = ListObjectVersionsOutput::builder().is_truncated(true).build();
        assert_eq!(versions_listed(&lost), None);
    }
}
