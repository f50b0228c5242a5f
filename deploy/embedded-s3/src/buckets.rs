//! Bucket operations: create, delete, head, list, location, versioning and object lock configuration.

use s3s::dto::{
    Bucket, BucketVersioningStatus, CreateBucketInput, CreateBucketOutput, DeleteBucketInput,
    DeleteBucketOutput, GetBucketLocationInput, GetBucketLocationOutput, GetBucketVersioningInput,
    GetBucketVersioningOutput, GetObjectLockConfigurationInput, GetObjectLockConfigurationOutput,
    HeadBucketInput, HeadBucketOutput, ListBucketsInput, ListBucketsOutput, ObjectLockConfiguration,
    ObjectLockEnabled, PutBucketVersioningInput, PutBucketVersioningOutput, PutObjectLockConfigurationInput,
    PutObjectLockConfigurationOutput,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

use crate::index::Record;
use crate::model::{BucketState, Versioning};
use crate::output::owner;
use crate::store::{REGION, Store, bucket_of, now_ms};
use crate::time::timestamp;

pub(crate) fn create(
    store: &Store,
    request: S3Request<CreateBucketInput>,
) -> S3Result<S3Response<CreateBucketOutput>> {
    let input = request.input;
    let object_lock = input.object_lock_enabled_for_bucket.unwrap_or(false);
    store.commit(|index| {
        if index.bucket(&input.bucket).is_some() {
            return Err(s3_error!(
                BucketAlreadyOwnedByYou,
                "Your previous request to create the named bucket succeeded and you already own it."
            ));
        }
        let versioning = if object_lock { Versioning::Enabled } else { Versioning::Off };
        let state = BucketState { created_ms: now_ms(), versioning, object_lock };
        Ok((vec![Record::Bucket { name: input.bucket.clone(), state }], ()))
    })?;
    Ok(S3Response::new(CreateBucketOutput { location: Some(format!("/{}", input.bucket)) }))
}

pub(crate) fn delete(
    store: &Store,
    request: S3Request<DeleteBucketInput>,
) -> S3Result<S3Response<DeleteBucketOutput>> {
    let name = request.input.bucket;
    store.commit(|index| {
        if !bucket_of(index, &name)?.keys.is_empty() {
            return Err(s3_error!(BucketNotEmpty, "The bucket you tried to delete is not empty"));
        }
        Ok((vec![Record::BucketGone { name }], ()))
    })?;
    Ok(S3Response::new(DeleteBucketOutput::default()))
}

pub(crate) fn head(
    store: &Store,
    request: S3Request<HeadBucketInput>,
) -> S3Result<S3Response<HeadBucketOutput>> {
    store.read(|index| bucket_of(index, &request.input.bucket).map(drop))?;
    Ok(S3Response::new(HeadBucketOutput {
        bucket_region: Some(REGION.to_owned()),
        ..HeadBucketOutput::default()
    }))
}

pub(crate) fn list(
    store: &Store,
    request: S3Request<ListBucketsInput>,
) -> S3Result<S3Response<ListBucketsOutput>> {
    const MAX_BUCKETS: usize = 10_000;
    let input = request.input;
    let max = match input.max_buckets {
        None => MAX_BUCKETS,
        Some(max) => usize::try_from(max)
            .ok()
            .filter(|max| (1..=MAX_BUCKETS).contains(max))
            .ok_or_else(|| s3_error!(InvalidArgument, "max-buckets is between 1 and 10000"))?,
    };
    let prefix = input.prefix.clone().unwrap_or_default();
    let after = input.continuation_token.unwrap_or_default();
    store.read(|index| {
        let mut rest =
            index.buckets().filter(|(name, _)| name.starts_with(&prefix) && name.as_str() > after.as_str());
        let page: Vec<Bucket> = rest
            .by_ref()
            .take(max)
            .map(|(name, bucket)| Bucket {
                name: Some(name.clone()),
                creation_date: Some(timestamp(bucket.state.created_ms)),
                bucket_region: None,
            })
            .collect();
        let more = rest.next().is_some();
        Ok(S3Response::new(ListBucketsOutput {
            continuation_token: page.last().filter(|_| more).and_then(|bucket| bucket.name.clone()),
            buckets: Some(page),
            owner: Some(owner()),
            prefix: input.prefix,
        }))
    })
}

pub(crate) fn location(
    store: &Store,
    request: S3Request<GetBucketLocationInput>,
) -> S3Result<S3Response<GetBucketLocationOutput>> {
    store.read(|index| bucket_of(index, &request.input.bucket).map(drop))?;
    // us-east-1 is shown as nothing.
    Ok(S3Response::new(GetBucketLocationOutput { location_constraint: None }))
}

pub(crate) fn versioning(
    store: &Store,
    request: S3Request<GetBucketVersioningInput>,
) -> S3Result<S3Response<GetBucketVersioningOutput>> {
    let status = store
        .read(|index| Ok::<_, s3s::S3Error>(bucket_of(index, &request.input.bucket)?.state.versioning))?;
    let status = match status {
        Versioning::Off => None,
        Versioning::Enabled => Some(BucketVersioningStatus::ENABLED),
        Versioning::Suspended => Some(BucketVersioningStatus::SUSPENDED),
    };
    Ok(S3Response::new(GetBucketVersioningOutput {
        status: status.map(BucketVersioningStatus::from_static),
        ..GetBucketVersioningOutput::default()
    }))
}

pub(crate) fn set_versioning(
    store: &Store,
    request: S3Request<PutBucketVersioningInput>,
) -> S3Result<S3Response<PutBucketVersioningOutput>> {
    let input = request.input;
    let status = input.versioning_configuration.status;
    let versioning = match status.as_ref().map(BucketVersioningStatus::as_str) {
        Some(BucketVersioningStatus::ENABLED) => Versioning::Enabled,
        Some(BucketVersioningStatus::SUSPENDED) => Versioning::Suspended,
        Some(_) | None => return Err(s3_error!(MalformedXML, "Status is Enabled or Suspended")),
    };
    store.commit(|index| {
        let state = BucketState { versioning, ..bucket_of(index, &input.bucket)?.state.clone() };
        if state.object_lock && versioning != Versioning::Enabled {
            return Err(s3_error!(InvalidBucketState, "Object lock needs versioning"));
        }
        Ok((vec![Record::Bucket { name: input.bucket.clone(), state }], ()))
    })?;
    Ok(S3Response::new(PutBucketVersioningOutput::default()))
}

pub(crate) fn object_lock(
    store: &Store,
    request: S3Request<GetObjectLockConfigurationInput>,
) -> S3Result<S3Response<GetObjectLockConfigurationOutput>> {
    let enabled = store
        .read(|index| Ok::<_, s3s::S3Error>(bucket_of(index, &request.input.bucket)?.state.object_lock))?;
    if !enabled {
        return Err(s3_error!(
            ObjectLockConfigurationNotFoundError,
            "Object Lock configuration does not exist for this bucket"
        ));
    }
    let configuration = ObjectLockConfiguration {
        object_lock_enabled: Some(ObjectLockEnabled::from_static(ObjectLockEnabled::ENABLED)),
        rule: None,
    };
    Ok(S3Response::new(GetObjectLockConfigurationOutput { object_lock_configuration: Some(configuration) }))
}

pub(crate) fn enable_object_lock(
    store: &Store,
    request: S3Request<PutObjectLockConfigurationInput>,
) -> S3Result<S3Response<PutObjectLockConfigurationOutput>> {
    let input = request.input;
    let configuration = input.object_lock_configuration.unwrap_or_default();
    if configuration.rule.is_some() {
        return Err(s3_error!(NotImplemented, "a default retention is not supported"));
    }
    store.commit(|index| {
        let state = BucketState { object_lock: true, ..bucket_of(index, &input.bucket)?.state.clone() };
        if state.versioning != Versioning::Enabled {
            return Err(s3_error!(InvalidBucketState, "Versioning must be 'Enabled' on the bucket"));
        }
        Ok((vec![Record::Bucket { name: input.bucket.clone(), state }], ()))
    })?;
    Ok(S3Response::new(PutObjectLockConfigurationOutput::default()))
}
