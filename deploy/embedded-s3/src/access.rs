//! Who may ask, and which requests are refused whatever they are: the gate before every operation.
//!
//! A header that asks for something that this store cannot give is an error here, never ignored: a client that asked
//! for encryption must not believe that it got it.

use std::collections::HashMap;
use std::sync::Arc;

use http::HeaderMap;
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::path::S3Path;
use s3s::{S3Result, s3_error};

use crate::checksums::Algorithm;
use crate::guard::{Asked, Guard, Verdict};
use crate::options::Credentials;
use crate::store::OWNER_ID;

/// The key pairs that may sign.
pub(crate) struct Keys(HashMap<String, SecretKey>);

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Gate {
    /// Asked about requests that nothing else speaks against.
    pub(crate) guard: Option<Arc<dyn Guard>>,
}

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
        let Some(credentials) = context.credentials() else {
            return Err(s3_error!(AccessDenied, "Access Denied"));
        };
        check_headers(context.headers())?;
        let query = context.uri().query().unwrap_or_default();
        check_query(context.s3_op().name(), query)?;
        let Some(guard) = &self.guard else { return Ok(()) };
        let (bucket, key) = match context.s3_path() {
            S3Path::Root => ("", ""),
            S3Path::Bucket { bucket } => (&**bucket, ""),
            S3Path::Object { bucket, key } => (&**bucket, &**key),
        };
        let asked = Asked {
            access_key: &credentials.access_key,
            operation: context.s3_op().name(),
            bucket,
            key,
            query,
            headers: context.headers(),
        };
        match guard.judge(&asked) {
            Verdict::Refused => Err(s3_error!(AccessDenied, "Access Denied")),
            Verdict::Admitted(unseen) => {
                context.extensions_mut().insert(unseen);
                Ok(())
            }
        }
    }
}

/// Refuses sub-resources (`?name`) that nobody knows. The protocol crate takes such a request for the plain operation,
/// and deleting the configuration of a bucket must not delete the bucket.
fn check_query(operation: &str, query: &str) -> S3Result<()> {
    const PLAIN: [&str; 8] = [
        "GetObject",
        "PutObject",
        "CopyObject",
        "DeleteObject",
        "ListObjects",
        "CreateBucket",
        "DeleteBucket",
        "ListBuckets",
    ];
    const PARAMETERS: [&str; 7] =
        ["prefix", "delimiter", "marker", "encoding-type", "max-keys", "versionId", "continuation-token"];
    if !PLAIN.contains(&operation) {
        return Ok(());
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if value.is_empty() && !PARAMETERS.contains(&name) && !name.starts_with("response-") {
            return Err(s3_error!(NotImplemented, "the sub-resource {name} is not supported"));
        }
    }
    Ok(())
}

fn check_headers(headers: &HeaderMap) -> S3Result<()> {
    for (name, value) in headers {
        let name = name.as_str();
        if name.starts_with("x-amz-server-side-encryption")
            || name.starts_with("x-amz-copy-source-server-side-encryption")
            || name == "x-amz-write-offset-bytes"
            || is_unknown_checksum(name)
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

/// A checksum that would go unchecked.
fn is_unknown_checksum(header: &str) -> bool {
    let Some(name) = header.strip_prefix("x-amz-checksum-") else { return false };
    !["algorithm", "mode", "type"].contains(&name) && Algorithm::from_name(name).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_sub_resource_is_not_taken_for_the_plain_operation() {
        assert!(check_query("DeleteBucket", "metadataConfiguration").is_err());
        assert!(check_query("PutObject", "x-id=PutObject&annotation=").is_err());
        assert!(check_query("PutObject", "x-id=PutObject").is_ok());
        assert!(check_query("ListObjects", "prefix=&delimiter=").is_ok());
        assert!(check_query("GetObject", "versionId=1&response-expires=").is_ok());
        assert!(check_query("GetObjectTagging", "tagging").is_ok());
    }
}
