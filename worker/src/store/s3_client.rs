//! Clients of S3-compatible stores: one pool of connections and one set of timeouts for all locations.
//!
//! The client library retries nothing here. Which request is worth repeating, and what a lost answer may hide, is known by the
//! transfer engine alone; two layers of retries would multiply. It adds no checksums either (`WhenRequired`): the engine computes
//! its own and sends them where the store takes them.

use std::{
    ffi::OsString,
    fmt,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use aws_sdk_s3::{
    Client,
    config::{
        AppName, BehaviorVersion, Builder, Region, RequestChecksumCalculation, ResponseChecksumValidation,
        SharedHttpClient, StalledStreamProtectionConfig, retry::RetryConfig, timeout::TimeoutConfig,
    },
};
use aws_smithy_http_client::{
    Builder as HttpBuilder, Connector,
    tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode},
};
use aws_smithy_runtime_api::client::{
    dns::ResolveDns,
    http::{HttpConnectorSettings, http_client_fn},
};
use backhaul_runtime::{address::AddressRule, locations::Location};

use super::{
    S3Store,
    credentials::{CredentialsError, Environment, provider},
    s3_direct::{Direct, Transport},
    s3_guard::{CheckedConnector, CheckedNames, SystemNames},
    s3_waits::Impatient,
};

/// Waits and pools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientSettings {
    /// Until a connection is made, TLS included.
    pub connect_timeout: Duration,
    /// From the end of a request to the first byte of its answer.
    pub first_byte_timeout: Duration,
    /// For one request, its body included; the bytes of a read come after it and have the engine's own limit.
    pub request_timeout: Duration,
    /// How long an unused connection is kept.
    pub idle_connection: Duration,
}

/// Makes stores that share connections, DNS and TLS settings.
#[derive(Clone)]
pub struct Clients {
    settings: ClientSettings,
    tls: TlsContext,
    /// For credentials, which clouds serve where no store may be.
    credentials: SharedHttpClient,
    ways: Ways,
    /// For the few locations that may be at a link-local address.
    link_local: Arc<OnceLock<Ways>>,
}

/// The ways to stores: the client library's, and the one past it.
#[derive(Clone)]
struct Ways {
    http: SharedHttpClient,
    transport: Transport,
}

/// A certificate file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the certificates in {path} (AWS_CA_BUNDLE)")]
pub struct CaBundleError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl Clients {
    /// Reads the trusted certificates.
    ///
    /// These are the system's (`SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured) and those of the PEM file that `AWS_CA_BUNDLE`
    /// names. The client library itself does not read that variable; other AWS tools do, so users set it.
    ///
    /// # Errors
    /// [`CaBundleError`] when `AWS_CA_BUNDLE` names a file that cannot be read.
    pub fn new(settings: ClientSettings) -> Result<Self, CaBundleError> {
        Self::with_ca_bundle(settings, std::env::var_os("AWS_CA_BUNDLE").filter(|p| !p.is_empty()))
    }

    fn with_ca_bundle(settings: ClientSettings, bundle: Option<OsString>) -> Result<Self, CaBundleError> {
        let mut trust = TrustStore::default();
        if let Some(path) = bundle.map(PathBuf::from) {
            let pem = std::fs::read(&path)
                .map_err(|source| CaBundleError { path: path.clone(), source: source.into() })?;
            if !pem.windows(BEGIN.len()).any(|w| w == BEGIN) {
                return Err(CaBundleError { path, source: "the file holds no PEM certificate".into() });
            }
            trust = trust.with_pem_certificate(pem);
        }
        let tls = TlsContext::builder()
            .with_trust_store(trust)
            .build()
            .map_err(|source| CaBundleError { path: PathBuf::new(), source: source.into() })?;
        Ok(Self::with_names(settings, tls, SystemNames))
    }

    fn with_names(
        settings: ClientSettings,
        tls: TlsContext,
        names: impl ResolveDns + Clone + 'static,
    ) -> Self {
        let credentials = HttpBuilder::new()
            .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
            .tls_context(tls.clone())
            .build_https();
        let ways = Ways::new(settings, &tls, AddressRule::default(), names);
        Self { settings, tls, credentials, ways, link_local: Arc::default() }
    }

