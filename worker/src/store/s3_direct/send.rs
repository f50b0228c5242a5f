//! Sends a request over the client library's connections and waits for its answer, as long as that is worth it.

use std::{
    convert::Infallible,
    error::Error,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use aws_smithy_runtime_api::{
    client::{
        http::{HttpConnector, SharedHttpConnector},
        result::ConnectorError,
    },
    http::Headers,
};
use aws_smithy_types::body::SdkBody;
use backhaul_runtime::address::ForbiddenAddress;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Uri};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Limited};
use tokio::{sync::Notify, time::timeout};

use super::{
    super::{
        ClientSettings, StoreError, StoreErrorKind,
        body::{Payload, PayloadBody},
        error::Operation,
        s3_error::{cause, credentials_kind, refusal},
    },
    Draft, Signer,
};

/// Longest text of an answer that is read, be it an error or the result of a copy.
const TEXT_MAX_BYTES: usize = 64 * 1024;
/// How many times as long as a connection may take a request may wait for one. A pool can give a request to a connection that closes in
/// this moment, where nobody takes it: without a limit, its answer would be waited for as long as for that of an upload.
const CONNECTS: u32 = 3;
const USER_AGENT: &str = concat!("backhaul/", env!("CARGO_PKG_VERSION"));

pub(super) type HttpResponse = aws_smithy_runtime_api::http::Response;

/// Connections, and how long to wait on them; for all stores.
#[derive(Debug, Clone)]
pub(in super::super) struct Transport {
    connector: SharedHttpConnector,
    settings: ClientSettings,
}

/// The way to one store.
#[derive(Debug, Clone)]
pub(super) struct Wire {
    transport: Transport,
    /// Scheme, host and port.
    endpoint: String,
    host: String,
    signer: Option<Arc<Signer>>,
}

/// A body that tells when it was looked at, which only the connection does that its request is sent on, and when its last byte was
/// taken.
struct Watched {
    /// `None` is empty.
    body: Option<PayloadBody>,
    way: Arc<OnItsWay>,
}

/// How far a request has come.
#[derive(Debug, Default)]
struct OnItsWay {
    begun: Notify,
    taken: Notify,
}

/// No answer in time.
#[derive(Debug, thiserror::Error)]
#[error("no answer within {0:?}")]
struct Late(Duration);

impl Transport {
    pub(in super::super) fn new(connector: impl HttpConnector + 'static, settings: ClientSettings) -> Self {
        Self { connector: SharedHttpConnector::new(connector), settings }
    }
}

impl Wire {
    /// `None` when the endpoint has a path of its own, or is no URL.
    pub(super) fn new(transport: &Transport, endpoint: &str, signer: Option<Signer>) -> Option<Self> {
        let uri: Uri = endpoint.parse().ok()?;
        let (scheme, authority) = (uri.scheme_str()?, uri.authority()?);
        if !matches!(uri.path_and_query().map_or("/", |p| p.as_str()), "/" | "")
            || authority.as_str().contains('@')
        {
            return None;
        }
        // As HTTP clients write it, or the signature would be of another request.
        let default = if scheme == "https" { 443 } else { 80 };
        let port = authority.port_u16().filter(|port| *port != default);
        let host =
            port.map_or_else(|| authority.host().to_owned(), |port| format!("{}:{port}", authority.host()));
        let endpoint = format!("{scheme}://{host}");
        Some(Self { transport: transport.clone(), endpoint, host, signer: signer.map(Arc::new) })
    }

    /// Signs and sends; an answer that is no success is an error.
    pub(super) async fn send(&self, mut draft: Draft<'_>) -> Result<HttpResponse, StoreError> {
        let operation = draft.operation;
        if let Some(signer) = &self.signer {
            let signed = signer.sign(&mut draft, &self.host, wall_clock()).await;
            signed
                .map_err(|e| failed(operation, credentials_kind(&e).unwrap_or(StoreErrorKind::Denied), e))?;
        }
        let way = Arc::new(OnItsWay::default());
        let request = self.request(draft, &way);
        let request = request.map_err(|e| failed(operation, StoreErrorKind::Rejected, e))?;
        let request = request.try_into().map_err(|e| failed(operation, StoreErrorKind::Rejected, e))?;
        let Transport { connector, settings } = &self.transport;
        let late = |limit| failed(operation, StoreErrorKind::Timeout, Late(limit));
        let answered = async {
            tokio::select! {
                biased;
                answer = connector.call(request) => answer.map_err(|e| unsent(operation, e)),
                limit = way.too_long(settings) => Err(late(limit)),
            }
        };
        let answer = timeout(settings.request_timeout, answered).await;
        let answer = answer.unwrap_or_else(|_| Err(late(settings.request_timeout)))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status().as_u16();
        // What cannot be read of an error leaves its status.
        let headers = answer.headers().clone();
        let text = self.body(answer).await.unwrap_or_default();
        Err(refusal(operation, status, &headers, &text))
    }

    /// Reads the rest of an answer of no interest, so that its connection can be used again.
    pub(super) async fn finish(
        &self,
        operation: Operation,
        answer: HttpResponse,
    ) -> Result<HttpResponse, StoreError> {
        let mut answer = answer;
        if answer.headers().get("content-length") != Some("0") {
            let body = std::mem::replace(answer.body_mut(), SdkBody::empty());
            self.read(body).await.map_err(|e| failed(operation, StoreErrorKind::Connection, e))?;
        }
        Ok(answer)
    }

    /// The text of an answer.
    pub(super) async fn text(
        &self,
        operation: Operation,
        answer: HttpResponse,
    ) -> Result<(Headers, String), StoreError> {
        let headers = answer.headers().clone();
        let text = self.body(answer).await.map_err(|e| failed(operation, StoreErrorKind::Connection, e))?;
        Ok((headers, text))
    }

