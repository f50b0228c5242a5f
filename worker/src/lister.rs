//! From a dispatcher's page to the engine's and back. The counterpart of `runner` for listings, which hold no tasks.

use std::sync::Arc;

use async_trait::async_trait;
use backhaul_proto::v1;

use crate::{
    link::PageLister,
    runner::hopeless,
    transfer::{Engine, PageFilter, PageFound, PageRequest},
};

/// Most entries of a page, by the contract.
const MOST_ENTRIES: u32 = 1_000;

/// Lists pages with the engine.
#[derive(Debug)]
pub struct EngineLister(pub Arc<Engine>);

#[async_trait]
impl PageLister for EngineLister {
    async fn list(&self, page: v1::ListPage) -> v1::ListedPage {
        match self.0.list_page(&request(page)).await {
            Ok(found) => listed(found),
            Err(error) => v1::ListedPage { failure: Some(hopeless(&error)), ..v1::ListedPage::default() },
        }
    }
}

fn request(page: v1::ListPage) -> PageRequest {
    let all_versions = page.versions() == v1::ObjectVersions::All;
    let v1::PrefixRef { location, bucket, prefix } = page.prefix.unwrap_or_default();
    let filter = page.filter.unwrap_or_default();
    let seconds = |at: prost_types::Timestamp| (at.seconds, u32::try_from(at.nanos).unwrap_or_default());
    PageRequest {
        location,
        bucket,
        prefix,
        all_versions,
        filter: PageFilter {
            suffix: filter.suffix,
            min_size_bytes: filter.min_size_bytes,
            max_size_bytes: filter.max_size_bytes,
            modified_since: filter.modified_since.map(seconds),
        },
        cursor: page.cursor,
        max_entries: page.max_entries.clamp(1, MOST_ENTRIES),
    }
}

fn listed(found: PageFound) -> v1::ListedPage {
    let PageFound { missing, listed, skipped, backed_up, next } = found;
    let object = |entry: crate::store::ObjectListed| v1::ListedObject {
        key: entry.key,
        version: entry.version.unwrap_or_default(),
        size_bytes: entry.size_bytes,
    };
    v1::ListedPage {
        objects: missing.into_iter().map(object).collect(),
        listed,
        skipped,
        backed_up,
        next_cursor: next,
        ..v1::ListedPage::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_without_anything_is_a_page_of_nowhere_and_never_too_large() {
        let asked = request(v1::ListPage { max_entries: 0, ..v1::ListPage::default() });
        assert_eq!((asked.location.as_str(), asked.max_entries), ("", 1));
        assert_eq!(
            request(v1::ListPage { max_entries: 9_999, ..v1::ListPage::default() }).max_entries,
            1_000
        );
    }
}
