//! The locations file of a test, and the credential files that it points to.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use crate::s3::Credentials;

/// Location that scenarios back up from.
pub const ORIGIN: &str = "uploads";
/// Its bucket.
pub const ORIGIN_BUCKET: &str = "user-uploads";
/// A second location that scenarios may back up from, on a store of its own; its bucket is called as the first one's.
pub const ARCHIVE: &str = "archive";
/// Location that backups go to.
pub const VAULT: &str = "vault";
/// Its bucket.
pub const VAULT_BUCKET: &str = "backups";
/// Prefix of every backup's key.
pub const VAULT_PREFIX: &str = "copies";

/// A store as the file names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// Base URL.
    pub endpoint: String,
    /// Keys that may do what Backhaul needs there.
    pub credentials: Credentials,
}

/// Who may read what of the origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// Bucket.
    pub bucket: String,
    /// Key prefixes; the empty one allows all.
    pub prefixes: Vec<String>,
    /// Tenants; `*` means all.
    pub tenants: Vec<String>,
}

impl Read {
    /// Everything in a bucket, for everybody.
    #[must_use]
    pub fn all_of(bucket: &str) -> Self {
        Self { bucket: bucket.to_owned(), prefixes: vec![String::new()], tenants: vec!["*".to_owned()] }
    }
}

/// Writes `locations.toml` and its credential files into `folder`: [`ORIGIN`] may be read as `reads` say and is backed up to
/// [`VAULT`]. Gives the path of the file.
///
/// # Errors
/// When a file cannot be written.
pub fn write(folder: &Path, origin: &Store, vault: &Store, reads: &[Read]) -> anyhow::Result<PathBuf> {
    write_all(folder, &[(ORIGIN, origin)], vault, reads, "")
}

/// As [`write()`], for several origins with the same reads. `terms` are further lines about the backups of each.
///
/// # Errors
/// When a file cannot be written.
pub fn write_all(
    folder: &Path,
    origins: &[(&str, &Store)],
    vault: &Store,
    reads: &[Read],
    terms: &str,
) -> anyhow::Result<PathBuf> {
    let mut text = String::new();
    for (name, origin) in origins {
        store(folder, name, origin, &mut text)?;
        for read in reads {
            let Read { bucket, prefixes, tenants } = read;
            write!(
                text,
                "[[location.{name}.read]]\nbucket = {bucket:?}\nprefixes = {prefixes:?}\ntenants = {tenants:?}\n\n"
            )?;
        }
        write!(
            text,
            "[location.{name}.backup]\nlocation = {VAULT:?}\nbucket = {VAULT_BUCKET:?}\nprefix = {VAULT_PREFIX:?}\n{terms}\n\n"
        )?;
    }
    store(folder, VAULT, vault, &mut text)?;
    let path = folder.join("locations.toml");
    fs::write(&path, text)?;
    Ok(path)
}

fn store(folder: &Path, name: &str, store: &Store, text: &mut String) -> anyhow::Result<()> {
    let file = folder.join(format!("{name}.credentials"));
    fs::write(&file, format!("{}\n{}\n", store.credentials.access_key, store.credentials.secret_key))?;
    let endpoint = &store.endpoint;
    write!(
        text,
        "[location.{name}]\nendpoint = {endpoint:?}\nregion = \"us-east-1\"\npath_style = true\ncredentials = {{ file = {file:?} }}\n\n"
    )?;
    Ok(())
}
