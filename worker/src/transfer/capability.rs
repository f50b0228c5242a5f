//! What a backup store can do, found out by trying it on scratch keys.
//!
//! Documentation does not help here: some stores accept `If-None-Match: *` and ignore it, or let two racing writes both win; some refuse
//! checksum headers, some accept wrong ones. The scratch objects are a few bytes under `<prefix>/.backhaul/probe/`. The worker has no right to
//! delete, so its keys are always the same ones: what a start finds there from an earlier one serves it as well.
//!
//! A race needs a key that nobody has written. Where the earlier start's key is taken, a marker says that its race was decided well; that
//! conditions hold at all is tried again each time.

use super::{
    checksum::{Crc, md5_of},
    route::Target,
};
use crate::store::{
    Attributes, ObjectPath, ObjectStore, Payload, Pin, Proof, Put, StoreError, StoreErrorKind as Kind, Tag,
    WriteOptions, Written,
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

/// The folder below a prefix that probes write to; nothing else does.
pub const PROBE_FOLDER: &str = ".backhaul/probe";

/// One probe of one bucket.
#[derive(Debug)]
struct Prober<'a> {
    store: &'a dyn ObjectStore,
    bucket: &'a str,
    /// What all keys begin with.
    root: &'a str,
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
    /// Tries a store out under keys that begin with `root`. Those of an earlier probe with the same `root` are used again.
    ///
    /// # Errors
    /// [`StoreError`] when the bucket cannot be written to at all.
    pub async fn probe(store: &dyn ObjectStore, bucket: &str, root: &str) -> Result<Self, StoreError> {
        let prober = Prober { store, bucket, root };
        let create_only = prober.create_only().await?;
        let crc64nvme = prober.crc(create_only).await?;
        let tagging = prober.tagging(create_only).await?;
        let create_only_copy = create_only && prober.create_only_copy().await;
        Ok(Self { create_only, create_only_copy, crc64nvme, tagging })
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
        let found = Capabilities::probe(&*self.site.store, &self.bucket, &root).await?;
        info!(
            location = %self.site.name,
            bucket = %self.bucket,
            create_only = found.create_only,
            create_only_copy = found.create_only_copy,
            crc64nvme = found.crc64nvme,
            tagging = found.tagging,
            "backup location probed"
        );
        Ok(found)
    }
}

impl Prober<'_> {
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
                self.store.head(self.at(&self.key("crc")), &Pin::default()).await?.crc64nvme
            }
            Err(error) if is_unable(error.kind) || error.kind == Kind::BadDigest => return Ok(false),
            Err(error) => return Err(error),
        };
        if kept != Some(right) {
            return Ok(false);
        }
        match self.put("bad", &body, proof(!right), &[], create_only).await {
            Err(error) if error.kind == Kind::BadDigest || is_unable(error.kind) => Ok(true),
            // Accepted, now or by an earlier probe.
            Ok(_) => Ok(false),
            Err(error) if error.kind == Kind::PreconditionFailed => Ok(false),
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
        match self.store.get_tags(self.at(&self.key("tags")), None).await {
            Ok(kept) => Ok(kept == tags),
            // Write-only tags are kept tags; a worker need not be allowed to read them.
            Err(error) => Ok(error.kind == Kind::Denied),
        }
    }

    /// A copy onto a key that exists must fail.
    async fn create_only_copy(&self) -> bool {
        let attributes = Attributes::default();
        let write = WriteOptions { attributes: &attributes, tags: &[], crc64nvme: false, create_only: true };
        let (from, to) = (self.key("crc"), self.key("race"));
        let copied = self.store.copy(self.at(&from), &Pin::default(), self.at(&to), &write).await;
        matches!(copied, Err(error) if error.kind == Kind::PreconditionFailed)
    }

    async fn exists(&self, name: &str) -> Result<bool, StoreError> {
        match self.store.head(self.at(&self.key(name)), &Pin::default()).await {
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
        let put = Put { body, proof, attributes: &attributes, tags, create_only };
        self.store.put(self.at(&self.key(name)), put).await
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
    async fn a_probe_finds_the_same_again_and_leaves_nothing_more() {
        for options in [
            MemoryOptions::default(),
            MemoryOptions { create_only: false, ..MemoryOptions::default() },
            MemoryOptions { crc64nvme: false, ..MemoryOptions::default() },
            MemoryOptions { tagging: false, ..MemoryOptions::default() },
        ] {
            let store = Arc::new(MemoryStore::new(options, &["backups"]));
            let first = target(Arc::clone(&store) as _).capabilities().await.expect("reachable");
            let keys = store.keys("backups");
            assert!(keys.len() <= 6 && keys.iter().all(|k| k.starts_with("p/.backhaul/probe/")), "{keys:?}");
            for _ in 0..3 {
                let again = target(Arc::clone(&store) as _).capabilities().await.expect("reachable");
                assert_eq!((again, store.keys("backups")), (first, keys.clone()));
            }
        }
    }

    #[tokio::test]
    async fn a_race_that_nobody_saw_the_end_of_is_run_again() {
        let store = Arc::new(MemoryStore::new(MemoryOptions::default(), &["backups"]));
        let faulty = Arc::new(FaultyStore::new(Arc::clone(&store) as _));
        let prober = Prober { store: &*store, bucket: "backups", root: "p/.backhaul/probe/" };
        assert_eq!(prober.race("race").await.expect("reachable"), Race::Decided);
        assert!(!prober.exists("race-decided").await.expect("reachable"));
        assert!(target(Arc::clone(&faulty) as _).capabilities().await.expect("reachable").create_only);
        assert!(prober.exists("race-decided").await.expect("reachable"));
        // With the marker, and only with it, the taken key is enough.
        faulty.add(Rule::new(Operation::Head, Fault::Fail(Kind::Connection)).times(1));
        assert_eq!(target(faulty).capabilities().await.expect_err("it looked").kind, Kind::Connection);
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
