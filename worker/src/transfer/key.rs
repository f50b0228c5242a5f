//! Where a copy is kept: `<prefix>/<location>/<bucket>/<key>~<version>`, readable by hand and different for every source version.
//!
//! `<version>` begins with the time of the source, so that versions of one object sort in their order, and goes on with what identifies
//! it. Keys that stores mangle (`.`, `..`, empty segments, control characters) are written with `!` escapes, so that each stays distinct
//! and can be read back; `!` is legal everywhere and rare. A key that would be too long is replaced by its hash, and a manifest beside
//! the object names it in full. Pure.

use sha2::{Digest, Sha256};

use super::clock::{compact_utc, is_compact_utc};

/// Longest key: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html>
pub const KEY_MAX_BYTES: usize = 1024;
/// Longest segment: some stores keep keys as paths of files.
const SEGMENT_MAX_BYTES: usize = 255;
/// Longest identity of a version as it is; longer ones are hashed.
const IDENTITY_MAX_BYTES: usize = 128;
/// Room for the suffixes of a repaired copy and of its manifest.
const SUFFIX_MAX_BYTES: usize = "~r99".len() + MANIFEST_SUFFIX.len();
const MANIFEST_SUFFIX: &str = "~manifest.json";
const HASHED: &str = "!sha256/";

/// Most repaired copies of one version.
pub const MAX_REPAIRS: u32 = 99;

/// What identifies the version of an object that is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceName<'a> {
    /// Name of the origin.
    pub location: &'a str,
    /// Its bucket.
    pub bucket: &'a str,
    /// Its key.
    pub key: &'a str,
    /// Version id, where the bucket keeps versions.
    pub version: Option<&'a str>,
    /// ETag without quotes.
    pub etag: &'a str,
    /// Length.
    pub size_bytes: u64,
    /// Last-Modified.
    pub modified: Option<(i64, u32)>,
}

/// What all keys of a backup target have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Naming<'a> {
    /// Prefix, without slashes at its ends; may be empty.
    pub prefix: &'a str,
    /// Most bytes of a key that the store takes.
    pub key_max_bytes: usize,
}

/// The key of one version's copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupKey {
    base: String,
    version_at: usize,
    hashed: bool,
}

/// A key of the backup bucket, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsedKey {
    /// Name of the origin.
    pub location: String,
    /// Its bucket.
    pub bucket: String,
    /// Its key; `None` where only the manifest knows it.
    pub key: Option<String>,
    /// What follows the `~`: time and identity of the version.
    pub version: String,
    /// Which repaired copy; 0 for the first.
    pub repair: u32,
    /// The manifest of the copy, not the copy.
    pub manifest: bool,
}

/// A prefix that leaves no room for keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a backup prefix of {} bytes leaves no room for keys; at most {} fit", .prefix.len(), PREFIX_MAX_BYTES)]
pub struct PrefixTooLong {
    /// The prefix.
    pub prefix: String,
}

/// What is left of a key when location, bucket, hash, version and suffixes have their most, where a store takes as long ones as S3 does.
pub const PREFIX_MAX_BYTES: usize = 512;

/// Checks a configured prefix.
///
/// # Errors
/// [`PrefixTooLong`].
pub fn check_prefix(prefix: &str) -> Result<(), PrefixTooLong> {
    if prefix.len() > PREFIX_MAX_BYTES { Err(PrefixTooLong { prefix: prefix.to_owned() }) } else { Ok(()) }
}

impl<'a> Naming<'a> {
    /// The names in a store that takes every key of S3.
    #[must_use]
    pub const fn of_s3(prefix: &'a str) -> Self {
        Self { prefix, key_max_bytes: KEY_MAX_BYTES }
    }
}

impl BackupKey {
    /// The key of a copy.
    #[must_use]
    pub fn new(naming: Naming<'_>, source: &SourceName<'_>) -> Self {
        Self::with_version(naming, source.location, source.bucket, source.key, &version_of(source))
    }

    /// The key of a version whose name is known from another key.
    #[must_use]
    pub fn with_version(naming: Naming<'_>, location: &str, bucket: &str, key: &str, version: &str) -> Self {
        let mut root = String::with_capacity(256);
        if !naming.prefix.is_empty() {
            root.push_str(naming.prefix);
            root.push('/');
        }
        root.extend([location, "/", bucket, "/"]);
        let encoded = encode(key);
        let last =
            encoded.rsplit('/').next().unwrap_or_default().len() + 1 + version.len() + SUFFIX_MAX_BYTES;
        let length = root.len() + encoded.len() + 1 + version.len() + SUFFIX_MAX_BYTES;
        let fits = length <= naming.key_max_bytes
            && last <= SEGMENT_MAX_BYTES
            && encoded.split('/').all(|s| s.len() <= SEGMENT_MAX_BYTES);
        if fits {
            root.push_str(&encoded);
        } else {
            root.push_str(HASHED);
            root.push_str(&hex::encode(Sha256::digest(key)));
        }
        root.push('~');
        let version_at = root.len();
        root.push_str(version);
        Self { base: root, version_at, hashed: !fits }
    }