    fn ways(&self, rule: AddressRule) -> &Ways {
        if rule == AddressRule::default() {
            return &self.ways;
        }
        self.link_local.get_or_init(|| Ways::new(self.settings, &self.tls, rule, SystemNames))
    }

    /// A store for a location.
    ///
    /// # Errors
    /// [`CredentialsError`] when its credentials cannot be read.
    pub fn store(&self, location: &Location) -> Result<S3Store, CredentialsError> {
        self.store_with(location, &|name| std::env::var_os(name))
    }

    /// With names that are looked up by `names` instead of the system.
    #[cfg(test)]
    pub(super) fn over(names: impl ResolveDns + Clone + 'static) -> Self {
        let tls = TlsContext::builder().build().expect("the system's certificates");
        Self::with_names(ClientSettings::default(), tls, names)
    }

    /// What requests to stores are sent with.
    #[cfg(test)]
    pub(super) const fn for_stores(&self) -> &aws_smithy_runtime_api::client::http::SharedHttpConnector {
        self.ways.transport.connector()
    }

    /// What credentials are fetched with.
    #[cfg(test)]
    pub(super) const fn for_credentials(&self) -> &SharedHttpClient {
        &self.credentials
    }

    pub(crate) fn store_with(
        &self,
        location: &Location,
        environment: Environment<'_>,
    ) -> Result<S3Store, CredentialsError> {
        let region = Region::new(location.region.clone());
        let credentials =
            provider(&location.name, &location.credentials, &region, &self.credentials, environment)?;
        let Ways { http, transport } = self.ways(location.addresses);
        let timeouts =
            TimeoutConfig::builder().operation_attempt_timeout(self.settings.request_timeout).build();
        let mut config = Builder::new()
            .behavior_version(BehaviorVersion::latest())
            .http_client(http.clone())
            .region(region)
            .force_path_style(location.path_style)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
            // The engine times every read by itself, and a part upload has `request_timeout`.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        if let Ok(name) = AppName::new("backhaul") {
            config = config.app_name(name);
        }
        if let Some(endpoint) = &location.endpoint {
            config = config.endpoint_url(endpoint);
        }
        let direct = location.endpoint.as_deref().filter(|_| location.path_style);
        let owners = Arc::new(location.owners.clone());
        let direct = direct.and_then(|endpoint| {
            Direct::new(transport, endpoint, &location.region, credentials.clone(), Arc::clone(&owners))
        });
        config = match credentials {
            Some(provider) => config.credentials_provider(provider),
            None => config.allow_no_auth(),
        };
        Ok(S3Store::new(&location.name, Client::from_conf(config.build()), direct, owners))
    }
}

impl Ways {
    fn new(
        settings: ClientSettings,
        tls: &TlsContext,
        rule: AddressRule,
        names: impl ResolveDns + Clone + 'static,
    ) -> Self {
        let names = CheckedNames::new(names, rule);
        let connect = HttpConnectorSettings::builder().connect_timeout(settings.connect_timeout).build();
        let connector = Connector::builder()
            .connector_settings(connect)
            .pool_idle_timeout(settings.idle_connection)
            .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
            .tls_context(tls.clone())
            .build_with_resolver(names);
        let connector = CheckedConnector::new(Impatient::new(connector, settings), rule);
        let transport = Transport::new(connector, settings);
        let connector = transport.connector().clone();
        // Its settings are those of `settings` already.
        Self { http: http_client_fn(move |_, _| connector.clone()), transport }
    }
}

const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";

impl Default for ClientSettings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            first_byte_timeout: Duration::from_secs(60),
            request_timeout: Duration::from_secs(300),
            idle_connection: Duration::from_secs(60),
        }
    }
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients").field("settings", &self.settings).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_bundle_that_is_none_is_refused_at_start_and_named() {
        let file = tempfile::NamedTempFile::new().expect("file");
        let refused = |path: OsString| {
            Clients::with_ca_bundle(ClientSettings::default(), Some(path)).expect_err("refused").to_string()
        };
        assert!(refused(file.path().into()).contains(&file.path().display().to_string()));
        assert!(refused("/nowhere/ca.pem".into()).contains("/nowhere/ca.pem"));
        assert!(Clients::with_ca_bundle(ClientSettings::default(), None).is_ok());
    }
}
