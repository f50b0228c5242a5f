//! Fetching small things from AWS over HTTPS: a certificate, the confirmation of a subscription. Follows no redirect.

use std::io;

use async_trait::async_trait;
use bytes::Bytes;
use http::StatusCode;

use crate::https::{self, HttpsOptions};

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
pub struct Https(https::Https);

impl Https {
    /// With the system's roots.
    ///
    /// # Errors
    /// When the system has none.
    pub fn new() -> io::Result<Self> {
        let https = https::Https::new(HttpsOptions::default());
        https.check()?;
        Ok(Self(https))
    }
}

#[async_trait]
impl Fetch for Https {
    async fn get(&self, address: &str) -> io::Result<Bytes> {
        match self.0.get(address, MOST_BYTES).await? {
            (StatusCode::OK, body) => Ok(body),
            (status, _) => Err(io::Error::other(format!("answered with {status}"))),
        }
    }
}
