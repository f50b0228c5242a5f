//! A store that goes wrong where a test says so: a decorator around any other.
//!
//! Rules are tried in order; the first that fits a call is used, and used up after its number of times.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, future, stream};
use tokio::sync::Barrier;

use super::{
    BodyStream, ByteRange, Completion, ContentRange, GetResponse, ObjectInfo, ObjectPath, ObjectStore,
    ObjectsPage, Operation, PartWritten, PartsPage, Payload, Pin, Proof, Put, StoreError,
    StoreErrorKind as Kind, Tag, UploadListed, UploadRef, UploadsPage, VersionMarker, VersionsPage,
    WriteOptions, Written, memory::flipped,
};

/// A store with faults.
#[derive(Debug)]
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    state: Mutex<State>,
}

/// What goes wrong.
#[derive(Clone)]
pub enum Fault {
    /// Not executed; fails.
    Fail(Kind),
    /// Executed; the answer is lost and this comes instead.
    LoseAnswer(Kind),
    /// Not executed; never answers.
    Hang,
    /// Takes this long, then the call goes through.
    Delay(Duration),
    /// Something else happens first, then the call goes through.
    Before(Arc<dyn Fn() + Send + Sync>),
    /// The call goes through, then something else happens.
    After(Arc<dyn Fn() + Send + Sync>),
    /// Waits until all have come, then the call goes through.
    Meet(Arc<Barrier>),
    /// GET: the body breaks off with an error.
    CutBody {
        /// Bytes before it.
        after: usize,
    },
    /// GET: the body ends too early without an error, as without Content-Length.
    EndBody {
        /// Bytes before it.
        after: usize,
    },
    /// GET: the body stops and never goes on.
    HangBody {
        /// Bytes before it.
        after: usize,
    },
    /// GET: one bit of the body is wrong.
    FlipBody {
        /// Which byte.
        at: usize,
    },
    /// GET: more bytes than were asked for.
    ExtraBytes,
    /// GET: the whole object although a range was asked for.
    IgnoreRange,
    /// GET: Content-Range names another range.
    ShiftRange,
    /// GET: another ETag, and no 412.
    OtherEtag,
    /// CopyObject: the answer names another checksum.
    OtherChecksum,
    /// PUT and UploadPart: one bit is wrong when it reaches the store.
    FlipUpload,
    /// PUT and UploadPart: one bit is wrong, and the checksum is wrong alike, so that the store keeps it.
    FlipUploadUnnoticed,
}

/// When something goes wrong.
#[derive(Debug, Clone)]
pub struct Rule {
    operation: Operation,
    fault: Fault,
    skip: u32,
    times: u32,
    key_part: String,
}

#[derive(Debug, Default)]
struct State {
    rules: Vec<Rule>,
    calls: BTreeMap<Operation, u64>,
}

impl Rule {
    /// The next call of `operation`, once.
    #[must_use]
    pub fn new(operation: Operation, fault: Fault) -> Self {
        Self { operation, fault, skip: 0, times: 1, key_part: String::new() }
    }

    /// Not for the first `calls` calls.
    #[must_use]
    pub fn after(mut self, calls: u32) -> Self {
        self.skip = calls;
        self
    }

    /// For so many calls.
    #[must_use]
    pub fn times(mut self, calls: u32) -> Self {
        self.times = calls;
        self
    }

    /// Only for keys that contain `part`.
    #[must_use]
    pub fn on(mut self, part: &str) -> Self {
        part.clone_into(&mut self.key_part);
        self
    }
}

