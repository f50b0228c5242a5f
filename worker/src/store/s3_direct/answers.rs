//! What the headers and bodies of answers mean. Pure; what a store sends is checked here and never trusted to be well formed.

use std::borrow::Cow;

use aws_smithy_runtime_api::http::Headers;
use aws_smithy_types::date_time::{DateTime, Format};

use crate::store::{
    Attributes, ObjectInfo, Operation, PartWritten, Retention, StoreError, StoreErrorKind, Written,
    s3_error::refusal,
    s3_shapes::{crc64, sha256, unquoted, xml_text},
};

const METADATA: &str = "x-amz-meta-";

/// What an answer to a GET or HEAD tells about its object.
pub(super) fn info_of(headers: &Headers, size_bytes: u64) -> ObjectInfo {
    let text = |name: &str| headers.get(name).filter(|value| !value.is_empty()).map(str::to_owned);
    let number = |name: &str| headers.get(name).and_then(|value| value.parse::<u32>().ok());
    let is_whole = headers.get("x-amz-checksum-type").is_none_or(|kind| kind == "FULL_OBJECT");
    let encrypted = headers.get("x-amz-server-side-encryption");
    let lock_mode = headers.get("x-amz-object-lock-mode");
    let metadata = headers.iter().filter_map(|(name, value)| {
        let name = name.strip_prefix(METADATA)?;
        Some((name.to_ascii_lowercase(), value.to_owned()))
    });
    ObjectInfo {
        size_bytes,
        etag: unquoted(headers.get("etag")),
        version: text("x-amz-version-id"),
        modified: headers.get("last-modified").and_then(|t| {
            let time = DateTime::from_str(t, Format::HttpDate).ok()?;
            Some((time.secs(), time.subsec_nanos()))
        }),
        crc64nvme: headers.get("x-amz-checksum-crc64nvme").and_then(crc64),
        sha256: headers.get("x-amz-checksum-sha256").filter(|_| is_whole).and_then(sha256),
        tag_count: number("x-amz-tagging-count"),
        storage_class: text("x-amz-storage-class").filter(|class| class != "STANDARD"),
        opaque_etag: headers.get("x-amz-server-side-encryption-customer-algorithm").is_some()
            || encrypted.is_some_and(|kind| kind != "AES256"),
        locked: lock_mode.is_some() || headers.get("x-amz-object-lock-legal-hold") == Some("ON"),
        retained: lock_mode.and_then(|mode| {
            let until = headers.get("x-amz-object-lock-retain-until-date")?;
            let until = DateTime::from_str(until, Format::DateTimeWithOffset).ok()?.secs();
            Some(Retention { compliance: mode == "COMPLIANCE", until })
        }),
        hidden_metadata: number("x-amz-missing-meta").is_some_and(|n| n > 0),
        attributes: Attributes {
            content_type: text("content-type"),
            content_encoding: text("content-encoding"),
            content_disposition: text("content-disposition"),
            content_language: text("content-language"),
            cache_control: text("cache-control"),
            expires: text("expires"),
            website_redirect: text("x-amz-website-redirect-location"),
            metadata: metadata.collect(),
        },
    }
}

/// What an answer to a write tells.
pub(super) fn written_of(headers: &Headers) -> Written {
    Written {
        etag: unquoted(headers.get("etag")),
        version: headers.get("x-amz-version-id").map(str::to_owned),
        crc64nvme: headers.get("x-amz-checksum-crc64nvme").and_then(crc64),
    }
}

/// What an answer to a part tells.
pub(super) fn part_of(headers: &Headers, number: u32) -> Result<PartWritten, StoreError> {
    let Written { etag, crc64nvme, .. } = written_of(headers);
    if etag.is_empty() {
        let what = "a part without an ETag";
        return Err(StoreError::new(Operation::UploadPart, StoreErrorKind::BadAnswer, what));
    }
    Ok(PartWritten { number, etag, crc64nvme })
}

