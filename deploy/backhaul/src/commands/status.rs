//! `backhaul status`: one task with its receipt.

use super::Verdict;
use crate::{cli::StatusArgs, client::Client, output::Output, view};

/// Shows the task.
pub(crate) async fn run(args: StatusArgs) -> anyhow::Result<Verdict> {
    let task = Client::connect(&args.client).await?.get(&args.task).await?;
    Output::new(args.client.json).item(|| view::json(&task), || view::full(&task))?;
    Ok(Verdict::Good)
}
