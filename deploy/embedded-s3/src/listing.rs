//! ListObjectsV2 and ListObjects: keys in byte order, folded at a delimiter, page by page.
//!
//! The walk is pure and shared with the listing of versions and uploads where it fits.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as TOKEN;
use s3s::dto::{
    ChecksumAlgorithm, ChecksumType, CommonPrefix, ETag, ListObjectsInput, ListObjectsOutput,
    ListObjectsV2Input, ListObjectsV2Output, Object as ListedObject, ObjectStorageClass,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

use crate::model::Version;
use crate::output::{KeyEncoding, count, owner, page_size, size};
use crate::store::{Store, bucket_of};
use crate::time::timestamp;

/// Greater than every other character, so that a prefix followed by it sorts behind (nearly) all keys with the prefix.
const LAST_CHARACTER: char = '\u{10FFFF}';

/// What to list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Query<'a> {
    pub(crate) prefix: &'a str,
    /// Empty for none.
    pub(crate) delimiter: &'a str,
    /// List behind this key or folded prefix; empty for the beginning.
    pub(crate) after: &'a str,
    pub(crate) max: usize,
}

/// One line of a listing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Entry<'a, T> {
    Key(&'a str, &'a T),
    /// All keys that share this prefix, up to and with the delimiter.
    Folded(&'a str),
}

/// A page: what it holds, and behind what the next one begins, if there is one.
#[derive(Debug)]
pub(crate) struct Page<'a, T> {
    pub(crate) entries: Vec<Entry<'a, T>>,
    pub(crate) next: Option<String>,
}

/// Lists a map in byte order, leaving out what `visible` rejects. Folding skips, it does not walk every key.
pub(crate) fn page<'a, T>(
    keys: &'a BTreeMap<String, T>,
    query: Query<'_>,
    visible: impl Fn(&T) -> bool,
) -> Page<'a, T> {
    let mut entries = Vec::new();
    let mut from = if query.after >= query.prefix {
        Bound::Excluded(query.after.to_owned())
    } else {
        Bound::Included(query.prefix.to_owned())
    };
    let mut last: Option<&str> = None;
    'seek: loop {
        for (key, value) in keys.range::<str, _>((as_deref(&from), Bound::Unbounded)) {
            if !key.starts_with(query.prefix) {
                break 'seek;
            }
            if !visible(value) {
                continue;
            }
            let folded = fold(key, query);
            if folded.is_some_and(|folded| last == Some(folded) || folded <= query.after) {
                continue;
            }
            if entries.len() == query.max {
                let next = last.filter(|_| query.max > 0).map(str::to_owned);
                return Page { entries, next };
            }
            last = Some(folded.unwrap_or(key));
            match folded {
                None => entries.push(Entry::Key(key, value)),
                Some(folded) => {
                    entries.push(Entry::Folded(folded));
                    from = Bound::Included(format!("{folded}{LAST_CHARACTER}"));
                    continue 'seek;
                }
            }
        }
        break;
    }
    Page { entries, next: None }
}

/// The part of a key that it is folded into, if it is.
pub(crate) fn fold<'a>(key: &'a str, query: Query<'_>) -> Option<&'a str> {
    if query.delimiter.is_empty() {
        return None;
    }
    let rest = &key[query.prefix.len()..];
    rest.find(query.delimiter).map(|at| &key[..query.prefix.len() + at + query.delimiter.len()])
}

