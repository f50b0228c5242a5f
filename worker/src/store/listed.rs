//! What listings of objects show. Places in them are names, so that they are good after any time.

use serde::{Deserialize, Serialize};

/// An object or a version, as a listing shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObjectListed {
    /// Its key.
    pub key: String,
    /// Version id; `None` where the listing names none.
    pub version: Option<String>,
    /// It is what a reader gets who names no version.
    pub is_latest: bool,
    /// Length.
    pub size_bytes: u64,
    /// ETag without quotes.
    pub etag: String,
    /// Last-Modified, as seconds since the epoch and nanoseconds.
    pub modified: Option<(i64, u32)>,
}

/// Some objects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObjectsPage {
    /// As the store sorts them.
    pub objects: Vec<ObjectListed>,
    /// The key behind which the next page begins; `None` after the last.
    pub next: Option<String>,
}

/// Some versions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VersionsPage {
    /// As the store sorts them.
    pub versions: Vec<ObjectListed>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<VersionMarker>,
}

/// A place in a listing of versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionMarker {
    /// Behind this key; with a version, behind that version of it.
    pub key: String,
    /// A version of the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}
