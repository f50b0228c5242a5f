//! What surrounds every call of internal services: span, panic guard, deadline and limits. Who calls is known by then, see [`super::gate`].
//!
//! It is a tower layer around the one generated server of the unary service. Not `Server::layer`, which would put it around
//! health and the workers' stream too: a deadline would cut streams, a limit on calls in progress would count each worker for
//! hours, and shedding load would make a busy dispatcher look dead to its probe. Not tonic's own `timeout` and
//! `load_shed` either: they are per connection, cover all services, and answer without details a client can act on.
//!
//! `WatchBackups` is a call as long as it is being answered: then its stream begins, which has a bound of its own.
//!
//! Order, outermost first: span, panic guard, deadline, rate of one identity, calls in progress of all and of one identity, rate of all. What is cheap to refuse is refused before the message is read. Everything inside is one future, so that the deadline, or a caller who goes away,
//! drops all work in progress.

pub(crate) mod deadline;
pub(crate) mod rate;
pub(crate) mod shares;

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use backhaul_runtime::{metrics::Label as _, trace};
use futures_util::FutureExt as _;
use http::{Request, Response};
use tokio::time::Instant;
use tonic::{Code, body::Body, server::NamedService};
use tower::{Layer, Service};
use tracing::{Instrument as _, Span, field};

use self::{rate::TokenBucket, shares::Shares};
use super::{
    identity::{Caller, Principal},
    status::{ApiError, Whose},
};
use crate::{
    census::{Census, NoPlace},
    metrics::{Metrics, Rpc},
};

/// Bounds on unary calls, in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallLimits {
    /// Most calls in progress.
    pub max_calls: usize,
    /// Most calls a second, on average; as many may come at once.
    pub calls_per_second: u32,
    /// Most calls of one identity in progress.
    pub max_calls_of_each: usize,
    /// Most calls of one identity a second, on average; as many may come at once.
    pub calls_per_second_of_each: u32,
    /// Longest time for a call whose caller gave it more, or no limit.
    pub deadline: Duration,
}

/// Puts a [`Guard`] around a generated server of a unary service.
#[derive(Debug, Clone)]
pub struct GuardLayer {
    shared: Arc<Shared>,
}

/// A unary service with everything that surrounds its calls. Clones share the limits.
#[derive(Debug, Clone)]
pub struct Guard<S> {
    inner: S,
    shared: Arc<Shared>,
}

struct Shared {
    calls: Arc<Census<Arc<str>>>,
    shares: Shares,
    rate: Mutex<TokenBucket>,
    deadline: Duration,
    metrics: Arc<Metrics>,
}

impl GuardLayer {
    /// A layer with limits of its own, which counts its calls in `metrics`.
    #[must_use]
    pub fn new(limits: CallLimits, metrics: Arc<Metrics>) -> Self {
        let shared = Shared {
            metrics,
            calls: Census::new(limits.max_calls, limits.max_calls_of_each),
            shares: Shares::new(limits.calls_per_second_of_each, Instant::now()),
            rate: Mutex::new(TokenBucket::new(limits.calls_per_second, Instant::now())),
            deadline: limits.deadline,
        };
        Self { shared: Arc::new(shared) }
    }
}

impl<S> Layer<S> for GuardLayer {
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Guard<S> {
        Guard { inner, shared: Arc::clone(&self.shared) }
    }
}

impl<S: NamedService> NamedService for Guard<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Guard<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The clone that was polled ready makes the call; the fresh one stays behind.
        let fresh = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, fresh);
        let shared = Arc::clone(&self.shared);
        let started = Instant::now();
        let rpc = rpc_of(request.uri().path());
        let span = tracing::info_span!(
            "call",
            rpc = rpc.as_str(),
            tenant = request.extensions().get::<Caller>().map(Caller::tenant),
            code = field::Empty,
            ms = field::Empty,
        );
        if let Some(caller) = request.headers().get(trace::HEADER).and_then(|value| value.to_str().ok()) {
            trace::adopt(&span, caller);
        }
        Box::pin(
            async move {
                let response = answer(inner, &shared, request, started).await;
                let (code, took) = (code(&response), started.elapsed());
                shared.metrics.call(rpc, code, took);
                Span::current().record("code", field::debug(code));
                Span::current().record("ms", field::display(took.as_millis()));
                tracing::debug!("call answered");
                Ok(response)
            }
            .instrument(span),
        )
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

