//! Objects of several GiB, and the memory that copying them takes: the process's own, as the system counts it.
//!
//! The stores are made up: one generates its objects, the other checks what it gets and forgets it. So the bytes are real, and neither a
//! disk nor a second copy in memory is needed. Alone in its program, because it measures the whole process.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use backhaul_runtime::locations::Locations;
use backhaul_worker::{
    store::{
        Attributes, ByteRange, Completion, ContentRange, GetResponse, ObjectInfo, ObjectPath, ObjectStore,
        ObjectsPage, Operation, PartWritten, PartsPage, Payload, Pin, Proof, Put, StoreError,
        StoreErrorKind as Kind, Tag, UploadListed, UploadRef, UploadsPage, VersionMarker, VersionsPage,
        WriteOptions, Written,
    },
    transfer::{Copier, CopyRequest, Engine, EngineSettings, Stop},
};
use bytes::Bytes;
use futures_util::{future::join_all, stream};

const MIB: u64 = 1024 * 1024;
const MEMORY: u64 = 64 * MIB;
/// What the process may take besides the parts: buffers of the engine, its stacks, and what the allocator does not give back.
const SLACK: u64 = 96 * MIB;
const PIECE: u64 = 128 * 1024;

/// Objects whose key is their size.
#[derive(Debug)]
struct Generator {
    noise: Vec<u8>,
}

/// Keeps checksums of what it gets.
#[derive(Debug, Default)]
struct Sink {
    state: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    uploads: BTreeMap<String, Vec<Option<Piece>>>,
    objects: BTreeMap<String, (Piece, Attributes)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    crc: u64,
    length: u64,
}

impl Generator {
    /// Different at every offset that matters: pieces that change places change the checksum.
    fn piece(&self, at: u64, length: u64) -> Bytes {
        let from = usize::try_from(at / 4096 % PIECE).expect("small");
        let length = usize::try_from(length).expect("small");
        Bytes::copy_from_slice(&self.noise[from..from + length])
    }

    fn info(at: ObjectPath<'_>) -> ObjectInfo {
        ObjectInfo {
            size_bytes: at.key.parse().expect("keys are sizes"),
            etag: format!("etag-{}", at.key),
            modified: Some((1_764_000_000, 0)),
            ..ObjectInfo::default()
        }
    }
}

impl Piece {
    fn of(payload: &Payload) -> Self {
        let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
        payload.pieces().for_each(|p| digest.update(p));
        Self { crc: digest.finalize(), length: payload.len() }
    }

    fn and(self, next: Self) -> Self {
        let crc =
            crc_fast::checksum_combine(crc_fast::CrcAlgorithm::Crc64Nvme, self.crc, next.crc, next.length);
        Self { crc, length: self.length + next.length }
    }
}

fn unable<T>(operation: Operation) -> Result<T, StoreError> {
    Err(StoreError::new(operation, Kind::NotImplemented, "not in this test"))
}

#[async_trait]
impl ObjectStore for Generator {
    async fn head(&self, at: ObjectPath<'_>, _: &Pin) -> Result<ObjectInfo, StoreError> {
        Ok(Self::info(at))
    }

    async fn get(
        &self,
        at: ObjectPath<'_>,
        _: &Pin,
        range: Option<ByteRange>,
    ) -> Result<GetResponse, StoreError> {
        let info = Self::info(at);
        let total = info.size_bytes;
        let asked = range.unwrap_or(ByteRange { start: 0, length: total });
        let noise = Self { noise: self.noise.clone() };
        let body = stream::unfold(asked.start, move |at| {
            let length = PIECE.min(asked.end() - at);
            let piece = (length > 0).then(|| (Ok(noise.piece(at, length)), at + length));
            async move { piece }
        });
        let sent = range.map(|r| ContentRange { start: r.start, end: r.end() - 1, total });
        Ok(GetResponse { info, range: sent, length: Some(asked.length), body: Box::pin(body) })
    }

    async fn get_tags(&self, _: ObjectPath<'_>, _: Option<&str>) -> Result<Vec<Tag>, StoreError> {
        Ok(Vec::new())
    }

    async fn has_grants(&self, _: ObjectPath<'_>, _: Option<&str>) -> Result<bool, StoreError> {
        Ok(false)
    }

    async fn put(&self, _: ObjectPath<'_>, _: Put<'_>) -> Result<Written, StoreError> {
        unable(Operation::Put)
    }

    async fn copy(
        &self,
        _: ObjectPath<'_>,
        _: &Pin,
        _: ObjectPath<'_>,
        _: &WriteOptions<'_>,
    ) -> Result<Written, StoreError> {
        unable(Operation::Copy)
    }

    async fn create_upload(&self, _: ObjectPath<'_>, _: &WriteOptions<'_>) -> Result<String, StoreError> {
        unable(Operation::CreateUpload)
    }

    async fn upload_part(
        &self,
        _: UploadRef<'_>,
        _: u32,
        _: &Payload,
        _: Proof,
    ) -> Result<PartWritten, StoreError> {
        unable(Operation::UploadPart)
    }

