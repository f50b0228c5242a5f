//! Between the client library's shapes and ours: header values, checksums, copy sources, tags.
//!
//! Pure; what a store sends is checked here and never trusted to be well formed.

use std::borrow::Cow;

use aws_sdk_s3::{
    operation::{
        get_object::GetObjectOutput, get_object_acl::GetObjectAclOutput, head_object::HeadObjectOutput,
        list_multipart_uploads::ListMultipartUploadsOutput,
    },
    primitives::DateTime,
    types::{
        ChecksumType, EncodingType, ObjectLockLegalHoldStatus, ObjectLockMode, ServerSideEncryption,
        StorageClass,
    },
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::{
    Attributes, ByteRange, ContentRange, ObjectInfo, ObjectPath, Operation, PartWritten, Pin, Retention,
    StoreError, StoreErrorKind, Tag, UploadListed,
};

/// What stands for itself in a copy source and in a tagging header.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
const ENCODED_PATH: &AsciiSet = &ENCODED.remove(b'/');

/// The two outputs have the same fields and no common trait.
macro_rules! object_info {
    ($output:expr, $size:expr) => {{
        let o = $output;
        ObjectInfo {
            size_bytes: $size,
            etag: unquoted(o.e_tag()),
            version: o.version_id().filter(|v| !v.is_empty()).map(str::to_owned),
            modified: o.last_modified().map(|t| (t.secs(), t.subsec_nanos())),
            crc64nvme: o.checksum_crc64_nvme().and_then(crc64),
            sha256: whole_object(o.checksum_type()).then(|| o.checksum_sha256().and_then(sha256)).flatten(),
            tag_count: o.tag_count().and_then(|n| u32::try_from(n).ok()),
            storage_class: o
                .storage_class()
                .filter(|c| **c != StorageClass::Standard)
                .map(|c| c.as_str().to_owned()),
            opaque_etag: o.sse_customer_algorithm().is_some()
                || o.server_side_encryption().is_some_and(|s| *s != ServerSideEncryption::Aes256),
            hidden_metadata: o.missing_meta().is_some_and(|n| n > 0),
            retained: retained(o.object_lock_mode(), o.object_lock_retain_until_date()),
            locked: o.object_lock_mode().is_some()
                || o.object_lock_legal_hold_status().is_some_and(|s| *s == ObjectLockLegalHoldStatus::On),
            attributes: Attributes {
                content_type: present(o.content_type()),
                content_encoding: present(o.content_encoding()),
                content_disposition: present(o.content_disposition()),
                content_language: present(o.content_language()),
                cache_control: present(o.cache_control()),
                expires: present(o.expires_string()),
                website_redirect: present(o.website_redirect_location()),
                metadata: o
                    .metadata()
                    .into_iter()
                    .flatten()
                    .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
                    .collect(),
            },
        }
    }};
}

pub(super) fn info_of_head(output: &HeadObjectOutput) -> ObjectInfo {
    object_info!(output, output.content_length().and_then(|n| u64::try_from(n).ok()).unwrap_or(0))
}

pub(super) fn info_of_get(output: &GetObjectOutput, size_bytes: u64) -> ObjectInfo {
    object_info!(output, size_bytes)
}

fn retained(mode: Option<&ObjectLockMode>, until: Option<&DateTime>) -> Option<Retention> {
    Some(Retention { compliance: mode? == &ObjectLockMode::Compliance, until: until?.secs() })
}

pub(super) fn lock_mode(compliance: bool) -> ObjectLockMode {
    if compliance { ObjectLockMode::Compliance } else { ObjectLockMode::Governance }
}

/// Whether anybody but the owner is named. A grant that cannot be read is one to somebody.
pub(super) fn grants_to_others(acl: &GetObjectAclOutput) -> bool {
    let owner = acl.owner().and_then(|o| o.id());
    acl.grants().iter().any(|g| owner.is_none() || g.grantee().and_then(|g| g.id()) != owner)
}

/// Uploads of a listing; one without key or id is of no use to anybody.
pub(super) fn uploads_listed(output: &ListMultipartUploadsOutput) -> Vec<UploadListed> {
    let encoded = output.encoding_type() == Some(&EncodingType::Url);
    let listed = |upload: &aws_sdk_s3::types::MultipartUpload| {
        let key = upload.key()?;
        let key =
            if encoded { percent_decode_str(key).decode_utf8().ok()?.into_owned() } else { key.to_owned() };
        let id = upload.upload_id().filter(|id| !id.is_empty())?.to_owned();
        Some(UploadListed { key, id, initiated: upload.initiated().map(DateTime::secs) })
    };
    output.uploads().iter().filter_map(listed).collect()
}

/// `bytes 0-99/1234`; `None` for anything else.
pub(super) fn content_range(header: &str) -> Option<ContentRange> {
    let (range, total) = header.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (start, end) = range.split_once('-')?;
    let range =
        ContentRange { start: start.parse().ok()?, end: end.parse().ok()?, total: total.parse().ok()? };
    (range.start <= range.end && range.end < range.total).then_some(range)
}

pub(super) fn range_header(range: ByteRange) -> String {
    format!("bytes={}-{}", range.start, range.end() - 1)
}

pub(super) fn copy_source(from: ObjectPath<'_>, version: Option<&str>) -> String {
    let mut source = format!("{}/{}", from.bucket, utf8_percent_encode(from.key, ENCODED_PATH));
    if let Some(version) = version {
        source.push_str("?versionId=");
        source.extend(utf8_percent_encode(version, ENCODED));
    }
    source
}

pub(super) fn tagging(tags: &[Tag]) -> Option<String> {
    let pairs: Vec<String> = tags
        .iter()
        .map(|t| {
            format!("{}={}", utf8_percent_encode(&t.key, ENCODED), utf8_percent_encode(&t.value, ENCODED))
        })
        .collect();
    (!pairs.is_empty()).then(|| pairs.join("&"))
}

pub(super) fn quoted(etag: &str) -> String {
    format!("\"{etag}\"")
}

/// A weak ETag keeps its `W/`, so that nobody takes it for one that can be matched.
pub(super) fn unquoted(etag: Option<&str>) -> String {
    etag.map(|e| e.trim_matches('"')).unwrap_or_default().to_owned()
}

pub(super) fn crc64_header(crc: u64) -> String {
    STANDARD.encode(crc.to_be_bytes())
}

pub(super) fn md5_header(md5: [u8; 16]) -> String {
    STANDARD.encode(md5)
}

pub(super) fn crc64(header: &str) -> Option<u64> {
    Some(u64::from_be_bytes(STANDARD.decode(header.trim()).ok()?.try_into().ok()?))
}

pub(super) fn sha256(header: &str) -> Option<[u8; 32]> {
    STANDARD.decode(header.trim()).ok()?.try_into().ok()
}

/// The text of the first element of that name, in XML as stores write it: without attributes, comments or CDATA.
pub(super) fn xml_text<'t>(xml: &'t str, name: &str) -> Option<Cow<'t, str>> {
    let begin = xml.find(&format!("<{name}>"))? + name.len() + 2;
    let text = &xml[begin..];
    let text = &text[..text.find(&format!("</{name}>"))?];
    if !text.contains('&') {
        return Some(Cow::Borrowed(text));
    }
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        plain.push_str(before);
        let (entity, after) = after.split_once(';')?;
        plain.push(match entity {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            _ => {
                let number = entity.strip_prefix('#')?;
                let code = match number.strip_prefix(['x', 'X']) {
                    Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                    None => number.parse().ok()?,
                };
                char::from_u32(code)?
            }
        });
        rest = after;
    }
    plain.push_str(rest);
    Some(Cow::Owned(plain))
}

