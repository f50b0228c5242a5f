//! The door to every service of a port: finds out who makes a call, and lets in what the table of roles allows. Nothing else does.
//!
//! It is the outermost layer, so a service that is added is closed until it has a row in [`super::access`]. Must not look at a message.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use tokio::time::{Instant, timeout};
use tonic::{Code, Status, server::NamedService};
use tower::{Layer, Service};
use tracing::{debug, warn};

use super::{
    access,
    ending::{Ending, Ends},
    identity::{Denied, Identify, Principal},
    layers::rpc_of,
    openings::Openings,
    status::{ApiError, Whose},
};
use crate::{
    audit::{Audit, Call, Told},
    metrics::Metrics,
    transport::Peer,
};

/// Longest time to find out who calls.
const IDENTIFY_WITHIN: Duration = Duration::from_secs(5);
/// What everybody is told: probes ask every second, and whom it is told is no decision.
const TOLD_TO_ALL: &str = "/grpc.health.v1.Health/";

/// Puts a [`Gate`] before services.
#[derive(Debug, Clone)]
pub struct GateLayer {
    shared: Arc<Shared>,
}

/// Services behind the door.
#[derive(Debug, Clone)]
pub struct Gate<S> {
    inner: S,
    shared: Arc<Shared>,
}

#[derive(Debug, Clone)]
struct Shared {
    identify: Arc<dyn Identify>,
    metrics: Arc<Metrics>,
    audit: Audit,
    openings: Option<Arc<Openings>>,
}

impl GateLayer {
    /// A door where `identify` says who calls.
    #[must_use]
    pub fn new(identify: Arc<dyn Identify>, metrics: Arc<Metrics>) -> Self {
        Self { shared: Arc::new(Shared { identify, metrics, audit: Audit::off(), openings: None }) }
    }

    /// The same, where every call is recorded.
    #[must_use]
    pub fn recording(self, audit: Audit) -> Self {
        Self { shared: Arc::new(Shared { audit, ..(*self.shared).clone() }) }
    }

    /// The same, where an identity that may have so many streams open opens no more of them a second than befits that.
    #[must_use]
    pub fn bounding_openings(self, most_open: usize) -> Self {
        let openings = Some(Arc::new(Openings::new(most_open, Instant::now())));
        Self { shared: Arc::new(Shared { openings, ..(*self.shared).clone() }) }
    }
}

impl<S> Layer<S> for GateLayer {
    type Service = Gate<S>;

    fn layer(&self, inner: S) -> Gate<S> {
        Gate { inner, shared: Arc::clone(&self.shared) }
    }
}

impl<S: NamedService> NamedService for Gate<S> {
    const NAME: &'static str = S::NAME;
}

impl<S, B, R> Service<Request<B>> for Gate<S>
where
    S: Service<Request<B>, Response = Response<R>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
    R: HttpBody<Data = Bytes> + Default + Send + Unpin + 'static,
{
    type Response = Response<Ending<R>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        // The clone that was polled ready makes the call; the fresh one stays behind.
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);
        let shared = Arc::clone(&self.shared);
        let started = Instant::now();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let path = parts.uri.path();
            let peer = parts.extensions.get::<Peer>().map(|peer| peer.address);
            let mut record = Call::begin(&shared.audit, path, peer);
            match shared.admit(path, &parts.headers, &parts.extensions, record.as_mut()).await {
                Ok(principal) => {
                    let ends = ends(path, &principal, parts.extensions.get::<Peer>());
                    let is_told = path.starts_with(TOLD_TO_ALL);
                    request = Request::from_parts(parts, body);
                    if let Some(caller) = &principal.caller {
                        request.extensions_mut().insert(caller.clone());
                    }
                    request.extensions_mut().insert(principal);
                    let answer = match record {
                        Some(record) if is_told => {
                            record.forget();
                            inner.call(request).await?
                        }
                        Some(record) => recorded(record, inner.call(request)).await,
                        None => inner.call(request).await?,
                    };
                    Ok(answer.map(|body| Ending::new(body, ends)))
                }
                Err(refused) => {
                    let status: Status = refused.into_status();
                    shared.metrics.call(rpc_of(path), status.code(), started.elapsed());
                    if let Some(record) = record {
                        record.end(Told::NotLetIn(&status));
                    }
                    Ok(status.into_http::<R>().map(|body| Ending::new(body, Ends::default())))
                }
            }
        })
    }
}

/// Answers that last. A worker's is none of them: its session moves the worker in order, and ends the stream itself.
const STREAMS: [&str; 3] = [
    "/backhaul.v1.BackupService/WatchBackups",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
];

