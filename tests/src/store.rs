//! The S3 servers that a scenario can run on.

use backhaul_embedded_s3::{Bucket, EmbeddedS3, FaultPlan, Options, Storage};

use crate::{
    garage::GarageServer,
    s3::{Credentials, S3},
    synthetic::SyntheticOrigin,
    weed::{Webhook, WeedServer},
};

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreKind {
    /// Backhaul's own store, in memory and in the test's process: starts at once and fails on demand.
    Embedded,
    /// SeaweedFS: written by others, some seconds to start.
    Weed,
    /// Garage: written by others, and takes ten minutes to build, so that only `make stores` has it.
    Garage,
    /// Keys that nobody has written, to be listed and nothing else.
    Synthetic {
        /// How many.
        keys: usize,
        /// Whoever reads an object finds it gone; otherwise there is no answer.
        gone: bool,
    },
}

/// A running server.
#[derive(Debug)]
pub struct Store {
    server: Server,
    address: String,
    credentials: Credentials,
}

#[derive(Debug)]
enum Server {
    Embedded(EmbeddedS3),
    /// Held only so that it is killed when it is dropped.
    Weed {
        _process: Box<WeedServer>,
    },
    /// Likewise.
    Garage {
        _process: Box<GarageServer>,
    },
    /// The test's own.
    Elsewhere,
    Synthetic(SyntheticOrigin),
}

impl Store {
    /// Starts a server that has these buckets.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(kind: StoreKind, buckets: &[&str]) -> anyhow::Result<Self> {
        match kind {
            StoreKind::Embedded => Self::embedded(buckets).await,
            StoreKind::Weed => Self::weed(buckets, None).await,
            StoreKind::Garage => Self::garage(buckets).await,
            StoreKind::Synthetic { keys, gone } => {
                let server = SyntheticOrigin::start(keys, gone).await?;
                Ok(Self {
                    address: server.address().to_owned(),
                    server: Server::Synthetic(server),
                    credentials: Credentials::random(),
                })
            }
        }
    }

    /// Starts a SeaweedFS that has these buckets and posts word of every change.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start_telling(webhook: &Webhook, buckets: &[&str]) -> anyhow::Result<Self> {
        Self::weed(buckets, Some(webhook)).await
    }

    /// A server that runs already, with these buckets.
    ///
    /// # Errors
    /// When it does not make them.
    pub async fn elsewhere(
        address: &str,
        credentials: &Credentials,
        buckets: &[&str],
    ) -> anyhow::Result<Self> {
        let (address, credentials) = (address.to_owned(), credentials.clone());
        let store = Self { server: Server::Elsewhere, address, credentials };
        for bucket in buckets {
            store.client().create_bucket(bucket).await?;
        }
        Ok(store)
    }

    /// Where it listens, such as `127.0.0.1:8333`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Keys of an identity that may do everything.
    #[must_use]
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// A client.
    #[must_use]
    pub fn client(&self) -> S3 {
        S3::connect(&format!("http://{}", self.address), &self.credentials)
    }

    /// Faults on demand; `None` for a store that has none.
    #[must_use]
    pub fn faults(&self) -> Option<&FaultPlan> {
        match &self.server {
            Server::Embedded(server) => Some(server.faults()),
            Server::Weed { .. } | Server::Garage { .. } | Server::Synthetic(_) | Server::Elsewhere => None,
        }
    }

    /// Behind which keys pages of a synthetic origin began; `None` for any other.
    #[must_use]
    pub fn page_begins(&self) -> Option<Vec<String>> {
        match &self.server {
            Server::Synthetic(server) => Some(server.begins()),
            Server::Embedded(_) | Server::Weed { .. } | Server::Garage { .. } | Server::Elsewhere => None,
        }
    }

    async fn embedded(buckets: &[&str]) -> anyhow::Result<Self> {
        let credentials = Credentials::random();
        let keys = backhaul_embedded_s3::Credentials {
            access_key: credentials.access_key.clone(),
            secret_key: credentials.secret_key.clone(),
        };
        let bucket = |name: &&str| Bucket { name: (*name).to_owned(), versioned: false };
        let options = Options {
            listen: ([127, 0, 0, 1], 0).into(),
            storage: Storage::Memory,
            credentials: vec![keys],
            buckets: buckets.iter().map(bucket).collect(),
        };
        let server = EmbeddedS3::start(options).await?;
        Ok(Self { address: server.addr().to_string(), server: Server::Embedded(server), credentials })
    }

    async fn weed(buckets: &[&str], webhook: Option<&Webhook>) -> anyhow::Result<Self> {
        let server = match webhook {
            Some(webhook) => WeedServer::start_telling(webhook).await?,
            None => WeedServer::start().await?,
        };
        for bucket in buckets {
            server.client().create_bucket(bucket).await?;
        }
        let credentials = server.credentials().clone();
        Ok(Self {
            address: server.address(),
            server: Server::Weed { _process: Box::new(server) },
            credentials,
        })
    }

    async fn garage(buckets: &[&str]) -> anyhow::Result<Self> {
        let server = GarageServer::start().await?;
        for bucket in buckets {
            server.client().create_bucket(bucket).await?;
        }
        let (address, credentials) = (server.address(), server.credentials().clone());
        Ok(Self { server: Server::Garage { _process: Box::new(server) }, address, credentials })
    }
}
