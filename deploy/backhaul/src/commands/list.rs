//! `backhaul list`: tasks by state, location, key prefix and label, page by page.

use backhaul_proto::v1;

use super::Verdict;
use crate::{cli::ListArgs, client::Client, output::Output, view};

/// Largest page that the service gives.
const PAGE: u32 = 1_000;

/// Lists tasks until the limit or the end.
pub(crate) async fn run(args: ListArgs) -> anyhow::Result<Verdict> {
    let client = Client::connect(&args.client).await?;
    let output = Output::new(args.client.json);
    let mut left = if args.limit == 0 { u64::MAX } else { args.limit };
    let mut request = v1::ListBackupsRequest {
        states: args.states.into_iter().map(|s| v1::TaskState::from(s).into()).collect(),
        location: args.location.unwrap_or_default(),
        key_prefix: args.prefix.unwrap_or_default(),
        labels: args.labels.into_iter().collect(),
        page_size: 0,
        page_token: String::new(),
    };
    while left > 0 {
        // The page size is not part of what a token is bound to, so the last page can be as small as what is left.
        request.page_size = u32::try_from(left).unwrap_or(PAGE).min(PAGE);
        let page = client.list(&request).await?;
        left = left.saturating_sub(page.backups.len() as u64);
        for task in &page.backups {
            output.item(|| view::json(task), || view::line(task))?;
        }
        if page.incomplete {
            output.note("(a part of the queue could not be asked: tasks may be missing; try again later)")?;
        }
        if page.next_page_token.is_empty() {
            return Ok(Verdict::Good);
        }
        request.page_token = page.next_page_token;
    }
    output.note(&format!("(more tasks match; --limit {} was reached)", args.limit))?;
    Ok(Verdict::Good)
}
