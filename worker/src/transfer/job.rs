//! One copy in progress: what it was asked, where it goes, and how it asks stores for something.
//!
//! Every request goes through [`Job::ask`], so that retries, pauses and being told to stop are the same everywhere.

use std::{future::Future, time::Duration};

use tokio::time::{Instant, sleep};
use tracing::debug;

use super::{
    CopyRequest, ProgressCell, Step, Stop, VerifyLevel,
    failure::{Halt, Refusal, Side},
    janitor::Janitor,
    permits::MemoryBudget,
    route::{Route, Site},
    settings::EngineSettings,
};
use crate::store::{ObjectPath, Retention, StoreError, Terms};

/// What all steps of one copy share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Job<'a> {
    pub(super) settings: &'a EngineSettings,
    /// For bytes on their way.
    pub(super) memory: &'a MemoryBudget,
    /// For bytes read back; whoever holds some waits for nothing else.
    pub(super) readback_memory: &'a MemoryBudget,
    /// Who aborts what this copy cannot.
    pub(super) janitor: &'a Janitor,
    pub(super) route: &'a Route,
    pub(super) request: &'a CopyRequest,
    pub(super) progress: &'a ProgressCell,
    pub(super) stop: &'a Stop,
    pub(super) verify: VerifyLevel,
    pub(super) sha256: bool,
    pub(super) started: Instant,
    /// The same moment by the calendar, in seconds since the epoch.
    pub(super) started_wall: i64,
}

impl<'a> Job<'a> {
    pub(super) fn site(&self, side: Side) -> &'a Site {
        match side {
            Side::Source => &self.route.origin,
            Side::Backup => &self.route.target.site,
        }
    }

    /// The object to copy.
    pub(super) fn source_path(&self) -> ObjectPath<'a> {
        ObjectPath { bucket: &self.request.bucket, key: &self.request.key }
    }

    /// A key of the backup bucket.
    pub(super) fn backup_path<'k>(&self, key: &'k str) -> ObjectPath<'k>
    where
        'a: 'k,
    {
        ObjectPath { bucket: &self.route.target.bucket, key }
    }

    /// What the backup store is asked to do with the copy.
    pub(super) fn terms(&self) -> Terms<'a> {
        let target = &self.route.target;
        let retention = target.retain.map(|r| Retention {
            compliance: r.compliance,
            until: self.started_wall.saturating_add(i64::from(r.days) * 86_400),
        });
        Terms { storage_class: target.storage_class.as_deref(), retention }
    }

    /// Sends a request until it is answered, refused for good, or the copy is told to stop.
    pub(super) async fn ask<T, R>(&self, side: Side, mut call: impl FnMut() -> R + Send) -> Result<T, Refusal>
    where
        R: Future<Output = Result<T, StoreError>> + Send,
    {
        let mut tries = 0;
        loop {
            let error = match self.unless_stopped(self.site(side).gate.pass(call())).await? {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            tries += 1;
            self.pause(side, tries, error).await?;
        }
    }

    /// As [`Job::ask`], but a request that has been sent is waited for whatever happens: what it made must be known.
    pub(super) async fn ask_through<T, R>(
        &self,
        side: Side,
        mut call: impl FnMut() -> R + Send,
    ) -> Result<T, Refusal>
    where
        R: Future<Output = Result<T, StoreError>> + Send,
    {
        let mut tries = 0;
        loop {
            self.unless_stopped(async {}).await?;
            let error = match self.site(side).gate.pass(call()).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            tries += 1;
            self.pause(side, tries, error).await?;
        }
    }

    /// Waits before the next try, or gives the error back when there is none.
    pub(super) async fn pause(&self, side: Side, tries: u32, error: StoreError) -> Result<(), Refusal> {
        let Some(pause) = self.settings.retry.pause(tries, error.kind, fastrand::f64()) else {
            return Err(Refusal::Store(error));
        };
        self.site(side).gate.repeated.inc();
        debug!(
            task.id = %self.request.task_id,
            location = %self.site(side).name,
            operation = %error.operation,
            tries,
            pause_ms = millis(pause),
            %error,
            "request will be repeated"
        );
        self.unless_stopped(sleep(pause)).await?;
        Ok(())
    }

    /// Runs `work` unless the copy is told to stop first.
    pub(super) async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Result<T, Refusal> {
        tokio::select! {
            // The stricter order wins when both were given.
            biased;
            () = self.stop.abort.cancelled() => Err(Refusal::Stopped(Halt::Aborted)),
            () = self.stop.hand_back.cancelled() => Err(Refusal::Stopped(Halt::HandedBack)),
            done = work => Ok(done),
        }
    }

    /// What a refusal means at this step, when nothing can be done about it.
    pub(super) fn halt(&self, refusal: Refusal, side: Side, step: Step) -> Halt {
        refusal.halt(side, step, &self.site(side).name)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
