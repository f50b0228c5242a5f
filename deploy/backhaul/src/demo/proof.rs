//! The proof of one copy: the backup, read from its store, against the file on disk and the receipt.

use anyhow::{Context as _, ensure};
use backhaul_proto::v1;
use tokio::{
    fs::File,
    io::{AsyncReadExt as _, BufReader},
};

use super::{files::DemoFile, stores::Store};

/// Compares the copy that `receipt` names with `file`, byte for byte, and its headers and metadata with what was uploaded.
pub(crate) async fn check(
    vault: &Store,
    bucket: &str,
    file: &DemoFile,
    receipt: &v1::Receipt,
) -> anyhow::Result<()> {
    let backup = receipt.backup.clone().context("the receipt names no backup")?;
    ensure!(backup.bucket == bucket, "it is in bucket {:?}", backup.bucket);
    ensure!(receipt.size_bytes == file.size_bytes, "the receipt says {} bytes", receipt.size_bytes);
    ensure!(receipt.not_kept.is_empty(), "not kept: {:?}", receipt.not_kept);
    let mut object = vault.open(bucket, &backup.key).await?;
    ensure!(object.content_type() == Some(file.content_type), "its type is {:?}", object.content_type());
    ensure!(object.content_language() == file.language, "its language is {:?}", object.content_language());
    let metadata = object.metadata().cloned().unwrap_or_default();
    for (name, value) in &file.metadata {
        ensure!(metadata.get(name) == Some(value), "its metadata {name:?} is {:?}", metadata.get(name));
    }

    let mut original = BufReader::with_capacity(1 << 20, File::open(&file.path).await?);
    let mut expected = Vec::new();
    let mut at = 0;
    while let Some(chunk) = object.body.try_next().await? {
        expected.resize(chunk.len(), 0);
        original
            .read_exact(&mut expected)
            .await
            .with_context(|| format!("it is longer than {} bytes", file.size_bytes))?;
        ensure!(chunk == expected, "it differs between byte {at} and byte {}", at + chunk.len());
        at += chunk.len();
    }
    ensure!(at as u64 == file.size_bytes, "it is only {at} bytes long");
    Ok(())
}
