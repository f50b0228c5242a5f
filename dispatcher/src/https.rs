//! Small questions over HTTPS: to one host that an operator named, answered within seconds and a bounded number of bytes.
//!
//! Follows no redirect and uses no proxy. Decides nothing: what an answer means is the caller's matter. Nothing that is sent or
//! received is logged here, because it may be a secret.

#[cfg(test)]
pub(crate) mod testing;

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use tokio::time::timeout;

/// Time for all of it.
const WITHIN: Duration = Duration::from_secs(4);
/// Largest file of authorities or of a credential.
const MOST_FILE_BYTES: u64 = 1024 * 1024;

type Http = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// How a host is known, and how it knows us.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HttpsOptions {
    /// Certificates of the authorities that may vouch for the host, PEM; those of the system without. Read again when it changes.
    pub(crate) ca_file: Option<PathBuf>,
    /// A bearer token to show it. Read for each question: it is replaced in place.
    pub(crate) token_file: Option<PathBuf>,
}

/// Asks.
pub(crate) struct Https {
    options: HttpsOptions,
    /// Of the authorities as they were when it was made.
    current: Mutex<Option<(Vec<u8>, Arc<Http>)>>,
}

impl Https {
    /// Reads nothing yet.
    #[must_use]
    pub(crate) const fn new(options: HttpsOptions) -> Self {
        Self { options, current: Mutex::new(None) }
    }

    /// Reads the authorities, so that what is wrong with them is known at once.
    ///
    /// # Errors
    /// They cannot be used.
    pub(crate) fn check(&self) -> io::Result<()> {
        self.client().map(drop)
    }

    /// The status and body of the answer to a GET.
    ///
    /// # Errors
    /// There is none, or it is larger than `most_bytes`.
    pub(crate) async fn get(&self, address: &str, most_bytes: usize) -> io::Result<(StatusCode, Bytes)> {
        self.ask(Request::get(address), Bytes::new(), most_bytes).await
    }

    /// The status and body of the answer to a POST of JSON.
    ///
    /// # Errors
    /// There is none, or it is larger than `most_bytes`.
    pub(crate) async fn post_json(
        &self,
        address: &str,
        json: Bytes,
        most_bytes: usize,
    ) -> io::Result<(StatusCode, Bytes)> {
        let request = Request::post(address).header(header::CONTENT_TYPE, "application/json");
        self.ask(request, json, most_bytes).await
    }

    async fn ask(
        &self,
        request: http::request::Builder,
        body: Bytes,
        most_bytes: usize,
    ) -> io::Result<(StatusCode, Bytes)> {
        let client = self.client()?;
        let mut request = request.header(header::ACCEPT, "application/json");
        if let Some(path) = &self.options.token_file {
            let token = String::from_utf8(read(path)?).map_err(|_| io::ErrorKind::InvalidData)?;
            let mut value = header::HeaderValue::try_from(format!("Bearer {}", token.trim()))
                .map_err(|_| named(path, "holds no token"))?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        let request = request.body(Full::new(body)).map_err(io::Error::other)?;
        let asked = timeout(WITHIN, async {
            let answer = client.request(request).await.map_err(io::Error::other)?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), most_bytes).collect().await;
            Ok((status, body.map_err(io::Error::other)?.to_bytes()))
        });
        asked.await.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer in time"))?
    }

    fn client(&self) -> io::Result<Arc<Http>> {
        let authorities = self.options.ca_file.as_deref().map_or(Ok(Vec::new()), read)?;
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, client)) = &*current
            && *of == authorities
        {
            return Ok(Arc::clone(client));
        }
        let client = Arc::new(client(self.options.ca_file.as_deref(), &authorities)?);
        *current = Some((authorities, Arc::clone(&client)));
        Ok(client)
    }
}

impl fmt::Debug for Https {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Https").field("options", &self.options).finish_non_exhaustive()
    }
}

fn client(ca_file: Option<&Path>, authorities: &[u8]) -> io::Result<Http> {
    let builder = HttpsConnectorBuilder::new();
    let builder = match ca_file {
        None => builder.with_provider_and_native_roots(aws_lc_rs::default_provider())?,
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for authority in CertificateDer::pem_slice_iter(authorities) {
                let authority = authority.map_err(|error| named(path, error))?;
                roots.add(authority).map_err(|error| named(path, error))?;
            }
            if roots.is_empty() {
                return Err(named(path, "holds no certificate"));
            }
            let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(io::Error::other)?
                .with_root_certificates(roots)
                .with_no_client_auth();
            builder.with_tls_config(config)
        }
    };
    let connector = builder.https_only().enable_http1().build();
    Ok(Client::builder(TokioExecutor::new()).pool_max_idle_per_host(4).build(connector))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let fail = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    if fs::metadata(path).map_err(fail)?.len() > MOST_FILE_BYTES {
        return Err(fail(io::ErrorKind::FileTooLarge.into()));
    }
    fs::read(path).map_err(fail)
}

