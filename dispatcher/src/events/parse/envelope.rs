//! The message of Amazon SNS around a notification, as a queue gets it that is subscribed without raw delivery.
//!
//! Who may write into the queue is the queue's policy, as for every other message there, so no signature is looked at here: what is posted
//! over HTTP must go through `events::sns` instead.

use serde::Deserialize;

use super::json::{self, Text};

#[derive(Deserialize)]
struct Envelope {
    #[serde(rename = "Type", default)]
    kind: Text,
    #[serde(rename = "TopicArn", default)]
    topic: Text,
    #[serde(rename = "Message", default)]
    message: Text,
}

/// What the message holds; of that topic only, where one is given.
///
/// # Errors
/// Why it cannot be used.
pub fn message(body: &[u8], topic: Option<&str>) -> Result<String, &'static str> {
    let text = json::checked(body).map_err(|_| "the message is no text of SNS")?;
    let envelope: Envelope = json::read(text).map_err(|_| "the message is not wrapped by SNS")?;
    if envelope.kind.0 != "Notification" {
        return Err("the message is no notification of SNS");
    }
    if topic.is_some_and(|topic| envelope.topic.0 != topic) {
        return Err("the message is from another topic than the source's");
    }
    Ok(envelope.message.0)
}
