//! Keys that other stores lose, and the order of listings.

use aws_sdk_s3::types::{Delete, EncodingType, ObjectIdentifier};
use percent_encoding::percent_decode_str;

use crate::support::{Fixture, PLAIN, on_both_storages, refused};

fn strange_keys() -> Vec<String> {
    let mut keys: Vec<String> = [
        "a",
        "a/b",
        "a//b",
        "a/",
        "a-b",
        "a0",
        "/a",
        "//",
        "/",
        "../x",
        "a/../b",
        "./dot",
        ".",
        "..",
        "dir/",
        "a\\b",
        "sp ace+%",
        "%2F",
        "a?b",
        "a#b",
        "a&b=c",
        "<>&'\"",
        "new\nline",
        "tab\t",
        "\u{1}\u{1f}",
        "\u{7f}",
        "\u{e9}",
        "e\u{301}",
        "\u{1F980}",
        "\u{10FFFF}",
        "~",
        "*",
        "index.jsonl",
        "bodies/00",
        "ünï/cödé",
        "a ",
        " a",
        "+",
    ]
    .map(str::to_owned)
    .to_vec();
    keys.push("k".repeat(1024));
    keys.push("d/".repeat(512));
    keys.push("é".repeat(512));
    keys
}

#[tokio::test]
async fn every_key_is_kept_exactly_and_listed_in_byte_order() {
    on_both_storages(async |store: &Fixture| {
        let keys = strange_keys();
        for key in &keys {
            store.put(PLAIN, key, format!("body of {key:?}")).await;
        }
        for key in &keys {
            assert_eq!(store.get(PLAIN, key).await, format!("body of {key:?}").as_bytes(), "{key:?}");
        }
        let list = store.client.list_objects_v2().bucket(PLAIN).encoding_type(EncodingType::Url);
        let list = list.send().await.expect("list");
        let decode = |key: &str| percent_decode_str(key).decode_utf8().expect("UTF-8").into_owned();
        let listed: Vec<String> =
            list.contents().iter().map(|object| decode(object.key().expect("a key"))).collect();
        let mut sorted = keys.clone();
        sorted.sort();
        assert_eq!(listed, sorted);

        for key in &keys {
            let copy = store.client.copy_object().bucket(PLAIN).key("copy");
            let encoded = percent_encoding::utf8_percent_encode(key, percent_encoding::NON_ALPHANUMERIC);
            copy.copy_source(format!("{PLAIN}/{encoded}"))
                .send()
                .await
                .unwrap_or_else(|e| panic!("{key:?}: {e:?}"));
            assert_eq!(store.get(PLAIN, "copy").await, format!("body of {key:?}").as_bytes(), "{key:?}");
        }
        for key in &keys {
            store.client.delete_object().bucket(PLAIN).key(key).send().await.expect("delete");
        }
        assert_eq!(store.keys(PLAIN).await, ["copy"]);
    })
    .await;
}

#[tokio::test]
async fn a_batch_delete_takes_strange_keys() {
    on_both_storages(async |store: &Fixture| {
        // XML has no way to carry the other control characters.
        let keys: Vec<String> =
            strange_keys().into_iter().filter(|key| !key.chars().any(|c| c.is_control())).collect();
        for key in &keys {
            store.put(PLAIN, key, "").await;
        }
        let objects = keys.iter().map(|key| ObjectIdentifier::builder().key(key).build().expect("a key"));
        let delete = Delete::builder().set_objects(Some(objects.collect())).build().expect("a list");
        let deleted =
            store.client.delete_objects().bucket(PLAIN).delete(delete).send().await.expect("delete");
        assert_eq!(deleted.errors(), []);
        assert_eq!(deleted.deleted().len(), keys.len());
        assert_eq!(store.keys(PLAIN).await, Vec::<String>::new());
    })
    .await;
}

#[tokio::test]
async fn a_key_of_1025_bytes_is_too_long() {
    on_both_storages(async |store: &Fixture| {
        let put = store.client.put_object().bucket(PLAIN).key("k".repeat(1025)).send().await;
        assert_eq!(refused(put), (400, "KeyTooLongError".into()));
    })
    .await;
}

#[tokio::test]
async fn a_listing_folds_pages_and_resumes() {
    on_both_storages(async |store: &Fixture| {
        for key in ["a", "b/1", "b/2", "b/c/3", "d", "e/1", "é"] {
            store.put(PLAIN, key, key).await;
        }
        let (mut seen, mut token) = (Vec::new(), None);
        loop {
            let list = store.client.list_objects_v2().bucket(PLAIN).delimiter("/").max_keys(2);
            let list = list.set_continuation_token(token).send().await.expect("list");
            assert!(list.key_count().expect("a count") <= 2);
            seen.extend(list.contents().iter().map(|object| object.key().expect("a key").to_owned()));
            seen.extend(
                list.common_prefixes().iter().map(|prefix| prefix.prefix().expect("a prefix").to_owned()),
            );
            token = list.next_continuation_token().map(str::to_owned);
            assert_eq!(list.is_truncated(), Some(token.is_some()));
            if token.is_none() {
                break;
            }
        }
        assert_eq!(seen, ["a", "b/", "d", "e/", "é"]);

        let list = store.client.list_objects_v2().bucket(PLAIN).prefix("b/").start_after("b/1");
        let list = list.send().await.expect("list");
        let keys: Vec<_> = list.contents().iter().filter_map(|object| object.key()).collect();
        assert_eq!(keys, ["b/2", "b/c/3"]);
        assert_eq!(list.contents()[0].size(), Some(3));

        let list = store.client.list_objects_v2().bucket(PLAIN).max_keys(0).send().await.expect("list");
        assert_eq!((list.is_truncated(), list.contents().len()), (Some(false), 0));
        let bad = store.client.list_objects_v2().bucket(PLAIN).continuation_token("?").send().await;
        assert_eq!(refused(bad), (400, "InvalidArgument".into()));
    })
    .await;
}

#[tokio::test]
async fn the_first_listing_version_resumes_by_marker() {
    on_both_storages(async |store: &Fixture| {
        for key in ["a", "b/1", "b/2", "c"] {
            store.put(PLAIN, key, key).await;
        }
        let list =
            store.client.list_objects().bucket(PLAIN).delimiter("/").max_keys(2).send().await.expect("list");
        assert_eq!(list.next_marker(), Some("b/"));
        let rest =
            store.client.list_objects().bucket(PLAIN).delimiter("/").marker("b/").send().await.expect("list");
        let keys: Vec<_> = rest.contents().iter().filter_map(|object| object.key()).collect();
        assert_eq!((keys, rest.common_prefixes().len()), (vec!["c"], 0));
    })
    .await;
}
