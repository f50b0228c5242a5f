//! Copies inside one store of objects that no store copies in one request, up to the largest that there are. The store is made up and keeps no
//! bytes, only what it was asked: it takes what S3 takes and nothing else.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use proptest::prelude::*;

use super::*;
use crate::store::{
    ByteRange, Completion, GetResponse, ObjectInfo, ObjectPath, ObjectsPage, Operation, PartWritten,
    PartsPage, Payload, Pin, Proof, Put, StoreError, StoreErrorKind as Kind, Tag, UploadListed, UploadRef,
    UploadsPage, VersionMarker, VersionsPage, WriteOptions, Written,
};

const MIB: u64 = 1024 * 1024;
const GIB: u64 = 1024 * MIB;
const TIB: u64 = 1024 * GIB;
/// What S3 takes: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html>
const LEAST_PART: u64 = 5 * MIB;
const MOST_AT_ONCE: u64 = 5 * GIB;
const MOST_PARTS: usize = 10_000;
/// Of every object: nobody reads any.
const CRC: u64 = 0x5eed;

/// A store of objects whose keys are their sizes.
#[derive(Debug, Default)]
struct Vast {
    /// Objects that were made, with the number of their parts.
    made: Mutex<BTreeMap<String, (u64, usize)>>,
    parts: Mutex<BTreeMap<u32, ByteRange>>,
}

impl Vast {
    fn made(&self) -> BTreeMap<String, (u64, usize)> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn make(&self, at: ObjectPath<'_>, size: u64, parts: usize) -> Written {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).insert(at.key.to_owned(), (size, parts));
        Written { etag: format!("e{parts}"), version: None, crc64nvme: Some(CRC) }
    }
}

fn size_of(at: ObjectPath<'_>) -> u64 {
    at.key.parse().expect("keys are sizes")
}

fn no<T>(operation: Operation, kind: Kind) -> Result<T, StoreError> {
    Err(StoreError::new(operation, kind, "as S3 would say"))
}

#[async_trait]
impl ObjectStore for Vast {
    async fn head(&self, at: ObjectPath<'_>, _: &Pin) -> Result<ObjectInfo, StoreError> {
        let size = match at.bucket {
            "uploads" => size_of(at),
            _ => match self.made().get(at.key) {
                Some((size, _)) => *size,
                None => return no(Operation::Head, Kind::NotFound),
            },
        };
        let etag = format!("e{size}");
        Ok(ObjectInfo {
            size_bytes: size,
            etag,
            modified: Some((1, 0)),
            crc64nvme: Some(CRC),
            ..ObjectInfo::default()
        })
    }

    async fn put(&self, at: ObjectPath<'_>, put: Put<'_>) -> Result<Written, StoreError> {
        if self.made().contains_key(at.key) {
            return no(Operation::Put, Kind::PreconditionFailed);
        }
        Ok(self.make(at, put.body.len(), 0))
    }

    async fn copy(
        &self,
        from: ObjectPath<'_>,
        _: &Pin,
        to: ObjectPath<'_>,
        _: &WriteOptions<'_>,
    ) -> Result<Written, StoreError> {
        if self.made().contains_key(to.key) {
            return no(Operation::Copy, Kind::PreconditionFailed);
        }
        match size_of(from) {
            size if size > MOST_AT_ONCE => no(Operation::Copy, Kind::TooLarge),
            size => Ok(self.make(to, size, 0)),
        }
    }

