//! Figures of the engine alone: small objects per second and bytes per second of large ones, from one S3 server to another.
//!
//! `cargo run --release -p backhaul-worker --example copy_load -- LOCATIONS.toml` takes the stores from a file with an origin named
//! `photos`; without an argument it starts two embedded stores in this process, whose own work is then part of the figures. It only
//! reports: no figure makes it fail.

use std::{fmt::Write as _, path::Path, sync::Arc};

use anyhow::{Context, Result};
use backhaul_embedded_s3::{Bucket, Credentials, EmbeddedS3, Options, Storage};
use backhaul_runtime::locations::Locations;
use backhaul_worker::{
    store::{
        Attributes, ClientSettings, Clients, ObjectPath, ObjectStore, Payload, Proof, Put, S3Store, Terms,
    },
    transfer::{Copier, CopyRequest, Engine, EngineSettings, Stop},
};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::time::Instant;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// What is copied: name, number, size, copies at once.
const LOADS: [(&str, usize, usize, usize); 4] = [
    ("small", 5_000, 16 * KIB, 32),
    ("medium", 40, 32 * MIB, 8),
    ("large", 1, 256 * MIB, 1),
    ("again", 5_000, 16 * KIB, 32),
];

#[tokio::main]
async fn main() -> Result<()> {
    let files = tempfile::tempdir()?;
    let mut servers = Vec::new();
    let locations = match std::env::args_os().nth(1) {
        Some(path) => Locations::load(Path::new(&path))?,
        None => {
            std::fs::write(files.path().join("credentials"), "key\nsecret\n")?;
            for _ in 0..2 {
                servers.push(start().await?);
            }
            locations(&servers, &files.path().join("credentials"))?
        }
    };
    let origin = locations.get("photos").context("the locations file has no `photos`")?;
    let store = Clients::new(ClientSettings::default())?.store(origin)?;
    let engine = Engine::new(&locations, EngineSettings::default())?;
    for probe in engine.probe().await {
        report(&format!("{} {}: {:?}", probe.location, probe.bucket, probe.result?))?;
    }
    for (name, count, size, at_once) in LOADS {
        let keys: Vec<String> = (0..count).map(|i| format!("load/{size}/{i}")).collect();
        if name != "again" {
            upload(&store, &keys, size).await?;
        }
        let (cpu, began) = (cpu_seconds()?, Instant::now());
        let present: Vec<bool> =
            stream::iter(&keys).map(|key| copy(&engine, key)).buffer_unordered(at_once).try_collect().await?;
        let seconds = began.elapsed().as_secs_f64();
        let mib = (count * size) as f64 / MIB as f64;
        report(&format!(
            "{name}: {count} x {size} B, {at_once} at once: {seconds:.2} s, {:.0} objects/s, {:.0} MiB/s, \
             {:.2} CPU s in this process, {} already present, peak {} MiB of object bytes, {} resident",
            count as f64 / seconds,
            mib / seconds,
            cpu_seconds()? - cpu,
            present.iter().filter(|p| **p).count(),
            engine.memory_high_water().0 / MIB as u64,
            resident()?
        ))?;
    }
    for server in servers {
        server.shutdown().await;
    }
    Ok(())
}

async fn start() -> Result<EmbeddedS3> {
    Ok(EmbeddedS3::start(Options {
        listen: ([127, 0, 0, 1], 0).into(),
        storage: Storage::Memory,
        credentials: vec![Credentials { access_key: "key".into(), secret_key: "secret".into() }],
        buckets: ["uploads", "backups"].map(|b| Bucket { name: b.into(), versioned: false }).into(),
    })
    .await?)
}

fn locations(servers: &[EmbeddedS3], credentials: &Path) -> Result<Locations> {
    let mut text = String::new();
    for (name, server) in ["photos", "vault"].into_iter().zip(servers) {
        writeln!(text, "[location.{name}]\nendpoint = \"{}\"\npath_style = true", server.endpoint())?;
        writeln!(text, "credentials = {{ file = \"{}\" }}", credentials.display())?;
    }
    text.push_str("[[location.photos.read]]\nbucket = \"uploads\"\ntenants = [\"*\"]\n");
    text.push_str("[location.photos.backup]\nlocation = \"vault\"\nbucket = \"backups\"\n");
    Ok(Locations::parse(&text, Path::new("generated"))?)
}

async fn upload(store: &S3Store, keys: &[String], size: usize) -> Result<()> {
    let bytes: Vec<u8> =
        (0..size).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).take(size).collect();
    let body = Payload::from(Bytes::from(bytes));
    let attributes = Attributes::default();
    let proof = Proof { crc64nvme: Some(crc_fast::crc64_nvme(&body.to_bytes())), md5: None };
    let put = Put {
        body: &body,
        proof,
        attributes: &attributes,
        tags: &[],
        terms: Terms::default(),
        create_only: false,
    };
    stream::iter(keys)
        .map(|key| store.put(ObjectPath { bucket: "uploads", key }, put))
        .buffer_unordered(16)
        .try_for_each(|_| std::future::ready(Ok(())))
        .await?;
    Ok(())
}

async fn copy(engine: &Engine, key: &str) -> Result<bool> {
    let request = CopyRequest {
        task_id: "load".into(),
        tenant: "load".into(),
        location: "photos".into(),
        bucket: "uploads".into(),
        key: key.to_owned(),
        version: None,
        verify: None,
        resume_upload_id: String::new(),
        retention_class: None,
    };
    Ok(engine.copy(&request, Arc::default(), Stop::default()).await?.already_present)
}

/// User and system time of this process, where the kernel tells it.
fn cpu_seconds() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit(')').next().context("no fields")?;
    let ticks =
        after_name.split_whitespace().skip(11).take(2).map(str::parse::<f64>).sum::<Result<f64, _>>()?;
    Ok(ticks / 100.0)
}

fn resident() -> Result<String> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap_or_default();
    Ok(line.trim_start_matches("VmHWM:").trim().to_owned())
}

fn report(line: &str) -> Result<()> {
    use std::io::Write as _;
    writeln!(std::io::stdout(), "{line}")?;
    Ok(())
}
