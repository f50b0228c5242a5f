//! Somebody who follows tasks while the others work.

use anyhow::{Context as _, bail, ensure};
use backhaul_proto::v1::{WatchBackupsRequest, backup_service_client::BackupServiceClient};
use tokio::task::JoinSet;

use crate::{servers::Dispatcher, submit::Submitter, workers::Fleet};

/// Which tasks are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Watched {
    /// One that is finished: the log of changes is kept and read, and there is nothing to tell.
    One,
    /// All of the tenant: every change is told.
    All,
}

/// A watch under way. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Watcher {
    reading: JoinSet<anyhow::Result<()>>,
}

impl Watcher {
    /// Has one task done, watches, and waits until the watch has begun.
    pub(crate) async fn connect(
        dispatcher: &Dispatcher,
        submitter: &mut Submitter,
        fleet: &mut Fleet,
        watched: Watched,
    ) -> anyhow::Result<Self> {
        let goal = fleet.seen().confirmed + 1;
        let id = submitter.one().await?;
        fleet.until(|seen| seen.confirmed >= goal).await?;
        let request = match watched {
            Watched::One => WatchBackupsRequest { task_ids: vec![id], ..Default::default() },
            Watched::All => WatchBackupsRequest::default(),
        };
        let mut client =
            BackupServiceClient::new(dispatcher.connect().await?).max_decoding_message_size(16 << 20);
        let mut stream = client.watch_backups(request).await?.into_inner();
        let first = stream.message().await?.context("the watch ended at once")?;
        ensure!(!first.backups.is_empty(), "the task is not shown");
        let mut reading = JoinSet::new();
        reading.spawn(async move {
            let _connection = client;
            // What is missed because it was too much is shown anew, which is part of what it costs.
            while stream.message().await?.is_some() {}
            bail!("the watch has ended by itself")
        });
        Ok(Self { reading })
    }

    /// Fails when the watch did not go on until now.
    pub(crate) fn end(mut self) -> anyhow::Result<()> {
        ensure!(self.reading.try_join_next().is_none(), "the watch has ended before its time");
        Ok(())
    }
}
