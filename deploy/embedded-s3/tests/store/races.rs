//! Conditional writes that race, and reads that overlap with writes.

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use futures_util::future::join_all;

use crate::support::{Fixture, PLAIN, noise, on_both_storages, refused};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_create_only_writes_exactly_one_wins() {
    on_both_storages(async |store: &Fixture| {
        for round in 0..5 {
            let key = format!("k{round}");
            let puts = (0..32).map(|writer| {
                let put = store.client.put_object().bucket(PLAIN).key(&key).if_none_match("*");
                put.body(ByteStream::from(vec![writer; 1000 * usize::from(writer)])).send()
            });
            let outcomes = join_all(puts).await;
            let winners: Vec<usize> = (0..32).filter(|writer| outcomes[*writer].is_ok()).collect();
            assert_eq!(winners.len(), 1, "{winners:?}");
            for outcome in outcomes.into_iter().filter(Result::is_err) {
                assert_eq!(refused(outcome), (412, "PreconditionFailed".into()));
            }
            let winner = winners[0];
            let body = vec![u8::try_from(winner).expect("a writer"); 1000 * winner];
            assert_eq!(store.get(PLAIN, &key).await, body);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_swaps_of_one_version_exactly_one_wins() {
    on_both_storages(async |store: &Fixture| {
        let etag = store.put(PLAIN, "k", "start").await;
        let puts = (0..16_u8).map(|writer| {
            let put = store.client.put_object().bucket(PLAIN).key("k").if_match(&etag);
            put.body(ByteStream::from(vec![writer; 10])).send()
        });
        let won = join_all(puts).await.iter().filter(|outcome| outcome.is_ok()).count();
        assert_eq!(won, 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn puts_and_completions_of_one_key_race_fairly() {
    on_both_storages(async |store: &Fixture| {
        let mut uploads = Vec::new();
        for writer in 0..8_u8 {
            let create =
                store.client.create_multipart_upload().bucket(PLAIN).key("k").send().await.expect("create");
            let id = create.upload_id.expect("an id");
            let part = store.client.upload_part().bucket(PLAIN).key("k").upload_id(&id).part_number(1);
            let part = part.body(ByteStream::from(vec![writer; 10])).send().await.expect("part");
            let part = CompletedPart::builder()
                .part_number(1)
                .set_e_tag(part.e_tag)
                .set_checksum_crc32(part.checksum_crc32);
            uploads.push((id, CompletedMultipartUpload::builder().parts(part.build()).build()));
        }
        let completions = uploads.into_iter().map(async |(id, parts)| {
            let complete = store.client.complete_multipart_upload().bucket(PLAIN).key("k").upload_id(id);
            complete.multipart_upload(parts).if_none_match("*").send().await.is_ok()
        });
        let puts = (0..8).map(async |_| {
            let put = store.client.put_object().bucket(PLAIN).key("k").if_none_match("*");
            put.body(ByteStream::from_static(b"put")).send().await.is_ok()
        });
        let (completed, put) = tokio::join!(join_all(completions), join_all(puts));
        assert_eq!(completed.into_iter().chain(put).filter(|won| *won).count(), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_gets_one_version_to_its_end_while_it_is_overwritten() {
    on_both_storages(async |store: &Fixture| {
        let old = noise(8_000_000);
        store.put(PLAIN, "k", old.clone()).await;
        let mut get = store.client.get_object().bucket(PLAIN).key("k").send().await.expect("get");
        let first = get.body.next().await.expect("a chunk").expect("bytes");
        store.put(PLAIN, "k", "new").await;
        store.client.delete_object().bucket(PLAIN).key("k").send().await.expect("delete");
        let mut body = first.to_vec();
        while let Some(chunk) = get.body.next().await {
            body.extend_from_slice(&chunk.expect("bytes"));
        }
        assert_eq!(body, old);
    })
    .await;
}
