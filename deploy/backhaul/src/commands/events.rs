//! `backhaul events`: what origins told that became no task, and what to do about it.

use std::io::Write as _;

use backhaul_proto::v1;
use serde::Serialize;

use super::Verdict;
use crate::{
    cli::{EventArgs, EventsArgs, EventsCommand, QuarantinedArgs, RemovalsArgs},
    client::Client,
    object,
    output::Output,
    view,
};

/// Removals of one call, as many as the service gives.
const PAGE: u32 = 1_000;

#[derive(Serialize)]
struct RemovalView<'a> {
    noted_at: String,
    source: &'a str,
    location: &'a str,
    bucket: &'a str,
    key: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    version: &'a str,
}

#[derive(Serialize)]
struct EventView<'a> {
    id: &'a str,
    kept_at: String,
    source: &'a str,
    reason: &'a str,
    size_bytes: u64,
}

#[derive(Serialize)]
struct OutcomeView<'a> {
    id: &'a str,
    outcome: &'static str,
}

/// Does what was asked for.
pub(crate) async fn run(command: EventsCommand) -> anyhow::Result<Verdict> {
    match command {
        EventsCommand::Removals(args) => removals(args).await,
        EventsCommand::Quarantined(args) => quarantined(args).await,
        EventsCommand::Show(args) => show(args).await,
        EventsCommand::Retry(args) => retry(args).await,
        EventsCommand::Discard(args) => discard(args).await,
    }
}

async fn removals(args: RemovalsArgs) -> anyhow::Result<Verdict> {
    let client = Client::connect(&args.client).await?;
    let output = Output::new(args.client.json);
    let mut left = if args.limit == 0 { u64::MAX } else { args.limit };
    let mut page_token = String::new();
    while left > 0 {
        let page_size = u32::try_from(left).unwrap_or(PAGE).min(PAGE);
        let request = v1::ListRemovalsRequest { page_size, page_token };
        let answer = client
            .events(|mut events| {
                let request = request.clone();
                async move { events.list_removals(request).await }
            })
            .await?;
        for removal in &answer.removals {
            output.item(|| removal_view(removal), || removal_line(removal))?;
        }
        left = left.saturating_sub(answer.removals.len() as u64);
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            return Ok(Verdict::Good);
        }
    }
    output.note("(there are more: --limit 0 lists them all)")?;
    Ok(Verdict::Good)
}

async fn quarantined(args: QuarantinedArgs) -> anyhow::Result<Verdict> {
    let client = Client::connect(&args.client).await?;
    let output = Output::new(args.client.json);
    let answer = client
        .events(|mut events| async move {
            events.list_quarantined_events(v1::ListQuarantinedEventsRequest {}).await
        })
        .await?;
    for event in &answer.events {
        output.item(|| event_view(event), || event_line(event))?;
    }
    Ok(Verdict::Good)
}

async fn show(args: EventArgs) -> anyhow::Result<Verdict> {
    let client = Client::connect(&args.client).await?;
    let request = v1::GetQuarantinedEventRequest { id: args.event };
    let answer = client
        .events(|mut events| {
            let request = request.clone();
            async move { events.get_quarantined_event(request).await }
        })
        .await?;
    let event = answer.event.unwrap_or_default();
    let is_whole = event.size_bytes == answer.body.len() as u64;
    if args.client.json {
        let body = String::from_utf8_lossy(&answer.body);
        let shown = serde_json::json!({ "event": event_view(&event), "body": body, "is_whole": is_whole });
        Output::new(true).item(|| shown, String::new)?;
    } else {
        let mut out = std::io::stdout().lock();
        out.write_all(&answer.body)?;
        out.flush()?;
        if !is_whole {
            // Beside the body, not in it.
            writeln!(
                std::io::stderr(),
                "\nonly the first {} of {} bytes",
                answer.body.len(),
                event.size_bytes
            )?;
        }
    }
    Ok(Verdict::Good)
}

async fn retry(args: EventsArgs) -> anyhow::Result<Verdict> {
    let client = Client::connect(&args.client).await?;
    let output = Output::new(args.client.json);
    let mut verdict = Verdict::Good;
    for id in &args.events {
        let answer = client
            .events(|mut events| {
                let request = v1::RetryQuarantinedEventRequest { id: id.clone() };
                async move { events.retry_quarantined_event(request).await }
            })
            .await?;
        let outcome = if answer.is_taken { "taken" } else { "not_understood" };
        verdict = verdict.and(if answer.is_taken { Verdict::Good } else { Verdict::Bad });
        let uploads = answer.uploads;
        output.item(|| OutcomeView { id, outcome }, || format!("{id}  {outcome}  {uploads} uploads"))?;
    }
    Ok(verdict)
}

async fn discard(args: EventsArgs) -> anyhow::Result<Verdict> {
    let client = Client::connect(&args.client).await?;
    let output = Output::new(args.client.json);
    for id in &args.events {
        let answer = client
            .events(|mut events| {
                let request = v1::DiscardQuarantinedEventRequest { id: id.clone() };
                async move { events.discard_quarantined_event(request).await }
            })
            .await?;
        let outcome = if answer.was_kept { "discarded" } else { "not_kept" };
        output.item(|| OutcomeView { id, outcome }, || format!("{id}  {outcome}"))?;
    }
    Ok(Verdict::Good)
}

fn removal_view(removal: &v1::Removal) -> RemovalView<'_> {
    let v1::Removal { noted_at, source, location, bucket, key, version } = removal;
    RemovalView { noted_at: instant(noted_at.as_ref()), source, location, bucket, key, version }
}

fn removal_line(removal: &v1::Removal) -> String {
    let object = v1::ObjectRef {
        location: removal.location.clone(),
        bucket: removal.bucket.clone(),
        key: removal.key.clone(),
        version: removal.version.clone(),
    };
    let at = instant(removal.noted_at.as_ref());
    format!("{at}  {}  {}", removal.source, object::display(&object))
}

fn event_view(event: &v1::QuarantinedEvent) -> EventView<'_> {
    let v1::QuarantinedEvent { id, kept_at, source, reason, size_bytes } = event;
    EventView { id, kept_at: instant(kept_at.as_ref()), source, reason, size_bytes: *size_bytes }
}

fn event_line(event: &v1::QuarantinedEvent) -> String {
    let v1::QuarantinedEvent { id, kept_at, source, reason, size_bytes } = event;
    format!("{id}  {}  {source}  {size_bytes} bytes  {reason}", instant(kept_at.as_ref()))
}

fn instant(at: Option<&prost_types::Timestamp>) -> String {
    at.map(view::instant).unwrap_or_default()
}
