//! Keys of copies: whatever the source is called, its copy has a legal key of its own, from which it can be read back.

use backhaul_worker::transfer::key::{BackupKey, Naming, ParsedKey, SourceName};

/// Two keys, a version and an ETag, line by line.
pub(crate) fn keys(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    drop((ParsedKey::parse("", text), ParsedKey::parse("copies", text)));
    let mut parts = text.splitn(4, '\n');
    let mut next = || parts.next().unwrap_or_default();
    let (first, second, version, etag) = (next(), next(), next(), next());
    let name = |key| SourceName {
        location: "uploads",
        bucket: "photos",
        key,
        version: (!version.is_empty()).then_some(version),
        etag,
        size_bytes: 7,
        modified: Some((1_800_000_000, 0)),
    };
    // Stores know no empty keys, and no longer ones.
    let is_key = |key: &&str| (1..=1024).contains(&key.len());
    let made: Vec<(&str, BackupKey)> = [first, second]
        .into_iter()
        .filter(is_key)
        .map(|key| (key, BackupKey::new(Naming::of_s3("copies"), &name(key))))
        .collect();
    for (key, backup) in &made {
        for repair in [0, 1, 99] {
            for (stored, is_manifest) in [(backup.object(repair), false), (backup.manifest(repair), true)] {
                assert!(stored.len() <= 1024, "{} bytes", stored.len());
                assert!(!stored.chars().any(char::is_control), "{stored:?}");
                assert!(stored.split('/').all(|segment| !matches!(segment, "" | "." | "..")), "{stored:?}");
                let parsed = ParsedKey::parse("copies", &stored);
                let parsed = parsed.unwrap_or_else(|| panic!("{stored:?} cannot be read back"));
                assert_eq!((parsed.location.as_str(), parsed.bucket.as_str()), ("uploads", "photos"));
                assert_eq!((parsed.repair, parsed.manifest), (repair, is_manifest), "{stored:?}");
                assert_eq!(parsed.version, backup.version(), "{stored:?}");
                assert_eq!(parsed.key.as_deref(), (!backup.is_hashed()).then_some(*key), "{stored:?}");
            }
        }
    }
    if let [(one, a), (other, b)] = made.as_slice() {
        assert_eq!(one == other, a.object(0) == b.object(0), "{one:?} and {other:?}");
    }
}
