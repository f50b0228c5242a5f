//! Tests of backup keys: distinct, bounded, sortable, and readable back.

use proptest::prelude::*;

use super::*;

fn source(key: &str) -> SourceName<'_> {
    SourceName {
        location: "photos",
        bucket: "uploads",
        key,
        version: None,
        etag: "5d41402abc4b2a76b9719d911017c592",
        size_bytes: 5,
        modified: Some((1_795_428_930, 0)),
    }
}

fn back(prefix: &str, key: &str) -> ParsedKey {
    ParsedKey::parse(prefix, key).unwrap_or_else(|| panic!("{key:?} is not understood"))
}

#[test]
fn an_ordinary_key_stays_readable() {
    let key = BackupKey::new(Naming::of_s3("backups"), &source("2026/cat é+1.jpg"));
    assert_eq!(
        key.object(0),
        "backups/photos/uploads/2026/cat é+1.jpg~20261123T101530Z-5d41402abc4b2a76b9719d911017c592-5"
    );
    assert_eq!(key.manifest(2), key.object(0) + "~r2~manifest.json");
    assert!(!key.is_hashed());
    assert_eq!(key.stem().to_owned() + key.version(), key.object(0));
}

#[test]
fn a_version_id_identifies_better_than_an_etag_unless_it_is_null() {
    let named = |version| BackupKey::new(Naming::of_s3(""), &SourceName { version, ..source("k") }).object(0);
    assert_eq!(named(Some("3/L4")), "photos/uploads/k~20261123T101530Z-3!2FL4");
    assert_eq!(named(Some("null")), named(None));
}

#[test]
fn keys_that_stores_mangle_stay_distinct_and_come_back() {
    let keys = [
        "a//b",
        "a/b",
        "/a",
        "//a",
        "a",
        "a/",
        "a//",
        "a/../b",
        "a/./b",
        "..",
        ".",
        "...",
        "!",
        "!2E",
        "a!b",
        "a~b",
        "a~20261123T101530Z-x",
        "a~r1",
        "a~manifest.json",
        "a\\b",
        "a\nb",
        "a\0b",
        "\u{7f}",
        "\u{fffe}",
        "e\u{301}",
        "é",
        "😀/🎉",
        "sp ace+%2F%",
        "!sha256/x",
        "",
        " ",
        "a ",
        ".uploads/x",
    ];
    let mut seen = std::collections::BTreeSet::new();
    for key in keys {
        let made = BackupKey::new(Naming::of_s3("p/q"), &source(key));
        for repair in [0, 1, 99] {
            for (manifest, text) in [(false, made.object(repair)), (true, made.manifest(repair))] {
                let parsed = back("p/q", &text);
                assert_eq!(parsed.key.as_deref(), Some(key), "{text}");
                assert_eq!((parsed.repair, parsed.manifest), (repair, manifest), "{text}");
                assert!(text.split('/').all(|s| !s.is_empty() && s != "." && s != ".."), "{text}");
                assert!(seen.insert(text));
            }
        }
    }
}

#[test]
fn a_long_key_is_hashed_and_still_bounded_and_distinct() {
    let long = "k".repeat(1024);
    let other = "k".repeat(1023) + "j";
    let deep = vec!["d".repeat(100); 10].join("/");
    let mut seen = std::collections::BTreeSet::new();
    for key in [&long, &other, &deep] {
        let made = BackupKey::new(Naming::of_s3(&"p".repeat(PREFIX_MAX_BYTES)), &source(key));
        let text = made.manifest(MAX_REPAIRS);
        assert!(made.is_hashed() && text.len() <= KEY_MAX_BYTES, "{}", text.len());
        assert_eq!(back(&"p".repeat(PREFIX_MAX_BYTES), &text).key, None);
        assert!(seen.insert(text));
    }
}

#[test]
fn where_a_store_takes_shorter_keys_more_are_hashed_and_the_others_stay_as_they_are() {
    for length in 1..=1024 {
        let key = "k/".repeat(512)[..length].to_owned();
        let usual = BackupKey::new(Naming::of_s3("p"), &source(&key));
        let made = BackupKey::new(Naming { prefix: "p", key_max_bytes: 479 }, &source(&key));
        assert!(made.longest() <= 479 && made.manifest(MAX_REPAIRS).len() <= made.longest(), "{length}");
        assert_eq!(made == usual, usual.longest() <= 479, "{length}");
        assert_eq!(made.is_hashed(), usual.is_hashed() || usual.longest() > 479, "{length}");
    }
    let narrow = BackupKey::new(Naming { prefix: "p", key_max_bytes: 100 }, &source(&"k".repeat(50)));
    assert!(narrow.is_hashed() && narrow.longest() > 100, "nothing shorter can be made, and it says so");
}

#[test]
fn versions_of_an_object_sort_by_the_time_of_the_source() {
    let at = |seconds, etag| {
        let source = SourceName { modified: Some((seconds, 0)), etag, ..source("k") };
        BackupKey::new(Naming::of_s3(""), &source).object(0)
    };
    assert!(at(999_999_999, "ff") < at(1_000_000_000, "00"));
}

#[test]
fn foreign_keys_are_not_taken_for_ours() {
    let ours = BackupKey::new(Naming::of_s3("p"), &source("k")).object(0);
    for key in
        ["", "p", "p/photos/uploads/k", "p/photos/uploads/k~2026", "q/photos/uploads/k~20261123T101530Z-x"]
    {
        assert_eq!(ParsedKey::parse("p", key), None, "{key}");
    }
    assert_eq!(ParsedKey::parse("p", &(ours.clone() + "~r0")), None);
    assert_eq!(ParsedKey::parse("p", &(ours + "~r100")), None);
}

proptest! {
    #[test]
    fn any_key_and_version_fit_and_come_back(
        key in "\\PC{0,60}|[./~!a]{0,40}|(?s).{0,1100}",
        version in proptest::option::of("(?s).{1,300}"),
        etag in "(?s).{0,80}",
        size_bytes: u64,
        seconds in proptest::option::of(any::<i64>()),
        repair in 0..=MAX_REPAIRS,
    ) {
        let source = SourceName {
            version: version.as_deref(),
            etag: &etag,
            size_bytes,
            modified: seconds.map(|s| (s, 0)),
            ..source(&key)
        };
        let made = BackupKey::new(Naming::of_s3("p"), &source);
        let text = made.manifest(repair);
        prop_assert!(text.len() <= KEY_MAX_BYTES);
        prop_assert!(text.split('/').all(|s| s.len() <= SEGMENT_MAX_BYTES));
        let parsed = ParsedKey::parse("p", &text).expect("ours");
        prop_assert_eq!((parsed.repair, parsed.manifest), (repair, true));
        prop_assert_eq!(parsed.version, made.version());
        if made.is_hashed() {
            prop_assert_eq!(parsed.key, None);
        } else {
            prop_assert_eq!(parsed.key, Some(key));
        }
    }
}
