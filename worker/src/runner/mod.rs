//! The runner: holds the copies that the link's leases are for.
//!
//! It is the only module that sees both worlds: it takes assignments from the link, starts them in batches under a memory budget,
//! gives each its own [`Stop`], and turns what the engine says into what the contract says. It must know neither the stream (when a
//! lease ends, what is sent when) nor a store.

mod batch;
#[cfg(test)]
pub(crate) mod fake;
mod report;
mod slots;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    future::pending,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use backhaul_proto::v1::{Stopped, task_result::Outcome};
use backhaul_runtime::trace;
use futures_util::future::{Either, select};
use tokio::{
    task::{Id, JoinError, JoinSet},
    time::sleep,
};
use tracing::{Instrument as _, debug, info_span, warn};

pub(crate) use self::report::hopeless;
pub use self::slots::{Budget, SizeClass};
use self::{
    batch::{Batch, Waiting},
    slots::Slots,
};
use crate::{
    link::{Assignment, Finished, LeaseKey, Progress, StopReason, Workload},
    transfer::{Copier, CopyReceipt, ProgressCell, Stop, TransferError, TransferErrorKind},
};

/// What a runner is told at its start.
#[derive(Debug, Clone)]
pub struct RunnerSettings {
    /// Name for receipts, at most 128 bytes.
    pub worker: String,
    /// What the copies may use.
    pub budget: Budget,
    /// How long a copy that was told to stop may take before it is dropped where it stands.
    pub stop_within: Duration,
}

/// Runs copies.
#[derive(Debug)]
pub struct Runner {
    settings: RunnerSettings,
    copier: Arc<dyn Copier>,
    waiting: Waiting,
    slots: Slots,
    /// Every copy that runs, by the lease it runs under.
    running: HashMap<LeaseKey, Copy>,
    /// Tasks that run, and the newer assignment that waits for the older copy to be gone.
    tasks: HashMap<Arc<str>, Option<Assignment>>,
    copies: JoinSet<Copied>,
    leases: HashMap<Id, LeaseKey>,
    /// Ends that needed no copy.
    ended: VecDeque<Finished>,
    draining: bool,
}

/// A copy that runs.
#[derive(Debug)]
struct Copy {
    progress: Arc<ProgressCell>,
    stop: Stop,
    asked: Option<StopReason>,
    attempt: u32,
    class: SizeClass,
    cost: u64,
}

/// What a copy came to.
#[derive(Debug)]
enum Copied {
    Ended(Result<Box<CopyReceipt>, TransferError>),
    /// It was told to stop and did not.
    Overdue,
}

impl Runner {
    /// A runner without copies.
    #[must_use]
    pub fn new(settings: RunnerSettings, copier: Arc<dyn Copier>) -> Self {
        Self {
            slots: Slots::new(settings.budget),
            settings,
            copier,
            waiting: Waiting::default(),
            running: HashMap::new(),
            tasks: HashMap::new(),
            copies: JoinSet::new(),
            leases: HashMap::new(),
            ended: VecDeque::new(),
            draining: false,
        }
    }

    /// Starts all that there is room for.
    fn start_waiting(&mut self) {
        while let Some(Batch { origin, class, tasks }) = self.waiting.next_batch(&mut self.slots) {
            debug!(origin, ?class, tasks = tasks.len(), "batch started");
            for (assignment, cost) in tasks {
                self.start_copy(&assignment, class, cost);
            }
        }
    }

    fn start_copy(&mut self, assignment: &Assignment, class: SizeClass, cost: u64) {
        let (progress, stop) = (Arc::new(ProgressCell::default()), Stop::default());
        let copy = copy(
            Arc::clone(&self.copier),
            report::request(assignment),
            Arc::clone(&progress),
            stop.clone(),
            self.settings.stop_within,
        );
        let span = info_span!(
            "attempt",
            task_id = %assignment.lease.task_id,
            attempt = assignment.attempt,
            traceparent = assignment.traceparent
        );
        trace::adopt(&span, &assignment.traceparent);
        let id = self.copies.spawn(copy.instrument(span)).id();
        self.leases.insert(id, assignment.lease.clone());
        self.tasks.insert(Arc::clone(&assignment.lease.task_id), None);
        let copy = Copy { progress, stop, asked: None, attempt: assignment.attempt, class, cost };
        self.running.insert(assignment.lease.clone(), copy);
    }

    /// Takes the end of a copy in; what to report, if anything.
    fn copy_ended(&mut self, joined: Result<(Id, Copied), JoinError>) -> Option<Finished> {
        let (id, copied) = match joined {
            Ok((id, copied)) => (id, Ok(copied)),
            Err(error) => (error.id(), Err(error)),
        };
        let lease = self.leases.remove(&id)?;
        let copy = self.running.remove(&lease)?;
        self.slots.give_back(copy.class, copy.cost);
        if let Some(Some(next)) = self.tasks.remove(&lease.task_id) {
            self.enqueue(next);
        }
        self.start_waiting();
        let outcome = self.outcome(&lease, &copy, copied)?;
        Some(Finished { lease, outcome: Box::new(outcome) })
    }

