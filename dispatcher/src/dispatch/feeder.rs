//! Moves due tasks to workers: the one loop that leases.
//!
//! It asks for tasks only on behalf of a session that has room, and no more than that room: what it leases can be sent. It
//! registers for the queue's hint before it looks, so none is lost between looking and waiting, and without any room it does
//! not look at all. Decisions are the [`Roster`](super::roster::Roster)'s.

use std::{sync::Arc, time::Duration};

use backhaul_runtime::{locations::Locations, trace};
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, debug_span, info, warn};

use super::{
    Hall,
    roster::{Errand, Found},
};
use crate::{
    queue::{Failure, FailureClass, LeasedTask, Outcome, QueueError, Settlement, TaskQueue},
    session::{Offer, SessionHandle, StreamSettings},
};

/// First and longest pause after the queue could not be asked.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Leases tasks for sessions.
#[derive(Debug)]
pub(super) struct Feeder {
    pub(super) queue: Arc<dyn TaskQueue>,
    pub(super) settings: Arc<StreamSettings>,
    pub(super) hall: Arc<Hall>,
    /// Who may name what now: what was allowed when a task was accepted may not be any more.
    pub(super) grants: Option<Arc<Locations>>,
}

/// An errand that was run.
type Answer = (Errand, Leased);

/// What an errand brought.
type Leased = Result<Vec<LeasedTask>, LeaseFault>;

/// Why no tasks could be leased.
#[derive(Debug, thiserror::Error)]
enum LeaseFault {
    #[error("no answer in time")]
    TimedOut,
    #[error(transparent)]
    Failed(#[from] QueueError),
}

impl Feeder {
    /// Runs until `stop`; calls under way are finished, and what they bring is handed on or back.
    pub(super) async fn run(self, stop: CancellationToken) {
        let ready = self.queue.ready();
        let mut calls: FuturesUnordered<BoxFuture<'static, Answer>> = FuturesUnordered::new();
        let mut returns: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
        let mut faults = Faults::default();
        let mut poll_at = Instant::now();
        let mut hint = Box::pin(Arc::clone(&ready).notified_owned());
        hint.as_mut().enable();
        while !stop.is_cancelled() {
            let is_paused = faults.until.is_some();
            while !is_paused && calls.len() + returns.len() < self.settings.lease_calls {
                let Some(errand) = self.hall.roster().next_errand() else { break };
                calls.push(self.run_errand(errand));
            }
            tokio::select! {
                () = stop.cancelled() => break,
                Some((errand, leased)) = calls.next() => {
                    let (leased, revoked) = self.granted(leased);
                    returns.extend(revoked);
                    returns.extend(self.deliver((errand, leased), &mut faults));
                }
                Some(()) = returns.next() => self.hall.roster().look_again(),
                () = &mut hint => {
                    hint = Box::pin(Arc::clone(&ready).notified_owned());
                    hint.as_mut().enable();
                    self.hall.roster().look_again();
                }
                () = self.hall.room_changed.notified() => {}
                () = sleep_until(faults.until.unwrap_or_else(Instant::now)), if is_paused => faults.until = None,
                () = sleep_until(poll_at) => {
                    poll_at = Instant::now() + self.settings.poll_every.mul_f64(0.75 + 0.5 * fastrand::f64());
                    let mut roster = self.hall.roster();
                    if roster.has_room() {
                        roster.look_again();
                    }
                }
            }
        }
        while let Some((errand, leased)) = calls.next().await {
            let (leased, revoked) = self.granted(leased);
            returns.extend(revoked);
            returns.extend(self.deliver((errand, leased), &mut faults));
        }
        while let Some(()) = returns.next().await {}
    }

    fn run_errand(&self, errand: Errand) -> BoxFuture<'static, Answer> {
        let queue = Arc::clone(&self.queue);
        let limit = self.settings.queue_timeout;
        async move {
            let leased = match timeout(limit, queue.lease(&errand.request)).await {
                Ok(leased) => leased.map_err(LeaseFault::from),
                Err(_) => Err(LeaseFault::TimedOut),
            };
            (errand, leased)
        }
        .boxed()
    }

