//! Callers without a certificate: bearer tokens (JWT) of the issuers that a file names, service accounts of Kubernetes among them.
//!
//! Reading order: [`issuers`] (whose tokens are taken, and who their callers are), [`follow`] (how that changes), `jwt` (what makes a
//! token good), `keys` (whose signature counts), `review` (what only the API server of Kubernetes knows). A token makes somebody a caller of one tenant with
//! one role; what the role may do is in the same table as for certificates. Tokens are for callers: a worker needs a
//! certificate. Nothing of a token is ever logged, told, or kept but its hash.

mod callers;
pub mod follow;
pub mod issuers;
mod jwks;
mod jwt;
mod keys;
mod review;
#[cfg(test)]
pub(crate) mod tests;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use http::{Extensions, HeaderMap, header::AUTHORIZATION};
use tokio::time::Instant;

use self::{
    follow::LiveIssuers,
    issuers::{Issuer, Issuers},
    jwt::{Claims, Token},
    review::Verdict,
};
use super::{
    ending::Ends,
    identity::{Certified, Denied, Identify, Principal},
};
use crate::{
    metrics::{Metrics, TokenOutcome},
    transport::Peer,
};

/// Longest token. Those of Kubernetes have about 1 KiB.
const MOST_BYTES: usize = 8 * 1024;
/// How long a stream may last whose token was reviewed: a pod that was deleted must not watch on until its token ends.
const REVIEWED_STREAM: Duration = Duration::from_secs(5 * 60);

const MALFORMED: Denied = Denied::Unidentified("the token is not a token of an issuer that is known here");
const REFUSED: Denied = Denied::Unidentified("the token is not valid");
const NOBODY: Denied = Denied::Unidentified("a certificate or a bearer token is needed");
const TWICE: Denied = Denied::Unidentified("there must be one authorization header");
const BOTH: Denied = Denied::Unidentified("a certificate and a token are two names: send one of them");
const NO_KEYS: Denied = Denied::NotNow("the keys of the token's issuer cannot be had; safe to retry");
const NO_REVIEW: Denied = Denied::NotNow("the token cannot be reviewed now; safe to retry");

/// Peers are known by certificate, and callers that have none by token.
#[derive(Debug)]
pub struct CertificateOrToken {
    certified: Certified,
    issuers: LiveIssuers,
    metrics: Arc<Metrics>,
}

/// A token that is looked at: counted once, whatever comes of it.
struct Counted<'a> {
    metrics: &'a Metrics,
    /// Until something else is known: whoever waits gives up before it is.
    outcome: TokenOutcome,
}

impl CertificateOrToken {
    /// Takes tokens of `issuers` besides certificates, and counts what became of them.
    #[must_use]
    pub const fn new(certified: Certified, issuers: LiveIssuers, metrics: Arc<Metrics>) -> Self {
        Self { certified, issuers, metrics }
    }

    async fn by_token(&self, text: &str) -> Result<Principal, Denied> {
        #[expect(clippy::disallowed_methods, reason = "the edge: tokens end by the calendar")]
        let now = SystemTime::now();
        loop {
            let issuers = self.issuers.now();
            let proved = issuers.prove(text, now).await;
            // What issuers have decided that are not in force any more is decided anew.
            if self.issuers.are(&issuers) {
                return proved;
            }
        }
    }
}

#[async_trait]
impl Identify for CertificateOrToken {
    async fn identify(&self, headers: &HeaderMap, extensions: &Extensions) -> Result<Principal, Denied> {
        let has_certificate = extensions.get::<Peer>().is_some_and(|peer| peer.identity.is_some());
        let given = match (bearer(headers), has_certificate) {
            (Ok(None), true) => return self.certified.identify(headers, extensions).await,
            (Ok(None), false) => return Err(NOBODY),
            (Ok(Some(token)), false) => Ok(token),
            // Whichever of the two were taken, somebody would have meant the other.
            (Ok(Some(_)) | Err(_), true) => Err(BOTH),
            (Err(denied), false) => Err(denied),
        };
        let mut counted = Counted { metrics: &self.metrics, outcome: TokenOutcome::Unavailable };
        let proved = match given {
            Ok(token) => self.by_token(token).await,
            Err(denied) => Err(denied),
        };
        counted.outcome = TokenOutcome::of(&proved);
        proved
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.metrics.token(self.outcome);
    }
}