pub(crate) fn list_v2(
    store: &Store,
    request: S3Request<ListObjectsV2Input>,
) -> S3Result<S3Response<ListObjectsV2Output>> {
    let input = request.input;
    let encoding = KeyEncoding::new(input.encoding_type.as_ref())?;
    let max = page_size("max-keys", input.max_keys)?;
    let after = match &input.continuation_token {
        Some(token) => decode_token(token)?,
        None => input.start_after.clone().unwrap_or_default(),
    };
    let prefix = input.prefix.unwrap_or_default();
    let delimiter = input.delimiter.unwrap_or_default();
    store.read(|index| {
        let bucket = bucket_of(index, &input.bucket)?;
        let query = Query { prefix: &prefix, delimiter: &delimiter, after: &after, max };
        let page = page(&bucket.keys, query, |versions| is_listed(versions));
        let fetch_owner = input.fetch_owner.unwrap_or(false);
        let (contents, common_prefixes) = split(&page, encoding, fetch_owner);
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket.clone()),
            prefix: Some(encoding.encode(&prefix)),
            delimiter: (!delimiter.is_empty()).then(|| encoding.encode(&delimiter)),
            max_keys: count(max),
            key_count: count(page.entries.len()),
            continuation_token: input.continuation_token.clone(),
            start_after: input.start_after.as_deref().map(|key| encoding.encode(key)),
            is_truncated: Some(page.next.is_some()),
            next_continuation_token: page.next.map(|next| TOKEN.encode(next)),
            contents: Some(contents),
            common_prefixes: Some(common_prefixes),
            encoding_type: encoding.shown(),
            ..ListObjectsV2Output::default()
        }))
    })
}

pub(crate) fn list_v1(
    store: &Store,
    request: S3Request<ListObjectsInput>,
) -> S3Result<S3Response<ListObjectsOutput>> {
    let input = request.input;
    let encoding = KeyEncoding::new(input.encoding_type.as_ref())?;
    let max = page_size("max-keys", input.max_keys)?;
    let prefix = input.prefix.unwrap_or_default();
    let delimiter = input.delimiter.unwrap_or_default();
    let marker = input.marker.unwrap_or_default();
    store.read(|index| {
        let bucket = bucket_of(index, &input.bucket)?;
        let query = Query { prefix: &prefix, delimiter: &delimiter, after: &marker, max };
        let page = page(&bucket.keys, query, |versions| is_listed(versions));
        let (contents, common_prefixes) = split(&page, encoding, true);
        Ok(S3Response::new(ListObjectsOutput {
            name: Some(input.bucket.clone()),
            prefix: Some(encoding.encode(&prefix)),
            delimiter: (!delimiter.is_empty()).then(|| encoding.encode(&delimiter)),
            marker: Some(encoding.encode(&marker)),
            max_keys: count(max),
            is_truncated: Some(page.next.is_some()),
            // S3 names the next marker only where it could be a folded prefix.
            next_marker: page.next.filter(|_| !delimiter.is_empty()).map(|next| encoding.encode(&next)),
            contents: Some(contents),
            common_prefixes: Some(common_prefixes),
            encoding_type: encoding.shown(),
            ..ListObjectsOutput::default()
        }))
    })
}

fn as_deref(bound: &Bound<String>) -> Bound<&str> {
    bound.as_ref().map(String::as_str)
}

fn is_listed(versions: &[Arc<Version>]) -> bool {
    versions.last().is_some_and(|version| !version.is_delete_marker())
}

fn decode_token(token: &str) -> S3Result<String> {
    let bytes = TOKEN.decode(token).ok();
    bytes
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| s3_error!(InvalidArgument, "The continuation token provided is incorrect"))
}

fn split(
    page: &Page<'_, Vec<Arc<Version>>>,
    encoding: KeyEncoding,
    with_owner: bool,
) -> (Vec<ListedObject>, Vec<CommonPrefix>) {
    let (mut contents, mut prefixes) = (Vec::new(), Vec::new());
    for entry in &page.entries {
        match entry {
            Entry::Folded(prefix) => prefixes.push(CommonPrefix { prefix: Some(encoding.encode(prefix)) }),
            Entry::Key(key, versions) => {
                let current = versions.last();
                contents
                    .extend(current.and_then(|version| listed(encoding.encode(key), version, with_owner)));
            }
        }
    }
    (contents, prefixes)
}

