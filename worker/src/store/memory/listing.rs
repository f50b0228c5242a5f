//! Listings of the store in memory: in the order of keys, of each key the newest version first.

use super::{Kind, MemoryStore, ObjectsPage, Operation, StoreError, VersionMarker, VersionsPage};
use crate::store::ObjectListed;

impl MemoryStore {
    pub(super) fn objects_page(
        &self,
        bucket: &str,
        prefix: &str,
        after: Option<&str>,
        most: u32,
    ) -> Result<ObjectsPage, StoreError> {
        let versions = self.listing(Operation::ListObjects, bucket, prefix)?;
        let latest = versions.into_iter().filter(|v| v.is_latest && after.is_none_or(|a| v.key.as_str() > a));
        let mut objects: Vec<ObjectListed> = latest.map(|v| ObjectListed { version: None, ..v }).collect();
        let size = self.options.page.min(most as usize);
        let more = objects.len() > size;
        objects.truncate(size);
        let next = objects.last().filter(|_| more).map(|o| o.key.clone());
        Ok(ObjectsPage { objects, next })
    }

    pub(super) fn versions_page(
        &self,
        bucket: &str,
        prefix: &str,
        after: Option<&VersionMarker>,
        most: u32,
    ) -> Result<VersionsPage, StoreError> {
        let mut versions = self.listing(Operation::ListVersions, bucket, prefix)?;
        if let Some(after) = after {
            let at = versions.iter().position(|v| v.key == after.key && v.version == after.version);
            let behind = versions.iter().position(|v| v.key > after.key).unwrap_or(versions.len());
            versions.drain(..at.map_or(behind, |at| at + 1));
        }
        let size = self.options.page.min(most as usize);
        let more = versions.len() > size;
        versions.truncate(size);
        let marker = |v: &ObjectListed| VersionMarker { key: v.key.clone(), version: v.version.clone() };
        let next = versions.last().filter(|_| more).map(marker);
        Ok(VersionsPage { versions, next })
    }

    /// All versions below a prefix, of each key the newest first.
    fn listing(
        &self,
        operation: Operation,
        bucket: &str,
        prefix: &str,
    ) -> Result<Vec<ObjectListed>, StoreError> {
        let state = self.state();
        let Some(objects) = state.buckets.get(bucket) else {
            return Err(StoreError::new(operation, Kind::NoSuchBucket, bucket));
        };
        let mut all = Vec::new();
        for (key, versions) in objects.iter().filter(|(key, _)| key.starts_with(prefix)) {
            all.extend(versions.iter().rev().enumerate().map(|(age, stored)| ObjectListed {
                key: key.clone(),
                version: stored.info.version.clone(),
                is_latest: age == 0,
                size_bytes: stored.info.size_bytes,
                etag: stored.info.etag.clone(),
                modified: stored.info.modified,
            }));
        }
        Ok(all)
    }
}
