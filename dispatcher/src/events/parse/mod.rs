//! What a notification says: bytes in, [`Notice`]s out, one small reader for each form. Pure.
//!
//! Bounded in size, depth and count before anything is kept, because whoever sends is only as trusted as a leaked token. A record
//! that cannot be understood is [`Notice::Unknown`] and leaves the others alone; a body that cannot is [`Malformed`]. Nothing
//! here may know sources, tenants or the queue.

mod eventbridge;
mod json;
mod key;
mod s3;
mod seaweedfs;
#[cfg(test)]
mod tests;

use serde::Deserialize;

/// Largest body, in bytes: 10,000 records of the usual length, and some to spare.
pub const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;
/// Most records of a body.
pub const MAX_RECORDS: usize = 10_000;
/// Deepest nesting of a body. Notifications have 6 levels.
pub const MAX_DEPTH: usize = 32;

/// How an origin writes its notifications.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// AWS S3: `Records[]` with URL-encoded keys.
    S3,
    /// The same, wrapped into a signed message of Amazon SNS.
    Sns,
    /// Amazon EventBridge: one event, keys as they are.
    EventBridge,
    /// `MinIO`: as AWS S3, with a slash encoded too.
    Minio,
    /// Ceph RGW: as AWS S3, with keys as they are.
    Ceph,
    /// `SeaweedFS`'s filer: a path and an event of its own.
    SeaweedFs,
}

/// One thing that a body tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// An object was written.
    Upload(Upload),
    /// An object, or a version of it, was removed.
    Removal(Removal),
    /// The origin only asks whether somebody listens.
    Test,
    /// Known, and nothing to back up: tags, access lists, restores, folders.
    Nothing,
    /// Not understood, and why.
    Unknown(&'static str),
}

/// A written object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// Bucket.
    pub bucket: String,
    /// Key exactly as the store has it.
    pub key: String,
    /// Version; `None` means the latest, also where the origin says `null`: that version is replaced by every write.
    pub version: Option<String>,
    /// Size as it was told; a hint.
    pub size_bytes: Option<u64>,
    /// As it was told; for logs.
    pub etag: String,
    /// As it was told; for logs. Not every store's can be used for order, so nobody's is.
    pub sequencer: String,
}

/// A removed object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// Bucket.
    pub bucket: String,
    /// Key exactly as the store had it.
    pub key: String,
    /// Version, if one was named.
    pub version: Option<String>,
}

/// Why nothing of a body can be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// More than [`MAX_BODY_BYTES`].
    #[error("the body is larger than 16 MiB")]
    TooLarge,
    /// Text must be UTF-8.
    #[error("the body is not UTF-8")]
    NotUtf8,
    /// More than [`MAX_DEPTH`].
    #[error("the body is nested deeper than 32 levels")]
    TooDeep,
    /// More than [`MAX_RECORDS`].
    #[error("the body has more than 10,000 records")]
    TooMany,
    /// No JSON, or not of the form that its source is configured for.
    #[error("the body is not of the source's form")]
    NotTheForm,
}

/// Reads a body. Of [`Form::Sns`] it reads what the message holds, whose signature must have been verified.
///
/// # Errors
/// [`Malformed`].
pub fn parse(form: Form, body: &[u8]) -> Result<Vec<Notice>, Malformed> {
    let text = json::checked(body)?;
    match form {
        Form::S3 | Form::Sns | Form::Minio => s3::parse(text, key::decode),
        Form::Ceph => s3::parse(text, key::plain),
        Form::EventBridge => eventbridge::parse(text),
        Form::SeaweedFs => seaweedfs::parse(text),
    }
}

/// A version as it was told: none, and the one that every write replaces, mean the latest.
fn version(told: String) -> Option<String> {
    (!told.is_empty() && told != "null").then_some(told)
}
