//! Backhaul's engine alone, as a worker with default settings has it, and the bound: bare requests of the same store client.
//!
//! Both run in a process of their own, so that what they cost can be told from what the servers and this program cost.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use anyhow::ensure;
use backhaul_runtime::locations::Locations;
use backhaul_tests::locations::{ORIGIN, VAULT_BUCKET};
use backhaul_worker::{
    app::engine_settings,
    config::Args,
    store::{
        Attributes, ByteRange, Completion, ObjectPath, ObjectStore, Payload, Pin, Proof, Put, Terms,
        UploadRef, WriteOptions,
    },
    transfer::{Copier, CopyRequest, Engine, EngineSettings, Stop},
};
use bytes::Bytes;
use clap::Parser as _;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::task::JoinSet;

use crate::{
    case::{Case, block, cut},
    stores::Sides,
};

/// Parts of one object in flight, as the engine has them.
const WINDOW: usize = 4;

/// Copies everything of a case with the engine.
pub(crate) async fn copy(locations: &Path, case: &Case) -> anyhow::Result<()> {
    let locations = Locations::load(locations)?;
    let engine = Arc::new(Engine::new(&locations, defaults(&locations)?)?);
    let (mut keys, mut copies) = (case.keys(), JoinSet::new());
    loop {
        while copies.len() < case.at_once
            && let Some(key) = keys.next()
        {
            let (engine, request) = (Arc::clone(&engine), request(case, key));
            copies.spawn(async move { engine.copy(&request, Arc::default(), Stop::default()).await });
        }
        let Some(copied) = copies.join_next().await else { return Ok(()) };
        let receipt = copied??;
        ensure!(receipt.size_bytes == case.size_bytes, "{receipt:?}");
        ensure!(!receipt.already_present, "{} was there before", receipt.backup_key);
        ensure!(receipt.server_side == case.inside, "{receipt:?}");
    }
}

/// What a worker is set to that was told only what it cannot do without.
fn defaults(locations: &Locations) -> anyhow::Result<EngineSettings> {
    // It connects to nobody.
    let told = ["worker", "--dispatcher=http://127.0.0.1:1", "--insecure", "--locations=nowhere"];
    let origins = locations.origins().map(ToOwned::to_owned).collect();
    Ok(engine_settings(&Args::try_parse_from(told)?.settings(origins, BTreeSet::new(), Some("bench"))?))
}

fn request(case: &Case, key: String) -> CopyRequest {
    CopyRequest {
        task_id: "bench".into(),
        tenant: "bench".into(),
        location: ORIGIN.into(),
        bucket: case.bucket.into(),
        key,
        version: None,
        verify: None,
        resume_upload_id: String::new(),
        retention_class: None,
    }
}

/// As many bare requests as a copy of a case cannot do without: reads and writes side by side, whose bytes have nothing to do with each
/// other; or copies inside the store.
pub(crate) async fn bound(locations: &Path, case: &Case) -> anyhow::Result<()> {
    let sides = Sides::open(locations)?;
    if case.inside {
        return copy_inside(&sides, case).await;
    }
    tokio::try_join!(read_all(&sides, case), write_all(&sides, case))?;
    Ok(())
}

async fn copy_inside(sides: &Sides, case: &Case) -> anyhow::Result<()> {
    let copies = stream::iter(case.keys()).map(|key| async move {
        let attributes = Attributes::default();
        let write = WriteOptions {
            attributes: &attributes,
            tags: &[],
            terms: Terms::default(),
            crc64nvme: false,
            create_only: false,
        };
        let from = ObjectPath { bucket: case.bucket, key: &key };
        let to = ObjectPath { bucket: VAULT_BUCKET, key: &key };
        sides.vault.copy(from, &Pin::default(), to, &write).await.map(drop)
    });
    Ok(copies.buffer_unordered(case.at_once).try_collect().await?)
}

async fn read_all(sides: &Sides, case: &Case) -> anyhow::Result<()> {
    let wanted = (0..case.count).flat_map(|number| ranges(case).map(move |range| (number, range)));
    let reads = stream::iter(wanted).map(|(number, range)| async move {
        let key = case.key(number);
        let at = ObjectPath { bucket: case.bucket, key: &key };
        let part = (range.length < case.size_bytes).then_some(range);
        let answer = sides.origin.get(at, &Pin::default(), part).await?;
        let read = answer.body.try_fold(0, async |sum, bytes: Bytes| Ok(sum + bytes.len() as u64)).await?;
        ensure!(read == range.length, "{read} of {} bytes", range.length);
        anyhow::Ok(())
    });
    reads.buffer_unordered(case.at_once.max(WINDOW)).try_collect().await
}

async fn write_all(sides: &Sides, case: &Case) -> anyhow::Result<()> {
    let block = block();
    let attributes = Attributes::default();
    let write = WriteOptions {
        attributes: &attributes,
        tags: &[],
        terms: Terms::default(),
        crc64nvme: false,
        create_only: false,
    };
    let one = |number| {
        let (block, key, attributes) = (&block, case.key(number), &attributes);
        async move {
            let body = Payload::new(cut(block, number, case.size_bytes));
            let at = ObjectPath { bucket: VAULT_BUCKET, key: &key };
            let put = Put {
                body: &body,
                proof: Proof::default(),
                attributes,
                tags: &[],
                terms: Terms::default(),
                create_only: false,
            };
            sides.vault.put(at, put).await.map(drop)
        }
    };
    if case.count > 1 {
        return Ok(stream::iter(0..case.count).map(one).buffer_unordered(case.at_once).try_collect().await?);
    }
    let key = case.key(0);
    let at = ObjectPath { bucket: VAULT_BUCKET, key: &key };
    let id = sides.vault.create_upload(at, &write).await?;
    let upload = UploadRef { at, id: &id };
    let parts = stream::iter(ranges(case).zip(1_u32..)).map(|(range, number)| {
        let body = Payload::new(cut(&block, number.into(), range.length));
        async move { sides.vault.upload_part(upload, number, &body, Proof::default()).await }
    });
    let parts: Vec<_> = parts.buffered(WINDOW).try_collect().await?;
    let completion = Completion { size_bytes: case.size_bytes, crc64nvme: None, create_only: false };
    sides.vault.complete_upload(upload, &parts, completion).await?;
    Ok(())
}

/// A single object is moved in parts, one of several as a whole.
fn ranges(case: &Case) -> impl Iterator<Item = ByteRange> + use<> {
    const PART_BYTES: u64 = 16 << 20;
    let size = case.size_bytes;
    let step = if case.count == 1 { PART_BYTES } else { size };
    let starts = (0..size).step_by(usize::try_from(step).unwrap_or(usize::MAX));
    starts.map(move |start| ByteRange { start, length: step.min(size - start) })
}
