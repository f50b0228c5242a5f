//! The store in memory as each worker reaches it: slow, and now and then failing or losing an answer.

use std::{future::Future, sync::Arc};

use async_trait::async_trait;
use backhaul_worker::store::{
    ByteRange, Completion, GetResponse, ObjectInfo, ObjectPath, ObjectStore, ObjectsPage, Operation,
    PartWritten, PartsPage, Payload, Pin, Proof, Put, StoreError, StoreErrorKind, Tag, UploadListed,
    UploadRef, UploadsPage, VersionMarker, VersionsPage, WriteOptions, Written, memory::MemoryStore,
};
use tokio::time::sleep;

use crate::weather::{Fate, Weather};

/// A way to a store.
#[derive(Debug)]
pub(crate) struct StoreLine {
    store: Arc<MemoryStore>,
    weather: Weather,
    /// Says that it never overwrites, and does.
    overwrites: bool,
}

impl StoreLine {
    pub(crate) const fn new(store: Arc<MemoryStore>, weather: Weather, overwrites: bool) -> Self {
        Self { store, weather, overwrites }
    }

    /// Whether a write that must not overwrite gets what it asks for. What the store was tried with shows a good one.
    fn keeps_what_is_there(&self, at: ObjectPath<'_>) -> bool {
        !self.overwrites || at.key.contains("/probe/")
    }

    /// Makes a request in today's weather.
    async fn request<T, F>(&self, operation: Operation, execute: F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>> + Send,
        T: Send,
    {
        let course = self.weather.store_call();
        sleep(course.before).await;
        if course.fate == Fate::NotExecuted {
            return Err(StoreError::new(operation, StoreErrorKind::Server, "fault"));
        }
        let answer = execute.await;
        sleep(course.after).await;
        match course.fate {
            Fate::AnswerLost | Fate::Repeated => {
                drop(answer);
                Err(StoreError::new(operation, StoreErrorKind::Timeout, "answer lost"))
            }
            Fate::Fine | Fate::NotExecuted => answer,
        }
    }
}

#[async_trait]
impl ObjectStore for StoreLine {
    async fn head(&self, at: ObjectPath<'_>, pin: &Pin) -> Result<ObjectInfo, StoreError> {
        self.request(Operation::Head, self.store.head(at, pin)).await
    }

    async fn get(
        &self,
        at: ObjectPath<'_>,
        pin: &Pin,
        range: Option<ByteRange>,
    ) -> Result<GetResponse, StoreError> {
        self.request(Operation::Get, self.store.get(at, pin, range)).await
    }

    async fn get_tags(&self, at: ObjectPath<'_>, version: Option<&str>) -> Result<Vec<Tag>, StoreError> {
        self.request(Operation::GetTags, self.store.get_tags(at, version)).await
    }

    async fn has_grants(&self, at: ObjectPath<'_>, version: Option<&str>) -> Result<bool, StoreError> {
        self.request(Operation::GetAcl, self.store.has_grants(at, version)).await
    }

    async fn put(&self, at: ObjectPath<'_>, put: Put<'_>) -> Result<Written, StoreError> {
        let put = Put { create_only: put.create_only && self.keeps_what_is_there(at), ..put };
        self.request(Operation::Put, self.store.put(at, put)).await
    }

    async fn copy(
        &self,
        from: ObjectPath<'_>,
        pin: &Pin,
        to: ObjectPath<'_>,
        write: &WriteOptions<'_>,
    ) -> Result<Written, StoreError> {
        self.request(Operation::Copy, self.store.copy(from, pin, to, write)).await
    }

    async fn create_upload(
        &self,
        at: ObjectPath<'_>,
        write: &WriteOptions<'_>,
    ) -> Result<String, StoreError> {
        self.request(Operation::CreateUpload, self.store.create_upload(at, write)).await
    }

    async fn upload_part(
        &self,
        upload: UploadRef<'_>,
        number: u32,
        body: &Payload,
        proof: Proof,
    ) -> Result<PartWritten, StoreError> {
        self.request(Operation::UploadPart, self.store.upload_part(upload, number, body, proof)).await
    }

    async fn copy_part(
        &self,
        upload: UploadRef<'_>,
        number: u32,
        from: ObjectPath<'_>,
        pin: &Pin,
        range: ByteRange,
    ) -> Result<PartWritten, StoreError> {
        self.request(Operation::CopyPart, self.store.copy_part(upload, number, from, pin, range)).await
    }

    async fn list_uploads(&self, at: ObjectPath<'_>) -> Result<Vec<String>, StoreError> {
        self.request(Operation::ListUploads, self.store.list_uploads(at)).await
    }

    async fn list_uploads_under(
        &self,
        bucket: &str,
        prefix: &str,
        after: Option<&UploadListed>,
    ) -> Result<UploadsPage, StoreError> {
        self.request(Operation::ListUploads, self.store.list_uploads_under(bucket, prefix, after)).await
    }

    async fn list_objects(
        &self,
        bucket: &str,
        prefix: &str,
        after: Option<&str>,
        most: u32,
    ) -> Result<ObjectsPage, StoreError> {
        self.request(Operation::ListObjects, self.store.list_objects(bucket, prefix, after, most)).await
    }

    async fn list_versions(
        &self,
        bucket: &str,
        prefix: &str,
        after: Option<&VersionMarker>,
        most: u32,
    ) -> Result<VersionsPage, StoreError> {
        self.request(Operation::ListVersions, self.store.list_versions(bucket, prefix, after, most)).await
    }

    async fn list_parts(&self, upload: UploadRef<'_>, after: u32) -> Result<PartsPage, StoreError> {
        self.request(Operation::ListParts, self.store.list_parts(upload, after)).await
    }

    async fn complete_upload(
        &self,
        upload: UploadRef<'_>,
        parts: &[PartWritten],
        completion: Completion,
    ) -> Result<Written, StoreError> {
        let create_only = completion.create_only && self.keeps_what_is_there(upload.at);
        let completion = Completion { create_only, ..completion };
        self.request(Operation::CompleteUpload, self.store.complete_upload(upload, parts, completion)).await
    }

    async fn abort_upload(&self, upload: UploadRef<'_>) -> Result<(), StoreError> {
        self.request(Operation::AbortUpload, self.store.abort_upload(upload)).await
    }
}