    async fn copy_part(
        &self,
        _: UploadRef<'_>,
        _: u32,
        _: ObjectPath<'_>,
        _: &Pin,
        _: ByteRange,
    ) -> Result<PartWritten, StoreError> {
        unable(Operation::CopyPart)
    }

    async fn list_uploads(&self, _: ObjectPath<'_>) -> Result<Vec<String>, StoreError> {
        unable(Operation::ListUploads)
    }

    async fn list_uploads_under(
        &self,
        _: &str,
        _: &str,
        _: Option<&UploadListed>,
    ) -> Result<UploadsPage, StoreError> {
        unable(Operation::ListUploads)
    }

    async fn list_objects(
        &self,
        _: &str,
        _: &str,
        _: Option<&str>,
        _: u32,
    ) -> Result<ObjectsPage, StoreError> {
        unable(Operation::ListObjects)
    }

    async fn list_versions(
        &self,
        _: &str,
        _: &str,
        _: Option<&VersionMarker>,
        _: u32,
    ) -> Result<VersionsPage, StoreError> {
        unable(Operation::ListVersions)
    }

    async fn list_parts(&self, _: UploadRef<'_>, _: u32) -> Result<PartsPage, StoreError> {
        unable(Operation::ListParts)
    }

    async fn complete_upload(
        &self,
        _: UploadRef<'_>,
        _: &[PartWritten],
        _: Completion,
    ) -> Result<Written, StoreError> {
        unable(Operation::CompleteUpload)
    }

    async fn abort_upload(&self, _: UploadRef<'_>) -> Result<(), StoreError> {
        unable(Operation::AbortUpload)
    }
}

impl Sink {
    fn with<T>(&self, change: impl FnOnce(&mut Kept) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn keep(
        &self,
        operation: Operation,
        at: ObjectPath<'_>,
        piece: Piece,
        promised: Option<u64>,
        attributes: &Attributes,
    ) -> Result<Written, StoreError> {
        if promised.is_some_and(|crc| crc != piece.crc) {
            return Err(StoreError::new(operation, Kind::BadDigest, ""));
        }
        self.with(|kept| {
            if kept.objects.contains_key(at.key) {
                return Err(StoreError::new(operation, Kind::PreconditionFailed, ""));
            }
            kept.objects.insert(at.key.to_owned(), (piece, attributes.clone()));
            Ok(Written { etag: format!("e{}", piece.crc), version: None, crc64nvme: Some(piece.crc) })
        })
    }
}

#[async_trait]
impl ObjectStore for Sink {
    async fn head(&self, at: ObjectPath<'_>, _: &Pin) -> Result<ObjectInfo, StoreError> {
        let found = self.with(|kept| kept.objects.get(at.key).cloned());
        let (piece, attributes) =
            found.ok_or_else(|| StoreError::new(Operation::Head, Kind::NotFound, ""))?;
        let (size_bytes, etag) = (piece.length, format!("e{}", piece.crc));
        Ok(ObjectInfo { size_bytes, etag, crc64nvme: Some(piece.crc), attributes, ..ObjectInfo::default() })
    }

    async fn get(&self, _: ObjectPath<'_>, _: &Pin, _: Option<ByteRange>) -> Result<GetResponse, StoreError> {
        unable(Operation::Get)
    }

    async fn get_tags(&self, _: ObjectPath<'_>, _: Option<&str>) -> Result<Vec<Tag>, StoreError> {
        unable(Operation::GetTags)
    }

    async fn has_grants(&self, _: ObjectPath<'_>, _: Option<&str>) -> Result<bool, StoreError> {
        unable(Operation::GetAcl)
    }

    async fn put(&self, at: ObjectPath<'_>, put: Put<'_>) -> Result<Written, StoreError> {
        if !put.tags.is_empty() {
            return unable(Operation::Put);
        }
        self.keep(Operation::Put, at, Piece::of(put.body), put.proof.crc64nvme, put.attributes)
    }

    async fn copy(
        &self,
        _: ObjectPath<'_>,
        _: &Pin,
        _: ObjectPath<'_>,
        _: &WriteOptions<'_>,
    ) -> Result<Written, StoreError> {
        unable(Operation::Copy)
    }

    async fn create_upload(&self, at: ObjectPath<'_>, _: &WriteOptions<'_>) -> Result<String, StoreError> {
        self.with(|kept| kept.uploads.insert(at.key.to_owned(), Vec::new()));
        Ok(at.key.to_owned())
    }

    async fn upload_part(
        &self,
        upload: UploadRef<'_>,
        number: u32,
        body: &Payload,
        proof: Proof,
    ) -> Result<PartWritten, StoreError> {
        let piece = Piece::of(body);
        assert_eq!(proof.crc64nvme, Some(piece.crc), "the engine's checksum of a part");
        // A moment in which parts gather, as they do on a network.
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        let index = usize::try_from(number).expect("small") - 1;
        self.with(|kept| {
            let parts = kept.uploads.get_mut(upload.id).expect("an upload");
            parts.resize(parts.len().max(index + 1), None);
            parts[index] = Some(piece);
        });
        Ok(PartWritten { number, etag: format!("p{number}"), crc64nvme: Some(piece.crc) })
    }

