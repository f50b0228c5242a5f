//! Connections to a program by somebody who has no certificate: only the other side is proved here, and the caller proves itself
//! otherwise, by a token in each call.

use std::{io, path::PathBuf, sync::Arc};

use rustls::{ClientConfig, crypto::aws_lc_rs, pki_types::ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::{
    ClientStream, SpiffeError, SpiffeId, TlsError, TrustDomain,
    material::{client_config, content, read, read_if_any, revocations, roots},
    verify::ProgramNamed,
};

/// Whom somebody without a certificate trusts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustSettings {
    /// Certificates of the authorities that are trusted, PEM.
    pub bundle: PathBuf,
    /// Lists of what they have revoked, PEM.
    pub crl: Option<PathBuf>,
    /// Trust domains whose programs may be spoken with.
    pub trust_domains: Vec<TrustDomain>,
}

/// Makes connections to one program, and shows no certificate. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Anonymous(Arc<ClientConfig>);

impl Anonymous {
    /// Reads the files, once.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn open(settings: &TrustSettings, expected: &SpiffeId) -> Result<Self, TlsError> {
        let roots = roots(&settings.bundle, &read(&settings.bundle)?)?;
        let crl = settings.crl.as_deref();
        let revocations = revocations(crl, &read_if_any(crl)?)?;
        let verifier = ProgramNamed {
            roots: Arc::new(roots),
            revocations: Arc::new(revocations),
            provider: Arc::new(aws_lc_rs::default_provider()),
            expected: expected.clone(),
        };
        let config = client_config(verifier, None).map_err(|error| content(&settings.bundle, error))?;
        Ok(Self(Arc::new(config)))
    }

    /// Makes a connection. The caller bounds the time.
    ///
    /// # Errors
    /// The peer does not speak TLS, or could not prove the name.
    pub async fn connect<I>(&self, io: I) -> io::Result<ClientStream<I>>
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        // The name is in the certificate, not in the address: nothing is asked for by name.
        let address = ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
        TlsConnector::from(Arc::clone(&self.0)).connect(address, io).await
    }
}

impl TrustSettings {
    /// The dispatcher to speak with: `given`, or the one of the first trust domain.
    ///
    /// # Errors
    /// [`SpiffeError`], which cannot happen with settings that came from flags.
    pub fn dispatcher(&self, given: Option<&SpiffeId>) -> Result<SpiffeId, SpiffeError> {
        super::flags::dispatcher(&self.trust_domains, given)
    }
}