/// When the answer to a call has to end. One that is whole when its work is done is given, or the work would be done for nothing.
fn ends(what: &str, principal: &Principal, peer: Option<&Peer>) -> Ends {
    if !STREAMS.contains(&what) {
        return Ends::default();
    }
    // A proof is a call's or its connection's.
    let Ends { at, when } = principal.ends.clone();
    Ends { at, when: when.or_else(|| peer.map(|peer| peer.reauthenticate.clone())) }
}

/// Makes a call and records what came of it.
async fn recorded<R>(
    record: Call,
    call: impl Future<Output = Result<Response<R>, Infallible>>,
) -> Response<R> {
    let response = match record.during(call).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    let status = Status::from_header_map(response.headers());
    record.end(Told::Answered(status.as_ref().map_or(Code::Ok, Status::code), status.as_ref()));
    response
}

impl Shared {
    async fn admit(
        &self,
        what: &str,
        headers: &http::HeaderMap,
        extensions: &http::Extensions,
        record: Option<&mut Call>,
    ) -> Result<Principal, ApiError> {
        if !self.audit.may_go_on() && !what.starts_with(TOLD_TO_ALL) {
            return Err(ApiError::Denied(Denied::NotRecorded));
        }
        let peer = extensions.get::<Peer>().map(|peer| tracing::field::display(peer.address));
        let identified = timeout(IDENTIFY_WITHIN, self.identify.identify(headers, extensions)).await;
        let principal =
            match identified.unwrap_or(Err(Denied::NotNow("who calls cannot be found out in time"))) {
                Ok(principal) => principal,
                Err(denied) => {
                    debug!(peer, reason = %denied, "a call was not let in");
                    return Err(ApiError::Denied(denied));
                }
            };
        if let Some(record) = record {
            record.made_by(&principal, what);
        }
        let Some(who) = access::who_may(what) else { return Err(ApiError::Denied(Denied::NoSuchCall)) };
        if !who.includes(&principal) {
            warn!(peer, name = &*principal.name, what = ?what, "a call was not let in: its role does not allow it");
            let denied = Denied::Role("this is not allowed to whom the certificate or token names");
            return Err(ApiError::Denied(denied));
        }
        self.may_open(what, &principal)?;
        Ok(principal)
    }

    /// Whether that call is not one too many of those that last.
    fn may_open(&self, what: &str, principal: &Principal) -> Result<(), ApiError> {
        let Some(openings) = &self.openings else { return Ok(()) };
        if what != access::CONNECT && !STREAMS.contains(&what) {
            return Ok(());
        }
        openings
            .take(what, &principal.name, Instant::now())
            .map_err(|retry_after| ApiError::RateLimited { retry_after, whose: Whose::Identity })
    }
}

#[cfg(test)]
mod tests {
    use tonic::body::Body;
    use tower::ServiceExt as _;

    use super::*;
    use crate::grpc::{
        identity::{Caller, ConfiguredTenant},
        testing::told,
    };

    #[test]
    fn streams_end_with_the_proof_of_who_called_and_what_was_done_is_answered() {
        let until = Some(Instant::now());
        let of_token = Ends { at: until, when: None };
        let principal = Principal { name: "web".into(), caller: None, worker: None, ends: of_token };
        for stream in STREAMS {
            assert!(access::who_may(stream).is_some(), "{stream} is no call");
            assert_eq!(ends(stream, &principal, None).at, until);
        }
        for call in [access::CONNECT, "/backhaul.v1.BackupService/SubmitBackup"] {
            assert!(access::who_may(call).is_some() && ends(call, &principal, None).at.is_none(), "{call}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_opens_streams_too_often_is_told_when_to_come_back() {
        let identify = Arc::new(ConfiguredTenant::new(Caller::new("web").unwrap()));
        let layer = GateLayer::new(identify, Arc::default()).bounding_openings(1);
        let gate = layer.layer(tower::service_fn(|_: Request<()>| async {
            Ok::<_, Infallible>(Response::new(Body::empty()))
        }));
        let knock = async |path: &str| {
            let request = Request::builder().uri(path).body(()).unwrap();
            let answer = gate.clone().oneshot(request).await.unwrap();
            Status::from_header_map(answer.headers()).map(|status| told(&status))
        };
        let refused = Some((Code::ResourceExhausted, "RATE_LIMITED".to_owned()));
        // Others of the same identity cost a worker nothing, nor do calls that do not last.
        for _ in 0..10 {
            assert_eq!(knock(STREAMS[0]).await, None);
        }
        assert_eq!(knock(STREAMS[1]).await, refused);
        for _ in 0..100 {
            assert_eq!(knock("/backhaul.v1.BackupService/GetBackup").await, None);
        }
        for _ in 0..10 {
            assert_eq!(knock(access::CONNECT).await, None);
        }
        assert_eq!(knock(access::CONNECT).await, refused);
        tokio::time::advance(Duration::from_millis(100)).await;
        assert_eq!((knock(access::CONNECT).await, knock(STREAMS[0]).await), (None, None));
    }
}
