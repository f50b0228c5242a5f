//! A store with a meter around it: times every request and every body, counts bytes and refusals, and names each request in the trace of
//! its copy. Changes nothing.

use std::{
    future::Future,
    pin::Pin as PinBox,
    sync::Arc,
    task::{Context, Poll},
};

use async_trait::async_trait;
use backhaul_runtime::metrics::Label as _;
use bytes::Bytes;
use futures_util::Stream;
use tokio::time::Instant;
use tracing::{Instrument as _, Span, debug_span};

use super::{
    Metrics, Site,
    labels::{Fault, Verb},
};
use crate::store::{
    BodyStream, ByteRange, Completion, GetResponse, ObjectInfo, ObjectPath, ObjectStore, ObjectsPage,
    Operation, PartWritten, PartsPage, Payload, Pin, Proof, Put, StoreError, Tag, UploadListed, UploadRef,
    UploadsPage, VersionMarker, VersionsPage, WriteOptions, Written,
};

/// A store whose requests are counted.
#[derive(Debug)]
pub struct MeteredStore {
    store: Arc<dyn ObjectStore>,
    location: String,
    site: Arc<Site>,
}

/// A body on its way.
struct MeteredBody {
    body: BodyStream,
    site: Arc<Site>,
    started: Instant,
    /// The request lasts until its body has been read or given up.
    _span: Span,
}

impl MeteredStore {
    /// Counts what `store`, the store of `location`, is asked.
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>, location: &str, metrics: &Metrics) -> Self {
        Self { store, location: location.to_owned(), site: Arc::clone(metrics.site(location)) }
    }

    fn span(&self, operation: Operation) -> Span {
        let operation = Verb::from(operation).as_str();
        debug_span!("request", location = self.location, operation, otel.kind = "client")
    }

    async fn asked<T>(
        &self,
        operation: Operation,
        request: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.asked_in(self.span(operation), operation, request).await
    }

    async fn asked_in<T>(
        &self,
        span: Span,
        operation: Operation,
        request: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let started = Instant::now();
        let answer = request.instrument(span).await;
        self.site.request_time.of(operation.into()).observe(started.elapsed());
        if let Err(error) = &answer {
            self.site.request_errors.of(Fault::from(error.kind)).inc();
        }
        answer
    }

    /// Counts bytes that the store has taken.
    fn took<T>(&self, answer: Result<T, StoreError>, bytes: u64) -> Result<T, StoreError> {
        if answer.is_ok() {
            self.site.written_bytes.add(bytes);
        }
        answer
    }
}

#[async_trait]
impl ObjectStore for MeteredStore {
    async fn head(&self, at: ObjectPath<'_>, pin: &Pin) -> Result<ObjectInfo, StoreError> {
        self.asked(Operation::Head, self.store.head(at, pin)).await
    }

    async fn get(
        &self,
        at: ObjectPath<'_>,
        pin: &Pin,
        range: Option<ByteRange>,
    ) -> Result<GetResponse, StoreError> {
        let (span, started) = (self.span(Operation::Get), Instant::now());
        let request = self.store.get(at, pin, range);
        let mut response = self.asked_in(span.clone(), Operation::Get, request).await?;
        let body = MeteredBody { body: response.body, site: Arc::clone(&self.site), started, _span: span };
        response.body = Box::pin(body);
        Ok(response)
    }

    async fn get_tags(&self, at: ObjectPath<'_>, version: Option<&str>) -> Result<Vec<Tag>, StoreError> {
        self.asked(Operation::GetTags, self.store.get_tags(at, version)).await
    }

    async fn has_grants(&self, at: ObjectPath<'_>, version: Option<&str>) -> Result<bool, StoreError> {
        self.asked(Operation::GetAcl, self.store.has_grants(at, version)).await
    }

    async fn put(&self, at: ObjectPath<'_>, put: Put<'_>) -> Result<Written, StoreError> {
        let answer = self.asked(Operation::Put, self.store.put(at, put)).await;
        self.took(answer, put.body.len())
    }

    async fn copy(
        &self,
        from: ObjectPath<'_>,
        pin: &Pin,
        to: ObjectPath<'_>,
        write: &WriteOptions<'_>,
    ) -> Result<Written, StoreError> {
        self.asked(Operation::Copy, self.store.copy(from, pin, to, write)).await
    }

    async fn create_upload(
        &self,
        at: ObjectPath<'_>,
        write: &WriteOptions<'_>,
    ) -> Result<String, StoreError> {
        self.asked(Operation::CreateUpload, self.store.create_upload(at, write)).await
    }

    async fn upload_part(
        &self,
        upload: UploadRef<'_>,
        number: u32,
        body: &Payload,
        proof: Proof,
    ) -> Result<PartWritten, StoreError> {
        let request = self.store.upload_part(upload, number, body, proof);
        let answer = self.asked(Operation::UploadPart, request).await;
        self.took(answer, body.len())
    }

    async fn copy_part(
        &self,
        upload: UploadRef<'_>,
        number: u32,
        from: ObjectPath<'_>,
        pin: &Pin,
        range: ByteRange,
    ) -> Result<PartWritten, StoreError> {
        self.asked(Operation::CopyPart, self.store.copy_part(upload, number, from, pin, range)).await
    }

    async fn list_uploads(&self, at: ObjectPath<'_>) -> Result<Vec<String>, StoreError> {
        self.asked(Operation::ListUploads, self.store.list_uploads(at)).await
    }

    async fn list_uploads_under(
        &self,
        bucket: &str,
        prefix: &str,
        after: Option<&UploadListed>,
    ) -> Result<UploadsPage, StoreError> {
        self.asked(Operation::ListUploads, self.store.list_uploads_under(bucket, prefix, after)).await
    }

    async fn list_objects(
        &self,
        bucket: &str,
        prefix: &str,
        after: Option<&str>,
        most: u32,
    ) -> Result<ObjectsPage, StoreError> {
        self.asked(Operation::ListObjects, self.store.list_objects(bucket, prefix, after, most)).await
    }

    async fn list_versions(
        &self,
        bucket: &str,
        prefix: &str,
        after: Option<&VersionMarker>,
        most: u32,
    ) -> Result<VersionsPage, StoreError> {
        self.asked(Operation::ListVersions, self.store.list_versions(bucket, prefix, after, most)).await
    }

    async fn list_parts(&self, upload: UploadRef<'_>, after: u32) -> Result<PartsPage, StoreError> {
        self.asked(Operation::ListParts, self.store.list_parts(upload, after)).await
    }

    async fn complete_upload(
        &self,
        upload: UploadRef<'_>,
        parts: &[PartWritten],
        completion: Completion,
    ) -> Result<Written, StoreError> {
        let request = self.store.complete_upload(upload, parts, completion);
        self.asked(Operation::CompleteUpload, request).await
    }

    async fn abort_upload(&self, upload: UploadRef<'_>) -> Result<(), StoreError> {
        self.asked(Operation::AbortUpload, self.store.abort_upload(upload)).await
    }
}

impl Stream for MeteredBody {
    type Item = Result<Bytes, StoreError>;

    fn poll_next(mut self: PinBox<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let piece = std::task::ready!(self.body.as_mut().poll_next(cx));
        match &piece {
            Some(Ok(bytes)) => self.site.read_bytes.add(bytes.len() as u64),
            Some(Err(error)) => self.site.request_errors.of(Fault::from(error.kind)).inc(),
            None => self.site.read_time.observe(self.started.elapsed()),
        }
        Poll::Ready(piece)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.body.size_hint()
    }
}
