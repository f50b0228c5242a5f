//! `GetQueueStats`: whose share a caller may see, and the answer in the contract's words.

use backhaul_proto::v1 as pb;

use crate::{
    grpc::{access, identity::Caller, status::ApiError, validate},
    queue::{Amount, Backlog, QueueStats, StatsQuery, stats::MOST_TENANTS},
};

/// Tenants that are named where a request does not say how many.
const DEFAULT_TENANTS: u32 = 20;

/// What the caller may see of what it asks for.
///
/// # Errors
/// [`ApiError::NotOperator`], [`ApiError::Invalid`].
pub(super) fn query(caller: &Caller, request: &pb::GetQueueStatsRequest) -> Result<StatsQuery, ApiError> {
    if request.max_tenants > MOST_TENANTS {
        return Err(validate::invalid("max_tenants", "must be 1 to 100, or 0 for the default"));
    }
    if !request.all_tenants {
        return Ok(StatsQuery::Tenant(caller.tenant().to_owned()));
    }
    if !access::who_may(access::STATS_OF_ALL).is_some_and(|who| who.includes_role(caller.role())) {
        return Err(ApiError::NotOperator);
    }
    let tenants = if request.max_tenants == 0 { DEFAULT_TENANTS } else { request.max_tenants };
    Ok(StatsQuery::All { tenants })
}

/// The answer.
pub(super) fn presented(stats: QueueStats) -> pb::GetQueueStatsResponse {
    let tenant = |(tenant, share)| pb::TenantBacklog { tenant, backlog: Some(backlog(&share)) };
    pb::GetQueueStatsResponse {
        total: Some(backlog(&stats.total)),
        done: stats.done.unwrap_or_default(),
        cancelled: stats.cancelled.unwrap_or_default(),
        tenants: stats.tenants.into_iter().map(tenant).collect(),
        tenants_left_out: stats.tenants_left_out,
        tenants_sampled: stats.tenants_sampled,
        incomplete: stats.incomplete,
    }
}

fn backlog(share: &Backlog) -> pb::Backlog {
    let [high, normal, low] = share.pending;
    pb::Backlog {
        pending_high: Some(amount(high)),
        pending_normal: Some(amount(normal)),
        pending_low: Some(amount(low)),
        scheduled: Some(amount(share.scheduled)),
        working: Some(amount(share.working)),
        delayed: Some(amount(share.delayed)),
        dead: Some(amount(share.dead)),
    }
}

fn amount(amount: Amount) -> pb::Amount {
    pb::Amount {
        tasks: amount.tasks,
        // An age that does not fit is a clock gone wrong, and no age.
        oldest_age: amount.oldest.and_then(|age| age.try_into().ok()),
        oldest_sampled: amount.sampled,
    }
}
