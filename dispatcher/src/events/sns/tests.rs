//! Recorded messages, signed with a key that was thrown away; whose certificate stands where SNS's would.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use serde_json::Value;

use super::*;
use crate::events::testing::TOPIC;

const CERTIFICATE: &[u8] = include_bytes!("testdata/certificate.pem");
const MESSAGES: &str = include_str!("testdata/messages.json");

/// Answers every address with the certificate, and remembers what it was asked for.
#[derive(Debug, Default)]
struct Recorded {
    asked: Mutex<Vec<String>>,
    failures: AtomicUsize,
}

#[async_trait]
impl Fetch for Recorded {
    async fn get(&self, address: &str) -> io::Result<Bytes> {
        self.asked.lock().unwrap().push(address.to_owned());
        let fails = self.failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        if fails.is_ok() {
            Err(io::Error::other("told to fail"))
        } else {
            Ok(Bytes::from_static(CERTIFICATE))
        }
    }
}

fn message(name: &str) -> Value {
    serde_json::from_str::<Value>(MESSAGES).unwrap()[name].clone()
}

fn sns() -> (Sns, Arc<Recorded>) {
    let fetch = Arc::<Recorded>::default();
    (Sns::new(Arc::<Recorded>::clone(&fetch) as Arc<dyn Fetch>), fetch)
}

async fn open(sns: &Sns, message: &Value) -> Result<Delivered, SnsError> {
    sns.open(TOPIC, message.to_string().as_bytes()).await
}

#[tokio::test]
async fn signed_notifications_are_opened_and_the_certificate_is_fetched_once() {
    let (sns, fetch) = sns();
    for name in ["notification", "test", "notification"] {
        let told = message(name);
        let Ok(Delivered::Message(inner)) = open(&sns, &told).await else { panic!("{name}") };
        assert_eq!(inner, told["Message"].as_str().unwrap());
    }
    assert_eq!(fetch.asked.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_subscription_is_confirmed_at_its_address_and_an_end_only_told() {
    let (sns, fetch) = sns();
    let subscribe = message("subscribe");
    assert_eq!(open(&sns, &subscribe).await.unwrap(), Delivered::Subscribed);
    assert_eq!(fetch.asked.lock().unwrap().last().unwrap(), subscribe["SubscribeURL"].as_str().unwrap());
    assert_eq!(open(&sns, &message("unsubscribe")).await.unwrap(), Delivered::Unsubscribed);
    assert_eq!(fetch.asked.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_signed_subscription_elsewhere_is_not_followed() {
    let (sns, fetch) = sns();
    assert!(matches!(open(&sns, &message("subscribe_elsewhere")).await, Err(SnsError::OtherHost)));
    assert_eq!(fetch.asked.lock().unwrap().len(), 1, "only the certificate");
}

#[tokio::test]
async fn a_change_of_any_signed_field_is_noticed() {
    let (sns, _) = sns();
    for name in ["notification", "subscribe"] {
        for field in ["Message", "MessageId", "Subject", "Timestamp", "Type", "SubscribeURL", "Token"] {
            let mut changed = message(name);
            let Some(text) = changed[field].as_str().map(|text| format!("{text}x")) else { continue };
            changed[field] = text.into();
            assert!(open(&sns, &changed).await.is_err(), "{name} {field}");
        }
    }
    let mut added = message("test");
    added["Subject"] = "added".into();
    assert!(matches!(open(&sns, &added).await, Err(SnsError::WrongSignature)));
    let mut signature = message("notification");
    signature["Signature"] = "AAAA".into();
    assert!(matches!(open(&sns, &signature).await, Err(SnsError::WrongSignature)));
}

#[tokio::test]
async fn nothing_is_fetched_for_another_topic_an_old_signature_or_another_host() {
    let (sns, fetch) = sns();
    let mut other = message("notification");
    other["TopicArn"] = "arn:aws:sns:eu-west-1:444455556666:uploads".into();
    assert!(matches!(open(&sns, &other).await, Err(SnsError::OtherTopic)));
    let mut old = message("notification");
    old["SignatureVersion"] = "1".into();
    assert!(matches!(open(&sns, &old).await, Err(SnsError::OldSignature)));
    let path = "/SimpleNotificationService-0123456789abcdef0123456789abcdef.pem";
    for host in [
        "http://sns.eu-west-1.amazonaws.com",
        "https://sns.eu-west-1.amazonaws.com:8443",
        "https://sns.eu-west-1.amazonaws.com@evil.example",
        "https://evil.example@sns.eu-west-1.amazonaws.com",
        "https://sns.eu-west-1.amazonaws.com.evil.example",
        "https://evil.sns.eu-west-1.amazonaws.com",
        "https://sns.us-east-1.amazonaws.com",
        "https://bucket.s3.eu-west-1.amazonaws.com",
        "https://169.254.169.254",
    ] {
        let mut elsewhere = message("notification");
        elsewhere["SigningCertURL"] = format!("{host}{path}").into();
        assert!(matches!(open(&sns, &elsewhere).await, Err(SnsError::OtherHost)), "{host}");
    }
    for path in
        ["/evil.pem", "/SimpleNotificationService-/../x.pem", "/SimpleNotificationService-1.pem?x=1", ""]
    {
        let mut elsewhere = message("notification");
        elsewhere["SigningCertURL"] = format!("https://sns.eu-west-1.amazonaws.com{path}").into();
        assert!(matches!(open(&sns, &elsewhere).await, Err(SnsError::OtherHost)), "{path}");
    }
    for odd in ["", "{}", "[]", "{\"Records\":[]}"] {
        assert!(matches!(sns.open(TOPIC, odd.as_bytes()).await, Err(SnsError::NotSns)), "{odd}");
    }
    assert!(fetch.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_certificate_that_cannot_be_fetched_now_can_be_later() {
    let (sns, fetch) = sns();
    fetch.failures.store(1, Ordering::Relaxed);
    assert!(matches!(open(&sns, &message("notification")).await, Err(SnsError::Fetch(_))));
    assert!(open(&sns, &message("notification")).await.is_ok());
}
