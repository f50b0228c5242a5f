//! `backhaul retry`: runs dead tasks again, those that are named or all that match, and says what came of each.

use backhaul_proto::v1::{self, RetryOutcome};
use serde::Serialize;
use tokio::time::{Duration, Instant, sleep};

use super::Verdict;
use crate::{cli::RetryArgs, client::Client, instant, object, output::Output, view};

/// Tasks of one call, as many as the service takes.
const PAGE: u32 = 1_000;

#[derive(Serialize)]
struct Retried<'a> {
    task_id: &'a str,
    outcome: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    object: String,
    run: u32,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

/// Runs tasks again until the limit or the end.
pub(crate) async fn run(args: RetryArgs) -> anyhow::Result<Verdict> {
    let client = Client::connect(&args.client).await?;
    let output = Output::new(args.client.json);
    let mut left = if args.limit == 0 { u64::MAX } else { args.limit };
    let patience = args.client.timeout;
    let mut ids = args.tasks.clone();
    let by_id = !ids.is_empty();
    let mut request = filter(args)?;
    let (mut verdict, mut done, mut incomplete) = (Verdict::Good, 0_u64, false);
    while left > 0 {
        let page = u32::try_from(left).unwrap_or(PAGE).min(PAGE);
        request.page_size = page;
        request.task_ids = ids.drain(..ids.len().min(page as usize)).collect();
        let answer = finished(&client, &mut request, output, patience).await?;
        verdict = verdict.and(answer.verdict);
        done += answer.hits;
        incomplete |= answer.incomplete;
        left = left.saturating_sub(answer.hits);
        request.page_token = answer.next_page_token;
        let is_over = if by_id { ids.is_empty() } else { request.page_token.is_empty() };
        if is_over {
            break;
        }
    }
    if incomplete {
        output.note("(a part of the queue could not be asked: dead tasks may be left; try again later)")?;
        verdict = Verdict::Bad;
    }
    output.note(&format!("{done} {}", if request.dry_run { "would run again" } else { "run again" }))?;
    Ok(verdict)
}

/// What came of one page.
struct Page {
    verdict: Verdict,
    /// Tasks that run again, or would.
    hits: u64,
    next_page_token: String,
    /// Tasks may be missing.
    incomplete: bool,
}

/// Asks for one page until nothing of it can be done by asking again, or for `patience`.
async fn finished(
    client: &Client,
    request: &mut v1::RetryBackupsRequest,
    output: Output,
    patience: Duration,
) -> anyhow::Result<Page> {
    let deadline = Instant::now() + patience;
    let mut page =
        Page { verdict: Verdict::Good, hits: 0, next_page_token: String::new(), incomplete: false };
    loop {
        let answer = client.retry(request).await?;
        let wait_ms = answer.tasks.iter().filter_map(|task| task.error.as_ref()).map(|e| e.retry_after_ms);
        let wait = Duration::from_millis(wait_ms.max().unwrap_or_default());
        let goes_on = !wait.is_zero() && Instant::now() + wait < deadline;
        for task in &answer.tasks {
            if goes_on && task.error.as_ref().is_some_and(|error| error.retry_after_ms > 0) {
                continue;
            }
            page.hits += u64::from(is_hit(task.outcome()));
            page.verdict = page.verdict.and(verdict_on(task.outcome()));
            output.item(|| shown(task), || line(task))?;
        }
        if !goes_on {
            page.next_page_token = answer.next_page_token;
            page.incomplete = answer.incomplete;
            return Ok(page);
        }
        // Only what is left is asked for again; without ids the same page finds what is dead still.
        let failed = |task: &&v1::RetriedBackup| task.error.as_ref().is_some_and(|e| e.retry_after_ms > 0);
        if !request.task_ids.is_empty() {
            request.task_ids = answer.tasks.iter().filter(failed).map(|task| task.task_id.clone()).collect();
        }
        sleep(wait).await;
    }
}

fn filter(args: RetryArgs) -> anyhow::Result<v1::RetryBackupsRequest> {
    let when = |flag: &str, text: Option<&str>| text.map(|text| instant::parse(flag, text)).transpose();
    Ok(v1::RetryBackupsRequest {
        died_from: when("--died-from", args.died_from.as_deref())?,
        died_before: when("--died-before", args.died_before.as_deref())?,
        location: args.location.unwrap_or_default(),
        bucket: args.bucket.unwrap_or_default(),
        key_prefix: args.prefix.unwrap_or_default(),
        labels: args.labels.into_iter().collect(),
        reasons: args.reasons.into_iter().map(|reason| v1::TaskReason::from(reason).into()).collect(),
        dry_run: args.dry_run,
        ..Default::default()
    })
}

fn shown(task: &v1::RetriedBackup) -> Retried<'_> {
    Retried {
        task_id: &task.task_id,
        outcome: word(task.outcome()),
        object: task.object.as_ref().map(object::display).unwrap_or_default(),
        run: task.run,
        state: view::state(task.state()),
        error: task.error.as_ref().map(|error| error.message.as_str()),
    }
}

fn line(task: &v1::RetriedBackup) -> String {
    let name = task.object.as_ref().map(object::display).unwrap_or_default();
    let error = task.error.as_ref().map(|error| error.message.as_str()).unwrap_or_default();
    format!("{}  {:<12}  {name}  {error}", task.task_id, word(task.outcome())).trim_end().to_owned()
}

const fn is_hit(outcome: RetryOutcome) -> bool {
    matches!(outcome, RetryOutcome::Retried | RetryOutcome::WouldRetry)
}

/// What runs again, or does so already, is as asked for.
const fn verdict_on(outcome: RetryOutcome) -> Verdict {
    match outcome {
        RetryOutcome::Retried | RetryOutcome::WouldRetry | RetryOutcome::RunsAlready => Verdict::Good,
        RetryOutcome::Unspecified
        | RetryOutcome::NotDead
        | RetryOutcome::NotMatched
        | RetryOutcome::NotFound
        | RetryOutcome::Failed => Verdict::Bad,
    }
}

const fn word(outcome: RetryOutcome) -> &'static str {
    match outcome {
        RetryOutcome::Unspecified => "unknown",
        RetryOutcome::Retried => "retried",
        RetryOutcome::WouldRetry => "would_retry",
        RetryOutcome::RunsAlready => "runs_already",
        RetryOutcome::NotDead => "not_dead",
        RetryOutcome::NotMatched => "not_matched",
        RetryOutcome::NotFound => "not_found",
        RetryOutcome::Failed => "failed",
    }
}
