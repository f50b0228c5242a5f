//! A store in memory, for tests: S3's semantics in as few lines as they need, with the weaknesses of real stores as options.
//!
//! The conformance suite runs on it and on real servers, so it is a model and not a guess. Its clock is a counter.

mod inspect;
mod listing;
mod options;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;
use md5::{Digest as _, Md5};

pub use self::options::MemoryOptions;
use super::{
    Attributes, ByteRange, Completion, ContentRange, GetResponse, ObjectInfo, ObjectPath, ObjectStore,
    ObjectsPage, Operation, PartListed, PartWritten, PartsPage, Payload, Pin, Proof, Put, Retention,
    StoreError, StoreErrorKind as Kind, Tag, Terms, UploadListed, UploadRef, UploadsPage, VersionMarker,
    VersionsPage, WriteOptions, Written,
};

/// A store in memory.
#[derive(Debug)]
pub struct MemoryStore {
    options: MemoryOptions,
    state: Mutex<State>,
}

/// One version of an object, as tests see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// About it.
    pub info: ObjectInfo,
    /// Its bytes.
    pub bytes: Bytes,
    /// Its tags.
    pub tags: Vec<Tag>,
}

#[derive(Debug, Default)]
struct State {
    buckets: BTreeMap<String, BTreeMap<String, Vec<Stored>>>,
    uploads: BTreeMap<String, Upload>,
    /// Keys of objects with an ACL of their own.
    granted: BTreeSet<String>,
    clock: i64,
}

#[derive(Debug)]
struct Upload {
    bucket: String,
    key: String,
    attributes: Attributes,
    tags: Vec<Tag>,
    crc64nvme: bool,
    storage_class: Option<String>,
    retained: Option<Retention>,
    initiated: i64,
    parts: BTreeMap<u32, (Bytes, PartWritten, i64)>,
}

