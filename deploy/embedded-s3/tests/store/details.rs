//! Tags, object lock and attributes of stored versions.

use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{
    ObjectAttributes, ObjectLockLegalHold, ObjectLockLegalHoldStatus, ObjectLockMode, ObjectLockRetention,
    ObjectLockRetentionMode, Tag, Tagging,
};

use crate::support::{Fixture, PLAIN, VERSIONED, on_both_storages, refused};

const FAR: i64 = 4_000_000_000;

fn tagging(tags: &[(&str, &str)]) -> Tagging {
    let tags = tags.iter().map(|(key, value)| Tag::builder().key(*key).value(*value).build().expect("a tag"));
    Tagging::builder().set_tag_set(Some(tags.collect())).build().expect("a set")
}

#[tokio::test]
async fn tags_are_set_read_and_removed_on_a_version() {
    on_both_storages(async |store: &Fixture| {
        let put = store
            .client
            .put_object()
            .bucket(VERSIONED)
            .key("k")
            .tagging("first=1")
            .send()
            .await
            .expect("put");
        let version = put.version_id.expect("a version");
        store.put(VERSIONED, "k", "newer").await;
        let tags = async |version: Option<&str>| {
            let get = store.client.get_object_tagging().bucket(VERSIONED).key("k");
            let get = get.set_version_id(version.map(str::to_owned)).send().await.expect("get");
            get.tag_set().iter().map(|tag| format!("{}={}", tag.key(), tag.value())).collect::<Vec<_>>()
        };
        assert_eq!(tags(Some(&version)).await, ["first=1"]);
        assert_eq!(tags(None).await, Vec::<String>::new());

        let set = store.client.put_object_tagging().bucket(VERSIONED).key("k").version_id(&version);
        set.tagging(tagging(&[("a", "ü & <x>"), ("b", "")])).send().await.expect("set");
        assert_eq!(tags(Some(&version)).await, ["a=ü & <x>", "b="]);
        let delete = store.client.delete_object_tagging().bucket(VERSIONED).key("k").version_id(&version);
        delete.send().await.expect("delete");
        assert_eq!(tags(Some(&version)).await, Vec::<String>::new());

        let twice = store.client.put_object_tagging().bucket(VERSIONED).key("k");
        let twice = twice.tagging(tagging(&[("a", "1"), ("a", "2")])).send().await;
        assert_eq!(refused(twice), (400, "InvalidTag".into()));
        let missing = store.client.get_object_tagging().bucket(PLAIN).key("none").send().await;
        assert_eq!(refused(missing), (404, "NoSuchKey".into()));
    })
    .await;
}

#[tokio::test]
async fn a_retained_version_cannot_be_deleted() {
    on_both_storages(async |store: &Fixture| {
        let lock = store.client.create_bucket().bucket("locked").object_lock_enabled_for_bucket(true);
        lock.send().await.expect("create");
        let put = store.client.put_object().bucket("locked").key("k").body(ByteStream::from_static(b"x"));
        let put = put
            .object_lock_mode(ObjectLockMode::Governance)
            .object_lock_retain_until_date(DateTime::from_secs(FAR));
        let version = put.send().await.expect("put").version_id.expect("a version");
        let head = store.client.head_object().bucket("locked").key("k").send().await.expect("head");
        assert_eq!(head.object_lock_mode(), Some(&ObjectLockMode::Governance));
        assert_eq!(head.object_lock_retain_until_date().map(DateTime::secs), Some(FAR));

        let delete = || store.client.delete_object().bucket("locked").key("k").version_id(&version);
        assert_eq!(refused(delete().send().await), (403, "AccessDenied".into()));
        let retention = |mode, until| {
            let retention =
                ObjectLockRetention::builder().mode(mode).retain_until_date(DateTime::from_secs(until));
            store.client.put_object_retention().bucket("locked").key("k").retention(retention.build())
        };
        let shorter = retention(ObjectLockRetentionMode::Governance, FAR - 1).send().await;
        assert_eq!(refused(shorter), (403, "AccessDenied".into()));
        let longer = retention(ObjectLockRetentionMode::Governance, FAR + 1).send().await;
        longer.expect("a retention may grow");
        let shown = store.client.get_object_retention().bucket("locked").key("k").send().await.expect("get");
        let until = shown.retention().and_then(|retention| retention.retain_until_date());
        assert_eq!(until.map(DateTime::secs), Some(FAR + 1));

        let hold = |status| {
            let hold = ObjectLockLegalHold::builder().status(status).build();
            store.client.put_object_legal_hold().bucket("locked").key("k").legal_hold(hold)
        };
        hold(ObjectLockLegalHoldStatus::On).send().await.expect("hold");
        let bypass = delete().bypass_governance_retention(true).send().await;
        assert_eq!(refused(bypass), (403, "AccessDenied".into()));
        hold(ObjectLockLegalHoldStatus::Off).send().await.expect("release");
        delete().bypass_governance_retention(true).send().await.expect("delete");

        let plain =
            store.client.put_object().bucket(PLAIN).key("k").object_lock_mode(ObjectLockMode::Governance);
        let plain = plain.object_lock_retain_until_date(DateTime::from_secs(FAR)).send().await;
        assert_eq!(refused(plain), (400, "InvalidRequest".into()));
    })
    .await;
}

#[tokio::test]
async fn attributes_tell_what_was_asked_for() {
    on_both_storages(async |store: &Fixture| {
        let etag = store.put(PLAIN, "k", "123456789").await;
        let attributes = store.client.get_object_attributes().bucket(PLAIN).key("k");
        let attributes = attributes
            .object_attributes(ObjectAttributes::Etag)
            .object_attributes(ObjectAttributes::Checksum)
            .object_attributes(ObjectAttributes::ObjectSize)
            .object_attributes(ObjectAttributes::StorageClass)
            .object_attributes(ObjectAttributes::ObjectParts);
        let attributes = attributes.send().await.expect("attributes");
        assert_eq!(attributes.e_tag().map(|shown| shown.trim_matches('"')), Some(etag.trim_matches('"')));
        assert_eq!(attributes.object_size(), Some(9));
        assert_eq!(attributes.checksum().and_then(|checksum| checksum.checksum_crc32()), Some("y/Q5Jg=="));
        assert_eq!(attributes.storage_class().map(|class| class.as_str()), Some("STANDARD"));
        assert_eq!(attributes.object_parts(), None);
    })
    .await;
}
