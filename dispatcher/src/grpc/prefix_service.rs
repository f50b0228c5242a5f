//! `PrefixService`: what internal services ask of backups of prefixes. Check, ask the store of walks, present.
//!
//! As for tasks, the tenant is the caller's and another tenant's prefix backup is answered as one that does not exist. Nothing is listed
//! here: a call changes a record, and whoever drives walks acts on it.

pub(crate) mod present;

use std::sync::Arc;

use async_trait::async_trait;
use backhaul_proto::v1::{self as pb, prefix_service_server::PrefixService};
use backhaul_runtime::locations::Locations;
use tokio::sync::Notify;
use tonic::{Request, Response, Status};

use self::present::{failed, presented};
use super::{
    backup_service::caller,
    identity::Caller,
    status::{ApiError, Whose},
    validate::{self, prefix, submit::SubmitDefaults},
};
use crate::audit;
use crate::queue::{
    QueueClock, QueueError,
    walk::{Change, Saved, Stored, Walk, WalkId, WalkStore},
};
use crate::rules::MARK;

/// Failures of a page unless asked otherwise, and at most.
const FAILURES: u32 = 100;
const MOST_FAILURES: u32 = 1_000;
/// Prefix backups that are shown at a time.
const MOST_SHOWN: usize = 1_000;
/// How often a change is decided anew because somebody else was faster: a drive changes a walk a few times a second.
const TRIES: usize = 20;

/// The calls over a store of walks.
#[derive(Debug)]
pub struct Prefixes {
    /// Where walks are kept.
    pub walks: Arc<dyn WalkStore>,
    /// Who may name what.
    pub locations: Arc<Locations>,
    /// What a request means where it says nothing.
    pub defaults: SubmitDefaults,
    /// For the time at which a walk is accepted: the process's own clock is good enough.
    pub clock: QueueClock,
    /// Told when a walk was made or resumed.
    pub wake: Arc<Notify>,
}

