//! What connections are made with: own certificate and key, trusted authorities, read from files and checked against each other.

use std::{
    fmt, fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::Resumption,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    version::TLS13,
};

use super::{
    SpiffeId, TlsError, TlsSettings,
    revocation::Revocations,
    verify::{ProgramNamed, ProgramsOf, identity_of},
};

/// The one protocol that is spoken inside.
pub(super) const HTTP2: &[u8] = b"h2";

/// The files as they were read.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Texts {
    certificate: Vec<u8>,
    key: Vec<u8>,
    bundle: Vec<u8>,
    /// Empty where there is none.
    crl: Vec<u8>,
}

/// Material that holds together.
pub(super) struct Material {
    /// For connections that are accepted.
    pub(super) server: Arc<ServerConfig>,
    /// Own name.
    pub(super) id: SpiffeId,
    /// Says which authorities are trusted and what they have revoked, without saying who.
    pub(super) trust: u64,
    /// What they have revoked.
    pub(super) revocations: Arc<Revocations>,
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Texts {
    pub(super) fn read(settings: &TlsSettings) -> Result<Self, TlsError> {
        Ok(Self {
            certificate: read(&settings.certificate)?,
            key: read(&settings.key)?,
            bundle: read(&settings.bundle)?,
            crl: read_if_any(settings.crl.as_deref())?,
        })
    }
}

impl Material {
    /// Builds what connections need.
    pub(super) fn new(settings: &TlsSettings, texts: &Texts) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let chain = certificates(&settings.certificate, &texts.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&texts.key)
            .map_err(|error| content(&settings.key, format!("no private key: {error}")))?;
        let roots = Arc::new(roots(&settings.bundle, &texts.bundle)?);
        let revocations = Arc::new(revocations(settings.crl.as_deref(), &texts.crl)?);
        let first = chain.first().ok_or_else(|| content(&settings.certificate, "no certificate"))?;
        let id = identity_of(first).map_err(|error| content(&settings.certificate, error))?.id;
        let mut verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
                .with_crls(revocations.lists().iter().cloned())
                .allow_unknown_revocation_status();
        if settings.anonymous_peers {
            verifier = verifier.allow_unauthenticated();
        }
        let verifier = verifier.build().map_err(|error| content(&settings.bundle, error))?;
        let verifier =
            ProgramsOf { chain: verifier, trust_domains: settings.trust_domains.as_slice().into() };
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| content(&settings.certificate, error))?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(|error| content(&settings.key, error))?;
        server.alpn_protocols = vec![HTTP2.to_vec()];
        // A resumed session would be let in without a look at its certificate.
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        let mut hasher = DefaultHasher::new();
        (&texts.bundle, &texts.crl).hash(&mut hasher);
        let trust = hasher.finish();
        Ok(Self { server: Arc::new(server), id, trust, revocations, provider, roots, chain, key })
    }

    /// What a connection to that program needs.
    pub(super) fn client(&self, expected: &SpiffeId) -> Result<ClientConfig, rustls::Error> {
        let verifier = ProgramNamed {
            roots: Arc::clone(&self.roots),
            revocations: Arc::clone(&self.revocations),
            provider: Arc::clone(&self.provider),
            expected: expected.clone(),
        };
        let chain = (self.chain.clone(), self.key.clone_key());
        client_config(verifier, Some(chain))
    }
}

/// For connections to a program, with or without a certificate of one's own.
pub(super) fn client_config(
    verifier: ProgramNamed,
    own: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
) -> Result<ClientConfig, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(Arc::clone(&verifier.provider))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut client = match own {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
        None => builder.with_no_client_auth(),
    };
    client.alpn_protocols = vec![HTTP2.to_vec()];
    client.resumption = Resumption::disabled();
    client.enable_sni = false;
    Ok(client)
}

/// The authorities of a bundle.
pub(super) fn roots(path: &Path, text: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(path, text)? {
        roots.add(authority).map_err(|error| content(path, error))?;
    }
    Ok(roots)
}

/// What a file of lists has revoked, if there is one.
pub(super) fn revocations(path: Option<&Path>, text: &[u8]) -> Result<Revocations, TlsError> {
    let Some(path) = path else { return Ok(Revocations::default()) };
    Revocations::read(text).map_err(|error| content(path, error))
}

/// The text of a file that need not be; empty where there is none.
pub(super) fn read_if_any(path: Option<&Path>) -> Result<Vec<u8>, TlsError> {
    path.map_or(Ok(Vec::new()), read)
}

impl fmt::Debug for Material {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Material").field("id", &self.id).field("trust", &self.trust).finish_non_exhaustive()
    }
}

impl fmt::Debug for Texts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Texts(..)")
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    /// Far more than any chain or bundle has, and about a hundred thousand revoked certificates.
    const MOST_BYTES: u64 = 4 * 1024 * 1024;
    let fail = |source| TlsError::Read { path: path.to_owned(), source };
    if fs::metadata(path).map_err(fail)?.len() > MOST_BYTES {
        return Err(fail(io::ErrorKind::FileTooLarge.into()));
    }
    fs::read(path).map_err(fail)
}

pub(super) fn certificates(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    match found {
        Ok(found) if found.is_empty() => Err(content(path, "no certificate")),
        Ok(found) => Ok(found),
        Err(error) => Err(content(path, error)),
    }
}

pub(super) fn content(path: &Path, what: impl fmt::Display) -> TlsError {
    TlsError::Content { path: PathBuf::from(path), what: what.to_string() }
}
