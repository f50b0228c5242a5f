//! The event endpoint: `POST /events/<source>`, in HTTP of its own port, with a bearer token or a signature.
//!
//! | Answer | When | The origin |
//! |---|---|---|
//! | 200 | every task of the body is durable, or the body is in quarantine | forgets it |
//! | 400 | the body did not arrive whole, is empty, or is no message of SNS | |
//! | 401, 403 | nobody known; a signature that is wrong, or a bucket that the source may not name | has to be mended |
//! | 404, 405, 413 | no such source; no POST; too large | has to be mended |
//! | 503 with `Retry-After` | not durable yet | sends it again |
//!
//! Nothing of a body is looked at, and no more of it read than [`MAX_BODY_BYTES`], before its sender is known. Answers tell nothing that
//! the sender did not say.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use backhaul_runtime::{http_port::Remote, metrics::Label as _};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};
use tracing::{info, warn};

use super::{
    intake::{Intake, NotTaken, Taken},
    parse::MAX_BODY_BYTES,
    sns::{Delivered, Sns, SnsError},
    sources::{Delivery, EventSource, Sources},
};
use crate::{
    audit::{Call, Told},
    metrics::{EventAnswer, EventForm},
};

const PATH: &str = "/events/";
/// Largest body that SNS sends: 256 KiB, which its envelope may escape to a multiple.
const MAX_SNS_BYTES: usize = 2 * 1024 * 1024;
/// Memory for bodies that are on their way at a time.
const BODIES_BYTES: usize = 2 * MAX_BODY_BYTES;
/// The same for bodies that are signed.
const STRANGE_BODIES_BYTES: usize = 8 * MAX_SNS_BYTES;
/// How long a body may take to arrive.
const BODY_WITHIN: Duration = Duration::from_secs(30);
/// How long a body may wait for memory.
const ROOM_WITHIN: Duration = Duration::from_secs(5);
/// Seconds after which an origin should try again.
const RETRY_AFTER: &str = "5";
const KIB: usize = 1024;

/// The endpoint: answers requests.
#[derive(Debug)]
pub struct Endpoint {
    intake: Arc<Intake>,
    sources: Arc<Sources>,
    /// Where a source needs it.
    sns: Option<Sns>,
    /// For bodies of senders that are known by their token; in KiB.
    room: Semaphore,
    /// For bodies whose sender is only known by what they hold: strangers must not take the others' place.
    room_for_strangers: Semaphore,
}

/// Why a request is not answered with 200.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refused {
    Method,
    Path,
    Unknown,
    Forbidden(&'static str),
    Unsigned,
    TooLarge,
    Broken,
    Unavailable,
}

impl Endpoint {
    /// An endpoint for these sources.
    #[must_use]
    pub fn new(intake: Arc<Intake>, sources: Arc<Sources>, sns: Option<Sns>) -> Self {
        let room = Semaphore::new(BODIES_BYTES / KIB);
        let room_for_strangers = Semaphore::new(STRANGE_BODIES_BYTES / KIB);
        Self { intake, sources, sns, room, room_for_strangers }
    }

    /// All of its paths.
    pub fn routes(self) -> Router {
        let endpoint = Arc::new(self);
        Router::new().fallback(move |request: Request| {
            let endpoint = Arc::clone(&endpoint);
            async move { endpoint.answer(request).await }
        })
    }

    async fn answer(&self, request: Request) -> Response {
        let source = request.uri().path().strip_prefix(PATH).and_then(|name| self.sources.posting(name));
        let form = source.map_or(EventForm::Unknown, |source| source.form.into());
        let peer = request.extensions().get::<Remote>().map(|remote| remote.0);
        let record = Call::events(&self.intake.audit, request.uri().path(), peer);
        let work = async {
            match source {
                _ if request.method() != Method::POST => Err(Refused::Method),
                None => Err(Refused::Path),
                Some(source) => self.take(source, request).await,
            }
        };
        let result = match &record {
            Some(record) => record.during(work).await,
            None => work.await,
        };
        let answer = result.as_ref().map_or_else(|refused| refused.label(), |_| EventAnswer::Taken);
        self.intake.metrics.event_answer(form, answer);
        if let Some(mut record) = record {
            // Whoever has to sign is nobody until the signature was looked at.
            let is_unseen = source.is_some_and(|source| matches!(source.delivery, Delivery::Topic(_)))
                && matches!(result, Err(Refused::Broken | Refused::TooLarge | Refused::Unavailable));
            let is_stranger = is_unseen
                || matches!(
                    result,
                    Err(Refused::Method | Refused::Path | Refused::Unknown | Refused::Unsigned)
                );
            if let Some(source) = source.filter(|_| !is_stranger) {
                record.of_source(source);
            }
            record.end(Told::Events { answer: answer.as_str(), is_taken: result.is_ok(), is_stranger });
        }
        match result {
            Ok(taken) => present(taken),
            Err(refused) => refused.into_response(),
        }
    }

