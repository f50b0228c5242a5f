//! `Records[]`, as AWS S3 sends it, and everybody who copied it.
//!
//! `MinIO` and older Ceph write `s3:` before the event's name, and Ceph an empty version where there is none.

use serde::Deserialize;

use super::{
    Malformed, Notice, Removal, Upload,
    json::{self, Number, Text},
    version,
};

/// Families of events that tell of something else than an object's bytes.
const NOTHING: [&str; 9] = [
    "ObjectRestore",
    "ObjectTagging",
    "ObjectAcl",
    "ObjectAccessed",
    "Replication",
    "LifecycleTransition",
    "IntelligentTiering",
    "ReducedRedundancyLostObject",
    "ObjectTransition",
];

#[derive(Deserialize)]
struct Body {
    #[serde(rename = "Records", default, deserialize_with = "json::records")]
    records: Option<Vec<Record>>,
    #[serde(rename = "Event", default)]
    event: Text,
}

#[derive(Deserialize)]
struct Record {
    #[serde(rename = "eventName", default)]
    name: Text,
    #[serde(default)]
    s3: Entity,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entity {
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
    #[serde(rename = "eTag", alias = "etag")]
    etag: Text,
    #[serde(rename = "versionId")]
    version: Text,
    sequencer: Text,
}

/// Reads a body; `key` makes a key of what stands there.
///
/// # Errors
/// [`Malformed`].
pub(super) fn parse(
    text: &str,
    key: fn(String) -> Result<String, &'static str>,
) -> Result<Vec<Notice>, Malformed> {
    let body: Body = json::read(text)?;
    match (body.records, body.event.0.as_str()) {
        (Some(records), _) => {
            Ok(records.into_iter().map(|r| notice(r, key).unwrap_or_else(Notice::Unknown)).collect())
        }
        (None, "s3:TestEvent") => Ok(vec![Notice::Test]),
        (None, _) => Err(Malformed::NotTheForm),
    }
}

fn notice(record: Record, key: fn(String) -> Result<String, &'static str>) -> Result<Notice, &'static str> {
    let Record { name: Text(name), s3: Entity { bucket, object } } = record;
    let name = name.strip_prefix("s3:").unwrap_or(&name);
    let family = name.split(':').next().unwrap_or_default();
    let is_upload = match family {
        "ObjectCreated" => true,
        "ObjectRemoved" | "LifecycleExpiration" | "ObjectLifecycle" => false,
        "TestEvent" => return Ok(Notice::Test),
        known if NOTHING.contains(&known) => return Ok(Notice::Nothing),
        _ => return Err("the record names no known event"),
    };
    if bucket.name.0.is_empty() || object.key.0.is_empty() {
        return Err("the record names no object");
    }
    let (bucket, key, version) = (bucket.name.0, key(object.key.0)?, version(object.version.0));
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
