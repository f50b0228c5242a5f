//! Whether a store keeps the storage class and the retention that a location asks for, on each way of writing an object: some honour them
//! on one and forget them on another.
//!
//! A storage class that is asked for must be known, and is named in receipts where the store forgets it. A retention must be kept: whoever
//! asks for one relies on it, so without it nothing is copied. Where only copies inside the store lose it, the worker carries the bytes.

use bytes::Bytes;

use super::{Prober, Wishes, md5};
use crate::{
    store::{
        Attributes, Completion, ObjectInfo, Operation, Payload, Pin, Put, Retention, StoreError,
        StoreErrorKind as Kind, Terms, UploadRef, WriteOptions,
    },
    transfer::clock::wall_seconds,
};

/// How long the scratch objects are retained that show whether a retention is kept.
const RETENTION_SECONDS: i64 = 60;

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TermsKept {
    /// The storage class is kept; true where none is asked for.
    pub(super) storage_class: bool,
    /// All of it is kept by copies inside the store.
    pub(super) copies: bool,
}

/// A scratch object: its version, where it was written now.
struct Scratch {
    key: String,
    version: Option<String>,
    is_new: bool,
}

impl Prober<'_> {
    pub(super) async fn terms(
        &self,
        wishes: &Wishes<'_>,
        create_only: bool,
        may_copy: bool,
    ) -> Result<TermsKept, StoreError> {
        let retention = wishes.retain.map(|r| Retention {
            compliance: r.compliance,
            until: wall_seconds().saturating_add(RETENTION_SECONDS),
        });
        let terms = Terms { storage_class: wishes.storage_class, retention };
        if terms.storage_class.is_none() && retention.is_none() {
            return Ok(TermsKept { storage_class: true, copies: true });
        }
        // Other terms are other objects: those that are there were written with these.
        let mode = retention.map_or("none", |r| if r.compliance { "compliance" } else { "governance" });
        let name = format!("terms-{}-{mode}", terms.storage_class.unwrap_or("none"));
        let put = self.put_with(&name, terms, create_only).await?;
        let as_put = self.kept(&put, terms).await?;
        let parts = self.upload_with(&format!("{name}-parts"), terms, create_only).await?;
        let as_parts = self.kept(&parts, terms).await?;
        if !(as_put.0 && as_parts.0) {
            let what = "the store does not keep (or not show) the retention that is asked for";
            let operation = if as_put.0 { Operation::CreateUpload } else { Operation::Put };
            return Err(StoreError::new(operation, Kind::NotImplemented, what));
        }
        let copies = may_copy && self.copy_keeps(&format!("{name}-copy"), terms, create_only).await?;
        Ok(TermsKept { storage_class: as_put.1 && as_parts.1, copies })
    }

    /// Whether retention and storage class of an object are those that were asked for.
    async fn kept(&self, scratch: &Scratch, terms: Terms<'_>) -> Result<(bool, bool), StoreError> {
        let pin = Pin { version: scratch.version.clone(), etag: None };
        let info = self.pass(self.store.head(self.at(&scratch.key), &pin)).await?;
        Ok((keeps_retention(&info, terms.retention, scratch.is_new), keeps_class(&info, terms.storage_class)))
    }

    async fn put_with(&self, name: &str, terms: Terms<'_>, create_only: bool) -> Result<Scratch, StoreError> {
        let key = self.key(name);
        let body = body();
        let attributes = Attributes::default();
        let put =
            Put { body: &body, proof: md5(&body), attributes: &attributes, tags: &[], terms, create_only };
        match self.pass(self.store.put(self.at(&key), put)).await {
            Ok(written) => Ok(Scratch { key, version: written.version, is_new: true }),
            Err(error) if error.kind == Kind::PreconditionFailed => Ok(Scratch::of_before(key)),
            Err(error) => Err(error),
        }
    }

    async fn upload_with(
        &self,
        name: &str,
        terms: Terms<'_>,
        create_only: bool,
    ) -> Result<Scratch, StoreError> {
        let key = self.key(name);
        if create_only && self.exists(name).await? {
            return Ok(Scratch::of_before(key));
        }
        let attributes = Attributes::default();
        let write = options(&attributes, terms, create_only);
        let id = self.pass(self.store.create_upload(self.at(&key), &write)).await?;
        let upload = UploadRef { at: self.at(&key), id: &id };
        let body = body();
        let done = async {
            let part = self.pass(self.store.upload_part(upload, 1, &body, md5(&body))).await?;
            let completion = Completion { size_bytes: body.len(), crc64nvme: None, create_only };
            self.pass(self.store.complete_upload(upload, &[part], completion)).await
        };
        match done.await {
            Ok(written) => Ok(Scratch { key, version: written.version, is_new: true }),
            Err(error) => {
                self.pass(self.store.abort_upload(upload)).await?;
                // Another worker was faster.
                let exists = error.kind == Kind::PreconditionFailed;
                if exists { Ok(Scratch::of_before(key)) } else { Err(error) }
            }
        }
    }

    /// Whether a copy inside the store keeps everything. One that is refused is no error: then nothing is copied that way. Its source has
    /// nothing of it, because some stores copy the source's terms and forget those that are asked for.
    async fn copy_keeps(&self, name: &str, terms: Terms<'_>, create_only: bool) -> Result<bool, StoreError> {
        let key = self.key(name);
        let scratch = if create_only && self.exists(name).await? {
            Scratch::of_before(key)
        } else {
            let attributes = Attributes::default();
            let write = options(&attributes, terms, create_only);
            let latest = Pin::default();
            let from = self.put_with("terms-source", Terms::default(), create_only).await?.key;
            match self.pass(self.store.copy(self.at(&from), &latest, self.at(&key), &write)).await {
                Ok(written) => Scratch { key, version: written.version, is_new: true },
                Err(error) if error.kind == Kind::PreconditionFailed => Scratch::of_before(key),
                Err(error) if error.kind.is_transient() => return Err(error),
                Err(_) => return Ok(false),
            }
        };
        let (retention, class) = self.kept(&scratch, terms).await?;
        Ok(retention && class)
    }
}

impl Scratch {
    const fn of_before(key: String) -> Self {
        Self { key, version: None, is_new: false }
    }
}

fn keeps_retention(info: &ObjectInfo, wanted: Option<Retention>, is_new: bool) -> bool {
    wanted.is_none_or(|wanted| {
        let has = info.retained.filter(|has| has.compliance == wanted.compliance);
        // That of an earlier start may be over; that it is shown is enough.
        has.is_some_and(|has| !is_new || has.until >= wanted.until)
    })
}

fn keeps_class(info: &ObjectInfo, wanted: Option<&str>) -> bool {
    wanted.is_none_or(|class| {
        let has = info.storage_class.as_deref();
        has == Some(class) || (class == "STANDARD" && has.is_none())
    })
}

fn body() -> Payload {
    Payload::from(Bytes::from_static(b"terms"))
}

fn options<'a>(attributes: &'a Attributes, terms: Terms<'a>, create_only: bool) -> WriteOptions<'a> {
    WriteOptions { attributes, tags: &[], terms, crc64nvme: false, create_only }
}
