//! What a backup store can do, found out by trying it on scratch keys.
//!
//! Documentation does not help here: some stores accept `If-None-Match: *` and ignore it, or let two racing writes both win; some refuse
//! checksum headers, some accept wrong ones. The scratch objects are a few bytes under `<prefix>/.backhaul/probe/`. The worker has no right to
//! delete, so its keys are always the same ones: what a start finds there from an earlier one serves it as well.
//!
//! A race needs a key that nobody has written. Where the earlier start's key is taken, a marker says that its race was decided well; that
//! conditions hold at all is tried again each time.

mod names;
mod terms;

use std::collections::BTreeSet;

use backhaul_runtime::locations::{Feature, Retain};
use bytes::Bytes;
use tracing::info;

use self::{names::Names, terms::TermsKept};
use super::{
    checksum::{Crc, md5_of},
    gate::Gate,
    route::Target,
};
use crate::store::{
    Attributes, ObjectPath, ObjectStore, Payload, Pin, Proof, Put, StoreError, StoreErrorKind as Kind, Tag,
    Terms, WriteOptions, Written,
};

/// What a backup store can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// `If-None-Match: *` holds, also when two writes race. Otherwise the engine looks before it writes.
    pub create_only: bool,
    /// And for copies inside the store.
    pub create_only_copy: bool,
    /// Copies inside the store keep the storage class and the retention that are asked for; true where none is.
    pub copy_terms: bool,
    /// Checks and reports CRC-64/NVME. Otherwise MD5 is sent.
    pub crc64nvme: bool,
    /// Refuses bytes that have another MD5 than was announced, beside a CRC-64/NVME where it takes one.
    pub md5: bool,
    /// Keeps tags.
    pub tagging: bool,
    /// Keeps the storage class that is asked for; true where none is.
    pub storage_class: bool,
    /// Most bytes of a key that it takes, or a few less. Longer keys of copies are hashed.
    pub key_max_bytes: usize,
    /// Reads tell versions. Otherwise those that writes tell name nothing that could be read.
    pub versions: bool,
}

/// The folder below a prefix that probes write to; nothing else does.
pub const PROBE_FOLDER: &str = ".backhaul/probe";

/// One probe of one bucket.
#[derive(Debug)]
struct Prober<'a> {
    store: &'a dyn ObjectStore,
    bucket: &'a str,
    /// What all keys begin with.
    root: &'a str,
    /// What requests pass, where the store has one.
    gate: Option<&'a Gate>,
}

/// What is asked of a store besides keeping bytes, and what must not be.
#[derive(Debug, Default)]
struct Wishes<'a> {
    without: Option<&'a BTreeSet<Feature>>,
    storage_class: Option<&'a str>,
    retain: Option<Retain>,
}

/// How two writes at once to one key ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Race {
    /// One was written, the other refused, and a third as well.
    Decided,
    /// More than one was written.
    Undecided,
    /// The key was there before.
    Taken,
    /// The store takes writes, but none with a condition.
    NoConditions,
}

impl Capabilities {
    /// What an answer to a write is worth.
    pub(super) fn believed(self, written: Written) -> Written {
        Written { version: written.version.filter(|_| self.versions), ..written }
    }

    /// Tries a store out under keys that begin with `root`. Those of an earlier probe with the same `root` are used again.
    ///
    /// # Errors
    /// [`StoreError`] when the bucket cannot be written to at all.
    pub async fn probe(store: &dyn ObjectStore, bucket: &str, root: &str) -> Result<Self, StoreError> {
        Prober { store, bucket, root, gate: None }.all(&Wishes::default()).await
    }
}

/// The folder for probes of a backup prefix, with a slash at its end.
#[must_use]
pub fn probe_root(prefix: &str) -> String {
    let separator = if prefix.is_empty() { "" } else { "/" };
    format!("{prefix}{separator}{PROBE_FOLDER}/")
}

impl Target {
    /// What the store can do; tries it out the first time.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be written to at all; it is tried again the next time.
    pub(super) async fn capabilities(&self) -> Result<Capabilities, StoreError> {
        self.capabilities.get_or_try_init(|| Box::pin(self.probe())).await.copied()
    }

    async fn probe(&self) -> Result<Capabilities, StoreError> {
        let root = probe_root(&self.prefix);
        let prober = Prober {
            store: &*self.site.store,
            bucket: &self.bucket,
            root: &root,
            gate: Some(&self.site.gate),
        };
        let wishes = Wishes {
            without: Some(&self.site.without),
            storage_class: self.storage_class.as_deref(),
            retain: self.retain,
        };
        let found = prober.all(&wishes).await?;
        info!(
            location = %self.site.name,
            bucket = %self.bucket,
            create_only = found.create_only,
            create_only_copy = found.create_only_copy,
            copy_terms = found.copy_terms,
            crc64nvme = found.crc64nvme,
            md5 = found.md5,
            tagging = found.tagging,
            storage_class = found.storage_class,
            key_max_bytes = found.key_max_bytes,
            versions = found.versions,
            "backup location probed"
        );
        Ok(found)
    }
}