fn whole_object(kind: Option<&ChecksumType>) -> bool {
    kind.is_none_or(|k| *k == ChecksumType::FullObject)
}

fn present(value: Option<&str>) -> Option<String> {
    value.filter(|v| !v.is_empty()).map(str::to_owned)
}

pub(super) fn part(
    operation: Operation,
    number: u32,
    etag: Option<&str>,
    crc: Option<&str>,
) -> Result<PartWritten, StoreError> {
    let etag = unquoted(etag);
    if etag.is_empty() {
        return Err(StoreError::new(operation, StoreErrorKind::BadAnswer, "a part without an ETag"));
    }
    Ok(PartWritten { number, etag, crc64nvme: crc.and_then(crc64) })
}

/// A weak ETag never matches, so it is not sent; the engine compares it with what comes back.
pub(super) fn if_match(pin: &Pin) -> Option<String> {
    pin.etag.as_deref().filter(|e| !e.starts_with("W/")).map(quoted)
}

pub(super) fn none_match(create_only: bool) -> Option<String> {
    create_only.then(|| "*".to_owned())
}

pub(super) fn signed(length: u64) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

pub(super) fn signed_number(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_well_formed_content_range_is_believed() {
        assert_eq!(content_range("bytes 0-0/1"), Some(ContentRange { start: 0, end: 0, total: 1 }));
        for wrong in
            ["", "bytes */5", "bytes 5-4/9", "bytes 0-9/9", "items 0-1/2", "bytes 0-1/*", "bytes -1-2/4"]
        {
            assert_eq!(content_range(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_copy_source_names_any_key_exactly() {
        let from = ObjectPath { bucket: "photos", key: "a b/ü+%2F?x" };
        assert_eq!(copy_source(from, Some("v/1")), "photos/a%20b/%C3%BC%2B%252F%3Fx?versionId=v%2F1");
    }

    #[test]
    fn checksums_survive_their_header_and_garbage_does_not() {
        assert_eq!(crc64(&crc64_header(0xae8b_1486_0a79_9888)), Some(0xae8b_1486_0a79_9888));
        assert_eq!(crc64_header(0xae8b_1486_0a79_9888), "rosUhgp5mIg=");
        assert_eq!(crc64("AAAA"), None);
        assert_eq!(crc64("not base64"), None);
    }

    #[test]
    fn a_text_is_found_in_xml_and_entities_in_it_are_read() {
        let xml = "<?xml version=\"1.0\"?>\n<Error><Code>NoSuchKey</Code><Message>a &amp; b &#60;&#x3e;</Message></Error>";
        assert_eq!(xml_text(xml, "Code").as_deref(), Some("NoSuchKey"));
        assert_eq!(xml_text(xml, "Message").as_deref(), Some("a & b <>"));
        for broken in
            ["", "<Code>", "<Code>x</Cod", "<Code>&nbsp;</Code>", "<Code>&#xD800;</Code>", "<Code>&</Code>"]
        {
            assert_eq!(xml_text(broken, "Code"), None, "{broken}");
        }
    }

    #[test]
    fn tags_are_encoded_so_that_no_tag_can_add_another() {
        let tags =
            [Tag { key: "a&b".into(), value: "1=2".into() }, Tag { key: "é".into(), value: String::new() }];
        assert_eq!(tagging(&tags).as_deref(), Some("a%26b=1%3D2&%C3%A9="));
        assert_eq!(tagging(&[]), None);
    }
}
