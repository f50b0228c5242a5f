//! The public keys of an issuer, as it publishes them (JWKS), and how a signature is checked with one of them.
//!
//! Each key is good for one algorithm, whatever a token says: a public key is never taken for a shared secret. Keys that are for something
//! else, or that nobody could understand, are passed over, as the standard asks for; a set without any usable key is none.

use std::{fmt, sync::Arc};

use jsonwebtoken::{
    DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::Value;

/// Most keys that are kept of a set.
const MOST_KEYS: usize = 64;

/// How tokens may be signed: with what needs a public key to check. With a shared secret, whoever can check a token can make it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    /// RSA, PKCS #1 v1.5, SHA-256.
    Rs256,
    /// ECDSA, P-256, SHA-256.
    Es256,
}

/// A public key.
pub(super) struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// All that can be used of a set; at least one.
#[derive(Debug)]
pub(super) struct Jwks(Vec<Arc<Key>>);

/// A text that is no set of keys.
#[derive(Debug, thiserror::Error)]
pub(super) enum JwksError {
    #[error("not a JSON Web Key Set")]
    Syntax(#[source] serde_json::Error),
    #[error("no key in it is for signatures with RS256 or ES256")]
    NoKey,
}

#[derive(Deserialize)]
struct RawSet {
    keys: Vec<Value>,
}

impl Algorithm {
    /// All of them.
    pub(super) const ALL: [Self; 2] = [Self::Rs256, Self::Es256];

    /// The one with that name, exactly.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
        }
    }

    const fn of_library(self) -> jsonwebtoken::Algorithm {
        match self {
            Self::Rs256 => jsonwebtoken::Algorithm::RS256,
            Self::Es256 => jsonwebtoken::Algorithm::ES256,
        }
    }
}

impl Jwks {
    /// Reads a set.
    pub(super) fn parse(text: &[u8]) -> Result<Self, JwksError> {
        let set: RawSet = serde_json::from_slice(text).map_err(JwksError::Syntax)?;
        let keys: Vec<_> = set.keys.into_iter().filter_map(Key::read).map(Arc::new).take(MOST_KEYS).collect();
        if keys.is_empty() { Err(JwksError::NoKey) } else { Ok(Self(keys)) }
    }

    /// The key with that id, for that algorithm. A token need not name one where there is no choice.
    pub(super) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<Arc<Key>> {
        let mut fitting = self.0.iter().filter(|key| key.algorithm == algorithm);
        let found = match id {
            Some(id) => fitting.find(|key| key.id.as_deref() == Some(id)),
            None => fitting.next().filter(|_| fitting.next().is_none()),
        };
        found.map(Arc::clone)
    }

    /// How many there are.
    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }
}

impl Key {
    fn read(key: Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(key).ok()?;
        let parameters = &jwk.algorithm;
        let algorithm = if matches!(parameters, AlgorithmParameters::RSA(_)) {
            Algorithm::Rs256
        } else if matches!(parameters, AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256)
        {
            Algorithm::Es256
        } else {
            return None;
        };
        let common = &jwk.common;
        let is_for_signatures =
            common.public_key_use.as_ref().is_none_or(|is| *is == PublicKeyUse::Signature);
        let is_for_this = common.key_algorithm.is_none_or(|is| is.to_string() == algorithm.name());
        if !(is_for_signatures && is_for_this) {
            return None;
        }
        Some(Self { id: common.key_id.clone(), algorithm, key: DecodingKey::from_jwk(&jwk).ok()? })
    }

    /// Whether it has signed that.
    pub(super) fn has_signed(&self, message: &[u8], signature: &str) -> bool {
        let algorithm = self.algorithm.of_library();
        jsonwebtoken::crypto::verify(signature, message, &self.key, algorithm).unwrap_or(false)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("id", &self.id)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}