    /// The key of the copy; of the `repair`-th one where earlier ones turned out bad.
    #[must_use]
    pub fn object(&self, repair: u32) -> String {
        if repair == 0 { self.base.clone() } else { format!("{}~r{repair}", self.base) }
    }

    /// The key of that copy's manifest.
    #[must_use]
    pub fn manifest(&self, repair: u32) -> String {
        self.object(repair) + MANIFEST_SUFFIX
    }

    /// Bytes of the longest key that may be made for this version: a repaired copy's manifest.
    #[must_use]
    pub const fn longest(&self) -> usize {
        self.base.len() + SUFFIX_MAX_BYTES
    }

    /// The key does not tell the source's key.
    #[must_use]
    pub const fn is_hashed(&self) -> bool {
        self.hashed
    }

    /// Everything up to the version, the `~` included.
    #[must_use]
    pub fn stem(&self) -> &str {
        &self.base[..self.version_at]
    }

    /// The part that differs between versions of one object.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.base[self.version_at..]
    }
}

impl ParsedKey {
    /// Takes a key apart; `None` when it is not one of ours under that prefix.
    #[must_use]
    pub fn parse(prefix: &str, key: &str) -> Option<Self> {
        let rest = if prefix.is_empty() { key } else { key.strip_prefix(prefix)?.strip_prefix('/')? };
        let (location, rest) = rest.split_once('/')?;
        let (bucket, rest) = rest.split_once('/')?;
        let (rest, manifest) = match rest.strip_suffix(MANIFEST_SUFFIX) {
            Some(rest) => (rest, true),
            None => (rest, false),
        };
        let (head, tail) = rest.rsplit_once('~')?;
        let (name, version, repair) = match repair_number(tail) {
            Some(repair) => {
                let (name, version) = head.rsplit_once('~')?;
                (name, version, repair)
            }
            None => (head, tail, 0),
        };
        if !is_version(version) {
            return None;
        }
        let key = match name.strip_prefix(HASHED) {
            Some(hash) => {
                (hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit())).then_some(None)?
            }
            None => Some(decode(name)?),
        };
        Some(Self {
            location: location.to_owned(),
            bucket: bucket.to_owned(),
            key,
            version: version.to_owned(),
            repair,
            manifest,
        })
    }
}

fn version_of(source: &SourceName<'_>) -> String {
    let time = compact_utc(source.modified.map(|(seconds, _)| seconds));
    // `null` names whatever is there without a version, which can be overwritten: the ETag says more.
    let identity = match source.version {
        Some(version) if version != "null" => escape(version, true),
        _ => format!("{}-{}", escape(source.etag, true), source.size_bytes),
    };
    if identity.len() <= IDENTITY_MAX_BYTES {
        format!("{time}-{identity}")
    } else {
        format!("{time}-!{}", hex::encode(Sha256::digest(identity)))
    }
}

fn is_version(text: &str) -> bool {
    text.split_once('-').is_some_and(|(time, identity)| {
        is_compact_utc(time)
            && !identity.is_empty()
            && identity.bytes().all(|b| b.is_ascii_alphanumeric() || b"._!-".contains(&b))
    })
}

fn repair_number(text: &str) -> Option<u32> {
    let digits = text.strip_prefix('r')?;
    let number = digits.parse().ok().filter(|n| (1..=MAX_REPAIRS).contains(n))?;
    (number.to_string() == digits).then_some(number)
}

fn encode(key: &str) -> String {
    let segments: Vec<String> = key
        .split('/')
        .map(|segment| match segment {
            "" => "!".to_owned(),
            "." => "!2E".to_owned(),
            ".." => "!2E!2E".to_owned(),
            other => escape(other, false),
        })
        .collect();
    segments.join("/")
}

fn escape(text: &str, strict: bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    let mut buffer = [0; 4];
    for c in text.chars() {
        let plain = if strict {
            c.is_ascii_alphanumeric() || "._-".contains(c)
        } else {
            !c.is_control() && !matches!(c, '!' | '\\' | '\u{fffe}' | '\u{ffff}')
        };
        if plain {
            escaped.push(c);
        } else {
            for byte in c.encode_utf8(&mut buffer).bytes() {
                escaped.push_str(&format!("!{byte:02X}"));
            }
        }
    }
    escaped
}

fn decode(encoded: &str) -> Option<String> {
    let segments: Option<Vec<String>> = encoded.split('/').map(decode_segment).collect();
    Some(segments?.join("/"))
}

fn decode_segment(segment: &str) -> Option<String> {
    if segment == "!" {
        return Some(String::new());
    }
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'!' {
            let (digits, tail) = tail.split_at_checked(2)?;
            bytes.extend(hex::decode(digits).ok()?);
            rest = tail;
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok().filter(|s| !s.is_empty())
}

#[cfg(test)]
mod tests;
