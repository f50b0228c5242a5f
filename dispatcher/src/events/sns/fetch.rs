//! Fetching small things from AWS over HTTPS: a certificate, the confirmation of a subscription. Follows no redirect.

use std::{io, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::time::timeout;

/// Time for all of it.
const WITHIN: Duration = Duration::from_secs(5);
/// Most bytes of an answer.
const MOST_BYTES: usize = 64 * 1024;

/// Fetches addresses that have been checked.
#[async_trait]
pub trait Fetch: Send + Sync + std::fmt::Debug + 'static {
    /// The body of a 200.
    ///
    /// # Errors
    /// When there is none.
    async fn get(&self, address: &str) -> io::Result<Bytes>;
}

/// Fetches over HTTPS, from hosts whose certificates the system trusts.
#[derive(Debug)]
pub struct Https(Client<HttpsConnector<HttpConnector>, Empty<Bytes>>);

impl Https {
    /// With the system's roots.
    ///
    /// # Errors
    /// When the system has none.
    pub fn new() -> io::Result<Self> {
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(rustls::crypto::aws_lc_rs::default_provider())?
            .https_only()
            .enable_http1()
            .build();
        Ok(Self(Client::builder(TokioExecutor::new()).build(connector)))
    }
}

#[async_trait]
impl Fetch for Https {
    async fn get(&self, address: &str) -> io::Result<Bytes> {
        let address = address.parse().map_err(io::Error::other)?;
        let fetched = timeout(WITHIN, async {
            let answer = self.0.get(address).await.map_err(io::Error::other)?;
            if answer.status() != http::StatusCode::OK {
                return Err(io::Error::other(format!("answered with {}", answer.status())));
            }
            let body = Limited::new(answer.into_body(), MOST_BYTES).collect().await;
            Ok(body.map_err(io::Error::other)?.to_bytes())
        });
        fetched.await.map_err(|elapsed| io::Error::new(io::ErrorKind::TimedOut, elapsed))?
    }
}
