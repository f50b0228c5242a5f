//! Callers: they upload objects, have them backed up, change and cancel, and repeat every call until it is answered.
//!
//! What they were promised is kept, to be checked at the end.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use backhaul_proto::v1::{self as pb, backup_service_client::BackupServiceClient};
use backhaul_worker::store::{Attributes, memory::MemoryStore};
use tokio::time::{sleep, timeout};
use tonic::{Code, Status, transport::Channel};

use crate::{history::History, net, plan::Plan};

/// Where objects are uploaded to: one bucket keeps versions, the other does not.
pub(crate) const LOCATION: &str = "uploads";
pub(crate) const VERSIONED: &str = "versioned-photos";
pub(crate) const PLAIN: &str = "photos";

/// What callers were promised.
#[derive(Debug, Clone, Default)]
pub(crate) struct Promises {
    state: Arc<Mutex<Vec<Promise>>>,
}

/// One object that a caller has had backed up.
#[derive(Debug, Clone)]
pub(crate) struct Promise {
    pub(crate) bucket: &'static str,
    pub(crate) key: String,
    /// The version that was asked for; empty for the latest.
    pub(crate) version: String,
    /// How many versions the object had when the newest request for the latest was made.
    pub(crate) newest: usize,
    /// The task, once a submit was accepted.
    pub(crate) task: Option<String>,
    /// A cancel was asked for: the task may end as cancelled.
    pub(crate) may_be_cancelled: bool,
}

impl Promises {
    pub(crate) fn all(&self) -> MutexGuard<'_, Vec<Promise>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One caller.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) name: String,
    pub(crate) rng: fastrand::Rng,
    pub(crate) dispatchers: usize,
    pub(crate) history: History,
    pub(crate) origin: Arc<MemoryStore>,
    pub(crate) promises: Promises,
    pub(crate) channels: Vec<Option<Channel>>,
}

impl Caller {
    /// Has its share of the objects backed up while the plan lasts.
    pub(crate) async fn run(mut self, plan: Plan, numbers: Vec<usize>) {
        let pause = plan.heals_at / u32::try_from(numbers.len()).unwrap_or(1).max(1);
        for number in numbers {
            sleep(pause.mul_f64(self.rng.f64())).await;
            self.back_up(number).await;
        }
    }

    async fn back_up(&mut self, number: usize) {
        let bucket = if self.rng.bool() { VERSIONED } else { PLAIN };
        let key = format!("{}/object-{number}", self.name);
        self.upload(bucket, &key);
        let exact = bucket == VERSIONED && self.rng.bool();
        let version = if exact { self.latest_version(bucket, &key) } else { String::new() };
        let index = {
            let mut all = self.promises.all();
            let promise =
                Promise { bucket, key: key.clone(), version, newest: 1, task: None, may_be_cancelled: false };
            all.push(promise);
            all.len() - 1
        };
        self.submit(index).await;
        match self.rng.u32(..10) {
            0 => self.cancel(index).await,
            1 | 2 => self.submit(index).await,
            3..=5 if !exact => {
                sleep(Duration::from_millis(self.rng.u64(..3_000))).await;
                self.upload(bucket, &key);
                self.promises.all()[index].newest += 1;
                self.submit(index).await;
            }
            _ => {}
        }
    }

    fn upload(&mut self, bucket: &str, key: &str) {
        // Most are copied in one request, some in up to twelve parts.
        let size = if self.rng.u32(..3) == 0 { self.rng.usize(..12 * 1024) } else { self.rng.usize(..1024) };
        let mut bytes = vec![0; size];
        self.rng.fill(&mut bytes);
        self.origin.seed(bucket, key, bytes, Attributes::default(), &[]);
        self.history.note(&self.name, format_args!("uploads {bucket}/{key}, {size} bytes"));
    }

    fn latest_version(&self, bucket: &str, key: &str) -> String {
        self.origin.versions(bucket, key).last().and_then(|v| v.info.version.clone()).unwrap_or_default()
    }

    async fn submit(&mut self, index: usize) {
        let promise = self.promises.all()[index].clone();
        let size_hint_bytes = if self.rng.u32(..4) == 0 { self.rng.u64(..200 << 20) } else { 1 };
        let request = pb::SubmitBackupRequest {
            object: Some(pb::ObjectRef {
                location: LOCATION.into(),
                bucket: promise.bucket.into(),
                key: promise.key.clone(),
                version: promise.version,
            }),
            options: Some(pb::SubmitOptions { size_hint_bytes, max_attempts: 100, ..Default::default() }),
        };
        let accepted = self
            .until_answered(async |mut client| {
                client.submit_backup(request.clone()).await.map(tonic::Response::into_inner)
            })
            .await;
        match accepted {
            Ok(accepted) => {
                let id = accepted.task_id.clone();
                self.history.note(
                    &self.name,
                    format_args!("{} accepted as {id}: {:?}", promise.key, accepted.outcome()),
                );
                let before = self.promises.all()[index].task.replace(id.clone());
                if before.is_some_and(|before| before != id) {
                    self.history.violation(format_args!("{} has two tasks", promise.key));
                }
            }
            Err(status) => self.history.violation(format_args!("{} refused: {status}", promise.key)),
        }
    }

    async fn cancel(&mut self, index: usize) {
        let Some(task_id) = self.promises.all()[index].task.clone() else { return };
        self.promises.all()[index].may_be_cancelled = true;
        sleep(Duration::from_millis(self.rng.u64(..1_000))).await;
        let request = pb::CancelBackupRequest { task_id: task_id.clone() };
        let answer =
            self.until_answered(async |mut client| client.cancel_backup(request.clone()).await).await;
        match answer {
            Ok(_) => self.history.note(&self.name, format_args!("cancels {task_id}")),
            // It was finished before.
            Err(status) if status.code() == Code::FailedPrecondition => {}
            Err(status) => self.history.violation(format_args!("cancel of {task_id} refused: {status}")),
        }
    }

    /// Makes a call at one dispatcher after the other until one answers.
    async fn until_answered<T>(
        &mut self,
        call: impl AsyncFn(BackupServiceClient<Channel>) -> Result<T, Status>,
    ) -> Result<T, Status> {
        const PATIENCE: Duration = Duration::from_secs(3);
        loop {
            let number = self.rng.usize(..self.dispatchers);
            let channel = match self.channels[number].take() {
                Some(channel) => Some(channel),
                None => timeout(PATIENCE, net::channel(&format!("dispatcher-{number}")))
                    .await
                    .ok()
                    .and_then(Result::ok),
            };
            if let Some(channel) = channel {
                let answer = timeout(PATIENCE, call(BackupServiceClient::new(channel.clone()))).await;
                match answer {
                    Ok(Ok(answer)) => {
                        self.channels[number] = Some(channel);
                        return Ok(answer);
                    }
                    Ok(Err(status)) if !is_worth_repeating(&status) => return Err(status),
                    Ok(Err(_)) | Err(_) => {}
                }
            }
            sleep(Duration::from_millis(self.rng.u64(50..500))).await;
        }
    }
}

fn is_worth_repeating(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::Unknown
            | Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Internal
            | Code::ResourceExhausted
    )
}