    fn outcome(&self, lease: &LeaseKey, copy: &Copy, copied: Result<Copied, JoinError>) -> Option<Outcome> {
        let stopped = || Stopped { upload_id: copy.progress.upload_id() };
        let outcome = match (copy.asked, copied) {
            (Some(StopReason::Lost), _) => return None,
            // It was faster than the order to stop.
            (_, Ok(Copied::Ended(Ok(receipt)))) => report::receipt(*receipt, &self.settings.worker),
            // However a cancelled copy ends, nobody wants it again.
            (Some(StopReason::Cancelled), _) => Outcome::Cancelled(stopped()),
            (Some(StopReason::HandBack), Ok(Copied::Overdue)) => Outcome::HandedBack(stopped()),
            (Some(StopReason::HandBack), Ok(Copied::Ended(Err(error))))
                if error.kind == TransferErrorKind::Cancelled =>
            {
                Outcome::HandedBack(stopped())
            }
            (Some(StopReason::HandBack) | None, Ok(Copied::Ended(Err(error)))) => {
                debug!(task_id = %lease.task_id, error = &error as &dyn std::error::Error, "copy failed");
                report::failure(&error, copy.attempt)
            }
            // Only a copy that was asked to stop can be overdue.
            (None, Ok(Copied::Overdue)) => return None,
            (Some(StopReason::HandBack) | None, Err(error)) => match error.try_into_panic() {
                Ok(payload) => {
                    warn!(task_id = %lease.task_id, "copy panicked");
                    report::panicked(payload.as_ref())
                }
                // The runtime is shutting down; the lease ends by itself.
                Err(_) => return None,
            },
        };
        Some(outcome)
    }

    /// Lets a task wait for room, or for the end of an older copy of it: the two must not work on one upload.
    fn enqueue(&mut self, assignment: Assignment) {
        match self.tasks.get_mut(&assignment.lease.task_id) {
            Some(next) => *next = Some(assignment),
            None => self.waiting.push(self.settings.budget.class(assignment.size_hint_bytes), assignment),
        }
    }

    /// Takes a task out that has not started.
    fn take_waiting(&mut self, lease: &LeaseKey) -> Option<Assignment> {
        self.waiting
            .remove(lease)
            .or_else(|| self.tasks.get_mut(&lease.task_id)?.take_if(|next| next.lease == *lease))
    }

    fn end_unstarted(&mut self, assignment: Assignment, reason: StopReason) {
        let stopped = |upload_id| Stopped { upload_id };
        let outcome = match reason {
            StopReason::Lost => return,
            StopReason::Cancelled => Outcome::Cancelled(stopped(String::new())),
            // What an earlier attempt left is still there for the next one.
            StopReason::HandBack => Outcome::HandedBack(stopped(assignment.resume_upload_id)),
        };
        self.ended.push_back(Finished { lease: assignment.lease, outcome: Box::new(outcome) });
    }
}

impl Workload for Runner {
    fn start(&mut self, assignment: Assignment) {
        if self.draining {
            return self.end_unstarted(assignment, StopReason::HandBack);
        }
        self.enqueue(assignment);
        self.start_waiting();
    }

    fn stop(&mut self, lease: &LeaseKey, reason: StopReason) {
        if let Some(assignment) = self.take_waiting(lease) {
            return self.end_unstarted(assignment, reason);
        }
        // An end that the link has not seen yet.
        if reason == StopReason::Lost {
            self.ended.retain(|finished| finished.lease != *lease);
        }
        let Some(copy) = self.running.get_mut(lease) else { return };
        match reason {
            // Whoever holds the task now may be going on with this very upload, whose name it got from a heartbeat or found by its
            // key. It also aborts what it cannot use; aborting here would take its parts away.
            StopReason::Lost => copy.stop.hand_back.cancel(),
            StopReason::Cancelled if copy.asked == Some(StopReason::Lost) => return,
            StopReason::Cancelled => copy.stop.abort.cancel(),
            StopReason::HandBack if copy.asked.is_some() => return,
            StopReason::HandBack => copy.stop.hand_back.cancel(),
        }
        copy.asked = Some(reason);
    }

    fn pause(&mut self, locations: &BTreeSet<String>) {
        for assignment in self.waiting.take_of(locations) {
            self.end_unstarted(assignment, StopReason::HandBack);
        }
    }

    fn drain(&mut self) {
        self.draining = true;
        let next: Vec<_> = self.tasks.values_mut().filter_map(Option::take).collect();
        let waiting: Vec<_> = self.waiting.drain().chain(next).collect();
        for assignment in waiting {
            self.end_unstarted(assignment, StopReason::HandBack);
        }
    }

    fn progress(&self, lease: &LeaseKey) -> Progress {
        let Some(copy) = self.running.get(lease) else { return Progress::default() };
        let (bytes_done, bytes_total, steps_done) = copy.progress.read();
        Progress { bytes_done, bytes_total, steps_done, upload_id: copy.progress.upload_id() }
    }

    async fn next_finished(&mut self) -> Finished {
        loop {
            if let Some(finished) = self.ended.pop_front() {
                return finished;
            }
            // An empty set would say so at once and for ever.
            if self.copies.is_empty() {
                pending::<()>().await;
            }
            if let Some(joined) = self.copies.join_next_with_id().await
                && let Some(finished) = self.copy_ended(joined)
            {
                return finished;
            }
        }
    }
}

/// One copy, dropped where it stands when it does not stop in time after it was told to.
async fn copy(
    copier: Arc<dyn Copier>,
    request: crate::transfer::CopyRequest,
    progress: Arc<ProgressCell>,
    stop: Stop,
    stop_within: Duration,
) -> Copied {
    let overdue = {
        let Stop { abort, hand_back } = stop.clone();
        async move {
            select(pin!(abort.cancelled()), pin!(hand_back.cancelled())).await;
            sleep(stop_within).await;
        }
    };
    match select(copier.copy(&request, progress, stop), pin!(overdue)).await {
        Either::Left((result, _)) => Copied::Ended(result.map(Box::new)),
        Either::Right(_) => Copied::Overdue,
    }
}

#[cfg(test)]
mod tests;