/// What became of a copy: its answer may begin with a success and still carry an error.
pub(super) fn copied(headers: &Headers, text: &str) -> Result<Written, StoreError> {
    if !text.contains("<CopyObjectResult") {
        return Err(refusal(Operation::Copy, 200, headers, text));
    }
    let etag = xml_text(text, "ETag").unwrap_or(Cow::Borrowed(""));
    Ok(Written {
        etag: unquoted(Some(&etag)),
        version: headers.get("x-amz-version-id").map(str::to_owned),
        crc64nvme: xml_text(text, "ChecksumCRC64NVME").and_then(|crc| crc64(&crc)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(of: &[(&'static str, &'static str)]) -> Headers {
        let mut headers = Headers::new();
        for (name, value) in of {
            headers.insert(*name, *value);
        }
        headers
    }

    #[test]
    fn everything_that_a_store_tells_about_an_object_is_read() {
        let told = headers(&[
            ("etag", "\"e\""),
            ("x-amz-version-id", "v1"),
            ("last-modified", "Fri, 24 May 2013 00:00:01 GMT"),
            ("x-amz-checksum-crc64nvme", "rosUhgp5mIg="),
            ("x-amz-checksum-type", "FULL_OBJECT"),
            ("x-amz-tagging-count", "3"),
            ("x-amz-storage-class", "GLACIER"),
            ("x-amz-server-side-encryption", "aws:kms"),
            ("x-amz-object-lock-mode", "COMPLIANCE"),
            ("x-amz-object-lock-retain-until-date", "2026-11-27T20:19:08.123Z"),
            ("x-amz-missing-meta", "1"),
            ("x-amz-meta-Owner", "seven"),
            ("content-type", "image/jpeg"),
            ("expires", "whenever"),
        ]);
        let info = info_of(&told, 7);
        assert_eq!((info.size_bytes, info.etag.as_str(), info.version.as_deref()), (7, "e", Some("v1")));
        assert_eq!(info.modified, Some((1_369_353_601, 0)));
        assert_eq!(info.crc64nvme, Some(0xae8b_1486_0a79_9888));
        assert_eq!((info.tag_count, info.storage_class.as_deref()), (Some(3), Some("GLACIER")));
        assert!(info.opaque_etag && info.locked && info.hidden_metadata);
        assert_eq!(info.retained, Some(Retention { compliance: true, until: 1_795_810_748 }));
        assert_eq!(info.attributes.metadata.get("owner").map(String::as_str), Some("seven"));
        assert_eq!(info.attributes.expires.as_deref(), Some("whenever"));
        let plain = info_of(&headers(&[("x-amz-storage-class", "STANDARD"), ("x-amz-version-id", "")]), 0);
        assert_eq!(plain, ObjectInfo::default());
    }

    #[test]
    fn a_checksum_of_checksums_is_none_of_the_object() {
        let digest = "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=";
        let of = |kind| {
            let told = headers(&[("x-amz-checksum-sha256", digest), ("x-amz-checksum-type", kind)]);
            info_of(&told, 3).sha256
        };
        assert!(of("FULL_OBJECT").is_some());
        assert_eq!(of("COMPOSITE"), None);
    }

    #[test]
    fn a_copy_is_read_from_its_text_and_an_error_in_it_is_one() {
        let result = "<?xml version=\"1.0\"?><CopyObjectResult xmlns=\"x\"><LastModified>t</LastModified>\
            <ETag>&quot;e1&#34;</ETag><ChecksumCRC64NVME>rosUhgp5mIg=</ChecksumCRC64NVME></CopyObjectResult>";
        let written = copied(&headers(&[("x-amz-version-id", "v")]), result).expect("a copy");
        assert_eq!((written.etag.as_str(), written.version.as_deref()), ("e1", Some("v")));
        assert_eq!(written.crc64nvme, Some(0xae8b_1486_0a79_9888));
        let error = "<Error><Code>InternalError</Code><Message>we &lt;failed&gt;</Message></Error>";
        let error = copied(&Headers::new(), error).expect_err("an error");
        assert_eq!((error.kind, error.message.as_str()), (StoreErrorKind::Server, "we <failed>"));
        assert_eq!(copied(&Headers::new(), "").expect_err("nothing").kind, StoreErrorKind::Server);
    }
}
