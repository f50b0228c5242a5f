//! Tests of the engine over stores in memory that go wrong on demand. Time is paused: pauses and timeouts cost nothing.

mod away;
mod faults;
mod faults_http;
mod fidelity;
mod inside;
mod listing;
mod memory;
mod names;
mod policies;
mod reads;
mod s3;
mod same_second;
mod servers;
mod terms;
mod uploads;
mod vast;
mod writes;

use std::{path::Path, sync::Arc, time::Duration};

use backhaul_runtime::locations::Locations;
use bytes::Bytes;

use super::{
    Copier, CopyReceipt, CopyRequest, Engine, EngineSettings, Limits, ProgressCell, RetryPolicy, Stop,
    TransferError, key::ParsedKey, metadata::Record,
};
use crate::store::{
    Attributes, ObjectStore,
    faulty::{Fault, FaultyStore, Rule},
    memory::{MemoryOptions, MemoryStore, Stored},
};

/// Size of a part in these tests.
const PART: u64 = 4096;
/// What all copies of these tests may hold together.
const MEMORY: u64 = 16 * PART;

/// An engine between two stores.
struct Rig {
    origin: Arc<MemoryStore>,
    vault: Arc<MemoryStore>,
    origin_faults: Arc<FaultyStore>,
    vault_faults: Arc<FaultyStore>,
    engine: Engine,
}

/// What differs between rigs.
#[derive(Debug, Clone, Copy)]
struct Setup {
    origin: MemoryOptions,
    vault: MemoryOptions,
    verify: &'static str,
    sha256: bool,
    /// Both locations are one store.
    same_store: bool,
    /// More settings of the origin, of the backup target, and of the backup location.
    photos: &'static str,
    backup: &'static str,
    vault_location: &'static str,
    /// What all copies begin with.
    prefix: &'static str,
}

impl Default for Setup {
    fn default() -> Self {
        let options = MemoryOptions { min_part_bytes: PART, piece_bytes: 1000, ..MemoryOptions::default() };
        Self {
            origin: options,
            vault: options,
            verify: "receipt",
            sha256: false,
            same_store: false,
            photos: "",
            backup: "",
            vault_location: "",
            prefix: "copies",
        }
    }
}

impl Rig {
    fn new() -> Self {
        Self::with(Setup::default())
    }

    fn with(setup: Setup) -> Self {
        let origin = Arc::new(MemoryStore::new(setup.origin, &["uploads", "versioned", "backups"]));
        let vault = if setup.same_store {
            Arc::clone(&origin)
        } else {
            Arc::new(MemoryStore::new(setup.vault, &["backups"]))
        };
        let origin_faults = Arc::new(FaultyStore::new(Arc::clone(&origin) as Arc<dyn ObjectStore>));
        let vault_faults = Arc::new(FaultyStore::new(Arc::clone(&vault) as Arc<dyn ObjectStore>));
        let engine = Engine::with_stores(&locations(setup), settings(), |location| {
            let store = if location.name == "photos" { &origin_faults } else { &vault_faults };
            Some(Arc::clone(store) as Arc<dyn ObjectStore>)
        });
        Self { origin, vault, origin_faults, vault_faults, engine: engine.expect("setup") }
    }

    /// Puts an object into the origin.
    fn upload(&self, key: &str, bytes: &[u8]) {
        self.origin.seed("uploads", key, Bytes::copy_from_slice(bytes), Attributes::default(), &[]);
    }

    async fn copy(&self, key: &str) -> Result<CopyReceipt, TransferError> {
        self.engine.copy(&request(key), Arc::default(), Stop::default()).await
    }

    async fn copied(&self, key: &str) -> CopyReceipt {
        self.copy(key).await.unwrap_or_else(|e| panic!("{key}: {} {e}", e.kind.code()))
    }

