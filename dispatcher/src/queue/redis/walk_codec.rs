//! Records of walks as they lie in Redis: the revision, a blank, and JSON that an operator can read.
//!
//! There are few walks and each is changed once a page, so bytes do not matter here. Fields may be added; names and words never change
//! their meaning.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::queue::{
    Failure, FailureClass, LeaseToken, Priority, QueueError, TaskId, UnixMs, VerifyLevel,
    walk::{Claim, Counts, FailedObject, Versions, Walk, WalkFilter, WalkId, WalkSpec, WalkState},
};

#[derive(Serialize, Deserialize)]
struct WalkJson {
    tenant: String,
    request_id: String,
    location: String,
    bucket: String,
    prefix: String,
    suffix: String,
    min_size: u64,
    max_size: Option<u64>,
    modified_since_ms: Option<u64>,
    versions: VersionsJson,
    priority: PriorityJson,
    max_attempts: u32,
    labels: BTreeMap<String, String>,
    verify: Option<VerifyJson>,
    processing_timeout_ms: u64,
    state: StateJson,
    cursor: String,
    listed_all: bool,
    holds: bool,
    counts: CountsJson,
    claim: Option<ClaimJson>,
    not_before_ms: u64,
    faults: u32,
    last_failure: Option<FailureJson>,
    created_at_ms: u64,
    listed_at_ms: Option<u64>,
    finished_at_ms: Option<u64>,
}

/// A type of the queue as a type that can be written, word by word.
macro_rules! words {
    ($json:ident = $native:ident { $($variant:ident),* }) => {
        #[derive(Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum $json { $($variant),* }

        impl From<$native> for $json {
            fn from(native: $native) -> Self {
                match native { $($native::$variant => Self::$variant),* }
            }
        }

        impl From<$json> for $native {
            fn from(json: $json) -> Self {
                match json { $($json::$variant => Self::$variant),* }
            }
        }
    };
}

words!(VersionsJson = Versions { Current, All });
words!(PriorityJson = Priority { High, Normal, Low });
words!(VerifyJson = VerifyLevel { Receipt, Head, Readback });
words!(StateJson = WalkState { Running, Paused, Done, Failed, Cancelled });
words!(ClassJson = FailureClass { Retry, Throttled, Permanent, SourceGone });

#[derive(Serialize, Deserialize)]
struct CountsJson {
    pages: u64,
    listed: u64,
    skipped: u64,
    backed_up: u64,
    submitted: u64,
    rejected: u64,
    done: u64,
    died: u64,
    cancelled: u64,
}