impl MemoryStore {
    /// A store with these empty buckets.
    #[must_use]
    pub fn new(options: MemoryOptions, buckets: &[&str]) -> Self {
        let buckets = buckets.iter().map(|b| ((*b).to_owned(), BTreeMap::new())).collect();
        Self { options, state: Mutex::new(State { buckets, clock: 1_764_000_000, ..State::default() }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one place that makes an object of everything that belongs to it"
    )]
    fn store(
        &self,
        state: &mut State,
        at: ObjectPath<'_>,
        bytes: Bytes,
        attributes: Attributes,
        tags: Vec<Tag>,
        terms: Terms<'_>,
        crc: bool,
        etag: Option<String>,
    ) -> Written {
        state.clock += 1;
        let clock = state.clock;
        let versioning = self.options.versioning && at.bucket.starts_with("versioned");
        let version = versioning.then(|| format!("v{clock}"));
        let info = ObjectInfo {
            size_bytes: bytes.len() as u64,
            etag: match etag {
                _ if !self.options.md5_etags => format!("etag-{clock}"),
                Some(etag) => etag,
                None => hex::encode(Md5::digest(&bytes)),
            },
            version: version.clone(),
            modified: Some((clock, 0)),
            crc64nvme: crc.then(|| crc_fast::crc64_nvme(&bytes)),
            attributes,
            tag_count: Some(u32::try_from(tags.len()).unwrap_or(u32::MAX))
                .filter(|n| *n > 0 && self.options.counts_tags),
            storage_class: terms.storage_class.map(str::to_owned),
            retained: terms.retention.filter(|_| self.options.locking),
            locked: terms.retention.is_some() && self.options.locking,
            ..ObjectInfo::default()
        };
        let told = version.or_else(|| self.options.false_versions.then(|| format!("false-{clock}")));
        let written = Written { etag: info.etag.clone(), version: told, crc64nvme: info.crc64nvme };
        let versions =
            state.buckets.entry(at.bucket.to_owned()).or_default().entry(at.key.to_owned()).or_default();
        if !versioning {
            versions.clear();
        }
        versions.push(Stored { info, bytes, tags });
        written
    }

    fn find(
        &self,
        state: &State,
        operation: Operation,
        at: ObjectPath<'_>,
        pin: &Pin,
    ) -> Result<Stored, StoreError> {
        self.options.takes_key(operation, at.key)?;
        let fail = |kind| StoreError::new(operation, kind, "");
        let missing = |kind| fail(if operation == Operation::Head { Kind::NotFound } else { kind });
        let bucket = state.buckets.get(at.bucket).ok_or_else(|| missing(Kind::NoSuchBucket))?;
        let versions =
            bucket.get(at.key).filter(|v| !v.is_empty()).ok_or_else(|| missing(Kind::NoSuchKey))?;
        let found = match &pin.version {
            None => versions.last(),
            Some(_) if self.options.false_versions => versions.last(),
            Some(id) => versions.iter().find(|v| v.info.version.as_ref() == Some(id)),
        };
        let found = found.ok_or_else(|| missing(Kind::NoSuchVersion))?;
        let pinned = pin.etag.as_ref().filter(|_| self.options.pins);
        if pinned.is_some_and(|etag| *etag != found.info.etag) {
            return Err(fail(Kind::PreconditionFailed));
        }
        Ok(found.clone())
    }

    fn may_create(
        &self,
        state: &State,
        operation: Operation,
        at: ObjectPath<'_>,
        create_only: bool,
    ) -> Result<(), StoreError> {
        let bucket = state
            .buckets
            .get(at.bucket)
            .ok_or_else(|| StoreError::new(operation, Kind::NoSuchBucket, at.bucket))?;
        self.options.takes_key(operation, at.key)?;
        if create_only && self.options.create_only && bucket.contains_key(at.key) {
            return Err(StoreError::new(operation, Kind::PreconditionFailed, "the key exists"));
        }
        Ok(())
    }

    fn may_carry(
        &self,
        operation: Operation,
        attributes: &Attributes,
        tags: &[Tag],
    ) -> Result<(), StoreError> {
        let metadata: usize = attributes.metadata.iter().map(|(k, v)| k.len() + v.len()).sum();
        if metadata > 2048 {
            return Err(StoreError::new(operation, Kind::Rejected, "MetadataTooLarge"));
        }
        if !attributes.metadata.values().all(|v| v.bytes().all(|b| (b' '..0x7f).contains(&b))) {
            return Err(StoreError::new(operation, Kind::Rejected, "metadata outside ASCII"));
        }
        if !self.options.tagging && !tags.is_empty() {
            return Err(StoreError::new(operation, Kind::NotImplemented, "tagging"));
        }
        Ok(())
    }

    fn check(&self, operation: Operation, bytes: &[u8], proof: Proof) -> Result<(), StoreError> {
        let wrong_crc =
            self.options.crc64nvme && proof.crc64nvme.is_some_and(|c| c != crc_fast::crc64_nvme(bytes));
        let wrong_md5 = self.options.checks_md5 && proof.md5.is_some_and(|m| m[..] != Md5::digest(bytes)[..]);
        if wrong_crc || wrong_md5 {
            return Err(StoreError::new(operation, Kind::BadDigest, ""));
        }
        Ok(())
    }

    fn part(&self, bytes: &Bytes, number: u32) -> PartWritten {
        PartWritten {
            number,
            etag: hex::encode(Md5::digest(bytes)),
            crc64nvme: self.options.crc64nvme.then(|| crc_fast::crc64_nvme(bytes)),
        }
    }
}

fn upload_of<'a>(
    state: &'a mut State,
    operation: Operation,
    upload: UploadRef<'_>,
) -> Result<&'a mut Upload, StoreError> {
    state
        .uploads
        .get_mut(upload.id)
        .filter(|u| u.bucket == upload.at.bucket && u.key == upload.at.key)
        .ok_or_else(|| StoreError::new(operation, Kind::NoSuchUpload, upload.id))
}

/// The same bytes with the lowest bit of one of them turned over.
pub(super) fn flipped(bytes: &Bytes, at: usize) -> Bytes {
    let mut changed = bytes.to_vec();
    if let Some(byte) = changed.get_mut(at) {
        *byte ^= 1;
    }
    changed.into()
}

#[async_trait]
impl ObjectStore for MemoryStore {
    async fn head(&self, at: ObjectPath<'_>, pin: &Pin) -> Result<ObjectInfo, StoreError> {
        Ok(self.find(&self.state(), Operation::Head, at, pin)?.info)
    }

    async fn get(
        &self,
        at: ObjectPath<'_>,
        pin: &Pin,
        range: Option<ByteRange>,
    ) -> Result<GetResponse, StoreError> {
        let found = self.find(&self.state(), Operation::Get, at, pin)?;
        let total = found.bytes.len() as u64;
        let (bytes, sent) = match range {
            None => (found.bytes, None),
            Some(range) if range.start < total => {
                let end = range.end().min(total);
                let (from, to) = (as_index(range.start), as_index(end));
                let sent = ContentRange { start: range.start, end: end - 1, total };
                (found.bytes.slice(from..to), Some(sent))
            }
            Some(_) => return Err(StoreError::new(Operation::Get, Kind::InvalidRange, "")),
        };
        let size = self.options.piece_bytes.max(1);
        let pieces: Vec<_> =
            (0..bytes.len()).step_by(size).map(|i| Ok(bytes.slice(i..bytes.len().min(i + size)))).collect();
        Ok(GetResponse {
            info: found.info,
            range: sent,
            length: Some(bytes.len() as u64),
            body: Box::pin(stream::iter(pieces)),
        })
    }