    async fn fails(&self, key: &str) -> &'static str {
        self.copy(key).await.expect_err("must fail").kind.code()
    }

    /// The one version under a key of the backup bucket.
    fn backup(&self, key: &str) -> Stored {
        let versions = self.vault.versions("backups", key);
        assert_eq!(versions.len(), 1, "{key} was written {} times", versions.len());
        versions.into_iter().next().expect("one")
    }

    /// Keys of the backup bucket, those of probes left out.
    fn backups(&self) -> Vec<String> {
        let keys = self.vault.keys("backups").into_iter();
        keys.filter(|k| !k.contains("/.backhaul/")).collect()
    }

    /// Checks everything that a receipt says, and that nothing is left behind.
    fn assert_holds(&self, receipt: &CopyReceipt, bytes: &[u8]) {
        let stored = self.backup(&receipt.backup_key);
        assert!(stored.bytes == bytes, "the backup has other bytes than the source");
        assert_eq!(receipt.size_bytes, bytes.len() as u64);
        assert_eq!(receipt.crc64nvme, crc_fast::crc64_nvme(bytes));
        assert_eq!(receipt.backup_etag, stored.info.etag);
        assert_eq!((receipt.backup_location.as_str(), receipt.backup_bucket.as_str()), ("vault", "backups"));
        let parsed = ParsedKey::parse("copies", &receipt.backup_key).expect("one of our keys");
        assert_eq!(parsed.location, "photos");
        if let Some(record) = Record::from_object(&stored.info) {
            assert_eq!(record.etag, receipt.source_etag);
            assert!(record.crc().is_none_or(|crc| crc == receipt.crc64nvme));
        }
        assert_eq!(self.vault.open_uploads(), Vec::<String>::new(), "an upload was left");
    }

    fn origin_does(&self, rule: Rule) {
        self.origin_faults.add(rule);
    }

    fn vault_does(&self, rule: Rule) {
        self.vault_faults.add(rule);
    }

    /// A fault that spoils the copies of a key at rest, after a request.
    fn rot(&self, key_part: &str) -> Fault {
        let (vault, key_part) = (Arc::clone(&self.vault), key_part.to_owned());
        Fault::After(Arc::new(move || {
            for key in vault.keys("backups").iter().filter(|k| k.contains(&key_part)) {
                vault.rot("backups", key);
            }
        }))
    }

    /// A fault that replaces the source at the moment of a request.
    fn overwrite(&self, key: &str, bytes: &[u8]) -> Fault {
        let (origin, key) = (Arc::clone(&self.origin), key.to_owned());
        let bytes = Bytes::copy_from_slice(bytes);
        Fault::Before(Arc::new(move || {
            origin.seed("uploads", &key, bytes.clone(), Attributes::default(), &[]);
        }))
    }
}

fn settings() -> EngineSettings {
    EngineSettings {
        memory_bytes: MEMORY,
        part_bytes: PART,
        whole_bytes: PART,
        copy_part_bytes: 4 * PART,
        window: 4,
        limits: Limits { min_part_bytes: 1, ..Limits::default() },
        retry: RetryPolicy { attempts: 4, first: Duration::from_millis(10), longest: Duration::from_secs(1) },
        ..EngineSettings::default()
    }
}

fn locations(setup: Setup) -> Locations {
    let vault_endpoint = if setup.same_store { "http://origin" } else { "http://vault" };
    let text = format!(
        r#"
        [location.photos]
        endpoint = "http://origin"
        credentials = {{ env = "ORIGIN" }}
        verify = "{}"
        sha256 = {}
        {}
        [[location.photos.read]]
        bucket = "uploads"
        tenants = ["*"]
        [location.photos.backup]
        location = "vault"
        bucket = "backups"
        prefix = "{}"
        {}
        [location.vault]
        endpoint = "{vault_endpoint}"
        credentials = {{ env = "VAULT" }}
        {}
        "#,
        setup.verify, setup.sha256, setup.photos, setup.prefix, setup.backup, setup.vault_location
    );
    Locations::parse(&text, Path::new("test.toml")).unwrap_or_else(|e| panic!("{e}"))
}

fn request(key: &str) -> CopyRequest {
    CopyRequest {
        task_id: "00-task".into(),
        tenant: "tenant-1".into(),
        location: "photos".into(),
        bucket: "uploads".into(),
        key: key.to_owned(),
        version: None,
        verify: None,
        resume_upload_id: String::new(),
        retention_class: None,
    }
}

/// Bytes that are different everywhere, and for every seed.
fn bytes(length: u64, seed: u8) -> Vec<u8> {
    let length = usize::try_from(length).expect("fits");
    let mut state = u64::from(seed) + 1;
    let mut all = Vec::with_capacity(length + 8);
    while all.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        all.extend_from_slice(&(state ^ (state >> 32)).to_le_bytes());
    }
    all.truncate(length);
    all
}

#[test]
fn an_unknown_location_and_settings_that_cannot_work_are_named() {
    let rig = Rig::new();
    let unknown = CopyRequest { location: "nowhere".into(), ..request("k") };
    let copy = rig.engine.copy(&unknown, Arc::<ProgressCell>::default(), Stop::default());
    let error = futures_util::FutureExt::now_or_never(copy).expect("at once").expect_err("unknown");
    assert_eq!(error.kind.code(), "unsupported");
    assert!(error.message.contains("nowhere"));
    let tight = EngineSettings { memory_bytes: PART, ..settings() };
    let error = Engine::with_stores(&locations(Setup::default()), tight, |_| None).expect_err("too tight");
    assert!(error.to_string().starts_with("memory_bytes"), "{error}");
}
