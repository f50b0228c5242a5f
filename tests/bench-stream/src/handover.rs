//! From the answer of a submit to the start of its copy, in a system that has nothing else to do.

use std::time::Duration;

use backhaul_proto::v1::backup_service_client::BackupServiceClient;
use tokio::time::{Instant, sleep};

use crate::{
    crew::Crew,
    figures::{Report, Times},
    servers::{Servers, request},
};

/// Between two submits, so that each finds the system at rest.
const PAUSE: Duration = Duration::from_millis(7);

/// Submits one task after the other at the dispatcher that has the worker's stream, and at the other one.
pub(crate) async fn submit_to_assignment(
    servers: &Servers,
    count: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    let crew = Crew::hire(vec![servers.url(0)], 1, Duration::ZERO).await?;
    for (dispatcher, which) in [(0, "same"), (1, "other")] {
        let mut client = BackupServiceClient::new(servers.channel(dispatcher).await?);
        let (mut answers, mut starts) = (Vec::new(), Vec::new());
        for number in 0..count {
            sleep(PAUSE).await;
            let request = request(which, number);
            let key = request.object.clone().unwrap_or_default().key;
            let asked = Instant::now();
            client.submit_backup(request).await?;
            let answered = Instant::now();
            crew.until("the copy begins", |seen| seen.begun.contains_key(&key)).await?;
            let begun = crew.seen().begun[&key][0].1;
            answers.push(answered - asked);
            // The worker may be faster than the answer to whoever asked.
            starts.push(begun.saturating_duration_since(answered));
        }
        let (answers, starts) = (Times::new(answers), Times::new(starts));
        report.add(
            &format!("submit_to_assignment_{which}"),
            &format!(
                "answer of a submit to the start of the copy, stream at the {which} dispatcher: {}",
                starts.show()
            ),
            starts.json(),
        )?;
        report.add(
            &format!("submit_answer_{which}"),
            &format!("  the submit itself, on disk before it is answered: {}", answers.show()),
            answers.json(),
        )?;
    }
    crew.leave().await
}
