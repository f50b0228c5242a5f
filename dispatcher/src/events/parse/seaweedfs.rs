//! What `SeaweedFS`'s filer sends: the path of an entry, and the entry before and after, as its own messages look in JSON.
//!
//! Buckets are folders below `/buckets`. Parts of uploads in progress and folders are entries too, and not objects. Where a bucket has
//! versions, `KEY` is a folder `KEY.versions` with a file for each, which names its version in an attribute. Moved entries have a new
//! folder and name. Keys are not encoded.

use serde::Deserialize;

use super::{
    Malformed, Notice, Removal, Upload,
    json::{self, Number, Text},
};

const BUCKETS: &str = "/buckets/";
/// Parts of uploads in progress, below a bucket.
const PARTS: &str = ".uploads/";
const VERSIONS: &str = ".versions";

#[derive(Deserialize)]
struct Body {
    key: Text,
    message: Message,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Message {
    old_entry: Option<Entry>,
    new_entry: Option<Entry>,
    new_parent_path: Text,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    name: Text,
    is_directory: bool,
    attributes: Option<Attributes>,
    extended: Option<Extended>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Attributes {
    file_size: Number,
}

/// Values are in base64.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Extended {
    #[serde(rename = "Seaweed-X-Amz-Version-Id")]
    version: Text,
    #[serde(rename = "Seaweed-X-Amz-Delete-Marker")]
    delete_marker: Text,
}

/// The object that an entry is.
struct Object {
    bucket: String,
    key: String,
    version: Option<String>,
}

/// Reads a body.
///
/// # Errors
/// [`Malformed`].
pub(super) fn parse(text: &str) -> Result<Vec<Notice>, Malformed> {
    let Body { key: Text(path), message } = json::read(text)?;
    if path.is_empty() {
        return Err(Malformed::NotTheForm);
    }
    let Message { old_entry, new_entry, new_parent_path: Text(parent) } = message;
    let removal = |entry: &Entry| match object(&path, entry) {
        Some(Object { bucket, key, version }) => Notice::Removal(Removal { bucket, key, version }),
        None => Notice::Nothing,
    };
    Ok(match (old_entry, new_entry) {
        (None, None) => vec![Notice::Unknown("the message has no entry")],
        (Some(old), None) => vec![removal(&old)],
        (old, Some(new)) => {
            let there = match (parent.as_str(), new.name.0.as_str()) {
                ("", _) | (_, "") => path.clone(),
                (parent, name) => format!("{}/{name}", parent.trim_end_matches('/')),
            };
            let written = written(&there, &new);
            match old {
                Some(old) if there != path => vec![removal(&old), written],
                Some(_) | None => vec![written],
            }
        }
    })
}

fn written(path: &str, entry: &Entry) -> Notice {
    let Some(Object { bucket, key, version }) = object(path, entry) else { return Notice::Nothing };
    if entry.extended.as_ref().is_some_and(|extended| base64(&extended.delete_marker.0) == "true") {
        return Notice::Removal(Removal { bucket, key, version: None });
    }
    let size_bytes = entry.attributes.as_ref().and_then(|attributes| attributes.file_size.0);
    Notice::Upload(Upload { bucket, key, version, size_bytes, etag: String::new(), sequencer: String::new() })
}

fn object(path: &str, entry: &Entry) -> Option<Object> {
    let (bucket, key) = path.strip_prefix(BUCKETS)?.split_once('/')?;
    // A bucket's name never begins with a dot; folders of the filer's own do.
    if entry.is_directory || key.is_empty() || key.starts_with(PARTS) || bucket.starts_with('.') {
        return None;
    }
    let version = entry.extended.as_ref().map(|extended| base64(&extended.version.0)).unwrap_or_default();
    let of_versions = key.rsplit_once('/').and_then(|(folder, _)| folder.strip_suffix(VERSIONS));
    let (key, version) = match of_versions {
        Some(key) if !version.is_empty() => (key, super::version(version)),
        Some(_) | None => (key, None),
    };
    Some(Object { bucket: bucket.to_owned(), key: key.to_owned(), version })
}

/// The text that base64 holds; empty when it holds none.
fn base64(text: &str) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
}