    /// Hands leased tasks to their session; when it has gone, answers the call that hands them back.
    fn deliver(&self, (errand, leased): Answer, faults: &mut Faults) -> Option<BoxFuture<'static, ()>> {
        let mut roster = self.hall.roster();
        let tasks = match leased {
            Ok(tasks) => tasks,
            Err(fault) => {
                faults.note(&fault);
                roster.report(errand, Found::Failed);
                return None;
            }
        };
        faults.clear();
        let count = tasks.len();
        if count == 0 {
            roster.report(errand, Found::Tasks(0));
            return None;
        }
        let unwanted = match roster.handle_of(&errand) {
            Some(handle) => {
                let tasks = tasks.into_iter().map(|task| in_trace(task, handle)).collect();
                handle.offer(Offer { request: errand.request.request, tasks }).err()
            }
            None => Some(tasks),
        };
        let found = if unwanted.is_some() { Found::Nobody } else { Found::Tasks(count) };
        roster.report(errand, found);
        unwanted.map(|tasks| self.hand_back(tasks))
    }

    /// The tasks whose tenants may still name their objects, and the call that ends the others.
    fn granted(&self, leased: Leased) -> (Leased, Option<BoxFuture<'static, ()>>) {
        let (locations, tasks) = match (&self.grants, leased) {
            (Some(locations), Ok(tasks)) => (locations, tasks),
            (_, leased) => return (leased, None),
        };
        let refusal = |task: &LeasedTask| {
            let (spec, object) = (&task.spec, &task.spec.object);
            locations.authorize(&spec.tenant, &object.location, &object.bucket, &object.key).err()
        };
        let (mut kept, mut revoked) = (Vec::with_capacity(tasks.len()), Vec::new());
        for task in tasks {
            match refusal(&task) {
                None => kept.push(task),
                Some(refusal) => {
                    warn!(task_id = %task.id, tenant = task.spec.tenant, location = task.spec.object.location, reason = %refusal, "a task is given up: its tenant may not name its object any more");
                    let failure = Failure {
                        class: FailureClass::Permanent,
                        code: "grant_revoked".to_owned(),
                        message: format!("not allowed any more: {refusal}"),
                        retry_after: Duration::ZERO,
                    };
                    let outcome = Outcome::Failed { failure, jitter: 0.0 };
                    revoked.push(Settlement { id: task.id, lease: task.lease, outcome });
                }
            }
        }
        let ended = (!revoked.is_empty())
            .then(|| self.settle(revoked, "gave up tasks that are not granted any more"));
        (Ok(kept), ended)
    }

    fn hand_back(&self, tasks: Vec<LeasedTask>) -> BoxFuture<'static, ()> {
        let outcome = || Outcome::NotSent { delay: Duration::ZERO };
        let settlement = |LeasedTask { id, lease, .. }| Settlement { id, lease, outcome: outcome() };
        self.settle(tasks.into_iter().map(settlement).collect(), "handed back tasks whose worker has gone")
    }

    /// Ends leases that no worker has heard of.
    fn settle(&self, settlements: Vec<Settlement>, what: &'static str) -> BoxFuture<'static, ()> {
        let queue = Arc::clone(&self.queue);
        let limit = self.settings.queue_timeout;
        async move {
            let count = settlements.len();
            let answers = timeout(limit, queue.settle(settlements)).await;
            let kept =
                answers.map_or(count, |answers| answers.iter().filter(|answer| answer.is_err()).count());
            debug!(count, kept, what, "those kept come back when their lease ends");
        }
        .boxed()
    }
}

/// Names the assignment in the trace that the task belongs to, so that what the worker does hangs below it.
fn in_trace(mut task: LeasedTask, session: &SessionHandle) -> LeasedTask {
    if !task.spec.traceparent.is_empty() {
        let span = debug_span!("assign", task_id = %task.id, worker = &*session.worker().name);
        trace::adopt(&span, &task.spec.traceparent);
        if let Some(traceparent) = trace::traceparent(&span) {
            task.spec.traceparent = traceparent;
        }
    }
    task
}

/// How the queue has failed lately.
#[derive(Debug, Default)]
struct Faults {
    pause: Option<Duration>,
    until: Option<Instant>,
}

impl Faults {
    fn note(&mut self, fault: &LeaseFault) {
        let pause = match self.pause {
            None => {
                warn!(
                    error = fault as &dyn std::error::Error,
                    "no tasks can be leased: the queue cannot be asked"
                );
                FIRST_PAUSE
            }
            Some(_) if self.until.is_some() => return,
            Some(pause) => {
                debug!(error = fault as &dyn std::error::Error, "still no tasks can be leased");
                (pause * 2).min(LONGEST_PAUSE)
            }
        };
        self.pause = Some(pause);
        self.until = Some(Instant::now() + pause.mul_f64(0.5 + 0.5 * fastrand::f64()));
    }

    fn clear(&mut self) {
        if self.pause.take().is_some() {
            info!("tasks can be leased again");
        }
        self.until = None;
    }
}
