//! The HTTP service between the connections and the protocol crate: carries a rule's action out.

use std::time::Duration;

use futures_util::StreamExt as _;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, RETRY_AFTER};
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use s3s::service::S3Service;
use s3s::{Body, StdError};
use tokio_util::sync::CancellationToken;

use super::body::{Defect, FaultyBody};
use super::operation::Target;
use super::{Action, FaultPlan, RequestFault};

/// How much of a request body is read before an error is answered in its place.
const DRAIN_BYTES: usize = 64 * 1024 * 1024;

/// See the [module](self).
#[derive(Debug, Clone)]
pub(crate) struct FaultLayer {
    plan: FaultPlan,
    service: S3Service,
    /// Ends what hangs when the store stops.
    stopped: CancellationToken,
}

/// Makes the server close the connection without an answer.
#[derive(Debug, thiserror::Error)]
#[error("no answer, as a fault rule says")]
struct NoAnswer;

impl FaultLayer {
    pub(crate) fn new(plan: FaultPlan, service: S3Service, stopped: CancellationToken) -> Self {
        Self { plan, service, stopped }
    }

    /// Answers one request. An error closes the connection.
    pub(crate) async fn call(self, request: Request<Incoming>) -> Result<Response<Body>, StdError> {
        let Target { operation, bucket, key } =
            Target::of(request.method(), request.uri(), request.headers());
        let mut request = request.map(Body::from);
        let Some(action) = self.plan.meet(operation, bucket.as_deref(), key.as_deref()) else {
            return self.serve(request).await;
        };
        tracing::debug!(?operation, bucket, key, ?action, "fault");
        match action {
            Action::Status { status, code, retry_after } => {
                drain(request.body_mut()).await;
                error_response(status, &code, retry_after)
            }
            Action::ErrorInBody { code } => {
                drain(request.body_mut()).await;
                error_response(StatusCode::OK.as_u16(), &code, None)
            }
            Action::Delay(time) => {
                tokio::select! {
                    () = tokio::time::sleep(time) => self.serve(request).await,
                    () = self.stopped.cancelled() => Err(NoAnswer.into()),
                }
            }
            Action::Hang => {
                self.stopped.cancelled().await;
                Err(NoAnswer.into())
            }
            Action::LostAnswer => {
                self.serve(request).await?;
                Err(NoAnswer.into())
            }
            Action::CutBody { after } => self.serve_defect(request, Defect::Cut { after }).await,
            Action::StallBody { after } => self.serve_defect(request, Defect::Stall { after }).await,
            Action::FlipResponseBit { at } => self.serve_defect(request, Defect::Flip { at }).await,
            Action::ExtraByte => {
                let mut response = self.serve_defect(request, Defect::Extra).await?;
                change_header(&mut response, &CONTENT_LENGTH, |len| Some(len.parse::<u64>().ok()? + 1));
                Ok(response)
            }
            Action::WrongContentRange => {
                let mut response = self.serve(request).await?;
                change_header(&mut response, &CONTENT_RANGE, shifted_range);
                Ok(response)
            }
            Action::IgnoreRange => {
                self.serve_with(request, RequestFault { ignore_range: true, ..RequestFault::default() }).await
            }
            Action::FlipRequestBit { at } => {
                self.serve_with(
                    request,
                    RequestFault { flip_before_checks: Some(at), ..RequestFault::default() },
                )
                .await
            }
            Action::CorruptStored { at } => {
                self.serve_with(
                    request,
                    RequestFault { flip_after_checks: Some(at), ..RequestFault::default() },
                )
                .await
            }
        }
    }

    async fn serve(&self, request: Request<Body>) -> Result<Response<Body>, StdError> {
        self.service.call(request).await.map_err(StdError::from)
    }

    async fn serve_with(
        &self,
        mut request: Request<Body>,
        fault: RequestFault,
    ) -> Result<Response<Body>, StdError> {
        request.extensions_mut().insert(fault);
        self.serve(request).await
    }

    async fn serve_defect(&self, request: Request<Body>, defect: Defect) -> Result<Response<Body>, StdError> {
        Ok(self.serve(request).await?.map(|body| FaultyBody::wrap(body, defect)))
    }
}

/// Reads a body, so that the client has sent it all and reads the answer.
async fn drain(body: &mut Body) {
    let mut read = 0;
    while read < DRAIN_BYTES
        && let Some(Ok(chunk)) = body.next().await
    {
        read += chunk.len();
    }
}

fn error_response(
    status: u16,
    code: &str,
    retry_after: Option<Duration>,
) -> Result<Response<Body>, StdError> {
    let xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>a fault rule says so</Message>\
         <RequestId>fault</RequestId></Error>"
    );
    let mut response = Response::builder().status(status).header("content-type", "application/xml");
    if let Some(time) = retry_after {
        response = response.header(RETRY_AFTER, time.as_secs() + u64::from(time.subsec_nanos() > 0));
    }
    Ok(response.body(Body::from(xml))?)
}

fn change_header<T: ToString>(
    response: &mut Response<Body>,
    name: &http::HeaderName,
    change: impl FnOnce(&str) -> Option<T>,
) {
    let old = response.headers().get(name).and_then(|value| value.to_str().ok());
    let new = old.and_then(change).and_then(|new| HeaderValue::try_from(new.to_string()).ok());
    if let Some(new) = new {
        response.headers_mut().insert(name, new);
    }
}

/// `bytes 5-9/20` becomes `bytes 6-10/20`.
fn shifted_range(range: &str) -> Option<String> {
    let (first, rest) = range.strip_prefix("bytes ")?.split_once('-')?;
    let (last, size) = rest.split_once('/')?;
    Some(format!("bytes {}-{}/{size}", first.parse::<u64>().ok()? + 1, last.parse::<u64>().ok()? + 1))
}
