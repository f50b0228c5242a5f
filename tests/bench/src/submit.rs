//! Internal services as the benchmark plays them: they submit objects that exist nowhere, each of them once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use backhaul_proto::v1::{
    ObjectRef, SubmitBackupRequest, SubmitBackupResponse, SubmitBackupsRequest, SubmitOutcome,
    backup_service_client::BackupServiceClient, submit_backup_result::Result as Answer,
};
use tokio::{task::JoinSet, time::sleep};
use tonic::{Code, transport::Channel};

use crate::servers::Dispatcher;

/// Location of every object.
pub(crate) const LOCATION: &str = "uploads";
/// Its bucket.
pub(crate) const BUCKET: &str = "user-uploads";

/// Tasks in one `SubmitBackups`, the most that it takes; BullMQ gets as many in one `addBulk`.
const BATCH: u64 = 1000;
const BATCHES_IN_FLIGHT: usize = 4;
const SINGLES_IN_FLIGHT: usize = 100;
const CONNECTIONS: usize = 4;
/// How often, and after which time, a request is repeated that a Redis on a busy machine did not confirm.
const REPEATS: u32 = 100;
const REPEAT_AFTER: Duration = Duration::from_millis(100);
/// Bytes of location, bucket, key and version together.
const SPEC_BYTES: usize = 200;

/// Callers on a few connections.
#[derive(Debug)]
pub(crate) struct Submitter {
    clients: Vec<BackupServiceClient<Channel>>,
    /// The next object that was never submitted.
    next: u64,
}

impl Submitter {
    /// Connects.
    pub(crate) async fn connect(dispatcher: &Dispatcher) -> anyhow::Result<Self> {
        let mut clients = Vec::with_capacity(CONNECTIONS);
        for _ in 0..CONNECTIONS {
            clients.push(BackupServiceClient::new(dispatcher.connect().await?));
        }
        Ok(Self { clients, next: 0 })
    }

    /// Submits one object; gives its task's id.
    pub(crate) async fn one(&mut self) -> anyhow::Result<String> {
        let object = self.take(1);
        single(&mut self.clients[0], object).await
    }

    /// Submits `count` objects, one a call, 100 calls in flight.
    pub(crate) async fn singles(&mut self, count: u64) -> anyhow::Result<()> {
        let first = self.take(count);
        self.share(SINGLES_IN_FLIGHT, first, first + count, 1, |mut client, n, _| async move {
            single(&mut client, n).await.map(drop)
        })
        .await
    }

    /// Submits `count` objects, 1,000 a call, 4 calls in flight.
    pub(crate) async fn batches(&mut self, count: u64) -> anyhow::Result<()> {
        let first = self.take(count);
        self.share(BATCHES_IN_FLIGHT, first, first + count, BATCH, batch).await
    }

    fn take(&mut self, count: u64) -> u64 {
        let first = self.next;
        self.next += count;
        first
    }

    async fn share<Fut>(
        &self,
        callers: usize,
        first: u64,
        end: u64,
        step: u64,
        call: impl Fn(BackupServiceClient<Channel>, u64, u64) -> Fut + Clone + Send + Sync + 'static,
    ) -> anyhow::Result<()>
    where
        Fut: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let next = Arc::new(AtomicU64::new(first));
        let mut set = JoinSet::new();
        for client in self.clients.iter().cycle().take(callers) {
            let (client, next, call) = (client.clone(), Arc::clone(&next), call.clone());
            set.spawn(async move {
                loop {
                    let at = next.fetch_add(step, Ordering::Relaxed);
                    if at >= end {
                        return anyhow::Ok(());
                    }
                    call(client.clone(), at, step.min(end - at)).await?;
                }
            });
        }
        while let Some(ended) = set.join_next().await {
            ended??;
        }
        Ok(())
    }
}

async fn single(client: &mut BackupServiceClient<Channel>, n: u64) -> anyhow::Result<String> {
    for repeat in 0..REPEATS {
        match client.submit_backup(request(n)).await {
            Ok(response) => {
                let response = response.into_inner();
                created(&response, repeat > 0)?;
                return Ok(response.task_id);
            }
            Err(status) if status.code() == Code::Unavailable => sleep(REPEAT_AFTER).await,
            Err(status) => return Err(status.into()),
        }
    }
    bail!("unavailable for too long")
}

async fn batch(mut client: BackupServiceClient<Channel>, first: u64, count: u64) -> anyhow::Result<()> {
    let mut left: Vec<u64> = (first..first + count).collect();
    for repeat in 0..REPEATS {
        let requests = left.iter().copied().map(request).collect();
        let results = match client.submit_backups(SubmitBackupsRequest { requests }).await {
            Ok(response) => response.into_inner().results,
            Err(status) if status.code() == Code::Unavailable => {
                sleep(REPEAT_AFTER).await;
                continue;
            }
            Err(status) => return Err(status.into()),
        };
        ensure!(results.len() == left.len(), "{} answers to {} requests", results.len(), left.len());
        let mut again = Vec::new();
        for (n, result) in left.into_iter().zip(results) {
            match result.result.context("an answer is empty")? {
                Answer::Accepted(accepted) => created(&accepted, repeat > 0)?,
                Answer::Error(error) if error.code == i32::from(Code::Unavailable) => again.push(n),
                Answer::Error(error) => bail!("not accepted: {error:?}"),
            }
        }
        if again.is_empty() {
            return Ok(());
        }
        left = again;
        sleep(REPEAT_AFTER).await;
    }
    bail!("unavailable for too long")
}

/// A repeat would be answered faster than a new task, and would be no task for the workers: only what was not confirmed is repeated.
fn created(response: &SubmitBackupResponse, repeated: bool) -> anyhow::Result<()> {
    let outcome = response.outcome();
    let good = outcome == SubmitOutcome::Created || repeated && outcome == SubmitOutcome::Duplicate;
    ensure!(good, "not a new task: {response:?}");
    Ok(())
}

fn request(n: u64) -> SubmitBackupRequest {
    // As unlike one another as a store's version ids are.
    let version = format!("{:032x}", u128::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835));
    let end = format!("/{n:012}/original.jpeg");
    let used = LOCATION.len() + BUCKET.len() + version.len() + end.len();
    let key = format!("{:p<width$}{end}", "photos/2026/", width = SPEC_BYTES - used);
    let object = ObjectRef { location: LOCATION.into(), bucket: BUCKET.into(), key, version };
    SubmitBackupRequest { object: Some(object), options: None }
}
