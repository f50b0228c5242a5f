//! Who is at the other end of a connection, proved: TLS 1.3 with certificates on both sides, whose names are SPIFFE ids.
//!
//! [`Tls`] is a handle that accepts and makes connections with the material that is current; [`Reloader`] keeps it current while the
//! files change. [`ServerCertificate`] is for a port whose callers have no certificates. What a name may do is decided elsewhere. Nothing here may know a service.

mod anonymous;
mod certificate;
mod flags;
mod material;
mod reload;
mod revocation;
mod server_only;
mod spiffe;
mod verify;

#[cfg(test)]
mod tests;

/// What fuzzing calls.
#[cfg(any(test, feature = "test-util"))]
pub mod fuzzing {
    /// The URI names of a certificate in DER, where it can be read.
    #[must_use]
    pub fn names_of_certificate(der: &[u8]) -> Option<Vec<String>> {
        super::certificate::read(der).ok().map(|facts| facts.uris)
    }
}

use std::{io, path::PathBuf, sync::Arc, time::SystemTime};

use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
pub use tokio_rustls::{client::TlsStream as ClientStream, server::TlsStream as ServerStream};

use self::material::Material;
pub use self::{
    anonymous::{Anonymous, TrustSettings},
    flags::{TlsFlags, TlsProblem},
    reload::{FilesState, Reloader},
    server_only::{ServerCertificate, ServerReloader},
    spiffe::{SpiffeError, SpiffeId, TrustDomain},
};

/// Where this program's own name and its trust come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// Certificate chain, PEM, own certificate first.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// Certificates of the authorities that are trusted, PEM.
    pub bundle: PathBuf,
    /// Lists of what these authorities have revoked, PEM.
    pub crl: Option<PathBuf>,
    /// Trust domains whose programs may connect.
    pub trust_domains: Vec<TrustDomain>,
    /// Take peers that show no certificate at all too: nothing is known of them, and they have to prove who they are otherwise.
    pub anonymous_peers: bool,
}

/// Makes and accepts connections. Cheap to clone; all clones use what is current.
#[derive(Debug, Clone)]
pub struct Tls {
    current: watch::Receiver<Arc<Material>>,
    state: Arc<reload::State>,
}

/// The other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Its name.
    pub id: SpiffeId,
    /// When its certificate ends.
    pub not_after: SystemTime,
    /// Which authorities were trusted when it was let in; for [`Tls::trust_changed`].
    pub trust: u64,
}

/// Why there is no material to speak TLS with.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{}: cannot be read", path.display())]
    Read {
        /// File.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{}: {what}", path.display())]
    Content {
        /// File.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn open(settings: TlsSettings) -> Result<(Self, Reloader), TlsError> {
        let (reloader, current) = Reloader::open(settings)?;
        Ok((Self { current, state: reloader.state() }, reloader))
    }

    /// Takes a connection; its peer is a program of an allowed trust domain, or, where that is allowed, `None`: somebody without a
    /// certificate. The caller bounds the time.
    ///
    /// # Errors
    /// The peer does not speak TLS, or could not prove a name that is allowed.
    pub async fn accept<I>(&self, io: I) -> io::Result<(ServerStream<I>, Option<PeerIdentity>)>
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let current = Arc::clone(&self.current.borrow());
        let stream = TlsAcceptor::from(Arc::clone(&current.server)).accept(io).await?;
        // A peer that offers another protocol has been refused by now; one that offers none has not.
        if stream.get_ref().1.alpn_protocol() != Some(material::HTTP2) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the peer does not offer HTTP/2"));
        }
        // The verifier has let nobody without one come this far unless anonymous peers are taken.
        let identity = match stream.get_ref().1.peer_certificates().and_then(<[_]>::first) {
            None => None,
            Some(first) => {
                let named = verify::identity_of(first).map_err(io::Error::other)?;
                Some(PeerIdentity { id: named.id, not_after: named.not_after, trust: current.trust })
            }
        };
        Ok((stream, identity))
    }

    /// Makes a connection to the program with that name. The caller bounds the time.
    ///
    /// # Errors
    /// The peer does not speak TLS, or could not prove that name.
    pub async fn connect<I>(&self, io: I, expected: &SpiffeId) -> io::Result<ClientStream<I>>
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let config = self.current.borrow().client(expected).map_err(io::Error::other)?;
        // The name is in the certificate, not in the address: nothing is asked for by name.
        let address = ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
        TlsConnector::from(Arc::new(config)).connect(address, io).await
    }

    /// How the files are.
    #[must_use]
    pub fn files(&self) -> FilesState {
        FilesState {
            are_current: self.state.are_current(),
            crl_until: self.current.borrow().revocations.until(),
        }
    }

    /// Changes whenever the trusted authorities, or what they have revoked, have changed: who was let in before may not be let in now.
    #[must_use]
    pub fn trust(&self) -> u64 {
        self.current.borrow().trust
    }

    /// Waits until what is trusted is not the same any more as at `since`.
    pub async fn trust_changed(&self, since: u64) {
        let mut current = self.current.clone();
        if current.wait_for(|material| material.trust != since).await.is_err() {
            // Nobody reloads any more.
            std::future::pending::<()>().await;
        }
    }
}
