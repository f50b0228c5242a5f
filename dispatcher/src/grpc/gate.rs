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
use tonic::{Status, server::NamedService};
use tower::{Layer, Service};
use tracing::{debug, warn};

use super::{
    access,
    ending::{Ending, Ends},
    identity::{Denied, Identify, Principal},
    layers::rpc_of,
    status::ApiError,
};
use crate::{metrics::Metrics, transport::Peer};

/// Longest time to find out who calls.
const IDENTIFY_WITHIN: Duration = Duration::from_secs(5);

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

#[derive(Debug)]
struct Shared {
    identify: Arc<dyn Identify>,
    metrics: Arc<Metrics>,
}

impl GateLayer {
    /// A door where `identify` says who calls.
    #[must_use]
    pub fn new(identify: Arc<dyn Identify>, metrics: Arc<Metrics>) -> Self {
        Self { shared: Arc::new(Shared { identify, metrics }) }
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
            match shared.admit(path, &parts.headers, &parts.extensions).await {
                Ok(principal) => {
                    let ends = ends(path, &principal, parts.extensions.get::<Peer>());
                    request = Request::from_parts(parts, body);
                    if let Some(caller) = &principal.caller {
                        request.extensions_mut().insert(caller.clone());
                    }
                    request.extensions_mut().insert(principal);
                    let answer = inner.call(request).await?;
                    Ok(answer.map(|body| Ending::new(body, ends)))
                }
                Err(denied) => {
                    let status: Status = ApiError::Denied(denied).into_status();
                    shared.metrics.call(rpc_of(path), status.code(), started.elapsed());
                    Ok(status.into_http::<R>().map(|body| Ending::new(body, Ends::default())))
                }
            }
        })
    }
}

/// When the answer to a call has to end.
fn ends(what: &str, principal: &Principal, peer: Option<&Peer>) -> Ends {
    // Its session moves the worker in order, and ends the stream itself.
    let has_session = what == access::CONNECT;
    Ends { at: principal.until, when: peer.filter(|_| !has_session).map(|peer| peer.reauthenticate.clone()) }
}

impl Shared {
    async fn admit(
        &self,
        what: &str,
        headers: &http::HeaderMap,
        extensions: &http::Extensions,
    ) -> Result<Principal, Denied> {
        let peer = extensions.get::<Peer>().map(|peer| tracing::field::display(peer.address));
        let identified = timeout(IDENTIFY_WITHIN, self.identify.identify(headers, extensions)).await;
        let principal =
            match identified.unwrap_or(Err(Denied::NotNow("who calls cannot be found out in time"))) {
                Ok(principal) => principal,
                Err(denied) => {
                    debug!(peer, reason = %denied, "a call was not let in");
                    return Err(denied);
                }
            };
        let Some(who) = access::who_may(what) else { return Err(Denied::NoSuchCall) };
        if who.includes(&principal) {
            return Ok(principal);
        }
        warn!(peer, name = &*principal.name, what = ?what, "a call was not let in: its role does not allow it");
        Err(Denied::Role("this is not allowed to whom the certificate or token names"))
    }
}