    async fn get_tags(&self, at: ObjectPath<'_>, version: Option<&str>) -> Result<Vec<Tag>, StoreError> {
        if !self.options.tagging {
            return Err(StoreError::new(Operation::GetTags, Kind::NotImplemented, ""));
        }
        let pin = Pin { version: version.map(str::to_owned), etag: None };
        Ok(self.find(&self.state(), Operation::GetTags, at, &pin)?.tags)
    }

    async fn has_grants(&self, at: ObjectPath<'_>, version: Option<&str>) -> Result<bool, StoreError> {
        let pin = Pin { version: version.map(str::to_owned), etag: None };
        let state = self.state();
        self.find(&state, Operation::GetAcl, at, &pin)?;
        Ok(state.granted.contains(at.key))
    }

    async fn put(&self, at: ObjectPath<'_>, put: Put<'_>) -> Result<Written, StoreError> {
        let bytes = put.body.to_bytes();
        let mut state = self.state();
        self.may_create(&state, Operation::Put, at, put.create_only)?;
        self.may_carry(Operation::Put, put.attributes, put.tags)?;
        self.check(Operation::Put, &bytes, put.proof)?;
        let crc = self.options.crc64nvme && put.proof.crc64nvme.is_some();
        Ok(self.store(&mut state, at, bytes, put.attributes.clone(), put.tags.to_vec(), put.terms, crc, None))
    }

    async fn copy(
        &self,
        from: ObjectPath<'_>,
        pin: &Pin,
        to: ObjectPath<'_>,
        write: &WriteOptions<'_>,
    ) -> Result<Written, StoreError> {
        if !self.options.copying {
            return Err(StoreError::new(Operation::Copy, Kind::NotImplemented, ""));
        }
        let mut state = self.state();
        let found = self.find(&state, Operation::Copy, from, pin)?;
        self.may_create(&state, Operation::Copy, to, write.create_only)?;
        self.may_carry(Operation::Copy, write.attributes, &[])?;
        let crc = self.options.crc64nvme && (write.crc64nvme || found.info.crc64nvme.is_some());
        Ok(self.store(
            &mut state,
            to,
            found.bytes,
            write.attributes.clone(),
            found.tags,
            // Such a store takes the source's lock along and does not look at what is asked for.
            if self.options.locks_copies {
                write.terms
            } else {
                Terms { retention: found.info.retained, ..write.terms }
            },
            crc,
            None,
        ))
    }

    async fn create_upload(
        &self,
        at: ObjectPath<'_>,
        write: &WriteOptions<'_>,
    ) -> Result<String, StoreError> {
        let mut state = self.state();
        self.may_create(&state, Operation::CreateUpload, at, false)?;
        self.may_carry(Operation::CreateUpload, write.attributes, write.tags)?;
        state.clock += 1;
        let id = format!("upload-{}", state.clock);
        let upload = Upload {
            bucket: at.bucket.to_owned(),
            key: at.key.to_owned(),
            attributes: write.attributes.clone(),
            tags: write.tags.to_vec(),
            crc64nvme: self.options.crc64nvme && write.crc64nvme,
            storage_class: write.terms.storage_class.map(str::to_owned),
            retained: write.terms.retention,
            initiated: state.clock,
            parts: BTreeMap::new(),
        };
        state.uploads.insert(id.clone(), upload);
        Ok(id)
    }

    async fn upload_part(
        &self,
        upload: UploadRef<'_>,
        number: u32,
        body: &Payload,
        proof: Proof,
    ) -> Result<PartWritten, StoreError> {
        let bytes = body.to_bytes();
        self.check(Operation::UploadPart, &bytes, proof)?;
        let part = self.part(&bytes, number);
        let mut state = self.state();
        let clock = state.clock;
        let held = upload_of(&mut state, Operation::UploadPart, upload)?;
        held.parts.insert(number, (bytes, part.clone(), clock));
        Ok(part)
    }

    async fn copy_part(
        &self,
        upload: UploadRef<'_>,
        number: u32,
        from: ObjectPath<'_>,
        pin: &Pin,
        range: ByteRange,
    ) -> Result<PartWritten, StoreError> {
        if !self.options.copying {
            return Err(StoreError::new(Operation::CopyPart, Kind::NotImplemented, ""));
        }
        let mut state = self.state();
        let found = self.find(&state, Operation::CopyPart, from, pin)?;
        if range.end() > found.info.size_bytes {
            return Err(StoreError::new(Operation::CopyPart, Kind::InvalidRange, ""));
        }
        let bytes = found.bytes.slice(as_index(range.start)..as_index(range.end()));
        let part = self.part(&bytes, number);
        let clock = state.clock;
        let held = upload_of(&mut state, Operation::CopyPart, upload)?;
        held.parts.insert(number, (bytes, part.clone(), clock));
        Ok(part)
    }