#[derive(Serialize, Deserialize)]
struct ClaimJson {
    token: String,
    until_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct FailureJson {
    class: ClassJson,
    code: String,
    message: String,
    retry_after_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct FailedJson {
    key: String,
    version: Option<String>,
    task: Option<String>,
    failure: FailureJson,
}

/// The record of a walk.
pub(super) fn encode(revision: u64, walk: &Walk) -> Result<Vec<u8>, QueueError> {
    let mut record = format!("{revision} ").into_bytes();
    record.extend(json(&WalkJson::from(walk))?);
    Ok(record)
}

/// The walk of a record, and its revision.
pub(super) fn decode(id: &WalkId, record: &[u8]) -> Result<(u64, Walk), QueueError> {
    let blank = record.iter().position(|byte| *byte == b' ').ok_or_else(|| damaged(id, "no revision"))?;
    let revision = std::str::from_utf8(&record[..blank]).ok().and_then(|text| text.parse().ok());
    let revision = revision.ok_or_else(|| damaged(id, "no revision"))?;
    let walk: WalkJson =
        serde_json::from_slice(&record[blank + 1..]).map_err(|_| damaged(id, "not the JSON of a walk"))?;
    let walk = walk.read().ok_or_else(|| damaged(id, "a claim without token"))?;
    Ok((revision, walk))
}

/// A failed object.
pub(super) fn encode_failure(failed: &FailedObject) -> Result<Vec<u8>, QueueError> {
    json(&FailedJson {
        key: failed.key.clone(),
        version: failed.version.clone(),
        task: failed.task.as_ref().map(|task| task.as_str().to_owned()),
        failure: FailureJson::from(&failed.failure),
    })
}

/// The failed object of an entry.
pub(super) fn decode_failure(id: &WalkId, entry: &[u8]) -> Result<FailedObject, QueueError> {
    let failed: FailedJson =
        serde_json::from_slice(entry).map_err(|_| damaged(id, "not the JSON of a failed object"))?;
    Ok(FailedObject {
        key: failed.key,
        version: failed.version,
        task: failed.task.and_then(|task| TaskId::parse(&task).ok()),
        failure: failed.failure.into(),
    })
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, QueueError> {
    serde_json::to_vec(value).map_err(|error| QueueError::Rejected(Box::new(error)))
}

fn damaged(id: &WalkId, what: &'static str) -> QueueError {
    QueueError::Corrupt { task: id.to_string(), what }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl From<&Walk> for WalkJson {
    fn from(walk: &Walk) -> Self {
        let WalkSpec {
            tenant,
            request_id,
            location,
            bucket,
            prefix,
            filter,
            versions,
            priority,
            max_attempts,
            labels,
            verify,
            processing_timeout,
        } = walk.spec.clone();
        Self {
            tenant,
            request_id,
            location,
            bucket,
            prefix,
            suffix: filter.suffix,
            min_size: filter.min_size_bytes,
            max_size: filter.max_size_bytes,
            modified_since_ms: filter.modified_since.map(|at| at.0),
            versions: versions.into(),
            priority: priority.into(),
            max_attempts,
            labels,
            verify: verify.map(Into::into),
            processing_timeout_ms: ms(processing_timeout),
            state: walk.state.into(),
            cursor: walk.cursor.clone(),
            listed_all: walk.listed_all,
            holds: walk.holds,
            counts: walk.counts.into(),
            claim: walk.claim.map(|claim| ClaimJson {
                token: hex::encode(claim.token.as_bytes()),
                until_ms: claim.until.0,
            }),
            not_before_ms: walk.not_before.0,
            faults: walk.faults,
            last_failure: walk.last_failure.as_ref().map(FailureJson::from),
            created_at_ms: walk.created_at.0,
            listed_at_ms: walk.listed_at.map(|at| at.0),
            finished_at_ms: walk.finished_at.map(|at| at.0),
        }
    }
}

impl WalkJson {
    fn read(self) -> Option<Walk> {
        let claim = match self.claim {
            Some(claim) => {
                let token = LeaseToken::from_slice(&hex::decode(claim.token).ok()?)?;
                Some(Claim { token, until: UnixMs(claim.until_ms) })
            }
            None => None,
        };
        let spec = WalkSpec {
            tenant: self.tenant,
            request_id: self.request_id,
            location: self.location,
            bucket: self.bucket,
            prefix: self.prefix,
            filter: WalkFilter {
                suffix: self.suffix,
                min_size_bytes: self.min_size,
                max_size_bytes: self.max_size,
                modified_since: self.modified_since_ms.map(UnixMs),
            },
            versions: self.versions.into(),
            priority: self.priority.into(),
            max_attempts: self.max_attempts,
            labels: self.labels,
            verify: self.verify.map(Into::into),
            processing_timeout: Duration::from_millis(self.processing_timeout_ms),
        };
        Some(Walk {
            spec,
            state: self.state.into(),
            cursor: self.cursor,
            listed_all: self.listed_all,
            holds: self.holds,
            counts: self.counts.into(),
            claim,
            not_before: UnixMs(self.not_before_ms),
            faults: self.faults,
            last_failure: self.last_failure.map(Into::into),
            created_at: UnixMs(self.created_at_ms),
            listed_at: self.listed_at_ms.map(UnixMs),
            finished_at: self.finished_at_ms.map(UnixMs),
        })
    }
}

impl From<Counts> for CountsJson {
    fn from(counts: Counts) -> Self {
        let Counts { pages, listed, skipped, backed_up, submitted, rejected, done, died, cancelled } = counts;
        Self { pages, listed, skipped, backed_up, submitted, rejected, done, died, cancelled }
    }
}

impl From<CountsJson> for Counts {
    fn from(counts: CountsJson) -> Self {
        let CountsJson { pages, listed, skipped, backed_up, submitted, rejected, done, died, cancelled } =
            counts;
        Self { pages, listed, skipped, backed_up, submitted, rejected, done, died, cancelled }
    }
}

impl From<&Failure> for FailureJson {
    fn from(failure: &Failure) -> Self {
        Self {
            class: failure.class.into(),
            code: failure.code.clone(),
            message: failure.message.clone(),
            retry_after_ms: ms(failure.retry_after),
        }
    }
}

impl From<FailureJson> for Failure {
    fn from(failure: FailureJson) -> Self {
        Self {
            class: failure.class.into(),
            code: failure.code,
            message: failure.message,
            retry_after: Duration::from_millis(failure.retry_after_ms),
        }
    }
}
