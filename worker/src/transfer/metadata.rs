//! What is written beside the bytes, so that a restore needs nothing but the backup bucket. Pure.
//!
//! All of it goes into the object's own user metadata where it fits into S3's 2 KB. Where it does not, the object says so, and a manifest
//! beside it holds everything: a JSON file that people can read too. Values that a header cannot carry are encoded the way S3 itself
//! shows them (RFC 2047), and listed, so that they come back as they were.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Serialize};

use super::key::SourceName;
use crate::store::{Attributes, ObjectInfo, Tag};

/// Most bytes of user metadata, names and values: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingMetadata.html>.
/// The names are counted with their `x-amz-meta-`, because some stores do.
const METADATA_MAX_BYTES: usize = 2048;
const HEADER_PREFIX_BYTES: usize = "x-amz-meta-".len();

/// The name of the one entry that is ours: `format=2 location=photos bucket=uploads key=2026/a%20b.jpg ...`. One, because each costs a
/// store more than what is in it.
const OURS: &str = "backhaul";
const FORMAT: &str = "2";
/// The format where a manifest holds the rest.
const FORMAT_MANIFEST: &str = "2-manifest";

const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'"');

/// Everything that is known about a copy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Version of this format.
    pub format: String,
    /// Origin.
    pub location: String,
    /// Its bucket.
    pub bucket: String,
    /// Its key.
    pub key: String,
    /// Version id, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// ETag of the source.
    pub etag: String,
    /// Last-Modified of the source, seconds since the epoch and nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modified: Option<(i64, u32)>,
    /// Length.
    pub size_bytes: u64,
    /// CRC-64/NVME as 16 hexadecimal digits; not known when a multipart upload starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crc64nvme: Option<String>,
    /// SHA-256 in hexadecimal, where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Who asked for it.
    pub tenant: String,
    /// The task that made it.
    pub task_id: String,
    /// Storage class of the source, unless the standard one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_class: Option<String>,
    /// Content headers and user metadata of the source.
    #[serde(default)]
    pub attributes: Attributes,
    /// Tags of the source.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Tag>,
}

/// How a record is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// What the object itself carries.
    pub attributes: Attributes,
    /// A manifest must be written before the object.
    pub manifest: bool,
}

/// A hexadecimal checksum as records hold it.
#[must_use]
pub fn crc_text(crc: u64) -> String {
    format!("{crc:016x}")
}

impl Record {
    /// Whether this describes a copy of that very version.
    #[must_use]
    pub fn is_of(&self, source: &SourceName<'_>) -> bool {
        self.location == source.location
            && self.bucket == source.bucket
            && self.key == source.key
            && self.version.as_deref() == source.version
            && self.etag == source.etag
            && self.size_bytes == source.size_bytes
    }

    /// The CRC-64/NVME that the record claims.
    #[must_use]
    pub fn crc(&self) -> Option<u64> {
        u64::from_str_radix(self.crc64nvme.as_deref()?, 16).ok()
    }

    /// Decides what the object carries. `need_manifest` asks for a manifest whatever fits.
    #[must_use]
    pub fn place(&self, need_manifest: bool) -> Placement {
        let mut attributes = self.attributes.clone();
        attributes.content_encoding = without_aws_chunked(attributes.content_encoding.take());
        let foreign = std::mem::take(&mut attributes.metadata);
        let (mut metadata, mut encoded) = (BTreeMap::new(), Vec::new());
        let mut manifest = need_manifest || foreign.contains_key(OURS);
        for (name, value) in &foreign {
            let (value, changed) = header_value(value);
            if changed {
                encoded.push(name.as_str());
            }
            metadata.insert(name.clone(), value);
        }
        metadata.insert(OURS.to_owned(), self.told(&encoded));
        if manifest || weight(&metadata) > METADATA_MAX_BYTES {
            metadata = BTreeMap::from([(OURS.to_owned(), self.told_beside_manifest())]);
            manifest = true;
        }
        attributes.metadata = metadata;
        Placement { attributes, manifest }
    }

