//! Versioning: version ids, delete markers, suspension, and listings of all of it.

use aws_sdk_s3::types::{BucketVersioningStatus, Delete, ObjectIdentifier, VersioningConfiguration};

use crate::support::{Fixture, PLAIN, VERSIONED, on_both_storages, refused};

async fn put(store: &Fixture, key: &str, body: &'static [u8]) -> String {
    let put = store.client.put_object().bucket(VERSIONED).key(key).body(body.to_vec().into());
    put.send().await.expect("put").version_id.expect("a version")
}

async fn get(store: &Fixture, key: &str, version: &str) -> Vec<u8> {
    let get =
        store.client.get_object().bucket(VERSIONED).key(key).version_id(version).send().await.expect("get");
    assert_eq!(get.version_id(), Some(version));
    get.body.collect().await.expect("body").to_vec()
}

async fn set_versioning(store: &Fixture, status: BucketVersioningStatus) {
    let configuration = VersioningConfiguration::builder().status(status).build();
    let set = store.client.put_bucket_versioning().bucket(VERSIONED).versioning_configuration(configuration);
    set.send().await.expect("set versioning");
}

#[tokio::test]
async fn every_version_stays_until_it_is_deleted_by_its_id() {
    on_both_storages(async |store: &Fixture| {
        let (one, two) = (put(store, "k", b"one").await, put(store, "k", b"two").await);
        assert_ne!(one, two);
        assert_eq!(get(store, "k", &one).await, b"one");
        assert_eq!(store.get(VERSIONED, "k").await, b"two");

        let marker = store.client.delete_object().bucket(VERSIONED).key("k").send().await.expect("delete");
        assert_eq!(marker.delete_marker(), Some(true));
        let marker = marker.version_id.expect("the marker's id");
        let current = store.client.get_object().bucket(VERSIONED).key("k").send().await;
        let headers =
            current.as_ref().err().and_then(|error| error.raw_response()).map(|raw| raw.headers().clone());
        assert_eq!(headers.as_ref().and_then(|headers| headers.get("x-amz-delete-marker")), Some("true"));
        assert_eq!(refused(current), (404, "NoSuchKey".into()));
        let named = store.client.get_object().bucket(VERSIONED).key("k").version_id(&marker).send().await;
        assert_eq!(refused(named), (405, "MethodNotAllowed".into()));
        assert_eq!(get(store, "k", &two).await, b"two");
        assert_eq!(store.keys(VERSIONED).await, Vec::<String>::new());

        let delete =
            |version: &str| store.client.delete_object().bucket(VERSIONED).key("k").version_id(version);
        let undone = delete(&marker).send().await.expect("delete the marker");
        assert_eq!(undone.delete_marker(), Some(true));
        assert_eq!(store.get(VERSIONED, "k").await, b"two");
        delete(&two).send().await.expect("delete");
        assert_eq!(store.get(VERSIONED, "k").await, b"one");
        delete(&two).send().await.expect("again");
        let gone = store.client.head_object().bucket(VERSIONED).key("k").version_id(&two).send().await;
        assert_eq!(refused(gone).0, 404);
    })
    .await;
}

#[tokio::test]
async fn a_create_only_write_may_follow_a_delete_marker() {
    on_both_storages(async |store: &Fixture| {
        put(store, "k", b"one").await;
        let create = || store.client.put_object().bucket(VERSIONED).key("k").if_none_match("*");
        assert_eq!(refused(create().send().await), (412, "PreconditionFailed".into()));
        store.client.delete_object().bucket(VERSIONED).key("k").send().await.expect("delete");
        create().send().await.expect("the current version is a delete marker");
    })
    .await;
}

#[tokio::test]
async fn a_suspended_bucket_writes_over_its_null_version_only() {
    on_both_storages(async |store: &Fixture| {
        let kept = put(store, "k", b"kept").await;
        set_versioning(store, BucketVersioningStatus::Suspended).await;
        assert_eq!(put(store, "k", b"null one").await, "null");
        assert_eq!(put(store, "k", b"null two").await, "null");
        assert_eq!(get(store, "k", &kept).await, b"kept");
        assert_eq!(get(store, "k", "null").await, b"null two");
        let list = store.client.list_object_versions().bucket(VERSIONED).send().await.expect("list");
        assert_eq!(list.versions().len(), 2);

        let marker = store.client.delete_object().bucket(VERSIONED).key("k").send().await.expect("delete");
        assert_eq!(marker.version_id(), Some("null"));
        let list = store.client.list_object_versions().bucket(VERSIONED).send().await.expect("list");
        assert_eq!((list.versions().len(), list.delete_markers().len()), (1, 1));

        set_versioning(store, BucketVersioningStatus::Enabled).await;
        let status = store.client.get_bucket_versioning().bucket(VERSIONED).send().await.expect("get");
        assert_eq!(status.status(), Some(&BucketVersioningStatus::Enabled));
        let status = store.client.get_bucket_versioning().bucket(PLAIN).send().await.expect("get");
        assert_eq!(status.status(), None);
    })
    .await;
}

