//! Every form as its documentation or its source shows it, and what nobody should send.

use proptest::prelude::*;

use super::*;
use crate::events::testing::{body, record};

fn upload(key: &str) -> Upload {
    Upload {
        bucket: "photos".into(),
        key: key.into(),
        version: Some("v1".into()),
        size_bytes: Some(1024),
        etag: "d41d8cd98f00b204e9800998ecf8427e".into(),
        sequencer: "0055AED6DCD90281E5".into(),
    }
}

fn removal(key: &str, version: Option<&str>) -> Notice {
    Notice::Removal(Removal { bucket: "photos".into(), key: key.into(), version: version.map(Into::into) })
}

fn one(form: Form, body: &[u8]) -> Notice {
    let mut notices = parse(form, body).unwrap();
    assert_eq!(notices.len(), 1, "{notices:?}");
    notices.remove(0)
}

#[test]
fn keys_of_aws_and_minio_are_decoded_exactly_once_and_those_of_ceph_not_at_all() {
    for (written, decoded) in [
        ("red+flower.jpg", "red flower.jpg"),
        ("a%2Bb", "a+b"),
        ("a%252Fb", "a%2Fb"),
        ("users%2F7%2Fcat.jpg", "users/7/cat.jpg"),
        ("%F0%9F%98%80%e2%82%ac", "😀€"),
        ("a//b/../c", "a//b/../c"),
        ("%00%0A%7F", "\0\n\u{7f}"),
        ("e%CC%81", "e\u{301}"),
        ("+", " "),
    ] {
        let body = body(&[record("ObjectCreated:Put", written)]);
        for form in [Form::S3, Form::Sns, Form::Minio] {
            assert_eq!(one(form, &body), Notice::Upload(upload(decoded)), "{form:?} {written}");
        }
        assert_eq!(one(Form::Ceph, &body), Notice::Upload(upload(written)));
    }
}

#[test]
fn a_key_that_is_not_encoded_is_told_and_leaves_its_neighbours_alone() {
    for odd in ["100%", "%", "%2", "%zz", "%+1", "%FF", "a%C3", "%ED%A0%80"] {
        let records = [
            record("ObjectCreated:Put", "before"),
            record("ObjectCreated:Put", odd),
            record("ObjectCreated:Copy", "after"),
        ];
        let notices = parse(Form::S3, &body(&records)).unwrap();
        let [Notice::Upload(before), Notice::Unknown(_), Notice::Upload(after)] = notices.as_slice() else {
            panic!("{odd}: {notices:?}")
        };
        assert_eq!((before.key.as_str(), after.key.as_str()), ("before", "after"));
    }
}

#[test]
fn events_are_known_by_their_names_with_and_without_the_prefix() {
    for (name, expected) in [
        ("ObjectCreated:Put", Notice::Upload(upload("k"))),
        ("s3:ObjectCreated:CompleteMultipartUpload", Notice::Upload(upload("k"))),
        ("ObjectCreated:SomethingNew", Notice::Upload(upload("k"))),
        ("ObjectRemoved:Delete", removal("k", Some("v1"))),
        ("s3:ObjectRemoved:DeleteMarkerCreated", removal("k", Some("v1"))),
        ("LifecycleExpiration:Delete", removal("k", Some("v1"))),
        ("ObjectLifecycle:Expiration:Current", removal("k", Some("v1"))),
        ("ObjectTagging:Put", Notice::Nothing),
        ("ObjectAcl:Put", Notice::Nothing),
        ("s3:ObjectAccessed:Get", Notice::Nothing),
        ("ObjectRestore:Completed", Notice::Nothing),
        ("s3:TestEvent", Notice::Test),
    ] {
        assert_eq!(one(Form::S3, &body(&[record(name, "k")])), expected, "{name}");
    }
    for name in ["", "ObjectCreatedX", "s3:s3:ObjectCreated:Put", "Made:Up", "objectcreated:put"] {
        assert!(matches!(one(Form::S3, &body(&[record(name, "k")])), Notice::Unknown(_)), "{name}");
    }
}

