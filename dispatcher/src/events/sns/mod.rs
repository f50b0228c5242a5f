//! Messages of Amazon SNS, which cannot send a token: trusted by their signature, and only from the topic that a source names.
//!
//! Anybody with an AWS account can have SNS sign and post anything from a topic of their own, so the topic is compared before anything
//! else. The certificate and the confirmation of a subscription are fetched from the SNS host of that topic's region, exactly, over
//! HTTPS, and no redirect is followed. Only signatures of version 2 (SHA-256) are taken: a topic's `SignatureVersion` must be 2.

pub mod fetch;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fmt, io,
    sync::{Arc, Mutex, PoisonError},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::Uri;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use serde::Deserialize;

use self::fetch::Fetch;

/// Certificates that are remembered; SNS uses one for years.
const MOST_CERTIFICATES: usize = 8;

/// Opens messages.
pub struct Sns {
    fetch: Arc<dyn Fetch>,
    /// PEM texts by where they were fetched from.
    certificates: Mutex<HashMap<String, Bytes>>,
    /// One fetch at a time: whoever sends nonsense must not make this a source of traffic.
    fetching: tokio::sync::Mutex<()>,
}

/// What a message was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivered {
    /// A notification: what it holds.
    Message(String),
    /// A question whether the topic may post here, which has been answered with yes.
    Subscribed,
    /// Word that the topic posts here no more.
    Unsubscribed,
}

/// Why a message is not trusted, or not yet.
#[derive(Debug, thiserror::Error)]
pub enum SnsError {
    /// It is not what SNS sends.
    #[error("not a message of SNS; raw message delivery must be off")]
    NotSns,
    /// It is from another topic.
    #[error("from another topic than the source's")]
    OtherTopic,
    /// It names an address that is not SNS's in the topic's region.
    #[error("names an address that is not SNS's in the region of the topic")]
    OtherHost,
    /// It is signed with SHA-1.
    #[error("signed with SHA-1: set the topic's SignatureVersion to 2")]
    OldSignature,
    /// The signature does not fit.
    #[error("the signature does not fit")]
    WrongSignature,
    /// AWS could not be asked.
    #[error("SNS cannot be asked")]
    Fetch(#[source] io::Error),
}

#[derive(Deserialize)]
struct Envelope {
    #[serde(rename = "Type")]
    kind: String,
    #[serde(rename = "MessageId")]
    id: String,
    #[serde(rename = "TopicArn")]
    topic: String,
    #[serde(rename = "Message")]
    message: String,
    #[serde(rename = "Timestamp")]
    timestamp: String,
    #[serde(rename = "SignatureVersion")]
    version: String,
    #[serde(rename = "Signature")]
    signature: String,
    #[serde(rename = "SigningCertURL")]
    certificate: String,
    #[serde(rename = "Subject")]
    subject: Option<String>,
    #[serde(rename = "Token")]
    token: Option<String>,
    #[serde(rename = "SubscribeURL")]
    subscribe: Option<String>,
}

impl Sns {
    /// Fetches with `fetch`.
    #[must_use]
    pub fn new(fetch: Arc<dyn Fetch>) -> Self {
        Self { fetch, certificates: Mutex::default(), fetching: tokio::sync::Mutex::default() }
    }

