//! From a body of a known source to durable tasks: the same whatever brought the body.
//!
//! Everything or nothing is taken: one object of a bucket that the source may not name refuses the body before anything is stored, and
//! while a single task is not durable the answer is "send it again". What is not understood goes to quarantine and is taken. Must not
//! know HTTP or brokers.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use backhaul_proto::v1 as pb;
use backhaul_runtime::{
    locations::{Locations, Refusal},
    metrics::Label as _,
};
use tracing::{debug, warn};

use super::{
    parse::{Notice, Removal, Upload, parse},
    quarantine::{Oddity, Quarantine},
    removals::{Note, Removals},
    sources::EventSource,
};
use crate::{
    audit::{self, Audit},
    grpc::{
        present,
        status::ApiError,
        validate::submit::{MAX_SIZE_HINT_BYTES, SubmitDefaults, SubmitRules},
    },
    metrics::{EventKind, Metrics},
    queue::{NewTask, ObjectRef, QueueError, TaskQueue, UnixMs},
    rules::{LABEL, LiveRules, Rules},
};

/// Tasks that are handed to the queue at a time.
const BATCH: usize = 1000;
/// Label of every task that an event asked for: the source's name.
const SOURCE_LABEL: &str = "event-source";
/// Longest key or version that is noted.
const LONGEST_NAME: usize = 1024;
const TOO_LONG: &str = "a name is longer than names can be";

/// Takes bodies.
#[derive(Debug)]
pub struct Intake {
    /// Where tasks are kept.
    pub queue: Arc<dyn TaskQueue>,
    /// Who may name what.
    pub locations: Arc<Locations>,
    /// What a task is like that nobody said more about.
    pub defaults: SubmitDefaults,
    /// What operators say about objects.
    pub rules: LiveRules,
    /// What is not understood.
    pub quarantine: Arc<dyn Quarantine>,
    /// What was removed.
    pub removals: Arc<dyn Removals>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What is recorded.
    pub audit: Audit,
}

/// What became of a body's notices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taken {
    /// Objects whose task is durable, each counted once.
    pub uploads: usize,
    /// Uploads that the same body told of before.
    pub repeated: usize,
    /// Removals that were noted.
    pub removals: usize,
    /// Questions whether somebody listens.
    pub tests: usize,
    /// Nothing to back up.
    pub nothing: usize,
    /// Objects outside of what the location allows the tenant.
    pub out_of_scope: usize,
    /// Not understood.
    pub unknown: usize,
}

/// Why a body was not taken. Nothing may be assumed of its tasks.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    /// It names a bucket that the source may not name. Nothing was stored.
    #[error("the source may not tell of a bucket that the body names")]
    ForeignBucket,
    /// Not everything is durable. To be sent again.
    #[error("not everything is durable yet")]
    Unavailable(#[from] QueueError),
}

/// The notices of a body by what is to be done.
#[derive(Default)]
struct Sorted {
    tasks: Vec<NewTask>,
    removals: Vec<Note>,
    counts: Taken,
    /// Of the first that is not understood.
    reason: Option<&'static str>,
}

