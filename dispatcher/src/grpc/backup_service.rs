//! `BackupService`: what internal services call. Check, ask the queue, present.
//!
//! Every call acts for the tenant that [`super::gate`] put into the request; without one it is refused. A call owns no
//! background work: when its deadline ends it or its caller goes away, the future is dropped and everything it was waiting for
//! with it. All calls may be repeated.

mod retry;
mod stats;
mod watch;

use std::{fmt, pin::Pin, sync::Arc};

use async_trait::async_trait;
use backhaul_proto::v1::{self as pb, backup_service_server::BackupService, submit_backup_result};
use backhaul_runtime::{locations::Locations, trace};
use tokio_stream::Stream;
use tonic::{Request, Response, Status};
use tracing::Span;

pub use super::validate::submit::{
    MAX_ATTEMPTS, MAX_PROCESSING_TIMEOUT, MIN_PROCESSING_TIMEOUT, SubmitDefaults,
};
use super::{
    identity::{Caller, Denied, Principal},
    page_token, present,
    status::ApiError,
    validate::{self, list, submit::SubmitRules},
};
use crate::{
    audit,
    queue::{
        CancelOutcome, LeaseToken, ListQuery, NewTask, QueueClock, QueueError, Submitted, TaskId, TaskQueue,
        TaskRecord,
    },
    rules::{LiveRules, Rules},
    watch::Watches,
};

/// Largest message that a call may carry: a batch of `SubmitBackups`.
pub const MAX_MESSAGE_BYTES: usize = 1024 * 1024;

const MAX_BATCH: usize = 1000;
/// Tasks read from the queue at a time for a page; with [`PAGE_BYTES`] it keeps an answer below the 4 MiB that clients take.
const READ_TASKS: u32 = 100;
/// A page that has reached this many bytes is given as it is, short of its size.
const PAGE_BYTES: usize = 1024 * 1024;
/// Most reads for one page: a filter that hits nothing gives empty pages instead of one endless call.
const MAX_READS: u32 = 16;

/// Stops running copies. The stream side of the dispatcher does it; a copy held by another dispatcher learns of the cancel with
/// its next heartbeat.
pub trait StopCopies: fmt::Debug + Send + Sync + 'static {
    /// Tells the worker behind `session` to stop the copy of `task` under `lease`, if that session is here. Never waits.
    fn stop_copy(&self, session: &str, task: &TaskId, lease: LeaseToken);
}

/// The calls of internal services over a queue.
#[derive(Debug)]
pub struct Backups {
    /// Where tasks are kept.
    pub queue: Arc<dyn TaskQueue>,
    /// Who stops running copies.
    pub copies: Arc<dyn StopCopies>,
    /// Who follows tasks.
    pub watches: Watches,
    /// Who may name what.
    pub locations: Arc<Locations>,
    /// What a submit means where it says nothing.
    pub defaults: SubmitDefaults,
    /// What operators say about objects.
    pub rules: LiveRules,
    /// For the bound of `process_at`, which is in days: the process's own clock is good enough.
    pub clock: QueueClock,
}

#[async_trait]
impl BackupService for Backups {
    type WatchBackupsStream = Pin<Box<dyn Stream<Item = Result<pb::WatchBackupsResponse, Status>> + Send>>;

    async fn submit_backup(
        &self,
        request: Request<pb::SubmitBackupRequest>,
    ) -> Result<Response<pb::SubmitBackupResponse>, Status> {
        let caller = caller(&request)?;
        let traceparent = traceparent(&request);
        let said = self.rules.now();
        let task = self.checks(&caller, &said, traceparent.as_deref()).check(request.into_inner())?;
        let mut answers = self.queue.submit(vec![task]).await;
        let answer = answers.pop().ok_or(ApiError::Bug("the queue gave no answer to a submit"))?;
        Ok(Response::new(present::submitted(answer.map_err(ApiError::from)?)))
    }