    async fn body(&self, answer: HttpResponse) -> Result<String, Box<dyn Error + Send + Sync>> {
        Ok(String::from_utf8_lossy(&self.read(answer.into_body()).await?).into_owned())
    }

    async fn read(&self, body: SdkBody) -> Result<Bytes, Box<dyn Error + Send + Sync>> {
        let limit = self.transport.settings.request_timeout;
        match timeout(limit, Limited::new(body, TEXT_MAX_BYTES).collect()).await {
            Ok(read) => Ok(read?.to_bytes()),
            Err(_) => Err(Late(limit).into()),
        }
    }

    fn request(&self, draft: Draft<'_>, way: &Arc<OnItsWay>) -> Result<Request<SdkBody>, http::Error> {
        let Draft { method, path, query, headers, body, .. } = draft;
        let mark = if query.is_empty() { "" } else { "?" };
        let uri: Uri = format!("{}{path}{mark}{query}", self.endpoint).parse()?;
        let body = body.filter(|payload| !payload.is_empty()).map(Payload::body);
        let body = SdkBody::from_body_1_x(Watched { body, way: Arc::clone(way) });
        let mut request = Request::builder().method(method).uri(uri).body(body)?;
        let map = request.headers_mut();
        map.reserve(headers.len() + 1);
        map.insert(http::header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        for (name, value) in headers {
            map.append(HeaderName::from_bytes(name.as_bytes())?, HeaderValue::try_from(value)?);
        }
        Ok(request)
    }
}

/// What became of a request that no answer came to.
fn unsent(operation: Operation, error: ConnectorError) -> StoreError {
    if let Some(forbidden) = cause::<ForbiddenAddress>(&error) {
        return StoreError::forbidden(operation, *forbidden, error);
    }
    let kind = if error.is_timeout() {
        StoreErrorKind::Timeout
    } else if error.is_user() {
        StoreErrorKind::Rejected
    } else {
        StoreErrorKind::Connection
    };
    failed(operation, kind, error)
}

fn failed(
    operation: Operation,
    kind: StoreErrorKind,
    source: impl Into<Box<dyn Error + Send + Sync>>,
) -> StoreError {
    StoreError { source: Some(source.into()), ..StoreError::new(operation, kind, "") }
}

#[expect(
    clippy::disallowed_methods,
    reason = "signatures are of the time on the wall clock, which stores compare with theirs"
)]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}

impl OnItsWay {
    /// Ends with the limit that has passed without an answer.
    async fn too_long(&self, settings: &ClientSettings) -> Duration {
        let limit = settings.connect_timeout * CONNECTS;
        if timeout(limit, self.begun.notified()).await.is_err() {
            return limit;
        }
        self.taken.notified().await;
        tokio::time::sleep(settings.first_byte_timeout).await;
        settings.first_byte_timeout
    }
}

impl Watched {
    fn look(&self) {
        self.way.begun.notify_one();
        if self.body.as_ref().is_none_or(Body::is_end_stream) {
            self.way.taken.notify_one();
        }
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = self.body.as_mut().map_or(Poll::Ready(None), |body| Pin::new(body).poll_frame(cx));
        self.look();
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.look();
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use aws_smithy_runtime_api::client::{http::HttpConnectorFuture, orchestrator::HttpRequest};
    use http::Method;
    use tokio::time::Instant;

    use super::*;
    use crate::store::ObjectPath;

    const SETTINGS: ClientSettings = ClientSettings {
        connect_timeout: Duration::from_secs(5),
        first_byte_timeout: Duration::from_secs(60),
        request_timeout: Duration::from_secs(300),
        idle_connection: Duration::from_secs(60),
    };

    /// How far a request comes of which nothing more is heard.
    #[derive(Debug, Clone, Copy)]
    enum Until {
        Lost,
        Begun,
        Sent,
    }

    impl HttpConnector for Until {
        fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
            let until = *self;
            HttpConnectorFuture::new(async move {
                let mut body = request.into_body();
                match until {
                    Self::Lost => {}
                    Self::Begun => assert!(!Body::is_end_stream(&body), "there is more"),
                    Self::Sent if Body::is_end_stream(&body) => {}
                    Self::Sent => drop((&mut body).collect().await),
                }
                pending::<()>().await;
                drop(body);
                unreachable!("nothing more is heard of it")
            })
        }
    }

    /// How long it is waited for, and that it ends as what has its own way to be repeated.
    async fn waited(until: Until, body: Option<&Payload>) -> Duration {
        let transport = Transport::new(until, SETTINGS);
        let wire = Wire::new(&transport, "http://127.0.0.1:1", None).expect("a way");
        let at = ObjectPath { bucket: "bucket", key: "key" };
        let mut draft = Draft::of_object(Operation::Put, Method::PUT, at, None);
        draft.body = body;
        let begin = Instant::now();
        let error = wire.send(draft).await.expect_err("no answer");
        assert_eq!(error.kind, StoreErrorKind::Timeout, "{error}");
        begin.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_waited_for_as_long_as_is_worth_it_where_it_is() {
        let payload = Payload::new(vec![Bytes::from_static(b"abc"), Bytes::from_static(b"def")]);
        let seconds = |limit: Duration| limit.as_secs();
        for body in [None, Some(&Payload::default()), Some(&payload)] {
            assert_eq!(seconds(waited(Until::Lost, body).await), 15, "no connection takes it");
            assert_eq!(seconds(waited(Until::Sent, body).await), 60, "no answer comes");
        }
        assert_eq!(seconds(waited(Until::Begun, Some(&payload)).await), 300, "it is never sent to its end");
    }
}
