//! Verifying the other side: its chain by the library, its name here.

use std::{fmt, sync::Arc, time::SystemTime};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    client::verify_server_cert_signed_by_trust_anchor,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        ParsedCertificate,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use super::{
    SpiffeId, TrustDomain,
    certificate::{self, Malformed},
    revocation::Revocations,
    spiffe::SpiffeError,
};

/// Why a certificate that is genuine names nobody.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoIdentity {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// One name is needed, not a choice of them.
    #[error("the certificate has {0} URI names instead of one")]
    Count(usize),
    #[error("the URI name of the certificate is no SPIFFE id: it {0}")]
    Name(#[from] SpiffeError),
    #[error("the trust domain of the certificate's name is not allowed")]
    TrustDomain,
    #[error("the certificate names another program")]
    Other,
}

/// Whom a certificate names, and until when.
pub(super) struct Named {
    pub(super) id: SpiffeId,
    pub(super) not_after: SystemTime,
}

/// The name in a certificate that has been verified.
pub(super) fn identity_of(certificate: &CertificateDer<'_>) -> Result<Named, NoIdentity> {
    let facts = certificate::read(certificate)?;
    match facts.uris.as_slice() {
        [uri] => Ok(Named { id: uri.parse()?, not_after: facts.not_after }),
        uris => Err(NoIdentity::Count(uris.len())),
    }
}

impl fmt::Debug for NoIdentity {
    /// In words: the library shows errors that are not its own in this form only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<NoIdentity> for Error {
    fn from(why: NoIdentity) -> Self {
        CertificateError::Other(rustls::OtherError(Arc::new(why))).into()
    }
}

/// Lets in programs of some trust domains.
#[derive(Debug)]
pub(super) struct ProgramsOf {
    /// Verifies chain, purpose, times, and that nothing was revoked.
    pub(super) chain: Arc<dyn ClientCertVerifier>,
    pub(super) trust_domains: Arc<[TrustDomain]>,
}

impl ClientCertVerifier for ProgramsOf {
    fn client_auth_mandatory(&self) -> bool {
        self.chain.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        let peer = identity_of(end_entity)?;
        if self.trust_domains.iter().any(|domain| domain.as_str() == peer.id.trust_domain()) {
            Ok(verified)
        } else {
            Err(NoIdentity::TrustDomain.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Speaks with one program only, wherever it is.
#[derive(Debug)]
pub(super) struct ProgramNamed {
    pub(super) roots: Arc<RootCertStore>,
    pub(super) revocations: Arc<Revocations>,
    pub(super) provider: Arc<CryptoProvider>,
    pub(super) expected: SpiffeId,
}

impl ServerCertVerifier for ProgramNamed {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        self.revocations.check_server(end_entity, intermediates, &self.roots, now, algorithms)?;
        if identity_of(end_entity)?.id == self.expected {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(NoIdentity::Other.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
