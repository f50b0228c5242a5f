//! The S3 servers that a scenario can run on.

use crate::{locations, s3::S3, weed::WeedServer};

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
        match self {
            Self::Weed(server) => server.client(),
        }
    }

    /// The server as the locations file names it.
    #[must_use]
    pub fn location(&self) -> locations::Store {
        match self {
            Self::Weed(server) => {
                locations::Store { endpoint: server.endpoint(), credentials: server.credentials().clone() }
            }
        }
    }
}
