//! Asking the API server of Kubernetes about a token (TokenReview): only it knows that a pod was deleted, and with it its tokens.
//!
//! A review only ever adds a no: a token is reviewed after its signature, times and audience have been checked here, so strangers
//! cannot make this process a source of traffic. Answers are kept for at most a minute, by the hash of the token, and who asks
//! for what is being asked waits for that. A server that cannot be asked is no yes.

use std::{
    collections::HashMap,
    fmt, io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::{OnceCell, Semaphore},
    time::Instant,
};
use tracing::{info, warn};

use crate::https::Https;

/// How long an answer counts.
const KEPT_FOR: Duration = Duration::from_secs(60);
/// How long nobody else asks for what could not be answered.
const UNKNOWN_FOR: Duration = Duration::from_secs(1);
/// Most tokens whose answers are kept.
const MOST_KEPT: usize = 4096;
/// Most questions at a time.
const MOST_ASKED: usize = 16;
/// Largest answer, in bytes.
const MOST_BYTES: usize = 64 * 1024;
const PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

/// Reviews of the tokens of one issuer.
pub(super) struct Reviews {
    issuer: String,
    address: String,
    audience: String,
    https: Https,
    known: Mutex<HashMap<[u8; 32], Arc<Slot>>>,
    asking: Semaphore,
    is_failing: AtomicBool,
}

/// What became of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is good for us.
    Good,
    /// It is not.
    Refused,
    /// Nobody could say.
    Unknown,
}

/// One question, and its answer once there is one.
#[derive(Debug, Default)]
struct Slot(OnceCell<(Verdict, Instant)>);

/// The answer as Kubernetes has it (`authentication.k8s.io/v1`).
#[derive(Deserialize)]
struct RawReview {
    status: RawStatus,
}

#[derive(Deserialize)]
struct RawStatus {
    #[serde(default)]
    authenticated: bool,
    #[serde(default)]
    audiences: Vec<String>,
    #[serde(default)]
    user: RawUser,
}

#[derive(Deserialize, Default)]
struct RawUser {
    #[serde(default)]
    username: String,
}

impl Reviews {
    /// Asks the API server at `url` about tokens that must be for `audience`.
    pub(super) fn new(issuer: &str, url: &str, audience: &str, https: Https) -> Self {
        Self {
            issuer: issuer.to_owned(),
            address: format!("{}{PATH}", url.trim_end_matches('/')),
            audience: audience.to_owned(),
            https,
            known: Mutex::default(),
            asking: Semaphore::new(MOST_ASKED),
            is_failing: AtomicBool::new(false),
        }
    }

    /// What the API server says of a token that names `subject`.
    pub(super) async fn review(&self, token: &str, subject: &str) -> Verdict {
        let slot = self.slot(Sha256::digest(token).into());
        // If whoever asks goes away, the next who waits asks.
        let (verdict, _until) = slot.0.get_or_init(|| self.ask(token, subject)).await;
        *verdict
    }

    fn slot(&self, hash: [u8; 32]) -> Arc<Slot> {
        let now = Instant::now();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = known.get(&hash).filter(|slot| slot.counts(now)) {
            return Arc::clone(slot);
        }
        if known.len() >= MOST_KEPT {
            known.retain(|_, slot| slot.counts(now));
        }
        if known.len() >= MOST_KEPT
            && let Some(any) = known.keys().next().copied()
        {
            // Whichever: it is only asked about once more.
            known.remove(&any);
        }
        let slot = Arc::<Slot>::default();
        known.insert(hash, Arc::clone(&slot));
        slot
    }

    /// How many tokens are remembered.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    async fn ask(&self, token: &str, subject: &str) -> (Verdict, Instant) {
        let answer = match self.asking.acquire().await {
            Ok(_turn) => self.post(token).await,
            Err(closed) => Err(io::Error::other(closed)),
        };
        let verdict = match &answer {
            Ok(status) => self.judge(status, subject),
            Err(_) => Verdict::Unknown,
        };
        self.tell(answer.err());
        let counts_for = if verdict == Verdict::Unknown { UNKNOWN_FOR } else { KEPT_FOR };
        (verdict, Instant::now() + counts_for)
    }

    async fn post(&self, token: &str) -> io::Result<RawStatus> {
        let question = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": { "token": token, "audiences": [self.audience] },
        });
        let question = Bytes::from(question.to_string());
        let (status, body) = self.https.post_json(&self.address, question, MOST_BYTES).await?;
        if !matches!(status, StatusCode::OK | StatusCode::CREATED) {
            return Err(io::Error::other(format!("answered with {status}")));
        }
        // What it says otherwise stays there: it may quote the token.
        let review: Result<RawReview, _> = serde_json::from_slice(&body);
        review.map(|review| review.status).map_err(|_| io::Error::other("the answer is no TokenReview"))
    }

    fn judge(&self, status: &RawStatus, subject: &str) -> Verdict {
        // A server that knows nothing of audiences says yes to every token for itself, and names none.
        let is_for_us = status.audiences.contains(&self.audience);
        if status.authenticated && is_for_us && status.user.username == subject {
            Verdict::Good
        } else {
            Verdict::Refused
        }
    }

    /// Says once that the server cannot be asked, and once that it can again.
    fn tell(&self, error: Option<io::Error>) {
        let issuer = &self.issuer;
        let was_failing = self.is_failing.swap(error.is_some(), Ordering::Relaxed);
        match error {
            Some(error) if !was_failing => {
                let error = &error as &dyn std::error::Error;
                warn!(issuer, error, "tokens cannot be reviewed; their callers are asked to come back");
            }
            None if was_failing => info!(issuer, "tokens are reviewed again"),
            Some(_) | None => {}
        }
    }
}

impl Slot {
    /// Asked about, or answered not long ago.
    fn counts(&self, now: Instant) -> bool {
        self.0.get().is_none_or(|(_, until)| *until > now)
    }
}

impl fmt::Debug for Reviews {
    /// Without what is known of tokens.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reviews")
            .field("issuer", &self.issuer)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}