async fn answer<S>(inner: S, shared: &Shared, request: Request<Body>, started: Instant) -> Response<Body>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Send,
    S::Future: Send,
{
    let ends = started + deadline::of_call(request.headers(), shared.deadline);
    let guarded = AssertUnwindSafe(admit(inner, shared, request)).catch_unwind();
    // Nothing of a call that panicked is used again: its state went with its future, and queues are told whole batches.
    match tokio::time::timeout_at(ends, guarded).await {
        Ok(Ok(Ok(response))) => as_contract(response),
        Ok(Ok(Err(refused))) => refused.into_status().into_http(),
        Ok(Err(_panic)) => ApiError::Bug("a call panicked").into_status().into_http(),
        Err(_elapsed) => ApiError::DeadlineExceeded.into_status().into_http(),
    }
}

/// Lets the call in or refuses it, and makes it.
async fn admit<S>(mut inner: S, shared: &Shared, request: Request<Body>) -> Result<Response<Body>, ApiError>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Send,
    S::Future: Send,
{
    // Never waits: a queue in front of a limit only makes everybody late.
    let name = request.extensions().get::<Principal>().map_or_else(|| "".into(), |p| Arc::clone(&p.name));
    let now = Instant::now();
    // What one identity has too much of must not be taken from what all have.
    shared
        .shares
        .take(&name, now)
        .map_err(|retry_after| ApiError::RateLimited { retry_after, whose: Whose::Identity })?;
    let _place = shared.calls.enter(name).map_err(|full| match full {
        NoPlace::InAll => ApiError::Overloaded(Whose::All),
        NoPlace::OfOrigin => ApiError::Overloaded(Whose::Identity),
    })?;
    shared.take_token(now)?;
    match inner.call(request).await {
        Ok(response) => Ok(response),
        Err(never) => match never {},
    }
}

impl Shared {
    fn take_token(&self, now: Instant) -> Result<(), ApiError> {
        // Only this short section holds the lock, and it cannot leave the bucket half changed.
        let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        rate.take(now).map_err(|retry_after| ApiError::RateLimited { retry_after, whose: Whose::All })
    }
}

/// Puts errors that tonic made itself, known by their lack of details, into the contract's words: they all mean that what
/// arrived is not the message of the contract. Unknown methods stay UNIMPLEMENTED.
fn as_contract(response: Response<Body>) -> Response<Body> {
    if response.headers().contains_key("grpc-status-details-bin") {
        return response;
    }
    let error = match code(&response) {
        Code::OutOfRange => ApiError::TooLarge,
        Code::Internal => ApiError::Malformed,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::InvalidArgument
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::Unimplemented
        | Code::Unavailable
        | Code::DataLoss
        | Code::Unauthenticated => return response,
    };
    error.into_status().into_http()
}

/// The code of an answer: in its headers when it failed, in its trailers, and then OK, when not.
fn code<B>(response: &Response<B>) -> Code {
    response.headers().get("grpc-status").map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()))
}

/// Which call it is, for logs and metrics: from a list, because the path is the caller's text.
pub(crate) fn rpc_of(path: &str) -> Rpc {
    let method = path.rsplit('/').next().unwrap_or_default();
    Rpc::ALL.iter().copied().find(|rpc| rpc.as_str() == method).unwrap_or(Rpc::Unknown)
}

#[cfg(test)]
mod tests;
