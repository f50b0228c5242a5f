//! Signature Version 4, as S3 wants it: <https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-authenticating-requests.html>.
//!
//! The key of a day is kept, and so are credentials until they run out: what is left for a request is two hashes of a few hundred bytes.
//! Bodies are not hashed; their checksums prove them.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use aws_credential_types::{
    Credentials,
    provider::{ProvideCredentials as _, SharedCredentialsProvider, error::CredentialsError},
};
use aws_sigv4::sign::v4::{calculate_signature, generate_signing_key};
use aws_smithy_types::date_time::{DateTime, Format};
use sha2::{Digest as _, Sha256};

use super::Draft;

/// Of no bytes.
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// How long credentials are used that do not say when they run out.
const KEEP: Duration = Duration::from_secs(900);
/// Credentials are asked for again so long before they run out.
const EARLY: Duration = Duration::from_secs(10);

/// Signs requests to one store.
pub(super) struct Signer {
    provider: SharedCredentialsProvider,
    region: String,
    held: Mutex<Option<Arc<Held>>>,
    /// One asks for new credentials, the others wait.
    asking: tokio::sync::Mutex<()>,
}

/// What is good for many requests.
struct Held {
    credentials: Credentials,
    until: SystemTime,
    day: String,
    key: Vec<u8>,
}

impl Signer {
    pub(super) fn new(provider: SharedCredentialsProvider, region: &str) -> Self {
        Self {
            provider,
            region: region.to_owned(),
            held: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
        }
    }

    /// Adds to a request what proves who sends it, at the time `now`.
    pub(super) async fn sign(
        &self,
        draft: &mut Draft<'_>,
        host: &str,
        now: SystemTime,
    ) -> Result<(), CredentialsError> {
        let time = compact(now);
        let day = &time[..8];
        let held = self.hold(now, day).await?;
        let payload = if draft.body.is_some() { UNSIGNED } else { EMPTY };
        let headers = &mut draft.headers;
        headers.push(("host".into(), host.to_owned()));
        headers.push(("x-amz-content-sha256".into(), payload.to_owned()));
        if let Some(token) = held.credentials.session_token() {
            headers.push(("x-amz-security-token".into(), token.to_owned()));
        }
        headers.push(("x-amz-date".into(), time.clone()));
        headers.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        let (signed, canonical) = canonical(draft, payload);
        let scope = format!("{day}/{}/s3/aws4_request", self.region);
        let hash = hex::encode(Sha256::digest(canonical));
        let signature =
            calculate_signature(&held.key, format!("{ALGORITHM}\n{time}\n{scope}\n{hash}").as_bytes());
        let id = held.credentials.access_key_id();
        let authorization =
            format!("{ALGORITHM} Credential={id}/{scope}, SignedHeaders={signed}, Signature={signature}");
        draft.headers.push(("authorization".into(), authorization));
        Ok(())
    }

    async fn hold(&self, now: SystemTime, day: &str) -> Result<Arc<Held>, CredentialsError> {
        if let Some(held) = self.held_at(now, day) {
            return Ok(held);
        }
        let _asking = self.asking.lock().await;
        if let Some(held) = self.held_at(now, day) {
            return Ok(held);
        }
        let credentials = self.provider.provide_credentials().await?;
        let key = generate_signing_key(credentials.secret_access_key(), now, &self.region, "s3");
        let until = credentials.expiry().map_or(now + KEEP, |end| end.checked_sub(EARLY).unwrap_or(now));
        let held = Arc::new(Held { key: key.as_ref().to_vec(), day: day.to_owned(), until, credentials });
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&held));
        Ok(held)
    }

    fn held_at(&self, now: SystemTime, day: &str) -> Option<Arc<Held>> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.as_ref().filter(|held| held.until > now && held.day == day).cloned()
    }
}

/// The names of the signed headers, and what is signed.
fn canonical(draft: &Draft<'_>, payload: &str) -> (String, String) {
    let names: Vec<&str> = draft.headers.iter().map(|(name, _)| &**name).collect();
    let signed = names.join(";");
    let mut text = String::with_capacity(2048);
    text.extend([draft.method.as_str(), "\n", &draft.path, "\n", &draft.query, "\n"]);
    for (name, value) in &draft.headers {
        text.extend([name, ":"]);
        push_trimmed(&mut text, value);
        text.push('\n');
    }
    text.extend(["\n", &signed, "\n", payload]);
    (signed, text)
}

/// Without blanks at the ends, and with one in place of several.
fn push_trimmed(text: &mut String, value: &str) {
    let mut was_blank = false;
    for character in value.trim_matches(' ').chars() {
        let is_blank = character == ' ';
        if !(is_blank && was_blank) {
            text.push(character);
        }
        was_blank = is_blank;
    }
}

/// `20150830T123600Z`.
fn compact(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    let text = DateTime::from_secs(seconds).fmt(Format::DateTime).unwrap_or_default();
    text.chars().filter(|c| !matches!(c, '-' | ':')).collect()
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("region", &self.region).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::store::{ObjectPath, Operation};

    const DAY: SystemTime = SystemTime::UNIX_EPOCH;

    fn signer(token: Option<&str>) -> Signer {
        let credentials = Credentials::new(
            "AKIAIOSFODNN7EXAMPLE",
            "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            token.map(str::to_owned),
            None,
            "test",
        );
        Signer::new(SharedCredentialsProvider::new(credentials), "us-east-1")
    }

    /// The example of the S3 reference, whose bucket is in the name of the host.
    #[tokio::test]
    async fn the_signature_of_the_reference_comes_out() {
        let now = DAY + Duration::from_secs(1_369_353_600);
        let at = ObjectPath { bucket: "b", key: "k" };
        let mut draft = Draft::of_object(Operation::Get, Method::GET, at, None)
            .with("range", Some("bytes=0-9".to_owned()));
        draft.path = "/test.txt".to_owned();
        signer(None).sign(&mut draft, "examplebucket.s3.amazonaws.com", now).await.expect("signed");
        let (name, authorization) = draft.headers.last().expect("one");
        assert_eq!(name, "authorization");
        assert_eq!(
            authorization,
            "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, \
             SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, \
             Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        );
    }

    #[tokio::test]
    async fn a_session_s_token_is_signed_and_the_next_day_has_another_key() {
        let signer = signer(Some("token"));
        let at = ObjectPath { bucket: "b", key: "k" };
        let mut signatures = Vec::new();
        for hours in [1, 2, 26] {
            let mut draft = Draft::of_object(Operation::Get, Method::GET, at, Some("v/1"));
            signer.sign(&mut draft, "h", DAY + Duration::from_secs(hours * 3600)).await.expect("signed");
            assert!(
                draft.headers.iter().any(|(name, value)| name == "x-amz-security-token" && value == "token")
            );
            signatures.push(draft.headers.pop().expect("authorization").1);
        }
        assert!(signatures[0].contains("/19700101/") && signatures[2].contains("/19700102/"));
        assert!(signatures.iter().all(|s| s.contains("x-amz-security-token")));
    }

    #[test]
    fn blanks_are_signed_as_servers_read_them() {
        let mut text = String::new();
        push_trimmed(&mut text, "  a   b c ");
        assert_eq!(text, "a b c");
    }
}