#[test]
fn a_version_that_every_write_replaces_means_the_latest() {
    for version in ["\"\"", "\"null\"", "null", "7"] {
        let body = String::from_utf8(body(&[record("ObjectCreated:Put", "k")])).unwrap();
        let body = body.replace("\"v1\"", version);
        let Notice::Upload(upload) = one(Form::Minio, body.as_bytes()) else { panic!("{version}") };
        assert_eq!(upload.version, None, "{version}");
    }
}

#[test]
fn a_test_event_of_aws_is_one() {
    let body = br#"{"Service":"Amazon S3","Event":"s3:TestEvent","Time":"2014-10-13T15:57:02.089Z","Bucket":"photos","RequestId":"5582815E1AEA5ADF","HostId":"8cLeGAmw098X5cv4Zkwcmo8vvZa3eH3eKxsPzbB9wrR+YstdA6Knx4Ip8EXAMPLE"}"#;
    assert_eq!(one(Form::S3, body), Notice::Test);
}

#[test]
fn what_minio_posts_is_read() {
    let body = br#"{"EventName":"s3:ObjectCreated:Put","Key":"photos/users/7/cat.jpg","Records":[{"eventVersion":"2.0","eventSource":"minio:s3","awsRegion":"","eventTime":"2024-05-18T07:34:32.000Z","eventName":"s3:ObjectCreated:Put","userIdentity":{"principalId":"minio"},"requestParameters":{"principalId":"minio","region":"","sourceIPAddress":"172.18.0.1"},"responseElements":{"x-amz-request-id":"159FB6B233B08AF0","x-minio-deployment-id":"cd7a0eb7","x-minio-origin-endpoint":"http://172.18.0.6:9000"},"s3":{"s3SchemaVersion":"1.0","configurationId":"Config","bucket":{"name":"photos","ownerIdentity":{"principalId":"minio"},"arn":"arn:aws:s3:::photos"},"object":{"key":"users%2F7%2Fcat.jpg","size":2050,"eTag":"b7ce786cd89b182bfd5ae765557bbc37","contentType":"image/jpeg","userMetadata":{"content-type":"image/jpeg"},"sequencer":"159FB6B2345E7C0F"}},"source":{"host":"172.18.0.1","port":"","userAgent":"MinIO (linux; amd64)"}}]}"#;
    let expected = Upload {
        version: None,
        size_bytes: Some(2050),
        etag: "b7ce786cd89b182bfd5ae765557bbc37".into(),
        sequencer: "159FB6B2345E7C0F".into(),
        ..upload("users/7/cat.jpg")
    };
    assert_eq!(one(Form::Minio, body), Notice::Upload(expected));
}

#[test]
fn what_ceph_posts_is_read_with_either_spelling_of_the_etag() {
    for etag in ["eTag", "etag"] {
        let body = format!(
            r#"{{"Records":[{{"eventVersion":"2.2","eventSource":"ceph:s3","awsRegion":"zonegroup1","eventTime":"2019-11-22T13:47:35.124724Z","eventName":"ObjectCreated:Put","userIdentity":{{"principalId":"tester"}},"requestParameters":{{"sourceIPAddress":""}},"responseElements":{{"x-amz-request-id":"503a4c37","x-amz-id-2":"14d2-zone1"}},"s3":{{"s3SchemaVersion":"1.0","configurationId":"mynotif1","bucket":{{"name":"photos","ownerIdentity":{{"principalId":"tester"}},"arn":"arn:aws:s3:zonegroup1::photos","id":"503a4c37.332"}},"object":{{"key":"users/100% + more.jpg","size":1024,"{etag}":"37b51d194a7513e45b56f6524f2d51f2","versionId":"","sequencer":"F7E6D75DC742D108","metadata":[],"tags":[]}}}},"eventId":"1575221657.102001.80dc","opaqueData":"me@example.com"}}]}}"#
        );
        let Notice::Upload(upload) = one(Form::Ceph, body.as_bytes()) else { panic!() };
        assert_eq!((upload.key.as_str(), upload.version), ("users/100% + more.jpg", None));
        assert_eq!(upload.etag, "37b51d194a7513e45b56f6524f2d51f2");
    }
}

