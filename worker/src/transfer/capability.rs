//! What a backup store can do, found out by trying it once on scratch keys.
//!
//! Documentation does not help here: some stores accept `If-None-Match: *` and ignore it, or let two racing writes both win; some refuse
//! checksum headers, some accept wrong ones. The scratch objects are a few bytes under `<prefix>/.backhaul/probe/`; the worker has no
//! right to delete, so a lifecycle rule on that prefix may clean up.

use super::{
    checksum::{Crc, md5_of},
    route::Target,
};
use crate::store::{
    Attributes, ObjectPath, Payload, Pin, Proof, Put, StoreError, StoreErrorKind as Kind, Tag, WriteOptions,
    Written,
};
use bytes::Bytes;
use tracing::info;

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
        let create_only = self.probe_create_only(&root).await?;
        let crc64nvme = self.probe_crc(&root, create_only).await?;
        let tagging = self.probe_tagging(&root, create_only).await?;
        let create_only_copy = create_only && self.probe_copy(&root).await;
        let found = Capabilities { create_only, create_only_copy, crc64nvme, tagging };
        info!(
            location = %self.site.name,
            bucket = %self.bucket,
            create_only,
            create_only_copy,
            crc64nvme,
            tagging,
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
        match self.site.store.get_tags(at, None).await {
            Ok(kept) => Ok(kept == tags),
            // Write-only tags are kept tags; a worker need not be allowed to read them.
            Err(error) => Ok(error.kind == Kind::Denied),
        }
    }

    /// A copy onto a key that exists must fail.
    async fn probe_copy(&self, root: &str) -> bool {
        let (from, to) = (format!("{root}-crc"), format!("{root}-race"));
        let at = |key| ObjectPath { bucket: &self.bucket, key };
        let attributes = Attributes::default();
        let write = WriteOptions { attributes: &attributes, tags: &[], crc64nvme: false, create_only: true };
        let copied = self.site.store.copy(at(&from), &Pin::default(), at(&to), &write).await;
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
        let put = Put { body, proof, attributes: &attributes, tags, create_only };
        self.site.store.put(ObjectPath { bucket: &self.bucket, key }, put).await
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
    use std::sync::Arc;

    use tokio::sync::OnceCell;

    use super::*;
    use crate::{
        store::{
            ObjectStore, Operation,
            faulty::{Fault, FaultyStore, Rule},
            memory::{MemoryOptions, MemoryStore},
        },
        transfer::{gate::Gate, route::Site},
    };

    fn target(store: Arc<dyn ObjectStore>) -> Target {
        let site = Site { name: "vault".into(), store, gate: Gate::new(8) };
        Target {
            site: Arc::new(site),
            bucket: "backups".into(),
            prefix: "p".into(),
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
        let every =
            Capabilities { create_only: true, create_only_copy: true, crc64nvme: true, tagging: true };
        assert_eq!(all, every);
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
