//! Events of Amazon S3 as Amazon `EventBridge` delivers them: one in a body, and the key is not encoded.

use serde::Deserialize;

use super::{
    Malformed, Notice, Removal, Upload,
    json::{self, Number, Text},
    version,
};

#[derive(Deserialize)]
struct Event {
    source: Text,
    #[serde(rename = "detail-type")]
    kind: Text,
    #[serde(default)]
    detail: Detail,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Detail {
    bucket: Bucket,
    object: Object,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Bucket {
    name: Text,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Object {
    key: Text,
    size: Number,
    etag: Text,
    #[serde(rename = "version-id")]
    version: Text,
    sequencer: Text,
}

/// Reads a body.
///
/// # Errors
/// [`Malformed`].
pub(super) fn parse(text: &str) -> Result<Vec<Notice>, Malformed> {
    let event: Event = json::read(text)?;
    Ok(vec![notice(event).unwrap_or_else(Notice::Unknown)])
}

fn notice(event: Event) -> Result<Notice, &'static str> {
    let Event { source, kind, detail: Detail { bucket, object } } = event;
    if source.0 != "aws.s3" {
        return Err("the event is not Amazon S3's");
    }
    let is_upload = match kind.0.as_str() {
        "Object Created" => true,
        "Object Deleted" => false,
        "Object Restore Initiated"
        | "Object Restore Completed"
        | "Object Restore Expired"
        | "Object Storage Class Changed"
        | "Object Access Tier Changed"
        | "Object ACL Updated"
        | "Object Tags Added"
        | "Object Tags Deleted" => return Ok(Notice::Nothing),
        _ => return Err("the event is of no known type"),
    };
    if bucket.name.0.is_empty() || object.key.0.is_empty() {
        return Err("the event names no object");
    }
    let (bucket, key, version) = (bucket.name.0, object.key.0, version(object.version.0));
    Ok(if is_upload {
        Notice::Upload(Upload {
            bucket,
            key,
            version,
            size_bytes: object.size.0,
            etag: object.etag.0,
            sequencer: object.sequencer.0,
        })
    } else {
        Notice::Removal(Removal { bucket, key, version })
    })
}
