//! Every request that a store can be asked for, once each, for tests of what all of them must have in common.

use futures_util::future::BoxFuture;

use super::{
    Attributes, ByteRange, Completion, ObjectPath, ObjectStore, Operation, PartWritten, Payload, Pin, Proof,
    Put, StoreError, Terms, UploadRef, WriteOptions,
};

/// What is read and written.
pub(super) const AT: ObjectPath<'_> = ObjectPath { bucket: "bucket", key: "a//../key" };
/// What is copied.
pub(super) const FROM: ObjectPath<'_> = ObjectPath { bucket: "source", key: "from" };

/// A request, and how it ended.
pub(super) type Verb<'a> = (Operation, BoxFuture<'a, Result<(), StoreError>>);

/// All of them. None is sent before it is awaited.
pub(super) fn verbs(store: &dyn ObjectStore) -> Vec<Verb<'_>> {
    let upload = UploadRef { at: AT, id: "upload" };
    vec![
        (Operation::Head, Box::pin(async { store.head(AT, &Pin::default()).await.map(drop) })),
        (Operation::Get, Box::pin(async { store.get(AT, &Pin::default(), None).await.map(drop) })),
        (Operation::GetTags, Box::pin(async { store.get_tags(AT, None).await.map(drop) })),
        (Operation::GetAcl, Box::pin(async { store.has_grants(AT, None).await.map(drop) })),
        (Operation::Put, Box::pin(put(store))),
        (Operation::Copy, Box::pin(copy(store))),
        (Operation::CreateUpload, Box::pin(create_upload(store))),
        (
            Operation::UploadPart,
            Box::pin(async move {
                let body = Payload::from(bytes::Bytes::from_static(b"part"));
                store.upload_part(upload, 1, &body, Proof::default()).await.map(drop)
            }),
        ),
        (
            Operation::CopyPart,
            Box::pin(async move {
                let range = ByteRange { start: 0, length: 9 };
                store.copy_part(upload, 1, FROM, &Pin::default(), range).await.map(drop)
            }),
        ),
        (Operation::ListUploads, Box::pin(async { store.list_uploads(AT).await.map(drop) })),
        (
            Operation::ListUploads,
            Box::pin(async { store.list_uploads_under(AT.bucket, "a/", None).await.map(drop) }),
        ),
        (
            Operation::ListObjects,
            Box::pin(async { store.list_objects(AT.bucket, "a/", None, 9).await.map(drop) }),
        ),
        (
            Operation::ListVersions,
            Box::pin(async { store.list_versions(AT.bucket, "a/", None, 9).await.map(drop) }),
        ),
        (Operation::ListParts, Box::pin(async move { store.list_parts(upload, 0).await.map(drop) })),
        (
            Operation::CompleteUpload,
            Box::pin(async move {
                let part = PartWritten { number: 1, etag: "e".into(), crc64nvme: None };
                let whole = Completion { size_bytes: 4, crc64nvme: None, create_only: true };
                store.complete_upload(upload, &[part], whole).await.map(drop)
            }),
        ),
        (Operation::AbortUpload, Box::pin(async move { store.abort_upload(upload).await })),
    ]
}

async fn put(store: &dyn ObjectStore) -> Result<(), StoreError> {
    let (body, attributes) = (Payload::from(bytes::Bytes::from_static(b"whole")), Attributes::default());
    let put = Put {
        body: &body,
        proof: Proof::default(),
        attributes: &attributes,
        tags: &[],
        terms: Terms::default(),
        create_only: true,
    };
    store.put(AT, put).await.map(drop)
}

async fn copy(store: &dyn ObjectStore) -> Result<(), StoreError> {
    let attributes = Attributes::default();
    store.copy(FROM, &Pin::default(), AT, &options(&attributes)).await.map(drop)
}

async fn create_upload(store: &dyn ObjectStore) -> Result<(), StoreError> {
    let attributes = Attributes::default();
    store.create_upload(AT, &options(&attributes)).await.map(drop)
}

fn options(attributes: &Attributes) -> WriteOptions<'_> {
    WriteOptions { attributes, tags: &[], terms: Terms::default(), crc64nvme: true, create_only: true }
}
