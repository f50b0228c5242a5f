//! The one index of the store: buckets, the versions of every key in byte order, open and recently completed uploads.
//!
//! A pure state machine. Every change is a [`Record`]; applying the journal's records in order rebuilds the index, and
//! running requests change it in no other way. It decides nothing (conditions are checked before a record is made) and
//! touches neither files nor bodies: it reports which blobs gained and lost a reference.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::{BlobId, BucketState, Completed, Content, Lock, Object, Part, Tags, Upload, Version};

/// How many completed uploads are remembered, so that a repeated completion gets the same answer.
const COMPLETED_LIMIT: usize = 1000;

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Index {
    buckets: BTreeMap<String, BucketEntry>,
    uploads: BTreeMap<String, Upload>,
    completed: VecDeque<(String, Completed)>,
}

/// A bucket with its keys.
#[derive(Debug)]
pub(crate) struct BucketEntry {
    pub(crate) state: BucketState,
    /// Versions of each key, the current one last. Never empty.
    pub(crate) keys: BTreeMap<String, Vec<Arc<Version>>>,
}

/// One change.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Record {
    /// Creates a bucket or changes its state.
    Bucket { name: String, state: BucketState },
    /// Removes a bucket, its keys and its uploads.
    BucketGone { name: String },
    /// Makes a version the current one; a version with the same id goes.
    Put { bucket: String, key: String, version: Version },
    /// Removes one version.
    Gone { bucket: String, key: String, version_id: String },
    /// Replaces the tags of a version.
    Tagged { bucket: String, key: String, version_id: String, tags: Tags },
    /// Replaces the object lock state of a version.
    Locked { bucket: String, key: String, version_id: String, lock: Lock },
    /// Opens an upload.
    Upload { id: String, upload: Upload },
    /// Adds or replaces a part.
    Part { upload: String, number: u16, part: Part },
    /// Closes an upload; `completed` says into what, or is `None` if it was aborted.
    UploadGone { id: String, completed: Option<Completed> },
}

/// Blobs whose references changed, one entry for each reference.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct References {
    pub(crate) added: Vec<BlobId>,
    pub(crate) dropped: Vec<BlobId>,
}

impl Index {
    pub(crate) fn bucket(&self, name: &str) -> Option<&BucketEntry> {
        self.buckets.get(name)
    }

    /// All buckets by name.
    pub(crate) fn buckets(&self) -> impl Iterator<Item = (&String, &BucketEntry)> {
        self.buckets.iter()
    }

    pub(crate) fn upload(&self, id: &str) -> Option<&Upload> {
        self.uploads.get(id)
    }

    /// The open uploads in a bucket, in the order in which they were opened.
    pub(crate) fn uploads<'a>(&'a self, bucket: &'a str) -> impl Iterator<Item = (&'a String, &'a Upload)> {
        self.uploads.iter().filter(move |(_, upload)| upload.bucket == bucket)
    }

    pub(crate) fn completed(&self, id: &str) -> Option<&Completed> {
        self.completed.iter().find(|(known, _)| known == id).map(|(_, completed)| completed)
    }

    /// Carries out one change. A record about something that is not there changes nothing.
    pub(crate) fn apply(&mut self, record: Record, references: &mut References) {
        match record {
            Record::Bucket { name, state } => {
                let entry = self.buckets.entry(name);
                entry
                    .and_modify(|bucket| bucket.state = state.clone())
                    .or_insert_with(|| BucketEntry { state, keys: BTreeMap::new() });
            }
            Record::BucketGone { name } => self.remove_bucket(&name, references),
            Record::Put { bucket, key, version } => {
                let Some(bucket) = self.buckets.get_mut(&bucket) else { return };
                let versions = bucket.keys.entry(key).or_default();
                references.add_version(&version);
                remove_version(versions, &version.id, references);
                versions.push(Arc::new(version));
            }
            Record::Gone { bucket, key, version_id } => {
                let Some(bucket) = self.buckets.get_mut(&bucket) else { return };
                let Some(versions) = bucket.keys.get_mut(&key) else { return };
                remove_version(versions, &version_id, references);
                if versions.is_empty() {
                    bucket.keys.remove(&key);
                }
            }
            Record::Tagged { bucket, key, version_id, tags } => {
                self.change_object(&bucket, &key, &version_id, |object| object.tags = tags);
            }
            Record::Locked { bucket, key, version_id, lock } => {
                self.change_object(&bucket, &key, &version_id, |object| object.lock = lock);
            }
            Record::Upload { id, upload } => {
                upload.parts.values().for_each(|part| references.add(&part.content));
                self.uploads.insert(id, upload);
            }
            Record::Part { upload, number, part } => {
                let Some(upload) = self.uploads.get_mut(&upload) else { return };
                references.add(&part.content);
                if let Some(old) = upload.parts.insert(number, part) {
                    references.drop(&old.content);
                }
            }
            Record::UploadGone { id, completed } => {
                if let Some(upload) = self.uploads.remove(&id) {
                    upload.parts.values().for_each(|part| references.drop(&part.content));
                }
                if let Some(completed) = completed {
                    self.completed.push_back((id, completed));
                    if self.completed.len() > COMPLETED_LIMIT {
                        self.completed.pop_front();
                    }
                }
            }
        }
    }

    /// Records that rebuild this index.
    pub(crate) fn snapshot(&self) -> impl Iterator<Item = Record> {
        let buckets = self.buckets.iter().flat_map(|(name, bucket)| {
            let versions = bucket.keys.iter().flat_map(move |(key, versions)| {
                versions.iter().map(move |version| Record::Put {
                    bucket: name.clone(),
                    key: key.clone(),
                    version: Version::clone(version),
                })
            });
            std::iter::once(Record::Bucket { name: name.clone(), state: bucket.state.clone() })
                .chain(versions)
        });
        let uploads = self.uploads.iter();
        let completed = self.completed.iter();
        buckets
            .chain(uploads.map(|(id, upload)| Record::Upload { id: id.clone(), upload: upload.clone() }))
            .chain(completed.map(|(id, completed)| Record::UploadGone {
                id: id.clone(),
                completed: Some(completed.clone()),
            }))
    }

    fn remove_bucket(&mut self, name: &str, references: &mut References) {
        let Some(bucket) = self.buckets.remove(name) else { return };
        bucket.keys.values().flatten().for_each(|version| references.drop_version(version));
        self.uploads.retain(|_, upload| {
            let stays = upload.bucket != name;
            if !stays {
                upload.parts.values().for_each(|part| references.drop(&part.content));
            }
            stays
        });
    }

    fn change_object(&mut self, bucket: &str, key: &str, version_id: &str, change: impl FnOnce(&mut Object)) {
        let versions = self.buckets.get_mut(bucket).and_then(|bucket| bucket.keys.get_mut(key));
        let version = versions.into_iter().flatten().find(|version| version.id == version_id);
        if let Some(object) = version.and_then(|version| Arc::make_mut(version).object.as_mut()) {
            change(object);
        }
    }
}

