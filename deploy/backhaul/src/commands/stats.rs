//! `backhaul stats`: how much is in the queues, and since when.

use std::time::Duration;

use backhaul_proto::v1;
use serde::Serialize;

use super::Verdict;
use crate::{cli::StatsArgs, client::Client, output::Output};

/// What `--json` prints. An interface: fields are added, never renamed.
#[derive(Debug, Serialize)]
struct StatsView {
    total: BacklogView,
    #[serde(skip_serializing_if = "Option::is_none")]
    done: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cancelled: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tenants: Vec<TenantView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenants_left_out: Option<u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    tenants_sampled: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    incomplete: bool,
}

#[derive(Debug, Serialize)]
struct TenantView {
    tenant: String,
    #[serde(flatten)]
    backlog: BacklogView,
}

#[derive(Debug, Serialize)]
struct BacklogView {
    pending_high: AmountView,
    pending_normal: AmountView,
    pending_low: AmountView,
    scheduled: AmountView,
    working: AmountView,
    delayed: AmountView,
    dead: AmountView,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct AmountView {
    tasks: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_age_ms: Option<u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    oldest_sampled: bool,
}

/// Shows the statistics.
pub(crate) async fn run(args: StatsArgs) -> anyhow::Result<Verdict> {
    let client = Client::connect(&args.client).await?;
    let request = v1::GetQueueStatsRequest {
        all_tenants: args.all_tenants,
        max_tenants: if args.all_tenants { args.tenants } else { 0 },
    };
    let stats = view(client.stats(request).await?, args.all_tenants);
    Output::new(args.client.json).item(|| &stats, || text(&stats))?;
    Ok(Verdict::Good)
}

fn view(stats: v1::GetQueueStatsResponse, all: bool) -> StatsView {
    let tenant = |share: v1::TenantBacklog| TenantView {
        tenant: share.tenant,
        backlog: backlog(&share.backlog.unwrap_or_default()),
    };
    StatsView {
        total: backlog(&stats.total.unwrap_or_default()),
        done: all.then_some(stats.done),
        cancelled: all.then_some(stats.cancelled),
        tenants: stats.tenants.into_iter().map(tenant).collect(),
        tenants_left_out: all.then_some(stats.tenants_left_out),
        tenants_sampled: stats.tenants_sampled,
        incomplete: stats.incomplete,
    }
}

fn backlog(backlog: &v1::Backlog) -> BacklogView {
    BacklogView {
        pending_high: amount(backlog.pending_high.as_ref()),
        pending_normal: amount(backlog.pending_normal.as_ref()),
        pending_low: amount(backlog.pending_low.as_ref()),
        scheduled: amount(backlog.scheduled.as_ref()),
        working: amount(backlog.working.as_ref()),
        delayed: amount(backlog.delayed.as_ref()),
        dead: amount(backlog.dead.as_ref()),
    }
}

fn amount(amount: Option<&v1::Amount>) -> AmountView {
    let age = amount.and_then(|amount| amount.oldest_age);
    let age: Option<Duration> = age.and_then(|age| age.try_into().ok());
    AmountView {
        tasks: amount.map_or(0, |amount| amount.tasks),
        oldest_age_ms: age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        oldest_sampled: amount.is_some_and(|amount| amount.oldest_sampled),
    }
}

fn text(stats: &StatsView) -> String {
    let mut lines = vec!["queue                 tasks  oldest".to_owned()];
    let rows = |backlog: &BacklogView| {
        [
            ("pending, high", backlog.pending_high),
            ("pending, normal", backlog.pending_normal),
            ("pending, low", backlog.pending_low),
            ("working, scheduled", backlog.scheduled),
            ("working, leased", backlog.working),
            ("delay", backlog.delayed),
            ("dead", backlog.dead),
        ]
    };
    for (name, amount) in rows(&stats.total) {
        lines.push(format!("{name:<18} {:>8}  {}", amount.tasks, age(amount)).trim_end().to_owned());
    }
    for (name, tasks) in [("done", stats.done), ("cancelled", stats.cancelled)] {
        lines.extend(tasks.map(|tasks| format!("{name:<18} {tasks:>8}")));
    }
    for share in &stats.tenants {
        let held: Vec<String> = rows(&share.backlog)
            .iter()
            .filter(|(_, amount)| amount.tasks > 0)
            .map(|(name, amount)| format!("{name} {} {}", amount.tasks, age(*amount)).trim_end().to_owned())
            .collect();
        lines.push(format!("tenant {}: {}", share.tenant, held.join("; ")));
    }
    if let Some(more) = stats.tenants_left_out.filter(|more| *more > 0) {
        let at_least = if stats.tenants_sampled { "at least " } else { "" };
        lines.push(format!("({at_least}{more} more tenants)"));
    }
    if stats.incomplete {
        lines.push(
            "(a part of the queue could not be asked: there is more than this; try again later)".to_owned(),
        );
    }
    lines.join("\n")
}

fn age(amount: AmountView) -> String {
    let Some(age_ms) = amount.oldest_age_ms else { return String::new() };
    let age = Duration::from_millis(age_ms - age_ms % if age_ms < 10_000 { 1 } else { 1_000 });
    let or_older = if amount.oldest_sampled { " or older" } else { "" };
    format!("{}{or_older}", humantime::format_duration(age))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amounts() -> v1::Backlog {
        let amount = |tasks, seconds| v1::Amount {
            tasks,
            oldest_age: Some(prost_types::Duration { seconds, nanos: 0 }),
            oldest_sampled: tasks > 100,
        };
        v1::Backlog {
            pending_normal: Some(amount(12, 90)),
            delayed: Some(amount(500, 3_600)),
            ..Default::default()
        }
    }

    #[test]
    fn people_see_every_queue_and_what_was_left_out() {
        let stats = v1::GetQueueStatsResponse {
            total: Some(amounts()),
            done: 7,
            tenants: vec![v1::TenantBacklog { tenant: "web".into(), backlog: Some(amounts()) }],
            tenants_left_out: 3,
            incomplete: true,
            ..Default::default()
        };
        let text = text(&view(stats, true));
        for expected in [
            "pending, normal          12  1m 30s",
            "pending, high             0",
            "delay                   500  1h or older",
            "done                      7",
            "tenant web: pending, normal 12 1m 30s; delay 500 1h or older",
            "(3 more tenants)",
            "(a part of the queue could not be asked: there is more than this; try again later)",
        ] {
            assert!(text.lines().any(|line| line == expected), "{expected:?} in\n{text}");
        }
    }

    #[test]
    fn a_tenant_sees_nothing_of_others() {
        let json = serde_json::to_value(view(v1::GetQueueStatsResponse::default(), false)).unwrap();
        assert_eq!(json["total"]["dead"], serde_json::json!({ "tasks": 0 }));
        for absent in ["done", "cancelled", "tenants", "tenants_left_out", "tenants_sampled", "incomplete"] {
            assert!(json.get(absent).is_none(), "{absent}");
        }
    }
}
