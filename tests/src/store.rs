//! The S3 servers that a scenario can run on.

use crate::{
    s3::{Credentials, S3},
    weed::WeedServer,
};

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreKind {
    /// SeaweedFS: independent of this repository; some seconds to start.
    Weed,
}

/// A running server.
#[derive(Debug)]
pub enum Store {
    /// SeaweedFS.
    Weed(Box<WeedServer>),
}

impl Store {
    /// Starts a server that has these buckets.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(kind: StoreKind, buckets: &[&str]) -> anyhow::Result<Self> {
        let store = match kind {
            StoreKind::Weed => Self::Weed(Box::new(WeedServer::start().await?)),
        };
        for bucket in buckets {
            store.client().create_bucket(bucket).await?;
        }
        Ok(store)
    }

    /// A client.
    #[must_use]
    pub fn client(&self) -> S3 {
        S3::connect(&format!("http://{}", self.address()), self.credentials())
    }

    /// Where it listens, such as `127.0.0.1:8333`.
    #[must_use]
    pub fn address(&self) -> String {
        match self {
            Self::Weed(server) => server.address(),
        }
    }

    /// Keys of an identity that may do everything.
    #[must_use]
    pub fn credentials(&self) -> &Credentials {
        match self {
            Self::Weed(server) => server.credentials(),
        }
    }
}
