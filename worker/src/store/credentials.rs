//! Where the worker gets a location's credentials from, and what it says when they are not there.
//!
//! Errors name the location and the file or variable, never a value. A credentials file is read again every few minutes, so a
//! rotated Kubernetes secret is picked up without a restart.

use std::{
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use aws_config::{default_provider::credentials::DefaultCredentialsChain, provider_config::ProviderConfig};
use aws_credential_types::{
    Credentials as AwsCredentials,
    provider::{ProvideCredentials, SharedCredentialsProvider, error::CredentialsError as AwsError, future},
};
use aws_sdk_s3::config::{Region, SharedHttpClient};
use backhaul_runtime::locations::Credentials;
use tokio::sync::OnceCell;

/// How long credentials from a file are used before the file is read again.
const FILE_REREAD: Duration = Duration::from_secs(300);

/// Largest credentials file; longer ones are not what they should be.
const FILE_MAX_BYTES: usize = 16 * 1024;

/// A location whose credentials could not be read.
#[derive(Debug, thiserror::Error)]
#[error("location `{location}`: {problem}")]
pub struct CredentialsError {
    /// Name of the location.
    pub location: String,
    /// What is missing.
    pub problem: CredentialsProblem,
}

/// What is wrong with credentials.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsProblem {
    /// The file cannot be read.
    #[error("cannot read the credentials file {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file does not hold an access key id and a secret access key.
    #[error(
        "the credentials file {path} must hold two lines, access key id and secret access key, \
         and may hold a third, session token"
    )]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// An environment variable is not set, empty or not UTF-8.
    #[error("the environment variable {variable} is not set")]
    Missing {
        /// The variable.
        variable: String,
    },
}

/// Looks environment variables up; an argument so that tests need no process-wide state.
pub(crate) type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

struct FileProvider {
    path: PathBuf,
}

struct DefaultChain {
    region: Region,
    http: SharedHttpClient,
    chain: OnceCell<DefaultCredentialsChain>,
}

/// The provider for a location; `None` means requests are not signed. Files and variables are read once here, so that a
/// mistake shows at start.
pub(crate) fn provider(
    location: &str,
    from: &Credentials,
    region: &Region,
    http: &SharedHttpClient,
    environment: Environment<'_>,
) -> Result<Option<SharedCredentialsProvider>, CredentialsError> {
    let at = |problem| CredentialsError { location: location.to_owned(), problem };
    Ok(match from {
        Credentials::Anonymous => None,
        Credentials::Default => Some(SharedCredentialsProvider::new(DefaultChain {
            region: region.clone(),
            http: http.clone(),
            chain: OnceCell::new(),
        })),
        Credentials::File(path) => {
            let text = std::fs::read(path)
                .map_err(|source| at(CredentialsProblem::Unreadable { path: path.clone(), source }))?;
            parse(&text).ok_or_else(|| at(CredentialsProblem::Malformed { path: path.clone() }))?;
            Some(SharedCredentialsProvider::new(FileProvider { path: path.clone() }))
        }
        Credentials::Environment { prefix } => {
            let read = |suffix: &str| {
                let variable = format!("{prefix}_{suffix}");
                let value = environment(&variable).and_then(|v| v.into_string().ok());
                match value.filter(|v| !v.is_empty()) {
                    Some(value) => Ok(value),
                    None => Err(at(CredentialsProblem::Missing { variable })),
                }
            };
            let id = read("ACCESS_KEY_ID")?;
            let secret = read("SECRET_ACCESS_KEY")?;
            let token = read("SESSION_TOKEN").ok();
            Some(SharedCredentialsProvider::new(AwsCredentials::new(
                id,
                secret,
                token,
                None,
                "environment of the location",
            )))
        }
    })
}

fn parse(text: &[u8]) -> Option<(String, String, Option<String>)> {
    if text.len() > FILE_MAX_BYTES {
        return None;
    }
    let mut lines = std::str::from_utf8(text).ok()?.lines().map(str::trim).filter(|l| !l.is_empty());
    let (id, secret, token) = (lines.next()?, lines.next()?, lines.next());
    if lines.next().is_some() {
        return None;
    }
    Some((id.to_owned(), secret.to_owned(), token.map(str::to_owned)))
}

impl FileProvider {
    async fn load(path: &Path) -> Result<AwsCredentials, AwsError> {
        let text = tokio::fs::read(path).await.map_err(AwsError::provider_error)?;
        let (id, secret, token) =
            parse(&text).ok_or_else(|| AwsError::invalid_configuration("malformed credentials file"))?;
        #[expect(
            clippy::disallowed_methods,
            reason = "the client library wants the expiry on the wall clock, which nothing else here reads"
        )]
        let expiry = SystemTime::now() + FILE_REREAD;
        Ok(AwsCredentials::new(id, secret, token, Some(expiry), "credentials file of the location"))
    }
}

impl ProvideCredentials for FileProvider {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(Self::load(&self.path))
    }
}

impl ProvideCredentials for DefaultChain {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async move {
            let chain = self
                .chain
                .get_or_init(|| async {
                    let config = ProviderConfig::default()
                        .with_region(Some(self.region.clone()))
                        .with_http_client(self.http.clone());
                    DefaultCredentialsChain::builder()
                        .configure(config)
                        .region(self.region.clone())
                        .build()
                        .await
                })
                .await;
            chain.provide_credentials().await
        })
    }
}

impl fmt::Debug for FileProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileProvider").field("path", &self.path).finish()
    }
}

impl fmt::Debug for DefaultChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DefaultChain").field("region", &self.region).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use aws_smithy_http_client::Builder;

    use super::*;

    fn read(
        from: &Credentials,
        environment: Environment<'_>,
    ) -> Result<Option<SharedCredentialsProvider>, CredentialsError> {
        provider("photos", from, &Region::new("eu-west-1"), &Builder::new().build_http(), environment)
    }

    #[test]
    fn a_missing_variable_is_named_with_its_location() {
        let from = Credentials::Environment { prefix: "PHOTOS".into() };
        let only_id = |name: &str| (name == "PHOTOS_ACCESS_KEY_ID").then(|| "id".into());
        let error = read(&from, &only_id).expect_err("no secret");
        assert_eq!(
            error.to_string(),
            "location `photos`: the environment variable PHOTOS_SECRET_ACCESS_KEY is not set"
        );
    }

    #[test]
    fn a_malformed_file_is_named_and_its_content_is_not() {
        let file = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(file.path(), "only-one-line-s3cr3t").expect("write");
        let error = read(&Credentials::File(file.path().into()), &|_| None).expect_err("one line");
        let said = format!("{error} {error:?}");
        assert!(said.contains(&file.path().display().to_string()), "{said}");
        assert!(!said.contains("s3cr3t"), "{said}");
    }

    #[tokio::test]
    async fn a_rotated_file_is_read_again() {
        let file = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(file.path(), "id1\nsecret1\n").expect("write");
        let from = Credentials::File(file.path().into());
        let provider = read(&from, &|_| None).expect("well formed").expect("signed");
        assert_eq!(provider.provide_credentials().await.expect("1").access_key_id(), "id1");
        std::fs::write(file.path(), "id2\r\nsecret2\r\ntoken2\r\n").expect("write");
        let second = provider.provide_credentials().await.expect("2");
        assert_eq!((second.access_key_id(), second.session_token()), ("id2", Some("token2")));
        assert!(second.expiry().is_some(), "without an expiry it would be kept for ever");
    }

    #[test]
    fn anonymous_requests_are_not_signed() {
        assert!(read(&Credentials::Anonymous, &|_| None).expect("nothing to read").is_none());
    }
}
