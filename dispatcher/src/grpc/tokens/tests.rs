//! Tokens of issuers that the tests are themselves: what is taken, and above all what is not.

mod checking;
mod file;
mod follow;
mod keys;
mod review;

use std::{fs, path::Path, time::UNIX_EPOCH};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::EncodingKey;
use rcgen::{KeyPair, PKCS_RSA_SHA256, SigningKey as _};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

const ISSUER: &str = "https://issuer.test";
const AUDIENCE: &str = "backhaul";
/// The clock of a test.
const NOW: u64 = 1_800_000_000;

/// Somebody who signs tokens, with a key of each kind.
pub(crate) struct Signer {
    pub(crate) es256: KeyPair,
    pub(crate) rs256: KeyPair,
}

impl Signer {
    pub(crate) fn new() -> Self {
        Self { es256: KeyPair::generate().unwrap(), rs256: KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap() }
    }

    /// Both public keys, as an issuer publishes them.
    pub(crate) fn jwks(&self) -> Value {
        json!({ "keys": [ec_key("ec", &self.es256), self.rsa_key()] })
    }

    fn rsa_key(&self) -> Value {
        let (modulus, exponent) = rsa_parts(&self.rs256);
        json!({ "kty": "RSA", "use": "sig", "kid": "rsa", "alg": "RS256", "n": base64(modulus), "e": base64(exponent) })
    }

    /// A token with these claims, signed with the key on the curve.
    pub(crate) fn token(&self, claims: &Value) -> String {
        self.token_with(&json!({ "alg": "ES256", "kid": "ec", "typ": "JWT" }), claims)
    }

    /// A token with that header, signed as it says.
    pub(crate) fn token_with(&self, header: &Value, claims: &Value) -> String {
        let signed = signed_part(header, claims);
        let signature = match header["alg"].as_str() {
            Some("RS256") => base64(&self.rs256.sign(signed.as_bytes()).unwrap()),
            _ => {
                let key = EncodingKey::from_ec_der(self.es256.serialized_der());
                jsonwebtoken::crypto::sign(signed.as_bytes(), &key, jsonwebtoken::Algorithm::ES256).unwrap()
            }
        };
        format!("{signed}.{signature}")
    }
}

fn signed_part(header: &Value, claims: &Value) -> String {
    format!("{}.{}", base64(header.to_string().as_bytes()), base64(claims.to_string().as_bytes()))
}

fn base64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A key on the curve P-256, as an issuer publishes it.
fn ec_key(id: &str, key: &KeyPair) -> Value {
    let point = key.public_key_raw();
    assert_eq!((point.len(), point[0]), (65, 4));
    json!({ "kty": "EC", "crv": "P-256", "kid": id, "x": base64(&point[1..33]), "y": base64(&point[33..]) })
}

/// Modulus and exponent of a key of 2048 bits: `SEQUENCE { INTEGER n, INTEGER e }`.
fn rsa_parts(key: &KeyPair) -> (&[u8], &[u8]) {
    let der = key.public_key_raw();
    assert_eq!((der.len(), &der[..9]), (270, &[0x30, 0x82, 1, 10, 2, 0x82, 1, 1, 0][..]));
    (&der[9..265], &der[267..])
}

/// Good claims: the subject `web-app` for the next ten minutes.
fn claims() -> Value {
    json!({ "iss": ISSUER, "aud": AUDIENCE, "sub": "web-app", "exp": NOW + 600, "nbf": NOW - 5, "iat": NOW - 5 })
}

/// The claims with some of them replaced; null takes one away.
fn claims_with(changes: Value) -> Value {
    let mut claims = claims();
    let (into, changes) = (claims.as_object_mut().unwrap(), changes);
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            into.remove(name);
        } else {
            into.insert(name.clone(), value.clone());
        }
    }
    claims
}

/// The issuers of a file that trusts `signer`, with more lines for the issuer and for its caller.
fn issuers_with(signer: &Signer, more: &str) -> (Issuers, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys.json");
    fs::write(&keys, signer.jwks().to_string()).unwrap();
    let text = format!(
        "[[issuer]]\nname = 'test'\nissuer = '{ISSUER}'\naudience = '{AUDIENCE}'\nkeys_file = {keys:?}\n{more}\n\
         [[issuer.caller]]\nsubject = 'web-app'\ntenant = 'web'\nrole = 'submitter'\n"
    );
    let (issuers, _keepers) = Issuers::parse(&text, Path::new("issuers.toml")).unwrap();
    (issuers, folder)
}

fn issuers(signer: &Signer) -> (Issuers, TempDir) {
    issuers_with(signer, "")
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}
