//! Tests of what is written beside the bytes: nothing is lost, whatever it is, and S3's limit holds.

use proptest::prelude::*;

use super::*;

fn record(metadata: &[(&str, &str)]) -> Record {
    Record {
        format: FORMAT.to_owned(),
        location: "photos".into(),
        bucket: "uploads".into(),
        key: "2026/é \"1\"%.jpg".into(),
        version: Some("v 1".into()),
        etag: "5d41402abc4b2a76b9719d911017c592-3".into(),
        modified: Some((1_795_428_930, 5)),
        size_bytes: 5,
        crc64nvme: Some(crc_text(0x00ab)),
        sha256: None,
        tenant: "tenant-1".into(),
        task_id: "00-abc".into(),
        storage_class: Some("GLACIER_IR".into()),
        attributes: Attributes {
            content_type: Some("image/jpeg".into()),
            metadata: metadata.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            ..Attributes::default()
        },
        tags: Vec::new(),
    }
}

fn stored(placement: &Placement) -> ObjectInfo {
    ObjectInfo { attributes: placement.attributes.clone(), ..ObjectInfo::default() }
}

#[test]
fn an_ordinary_record_travels_on_the_object() {
    let record = record(&[("owner", "me"), ("note", "zwei Wörter"), ("padded", " x ")]);
    let placement = record.place(false);
    assert!(!placement.manifest);
    assert!(placement.attributes.metadata.values().all(|v| v.is_ascii()));
    assert_eq!(
        placement.attributes.metadata["backhaul"],
        "format=2 location=photos bucket=uploads key=2026/%C3%A9%20%221%22%25.jpg version=v%201 \
         etag=5d41402abc4b2a76b9719d911017c592-3 modified=1795428930.000000005 size=5 \
         crc64nvme=00000000000000ab tenant=tenant-1 task=00-abc storage-class=GLACIER_IR encoded=note,padded"
    );
    assert_eq!(Record::beside_manifest(&stored(&placement)), None);
    assert_eq!(placement.attributes.metadata["owner"], "me");
    assert_eq!(Record::from_object(&stored(&placement)), Some(record));
}

#[test]
fn metadata_at_the_limit_goes_to_the_manifest_and_the_object_says_so() {
    for value in [2_048, 2_049] {
        let record = record(&[("big", &"x".repeat(value - 3))]);
        let placement = record.place(false);
        assert!(placement.manifest);
        assert!(weight(&placement.attributes.metadata) < 400);
        let beside = (Some(record.etag.clone()), record.crc64nvme.clone());
        assert_eq!(Record::beside_manifest(&stored(&placement)), Some(beside));
        assert_eq!(Record::from_object(&stored(&placement)), None);
        let json = serde_json::to_vec(&record).expect("json");
        assert_eq!(serde_json::from_slice::<Record>(&json).expect("json"), record);
    }
}

#[test]
fn a_backup_of_a_backup_does_not_mix_up_whose_metadata_is_whose() {
    let first = record(&[("owner", "me")]).place(false);
    let second = Record { attributes: first.attributes, ..record(&[]) };
    assert!(second.place(false).manifest);
}

#[test]
fn an_encoding_of_the_transfer_is_not_kept_as_one_of_the_object() {
    let kept = |e: &str| without_aws_chunked(Some(e.to_owned()));
    assert_eq!(kept("aws-chunked"), None);
    assert_eq!(kept("aws-chunked,gzip").as_deref(), Some("gzip"));
    assert_eq!(kept("gzip").as_deref(), Some("gzip"));
}

proptest! {
    #[test]
    fn whatever_the_source_carries_comes_back(
        metadata in proptest::collection::btree_map("[a-z][a-z0-9-]{0,20}", "\\PC{0,40}|[ -~]{0,200}", 0..12),
        key in "(?s).{1,300}",
        version in proptest::option::of("\\PC{1,40}"),
    ) {
        let record = Record {
            key,
            version,
            attributes: Attributes { metadata, ..Attributes::default() },
            ..record(&[])
        };
        let placement = record.place(false);
        prop_assert!(weight(&placement.attributes.metadata) <= METADATA_MAX_BYTES);
        let values = placement.attributes.metadata.values();
        prop_assert!(values.clone().all(|v| v.bytes().all(|b| (b' '..0x7f).contains(&b))));
        if !placement.manifest {
            prop_assert_eq!(Record::from_object(&stored(&placement)), Some(record));
        }
    }
}
