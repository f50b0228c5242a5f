//! What a caller decides about a store before it starts, and the ways in which the start can fail.
//!
//! Values only: nothing here opens a socket or a file.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Everything that [`EmbeddedS3::start`](crate::EmbeddedS3::start) needs.
#[derive(Debug, Clone)]
pub struct Options {
    /// Address to listen on; port 0 takes a free one. Meant for loopback.
    pub listen: SocketAddr,
    /// Where bodies and metadata live.
    pub storage: Storage,
    /// Key pairs that may sign requests. All of them may do everything. Anonymous requests are refused.
    pub credentials: Vec<Credentials>,
    /// Buckets that exist once the store has started. One that is already on disk keeps its content.
    pub buckets: Vec<Bucket>,
}

/// Where a store keeps its objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Storage {
    /// In memory, gone with the process.
    Memory,
    /// In this directory, created if missing and locked while the store runs. A later start on it finds everything.
    Directory(PathBuf),
}

/// One key pair for AWS Signature Version 4. `Debug` hides the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Access key id.
    pub access_key: String,
    /// Secret access key.
    pub secret_key: String,
}

/// A bucket to create at the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// Bucket name, by the naming rules of AWS (3 to 63 of `a-z 0-9 . -`).
    pub name: String,
    /// Whether versioning is enabled. `false` leaves the state of a bucket found on disk as it is.
    pub versioned: bool,
}

/// Why a store did not start. Nothing listens and nothing was lost.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The listen address could not be bound.
    #[error("cannot listen on {addr}")]
    Listen {
        /// The address asked for.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A file or directory of the store could not be used.
    #[error("cannot use {}", path.display())]
    Storage {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process, or another store in this one, runs on the directory.
    #[error("{} is in use by another store", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The journal holds a line that this version cannot read. Only a torn last line is repaired silently.
    #[error("line {line} of {} is not readable", path.display())]
    Journal {
        /// The journal.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The index names a body that is not in the directory.
    #[error("the body {} is missing", path.display())]
    MissingBody {
        /// The file that should be there.
        path: PathBuf,
    },
    /// A bucket in [`Options::buckets`] has a name that S3 does not allow.
    #[error("bucket name {name:?} is not valid")]
    BucketName {
        /// The name.
        name: String,
    },
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("access_key", &self.access_key).finish_non_exhaustive()
    }
}