#[test]
fn what_eventbridge_delivers_is_read_and_its_key_is_not_encoded() {
    let event = |kind: &str| {
        format!(
            r#"{{"version":"0","id":"17793124-05d4-b198-2fde-7ededc63b103","detail-type":"{kind}","source":"aws.s3","account":"111122223333","time":"2021-11-12T00:00:00Z","region":"ca-central-1","resources":["arn:aws:s3:::photos"],"detail":{{"version":"0","bucket":{{"name":"photos"}},"object":{{"key":"users/a+b%20c","size":1024,"etag":"d41d8cd98f00b204e9800998ecf8427e","version-id":"v1","sequencer":"0055AED6DCD90281E5"}},"request-id":"N4N7GDK58NMKJ12R","requester":"123456789012","source-ip-address":"1.2.3.4","reason":"PutObject"}}}}"#
        )
    };
    let key = "users/a+b%20c";
    assert_eq!(one(Form::EventBridge, event("Object Created").as_bytes()), Notice::Upload(upload(key)));
    assert_eq!(one(Form::EventBridge, event("Object Deleted").as_bytes()), removal(key, Some("v1")));
    assert_eq!(one(Form::EventBridge, event("Object Tags Added").as_bytes()), Notice::Nothing);
    assert!(matches!(one(Form::EventBridge, event("Object Sung").as_bytes()), Notice::Unknown(_)));
    let other = event("Object Created").replace("aws.s3", "aws.ec2");
    assert!(matches!(one(Form::EventBridge, other.as_bytes()), Notice::Unknown(_)));
}