impl Prober<'_> {
    async fn all(&self, wishes: &Wishes<'_>) -> Result<Capabilities, StoreError> {
        let may = |feature| wishes.without.is_none_or(|without| !without.contains(&feature));
        let create_only = may(Feature::ConditionalWrites) && self.create_only().await?;
        // Side by side: the first copy waits for all of it.
        let checksums = async {
            let crc64nvme = may(Feature::Checksums) && self.crc(create_only).await?;
            let md5 = may(Feature::Checksums) && self.md5(create_only, crc64nvme).await?;
            Ok((crc64nvme, md5))
        };
        let tagging = async { Ok(may(Feature::Tagging) && self.tagging(create_only).await?) };
        let create_only_copy =
            async { Ok(create_only && may(Feature::ServerSideCopy) && self.create_only_copy().await) };
        let terms = self.terms(wishes, create_only, may(Feature::ServerSideCopy));
        let names = self.names(create_only);
        let ((crc64nvme, md5), tagging, create_only_copy, terms, names) =
            tokio::try_join!(checksums, tagging, create_only_copy, terms, names)?;
        let TermsKept { storage_class, copies: copy_terms } = terms;
        let Names { key_max_bytes, versions } = names;
        Ok(Capabilities {
            create_only,
            create_only_copy,
            copy_terms,
            crc64nvme,
            md5,
            tagging,
            storage_class,
            key_max_bytes,
            versions,
        })
    }

    async fn create_only(&self) -> Result<bool, StoreError> {
        let race = match self.race("race").await? {
            Race::Taken if self.exists("race-decided").await? => return Ok(true),
            // Whoever began before this one has not come to its end, or its race was undecided.
            Race::Taken => self.race(&format!("race-{:016x}", fastrand::u64(..))).await?,
            other @ (Race::Decided | Race::Undecided | Race::NoConditions) => other,
        };
        if race != Race::Decided {
            return Ok(false);
        }
        let marker = Payload::from(Bytes::from_static(b"decided"));
        match self.put("race-decided", &marker, md5(&marker), &[], true).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind == Kind::PreconditionFailed => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Two writes at once, then a third: exactly one may win.
    async fn race(&self, name: &str) -> Result<Race, StoreError> {
        let one = Payload::from(Bytes::from_static(b"1"));
        let other = Payload::from(Bytes::from_static(b"2"));
        let (first, second) = tokio::join!(
            self.put(name, &one, md5(&one), &[], true),
            self.put(name, &other, md5(&other), &[], true)
        );
        let (lost, is_taken) = match (first, second) {
            (Ok(_), Ok(_)) => return Ok(Race::Undecided),
            (Ok(_), Err(lost)) | (Err(lost), Ok(_)) => (lost, false),
            (Err(first), Err(second)) if first.kind == Kind::PreconditionFailed => (second, true),
            (Err(first), Err(_)) => (first, true),
        };
        if is_unable(lost.kind) {
            // Either conditional writes or all writes are refused.
            self.put("plain", &one, md5(&one), &[], false).await?;
            return Ok(Race::NoConditions);
        }
        if !matches!(lost.kind, Kind::PreconditionFailed | Kind::Conflict) {
            return Err(lost);
        }
        match self.put(name, &other, md5(&other), &[], true).await {
            Err(error) if error.kind == Kind::PreconditionFailed => {
                Ok(if is_taken { Race::Taken } else { Race::Decided })
            }
            Ok(_) => Ok(Race::Undecided),
            Err(error) => Err(error),
        }
    }

    /// A right checksum is reported back, a wrong one refused.
    async fn crc(&self, create_only: bool) -> Result<bool, StoreError> {
        let body = Payload::from(Bytes::from_static(b"123456789"));
        let proof = |crc| Proof { crc64nvme: Some(crc), md5: None };
        let right = Crc::of(&body).value();
        let kept = match self.put("crc", &body, proof(right), &[], create_only).await {
            Ok(written) => written.crc64nvme,
            Err(error) if error.kind == Kind::PreconditionFailed => {
                let at = self.key("crc");
                self.pass(self.store.head(self.at(&at), &Pin::default())).await?.crc64nvme
            }
            Err(error) if is_unable(error.kind) || error.kind == Kind::BadDigest => return Ok(false),
            Err(error) => return Err(error),
        };
        if kept != Some(right) {
            return Ok(false);
        }
        let refused = self.refused("bad", &body, proof(!right), create_only).await?;
        Ok(refused.is_some())
    }

    /// A right MD5 is taken, a wrong one refused; both beside a CRC-64/NVME where the store takes one.
    async fn md5(&self, create_only: bool, crc64nvme: bool) -> Result<bool, StoreError> {
        let body = Payload::from(Bytes::from_static(b"abcdefghi"));
        let right = md5_of(&body);
        let crc64nvme = crc64nvme.then(|| Crc::of(&body).value());
        let proof = |md5| Proof { crc64nvme, md5: Some(md5) };
        match self.put("md5", &body, proof(right), &[], create_only).await {
            Ok(_) => {}
            Err(error) if error.kind == Kind::PreconditionFailed => {}
            Err(error) if is_unable(error.kind) || error.kind == Kind::BadDigest => return Ok(false),
            Err(error) => return Err(error),
        }
        let refused = self.refused("md5-bad", &body, proof(right.map(|byte| !byte)), create_only).await?;
        Ok(refused == Some(Kind::BadDigest))
    }

    /// How a wrong proof is refused; `None` where it is not.
    async fn refused(
        &self,
        name: &str,
        body: &Payload,
        proof: Proof,
        create_only: bool,
    ) -> Result<Option<Kind>, StoreError> {
        match self.put(name, body, proof, &[], create_only).await {
            Err(error) if error.kind == Kind::BadDigest || is_unable(error.kind) => Ok(Some(error.kind)),
            // Accepted, now or by an earlier probe.
            Ok(_) => Ok(None),
            Err(error) if error.kind == Kind::PreconditionFailed => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn tagging(&self, create_only: bool) -> Result<bool, StoreError> {
        let tags = [Tag { key: "backhaul".into(), value: "probe".into() }];
        let body = Payload::default();
        match self.put("tags", &body, md5(&body), &tags, create_only).await {
            Ok(_) => {}
            Err(error) if error.kind == Kind::PreconditionFailed => {}
            Err(error) if is_unable(error.kind) || error.kind == Kind::Denied => return Ok(false),
            Err(error) => return Err(error),
        }
        let key = self.key("tags");
        match self.pass(self.store.get_tags(self.at(&key), None)).await {
            Ok(kept) => Ok(kept == tags),
            // Write-only tags are kept tags; a worker need not be allowed to read them.
            Err(error) if error.kind == Kind::Denied => Ok(true),
            Err(error) if error.kind.is_transient() => Err(error),
            Err(_) => Ok(false),
        }
    }

    /// A copy onto a key that exists must fail. Both exist wherever writes are create-only.
    async fn create_only_copy(&self) -> bool {
        let attributes = Attributes::default();
        let write = WriteOptions {
            attributes: &attributes,
            tags: &[],
            terms: Terms::default(),
            crc64nvme: false,
            create_only: true,
        };
        let (from, to) = (self.key("race-decided"), self.key("race"));
        let latest = Pin::default();
        let copied = self.pass(self.store.copy(self.at(&from), &latest, self.at(&to), &write)).await;
        matches!(copied, Err(error) if error.kind == Kind::PreconditionFailed)
    }

    async fn exists(&self, name: &str) -> Result<bool, StoreError> {
        let key = self.key(name);
        match self.pass(self.store.head(self.at(&key), &Pin::default())).await {
            Ok(_) => Ok(true),
            // Who may not list is denied what is not there.
            Err(error) if matches!(error.kind, Kind::NotFound | Kind::NoSuchKey | Kind::Denied) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn put(
        &self,
        name: &str,
        body: &Payload,
        proof: Proof,
        tags: &[Tag],
        create_only: bool,
    ) -> Result<Written, StoreError> {
        let attributes = Attributes::default();
        let put = Put { body, proof, attributes: &attributes, tags, terms: Terms::default(), create_only };
        let key = self.key(name);
        self.pass(self.store.put(self.at(&key), put)).await
    }

    async fn pass<T>(&self, request: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        match self.gate {
            Some(gate) => gate.pass(request).await,
            None => request.await,
        }
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.root)
    }

    fn at<'k>(&'k self, key: &'k str) -> ObjectPath<'k> {
        ObjectPath { bucket: self.bucket, key }
    }
}

/// Every store takes an MD5, and buckets with a retention want one or a checksum.
fn md5(body: &Payload) -> Proof {
    Proof { crc64nvme: None, md5: Some(md5_of(body)) }
}

/// The store does not know what was asked, in one of the ways in which stores say so.
fn is_unable(kind: Kind) -> bool {
    matches!(kind, Kind::NotImplemented | Kind::Rejected)
}

#[cfg(test)]
mod tests;
