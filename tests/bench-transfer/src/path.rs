//! The whole way of a backup: submitted over gRPC, queued in Redis, copied by a worker, until every receipt is stored.
//!
//! The programs are the shipped ones with their defaults, on a Redis that writes to the disk before it answers.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, bail, ensure};
use backhaul_proto::v1::{
    Backlog, GetBackupRequest, GetQueueStatsRequest, ListBackupsRequest, ObjectRef, SubmitBackupRequest,
    SubmitBackupsRequest, SubmitOptions, TaskState, backup_service_client::BackupServiceClient,
    submit_backup_result::Result as Answer,
};
use backhaul_tests::{
    eventually,
    locations::ORIGIN,
    process::Process,
    programs::program,
    redis::{RedisOptions, RedisServer},
};
use tokio::time::{Instant, sleep};
use tonic::transport::{Channel, Endpoint};

use crate::{
    case::Case,
    stores::{WARM_BUCKET, WARM_KEY},
    usage::{Usage, cpu_s_of, peak_mib_of, resident_mib_of},
};

/// Tasks in one `SubmitBackups`.
const BATCH: usize = 1000;
/// How often it is asked whether all is done: what is measured must not be the asking.
const POLL: Duration = Duration::from_millis(50);

/// Dispatcher, worker and Redis.
#[derive(Debug)]
pub(crate) struct Backhaul {
    // In this order they are ended: the users before the used.
    worker: Process,
    dispatcher: Process,
    redis: RedisServer,
    client: BackupServiceClient<Channel>,
}

/// What one load cost the worker, and the others beside it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PathUsage {
    pub(crate) worker: Usage,
    pub(crate) dispatcher_cpu_s: f64,
    pub(crate) redis_cpu_s: f64,
}

/// What both programs take while there is nothing to do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Idle {
    pub(crate) seconds: f64,
    pub(crate) worker_mib: f64,
    pub(crate) worker_cpu_s: f64,
    pub(crate) dispatcher_mib: f64,
    pub(crate) dispatcher_cpu_s: f64,
}

impl Backhaul {
    /// Starts everything, and waits until the first task went through.
    pub(crate) async fn start(folder: &Path, locations: &Path) -> anyhow::Result<Self> {
        let redis = RedisServer::start(RedisOptions::durable()?).await?;
        let address_file = folder.join("dispatcher.address");
        let mut command = program("backhaul-dispatcher")?;
        command.args(["--listen", "127.0.0.1:0", "--redis-url", &redis.url(), "--log", "warn"]);
        command.arg("--insecure");
        command.arg("--address-file").arg(&address_file).arg("--locations").arg(locations);
        let mut dispatcher = start("dispatcher", &mut command, folder)?;
        let address = eventually("the dispatcher serves", async || {
            if let Err(ended) = dispatcher.ensure_running() {
                return Ok(Err(ended));
            }
            let text = fs::read_to_string(&address_file)?;
            ensure!(!text.trim().is_empty(), "it has not written its address");
            Ok(Ok(text.trim().to_owned()))
        })
        .await??;
        let mut command = program("backhaul-worker")?;
        command.args(["--dispatcher", &format!("http://{address}"), "--name", "bench", "--log", "warn"]);
        command.arg("--insecure");
        command.arg("--locations").arg(locations);
        let worker = start("worker", &mut command, folder)?;
        let channel = Endpoint::from_shared(format!("http://{address}"))?.connect().await?;
        let client = BackupServiceClient::new(channel);
        let mut started = Self { worker, dispatcher, redis, client };
        let warm = request(object(WARM_BUCKET, WARM_KEY.to_owned()), None);
        let warm = started.submit(vec![warm]).await?;
        started.until_idle(&warm).await?;
        started.ensure_done(1).await?;
        Ok(started)
    }

    /// Submits everything of a case and waits for the receipts.
    pub(crate) async fn copy(&mut self, case: &Case) -> anyhow::Result<PathUsage> {
        let before = self.cpu_s()?;
        let begin = Instant::now();
        let requests: Vec<_> =
            case.keys().map(|key| request(object(case.bucket, key), Some(case.size_bytes))).collect();
        let mut last = String::new();
        for batch in requests.chunks(BATCH) {
            last = self.submit(batch.to_vec()).await?;
        }
        self.until_idle(&last).await?;
        let wall_s = begin.elapsed().as_secs_f64();
        let after = self.cpu_s()?;
        self.ensure_done(case.count + 1).await?;
        let peak_mib = peak_mib_of(self.worker.id())?;
        Ok(PathUsage {
            worker: Usage { wall_s, cpu_s: after[0] - before[0], peak_mib, stores_cpu_s: 0.0 },
            dispatcher_cpu_s: after[1] - before[1],
            redis_cpu_s: after[2] - before[2],
        })
    }