fn weed(key: &str, message: &str) -> Vec<u8> {
    format!(r#"{{"event_type":"create","key":"{key}","message":{message}}}"#).into_bytes()
}

const FILE: &str = r#"{"name":"cat.jpg","chunks":[{"file_id":"3,01637037d6","size":9}],"attributes":{"file_size":1024,"mtime":1764000000,"file_mode":432,"md5":"1B2M2Y8AsgTpgAmY7PhCfg=="}}"#;

fn weed_upload(key: &str, version: Option<&str>) -> Notice {
    let hints = Upload { etag: String::new(), sequencer: String::new(), ..upload(key) };
    Notice::Upload(Upload { version: version.map(Into::into), ..hints })
}

#[test]
fn what_seaweedfs_posts_is_read() {
    let path = "/buckets/photos/users/a+b%20/cat.jpg";
    let key = "users/a+b%20/cat.jpg";
    let new = format!(r#"{{"new_entry":{FILE},"new_parent_path":"/buckets/photos/users/a+b%20"}}"#);
    assert_eq!(one(Form::SeaweedFs, &weed(path, &new)), weed_upload(key, None));
    let updated = format!(r#"{{"old_entry":{FILE},"new_entry":{FILE},"delete_chunks":true}}"#);
    assert_eq!(one(Form::SeaweedFs, &weed(path, &updated)), weed_upload(key, None));
    let gone = format!(r#"{{"old_entry":{FILE},"delete_chunks":true}}"#);
    assert_eq!(one(Form::SeaweedFs, &weed(path, &gone)), removal(key, None));
    let moved =
        format!(r#"{{"old_entry":{FILE},"new_entry":{FILE},"new_parent_path":"/buckets/photos/kept"}}"#);
    assert_eq!(
        parse(Form::SeaweedFs, &weed(path, &moved)).unwrap(),
        [removal(key, None), weed_upload("kept/cat.jpg", None)]
    );
    assert!(matches!(one(Form::SeaweedFs, &weed(path, "{}")), Notice::Unknown(_)));
}

#[test]
fn what_a_seaweedfs_4_48_really_posted_is_read() {
    let posted: Vec<serde_json::Value> =
        serde_json::from_str(include_str!("testdata/seaweedfs.json")).unwrap();
    let notices: Vec<Notice> =
        posted.iter().map(|body| one(Form::SeaweedFs, body.to_string().as_bytes())).collect();
    let sized = |size, notice| match notice {
        Notice::Upload(upload) => Notice::Upload(Upload { size_bytes: Some(size), ..upload }),
        other @ (Notice::Removal(_) | Notice::Test | Notice::Nothing | Notice::Unknown(_)) => other,
    };
    let version = sized(6, weed_upload("users/v.jpg", Some("671406724e5565d2bd04c77ce0b018eb")));
    let expected = [
        Notice::Nothing,
        Notice::Nothing,
        Notice::Nothing,
        sized(5, weed_upload("users/a b+c.jpg", None)),
        version.clone(),
        removal("users/v.jpg", None),
        version,
    ];
    assert_eq!(notices, expected);
}

#[test]
fn entries_of_seaweedfs_that_are_no_objects_are_nothing() {
    let file = format!(r#"{{"new_entry":{FILE}}}"#);
    for path in [
        "/etc/seaweedfs/filer.conf",
        "/buckets/photos",
        "/buckets/.system/owners/.complete",
        "/buckets/photos/.uploads/4f2a/0001.part",
    ] {
        assert_eq!(one(Form::SeaweedFs, &weed(path, &file)), Notice::Nothing, "{path}");
    }
    let folder = r#"{"new_entry":{"name":"users","is_directory":true,"attributes":{}}}"#;
    assert_eq!(one(Form::SeaweedFs, &weed("/buckets/photos/users", folder)), Notice::Nothing);
}

#[test]
fn versions_of_seaweedfs_are_named_by_their_attribute() {
    let entry = |extended: &str| {
        format!(
            r#"{{"new_entry":{{"name":"v_abc","attributes":{{"file_size":1024}},"extended":{extended}}}}}"#
        )
    };
    let path = "/buckets/photos/users/cat.jpg.versions/v_abc";
    let version = entry(r#"{"Seaweed-X-Amz-Version-Id":"YWJj"}"#);
    assert_eq!(one(Form::SeaweedFs, &weed(path, &version)), weed_upload("users/cat.jpg", Some("abc")));
    let marker = entry(r#"{"Seaweed-X-Amz-Version-Id":"YWJj","Seaweed-X-Amz-Delete-Marker":"dHJ1ZQ=="}"#);
    assert_eq!(one(Form::SeaweedFs, &weed(path, &marker)), removal("users/cat.jpg", None));
    // Somebody's own folder with such a name holds objects.
    let own = entry("null");
    assert_eq!(one(Form::SeaweedFs, &weed(path, &own)), weed_upload("users/cat.jpg.versions/v_abc", None));
}

#[test]
fn ten_thousand_records_are_read_and_one_more_is_too_many() {
    let mut records: Vec<String> =
        (0..MAX_RECORDS).map(|n| record("ObjectCreated:Put", &format!("users/{n:05}"))).collect();
    let notices = parse(Form::S3, &body(&records)).unwrap();
    assert_eq!(notices.len(), MAX_RECORDS);
    assert_eq!(notices[MAX_RECORDS - 1], Notice::Upload(upload("users/09999")));
    records.push(record("ObjectCreated:Put", "users/10000"));
    assert_eq!(parse(Form::S3, &body(&records)), Err(Malformed::TooMany));
    let tiny = format!("{{\"Records\":[{}{{}}]}}", "{},".repeat(1_000_000));
    assert_eq!(parse(Form::S3, tiny.as_bytes()), Err(Malformed::TooMany));
}

#[test]
fn bounds_hold_for_every_form() {
    let forms = [Form::S3, Form::Sns, Form::EventBridge, Form::Minio, Form::Ceph, Form::SeaweedFs];
    let deep = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
    let quoted = format!("{{\"x\":\"{}\",\"y\":{}}}", "[\\\"".repeat(1000), deep(MAX_DEPTH - 1));
    for form in forms {
        assert_eq!(parse(form, &vec![b' '; MAX_BODY_BYTES + 1]), Err(Malformed::TooLarge));
        assert_eq!(parse(form, &vec![b' '; MAX_BODY_BYTES]), Err(Malformed::NotTheForm));
        assert_eq!(parse(form, b"{\"Records\":[{\"eventName\":\"\xff\"}]}"), Err(Malformed::NotUtf8));
        for levels in [MAX_DEPTH + 1, 10_000, 5_000_000] {
            assert_eq!(parse(form, deep(levels).as_bytes()), Err(Malformed::TooDeep));
        }
        assert_eq!(
            parse(form, quoted.as_bytes()),
            Err(Malformed::NotTheForm),
            "brackets in a text do not nest"
        );
        for text in [
            "",
            "null",
            "1",
            "\"Records\"",
            "[]",
            "{}",
            "{\"Records\":null}",
            "{\"Records\":{}}",
            "{\"Records\":[1]}",
        ] {
            assert_eq!(parse(form, text.as_bytes()), Err(Malformed::NotTheForm), "{form:?} {text}");
        }
    }
    assert_eq!(parse(Form::S3, b"{\"Records\":[]}"), Ok(Vec::new()));
    assert_eq!(parse(Form::S3, b"{\"Records\":[],\"Records\":[]}"), Err(Malformed::NotTheForm));
    assert_eq!(parse(Form::S3, b"{\"Records\":[]} trailing"), Err(Malformed::NotTheForm));
}

#[test]
fn a_value_of_a_wrong_type_costs_its_own_record_only() {
    for wrong in ["7", "-1", "1.5", "true", "null", "[[1],{}]", "{\"a\":{\"b\":[]}}"] {
        let odd = record("ObjectCreated:Put", "k").replace("\"k\"", wrong);
        let notices = parse(Form::S3, &body(&[odd, record("ObjectCreated:Put", "good")])).unwrap();
        assert!(
            matches!(notices.as_slice(), [Notice::Unknown(_), Notice::Upload(_)]),
            "{wrong}: {notices:?}"
        );
    }
    for wrong in ["\"1024\"", "-1", "1e99", "18446744073709551616", "[]"] {
        let odd = record("ObjectCreated:Put", "k").replace("1024", wrong);
        let Notice::Upload(upload) = one(Form::S3, &body(&[odd])) else { panic!("{wrong}") };
        assert_eq!(upload.size_bytes, None, "{wrong}");
    }
}

proptest! {
    #[test]
    fn any_key_that_is_encoded_comes_back(key in "\\PC{1,40}|[\\x00-\\x7f]{1,40}", slashes: bool) {
        let encoded: String = key
            .bytes()
            .map(|byte| match byte {
                b' ' => "+".to_owned(),
                b'/' if slashes => "/".to_owned(),
                byte if byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) => char::from(byte).to_string(),
                byte => format!("%{byte:02X}"),
            })
            .collect();
        prop_assert_eq!(one(Form::S3, &body(&[record("ObjectCreated:Put", &encoded)])), Notice::Upload(upload(&key)));
    }

    #[test]
    fn any_bytes_give_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        for form in [Form::S3, Form::EventBridge, Form::Ceph, Form::SeaweedFs] {
            drop(parse(form, &bytes));
        }
    }

    #[test]
    fn a_body_cut_or_damaged_anywhere_gives_an_answer(at in 0_usize..900, byte: u8, cut: bool) {
        let mut bytes = body(&[record("ObjectCreated:Put", "users%2Fa"), record("ObjectRemoved:Delete", "b")]);
        let at = at % bytes.len();
        if cut {
            bytes.truncate(at);
            prop_assert!(parse(Form::S3, &bytes).is_err());
        } else {
            bytes[at] = byte;
            if let Ok(notices) = parse(Form::S3, &bytes) {
                prop_assert!(notices.len() <= 2);
            }
        }
    }
}