    /// Opens a message of `topic`; confirms a subscription that it asks for.
    ///
    /// # Errors
    /// [`SnsError`].
    pub async fn open(&self, topic: &str, body: &[u8]) -> Result<Delivered, SnsError> {
        let envelope: Envelope = serde_json::from_slice(body).map_err(|_| SnsError::NotSns)?;
        if envelope.topic != topic {
            return Err(SnsError::OtherTopic);
        }
        if envelope.version != "2" {
            return Err(SnsError::OldSignature);
        }
        let signed = envelope.signed_text().ok_or(SnsError::NotSns)?;
        let signature = STANDARD.decode(&envelope.signature).map_err(|_| SnsError::WrongSignature)?;
        let is_certificate =
            |path: &str| path.starts_with("/SimpleNotificationService-") && path.ends_with(".pem");
        if !is_address(&envelope.certificate, topic, is_certificate) {
            return Err(SnsError::OtherHost);
        }
        let pem = self.certificate(&envelope.certificate).await?;
        verify(&pem, signed.as_bytes(), &signature).ok_or(SnsError::WrongSignature)?;
        match (envelope.kind.as_str(), envelope.subscribe) {
            ("Notification", _) => Ok(Delivered::Message(envelope.message)),
            ("UnsubscribeConfirmation", _) => Ok(Delivered::Unsubscribed),
            (_, Some(address)) => {
                if !is_address(&address, topic, |path| path.starts_with("/?Action=ConfirmSubscription&")) {
                    return Err(SnsError::OtherHost);
                }
                self.fetch.get(&address).await.map_err(SnsError::Fetch)?;
                Ok(Delivered::Subscribed)
            }
            (_, None) => Err(SnsError::NotSns),
        }
    }

    async fn certificate(&self, address: &str) -> Result<Bytes, SnsError> {
        let known = || self.certificates.lock().unwrap_or_else(PoisonError::into_inner).get(address).cloned();
        if let Some(known) = known() {
            return Ok(known);
        }
        let _one = self.fetching.lock().await;
        if let Some(known) = known() {
            return Ok(known);
        }
        let pem = self.fetch.get(address).await.map_err(SnsError::Fetch)?;
        // What is no certificate is not remembered.
        if CertificateDer::from_pem_slice(&pem).is_ok() {
            let mut certificates = self.certificates.lock().unwrap_or_else(PoisonError::into_inner);
            if certificates.len() >= MOST_CERTIFICATES {
                certificates.clear();
            }
            certificates.insert(address.to_owned(), pem.clone());
        }
        Ok(pem)
    }
}

impl Envelope {
    /// What is signed: names and values of some fields, a line for each, in the order of their names.
    fn signed_text(&self) -> Option<String> {
        let mut fields = vec![("Message", self.message.as_str()), ("MessageId", &self.id)];
        match self.kind.as_str() {
            "Notification" => {
                fields.extend(self.subject.as_deref().map(|subject| ("Subject", subject)));
                fields.push(("Timestamp", &self.timestamp));
            }
            "SubscriptionConfirmation" | "UnsubscribeConfirmation" => fields.extend([
                ("SubscribeURL", self.subscribe.as_deref()?),
                ("Timestamp", &self.timestamp),
                ("Token", self.token.as_deref()?),
            ]),
            _ => return None,
        }
        fields.extend([("TopicArn", self.topic.as_str()), ("Type", &self.kind)]);
        Some(fields.into_iter().map(|(name, value)| format!("{name}\n{value}\n")).collect())
    }
}

/// Whether an address is SNS's, in the region of the topic, with a path and query that fit.
fn is_address(address: &str, topic: &str, fits: impl Fn(&str) -> bool) -> bool {
    let mut parts = topic.split(':').skip(1);
    let (Some(partition), Some("sns"), Some(region)) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let suffix = if partition == "aws-cn" { "amazonaws.com.cn" } else { "amazonaws.com" };
    let Ok(uri) = address.parse::<Uri>() else { return false };
    // The whole authority: no other port, and nobody's name before an @.
    let is_host = uri.authority().is_some_and(|a| a.as_str() == format!("sns.{region}.{suffix}"));
    uri.scheme_str() == Some("https")
        && is_host
        && uri.path_and_query().is_some_and(|path| !path.as_str().contains("..") && fits(path.as_str()))
}

/// Whether the key of a certificate has signed `text`, with SHA-256.
fn verify(pem: &[u8], text: &[u8], signature: &[u8]) -> Option<()> {
    let certificate = CertificateDer::from_pem_slice(pem).ok()?;
    let certificate = webpki::EndEntityCert::try_from(&certificate).ok()?;
    certificate.verify_signature(webpki::aws_lc_rs::RSA_PKCS1_2048_8192_SHA256, text, signature).ok()
}

impl fmt::Debug for Sns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sns").field("fetch", &self.fetch).finish_non_exhaustive()
    }
}
