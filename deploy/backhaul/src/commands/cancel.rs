//! `backhaul cancel`: ends tasks that are not finished; one refusal does not keep the others from being cancelled.

use backhaul_proto::v1;
use serde::Serialize;

use super::Verdict;
use crate::{
    cli::CancelArgs,
    client::{Client, ClientError},
    output::Output,
    view,
};

#[derive(Serialize)]
struct Refused<'a> {
    task_id: &'a str,
    error: String,
}

/// Cancels each task.
pub(crate) async fn run(args: CancelArgs) -> anyhow::Result<Verdict> {
    let client = Client::connect(&args.client).await?;
    let output = Output::new(args.client.json);
    let mut verdict = Verdict::Good;
    for task in &args.tasks {
        match client.cancel(task).await {
            Ok(backup) => output.item(|| view::json(&backup), || describe(&backup))?,
            Err(error @ ClientError::Status(_)) => {
                verdict = Verdict::Bad;
                output.item(
                    || Refused { task_id: task, error: error.to_string() },
                    || format!("{task}  {error}"),
                )?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(verdict)
}

fn describe(backup: &v1::Backup) -> String {
    if view::is_finished(backup) {
        view::line(backup)
    } else {
        format!("{}  being stopped", view::line(backup))
    }
}