    async fn take(&self, source: &EventSource, request: Request) -> Result<Taken, Refused> {
        let (most, room) = match &source.delivery {
            Delivery::Token(tokens) => {
                if !token(request.headers()).is_some_and(|token| tokens.accept(&token)) {
                    warn!(source = %source.name, "an event without a right token was refused");
                    return Err(Refused::Unknown);
                }
                (MAX_BODY_BYTES, &self.room)
            }
            Delivery::Topic(_) => (MAX_SNS_BYTES, &self.room_for_strangers),
            Delivery::RedisStream(_) | Delivery::Sqs { .. } => return Err(Refused::Path),
        };
        let (body, _place) = whole_body(request, most, room).await?;
        let taken = match &source.delivery {
            Delivery::Topic(topic) => {
                match self.sns.as_ref().ok_or(Refused::Path)?.open(topic, &body).await {
                    Ok(Delivered::Message(message)) => self.intake.take(source, message.as_bytes()).await,
                    Ok(Delivered::Subscribed) => {
                        info!(source = %source.name, topic, "the subscription is confirmed");
                        Ok(Taken::default())
                    }
                    Ok(Delivered::Unsubscribed) => {
                        warn!(source = %source.name, topic, "SNS tells that the subscription has ended");
                        Ok(Taken::default())
                    }
                    Err(error) => return Err(refused_by_sns(source, &error)),
                }
            }
            Delivery::Token(_) | Delivery::RedisStream(_) | Delivery::Sqs { .. } => {
                self.intake.take(source, &body).await
            }
        };
        taken.map_err(|error| match error {
            NotTaken::ForeignBucket => {
                warn!(source = %source.name, "{error}");
                Refused::Forbidden("the source may not tell of this bucket")
            }
            NotTaken::Unavailable(cause) => {
                let cause = &cause as &dyn std::error::Error;
                warn!(source = %source.name, cause, "events are not taken: the origin has to send them again");
                Refused::Unavailable
            }
        })
    }
}

/// The whole body, and its place in memory.
async fn whole_body(
    request: Request,
    most: usize,
    room: &Semaphore,
) -> Result<(Bytes, SemaphorePermit<'_>), Refused> {
    let body = request.into_body();
    let expected = match http_body::Body::size_hint(&body).exact().map(usize::try_from) {
        Some(Ok(length)) if length <= most => length,
        Some(_) => return Err(Refused::TooLarge),
        None => most,
    };
    let kibs = u32::try_from(expected.div_ceil(KIB).max(1)).unwrap_or(u32::MAX);
    let place = match timeout(ROOM_WITHIN, room.acquire_many(kibs)).await {
        Ok(Ok(place)) => place,
        Ok(Err(_)) | Err(_) => return Err(Refused::Unavailable),
    };
    let whole = match timeout(BODY_WITHIN, Limited::new(body, most).collect()).await {
        Ok(Ok(whole)) => whole.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(Refused::TooLarge),
        Ok(Err(_)) | Err(_) => return Err(Refused::Broken),
    };
    if whole.is_empty() { Err(Refused::Broken) } else { Ok((whole, place)) }
}

fn refused_by_sns(source: &EventSource, error: &SnsError) -> Refused {
    warn!(source = %source.name, error = error as &dyn std::error::Error, "a message of SNS was refused");
    match error {
        SnsError::NotSns => Refused::Broken,
        SnsError::Fetch(_) => Refused::Unavailable,
        SnsError::OtherTopic | SnsError::OtherHost | SnsError::OldSignature | SnsError::WrongSignature => {
            Refused::Unsigned
        }
    }
}

/// The token of a request: `Bearer`, or the password of `Basic` for origins that can only be given a URL.
fn token(headers: &HeaderMap) -> Option<Vec<u8>> {
    let (scheme, value) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(value.trim().as_bytes().to_vec());
    }
    if scheme.eq_ignore_ascii_case("basic") {
        let pair = STANDARD.decode(value.trim()).ok()?;
        let colon = pair.iter().position(|byte| *byte == b':')?;
        return Some(pair[colon + 1..].to_vec());
    }
    None
}

fn present(taken: Taken) -> Response {
    let Taken { uploads, repeated, removals, tests, nothing, out_of_scope, unknown } = taken;
    let text = serde_json::json!({
        "uploads": uploads, "repeated": repeated, "removals": removals, "tests": tests,
        "nothing": nothing, "out_of_scope": out_of_scope, "unknown": unknown,
    });
    let json = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, json)], format!("{text}\n")).into_response()
}

impl Refused {
    const fn label(self) -> EventAnswer {
        match self {
            Self::Method => EventAnswer::Method,
            Self::Path => EventAnswer::NoSource,
            Self::Unknown => EventAnswer::Unauthorized,
            Self::Forbidden(_) | Self::Unsigned => EventAnswer::Forbidden,
            Self::TooLarge => EventAnswer::TooLarge,
            Self::Broken => EventAnswer::Broken,
            Self::Unavailable => EventAnswer::Unavailable,
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let (status, header, text) = match self {
            Self::Method => {
                (StatusCode::METHOD_NOT_ALLOWED, Some((header::ALLOW, "POST")), "events are posted")
            }
            Self::Path => (StatusCode::NOT_FOUND, None, "no such source"),
            Self::Unknown => (
                StatusCode::UNAUTHORIZED,
                Some((header::WWW_AUTHENTICATE, "Bearer")),
                "a bearer token of the source is needed",
            ),
            Self::Forbidden(what) => (StatusCode::FORBIDDEN, None, what),
            Self::Unsigned => {
                (StatusCode::FORBIDDEN, None, "the message is not signed as the source's topic signs")
            }
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, None, "the body is too large"),
            Self::Broken => {
                (StatusCode::BAD_REQUEST, None, "the body did not arrive whole, or is none of this source")
            }
            Self::Unavailable => (
                StatusCode::SERVICE_UNAVAILABLE,
                Some((header::RETRY_AFTER, RETRY_AFTER)),
                "not everything is durable yet: send it again",
            ),
        };
        let mut response = (status, Body::from(format!("{text}\n"))).into_response();
        if let Some((name, value)) = header {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

#[cfg(test)]
mod tests;