/// The one token of a call, if it has any.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Denied> {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let Some(first) = given.next() else { return Ok(None) };
    if given.next().is_some() {
        return Err(TWICE);
    }
    let text = first.to_str().map_err(|_| MALFORMED)?;
    let (scheme, token) = text.split_once(' ').ok_or(MALFORMED)?;
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() || token.len() > MOST_BYTES {
        return Err(MALFORMED);
    }
    Ok(Some(token))
}

impl Issuers {
    /// Whom a token makes its sender.
    async fn prove(&self, text: &str, now: SystemTime) -> Result<Principal, Denied> {
        let token = Token::parse(text).ok_or(MALFORMED)?;
        // Only to know whose keys to ask: what a token says counts once its signature does.
        let issuer = token.claimed_issuer().and_then(|name| self.of(name)).ok_or(MALFORMED)?;
        let (claims, left) = issuer.verify(&token, now).await?;
        let subject = claims.subject().ok_or(REFUSED)?;
        let mut until = stream_time(left);
        if let Some(reviews) = &issuer.reviews {
            match reviews.review(text, subject).await {
                Verdict::Good => until = until.min(REVIEWED_STREAM),
                Verdict::Refused => return Err(REFUSED),
                Verdict::Unknown => return Err(NO_REVIEW),
            }
        }
        let withdrawn = issuer.withdrawn.clone();
        Ok(Principal {
            name: format!("token:{}:{subject}", issuer.name()).into(),
            caller: issuer.callers.caller(&claims),
            worker: None,
            ends: Ends { at: Some(Instant::now() + until), when: Some(withdrawn) },
        })
    }
}

impl Issuer {
    /// What a token says, proved, and how long it still lasts.
    async fn verify<'t>(
        &self,
        token: &'t Token<'_>,
        now: SystemTime,
    ) -> Result<(Claims<'t>, Duration), Denied> {
        let algorithm = token.algorithm().filter(|a| self.algorithms.contains(a)).ok_or(REFUSED)?;
        let key = match self.keys.find(token.key_id(), algorithm).await {
            Ok(Some(key)) => key,
            Ok(None) => return Err(REFUSED),
            Err(keys::Unavailable) => return Err(NO_KEYS),
        };
        let claims = token.verify(&key).ok_or(REFUSED)?;
        let left = claims.hold(self.audience(), self.max_lifetime, now).ok_or(REFUSED)?;
        Ok((claims, left))
    }
}

/// How long a stream may last whose token lasts for `left` more: it ends a little before.
fn stream_time(left: Duration) -> Duration {
    /// Clocks differ, and whoever goes on elsewhere needs a moment. A tenth at most, so that short-lived tokens have streams too.
    const AHEAD: Duration = Duration::from_secs(30);
    /// Of a token that is taken in its last seconds; less would be a stream that only ends.
    const LEAST: Duration = Duration::from_secs(1);
    (left - AHEAD.min(left / 10)).max(LEAST)
}

impl TokenOutcome {
    fn of(proved: &Result<Principal, Denied>) -> Self {
        match proved {
            Ok(principal) if principal.caller.is_some() => Self::Accepted,
            Ok(_) => Self::NoCaller,
            Err(denied) if [BOTH, TWICE].contains(denied) => Self::Ambiguous,
            Err(Denied::NotNow(_)) => Self::Unavailable,
            Err(Denied::Unidentified(_) | Denied::Role(_) | Denied::NoSuchCall | Denied::NotRecorded) => {
                Self::Refused
            }
        }
    }
}