fn listed(key: String, version: &Version, with_owner: bool) -> Option<ListedObject> {
    let object = version.object.as_deref()?;
    Some(ListedObject {
        key: Some(key),
        e_tag: Some(ETag::Strong(object.etag.clone())),
        last_modified: Some(timestamp(version.modified_ms)),
        size: size(object.size()),
        storage_class: Some(ObjectStorageClass::from(object.attributes.storage_class_name().to_owned())),
        checksum_algorithm: Some(vec![ChecksumAlgorithm::from_static(object.checksum.algorithm.name())]),
        checksum_type: Some(ChecksumType::from_static(object.checksum.kind.name())),
        owner: with_owner.then(owner),
        ..ListedObject::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(keys: &[&str]) -> BTreeMap<String, ()> {
        keys.iter().map(|key| ((*key).to_owned(), ())).collect()
    }

    fn shown(
        keys: &BTreeMap<String, ()>,
        prefix: &str,
        delimiter: &str,
        after: &str,
        max: usize,
    ) -> Vec<String> {
        let query = Query { prefix, delimiter, after, max };
        let page = page(keys, query, |()| true);
        let entries = page.entries.iter().map(|entry| match entry {
            Entry::Key(key, ()) => (*key).to_owned(),
            Entry::Folded(prefix) => format!("[{prefix}]"),
        });
        entries.chain(page.next.map(|next| format!("next {next}"))).collect()
    }

    #[test]
    fn keys_come_in_byte_order() {
        let keys = map(&["a/b", "a", "a-b", "a0", "é", "e\u{301}", "z", "\u{1}", "a//b", "/a"]);
        assert_eq!(
            shown(&keys, "", "", "", 1000),
            ["\u{1}", "/a", "a", "a-b", "a//b", "a/b", "a0", "e\u{301}", "z", "é"]
        );
    }

    #[test]
    fn folding_counts_once_and_resumes_behind_the_fold() {
        let keys = map(&["a", "b/1", "b/2", "b/\u{10FFFF}x", "c", "d//x", "d/y"]);
        assert_eq!(shown(&keys, "", "/", "", 1000), ["a", "[b/]", "c", "[d/]"]);
        assert_eq!(shown(&keys, "", "/", "", 2), ["a", "[b/]", "next b/"]);
        assert_eq!(shown(&keys, "", "/", "b/", 2), ["c", "[d/]"]);
        assert_eq!(shown(&keys, "d/", "/", "", 1000), ["[d//]", "d/y"]);
        assert_eq!(shown(&keys, "b/", "", "b/1", 1), ["b/2", "next b/2"]);
    }

    #[test]
    fn pages_join_to_the_whole_whatever_their_size() {
        let keys = map(&["a", "b/1", "b/2", "b/3/4", "c/1", "d", "e/"]);
        for delimiter in ["", "/", "3/"] {
            let whole = shown(&keys, "", delimiter, "", 1000);
            for max in 1..5 {
                let (mut joined, mut after) = (Vec::new(), String::new());
                loop {
                    let mut page = shown(&keys, "", delimiter, &after, max);
                    let next = page.pop_if(|line| line.starts_with("next "));
                    joined.extend(page);
                    let Some(next) = next else { break };
                    after = next["next ".len()..].to_owned();
                }
                assert_eq!(joined, whole, "delimiter {delimiter:?}, pages of {max}");
            }
        }
    }

    #[test]
    fn a_page_of_nothing_is_not_truncated() {
        assert_eq!(shown(&map(&["a", "b"]), "", "", "", 0), Vec::<String>::new());
    }

    #[test]
    fn a_start_before_the_prefix_begins_at_the_prefix() {
        let keys = map(&["a", "p", "p1", "q"]);
        assert_eq!(shown(&keys, "p", "", "b", 10), ["p", "p1"]);
        assert_eq!(shown(&keys, "p", "", "p", 10), ["p1"]);
        assert_eq!(shown(&keys, "p", "", "q", 10), Vec::<String>::new());
    }
}
