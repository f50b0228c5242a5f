//! How a prefix backup looks to callers. Pure; must not show what callers have no use for (claims, cursors).

use backhaul_proto::v1 as pb;

use crate::{
    grpc::present,
    queue::walk::{Counts, FailedObject, Stored, Versions, Walk, WalkSpec, WalkState},
};

/// A prefix backup.
pub(crate) fn presented(stored: Stored) -> pb::PrefixBackup {
    let Stored { id, walk, open, .. } = stored;
    let counts = counts(&walk, open);
    let Walk { spec, state, .. } = walk;
    let options = options(&spec);
    pb::PrefixBackup {
        prefix_backup_id: id.to_string(),
        request_id: spec.request_id,
        prefix: Some(pb::PrefixRef { location: spec.location, bucket: spec.bucket, prefix: spec.prefix }),
        filter: Some(pb::ObjectFilter {
            suffix: spec.filter.suffix,
            min_size_bytes: spec.filter.min_size_bytes,
            max_size_bytes: spec.filter.max_size_bytes,
            modified_since: spec.filter.modified_since.map(present::timestamp),
        }),
        versions: match spec.versions {
            Versions::Current => pb::ObjectVersions::Current,
            Versions::All => pb::ObjectVersions::All,
        }
        .into(),
        options: Some(options),
        state: match state {
            WalkState::Running => pb::PrefixBackupState::Running,
            WalkState::Paused => pb::PrefixBackupState::Paused,
            WalkState::Done => pb::PrefixBackupState::Done,
            WalkState::Failed => pb::PrefixBackupState::Failed,
            WalkState::Cancelled => pb::PrefixBackupState::Cancelled,
        }
        .into(),
        counts: Some(counts),
        listed_all: walk.listed_all,
        waits_for_room: walk.holds && state == WalkState::Running && !walk.listed_all,
        last_failure: walk.last_failure.map(present::failure),
        created_at: Some(present::timestamp(walk.created_at)),
        listed_at: walk.listed_at.map(present::timestamp),
        finished_at: walk.finished_at.map(present::timestamp),
    }
}

/// An object that could not be backed up.
pub(super) fn failed(failed: FailedObject) -> pb::FailedObject {
    pb::FailedObject {
        key: failed.key,
        version: failed.version.unwrap_or_default(),
        task_id: failed.task.map(|task| task.to_string()).unwrap_or_default(),
        failure: Some(present::failure(failed.failure)),
    }
}

fn counts(walk: &Walk, open: u64) -> pb::PrefixBackupCounts {
    let Counts { pages, listed, skipped, backed_up, submitted, rejected, done, died, cancelled } =
        walk.counts;
    pb::PrefixBackupCounts {
        pages,
        listed,
        skipped,
        already_backed_up: backed_up,
        submitted,
        rejected,
        unfinished: open,
        done,
        failed: died + rejected,
        cancelled,
    }
}

fn options(spec: &WalkSpec) -> pb::PrefixBackupOptions {
    pb::PrefixBackupOptions {
        priority: present::priority(spec.priority).into(),
        max_attempts: spec.max_attempts,
        labels: spec.labels.clone().into_iter().collect(),
        verify: spec.verify.map(present::verify).unwrap_or_default().into(),
        processing_timeout: prost_types::Duration::try_from(spec.processing_timeout).ok(),
    }
}
