//! What the store knows about buckets, object versions and uploads, as plain data.
//!
//! Shared by the index (which orders it), the journal (which writes it) and the operations (which translate it to
//! S3's shapes). No behaviour beyond arithmetic on itself, no I/O.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::checksums::{Algorithm, Checksum, ChecksumKind};

/// Name of one immutable run of bytes in [`Blobs`](crate::blobs::Blobs).
pub(crate) type BlobId = u64;

/// The version id of objects written while versioning is off or suspended.
pub(crate) const NULL_VERSION: &str = "null";

/// Versioning state of a bucket. It never returns to `Off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Versioning {
    Off,
    Enabled,
    Suspended,
}

/// A bucket without its keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BucketState {
    pub(crate) created_ms: u64,
    pub(crate) versioning: Versioning,
    pub(crate) object_lock: bool,
}

/// One version of a key: an object or a delete marker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Version {
    pub(crate) id: String,
    pub(crate) modified_ms: u64,
    /// `None` for a delete marker.
    pub(crate) object: Option<Box<Object>>,
}

/// An object version's content and everything that S3 returns about it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Object {
    pub(crate) content: Content,
    /// Without quotes.
    pub(crate) etag: String,
    pub(crate) checksum: Checksum,
    /// Empty unless the object was completed from parts.
    pub(crate) parts: Vec<ObjectPart>,
    pub(crate) attributes: Attributes,
    pub(crate) tags: Tags,
    pub(crate) lock: Lock,
}

/// What a writer says about an object and S3 only keeps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attributes {
    /// System headers by lower-case name: content-type, cache-control and so on.
    pub(crate) headers: BTreeMap<String, String>,
    /// User metadata by lower-case name without `x-amz-meta-`.
    pub(crate) metadata: BTreeMap<String, String>,
    /// `None` is STANDARD.
    pub(crate) storage_class: Option<String>,
}

/// Tags in the order in which they were given.
pub(crate) type Tags = Vec<(String, String)>;

/// Object lock state of one version.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lock {
    pub(crate) retention: Option<Retention>,
    pub(crate) legal_hold: bool,
}

/// Until when a version may not be deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Retention {
    /// COMPLIANCE admits no exception, GOVERNANCE can be bypassed.
    pub(crate) compliance: bool,
    pub(crate) until_ms: u64,
}

/// One part of a completed multipart upload.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ObjectPart {
    pub(crate) number: u16,
    pub(crate) size: u64,
    /// Only where the upload asked for a checksum.
    pub(crate) checksum: Option<Checksum>,
}

/// A multipart upload that is neither completed nor aborted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Upload {
    pub(crate) bucket: String,
    pub(crate) key: String,
    pub(crate) initiated_ms: u64,
    pub(crate) attributes: Attributes,
    pub(crate) tags: Tags,
    pub(crate) lock: Lock,
    /// What the creator asked for; without it S3 keeps a CRC64NVME over the full object.
    pub(crate) checksum: Option<(Algorithm, ChecksumKind)>,
    pub(crate) parts: BTreeMap<u16, Part>,
}

/// One uploaded part.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Part {
    pub(crate) content: Content,
    pub(crate) modified_ms: u64,
    /// MD5 of the part; its hexadecimal form is the part's ETag.
    pub(crate) md5: [u8; 16],
    pub(crate) crc64: Checksum,
    /// What the uploader sent along, or what the upload asks for.
    pub(crate) checksum: Option<Checksum>,
}

/// What a completed upload became, so that a repeated completion gives the same answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Completed {
    pub(crate) bucket: String,
    pub(crate) key: String,
    pub(crate) version_id: String,
    /// Part numbers with ETags, as the completion named them.
    pub(crate) parts: Vec<(u16, String)>,
}

/// The bytes of an object: pieces of blobs, in order. Completing an upload or copying an object moves no bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Content(pub(crate) Vec<Extent>);

/// A piece of one blob; never empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Extent {
    pub(crate) blob: BlobId,
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

impl Version {
    pub(crate) fn is_delete_marker(&self) -> bool {
        self.object.is_none()
    }
}

impl Object {
    pub(crate) fn size(&self) -> u64 {
        self.content.len()
    }
}

impl Part {
    pub(crate) fn etag(&self) -> String {
        hex::encode(self.md5)
    }
}

impl Content {
    pub(crate) fn whole(blob: BlobId, len: u64) -> Self {
        if len == 0 { Self::default() } else { Self(vec![Extent { blob, offset: 0, len }]) }
    }

    pub(crate) fn len(&self) -> u64 {
        self.0.iter().map(|extent| extent.len).sum()
    }

    pub(crate) fn blobs(&self) -> impl Iterator<Item = BlobId> {
        self.0.iter().map(|extent| extent.blob)
    }

    /// The bytes in `range`, which is cut off at the end of the content.
    pub(crate) fn slice(&self, range: Range<u64>) -> Self {
        let mut start = 0;
        let mut extents = Vec::new();
        for extent in &self.0 {
            let end = start + extent.len;
            let (from, to) = (range.start.max(start), range.end.min(end));
            if from < to {
                extents.push(Extent {
                    blob: extent.blob,
                    offset: extent.offset + (from - start),
                    len: to - from,
                });
            }
            start = end;
        }
        Self(extents)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_crosses_extents_and_keeps_their_offsets() {
        let content = Content(vec![
            Extent { blob: 1, offset: 10, len: 5 },
            Extent { blob: 2, offset: 0, len: 3 },
            Extent { blob: 3, offset: 7, len: 4 },
        ]);

        let slice = content.slice(4..9);

        assert_eq!(
            slice.0,
            vec![
                Extent { blob: 1, offset: 14, len: 1 },
                Extent { blob: 2, offset: 0, len: 3 },
                Extent { blob: 3, offset: 7, len: 1 },
            ]
        );
        assert_eq!(slice.len(), 5);
        assert_eq!(content.slice(12..20).len(), 0);
        assert_eq!(content.slice(0..u64::MAX), content);
    }
}
