//! Sends a request over the client library's connections and waits for its answer, as long as that is worth it.

use std::{error::Error, sync::Arc, time::SystemTime};

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
use http_body_util::{BodyExt as _, Limited};
use tokio::time::timeout;

use super::{
    super::{
        ClientSettings, StoreError, StoreErrorKind,
        body::Payload,
        error::Operation,
        s3_error::{cause, credentials_kind, refusal},
        s3_waits::Late,
    },
    Draft, Signer,
};

/// Longest text of an answer that is read, be it an error or the result of a copy.
const TEXT_MAX_BYTES: usize = 64 * 1024;
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

impl Transport {
    pub(in super::super) fn new(connector: impl HttpConnector + 'static, settings: ClientSettings) -> Self {
        Self { connector: SharedHttpConnector::new(connector), settings }
    }

    pub(in super::super) const fn connector(&self) -> &SharedHttpConnector {
        &self.connector
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
        let request = self.request(draft).map_err(|e| failed(operation, StoreErrorKind::Rejected, e))?;
        let request = request.try_into().map_err(|e| failed(operation, StoreErrorKind::Rejected, e))?;
        let Transport { connector, settings } = &self.transport;
        let limit = settings.request_timeout;
        let answer = match timeout(limit, connector.call(request)).await {
            Ok(answer) => answer.map_err(|e| unsent(operation, e))?,
            Err(_) => return Err(failed(operation, StoreErrorKind::Timeout, Late(limit))),
        };
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

    fn request(&self, draft: Draft<'_>) -> Result<Request<SdkBody>, http::Error> {
        let Draft { method, path, query, headers, body, .. } = draft;
        let mark = if query.is_empty() { "" } else { "?" };
        let uri: Uri = format!("{}{path}{mark}{query}", self.endpoint).parse()?;
        let body = body.filter(|payload| !payload.is_empty()).map(Payload::body);
        let body = body.map_or_else(SdkBody::empty, SdkBody::from_body_1_x);
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
