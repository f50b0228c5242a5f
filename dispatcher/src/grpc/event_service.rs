//! `EventService`: what operators see of events, and what they can do about those that were not understood. Check, ask, present.
//!
//! Operators only, which the table of `access` says at the door: what is here is of all sources, and so of all tenants.

use std::{borrow::Cow, sync::Arc};

use async_trait::async_trait;
use backhaul_proto::v1::{self as pb, event_service_server::EventService};
use prost_types::Timestamp;
use tonic::{Request, Response, Status};

use super::{present, status::ApiError, validate};
use crate::audit;
use crate::events::{
    intake::{Intake, NotTaken},
    pull,
    quarantine::Kept,
    removals::Note,
    sources::Sources,
};

const DEFAULT_PAGE: u32 = 100;
const MAX_PAGE: u32 = 1000;
/// Most bytes of a body that are shown: what a client takes without being told to take more.
const MOST_SHOWN_BYTES: usize = 256 * 1024;
/// A digest in hex.
const ID_BYTES: usize = 64;

/// The calls of operators over what events left.
#[derive(Debug)]
pub(crate) struct Events {
    /// What takes events, and where it keeps the others.
    pub(crate) intake: Arc<Intake>,
    /// Who sends them.
    pub(crate) sources: Arc<Sources>,
}

/// Why an event that is kept cannot be taken again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EventRefusal {
    /// There is none of that id.
    #[error("no such event")]
    Unknown,
    /// Only a part of it was kept.
    #[error("only a part of the body was kept: its origin has to send it again")]
    Partial,
    /// Nobody would know what it is.
    #[error("its event source is not configured any more")]
    NoSource,
    /// As when it came.
    #[error("its event source may not tell of a bucket that it names")]
    ForeignBucket,
}

#[async_trait]
impl EventService for Events {
    async fn list_removals(
        &self,
        request: Request<pb::ListRemovalsRequest>,
    ) -> Result<Response<pb::ListRemovalsResponse>, Status> {
        let pb::ListRemovalsRequest { page_size, page_token } = request.into_inner();
        if page_size > MAX_PAGE {
            return Err(validate::invalid("page_size", "must be at most 1000").into());
        }
        let size = if page_size == 0 { DEFAULT_PAGE } else { page_size } as usize;
        let skip: u32 = match page_token.as_str() {
            "" => 0,
            token => token.parse().map_err(|_| validate::invalid("page_token", "is not of this list"))?,
        };
        let skip = skip as usize;
        // One more, to know whether there is a next page.
        let mut notes = self.intake.removals.list(skip, size + 1).await.map_err(ApiError::from)?;
        let next_page_token = if notes.len() > size { (skip + size).to_string() } else { String::new() };
        notes.truncate(size);
        let removals = notes.into_iter().map(|(note, at)| removal(note, present::timestamp(at))).collect();
        Ok(Response::new(pb::ListRemovalsResponse { removals, next_page_token }))
    }

    async fn list_quarantined_events(
        &self,
        _: Request<pb::ListQuarantinedEventsRequest>,
    ) -> Result<Response<pb::ListQuarantinedEventsResponse>, Status> {
        let kept = self.intake.quarantine.list().await.map_err(ApiError::from)?;
        let events = kept.into_iter().map(quarantined).collect();
        Ok(Response::new(pb::ListQuarantinedEventsResponse { events }))
    }

    async fn get_quarantined_event(
        &self,
        request: Request<pb::GetQuarantinedEventRequest>,
    ) -> Result<Response<pb::GetQuarantinedEventResponse>, Status> {
        let (kept, mut body) = self.kept(&request.get_ref().id).await?;
        body.truncate(MOST_SHOWN_BYTES);
        Ok(Response::new(pb::GetQuarantinedEventResponse { event: Some(quarantined(kept)), body }))
    }

    async fn retry_quarantined_event(
        &self,
        request: Request<pb::RetryQuarantinedEventRequest>,
    ) -> Result<Response<pb::RetryQuarantinedEventResponse>, Status> {
        let (kept, body) = self.kept(&request.get_ref().id).await?;
        if kept.about.bytes != body.len() as u64 {
            return Err(ApiError::from(EventRefusal::Partial).into());
        }
        let source = self.sources.iter().find(|source| source.name == kept.about.source);
        let source = source.ok_or(ApiError::from(EventRefusal::NoSource))?;
        // What stands in quarantine is a message as it came, or what was in it.
        let opened = pull::opened(source, &body).unwrap_or(Cow::Borrowed(&body));
        let taken = match self.intake.take(source, &opened).await {
            Ok(taken) => taken,
            Err(NotTaken::ForeignBucket) => return Err(ApiError::from(EventRefusal::ForeignBucket).into()),
            Err(NotTaken::Unavailable(error)) => return Err(ApiError::from(error).into()),
        };
        let is_taken = taken.unknown == 0;
        if is_taken {
            self.intake.quarantine.forget(&kept.digest).await.map_err(ApiError::from)?;
        }
        Ok(Response::new(pb::RetryQuarantinedEventResponse {
            is_taken,
            uploads: taken.uploads as u64,
            removals: taken.removals as u64,
            unknown: taken.unknown as u64,
        }))
    }

    async fn discard_quarantined_event(
        &self,
        request: Request<pb::DiscardQuarantinedEventRequest>,
    ) -> Result<Response<pb::DiscardQuarantinedEventResponse>, Status> {
        let id = id(request.into_inner().id)?;
        audit::about("event_id", &id);
        let was_kept = self.intake.quarantine.forget(&id).await;
        let was_kept = was_kept.map_err(ApiError::from)?;
        Ok(Response::new(pb::DiscardQuarantinedEventResponse { was_kept }))
    }
}

impl Events {
    async fn kept(&self, told: &str) -> Result<(Kept, bytes::Bytes), ApiError> {
        let id = id(told.to_owned())?;
        audit::about("event_id", &id);
        let list = self.intake.quarantine.list().await?;
        let kept = list.into_iter().find(|kept| kept.digest == id).ok_or(EventRefusal::Unknown)?;
        let body = self.intake.quarantine.body(&id).await?.ok_or(EventRefusal::Unknown)?;
        Ok((kept, body))
    }
}

fn id(told: String) -> Result<String, ApiError> {
    let fits =
        told.len() == ID_BYTES && told.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if fits { Ok(told) } else { Err(validate::invalid("id", "must be the id of a quarantined event")) }
}

fn removal(note: Note, noted_at: Timestamp) -> pb::Removal {
    let Note { source, location, bucket, key, version } = note;
    let version = version.unwrap_or_default();
    pb::Removal { noted_at: Some(noted_at), source, location, bucket, key, version }
}

fn quarantined(kept: Kept) -> pb::QuarantinedEvent {
    pb::QuarantinedEvent {
        id: kept.digest,
        kept_at: Some(present::timestamp(kept.at)),
        source: kept.about.source,
        reason: kept.about.reason,
        size_bytes: kept.about.bytes,
    }
}

#[cfg(test)]
mod tests;
