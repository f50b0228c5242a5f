//! `backhaul watch`: follows tasks until all of them are finished.
//!
//! Asks for each unfinished task again and again, a bounded number at a time and ever more rarely while nothing moves.

use std::{collections::BTreeMap, time::Duration};

use backhaul_proto::v1;
use futures_util::{StreamExt as _, stream};
use tokio::time::sleep;

use super::Verdict;
use crate::{
    cli::WatchArgs,
    client::{Client, ClientError},
    output::Output,
    progress::Display,
    view,
};

/// Calls in flight at a time.
const PARALLEL: usize = 16;
/// Pause between rounds while tasks move.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
/// Pause between rounds when nothing has moved for a while.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Follows the tasks.
pub(crate) async fn run(args: WatchArgs) -> anyhow::Result<Verdict> {
    let client = Client::connect(&args.client).await?;
    follow(&client, Output::new(args.client.json), args.tasks).await
}

/// Follows `tasks` until each is finished; prints each as it finishes. Bad when one is not done.
pub(crate) async fn follow(client: &Client, output: Output, tasks: Vec<String>) -> anyhow::Result<Verdict> {
    let mut open: BTreeMap<String, Option<v1::Backup>> = tasks.into_iter().map(|id| (id, None)).collect();
    let mut display = Display::new(output, open.len());
    let mut verdict = Verdict::Good;
    let mut pause = SHORTEST_PAUSE;
    while !open.is_empty() {
        let ids: Vec<String> = open.keys().cloned().collect();
        let mut answers = stream::iter(ids)
            .map(|id| async move {
                let answer = client.get(&id).await;
                (id, answer)
            })
            .buffer_unordered(PARALLEL);
        let mut moved = false;
        while let Some((id, answer)) = answers.next().await {
            let task = match answer {
                Ok(task) => task,
                Err(error @ ClientError::Status(_)) => {
                    display.refused(&id, &error)?;
                    open.remove(&id);
                    verdict = Verdict::Bad;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let known = open.get_mut(&id);
            moved |= known.as_deref().is_none_or(|old| old.as_ref() != Some(&task));
            display.update(&task);
            if view::is_finished(&task) {
                if task.state() != v1::TaskState::Done {
                    verdict = Verdict::Bad;
                }
                display.finished(&task)?;
                open.remove(&id);
            } else if let Some(known) = known {
                *known = Some(task);
            }
        }
        drop(answers);
        if !open.is_empty() {
            pause = if moved { SHORTEST_PAUSE } else { (pause * 3 / 2).min(LONGEST_PAUSE) };
            sleep(pause).await;
        }
    }
    display.end();
    Ok(verdict)
}
