//! What authorities have revoked: lists (CRLs) from a file, for both sides of a handshake.
//!
//! A list speaks for its own authority and for no other: certificates of an authority without a list are not revoked. One that is overdue
//! still revokes what it names. It could only miss what was revoked since, and refusing everybody for that would make
//! an authority that is away the end of all backups; so it is said, and goes on.

use std::{fmt, time::SystemTime};

use rustls::{
    CertificateError, Error, OtherError, RootCertStore,
    pki_types::{
        CertificateDer, CertificateRevocationListDer, SignatureVerificationAlgorithm, UnixTime,
        pem::PemObject as _,
    },
};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, OwnedCertRevocationList,
    RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy,
};

use super::certificate;

/// Lists that hold together; none by default.
#[derive(Default)]
pub(super) struct Revocations {
    ders: Vec<CertificateRevocationListDer<'static>>,
    parsed: Vec<CertRevocationList<'static>>,
    until: Option<SystemTime>,
}

impl Revocations {
    /// Reads lists in PEM; without one the text is a mistake.
    pub(super) fn read(pem: &[u8]) -> Result<Self, String> {
        let ders: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(pem).collect();
        let ders = ders.map_err(|error| error.to_string())?;
        let mut lists = Self::default();
        for der in ders {
            let parsed = OwnedCertRevocationList::from_der(&der)
                .map_err(|error| format!("not a revocation list that can be used: {error}"))?;
            let until = certificate::next_update(&der).map_err(|_| "the revocation list is malformed")?;
            lists.until = Some(lists.until.map_or(until, |other| other.min(until)));
            lists.parsed.push(parsed.into());
            lists.ders.push(der);
        }
        if lists.ders.is_empty() { Err("no revocation list".to_owned()) } else { Ok(lists) }
    }

    /// As they were read, for whoever verifies clients.
    pub(super) fn lists(&self) -> &[CertificateRevocationListDer<'static>] {
        &self.ders
    }

    /// When the first of them should have been replaced.
    pub(super) const fn until(&self) -> Option<SystemTime> {
        self.until
    }

    /// Refuses a server's certificate, verified otherwise, if it or one of those that vouch for it was revoked.
    pub(super) fn check_server(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        roots: &RootCertStore,
        now: UnixTime,
        algorithms: &[&dyn SignatureVerificationAlgorithm],
    ) -> Result<(), Error> {
        let lists: Vec<_> = self.parsed.iter().collect();
        let Ok(options) = RevocationOptionsBuilder::new(&lists) else { return Ok(()) };
        let options = options
            .with_depth(RevocationCheckDepth::Chain)
            .with_status_policy(UnknownStatusPolicy::Allow)
            .with_expiration_policy(ExpirationPolicy::Ignore)
            .build();
        let certificate = EndEntityCert::try_from(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        let verified = certificate.verify_for_usage(
            algorithms,
            &roots.roots,
            intermediates,
            now,
            KeyUsage::server_auth(),
            Some(options),
            None,
        );
        match verified {
            Ok(_path) => Ok(()),
            Err(webpki::Error::CertRevoked) => Err(CertificateError::Revoked.into()),
            Err(other) => Err(CertificateError::Other(OtherError(std::sync::Arc::new(other))).into()),
        }
    }
}

impl fmt::Debug for Revocations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Revocations({} lists)", self.ders.len())
    }
}
