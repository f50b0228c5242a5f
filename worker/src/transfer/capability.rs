//! What a backup store can do, found out by trying it once on scratch keys.
//!
//! Documentation does not help here: some stores accept `If-None-Match: *` and ignore it, or let two racing writes both win; some refuse
//! checksum headers, some accept wrong ones. The scratch objects are a few bytes under `<prefix>/.backhaul/probe/`; the worker has no
//! right to delete, so a lifecycle rule on that prefix may clean up.

use backhaul_runtime::locations::Feature;
use bytes::Bytes;
use tracing::info;

use super::{
    checksum::{Crc, md5_of},
    clock::wall_seconds,
    route::Target,
};
use crate::store::{
    Attributes, ObjectPath, Operation, Payload, Pin, Proof, Put, Retention, StoreError,
    StoreErrorKind as Kind, Tag, Terms, WriteOptions, Written,
};

/// How long the scratch object is retained that shows whether a retention is kept.
const PROBE_RETENTION_SECONDS: i64 = 60;

/// What a backup store can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// `If-None-Match: *` holds, also when two writes race. Otherwise the engine looks before it writes.
    pub create_only: bool,
    /// And for copies inside the store.
    pub create_only_copy: bool,
    /// Checks and reports CRC-64/NVME. Otherwise MD5 is sent.
    pub crc64nvme: bool,
    /// Keeps tags.
    pub tagging: bool,
    /// Keeps the storage class that is asked for; true where none is.
    pub storage_class: bool,
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
        let root = self.scratch_root();
        let may = |feature| !self.site.without.contains(&feature);
        let create_only = may(Feature::ConditionalWrites) && self.probe_create_only(&root).await?;
        let crc64nvme = may(Feature::Checksums) && self.probe_crc(&root, create_only).await?;
        let tagging = may(Feature::Tagging) && self.probe_tagging(&root, create_only).await?;
        let create_only_copy =
            create_only && may(Feature::ServerSideCopy) && self.probe_copy(&root, crc64nvme).await;
        let storage_class = self.probe_terms(&root, create_only).await?;
        let found = Capabilities { create_only, create_only_copy, crc64nvme, tagging, storage_class };
        info!(
            location = %self.site.name,
            bucket = %self.bucket,
            create_only,
            create_only_copy,
            crc64nvme,
            tagging,
            storage_class,
            "backup location probed"
        );
        Ok(found)
    }

    fn scratch_root(&self) -> String {
        let random = fastrand::u64(..);
        let prefix = if self.prefix.is_empty() { String::new() } else { format!("{}/", self.prefix) };
        format!("{prefix}.backhaul/probe/{random:016x}")
    }

    /// Two writes at once, then a third: exactly one may win.
    async fn probe_create_only(&self, root: &str) -> Result<bool, StoreError> {
        let key = format!("{root}-race");
        let one = Payload::from(Bytes::from_static(b"1"));
        let other = Payload::from(Bytes::from_static(b"2"));
        let (first, second) = tokio::join!(
            self.put(&key, &one, md5(&one), &[], true),
            self.put(&key, &other, md5(&other), &[], true)
        );
        let lost = match (first, second) {
            (Ok(_), Ok(_)) => return Ok(false),
            (Ok(_), Err(lost)) | (Err(lost), Ok(_) | Err(_)) => lost,
        };
        if is_unable(lost.kind) {
            // Either conditional writes or all writes are refused.
            self.put(&format!("{root}-plain"), &one, md5(&one), &[], false).await?;
            return Ok(false);
        }
        if !matches!(lost.kind, Kind::PreconditionFailed | Kind::Conflict) {
            return Err(lost);
        }
        match self.put(&key, &other, md5(&other), &[], true).await {
            Err(error) if error.kind == Kind::PreconditionFailed => Ok(true),
            Ok(_) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A right checksum is reported back, a wrong one refused.
    async fn probe_crc(&self, root: &str, create_only: bool) -> Result<bool, StoreError> {
        let body = Payload::from(Bytes::from_static(b"123456789"));
        let proof = |crc| Proof { crc64nvme: Some(crc), md5: None };
        let right = Crc::of(&body).value();
        let key = format!("{root}-crc");
        match self.put(&key, &body, proof(right), &[], create_only).await {
            Ok(written) if written.crc64nvme == Some(right) => {}
            Ok(_) => return Ok(false),
            Err(error) if is_unable(error.kind) || error.kind == Kind::BadDigest => return Ok(false),
            Err(error) => return Err(error),
        }
        match self.put(&format!("{root}-bad"), &body, proof(!right), &[], create_only).await {
            Err(error) if error.kind == Kind::BadDigest || is_unable(error.kind) => Ok(true),
            Ok(_) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn probe_tagging(&self, root: &str, create_only: bool) -> Result<bool, StoreError> {
        let tags = [Tag { key: "backhaul".into(), value: "probe".into() }];
        let key = format!("{root}-tags");
        let body = Payload::default();
        match self.put(&key, &body, md5(&body), &tags, create_only).await {
            Ok(_) => {}
            Err(error) if is_unable(error.kind) || error.kind == Kind::Denied => return Ok(false),
            Err(error) => return Err(error),
        }
        let at = ObjectPath { bucket: &self.bucket, key: &key };
        match self.site.gate.pass(self.site.store.get_tags(at, None)).await {
            Ok(kept) => Ok(kept == tags),
            // Write-only tags are kept tags; a worker need not be allowed to read them.
            Err(error) => Ok(error.kind == Kind::Denied),
        }
    }

    /// A storage class that is asked for must be known, and is named where the store forgets it. A retention must be kept: whoever asks for
    /// one relies on it, so without it nothing is copied.
    async fn probe_terms(&self, root: &str, create_only: bool) -> Result<bool, StoreError> {
        let storage_class = self.storage_class.as_deref();
        let retention = self.retain.map(|r| Retention {
            compliance: r.compliance,
            until: wall_seconds().saturating_add(PROBE_RETENTION_SECONDS),
        });
        if storage_class.is_none() && retention.is_none() {
            return Ok(true);
        }
        let key = format!("{root}-terms");
        let at = ObjectPath { bucket: &self.bucket, key: &key };
        let body = Payload::from(Bytes::from_static(b"terms"));
        let attributes = Attributes::default();
        let terms = Terms { storage_class, retention };
        let put =
            Put { body: &body, proof: md5(&body), attributes: &attributes, tags: &[], terms, create_only };
        let written = self.site.gate.pass(self.site.store.put(at, put)).await?;
        let pin = Pin { version: written.version, etag: None };
        let info = self.site.gate.pass(self.site.store.head(at, &pin)).await?;
        let kept = |wanted: Retention| {
            info.retained.is_some_and(|has| has.compliance == wanted.compliance && has.until >= wanted.until)
        };
        if retention.is_some_and(|wanted| !kept(wanted)) {
            let what = "the store does not keep (or not show) the retention that is asked for";
            return Err(StoreError::new(Operation::Put, Kind::NotImplemented, what));
        }
        let standard = |class: &str| class == "STANDARD" && info.storage_class.is_none();
        Ok(storage_class.is_none_or(|c| standard(c) || info.storage_class.as_deref() == Some(c)))
    }

    /// A copy onto a key that exists must fail.
    async fn probe_copy(&self, root: &str, crc64nvme: bool) -> bool {
        let from = if crc64nvme { format!("{root}-crc") } else { format!("{root}-race") };
        let to = format!("{root}-race");
        let at = |key| ObjectPath { bucket: &self.bucket, key };
        let attributes = Attributes::default();
        let write = WriteOptions {
            attributes: &attributes,
            tags: &[],
            terms: Terms::default(),
            crc64nvme: false,
            create_only: true,
        };
        let latest = Pin::default();
        let copy = self.site.store.copy(at(&from), &latest, at(&to), &write);
        let copied = self.site.gate.pass(copy).await;
        matches!(copied, Err(error) if error.kind == Kind::PreconditionFailed)
    }

    async fn put(
        &self,
        key: &str,
        body: &Payload,
        proof: Proof,
        tags: &[Tag],
        create_only: bool,
    ) -> Result<Written, StoreError> {
        let attributes = Attributes::default();
        let put = Put { body, proof, attributes: &attributes, tags, terms: Terms::default(), create_only };
        self.site.gate.pass(self.site.store.put(ObjectPath { bucket: &self.bucket, key }, put)).await
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
mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use backhaul_runtime::locations::{RateLimits, Retain};
    use tokio::sync::OnceCell;

    use super::*;
    use crate::{
        store::{
            ObjectStore,
            faulty::{Fault, FaultyStore, Rule},
            memory::{MemoryOptions, MemoryStore},
        },
        transfer::{gate::Gate, route::Site},
    };

    fn target(store: Arc<dyn ObjectStore>) -> Target {
        target_with(store, BTreeSet::new(), None, None)
    }

    fn target_with(
        store: Arc<dyn ObjectStore>,
        without: BTreeSet<Feature>,
        storage_class: Option<String>,
        retain: Option<Retain>,
    ) -> Target {
        let gate = Gate::new(8, RateLimits::default(), Arc::default());
        let site = Site { name: "vault".into(), store, gate, without, pulse_bucket: "backups".into() };
        Target {
            site: Arc::new(site),
            bucket: "backups".into(),
            prefix: "p".into(),
            storage_class,
            retain,
            capabilities: OnceCell::new(),
        }
    }

    async fn probed(options: MemoryOptions) -> Capabilities {
        let store = Arc::new(MemoryStore::new(options, &["backups"]));
        target(store).capabilities().await.expect("reachable")
    }

    #[tokio::test]
    async fn a_store_that_can_do_everything_is_believed() {
        let all = probed(MemoryOptions::default()).await;
        let every = Capabilities {
            create_only: true,
            create_only_copy: true,
            crc64nvme: true,
            tagging: true,
            storage_class: true,
        };
        assert_eq!(all, every);
    }

    #[tokio::test]
    async fn what_must_not_be_used_is_not_even_tried() {
        let memory = Arc::new(MemoryStore::new(MemoryOptions::default(), &["backups"]));
        let faulty = Arc::new(FaultyStore::new(memory));
        let without =
            [Feature::ConditionalWrites, Feature::Checksums, Feature::Tagging, Feature::ServerSideCopy];
        let target = target_with(Arc::clone(&faulty) as _, without.into(), None, None);
        let found = target.capabilities().await.expect("reachable");
        assert!(!(found.create_only || found.create_only_copy || found.crc64nvme || found.tagging));
        assert_eq!(faulty.calls(Operation::Put), 0);
        for feature in without {
            let memory = Arc::new(MemoryStore::new(MemoryOptions::default(), &["backups"]));
            let found =
                target_with(memory, [feature].into(), None, None).capabilities().await.expect("reachable");
            assert_eq!(found.create_only, feature != Feature::ConditionalWrites);
            assert_eq!(found.crc64nvme, feature != Feature::Checksums);
            assert_eq!(found.tagging, feature != Feature::Tagging);
            let copies = feature != Feature::ServerSideCopy && feature != Feature::ConditionalWrites;
            assert_eq!(found.create_only_copy, copies, "{feature:?}");
        }
    }

    #[tokio::test]
    async fn a_store_that_forgets_a_retention_is_not_used_where_one_is_asked_for() {
        let retain = Some(Retain { compliance: true, days: 30 });
        for locking in [true, false] {
            let options = MemoryOptions { locking, ..MemoryOptions::default() };
            let store = Arc::new(MemoryStore::new(options, &["backups"]));
            let found = target_with(store, BTreeSet::new(), Some("COLD".into()), retain).capabilities().await;
            match found {
                Ok(found) => assert!(locking && found.storage_class),
                Err(error) => assert!(!locking && error.kind == Kind::NotImplemented, "{error}"),
            }
        }
    }

    #[tokio::test]
    async fn each_weakness_is_found() {
        let strong = MemoryOptions::default();
        assert!(!probed(MemoryOptions { create_only: false, ..strong }).await.create_only);
        assert!(!probed(MemoryOptions { crc64nvme: false, ..strong }).await.crc64nvme);
        assert!(!probed(MemoryOptions { tagging: false, ..strong }).await.tagging);
        assert!(!probed(MemoryOptions { copying: false, ..strong }).await.create_only_copy);
    }

    #[tokio::test]
    async fn a_store_that_refuses_conditions_is_not_taken_for_one_that_refuses_writes() {
        for (refused, ends) in [(2, true), (u32::MAX, false)] {
            let memory = Arc::new(MemoryStore::new(MemoryOptions::default(), &["backups"]));
            let faulty = Arc::new(FaultyStore::new(memory));
            faulty.add(Rule::new(Operation::Put, Fault::Fail(Kind::Rejected)).times(refused));
            let found = target(faulty).capabilities().await;
            assert_eq!(found.is_ok_and(|f| !f.create_only), ends);
        }
    }

    #[tokio::test]
    async fn a_store_that_is_down_is_probed_again_later() {
        let memory = Arc::new(MemoryStore::new(MemoryOptions::default(), &["backups"]));
        let faulty = Arc::new(FaultyStore::new(memory));
        faulty.add(Rule::new(Operation::Put, Fault::Fail(Kind::Connection)).times(2));
        let target = target(faulty);
        assert_eq!(target.capabilities().await.expect_err("down").kind, Kind::Connection);
        assert!(target.capabilities().await.expect("up").create_only);
    }
}