impl BucketEntry {
    /// The current version of a key, which may be a delete marker.
    pub(crate) fn current(&self, key: &str) -> Option<&Arc<Version>> {
        self.keys.get(key).and_then(|versions| versions.last())
    }

    pub(crate) fn version(&self, key: &str, id: &str) -> Option<&Arc<Version>> {
        self.keys.get(key)?.iter().find(|version| version.id == id)
    }
}

impl References {
    fn add(&mut self, content: &Content) {
        self.added.extend(content.blobs());
    }

    fn drop(&mut self, content: &Content) {
        self.dropped.extend(content.blobs());
    }

    fn add_version(&mut self, version: &Version) {
        version.object.iter().for_each(|object| self.add(&object.content));
    }

    fn drop_version(&mut self, version: &Version) {
        version.object.iter().for_each(|object| self.drop(&object.content));
    }
}

fn remove_version(versions: &mut Vec<Arc<Version>>, id: &str, references: &mut References) {
    if let Some(position) = versions.iter().position(|version| version.id == id) {
        references.drop_version(&versions.remove(position));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksums::{Digester, Digests};
    use crate::model::{Attributes, Versioning};

    fn version(id: &str, blob: BlobId) -> Version {
        let Digests { crc64, .. } = Digester::new(None).finish();
        let object = Object {
            content: Content::whole(blob, 1),
            etag: String::new(),
            checksum: crc64,
            parts: Vec::new(),
            attributes: Attributes::default(),
            tags: Vec::new(),
            lock: Lock::default(),
        };
        Version { id: id.into(), modified_ms: 0, object: Some(Box::new(object)) }
    }

    fn put(id: &str, blob: BlobId) -> Record {
        Record::Put { bucket: "b".into(), key: "k".into(), version: version(id, blob) }
    }

    fn bucket() -> Record {
        let state = BucketState { created_ms: 0, versioning: Versioning::Enabled, object_lock: false };
        Record::Bucket { name: "b".into(), state }
    }

    fn apply(index: &mut Index, records: impl IntoIterator<Item = Record>) -> References {
        let mut references = References::default();
        records.into_iter().for_each(|record| index.apply(record, &mut references));
        references
    }

    #[test]
    fn a_put_with_the_same_id_replaces_and_releases() {
        let mut index = Index::default();
        let references = apply(&mut index, [bucket(), put("null", 1), put("v", 2), put("null", 3)]);

        assert_eq!(references, References { added: vec![1, 2, 3], dropped: vec![1] });
        let ids: Vec<_> =
            index.bucket("b").expect("it was made").keys["k"].iter().map(|v| v.id.as_str()).collect();
        assert_eq!(ids, ["v", "null"]);
    }

    #[test]
    fn removing_the_last_version_removes_the_key() {
        let mut index = Index::default();
        apply(&mut index, [bucket(), put("v", 1)]);
        let gone = Record::Gone { bucket: "b".into(), key: "k".into(), version_id: "v".into() };

        let references = apply(&mut index, [gone.clone(), gone]);

        assert_eq!(references.dropped, [1]);
        assert!(index.bucket("b").expect("it stays").keys.is_empty());
    }

    #[test]
    fn a_snapshot_rebuilds_the_index() {
        let mut index = Index::default();
        apply(&mut index, [bucket(), put("v1", 1), put("v2", 2)]);
        apply(
            &mut index,
            [Record::Tagged {
                bucket: "b".into(),
                key: "k".into(),
                version_id: "v1".into(),
                tags: vec![("a".into(), "b".into())],
            }],
        );

        let mut rebuilt = Index::default();
        apply(&mut rebuilt, index.snapshot());

        assert_eq!(format!("{rebuilt:?}"), format!("{index:?}"));
    }
}
