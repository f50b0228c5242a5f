//! `backhaul watch`: follows tasks by id until all of them are finished, or by label until somebody ends it.

use std::collections::BTreeSet;

use backhaul_proto::v1;

use super::Verdict;
use crate::{cli::WatchArgs, client::Client, output::Output, progress::Display, view};

/// Tasks of one watch, as many as the service takes.
const GROUP: usize = 1_000;

/// Follows the tasks.
pub(crate) async fn run(args: WatchArgs) -> anyhow::Result<Verdict> {
    let client = Client::connect(&args.client).await?;
    let output = Output::new(args.client.json);
    if args.labels.is_empty() {
        follow(&client, output, args.tasks).await
    } else {
        follow_labels(&client, output, args.labels).await
    }
}

/// Follows `tasks` until each is finished; prints each as it finishes. Bad when one is not done.
pub(crate) async fn follow(client: &Client, output: Output, tasks: Vec<String>) -> anyhow::Result<Verdict> {
    let tasks: Vec<String> = tasks.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
    let mut display = Display::new(output, tasks.len());
    let mut verdict = Verdict::Good;
    // One group after the other: what finishes while an earlier one is followed is shown at the begin of its own.
    for group in tasks.chunks(GROUP) {
        let mut open: BTreeSet<&str> = group.iter().map(String::as_str).collect();
        let request = v1::WatchBackupsRequest { task_ids: group.to_vec(), ..Default::default() };
        let mut watching = client.watch(request);
        while !open.is_empty() {
            let message = watching.next().await?;
            for task in message.backups.iter().filter(|task| open.contains(task.task_id.as_str())) {
                display.update(task);
                if view::is_finished(task) {
                    verdict = verdict.and(verdict_on(task));
                    display.finished(task)?;
                }
            }
            for id in message.gone.iter().filter(|id| open.contains(id.as_str())) {
                display.refused(id, &"no such task")?;
                verdict = Verdict::Bad;
            }
            let ended = message.backups.iter().filter(|task| view::is_finished(task));
            for id in ended.map(|task| &task.task_id).chain(&message.gone) {
                open.remove(id.as_str());
            }
        }
    }
    display.end();
    Ok(verdict)
}

/// Prints every task that carries the labels, as it is and whenever it changes.
async fn follow_labels(
    client: &Client,
    output: Output,
    labels: Vec<(String, String)>,
) -> anyhow::Result<Verdict> {
    let request = v1::WatchBackupsRequest { labels: labels.into_iter().collect(), ..Default::default() };
    let mut watching = client.watch(request);
    let mut incomplete = false;
    loop {
        let message = watching.next().await?;
        if message.incomplete && !incomplete {
            output.note("(a part of the queue cannot be asked now; its changes follow when it can)")?;
        }
        incomplete = message.incomplete;
        if message.missed {
            output.note("(changes were missed; all tasks follow as they are)")?;
        }
        for task in &message.backups {
            output.item(|| view::json(task), || view::line(task))?;
        }
    }
}

fn verdict_on(task: &v1::Backup) -> Verdict {
    if task.state() == v1::TaskState::Done { Verdict::Good } else { Verdict::Bad }
}
