//! Clients of Amazon SQS: where a queue is, and which credentials it is asked with.
//!
//! These are the dispatcher's own, for its queues: a file, or the identity that the platform gives it. Those of the locations must never
//! be read here; the dispatcher reaches no store. The client library repeats nothing: the reader's own loop does.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use aws_config::{default_provider::credentials::DefaultCredentialsChain, provider_config::ProviderConfig};
use aws_credential_types::{
    Credentials,
    provider::{ProvideCredentials, error::CredentialsError, future},
};
use aws_sdk_sqs::{
    Client,
    config::{
        AppName, BehaviorVersion, Builder, Region, SharedHttpClient, retry::RetryConfig,
        timeout::TimeoutConfig,
    },
};
use aws_smithy_http_client::{
    Builder as HttpBuilder,
    tls::{Provider, rustls_provider::CryptoMode},
};
use aws_smithy_runtime_api::client::dns::{DnsFuture, ResolveDns, ResolveDnsError};
use backhaul_runtime::address::{AddressRule, look_up};
use tokio::sync::OnceCell;

use super::LONG_POLL;

/// Until a connection is made, TLS included.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Beyond the long poll.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long credentials from a file are used before the file is read again.
const FILE_REREAD: Duration = Duration::from_secs(300);
/// Largest credentials file.
const FILE_MAX_BYTES: usize = 16 * 1024;

/// A queue, and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueOptions {
    /// URL of the queue; requests go to its host.
    pub queue_url: String,
    /// Scheme and host of the URL.
    pub endpoint: String,
    /// Region, which requests are signed for.
    pub region: String,
    /// Who asks.
    pub credentials: QueueCredentials,
    /// Readers of each dispatcher.
    pub readers: usize,
}

/// Where credentials for queues come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueueCredentials {
    /// The ordinary chain of AWS clients: workload identity, profile, instance.
    Default,
    /// A file of two lines, access key id and secret access key, with an optional third: session token. Read again every few minutes.
    File(PathBuf),
}

/// A client for a queue. Asks nothing yet.
#[must_use]
pub fn client(options: &QueueOptions) -> Client {
    let builder = || HttpBuilder::new().tls_provider(Provider::Rustls(CryptoMode::AwsLc));
    let region = Region::new(options.region.clone());
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_WITHIN)
        .operation_attempt_timeout(LONG_POLL + ANSWER_WITHIN)
        .build();
    let mut config = Builder::new()
        .behavior_version(BehaviorVersion::latest())
        .http_client(builder().build_with_resolver(QueueNames))
        .region(region.clone())
        .endpoint_url(&options.endpoint)
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts);
    config.set_app_name(AppName::new("backhaul").ok());
    let config = match &options.credentials {
        QueueCredentials::Default => {
            // Clouds serve these where no queue may be.
            let http = builder().build_https();
            config.credentials_provider(Chain { region, http, chain: OnceCell::new() })
        }
        QueueCredentials::File(path) => config.credentials_provider(FileProvider { path: path.clone() }),
    };
    Client::from_conf(config.build())
}

/// The system's names, without the addresses under which clouds hand out credentials.
#[derive(Debug, Clone, Copy)]
struct QueueNames;

impl ResolveDns for QueueNames {
    fn resolve_dns<'a>(&'a self, name: &'a str) -> DnsFuture<'a> {
        DnsFuture::new(async move {
            let found = look_up(name).await.map_err(ResolveDnsError::new)?;
            AddressRule::default().allowed(found).map_err(ResolveDnsError::new)
        })
    }
}

/// Reads a credentials file once, so that a mistake shows at the start.
///
/// # Errors
/// What is wrong with it; never what it holds.
pub fn check_file(path: &Path) -> Result<(), String> {
    let text = fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    parse(&text).map(|_| ()).map_err(|error| format!("{}: {error}", path.display()))
}

fn parse(text: &[u8]) -> io::Result<(String, String, Option<String>)> {
    let malformed = || {
        io::Error::other(
            "must hold two lines, access key id and secret access key, and may hold a third, session token",
        )
    };
    if text.len() > FILE_MAX_BYTES {
        return Err(malformed());
    }
    let text = std::str::from_utf8(text).map_err(|_| malformed())?;
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned);
    match (lines.next(), lines.next(), lines.next(), lines.next()) {
        (Some(id), Some(secret), token, None) => Ok((id, secret, token)),
        _ => Err(malformed()),
    }
}

struct FileProvider {
    path: PathBuf,
}

impl FileProvider {
    async fn load(&self) -> Result<Credentials, CredentialsError> {
        let text = tokio::fs::read(&self.path).await.map_err(CredentialsError::provider_error)?;
        let (id, secret, token) = parse(&text).map_err(CredentialsError::invalid_configuration)?;
        #[expect(
            clippy::disallowed_methods,
            reason = "the client library wants the expiry on the wall clock, which nothing else here reads"
        )]
        let expiry = SystemTime::now() + FILE_REREAD;
        Ok(Credentials::new(id, secret, token, Some(expiry), "credentials file of the event source"))
    }
}

impl ProvideCredentials for FileProvider {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.load())
    }
}

/// Set up when it is first asked: that takes an async context.
struct Chain {
    region: Region,
    http: SharedHttpClient,
    chain: OnceCell<DefaultCredentialsChain>,
}

impl ProvideCredentials for Chain {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async move {
            let build = || async {
                let config = ProviderConfig::default()
                    .with_region(Some(self.region.clone()))
                    .with_http_client(self.http.clone());
                DefaultCredentialsChain::builder().configure(config).region(self.region.clone()).build().await
            };
            self.chain.get_or_init(build).await.provide_credentials().await
        })
    }
}

impl fmt::Debug for FileProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileProvider").field("path", &self.path).finish()
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chain").field("region", &self.region).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_malformed_file_is_named_and_its_content_is_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for text in ["", "only-one-line-s3cr3t", "a\nb\nc\ns3cr3t", "\u{0}s3cr3t"] {
            fs::write(file.path(), text).unwrap();
            let error = check_file(file.path()).unwrap_err();
            assert!(
                error.contains(&file.path().display().to_string()) && !error.contains("s3cr3t"),
                "{error}"
            );
        }
        fs::write(file.path(), "id\r\ns3cr3t\r\n\r\n").unwrap();
        assert_eq!(check_file(file.path()), Ok(()));
    }

    #[tokio::test]
    async fn a_rotated_file_is_read_again() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let provider = FileProvider { path: file.path().into() };
        for (text, id, token) in
            [("id1\nsecret\n", "id1", None), ("id2\nsecret\ntoken\n", "id2", Some("token"))]
        {
            fs::write(file.path(), text).unwrap();
            let credentials = provider.provide_credentials().await.unwrap();
            assert_eq!((credentials.access_key_id(), credentials.session_token()), (id, token));
            assert!(credentials.expiry().is_some(), "without an expiry it would be kept for ever");
        }
    }
}