#[async_trait]
impl PrefixService for Prefixes {
    async fn submit_prefix_backup(
        &self,
        request: Request<pb::SubmitPrefixBackupRequest>,
    ) -> Result<Response<pb::PrefixBackup>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        if request.request_id.starts_with(MARK) {
            return Err(validate::invalid("request_id", "must not begin with `rule:`").into());
        }
        // Also of what is refused.
        if let Some(prefix) = &request.prefix {
            audit::about("location", &prefix.location);
            audit::about("bucket", &prefix.bucket);
            audit::about("prefix", &prefix.prefix);
        }
        let spec = prefix::spec(caller.tenant(), &self.locations, self.defaults, request)?;
        let id = self.walks.id(&spec.tenant, &spec.request_id);
        audit::about("prefix_backup", &id.to_string());
        let walk = Walk::new(spec, self.clock.local_now());
        let change = Change {
            id: id.clone(),
            expected: None,
            walk,
            opened: Vec::new(),
            closed: Vec::new(),
            failures: Vec::new(),
        };
        let saved = self.walks.save(&change).await.map_err(ApiError::from)?;
        let stored = match saved {
            Saved::Yes { revision, open } => Stored { id, walk: change.walk, revision, open },
            Saved::Full => return Err(ApiError::from(QueueError::Full).into()),
            // There is one of this name already.
            Saved::Stale => {
                let stored = self.own(&caller, &id).await?;
                if !stored.walk.is_for(&change.walk.spec) {
                    let said = "names a prefix backup that asks for something else";
                    return Err(validate::invalid("request_id", said).into());
                }
                stored
            }
        };
        self.wake.notify_one();
        Ok(Response::new(presented(stored)))
    }

    async fn get_prefix_backup(
        &self,
        request: Request<pb::GetPrefixBackupRequest>,
    ) -> Result<Response<pb::PrefixBackup>, Status> {
        let caller = caller(&request)?;
        let id = prefix::id(&request.get_ref().prefix_backup_id)?;
        Ok(Response::new(presented(self.own(&caller, &id).await?)))
    }

    async fn list_prefix_backups(
        &self,
        request: Request<pb::ListPrefixBackupsRequest>,
    ) -> Result<Response<pb::ListPrefixBackupsResponse>, Status> {
        let caller = caller(&request)?;
        let look = self.walks.look(!request.get_ref().only_unfinished).await.map_err(ApiError::from)?;
        let mut own: Vec<Stored> =
            look.walks.into_iter().filter(|stored| stored.walk.spec.tenant == caller.tenant()).collect();
        own.sort_by(|a, b| (b.walk.created_at, &b.id).cmp(&(a.walk.created_at, &a.id)));
        own.truncate(MOST_SHOWN);
        let prefix_backups = own.into_iter().map(presented).collect();
        Ok(Response::new(pb::ListPrefixBackupsResponse { prefix_backups, incomplete: look.incomplete }))
    }

    async fn pause_prefix_backup(
        &self,
        request: Request<pb::PausePrefixBackupRequest>,
    ) -> Result<Response<pb::PrefixBackup>, Status> {
        let caller = caller(&request)?;
        let stored = self.change(&caller, &request.get_ref().prefix_backup_id, Walk::pause).await?;
        Ok(Response::new(presented(stored)))
    }

    async fn resume_prefix_backup(
        &self,
        request: Request<pb::ResumePrefixBackupRequest>,
    ) -> Result<Response<pb::PrefixBackup>, Status> {
        let caller = caller(&request)?;
        let stored = self.change(&caller, &request.get_ref().prefix_backup_id, Walk::resume).await?;
        self.wake.notify_one();
        Ok(Response::new(presented(stored)))
    }

    async fn cancel_prefix_backup(
        &self,
        request: Request<pb::CancelPrefixBackupRequest>,
    ) -> Result<Response<pb::PrefixBackup>, Status> {
        let caller = caller(&request)?;
        let now = self.clock.local_now();
        let cancel = |walk: &mut Walk| walk.cancel(now);
        let stored = self.change(&caller, &request.get_ref().prefix_backup_id, cancel).await?;
        Ok(Response::new(presented(stored)))
    }

    async fn list_prefix_backup_failures(
        &self,
        request: Request<pb::ListPrefixBackupFailuresRequest>,
    ) -> Result<Response<pb::ListPrefixBackupFailuresResponse>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let id = prefix::id(&request.prefix_backup_id)?;
        if request.page_size > MOST_FAILURES {
            return Err(validate::invalid("page_size", "must be at most 1000").into());
        }
        let size = u64::from(if request.page_size == 0 { FAILURES } else { request.page_size });
        let from = match request.page_token.as_str() {
            "" => 0,
            token => token
                .parse::<u32>()
                .map_err(|_| validate::invalid("page_token", "must be the token of the previous page"))?
                .into(),
        };
        self.own(&caller, &id).await?;
        // One more, to know whether there is a next page.
        let mut found = self.walks.failures(&id, from, size + 1).await.map_err(ApiError::from)?;
        let more = found.len() as u64 > size;
        found.truncate(usize::try_from(size).unwrap_or(usize::MAX));
        let next_page_token = if more { (from + size).to_string() } else { String::new() };
        let failures = found.into_iter().map(failed).collect();
        Ok(Response::new(pb::ListPrefixBackupFailuresResponse { failures, next_page_token }))
    }
}

impl Prefixes {
    /// Reads one of the caller's tenant.
    async fn own(&self, caller: &Caller, id: &WalkId) -> Result<Stored, ApiError> {
        audit::about("prefix_backup", &id.to_string());
        match self.walks.load(id).await? {
            Some(stored) if stored.walk.spec.tenant == caller.tenant() => Ok(stored),
            Some(stored) => {
                audit::foreign(&id.to_string(), &stored.walk.spec.tenant);
                Err(ApiError::NoSuchPrefixBackup(id.to_string()))
            }
            None => Err(ApiError::NoSuchPrefixBackup(id.to_string())),
        }
    }

    /// Changes one of the caller's tenant. `edit` says whether it can be changed so.
    async fn change(
        &self,
        caller: &Caller,
        id: &str,
        edit: impl Fn(&mut Walk) -> bool,
    ) -> Result<Stored, ApiError> {
        let id = prefix::id(id)?;
        for _ in 0..TRIES {
            let stored = self.own(caller, &id).await?;
            let mut walk = stored.walk.clone();
            if !edit(&mut walk) {
                return Err(ApiError::PrefixBackupFinished(id.to_string()));
            }
            if walk == stored.walk {
                return Ok(stored);
            }
            let change = Change {
                id: id.clone(),
                expected: Some(stored.revision),
                walk,
                opened: Vec::new(),
                closed: Vec::new(),
                failures: Vec::new(),
            };
            if let Saved::Yes { revision, open } = self.walks.save(&change).await? {
                return Ok(Stored { id, walk: change.walk, revision, open });
            }
        }
        Err(ApiError::Overloaded(Whose::All))
    }
}

#[cfg(test)]
mod tests;
