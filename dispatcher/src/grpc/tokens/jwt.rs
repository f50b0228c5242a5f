//! One token: what it is made of, and what makes it good. Pure; the clock is an argument.
//!
//! Everything a token says about keys, algorithms and where to find them is a claim of whoever sent it. So its algorithm only picks
//! among those that are allowed, each with keys of its own, and what would lead elsewhere makes the token none.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use super::jwks::{Algorithm, Key};

/// What clocks may differ by.
const LEEWAY: Duration = Duration::from_secs(30);
/// Longest subject: it is a name in logs.
const MOST_SUBJECT_BYTES: usize = 255;
/// Parts of a header that lead to keys of the sender's choice, or ask for what is not understood here.
const LEADS_ELSEWHERE: [&str; 5] = ["crit", "jku", "jwk", "x5u", "x5c"];

/// A token in its parts. Nothing is proved.
#[derive(Debug)]
pub(super) struct Token<'t> {
    header: Map<String, Value>,
    claims: Map<String, Value>,
    /// Header and claims as they were signed.
    signed: &'t str,
    signature: &'t str,
}

/// What a token says, with a signature that counts. Its times and audience are not looked at yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claims<'t>(&'t Map<String, Value>);

impl<'t> Token<'t> {
    /// Takes a token apart.
    pub(super) fn parse(text: &'t str) -> Option<Self> {
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        // Five parts are an encrypted token.
        if claims.contains('.') || signature.is_empty() {
            return None;
        }
        let read = |part: &str| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok();
        Some(Self { header: read(header)?, claims: read(claims)?, signed, signature })
    }

    /// Who is said to have issued it.
    pub(super) fn claimed_issuer(&self) -> Option<&str> {
        self.claims.get("iss")?.as_str()
    }

    /// How it is said to be signed, if that can be at all.
    pub(super) fn algorithm(&self) -> Option<Algorithm> {
        if LEADS_ELSEWHERE.iter().any(|name| self.header.contains_key(*name)) {
            return None;
        }
        Algorithm::named(self.header.get("alg")?.as_str()?)
    }

    /// With which key.
    pub(super) fn key_id(&self) -> Option<&str> {
        self.header.get("kid")?.as_str()
    }

    /// What it says, if that key has signed it.
    pub(super) fn verify(&self, key: &Key) -> Option<Claims<'_>> {
        key.has_signed(self.signed.as_bytes(), self.signature).then_some(Claims(&self.claims))
    }
}

impl<'t> Claims<'t> {
    /// One of the claims.
    pub(super) fn get(self, name: &str) -> Option<&'t Value> {
        self.0.get(name)
    }

    /// Whom the token is about: a short text that can be shown.
    pub(super) fn subject(self) -> Option<&'t str> {
        let subject = self.get("sub")?.as_str()?;
        let is_name =
            (1..=MOST_SUBJECT_BYTES).contains(&subject.len()) && !subject.contains(char::is_control);
        is_name.then_some(subject)
    }

    /// How long the token is still good; `None` when it is not, or not for us.
    pub(super) fn hold(self, audience: &str, max_lifetime: Duration, now: SystemTime) -> Option<Duration> {
        if self.is_for(audience) { self.time_left(max_lifetime, now) } else { None }
    }

    fn is_for(self, audience: &str) -> bool {
        match self.get("aud") {
            Some(Value::String(one)) => one == audience,
            Some(Value::Array(several)) => several.iter().any(|one| one.as_str() == Some(audience)),
            Some(_) | None => false,
        }
    }

    fn time_left(self, max_lifetime: Duration, now: SystemTime) -> Option<Duration> {
        let now = now.duration_since(UNIX_EPOCH).ok()?;
        let time = |name: &str| match self.get(name) {
            None => Some(None),
            // Fractions are allowed; what is negative or absurd is not.
            Some(value) => Duration::try_from_secs_f64(value.as_f64()?).ok().map(Some),
        };
        let expires = time("exp")??;
        let has_begun = |at: Option<Duration>| at.is_none_or(|at| at <= now + LEEWAY);
        let is_short = expires <= now + max_lifetime + LEEWAY;
        let is_over = expires.checked_add(LEEWAY)? <= now;
        let is_good = has_begun(time("nbf")?) && has_begun(time("iat")?) && is_short && !is_over;
        is_good.then(|| expires.saturating_sub(now))
    }
}