impl FaultyStore {
    /// Passes everything on until rules are added.
    #[must_use]
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self { inner, state: Mutex::default() }
    }

    /// Adds a rule behind the others.
    pub fn add(&self, rule: Rule) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).rules.push(rule);
    }

    /// Forgets all rules. Calls that hang go on hanging.
    pub fn clear(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).rules.clear();
    }

    /// Calls of an operation so far, failed ones included.
    #[must_use]
    pub fn calls(&self, operation: Operation) -> u64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).calls.get(&operation).copied().unwrap_or(0)
    }

    fn take(&self, operation: Operation, key: &str) -> Option<Fault> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state.calls.entry(operation).or_default() += 1;
        for rule in &mut state.rules {
            if rule.operation != operation || rule.times == 0 || !key.contains(&rule.key_part) {
                continue;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            rule.times -= 1;
            return Some(rule.fault.clone());
        }
        None
    }

    /// Runs a call with the faults that do not need to know what it is; returns those that do.
    async fn around<T, R>(
        &self,
        operation: Operation,
        key: &str,
        call: impl FnOnce(Option<Fault>) -> R + Send,
    ) -> Result<T, StoreError>
    where
        R: Future<Output = Result<T, StoreError>> + Send,
    {
        let fault = self.take(operation, key);
        match fault {
            Some(Fault::Fail(kind)) => Err(StoreError::new(operation, kind, "injected")),
            Some(Fault::LoseAnswer(kind)) => {
                call(None).await?;
                Err(StoreError::new(operation, kind, "injected after execution"))
            }
            Some(Fault::Hang) => future::pending().await,
            Some(Fault::Delay(time)) => {
                tokio::time::sleep(time).await;
                call(None).await
            }
            Some(Fault::Before(act)) => {
                act();
                call(None).await
            }
            Some(Fault::After(act)) => {
                let result = call(None).await;
                act();
                result
            }
            Some(Fault::Meet(barrier)) => {
                barrier.wait().await;
                call(None).await
            }
            other => call(other).await,
        }
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn head(&self, at: ObjectPath<'_>, pin: &Pin) -> Result<ObjectInfo, StoreError> {
        self.around(Operation::Head, at.key, |_| self.inner.head(at, pin)).await
    }

    async fn get(
        &self,
        at: ObjectPath<'_>,
        pin: &Pin,
        range: Option<ByteRange>,
    ) -> Result<GetResponse, StoreError> {
        self.around(Operation::Get, at.key, |fault| async move {
            let range = range.filter(|_| !matches!(fault, Some(Fault::IgnoreRange)));
            let response = self.inner.get(at, pin, range).await?;
            Ok(match fault {
                Some(fault) => spoil(response, &fault),
                None => response,
            })
        })
        .await
    }

    async fn get_tags(&self, at: ObjectPath<'_>, version: Option<&str>) -> Result<Vec<Tag>, StoreError> {
        self.around(Operation::GetTags, at.key, |_| self.inner.get_tags(at, version)).await
    }

    async fn has_grants(&self, at: ObjectPath<'_>, version: Option<&str>) -> Result<bool, StoreError> {
        self.around(Operation::GetAcl, at.key, |_| self.inner.has_grants(at, version)).await
    }

    async fn put(&self, at: ObjectPath<'_>, put: Put<'_>) -> Result<Written, StoreError> {
        self.around(Operation::Put, at.key, |fault| async move {
            let (body, proof) = altered(put.body, put.proof, fault.as_ref());
            self.inner.put(at, Put { body: &body, proof, ..put }).await
        })
        .await
    }

    async fn copy(
        &self,
        from: ObjectPath<'_>,
        pin: &Pin,
        to: ObjectPath<'_>,
        write: &WriteOptions<'_>,
    ) -> Result<Written, StoreError> {
        self.around(Operation::Copy, to.key, |fault| async move {
            let mut written = self.inner.copy(from, pin, to, write).await?;
            if matches!(fault, Some(Fault::OtherChecksum)) {
                written.crc64nvme = written.crc64nvme.map(|crc| !crc);
            }
            Ok(written)
        })
        .await
    }

    async fn create_upload(
        &self,
        at: ObjectPath<'_>,
        write: &WriteOptions<'_>,
    ) -> Result<String, StoreError> {
        self.around(Operation::CreateUpload, at.key, |_| self.inner.create_upload(at, write)).await
    }

    async fn upload_part(
        &self,
        upload: UploadRef<'_>,
        number: u32,
        body: &Payload,
        proof: Proof,
    ) -> Result<PartWritten, StoreError> {
        self.around(Operation::UploadPart, upload.at.key, |fault| async move {
            let (body, proof) = altered(body, proof, fault.as_ref());
            self.inner.upload_part(upload, number, &body, proof).await
        })
        .await
    }

    async fn copy_part(
        &self,
        upload: UploadRef<'_>,
        number: u32,
        from: ObjectPath<'_>,
        pin: &Pin,
        range: ByteRange,
    ) -> Result<PartWritten, StoreError> {
        self.around(Operation::CopyPart, upload.at.key, |_| {
            self.inner.copy_part(upload, number, from, pin, range)
        })
        .await
    }

    async fn list_uploads(&self, at: ObjectPath<'_>) -> Result<Vec<String>, StoreError> {
        self.around(Operation::ListUploads, at.key, |_| self.inner.list_uploads(at)).await
    }

    async fn list_uploads_under(
        &self,
        bucket: &str,
        prefix: &str,
        after: Option<&UploadListed>,
    ) -> Result<UploadsPage, StoreError> {
        self.around(Operation::ListUploads, prefix, |_| self.inner.list_uploads_under(bucket, prefix, after))
            .await
    }

    async fn list_objects(
        &self,
        bucket: &str,
        prefix: &str,
        after: Option<&str>,
        most: u32,
    ) -> Result<ObjectsPage, StoreError> {
        self.around(Operation::ListObjects, prefix, |_| self.inner.list_objects(bucket, prefix, after, most))
            .await
    }

    async fn list_versions(
        &self,
        bucket: &str,
        prefix: &str,
        after: Option<&VersionMarker>,
        most: u32,
    ) -> Result<VersionsPage, StoreError> {
        self.around(Operation::ListVersions, prefix, |_| {
            self.inner.list_versions(bucket, prefix, after, most)
        })
        .await
    }

    async fn list_parts(&self, upload: UploadRef<'_>, after: u32) -> Result<PartsPage, StoreError> {
        self.around(Operation::ListParts, upload.at.key, |_| self.inner.list_parts(upload, after)).await
    }

    async fn complete_upload(
        &self,
        upload: UploadRef<'_>,
        parts: &[PartWritten],
        completion: Completion,
    ) -> Result<Written, StoreError> {
        self.around(Operation::CompleteUpload, upload.at.key, |_| {
            self.inner.complete_upload(upload, parts, completion)
        })
        .await
    }

    async fn abort_upload(&self, upload: UploadRef<'_>) -> Result<(), StoreError> {
        self.around(Operation::AbortUpload, upload.at.key, |_| self.inner.abort_upload(upload)).await
    }
}

