//! The servers that are copied between, what lies on them, and how everybody is told where they are.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use backhaul_runtime::locations::Locations;
use backhaul_tests::{
    locations::{self, ORIGIN, Read, Store, VAULT, VAULT_BUCKET},
    weed::{WeedLimits, WeedServer},
};
use backhaul_worker::store::{
    Attributes, ClientSettings, Clients, Completion, ObjectPath, ObjectStore, Payload, Proof, Put, S3Store,
    Terms, UploadRef, WriteOptions,
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::{
    case::{Case, block, cut},
    usage::cpu_s_of,
};

/// Where they stop keeping everything in memory: far above what tests allow, because here their speed matters.
const LIMITS: WeedLimits = WeedLimits { memory: "3GiB", volume_mib: 1024 };

/// An object that is copied before anything is measured, so that programs that go on running have begun.
pub(crate) const WARM_BUCKET: &str = "warm-up";
/// Its key.
pub(crate) const WARM_KEY: &str = "warm";

const PART_BYTES: u64 = 32 << 20;
const UPLOADS_AT_ONCE: usize = 16;

/// Two SeaweedFS servers: one with the objects, one for copies.
#[derive(Debug)]
pub(crate) struct Stores {
    origin: WeedServer,
    vault: WeedServer,
}

/// Clients of the two sides of a copy, as a locations file names them.
#[derive(Debug)]
pub(crate) struct Sides {
    pub(crate) origin: S3Store,
    pub(crate) vault: S3Store,
}

impl Stores {
    /// Starts both and writes all objects.
    pub(crate) async fn start(cases: &[Case]) -> anyhow::Result<Self> {
        let origin = WeedServer::start_with(LIMITS).await?;
        let vault = WeedServer::start_with(LIMITS).await?;
        let stores = Self { origin, vault };
        let folder = tempfile::tempdir()?;
        let sides = Sides::open(&stores.locations(folder.path(), cases, false)?)?;
        let client = stores.origin.client();
        client.create_bucket(WARM_BUCKET).await?;
        client.put(WARM_BUCKET, WARM_KEY, "warm".into()).await?;
        let mut written = BTreeSet::new();
        for case in cases.iter().filter(|case| written.insert(case.bucket)) {
            client.create_bucket(case.bucket).await?;
            upload(&sides.origin, case).await.with_context(|| format!("writing {}", case.bucket))?;
        }
        Ok(stores)
    }

    /// The server that copies of a case go to.
    pub(crate) fn vault_of(&self, case: &Case) -> &WeedServer {
        if case.inside { &self.origin } else { &self.vault }
    }

    /// The server that holds the objects.
    pub(crate) const fn origin(&self) -> &WeedServer {
        &self.origin
    }

    /// What both have taken of the processors so far, in seconds.
    pub(crate) fn cpu_s(&mut self) -> anyhow::Result<f64> {
        Ok(cpu_s_of(self.origin.process().id())? + cpu_s_of(self.vault.process().id())?)
    }

    /// Makes a bucket for the copies of a case, with nothing but one object in it: SeaweedFS gets room for a bucket when it is first
    /// written to, which takes a second, and is nobody's copying.
    pub(crate) async fn empty_vault(&self, case: &Case) -> anyhow::Result<()> {
        let client = self.vault_of(case).client();
        client.create_bucket(VAULT_BUCKET).await?;
        client.put(VAULT_BUCKET, WARM_KEY, "warm".into()).await.map(drop)
    }

    /// Takes the bucket away again, with all that is in it: SeaweedFS gives the room back only of whole buckets.
    pub(crate) async fn drop_vault(&self, case: &Case) -> anyhow::Result<()> {
        self.vault_of(case).client().delete_bucket(VAULT_BUCKET).await
    }

    /// Objects and bytes in the bucket of copies.
    pub(crate) async fn copied(&self, case: &Case) -> anyhow::Result<u64> {
        let keys = self.vault_of(case).client().keys(VAULT_BUCKET, "").await?;
        Ok(keys.iter().filter(|key| key.contains("object-")).count() as u64)
    }

    /// Writes a locations file into `folder`.
    pub(crate) fn locations(&self, folder: &Path, cases: &[Case], inside: bool) -> anyhow::Result<PathBuf> {
        let store = |server: &WeedServer| Store {
            endpoint: server.endpoint(),
            credentials: server.credentials().clone(),
        };
        let buckets: BTreeSet<&str> = cases.iter().map(|case| case.bucket).chain([WARM_BUCKET]).collect();
        let reads: Vec<Read> = buckets.into_iter().map(Read::all_of).collect();
        let vault = if inside { &self.origin } else { &self.vault };
        locations::write(folder, &store(&self.origin), &store(vault), &reads)
    }
}

impl Sides {
    /// Clients for a locations file.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let locations = Locations::load(path)?;
        let clients = Clients::new(ClientSettings::default())?;
        let store = |name| anyhow::Ok(clients.store(locations.get(name).context("no such location")?)?);
        Ok(Self { origin: store(ORIGIN)?, vault: store(VAULT)? })
    }
}

/// Writes the objects of a case as an uploader does that knows no CRC-64: their only proof is their ETag.
async fn upload(store: &S3Store, case: &Case) -> anyhow::Result<()> {
    let block = block();
    if case.size_bytes > PART_BYTES {
        for number in 0..case.count {
            let at = ObjectPath { bucket: case.bucket, key: &case.key(number) };
            upload_parts(store, at, case.size_bytes, number, &block).await?;
        }
        return Ok(());
    }
    let writes = stream::iter(0..case.count).map(|number| {
        let (block, key) = (&block, case.key(number));
        async move {
            let body = Payload::new(cut(block, number, case.size_bytes));
            let attributes = Attributes::default();
            let put = Put {
                body: &body,
                proof: Proof::default(),
                attributes: &attributes,
                tags: &[],
                terms: Terms::default(),
                create_only: false,
            };
            store.put(ObjectPath { bucket: case.bucket, key: &key }, put).await.map(drop)
        }
    });
    Ok(writes.buffer_unordered(UPLOADS_AT_ONCE).try_collect().await?)
}

async fn upload_parts(
    store: &S3Store,
    at: ObjectPath<'_>,
    size_bytes: u64,
    number: u64,
    block: &bytes::Bytes,
) -> anyhow::Result<()> {
    let attributes = Attributes::default();
    let write = WriteOptions {
        attributes: &attributes,
        tags: &[],
        terms: Terms::default(),
        crc64nvme: false,
        create_only: false,
    };
    let id = store.create_upload(at, &write).await?;
    let upload = UploadRef { at, id: &id };
    let starts = (0..size_bytes).step_by(usize::try_from(PART_BYTES)?);
    let parts = stream::iter(starts.zip(1_u32..)).map(|(start, part)| async move {
        let length = PART_BYTES.min(size_bytes - start);
        let body = Payload::new(cut(block, number + u64::from(part), length));
        store.upload_part(upload, part, &body, Proof::default()).await
    });
    let parts: Vec<_> = parts.buffered(2).try_collect().await?;
    let completion = Completion { size_bytes, crc64nvme: None, create_only: false };
    store.complete_upload(upload, &parts, completion).await?;
    Ok(())
}
