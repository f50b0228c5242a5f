//! A certificate for a port whose callers have none: only the server proves who it is, and callers prove themselves otherwise.
//!
//! TLS 1.2 where the program has it, because callers are other people's programs. The files are looked at every now and then; new ones are
//! used for new connections, and ones that do not hold together change nothing.

use std::{fmt, io, path::PathBuf, sync::Arc, time::Duration};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{PrivateKeyDer, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    time::sleep,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::{
    ServerStream, TlsError,
    material::{HTTP2, certificates, content, read},
    reload::with_source,
};

/// HTTP in general, not only what is spoken inside.
const HTTP1: &[u8] = b"http/1.1";

/// Takes connections with the certificate that is current. Clones are the same.
#[derive(Clone)]
pub struct ServerCertificate {
    current: watch::Receiver<Arc<ServerConfig>>,
}

/// Reads the files again when they have changed.
pub struct ServerReloader {
    certificate: PathBuf,
    key: PathBuf,
    current: watch::Sender<Arc<ServerConfig>>,
    /// What was read last, whether it was of use or not.
    seen: (Vec<u8>, Vec<u8>),
    /// What was told last, so that it is told once.
    told: Option<String>,
}

impl ServerCertificate {
    /// Reads a certificate with its chain and its key, both PEM.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn open(certificate: PathBuf, key: PathBuf) -> Result<(Self, ServerReloader), TlsError> {
        let seen = (read(&certificate)?, read(&key)?);
        let config = config(&certificate, &key, &seen)?;
        let (current, receiver) = watch::channel(Arc::new(config));
        Ok((Self { current: receiver }, ServerReloader { certificate, key, current, seen, told: None }))
    }

    /// Takes a connection. The caller bounds the time.
    ///
    /// # Errors
    /// The peer does not speak TLS.
    pub async fn accept<I>(&self, io: I) -> io::Result<ServerStream<I>>
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let current = Arc::clone(&self.current.borrow());
        TlsAcceptor::from(current).accept(io).await
    }
}

impl ServerReloader {
    /// Looks at the files each time `every` has passed, until `stop`.
    pub async fn run(mut self, every: Duration, stop: CancellationToken) {
        while stop.run_until_cancelled(sleep(every)).await.is_some() {
            self.look();
        }
    }

    /// Looks at the files once. Small files on a local disk: not worth a thread.
    pub fn look(&mut self) {
        let texts = |this: &Self| Ok((read(&this.certificate)?, read(&this.key)?));
        let made: Result<ServerConfig, TlsError> = match texts(self) {
            Ok(seen) if seen == self.seen => {
                self.told = None;
                return;
            }
            // Replaced between the first file and the second: the next look finds them whole.
            Ok(seen) if !texts(self).is_ok_and(|again: (Vec<u8>, Vec<u8>)| again == seen) => return,
            Ok(seen) => {
                let made = config(&self.certificate, &self.key, &seen);
                self.seen = seen;
                made
            }
            Err(error) => Err(error),
        };
        match made {
            Ok(config) => {
                info!(file = %self.certificate.display(), "certificate replaced");
                self.told = None;
                self.current.send_replace(Arc::new(config));
            }
            Err(error) => {
                let text = with_source(&error);
                if self.told.as_ref() != Some(&text) {
                    error!(error = text, "new certificate or key not used; the old ones are kept");
                    self.told = Some(text);
                }
            }
        }
    }
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerCertificate(..)")
    }
}

impl fmt::Debug for ServerReloader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerReloader").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

fn config(
    certificate: &std::path::Path,
    key: &std::path::Path,
    texts: &(Vec<u8>, Vec<u8>),
) -> Result<ServerConfig, TlsError> {
    let chain = certificates(certificate, &texts.0)?;
    let private = PrivateKeyDer::from_pem_slice(&texts.1)
        .map_err(|error| content(key, format!("no private key: {error}")))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| content(certificate, error))?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| content(key, error))?;
    config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use rcgen::{CertificateParams, KeyPair};
    use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
    use tokio_rustls::TlsConnector;

    use super::*;

    /// Writes a new certificate for `events` into the folder; gives it.
    fn renew(folder: &Path) -> Vec<u8> {
        let params = CertificateParams::new(vec!["events".to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        fs::write(folder.join("cert.pem"), certificate.pem()).unwrap();
        fs::write(folder.join("key.pem"), key.serialize_pem()).unwrap();
        certificate.der().to_vec()
    }

    /// Whether a client that trusts only `trusted`, and has no certificate, is served.
    async fn serves(certificate: &ServerCertificate, trusted: &[u8]) -> bool {
        let mut roots = RootCertStore::empty();
        roots.add(trusted.to_vec().into()).unwrap();
        let client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let (near, far) = tokio::io::duplex(16 * 1024);
        let name = ServerName::try_from("events").unwrap();
        let connector = TlsConnector::from(Arc::new(client));
        let (served, connected) = tokio::join!(certificate.accept(far), connector.connect(name, near));
        served.is_ok() && connected.is_ok()
    }

    #[tokio::test]
    async fn callers_without_a_certificate_are_served_with_the_one_that_is_current() {
        let folder = tempfile::tempdir().unwrap();
        let paths = || (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        let (certificate, key) = paths();
        assert!(ServerCertificate::open(certificate, key).is_err(), "there is none");
        let first = renew(folder.path());
        let (certificate, key) = paths();
        let (current, mut reloader) = ServerCertificate::open(certificate, key).unwrap();
        assert!(serves(&current, &first).await);
        let second = renew(folder.path());
        assert!(serves(&current, &first).await, "nobody has looked yet");
        reloader.look();
        assert!(serves(&current, &second).await && !serves(&current, &first).await);
        // What does not hold together changes nothing.
        fs::write(folder.path().join("key.pem"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
        reloader.look();
        fs::remove_file(folder.path().join("cert.pem")).unwrap();
        reloader.look();
        assert!(serves(&current, &second).await);
        let third = renew(folder.path());
        reloader.look();
        assert!(serves(&current, &third).await);
    }
}