    async fn create_upload(&self, at: ObjectPath<'_>, _: &WriteOptions<'_>) -> Result<String, StoreError> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).clear();
        Ok(at.key.to_owned())
    }

    async fn copy_part(
        &self,
        _: UploadRef<'_>,
        number: u32,
        from: ObjectPath<'_>,
        _: &Pin,
        range: ByteRange,
    ) -> Result<PartWritten, StoreError> {
        if range.length == 0 || range.end() > size_of(from) || range.length > MOST_AT_ONCE {
            return no(Operation::CopyPart, Kind::InvalidRange);
        }
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).insert(number, range);
        Ok(PartWritten { number, etag: format!("p{number}"), crc64nvme: None })
    }

    async fn complete_upload(
        &self,
        upload: UploadRef<'_>,
        parts: &[PartWritten],
        completion: Completion,
    ) -> Result<Written, StoreError> {
        let held = std::mem::take(&mut *self.parts.lock().unwrap_or_else(PoisonError::into_inner));
        let numbers: Vec<u32> = parts.iter().map(|part| part.number).collect();
        if parts.len() > MOST_PARTS
            || !held.keys().eq(&numbers)
            || !numbers.iter().copied().eq(1..=numbers[numbers.len() - 1])
        {
            return no(Operation::CompleteUpload, Kind::InvalidPart);
        }
        let mut end = 0;
        for (number, range) in &held {
            let is_last = Some(number) == numbers.last();
            if range.start != end || !is_last && range.length < LEAST_PART {
                return no(Operation::CompleteUpload, Kind::InvalidPart);
            }
            end = range.end();
        }
        if end != completion.size_bytes {
            return no(Operation::CompleteUpload, Kind::InvalidPart);
        }
        Ok(self.make(upload.at, end, parts.len()))
    }

    async fn abort_upload(&self, _: UploadRef<'_>) -> Result<(), StoreError> {
        Ok(())
    }

    async fn get_tags(&self, _: ObjectPath<'_>, _: Option<&str>) -> Result<Vec<Tag>, StoreError> {
        Ok(Vec::new())
    }

    async fn has_grants(&self, _: ObjectPath<'_>, _: Option<&str>) -> Result<bool, StoreError> {
        Ok(false)
    }

    async fn list_uploads(&self, _: ObjectPath<'_>) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }

    async fn get(&self, _: ObjectPath<'_>, _: &Pin, _: Option<ByteRange>) -> Result<GetResponse, StoreError> {
        no(Operation::Get, Kind::NotImplemented)
    }

    async fn upload_part(
        &self,
        _: UploadRef<'_>,
        _: u32,
        _: &Payload,
        _: Proof,
    ) -> Result<PartWritten, StoreError> {
        no(Operation::UploadPart, Kind::NotImplemented)
    }

    async fn list_uploads_under(
        &self,
        _: &str,
        _: &str,
        _: Option<&UploadListed>,
    ) -> Result<UploadsPage, StoreError> {
        no(Operation::ListUploads, Kind::NotImplemented)
    }

    async fn list_objects(
        &self,
        _: &str,
        _: &str,
        _: Option<&str>,
        _: u32,
    ) -> Result<ObjectsPage, StoreError> {
        no(Operation::ListObjects, Kind::NotImplemented)
    }

    async fn list_versions(
        &self,
        _: &str,
        _: &str,
        _: Option<&VersionMarker>,
        _: u32,
    ) -> Result<VersionsPage, StoreError> {
        no(Operation::ListVersions, Kind::NotImplemented)
    }

    async fn list_parts(&self, _: UploadRef<'_>, _: u32) -> Result<PartsPage, StoreError> {
        no(Operation::ListParts, Kind::NotImplemented)
    }
}

/// Copies an object of that size; the size and the number of parts of what came of it.
async fn copied(size: u64, at_once: u64) -> Result<(u64, usize), TransferError> {
    let store = Arc::new(Vast::default());
    let settings = EngineSettings { copy_part_bytes: at_once, ..EngineSettings::default() };
    let setup = Setup { same_store: true, ..Setup::default() };
    let engine = Engine::with_stores(&locations(setup), settings, |_| Some(Arc::clone(&store) as _));
    let key = size.to_string();
    let receipt = engine.expect("setup").copy(&request(&key), Arc::default(), Stop::default()).await?;
    assert!(receipt.server_side && receipt.size_bytes == size && receipt.crc64nvme == CRC);
    let made = store.made()[&receipt.backup_key];
    assert_eq!(made.1, usize::try_from(receipt.parts).expect("few"));
    Ok(made)
}

#[tokio::test(start_paused = true)]
async fn objects_beyond_one_request_are_copied_in_parts_that_a_store_takes() {
    for (size, at_once, parts) in [
        (5 * GIB, 5 * GIB, 0),
        (5 * GIB + 1, 5 * GIB, 2),
        (5 * GIB + 1, 128 * MIB, 41),
        (6 * GIB, 128 * MIB, 48),
        (1_250 * GIB, 128 * MIB, 10_000),
        (1_250 * GIB + 1, 128 * MIB, 9_923),
        (5 * TIB, 128 * MIB, 9_987),
        (10_000 * 5 * GIB, 128 * MIB, 10_000),
    ] {
        let made = copied(size, at_once).await.unwrap_or_else(|e| panic!("{size}: {e}"));
        assert_eq!(made, (size, parts), "{size} by {at_once}");
    }
    let error = copied(10_000 * 5 * GIB + 1, 128 * MIB).await.expect_err("larger than S3 takes");
    assert_eq!(error.kind.code(), "unsupported");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_object_is_copied_whole_whatever_the_parts(
        size in 5 * GIB..50 * TIB,
        at_once in LEAST_PART..=MOST_AT_ONCE,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let made = runtime.expect("runtime").block_on(copied(size, at_once));
        // 48.8 TiB are the most that 10,000 parts of 5 GiB hold.
        if size <= 10_000 * MOST_AT_ONCE {
            prop_assert_eq!(made.expect("copied").0, size);
        } else {
            prop_assert!(made.is_err());
        }
    }
}