    async fn submit_backups(
        &self,
        request: Request<pb::SubmitBackupsRequest>,
    ) -> Result<Response<pb::SubmitBackupsResponse>, Status> {
        let caller = caller(&request)?;
        let traceparent = traceparent(&request);
        let requests = request.into_inner().requests;
        if !(1..=MAX_BATCH).contains(&requests.len()) {
            return Err(validate::invalid("requests", "must be 1 to 1000 requests").into());
        }
        let said = self.rules.now();
        let rules = self.checks(&caller, &said, traceparent.as_deref());
        let checked: Vec<_> = requests.into_iter().map(|r| rules.check(r)).collect();
        let results = self.submit_checked(checked).await.into_iter().map(batch_answer).collect();
        Ok(Response::new(pb::SubmitBackupsResponse { results }))
    }

    async fn get_backup(
        &self,
        request: Request<pb::GetBackupRequest>,
    ) -> Result<Response<pb::Backup>, Status> {
        let caller = caller(&request)?;
        let id = validate::task_id(&request.get_ref().task_id)?;
        audit::about_task(&id);
        Ok(Response::new(present::backup(self.own_task(&caller, &id).await?)?))
    }

    async fn list_backups(
        &self,
        request: Request<pb::ListBackupsRequest>,
    ) -> Result<Response<pb::ListBackupsResponse>, Status> {
        let caller = caller(&request)?;
        let mut query = list::query(caller.tenant(), request.into_inner())?;
        let (mut page, mut bytes) = (pb::ListBackupsResponse::default(), 0);
        page.incomplete = self
            .read_page(&mut query, |record| {
                let backup = present::listed(record);
                bytes += prost::Message::encoded_len(&backup);
                page.backups.push(backup);
                bytes < PAGE_BYTES
            })
            .await?;
        if let Some(next) = &query.cursor {
            page.next_page_token = page_token::encode(&query, next);
        }
        Ok(Response::new(page))
    }

    async fn cancel_backup(
        &self,
        request: Request<pb::CancelBackupRequest>,
    ) -> Result<Response<pb::CancelBackupResponse>, Status> {
        let caller = caller(&request)?;
        let id = validate::task_id(&request.get_ref().task_id)?;
        audit::about_task(&id);
        // The tenant is part of what an id is derived from, so what is checked here cannot change before the cancel.
        self.own_task(&caller, &id).await?;
        match self.queue.cancel(&id).await.map_err(ApiError::from)? {
            CancelOutcome::Cancelled => {}
            CancelOutcome::Stopping { lease, session } => self.copies.stop_copy(&session, &id, lease),
            CancelOutcome::Finished(state) => return Err(ApiError::Finished { task: id, state }.into()),
        }
        let backup = present::backup(self.own_task(&caller, &id).await?)?;
        Ok(Response::new(pb::CancelBackupResponse { backup: Some(backup) }))
    }

    async fn retry_backups(
        &self,
        request: Request<pb::RetryBackupsRequest>,
    ) -> Result<Response<pb::RetryBackupsResponse>, Status> {
        let caller = caller(&request)?;
        let wanted = validate::retry::retry(caller.tenant(), request.into_inner())?;
        Ok(Response::new(self.retry(&caller, wanted).await?))
    }

    async fn get_queue_stats(
        &self,
        request: Request<pb::GetQueueStatsRequest>,
    ) -> Result<Response<pb::GetQueueStatsResponse>, Status> {
        let caller = caller(&request)?;
        let query = stats::query(&caller, request.get_ref())?;
        let stats = self.queue.stats(&query).await.map_err(ApiError::from)?;
        Ok(Response::new(stats::presented(stats)))
    }

    async fn watch_backups(
        &self,
        request: Request<pb::WatchBackupsRequest>,
    ) -> Result<Response<Self::WatchBackupsStream>, Status> {
        let caller = caller(&request)?;
        let principal = request.extensions().get::<Principal>();
        let name = principal.map_or_else(|| caller.tenant().into(), |known| Arc::clone(&known.name));
        let (filter, cursor) = validate::watch::filter(caller.tenant(), request.into_inner())?;
        let watch = self.watches.watch(name, filter, cursor).map_err(ApiError::from)?;
        Ok(Response::new(Box::pin(watch::updates(watch))))
    }
}