impl Intake {
    /// Takes a body. Returns when all of it is durable.
    ///
    /// # Errors
    /// [`NotTaken`].
    pub async fn take(&self, source: &EventSource, body: &[u8]) -> Result<Taken, NotTaken> {
        let notices = match parse(source.form, body) {
            Ok(notices) => notices,
            Err(malformed) => return self.set_aside(source, &malformed.to_string(), body).await,
        };
        let Sorted { mut tasks, removals, mut counts, mut reason } = self.sort(source, notices)?;
        while !tasks.is_empty() {
            let rest = tasks.split_off(tasks.len().min(BATCH));
            for answer in self.queue.submit(std::mem::replace(&mut tasks, rest)).await {
                match answer {
                    Ok(_) => {}
                    // A person has to look, and until then the event must not hold up its source.
                    Err(QueueError::Corrupt { .. }) => {
                        counts.uploads -= 1;
                        counts.unknown += 1;
                        reason.get_or_insert("the stored record of one of its tasks is damaged");
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
        if let Some(reason) = reason {
            self.keep(source, reason, body).await?;
        }
        if !removals.is_empty() {
            self.removals.note(&removals).await?;
        }
        for Note { location, bucket, key, version, .. } in &removals {
            debug!(source = %source.name, location, bucket, key, version, "removed at its origin; backups stay");
        }
        self.count(source, counts);
        Ok(counts)
    }

    /// Takes a body that cannot be used, for a person to look at.
    ///
    /// # Errors
    /// [`NotTaken::Unavailable`].
    pub async fn set_aside(
        &self,
        source: &EventSource,
        reason: &str,
        body: &[u8],
    ) -> Result<Taken, NotTaken> {
        self.keep(source, reason, body).await?;
        let counts = Taken { unknown: 1, ..Taken::default() };
        self.count(source, counts);
        Ok(counts)
    }

    async fn keep(&self, source: &EventSource, reason: &str, body: &[u8]) -> Result<(), QueueError> {
        let oddity = Oddity::new(source, reason, body);
        let digest = oddity.digest.clone();
        if self.quarantine.keep(oddity).await? {
            warn!(source = %source.name, reason, digest, bytes = body.len(), "an event is not understood; its body is in quarantine");
        }
        Ok(())
    }

    fn sort(&self, source: &EventSource, notices: Vec<Notice>) -> Result<Sorted, NotTaken> {
        let said = self.rules.now();
        let rules = SubmitRules {
            tenant: &source.tenant,
            locations: &self.locations,
            defaults: self.defaults,
            // An event never says when to start.
            now: UnixMs(0),
            traceparent: None,
            rules: &said,
        };
        let mut sorted = Sorted::default();
        let mut seen: HashSet<ObjectRef> = HashSet::new();
        let Taken { uploads, repeated, removals: removed, tests, nothing, out_of_scope, unknown } =
            &mut sorted.counts;
        for notice in notices {
            let odd = match notice {
                Notice::Upload(Upload { bucket, .. }) | Notice::Removal(Removal { bucket, .. })
                    if !source.may_name(&bucket) =>
                {
                    return Err(NotTaken::ForeignBucket);
                }
                Notice::Upload(upload) => match rules.check(request(source, upload, &said)) {
                    Ok(task) if seen.insert(task.spec.object.clone()) => {
                        *uploads += 1;
                        sorted.tasks.push(task);
                        None
                    }
                    Ok(_) => {
                        *repeated += 1;
                        None
                    }
                    Err(ApiError::Refused { refusal: Refusal::Key, .. }) => {
                        *out_of_scope += 1;
                        None
                    }
                    Err(ApiError::Refused { refusal: Refusal::Bucket | Refusal::Location, .. }) => {
                        return Err(NotTaken::ForeignBucket);
                    }
                    Err(_) => Some(TOO_LONG),
                },
                Notice::Removal(removal) => {
                    let Removal { bucket, key, version } = removal;
                    let longest = key.len().max(version.as_ref().map_or(0, String::len));
                    match self.locations.authorize(&source.tenant, &source.location, &bucket, &key) {
                        Ok(_) if longest > LONGEST_NAME => {
                            *unknown += 1;
                            sorted.reason.get_or_insert(TOO_LONG);
                        }
                        Ok(_) => {
                            *removed += 1;
                            let (source, location) = (source.name.clone(), source.location.clone());
                            sorted.removals.push(Note { source, location, bucket, key, version });
                        }
                        Err(Refusal::Key) => *out_of_scope += 1,
                        Err(Refusal::Bucket | Refusal::Location) => return Err(NotTaken::ForeignBucket),
                    }
                    None
                }
                Notice::Test => {
                    *tests += 1;
                    None
                }
                Notice::Nothing => {
                    *nothing += 1;
                    None
                }
                Notice::Unknown(reason) => Some(reason),
            };
            if let Some(reason) = odd {
                *unknown += 1;
                sorted.reason.get_or_insert(reason);
            }
        }
        Ok(sorted)
    }

    fn count(&self, source: &EventSource, counts: Taken) {
        let Taken { uploads, repeated, removals, tests, nothing, out_of_scope, unknown } = counts;
        for (kind, count) in [
            (EventKind::Upload, uploads),
            (EventKind::Repeated, repeated),
            (EventKind::Removal, removals),
            (EventKind::Test, tests),
            (EventKind::Nothing, nothing),
            (EventKind::OutOfScope, out_of_scope),
            (EventKind::Unknown, unknown),
        ] {
            self.metrics.events(source.form.into(), kind, count as u64);
            if count > 0 {
                audit::number(kind.as_str(), count);
            }
        }
    }
}

/// What an internal service would have sent, so that both come under the same rules.
fn request(source: &EventSource, upload: Upload, rules: &Rules) -> pb::SubmitBackupRequest {
    let Upload { bucket, key, version, size_bytes, etag: _, sequencer: _ } = upload;
    let rule = rules.of_object(&source.tenant, &source.location, &bucket, &key);
    let mut labels = HashMap::from([(SOURCE_LABEL.to_owned(), source.name.clone())]);
    labels.extend(rule.map(|rule| (LABEL.to_owned(), rule.name.clone())));
    pb::SubmitBackupRequest {
        object: Some(pb::ObjectRef {
            location: source.location.clone(),
            bucket,
            key,
            version: version.unwrap_or_default(),
        }),
        options: Some(pb::SubmitOptions {
            priority: rule.and_then(|rule| rule.priority).map(present::priority).unwrap_or_default().into(),
            verify: rule.and_then(|rule| rule.verify()).map(present::verify).unwrap_or_default().into(),
            labels,
            // A hint that cannot be is none.
            size_hint_bytes: size_bytes.filter(|size| *size <= MAX_SIZE_HINT_BYTES).unwrap_or(0),
            ..pb::SubmitOptions::default()
        }),
    }
}

#[cfg(test)]
mod tests;
