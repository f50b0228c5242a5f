//! SeaweedFS answers as an S3 store must, and two of them do not meet.

use backhaul_tests::{
    s3::{Credentials, S3},
    weed::WeedServer,
};
use sha2::{Digest as _, Sha256};

/// More than one request of the SDK's client carries at once, and not a round number.
const SIZE_BYTES: usize = 3 * 1024 * 1024 + 17;

#[tokio::test]
async fn two_stores_keep_objects_and_do_not_share_them() {
    let (one, two) = tokio::join!(WeedServer::start(), WeedServer::start());
    let (one, two) = (one.unwrap(), two.unwrap());
    let client = one.client();
    client.create_bucket("kept").await.unwrap();
    client.create_bucket("kept").await.unwrap();

    let written = client.put_random("kept", "a/b c.bin", SIZE_BYTES).await.unwrap();
    assert_eq!(client.sha256("kept", "a/b c.bin").await.unwrap(), written.sha256);
    assert_eq!(
        client.head("kept", "a/b c.bin").await.unwrap().unwrap().content_length(),
        Some(SIZE_BYTES as i64)
    );

    let empty = client.put("kept", "empty", Vec::new().into()).await.unwrap();
    assert_eq!(empty.sha256, <[u8; 32]>::from(Sha256::digest([])));
    assert_eq!(client.keys("kept", "").await.unwrap(), ["a/b c.bin", "empty"]);
    assert_eq!(client.keys("kept", "a/").await.unwrap(), ["a/b c.bin"]);

    client.delete("kept", "empty").await.unwrap();
    client.delete("kept", "empty").await.unwrap();
    assert!(client.head("kept", "empty").await.unwrap().is_none());
    assert!(client.sha256("kept", "empty").await.is_err());

    assert!(two.client().keys("kept", "").await.is_err(), "the other store has no such bucket");
    let stranger = S3::connect(&one.endpoint(), &Credentials::random());
    assert!(stranger.keys("kept", "").await.is_err(), "keys are checked");
}