impl Backups {
    fn checks<'a>(
        &'a self,
        caller: &'a Caller,
        rules: &'a Rules,
        traceparent: Option<&'a str>,
    ) -> SubmitRules<'a> {
        SubmitRules {
            tenant: caller.tenant(),
            locations: &self.locations,
            defaults: self.defaults,
            now: self.clock.local_now(),
            traceparent,
            rules,
        }
    }

    /// Submits what passed the checks, in one call of the queue, and gives every request its answer at its own place.
    async fn submit_checked(
        &self,
        checked: Vec<Result<NewTask, ApiError>>,
    ) -> Vec<Result<Submitted, ApiError>> {
        let mut places = Vec::with_capacity(checked.len());
        let mut tasks = Vec::with_capacity(checked.len());
        for result in checked {
            places.push(result.map(|task| tasks.push(task)));
        }
        let answers = if tasks.is_empty() { Vec::new() } else { self.queue.submit(tasks).await };
        let mut answers = answers.into_iter();
        places
            .into_iter()
            .map(|place| {
                place?;
                let answer = answers.next().ok_or(ApiError::Bug("the queue gave too few answers"))?;
                Ok(answer?)
            })
            .collect()
    }

    /// Reads on in a listing, until `take` has enough, the page is full or there was enough work for one call. Leaves the query where
    /// the next page starts, and says whether tasks are missing because a part of the queue could not be asked.
    async fn read_page(
        &self,
        query: &mut ListQuery,
        mut take: impl FnMut(TaskRecord) -> bool,
    ) -> Result<bool, ApiError> {
        let page_size = query.limit as usize;
        let (mut taken, mut incomplete, mut from_token) = (0, false, query.cursor.is_some());
        for _ in 0..MAX_READS {
            query.limit = u32::try_from(page_size - taken).unwrap_or(READ_TASKS).min(READ_TASKS);
            let read = match self.queue.list(query).await {
                Ok(read) => read,
                // The digest of a token can be computed by anybody; the queue has the last word on what it says.
                Err(QueueError::Rejected(_)) if from_token => {
                    return Err(validate::invalid("page_token", "must be the token of the previous page"));
                }
                Err(error) => return Err(error.into()),
            };
            from_token = false;
            let mut goes_on = true;
            for record in read.tasks {
                taken += 1;
                goes_on &= take(record);
            }
            incomplete |= read.incomplete;
            query.cursor = read.next;
            if query.cursor.is_none() || taken >= page_size || !goes_on {
                break;
            }
        }
        Ok(incomplete)
    }

    /// Reads a task of the caller's tenant. Another tenant's is answered exactly as one that does not exist.
    async fn own_task(&self, caller: &Caller, id: &TaskId) -> Result<TaskRecord, ApiError> {
        match self.queue.get(id).await {
            Ok(record) if record.spec.tenant == caller.tenant() => Ok(record),
            Ok(record) => {
                audit::foreign(&id.to_string(), &record.spec.tenant);
                Err(ApiError::NoSuchTask(id.to_string()))
            }
            Err(QueueError::NotFound(_)) => Err(ApiError::NoSuchTask(id.to_string())),
            Err(error) => Err(error.into()),
        }
    }
}

/// Who calls, as the layers found out. A service that is served without them refuses everybody.
pub(crate) fn caller<T>(request: &Request<T>) -> Result<Caller, ApiError> {
    let caller = request.extensions().get::<Caller>().cloned();
    caller.ok_or(ApiError::Denied(Denied::Unidentified("the caller is not identified")))
}

/// The trace that the copy belongs to: this call's, where it is traced, else the caller's as it is.
fn traceparent<T>(request: &Request<T>) -> Option<String> {
    trace::traceparent(&Span::current())
        .or_else(|| request.metadata().get(trace::HEADER)?.to_str().ok().map(str::to_owned))
}

fn batch_answer(answer: Result<Submitted, ApiError>) -> pb::SubmitBackupResult {
    let result = match answer {
        Ok(submitted) => submit_backup_result::Result::Accepted(present::submitted(submitted)),
        Err(error) => submit_backup_result::Result::Error(error.into_submit_error()),
    };
    pb::SubmitBackupResult { result: Some(result) }
}

#[cfg(test)]
mod tests;
