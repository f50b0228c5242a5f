//! A small HTTPS server on loopback with a certificate of its own, for tests of what asks others.

use std::{
    convert::Infallible,
    fs,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_rustls::TlsAcceptor;

/// Answers a question: its parts and body in, an answer out. `None` never answers.
type Answers = dyn Fn(&Request<Bytes>) -> Option<Response<Bytes>> + Send + Sync;

/// The server. Ends with the test.
pub(crate) struct HttpsServer {
    addr: SocketAddr,
    folder: TempDir,
    answers: Arc<Mutex<Arc<Answers>>>,
    asked: Arc<Mutex<Vec<Request<Bytes>>>>,
    _running: JoinSet<()>,
}

/// An answer with that status and body.
pub(crate) fn answer(status: u16, body: impl Into<Bytes>) -> Option<Response<Bytes>> {
    Some(Response::builder().status(status).body(body.into()).unwrap())
}

impl HttpsServer {
    pub(crate) async fn start(
        answers: impl Fn(&Request<Bytes>) -> Option<Response<Bytes>> + Send + Sync + 'static,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        fs::write(folder.path().join("ca.pem"), authority.self_signed(&key).unwrap().pem()).unwrap();
        let issuer = Issuer::new(authority, key);
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let answers: Arc<Mutex<Arc<Answers>>> = Arc::new(Mutex::new(Arc::new(answers)));
        let asked = Arc::default();
        let mut running = JoinSet::new();
        running.spawn(serve(
            listener,
            TlsAcceptor::from(Arc::new(config)),
            Arc::clone(&answers),
            Arc::clone(&asked),
        ));
        Self { addr, folder, answers, asked, _running: running }
    }

    /// The address of a path.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.addr)
    }

    /// The authority that vouches for it.
    pub(crate) fn ca_file(&self) -> std::path::PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Answers otherwise from now on.
    pub(crate) fn answers(
        &self,
        answers: impl Fn(&Request<Bytes>) -> Option<Response<Bytes>> + Send + Sync + 'static,
    ) {
        *self.answers.lock().unwrap() = Arc::new(answers);
    }

    /// What it was asked so far.
    pub(crate) fn asked(&self) -> Vec<Request<Bytes>> {
        self.asked.lock().unwrap().clone()
    }
}

async fn serve(
    listener: TcpListener,
    tls: TlsAcceptor,
    answers: Arc<Mutex<Arc<Answers>>>,
    asked: Arc<Mutex<Vec<Request<Bytes>>>>,
) {
    let mut connections = JoinSet::new();
    loop {
        let (io, _) = listener.accept().await.unwrap();
        let (tls, answers, asked) = (tls.clone(), Arc::clone(&answers), Arc::clone(&asked));
        connections.spawn(async move {
            // Those that do not trust the certificate go away.
            let Ok(io) = tls.accept(io).await else { return };
            let service = service_fn(|request: Request<Incoming>| {
                let (answers, asked) = (Arc::clone(&answers), Arc::clone(&asked));
                async move {
                    let (parts, body) = request.into_parts();
                    let body = body.collect().await.unwrap().to_bytes();
                    let request = Request::from_parts(parts, body);
                    let answers = Arc::clone(&answers.lock().unwrap());
                    let answer = answers(&request);
                    asked.lock().unwrap().push(request);
                    match answer {
                        Some(answer) => Ok::<_, Infallible>(answer.map(Full::new)),
                        None => std::future::pending().await,
                    }
                }
            });
            drop(http1::Builder::new().serve_connection(TokioIo::new(io), service).await);
        });
    }
}
