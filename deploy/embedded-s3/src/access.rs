//! Who may ask, and which requests are refused whatever they are: the gate before every operation.
//!
//! A header that asks for something that this store cannot give is an error here, never ignored: a client that asked
//! for encryption must not believe that it got it.

use std::collections::HashMap;

use http::HeaderMap;
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::{S3Result, s3_error};

use crate::options::Credentials;
use crate::store::OWNER_ID;

/// The key pairs that may sign.
pub(crate) struct Keys(HashMap<String, SecretKey>);

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Gate;

impl Keys {
    pub(crate) fn new(credentials: Vec<Credentials>) -> Self {
        let pairs = credentials.into_iter().map(|pair| (pair.access_key, SecretKey::from(pair.secret_key)));
        Self(pairs.collect())
    }
}

#[async_trait::async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        self.0.get(access_key).cloned().ok_or_else(|| {
            s3_error!(InvalidAccessKeyId, "The AWS access key ID you provided does not exist in our records.")
        })
    }
}

#[async_trait::async_trait]
impl S3Access for Gate {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        if context.credentials().is_none() {
            return Err(s3_error!(AccessDenied, "Access Denied"));
        }
        check_headers(context.headers())
    }
}

fn check_headers(headers: &HeaderMap) -> S3Result<()> {
    for (name, value) in headers {
        let name = name.as_str();
        if name.starts_with("x-amz-server-side-encryption")
            || name.starts_with("x-amz-copy-source-server-side-encryption")
            || name == "x-amz-write-offset-bytes"
        {
            return Err(s3_error!(
                NotImplemented,
                "A header you provided implies functionality that is not implemented: {name}"
            ));
        }
        let owner_only = [&b"private"[..], b"bucket-owner-full-control"].contains(&value.as_bytes());
        if name.starts_with("x-amz-grant-") || (name == "x-amz-acl" && !owner_only) {
            return Err(s3_error!(AccessControlListNotSupported, "The bucket does not allow ACLs"));
        }
        let owner_condition =
            name == "x-amz-expected-bucket-owner" || name == "x-amz-source-expected-bucket-owner";
        if owner_condition && value.as_bytes() != OWNER_ID.as_bytes() {
            return Err(s3_error!(AccessDenied, "Access Denied"));
        }
    }
    Ok(())
}