fn named(path: &Path, what: impl fmt::Display) -> io::Error {
    io::Error::other(format!("{}: {what}", path.display()))
}

/// Whether an address is a whole one of HTTPS: a host, and nobody's name before an @.
#[must_use]
pub(crate) fn is_https(address: &str) -> bool {
    let Ok(uri) = address.parse::<Uri>() else { return false };
    let has_host = uri.authority().is_some_and(|a| !a.host().is_empty() && !a.as_str().contains('@'));
    uri.scheme_str() == Some("https") && has_host
}

#[cfg(test)]
mod tests {
    use super::{
        testing::{HttpsServer, answer},
        *,
    };

    fn asking(server: &HttpsServer) -> Https {
        Https::new(HttpsOptions { ca_file: Some(server.ca_file()), token_file: None })
    }

    #[tokio::test]
    async fn a_question_is_answered_by_a_host_that_is_vouched_for_and_by_no_other() {
        let server = HttpsServer::start(|_| answer(200, "yes")).await;
        let (status, body) = asking(&server).get(&server.url("/x?y=1"), 64).await.unwrap();
        assert_eq!((status, &body[..]), (StatusCode::OK, &b"yes"[..]));
        assert_eq!(server.asked()[0].uri(), "/x?y=1");

        let other = HttpsServer::start(|_| answer(200, "forged")).await;
        assert!(asking(&server).get(&other.url("/x"), 64).await.is_err());
        assert!(other.asked().is_empty(), "nothing is said to a host that nobody vouches for");
        let plain = server.url("/x").replace("https", "http");
        assert!(asking(&server).get(&plain, 64).await.is_err());
    }

    #[tokio::test]
    async fn large_answers_and_other_places_are_not_taken() {
        let server = HttpsServer::start(|_| answer(200, vec![b'x'; 65])).await;
        assert!(asking(&server).get(&server.url("/"), 64).await.is_err());
        let elsewhere = HttpsServer::start(|_| answer(200, "elsewhere")).await;
        let to = elsewhere.url("/");
        server.answers(move |_| {
            let mut moved = answer(302, "")?;
            moved.headers_mut().insert(header::LOCATION, to.parse().unwrap());
            Some(moved)
        });
        assert_eq!(asking(&server).get(&server.url("/"), 64).await.unwrap().0, StatusCode::FOUND);
        assert!(elsewhere.asked().is_empty());
    }

    #[tokio::test]
    async fn a_credential_is_read_for_each_question_and_shown_nowhere() {
        let server = HttpsServer::start(|_| answer(201, "{}")).await;
        let folder = tempfile::tempdir().unwrap();
        let token_file = folder.path().join("token");
        let options = HttpsOptions { ca_file: Some(server.ca_file()), token_file: Some(token_file.clone()) };
        let https = Https::new(options);
        for token in ["first", "second"] {
            fs::write(&token_file, format!("{token}\n")).unwrap();
            https.post_json(&server.url("/"), Bytes::from_static(b"{}"), 64).await.unwrap();
            let asked = server.asked().pop().unwrap();
            assert_eq!(asked.headers()[header::AUTHORIZATION], format!("Bearer {token}"));
            assert_eq!((asked.method().as_str(), &asked.body()[..]), ("POST", &b"{}"[..]));
            assert!(!format!("{https:?}").contains(token));
        }
        fs::remove_file(&token_file).unwrap();
        assert!(https.get(&server.url("/"), 64).await.is_err());
        assert_eq!(server.asked().len(), 2);
    }

    #[tokio::test]
    async fn new_authorities_are_used_and_none_are_a_mistake() {
        let (old, new) =
            (HttpsServer::start(|_| answer(200, "")).await, HttpsServer::start(|_| answer(200, "")).await);
        let folder = tempfile::tempdir().unwrap();
        let ca_file = folder.path().join("ca.pem");
        let https = Https::new(HttpsOptions { ca_file: Some(ca_file.clone()), token_file: None });
        assert!(https.check().unwrap_err().to_string().contains("ca.pem"));
        for (server, other) in [(&old, &new), (&new, &old)] {
            fs::copy(server.ca_file(), &ca_file).unwrap();
            https.get(&server.url("/"), 64).await.unwrap();
            assert!(https.get(&other.url("/"), 64).await.is_err());
        }
        fs::write(&ca_file, "").unwrap();
        assert!(https.check().unwrap_err().to_string().contains("holds no certificate"));
    }

    #[test]
    fn an_address_is_one_of_https_with_a_host() {
        for good in ["https://issuer/keys", "https://10.0.0.1:6443/openid/v1/jwks?x=1", "https://[::1]/"] {
            assert!(is_https(good), "{good}");
        }
        for bad in [
            "",
            "http://issuer/keys",
            "issuer/keys",
            "https://",
            "https://u@issuer/",
            "file:///keys",
            "HTTPS//x",
        ] {
            assert!(!is_https(bad), "{bad}");
        }
    }
}