    /// Watches both programs do nothing.
    pub(crate) async fn idle(&mut self, time: Duration) -> anyhow::Result<Idle> {
        let before = self.cpu_s()?;
        sleep(time).await;
        let after = self.cpu_s()?;
        Ok(Idle {
            seconds: time.as_secs_f64(),
            worker_mib: resident_mib_of(self.worker.id())?,
            worker_cpu_s: after[0] - before[0],
            dispatcher_mib: resident_mib_of(self.dispatcher.id())?,
            dispatcher_cpu_s: after[1] - before[1],
        })
    }

    fn cpu_s(&mut self) -> anyhow::Result<[f64; 3]> {
        Ok([
            cpu_s_of(self.worker.id())?,
            cpu_s_of(self.dispatcher.id())?,
            cpu_s_of(self.redis.process().id())?,
        ])
    }

    /// Gives the id of the last task.
    async fn submit(&mut self, requests: Vec<SubmitBackupRequest>) -> anyhow::Result<String> {
        let answer = self.client.submit_backups(SubmitBackupsRequest { requests }).await?.into_inner();
        let mut last = None;
        for result in answer.results {
            match result.result.context("an answer is empty")? {
                Answer::Accepted(accepted) => last = Some(accepted.task_id),
                Answer::Error(error) => bail!("not accepted: {error:?}"),
            }
        }
        last.context("nothing was submitted")
    }

    /// Waits until nothing is under way. As long as the task that was submitted last is not done, only that is asked for: a count
    /// of all would take the queue a third of the time that it has for the tasks.
    async fn until_idle(&mut self, last: &str) -> anyhow::Result<()> {
        while !self.is_done(last).await? || self.unfinished().await? > 0 {
            self.worker.ensure_running()?;
            self.dispatcher.ensure_running()?;
            sleep(POLL).await;
        }
        Ok(())
    }

    async fn is_done(&mut self, task_id: &str) -> anyhow::Result<bool> {
        let request = GetBackupRequest { task_id: task_id.to_owned() };
        Ok(self.client.get_backup(request).await?.into_inner().state() == TaskState::Done)
    }

    async fn unfinished(&mut self) -> anyhow::Result<u64> {
        let answer = self.client.get_queue_stats(GetQueueStatsRequest::default()).await?.into_inner();
        ensure!(!answer.incomplete, "a part of the queue could not be asked");
        let backlog = answer.total.context("the answer has no backlog")?;
        let Backlog { pending_high, pending_normal, pending_low, scheduled, working, delayed, dead: _ } =
            backlog;
        let amounts = [pending_high, pending_normal, pending_low, scheduled, working, delayed];
        Ok(amounts.into_iter().flatten().map(|amount| amount.tasks).sum())
    }

    /// That all of it ended well.
    async fn ensure_done(&mut self, count: u64) -> anyhow::Result<()> {
        let done = self.count(TaskState::Done).await?;
        ensure!(done == count, "{done} of {count} tasks are done:\n{}", self.worker.log()?);
        Ok(())
    }

    async fn count(&mut self, state: TaskState) -> anyhow::Result<u64> {
        let mut request =
            ListBackupsRequest { states: vec![state.into()], page_size: 1000, ..Default::default() };
        let mut count = 0;
        loop {
            let page = self.client.list_backups(request.clone()).await?.into_inner();
            count += page.backups.len() as u64;
            if page.next_page_token.is_empty() {
                return Ok(count);
            }
            request.page_token = page.next_page_token;
        }
    }
}

/// An object of the origin.
fn object(bucket: &str, key: String) -> ObjectRef {
    ObjectRef { location: ORIGIN.into(), bucket: bucket.into(), key, version: String::new() }
}

/// Whoever asks for a backup usually knows the size: the event of the upload says it.
fn request(object: ObjectRef, size_bytes: Option<u64>) -> SubmitBackupRequest {
    let options =
        size_bytes.map(|size_hint_bytes| SubmitOptions { size_hint_bytes, ..SubmitOptions::default() });
    SubmitBackupRequest { object: Some(object), options }
}

fn start(name: &str, command: &mut Command, folder: &Path) -> anyhow::Result<Process> {
    Process::start(name, command, &folder.join(format!("{name}.log")))
}