    async fn list_uploads(&self, at: ObjectPath<'_>) -> Result<Vec<String>, StoreError> {
        let state = self.state();
        let open = state.uploads.iter().filter(|(_, u)| u.bucket == at.bucket && u.key == at.key);
        Ok(open.map(|(id, _)| id.clone()).collect())
    }

    async fn list_uploads_under(
        &self,
        bucket: &str,
        prefix: &str,
        after: Option<&UploadListed>,
    ) -> Result<UploadsPage, StoreError> {
        let state = self.state();
        let open = state.uploads.iter().filter(|(_, u)| u.bucket == bucket && u.key.starts_with(prefix));
        let mut all: Vec<UploadListed> = open
            .map(|(id, u)| UploadListed { key: u.key.clone(), id: id.clone(), initiated: Some(u.initiated) })
            .filter(|u| after.is_none_or(|a| (&u.key, &u.id) > (&a.key, &a.id)))
            .collect();
        all.sort_by(|a, b| (&a.key, &a.id).cmp(&(&b.key, &b.id)));
        let more = all.len() > self.options.page;
        all.truncate(self.options.page);
        Ok(UploadsPage { uploads: all, more })
    }

    async fn list_objects(
        &self,
        bucket: &str,
        prefix: &str,
        after: Option<&str>,
        most: u32,
    ) -> Result<ObjectsPage, StoreError> {
        self.objects_page(bucket, prefix, after, most)
    }

    async fn list_versions(
        &self,
        bucket: &str,
        prefix: &str,
        after: Option<&VersionMarker>,
        most: u32,
    ) -> Result<VersionsPage, StoreError> {
        self.versions_page(bucket, prefix, after, most)
    }

    async fn list_parts(&self, upload: UploadRef<'_>, after: u32) -> Result<PartsPage, StoreError> {
        let mut state = self.state();
        let upload = upload_of(&mut state, Operation::ListParts, upload)?;
        let mut listed = upload.parts.range(after.saturating_add(1)..).map(|(_, (bytes, part, at))| {
            PartListed { part: part.clone(), size_bytes: bytes.len() as u64, modified: Some(*at) }
        });
        let parts = listed.by_ref().take(1_000).collect();
        Ok(PartsPage { parts, more: listed.next().is_some() })
    }

    async fn complete_upload(
        &self,
        upload: UploadRef<'_>,
        parts: &[PartWritten],
        completion: Completion,
    ) -> Result<Written, StoreError> {
        let fail = |kind, what: &str| StoreError::new(Operation::CompleteUpload, kind, what);
        let mut state = self.state();
        upload_of(&mut state, Operation::CompleteUpload, upload)?;
        self.may_create(&state, Operation::CompleteUpload, upload.at, completion.create_only)?;
        let held = upload_of(&mut state, Operation::CompleteUpload, upload)?;
        let mut whole = Vec::new();
        for (i, part) in parts.iter().enumerate() {
            let (bytes, stored, _) =
                held.parts.get(&part.number).ok_or_else(|| fail(Kind::InvalidPart, "no such part"))?;
            if stored.etag != part.etag || (i > 0 && parts[i - 1].number >= part.number) {
                return Err(fail(Kind::InvalidPart, "another part"));
            }
            if i + 1 < parts.len() && (bytes.len() as u64) < self.options.min_part_bytes {
                return Err(fail(Kind::Rejected, "EntityTooSmall"));
            }
            whole.extend_from_slice(bytes);
        }
        if parts.is_empty() || whole.len() as u64 != completion.size_bytes {
            return Err(fail(Kind::Rejected, "not the size announced"));
        }
        let proof = Proof { crc64nvme: completion.crc64nvme, md5: None };
        self.check(Operation::CompleteUpload, &whole, proof)?;
        let etags: Vec<u8> = parts.iter().flat_map(|p| hex::decode(&p.etag).unwrap_or_default()).collect();
        let etag = format!("{}-{}", hex::encode(Md5::digest(&etags)), parts.len());
        let Some(held) = state.uploads.remove(upload.id) else {
            return Err(fail(Kind::NoSuchUpload, upload.id));
        };
        let crc = held.crc64nvme;
        let class = held.storage_class;
        let terms = Terms { storage_class: class.as_deref(), retention: held.retained };
        let bytes = whole.into();
        Ok(self.store(&mut state, upload.at, bytes, held.attributes, held.tags, terms, crc, Some(etag)))
    }

    async fn abort_upload(&self, upload: UploadRef<'_>) -> Result<(), StoreError> {
        self.state().uploads.remove(upload.id);
        Ok(())
    }
}

fn as_index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}
