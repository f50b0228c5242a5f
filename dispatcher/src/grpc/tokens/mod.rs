//! Callers without a certificate: bearer tokens (JWT) of issuers that a file names, service accounts of Kubernetes among them.
//!
//! A token only proves a name, as the path of a SPIFFE id would; what the name may do is in the same roles and the same table. Tokens are
//! for callers: a worker needs a certificate. Nothing of a token is ever logged or told.

pub mod issuers;
mod keys;
#[cfg(test)]
mod tests;

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{Extensions, HeaderMap, header::AUTHORIZATION};
use jsonwebtoken::{Algorithm, Validation};
use serde_json::{Map, Value};
use tokio::time::Instant;

use self::issuers::{Issuer, Issuers};
use super::{
    identity::{Denied, Identify, Principal},
    roles::Roles,
};
use crate::transport::Peer;

/// Longest token. Kubernetes' have about 1 KiB.
const MOST_BYTES: usize = 8 * 1024;
/// What clocks may differ by.
const LEEWAY: Duration = Duration::from_secs(30);

const MALFORMED: Denied = Denied::Unidentified("the token is not a token of an issuer that is known here");
const REFUSED: Denied = Denied::Unidentified("the token is not valid");

/// Peers are known by certificate, and callers that have none by token. One proof for each call, so that it has one name.
#[derive(Debug)]
pub struct ByTokenToo {
    certified: super::identity::Certified,
    roles: Arc<Roles>,
    issuers: Issuers,
}

/// What a token proves.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Proof {
    name: String,
    path: String,
    left: Duration,
}

impl ByTokenToo {
    /// Takes tokens of `issuers` besides certificates.
    #[must_use]
    pub fn new(roles: Arc<Roles>, issuers: Issuers) -> Self {
        Self { certified: super::identity::Certified::new(Arc::clone(&roles)), roles, issuers }
    }
}

#[async_trait]
impl Identify for ByTokenToo {
    async fn identify(&self, headers: &HeaderMap, extensions: &Extensions) -> Result<Principal, Denied> {
        let is_certified = extensions.get::<Peer>().is_some_and(|peer| peer.identity.is_some());
        let token = match (bearer(headers)?, is_certified) {
            (None, true) => return self.certified.identify(headers, extensions).await,
            (Some(token), false) => token,
            (Some(_), true) => return Err(Denied::Unidentified("a certificate and a token are two names: send one")),
            (None, false) => return Err(Denied::Unidentified("a certificate or a token is needed")),
        };
        #[expect(clippy::disallowed_methods, reason = "the edge: tokens end by the calendar")]
        let now = SystemTime::now();
        let Proof { name, path, left } = self.issuers.prove(token, now).await?;
        let principal = self.roles.principal(&name, &path);
        // A stream of weeks must not hang on a secret that was copied once.
        Ok(Principal { worker: None, until: Some(Instant::now() + left), ..principal })
    }
}

/// The one token of a call, if it has any.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Denied> {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let Some(first) = given.next() else { return Ok(None) };
    if given.next().is_some() {
        return Err(MALFORMED);
    }
    let text = first.to_str().map_err(|_| MALFORMED)?;
    let (scheme, token) = text.split_once(' ').ok_or(MALFORMED)?;
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() || token.len() > MOST_BYTES {
        return Err(MALFORMED);
    }
    Ok(Some(token))
}

impl Issuers {
    /// Whom a token names.
    async fn prove(&self, token: &str, now: SystemTime) -> Result<Proof, Denied> {
        let (header, unproved) = parts(token).ok_or(MALFORMED)?;
        // Only to know whose keys to use: it counts once the signature does.
        let issuer = unproved.get("iss").and_then(Value::as_str).and_then(|name| self.of(name)).ok_or(MALFORMED)?;
        let algorithm = issuer.algorithm(&header).ok_or(REFUSED)?;
        let kid = header.get("kid").and_then(Value::as_str).unwrap_or_default();
        let key = match issuer.keys.find(kid).await {
            Ok(Some(key)) => key,
            Ok(None) => return Err(REFUSED),
            Err(keys::Unavailable) => return Err(Denied::NotNow("the keys of the token's issuer cannot be had")),
        };
        let mut validation = Validation::new(algorithm);
        validation.set_issuer(&[&issuer.name]);
        validation.set_audience(&[&issuer.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        // Times are checked below, against a clock that tests can turn.
        (validation.validate_exp, validation.validate_nbf) = (false, false);
        let decoded = jsonwebtoken::decode::<Map<String, Value>>(token, &key, &validation);
        let claims = decoded.map_err(|_| REFUSED)?.claims;
        let left = issuer.time_left(&claims, now).ok_or(REFUSED)?;
        let path = issuer.path(&claims).ok_or(Denied::Unidentified("the token names nobody as its issuer should"))?;
        let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default();
        Ok(Proof { name: format!("{} {subject}", issuer.name), path, left })
    }
}

impl Issuer {
    /// The algorithm of a token, if it may be used.
    fn algorithm(&self, header: &Map<String, Value>) -> Option<Algorithm> {
        // What a token says of keys and of what must be understood is not listened to, so a token that says it is not taken.
        if ["crit", "jku", "jwk", "x5u", "x5c"].iter().any(|name| header.contains_key(*name)) {
            return None;
        }
        let algorithm: Algorithm = header.get("alg")?.as_str()?.parse().ok()?;
        self.algorithms.contains(&algorithm).then_some(algorithm)
    }

    /// How long the token is still good; `None` when it is not.
    fn time_left(&self, claims: &Map<String, Value>, now: SystemTime) -> Option<Duration> {
        let now = now.duration_since(UNIX_EPOCH).ok()?;
        let time = |name: &str| match claims.get(name) {
            None => Some(None),
            // Fractions are allowed, and negative or absurd numbers are not.
            Some(value) => Duration::try_from_secs_f64(value.as_f64()?).ok().map(Some),
        };
        let (expires, from, issued) = (time("exp")??, time("nbf")?, time("iat")?);
        let is_begun = |at: Option<Duration>| at.is_none_or(|at| at <= now + LEEWAY);
        let left = expires.checked_add(LEEWAY)?.checked_sub(now)?;
        let is_short = left <= self.max_lifetime + LEEWAY * 2;
        (is_begun(from) && is_begun(issued) && is_short && !left.is_zero()).then_some(left)
    }
}

/// Header and claims, unproved.
fn parts(token: &str) -> Option<(Map<String, Value>, Map<String, Value>)> {
    let mut parts = token.split('.');
    let (header, claims, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let read = |part: &str| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok();
    Some((read(header)?, read(claims)?))
}