    async fn copy_part(
        &self,
        _: UploadRef<'_>,
        _: u32,
        _: ObjectPath<'_>,
        _: &Pin,
        _: ByteRange,
    ) -> Result<PartWritten, StoreError> {
        unable(Operation::CopyPart)
    }

    async fn list_uploads(&self, _: ObjectPath<'_>) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }

    async fn list_uploads_under(
        &self,
        _: &str,
        _: &str,
        _: Option<&UploadListed>,
    ) -> Result<UploadsPage, StoreError> {
        Ok(UploadsPage::default())
    }

    async fn list_objects(
        &self,
        _: &str,
        _: &str,
        _: Option<&str>,
        _: u32,
    ) -> Result<ObjectsPage, StoreError> {
        unable(Operation::ListObjects)
    }

    async fn list_versions(
        &self,
        _: &str,
        _: &str,
        _: Option<&VersionMarker>,
        _: u32,
    ) -> Result<VersionsPage, StoreError> {
        unable(Operation::ListVersions)
    }

    async fn list_parts(&self, _: UploadRef<'_>, _: u32) -> Result<PartsPage, StoreError> {
        unable(Operation::ListParts)
    }

    async fn complete_upload(
        &self,
        upload: UploadRef<'_>,
        parts: &[PartWritten],
        completion: Completion,
    ) -> Result<Written, StoreError> {
        let held = self.with(|kept| kept.uploads.remove(upload.id)).expect("an upload");
        assert_eq!(held.len(), parts.len());
        let whole =
            held.into_iter().map(|p| p.expect("no part is missing")).reduce(Piece::and).expect("parts");
        assert_eq!(whole.length, completion.size_bytes);
        self.keep(Operation::CompleteUpload, upload.at, whole, completion.crc64nvme, &Attributes::default())
    }

    async fn abort_upload(&self, upload: UploadRef<'_>) -> Result<(), StoreError> {
        self.with(|kept| kept.uploads.remove(upload.id));
        Ok(())
    }
}

fn request(size: u64) -> CopyRequest {
    CopyRequest {
        task_id: "task".into(),
        tenant: "tenant".into(),
        location: "photos".into(),
        bucket: "uploads".into(),
        key: size.to_string(),
        version: None,
        verify: None,
        resume_upload_id: String::new(),
        retention_class: None,
    }
}

/// A figure of `/proc/self/status`, in bytes.
fn memory(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')).expect("a figure");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_gib_and_many_small_objects_are_copied_in_bounded_memory() {
    let text = r#"
        [location.photos]
        endpoint = "http://origin"
        [[location.photos.read]]
        bucket = "uploads"
        tenants = ["*"]
        [location.photos.backup]
        location = "vault"
        bucket = "backups"
        [location.vault]
        endpoint = "http://vault"
    "#;
    let locations = Locations::parse(text, Path::new("test.toml")).expect("good");
    let settings = EngineSettings { memory_bytes: MEMORY, part_bytes: 8 * MIB, ..EngineSettings::default() };
    let noise = (0..2 * PIECE).map(|_| fastrand::u8(..)).collect();
    let (generator, sink) = (Arc::new(Generator { noise }), Arc::new(Sink::default()));
    let engine = Engine::with_stores(&locations, settings, |location| {
        Some(if location.name == "photos" {
            Arc::clone(&generator) as Arc<dyn ObjectStore>
        } else {
            Arc::clone(&sink) as _
        })
    });
    let engine = engine.expect("settings");
    engine.probe().await;
    let before = memory("VmRSS");
    let large = [3 * 1024 * MIB + 1, 512 * MIB, 200 * MIB - 1];
    let small = (0..300).map(|n| 5 * MIB + n);
    let sizes: Vec<u64> = large.into_iter().chain(small).collect();
    let copies = join_all(sizes.iter().map(|size| {
        let engine = &engine;
        async move { engine.copy(&request(*size), Arc::default(), Stop::default()).await }
    }));
    for (size, copied) in sizes.iter().zip(copies.await) {
        let receipt = copied.unwrap_or_else(|e| panic!("{size}: {e}"));
        assert_eq!(receipt.size_bytes, *size);
        let kept = sink.with(|kept| kept.objects[&receipt.backup_key].0);
        assert_eq!((kept.length, kept.crc), (*size, receipt.crc64nvme));
    }
    let (most, allowed) = engine.memory_high_water();
    assert!(most <= allowed && allowed <= MEMORY, "{most} of {allowed}");
    let taken = memory("VmHWM").saturating_sub(before);
    println!("{} MiB of objects moved in {} MiB of memory", sizes.iter().sum::<u64>() / MIB, taken / MIB);
    assert!(taken <= MEMORY + SLACK, "{taken} bytes taken for a budget of {MEMORY}");
}