#[tokio::test]
async fn all_versions_are_listed_newest_first_whatever_the_page() {
    on_both_storages(async |store: &Fixture| {
        let mut expected = Vec::new();
        for key in ["a", "b/1", "c"] {
            let versions = [put(store, key, b"1").await, put(store, key, b"2").await];
            let marker =
                store.client.delete_object().bucket(VERSIONED).key(key).send().await.expect("delete");
            let ids = [marker.version_id.expect("a marker"), versions[1].clone(), versions[0].clone()];
            expected.extend(ids.map(|id| (key.to_owned(), id)));
        }
        for max in [1, 2, 4, 1000] {
            let (mut seen, mut key, mut version) = (Vec::new(), None, None);
            loop {
                let list = store.client.list_object_versions().bucket(VERSIONED).max_keys(max);
                let list =
                    list.set_key_marker(key).set_version_id_marker(version).send().await.expect("list");
                let versions =
                    list.versions().iter().map(|v| (v.key.clone(), v.version_id.clone(), v.is_latest));
                let markers =
                    list.delete_markers().iter().map(|m| (m.key.clone(), m.version_id.clone(), m.is_latest));
                for (key, id, latest) in versions.chain(markers) {
                    let line = (key.expect("a key"), id.expect("an id"));
                    assert_eq!(latest, Some(expected.iter().find(|known| known.0 == line.0) == Some(&line)));
                    seen.push(line);
                }
                (key, version) = (list.next_key_marker, list.next_version_id_marker);
                if key.is_none() {
                    break;
                }
            }
            let (mut seen, mut all) = (seen, expected.clone());
            seen.sort();
            all.sort();
            assert_eq!(seen, all, "pages of {max}");
        }
        let folded =
            store.client.list_object_versions().bucket(VERSIONED).delimiter("/").send().await.expect("list");
        assert_eq!(folded.common_prefixes()[0].prefix(), Some("b/"));
        assert_eq!((folded.versions().len(), folded.delete_markers().len()), (4, 2));
    })
    .await;
}

#[tokio::test]
async fn a_batch_deletes_versions_and_makes_markers() {
    on_both_storages(async |store: &Fixture| {
        let (one, _) = (put(store, "k", b"one").await, put(store, "k", b"two").await);
        let object = |version: Option<&str>| {
            let object = ObjectIdentifier::builder().key("k").set_version_id(version.map(str::to_owned));
            object.build().expect("a key")
        };
        let delete =
            Delete::builder().objects(object(Some(&one))).objects(object(None)).build().expect("a list");
        let done =
            store.client.delete_objects().bucket(VERSIONED).delete(delete).send().await.expect("delete");
        assert_eq!(done.deleted()[0].version_id(), Some(one.as_str()));
        assert_eq!(done.deleted()[1].delete_marker(), Some(true));
        let list = store.client.list_object_versions().bucket(VERSIONED).send().await.expect("list");
        assert_eq!((list.versions().len(), list.delete_markers().len()), (1, 1));
    })
    .await;
}

#[tokio::test]
async fn buckets_come_and_go() {
    on_both_storages(async |store: &Fixture| {
        store.client.create_bucket().bucket("new-bucket").send().await.expect("create");
        let again = store.client.create_bucket().bucket("new-bucket").send().await;
        assert_eq!(refused(again), (409, "BucketAlreadyOwnedByYou".into()));
        let list = store.client.list_buckets().send().await.expect("list");
        let names: Vec<_> = list.buckets().iter().filter_map(|bucket| bucket.name()).collect();
        assert_eq!(names, ["new-bucket", PLAIN, VERSIONED]);
        let head = store.client.head_bucket().bucket("new-bucket").send().await.expect("head");
        assert_eq!(head.bucket_region(), Some("us-east-1"));
        store.client.get_bucket_location().bucket("new-bucket").send().await.expect("location");

        store.put("new-bucket", "k", "x").await;
        let full = store.client.delete_bucket().bucket("new-bucket").send().await;
        assert_eq!(refused(full), (409, "BucketNotEmpty".into()));
        store.client.delete_object().bucket("new-bucket").key("k").send().await.expect("delete");
        store.client.delete_bucket().bucket("new-bucket").send().await.expect("delete");
        assert_eq!(refused(store.client.head_bucket().bucket("new-bucket").send().await).0, 404);
        let bad = store.client.create_bucket().bucket("Bad_Name").send().await;
        assert_eq!(refused(bad), (400, "InvalidBucketName".into()));
    })
    .await;
}