fn spoil(mut response: GetResponse, fault: &Fault) -> GetResponse {
    match *fault {
        Fault::CutBody { after } => {
            let broken = StoreError::new(Operation::Get, Kind::Connection, "injected");
            response.body = head_of(response.body, after).chain(stream::iter([Err(broken)])).boxed();
        }
        Fault::EndBody { after } => {
            response.body = head_of(response.body, after);
            response.length = None;
        }
        Fault::HangBody { after } => {
            response.body = head_of(response.body, after).chain(stream::pending()).boxed();
        }
        Fault::FlipBody { at } => {
            let mut seen = 0;
            response.body = response
                .body
                .map(move |piece| {
                    let piece = piece?;
                    let before = seen;
                    seen += piece.len();
                    Ok(if (before..seen).contains(&at) { flipped(&piece, at - before) } else { piece })
                })
                .boxed();
        }
        Fault::ExtraBytes => {
            response.body = response.body.chain(stream::iter([Ok(Bytes::from_static(b"extra"))])).boxed();
            response.length = None;
        }
        Fault::ShiftRange => {
            response.range = response.range.map(|r| ContentRange { start: r.start + 1, end: r.end + 1, ..r });
        }
        Fault::OtherEtag => "0123456789abcdef0123456789abcdef".clone_into(&mut response.info.etag),
        Fault::Fail(_)
        | Fault::LoseAnswer(_)
        | Fault::Hang
        | Fault::Delay(_)
        | Fault::Before(_)
        | Fault::After(_)
        | Fault::Meet(_)
        | Fault::IgnoreRange
        | Fault::OtherChecksum
        | Fault::FlipUpload
        | Fault::FlipUploadUnnoticed => {}
    }
    response
}

fn head_of(body: BodyStream, bytes: usize) -> BodyStream {
    let mut left = bytes;
    body.map(move |piece| {
        let mut piece = piece?;
        piece.truncate(left);
        left -= piece.len();
        Ok(piece)
    })
    .take_while(|piece| future::ready(!matches!(piece, Ok(p) if p.is_empty())))
    .boxed()
}

fn altered(body: &Payload, proof: Proof, fault: Option<&Fault>) -> (Payload, Proof) {
    let flip = || Payload::from(flipped(&body.to_bytes(), 0));
    match fault {
        Some(Fault::FlipUpload) => (flip(), proof),
        Some(Fault::FlipUploadUnnoticed) => {
            let body = flip();
            let crc64nvme = proof.crc64nvme.map(|_| crc_fast::crc64_nvme(&body.to_bytes()));
            (body, Proof { crc64nvme, md5: None })
        }
        Some(_) | None => (body.clone(), proof),
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fail(_) => "Fail",
            Self::LoseAnswer(_) => "LoseAnswer",
            Self::Hang => "Hang",
            Self::Delay(_) => "Delay",
            Self::Before(_) => "Before",
            Self::After(_) => "After",
            Self::Meet(_) => "Meet",
            Self::CutBody { .. } => "CutBody",
            Self::EndBody { .. } => "EndBody",
            Self::HangBody { .. } => "HangBody",
            Self::FlipBody { .. } => "FlipBody",
            Self::ExtraBytes => "ExtraBytes",
            Self::IgnoreRange => "IgnoreRange",
            Self::ShiftRange => "ShiftRange",
            Self::OtherEtag => "OtherEtag",
            Self::OtherChecksum => "OtherChecksum",
            Self::FlipUpload => "FlipUpload",
            Self::FlipUploadUnnoticed => "FlipUploadUnnoticed",
        })
    }
}