    /// Reads what [`Record::place`] put on an object; `None` when it carries nothing of ours or only points to a manifest.
    #[must_use]
    pub fn from_object(info: &ObjectInfo) -> Option<Self> {
        let own = own(info);
        let text = |name| own.get(name).cloned();
        if own.get("format")? != FORMAT {
            return None;
        }
        let modified = own.get("modified").and_then(|m| {
            let (seconds, nanos) = m.split_once('.')?;
            Some((seconds.parse().ok()?, nanos.parse().ok()?))
        });
        let encoded: Vec<&str> = own.get("encoded").map(|e| e.split(',').collect()).unwrap_or_default();
        let foreign = info.attributes.metadata.iter().filter(|(name, _)| *name != OURS);
        let foreign = foreign.map(|(name, value)| {
            let plain = if encoded.contains(&name.as_str()) { decoded(value) } else { None };
            (name.clone(), plain.unwrap_or_else(|| value.clone()))
        });
        Some(Self {
            format: FORMAT.to_owned(),
            location: text("location")?,
            bucket: text("bucket")?,
            key: text("key")?,
            version: text("version"),
            etag: text("etag")?,
            modified,
            size_bytes: own.get("size")?.parse().ok()?,
            crc64nvme: text("crc64nvme"),
            sha256: text("sha256"),
            tenant: text("tenant")?,
            task_id: text("task")?,
            storage_class: text("storage-class"),
            attributes: Attributes { metadata: foreign.collect(), ..info.attributes.clone() },
            tags: Vec::new(),
        })
    }

    /// What an object says of its source whose record is in a manifest: ETag and CRC-64/NVME, as far as it does; `None` for other objects.
    #[must_use]
    pub fn beside_manifest(info: &ObjectInfo) -> Option<(Option<String>, Option<String>)> {
        let mut own = own(info);
        (own.get("format")? == FORMAT_MANIFEST).then(|| (own.remove("etag"), own.remove("crc64nvme")))
    }

    /// The value of our entry. `encoded` are the names of others whose values are not as they were.
    fn told(&self, encoded: &[&str]) -> String {
        let modified = self.modified.map(|(seconds, nanos)| format!("{seconds}.{nanos:09}"));
        told([
            ("format", Some(FORMAT)),
            ("location", Some(&self.location)),
            ("bucket", Some(&self.bucket)),
            ("key", Some(&self.key)),
            ("version", self.version.as_deref()),
            ("etag", Some(&self.etag)),
            ("modified", modified.as_deref()),
            ("size", Some(&self.size_bytes.to_string())),
            ("crc64nvme", self.crc64nvme.as_deref()),
            ("sha256", self.sha256.as_deref()),
            ("tenant", Some(&self.tenant)),
            ("task", Some(&self.task_id)),
            ("storage-class", self.storage_class.as_deref()),
            ("encoded", (!encoded.is_empty()).then(|| encoded.join(",")).as_deref()),
        ])
    }

    fn told_beside_manifest(&self) -> String {
        let etag = (self.etag.len() <= 128).then_some(self.etag.as_str());
        told([("format", Some(FORMAT_MANIFEST)), ("etag", etag), ("crc64nvme", self.crc64nvme.as_deref())])
    }
}

/// Fields as the value of our entry.
fn told<const N: usize>(fields: [(&str, Option<&str>); N]) -> String {
    let fields = fields.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let fields: Vec<String> =
        fields.map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, ESCAPED))).collect();
    fields.join(" ")
}

/// The fields in our entry of an object; those that cannot be read are left out.
fn own(info: &ObjectInfo) -> BTreeMap<&str, String> {
    let value = info.attributes.metadata.get(OURS).map(String::as_str).unwrap_or_default();
    let field = |field| {
        let (name, value): (&str, &str) = str::split_once(field, '=')?;
        Some((name, percent_decode_str(value).decode_utf8().ok()?.into_owned()))
    };
    value.split(' ').filter_map(field).collect()
}

fn weight(metadata: &BTreeMap<String, String>) -> usize {
    metadata.iter().map(|(name, value)| HEADER_PREFIX_BYTES + name.len() + value.len()).sum()
}

/// A value as a header can carry it, and whether that differs from the value.
fn header_value(value: &str) -> (String, bool) {
    let plain = value.bytes().all(|b| (b' '..0x7f).contains(&b))
        && !value.starts_with(' ')
        && !value.ends_with(' ')
        && !value.contains("  ");
    if plain { (value.to_owned(), false) } else { (format!("=?UTF-8?B?{}?=", STANDARD.encode(value)), true) }
}

fn decoded(value: &str) -> Option<String> {
    let base64 = value.strip_prefix("=?UTF-8?B?")?.strip_suffix("?=")?;
    String::from_utf8(STANDARD.decode(base64).ok()?).ok()
}

/// Some stores keep the encoding of the transfer as if it were one of the object.
fn without_aws_chunked(encoding: Option<String>) -> Option<String> {
    let kept: Vec<&str> = encoding
        .as_deref()?
        .split(',')
        .map(str::trim)
        .filter(|e| !e.is_empty() && *e != "aws-chunked")
        .collect();
    (!kept.is_empty()).then(|| kept.join(","))
}

#[cfg(test)]
mod tests;
