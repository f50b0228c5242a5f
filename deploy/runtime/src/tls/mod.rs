//! Who is at the other end of a connection, proved: TLS 1.3 with certificates on both sides, whose names are SPIFFE ids.
//!
//! [`Tls`] is a handle that accepts and makes connections with the material that is current; [`Reloader`] keeps it current while the
//! files change. [`ServerCertificate`] is for a port whose callers have no certificates. What a name may do is decided elsewhere. Nothing here may know a service.

mod certificate;
mod flags;
mod material;
mod reload;
mod server_only;
mod spiffe;
mod verify;

#[cfg(test)]
mod tests;

use std::{io, path::PathBuf, sync::Arc, time::SystemTime};

use rustls::pki_types::{CertificateDer, ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
pub use tokio_rustls::{client::TlsStream as ClientStream, server::TlsStream as ServerStream};

use self::material::Material;
pub use self::{
    flags::{TlsFlags, TlsProblem},
    reload::Reloader,
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
    /// Trust domains whose programs may connect.
    pub trust_domains: Vec<TrustDomain>,
}

/// Makes and accepts connections. Cheap to clone; all clones use what is current.
#[derive(Debug, Clone)]
pub struct Tls {
    current: watch::Receiver<Arc<Material>>,
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
        Ok((Self { current }, reloader))
    }

    /// Takes a connection; its peer is a program of an allowed trust domain. The caller bounds the time.
    ///
    /// # Errors
    /// The peer does not speak TLS, or could not prove a name that is allowed.
    pub async fn accept<I>(&self, io: I) -> io::Result<(ServerStream<I>, PeerIdentity)>
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let current = Arc::clone(&self.current.borrow());
        let stream = TlsAcceptor::from(Arc::clone(&current.server)).accept(io).await?;
        // A peer that offers another protocol has been refused by now; one that offers none has not.
        if stream.get_ref().1.alpn_protocol() != Some(material::HTTP2) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the peer does not offer HTTP/2"));
        }
        let named = named(stream.get_ref().1.peer_certificates())?;
        Ok((stream, PeerIdentity { id: named.id, not_after: named.not_after, trust: current.trust }))
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

    /// Changes whenever the trusted authorities have changed: who was let in before may not be let in now.
    #[must_use]
    pub fn trust(&self) -> u64 {
        self.current.borrow().trust
    }

    /// Waits until the trusted authorities are others than at `since`.
    pub async fn trust_changed(&self, since: u64) {
        let mut current = self.current.clone();
        if current.wait_for(|material| material.trust != since).await.is_err() {
            // Nobody reloads any more.
            std::future::pending::<()>().await;
        }
    }
}

fn named(chain: Option<&[CertificateDer<'_>]>) -> io::Result<verify::Named> {
    let first = chain.and_then(<[_]>::first).ok_or_else(|| io::Error::other("no certificate"))?;
    verify::identity_of(first).map_err(io::Error::other)
}
