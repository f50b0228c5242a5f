//! One walk under the claim of this dispatcher: pages in, tasks out, then the cursor.
//!
//! The order is what makes it safe: what a page brings is stored as durably as any submit before the page is counted and the cursor moves,
//! both in one change. Whatever ends a drive, the next one begins at the last cursor. A change that finds the walk changed is decided
//! anew on what is there, and a drive whose claim is gone touches nothing more.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Clock, Walker};
use crate::{
    queue::{
        Failure, FailureClass, LeaseToken, NewTask, QueueError, TaskId, TaskState, UnixMs,
        walk::{
            Change, Claim, Counts, FailedObject, PageFound, PageOrder, PageResult, Saved, Step, Stored, Walk,
            WalkId,
        },
    },
    session::PageAnswer,
};

/// Tasks of one submit.
const SUBMIT_TASKS: usize = 500;
/// Open tasks that are looked at together.
const FOLLOW_TASKS: u64 = 500;
/// First and longest pause before what the queue did not do is asked for again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A walk that is driven.
#[derive(Debug)]
pub(super) struct Drive {
    walker: Arc<Walker>,
    token: LeaseToken,
    clock: Clock,
    stop: CancellationToken,
    current: Stored,
    /// When the claim was last renewed.
    renewed: Instant,
    /// When open tasks were last looked at, and where to look next.
    followed: Option<Instant>,
    place: u64,
}

/// Why a drive ends before its walk does.
#[derive(Debug)]
enum Ended {
    /// Somebody else has the walk, or it was ended.
    Lost,
    /// This dispatcher stops, or nobody here lists pages any more.
    GivenUp,
    /// What is stored cannot be used; a person has to look.
    Broken(QueueError),
}

/// What else is changed with the record.
#[derive(Debug, Default)]
struct Beside {
    opened: Vec<TaskId>,
    closed: Vec<TaskId>,
    failures: Vec<FailedObject>,
}

/// What came of a page's objects.
#[derive(Debug, Default)]
struct Submission {
    opened: Vec<TaskId>,
    failures: Vec<FailedObject>,
}

impl Drive {
    /// A drive of this walk until `stop`; `None` when the system has no random bytes.
    pub(super) fn new(
        walker: Arc<Walker>,
        current: Stored,
        clock: Clock,
        stop: CancellationToken,
    ) -> Option<Self> {
        let token = LeaseToken::random().ok()?;
        let renewed = Instant::now();
        Some(Self { walker, token, clock, stop, current, renewed, followed: None, place: 0 })
    }

    /// Drives the walk until it is over, or somebody else's, or told to stop.
    pub(super) async fn run(mut self) {
        match self.claim().await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => return debug!(walk = %self.id(), %error, "a prefix backup cannot be claimed"),
        }
        debug!(walk = %self.id(), "prefix backup claimed");
        let ended = self.steps().await;
        match ended {
            Ok(()) => {
                let Counts { listed, submitted, backed_up, done, died, .. } = self.current.walk.counts;
                let state = self.current.walk.state;
                info!(walk = %self.id(), ?state, listed, submitted, backed_up, done, died, "prefix backup rests");
                self.release().await;
            }
            Err(Ended::Lost) => {
                debug!(walk = %self.id(), "prefix backup is driven by somebody else or has ended")
            }
            Err(Ended::GivenUp) => self.release().await,
            Err(Ended::Broken(error)) => {
                warn!(walk = %self.id(), error = &error as &dyn std::error::Error, "prefix backup cannot be driven");
                // Not at once again: its claim ends by itself.
            }
        }
    }

    async fn steps(&mut self) -> Result<(), Ended> {
        loop {
            if self.stop.is_cancelled() {
                return Err(Ended::GivenUp);
            }
            match self.current.walk.step(self.now(), self.current.open) {
                Step::Rest => return Ok(()),
                Step::Wait(time) => self.pause(time).await?,
                Step::Follow => {
                    if !self.follow().await? {
                        self.pause(self.walker.settings.follow_every).await?;
                    }
                }
                Step::List => {
                    self.page().await?;
                    let is_due = |at: Instant| at.elapsed() >= self.walker.settings.follow_every;
                    if self.current.open > 0 && self.followed.is_none_or(is_due) {
                        self.follow().await?;
                    }
                }
            }
        }
    }

    /// Lists a page, submits what it brings, and only then moves on.
    async fn page(&mut self) -> Result<(), Ended> {
        let spec = Arc::new(self.current.walk.spec.clone());
        let settings = self.walker.settings;
        let order = PageOrder {
            walk: self.id().clone(),
            spec: Arc::clone(&spec),
            cursor: self.current.walk.cursor.clone(),
            max_entries: settings.page_entries,
            within: settings.page_within,
        };
        let walker = Arc::clone(&self.walker);
        let asked = timeout(settings.page_within, walker.listers.list(order));
        let answer = match self.while_renewing(asked).await? {
            Ok(Some(answer)) => answer,
            Ok(None) if self.walker.listers.can_list(&spec.location) => {
                // Its stream has ended a moment ago, or another page took the place.
                return self.pause(FIRST_PAUSE).await;
            }
            Ok(None) => return Err(Ended::GivenUp),
            Err(_) => Err(late(settings.page_within)),
        };
        self.answered(answer).await
    }

    async fn answered(&mut self, answer: PageAnswer) -> Result<(), Ended> {
        let counters = Arc::clone(&self.walker.counters);
        let found = match answer {
            Ok(found) => found,
            Err(failure) => {
                counters.failed_pages.inc();
                debug!(walk = %self.id(), code = failure.code, message = failure.message, "page failed");
                let (limits, jitter) = (self.walker.settings.limits, fastrand::f64());
                let edit = |walk: &mut Walk, now| walk.page_failed(now, failure.clone(), &limits, jitter);
                return self.save(edit, Beside::default()).await;
            }
        };
        // A page that does not move on would be listed for ever.
        if found.next.as_ref() == Some(&self.current.walk.cursor) {
            let failure = Failure {
                class: FailureClass::Retry,
                code: "listing_stuck".into(),
                message: "the listing does not move on".into(),
                retry_after: Duration::ZERO,
            };
            return Box::pin(self.answered(Err(failure))).await;
        }
        let Submission { opened, failures } = self.submit(&found).await?;
        let result = PageResult { submitted: opened.len() as u64, rejected: failures.len() as u64 };
        let beside = Beside { opened, closed: Vec::new(), failures };
        let page = PageFound { objects: Vec::new(), ..found };
        self.save(|walk, now| walk.page_listed(now, &page, result), beside).await?;
        counters.pages.inc();
        counters.skipped.add(page.skipped);
        counters.backed_up.add(page.backed_up);
        counters.submitted.add(result.submitted);
        counters.rejected.add(result.rejected);
        Ok(())
    }

    /// Submits all that a page brought, however long the queue refuses it.
    async fn submit(&mut self, found: &PageFound) -> Result<Submission, Ended> {
        let mut submission = Submission::default();
        let id = self.id().clone();
        for part in found.objects.chunks(SUBMIT_TASKS) {
            let spec = &self.current.walk.spec;
            let rules = self.walker.rules.now();
            let mut left: Vec<NewTask> = part.iter().map(|object| rules.task(spec, &id, object)).collect();
            let mut wait = FIRST_PAUSE;
            while !left.is_empty() {
                let walker = Arc::clone(&self.walker);
                let answers = self.while_renewing(walker.queue.submit(left.clone())).await?;
                let mut again = Vec::new();
                for (task, answer) in left.into_iter().zip(answers) {
                    match answer {
                        Ok(submitted) => submission.opened.push(submitted.id),
                        Err(error) if error.is_retryable() => again.push(task),
                        Err(error) => submission.failures.push(rejected(task, &error)),
                    }
                }
                left = again;
                if !left.is_empty() {
                    debug!(walk = %id, left = left.len(), "the queue takes no more tasks now");
                    self.pause(wait).await?;
                    wait = (wait * 2).min(LONGEST_PAUSE);
                }
            }
        }
        Ok(submission)
    }

    /// Looks at some open tasks and counts those that have ended. True when it was worth it.
    async fn follow(&mut self) -> Result<bool, Ended> {
        self.followed = Some(Instant::now());
        if self.place >= self.current.open {
            self.place = 0;
        }
        let open = self.walker.walks.open_tasks(self.id(), self.place, FOLLOW_TASKS).await;
        let Ok(tasks) = open else { return Ok(false) };
        let looks = tasks.iter().map(|task| self.walker.queue.get(task));
        let mut beside = Beside::default();
        let (mut done, mut died, mut cancelled) = (0, 0, 0);
        for (task, look) in tasks.iter().zip(join_all(looks).await) {
            let state = match &look {
                Ok(record) => record.state,
                // It has finished so long ago that it is forgotten. Dead ones are kept much longer than that.
                Err(QueueError::NotFound(_)) => TaskState::Done,
                Err(_) => continue,
            };
            match state {
                TaskState::Scheduled | TaskState::Pending | TaskState::Working | TaskState::Delayed => {
                    continue;
                }
                TaskState::Done => done += 1,
                TaskState::Cancelled => cancelled += 1,
                TaskState::Dead => {
                    died += 1;
                    if let Ok(record) = look {
                        let failure = record.last_failure.unwrap_or_else(|| vanished(record.crashes));
                        let (object, task) = (record.spec.object, Some(record.id));
                        beside.failures.push(FailedObject {
                            key: object.key,
                            version: object.version,
                            task,
                            failure,
                        });
                    }
                }
            }
            beside.closed.push(task.clone());
        }
        let (looked, ended) = (tasks.len(), beside.closed.len());
        self.place += (looked - ended) as u64;
        if ended > 0 || self.current.open == 0 {
            let count = |walk: &mut Walk, _| {
                walk.counts.done += done;
                walk.counts.died += died;
                walk.counts.cancelled += cancelled;
            };
            self.save(count, beside).await?;
        }
        Ok(ended * 2 > looked)
    }

    /// Takes the walk, unless somebody else was faster.
    async fn claim(&mut self) -> Result<bool, QueueError> {
        let mut walk = self.current.walk.clone();
        walk.claim = Some(self.claim_from_now());
        let saved = self.walker.walks.save(&self.change(walk.clone(), Beside::default())).await?;
        self.renewed = Instant::now();
        let Saved::Yes { revision, open } = saved else { return Ok(false) };
        self.current = Stored { id: self.id().clone(), walk, revision, open };
        Ok(true)
    }

    /// Makes a change on whatever the walk is by now, as long as it is ours. Renews the claim by the way.
    async fn save(&mut self, edit: impl Fn(&mut Walk, UnixMs), beside: Beside) -> Result<(), Ended> {
        let mut beside = beside;
        let mut wait = FIRST_PAUSE;
        loop {
            let mut walk = self.current.walk.clone();
            let now = self.now();
            edit(&mut walk, now);
            let open = self.current.open + beside.opened.len() as u64;
            walk.settle(now, open.saturating_sub(beside.closed.len() as u64), &self.walker.settings.limits);
            if !walk.state.is_finished() {
                walk.claim = Some(self.claim_from_now());
            }
            let change = self.change(walk, beside);
            // The same change until its answer is known: a lost answer may hide a success.
            let saved = loop {
                match self.walker.walks.save(&change).await {
                    Ok(saved) => break saved,
                    Err(error) if error.is_retryable() => {
                        debug!(walk = %self.id(), %error, "prefix backup cannot be stored now");
                        self.rest(wait).await?;
                        wait = (wait * 2).min(LONGEST_PAUSE);
                    }
                    Err(error) => return Err(Ended::Broken(error)),
                }
            };
            let Change { walk, opened, closed, failures, .. } = change;
            match saved {
                Saved::Yes { revision, open } => {
                    self.renewed = Instant::now();
                    self.current = Stored { id: self.id().clone(), walk, revision, open };
                    return Ok(());
                }
                Saved::Stale | Saved::Full => self.reload().await?,
            }
            beside = Beside { opened, closed, failures };
        }
    }

    /// Reads what somebody else has made of the walk.
    async fn reload(&mut self) -> Result<(), Ended> {
        let mut wait = FIRST_PAUSE;
        loop {
            match self.walker.walks.load(self.id()).await {
                Ok(Some(stored)) if stored.walk.is_driven_by(self.token) => {
                    self.current = stored;
                    return Ok(());
                }
                Ok(_) => return Err(Ended::Lost),
                Err(error) if error.is_retryable() => {
                    self.rest(wait).await?;
                    wait = (wait * 2).min(LONGEST_PAUSE);
                }
                Err(error) => return Err(Ended::Broken(error)),
            }
        }
    }

    /// Lets others have the walk at once.
    async fn release(&mut self) {
        if !self.current.walk.is_driven_by(self.token) {
            return;
        }
        for _ in 0..3 {
            let mut walk = self.current.walk.clone();
            walk.claim = None;
            match self.walker.walks.save(&self.change(walk, Beside::default())).await {
                Ok(Saved::Stale) if self.reload().await.is_ok() => {}
                Ok(_) => return,
                Err(error) => {
                    // It ends by itself.
                    return debug!(walk = %self.id(), %error, "the claim on a prefix backup stays until its end");
                }
            }
        }
    }

    /// Waits for `work`, and keeps the claim meanwhile.
    async fn while_renewing<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Ended> {
        let mut work = std::pin::pin!(work);
        let stop = self.stop.clone();
        loop {
            let renew_in = (self.walker.settings.claim / 3).saturating_sub(self.renewed.elapsed());
            tokio::select! {
                biased;
                () = stop.cancelled() => return Err(Ended::GivenUp),
                done = &mut work => return Ok(done),
                () = sleep(renew_in) => self.save(|_, _| {}, Beside::default()).await?,
            }
        }
    }

    /// Does nothing for some time, but notices what others make of the walk.
    async fn pause(&mut self, time: Duration) -> Result<(), Ended> {
        self.while_renewing(sleep(time)).await?;
        self.reload().await
    }

    /// Does nothing for some time, unless told to stop.
    async fn rest(&self, time: Duration) -> Result<(), Ended> {
        self.stop.run_until_cancelled(sleep(time)).await.ok_or(Ended::GivenUp)
    }

    fn change(&self, walk: Walk, beside: Beside) -> Change {
        let Beside { opened, closed, failures } = beside;
        let expected = Some(self.current.revision);
        Change { id: self.id().clone(), expected, walk, opened, closed, failures }
    }

    fn claim_from_now(&self) -> Claim {
        Claim { token: self.token, until: self.now().plus(self.walker.settings.claim) }
    }

    fn now(&self) -> UnixMs {
        self.clock.now()
    }

    const fn id(&self) -> &WalkId {
        &self.current.id
    }
}

/// An object of which no task can be made.
fn rejected(task: NewTask, error: &QueueError) -> FailedObject {
    let object = task.spec.object;
    let failure = Failure {
        class: FailureClass::Permanent,
        code: "rejected".into(),
        message: error.to_string(),
        retry_after: Duration::ZERO,
    };
    FailedObject { key: object.key, version: object.version, task: None, failure }
}

/// Of a task that died without a report.
fn vanished(crashes: u32) -> Failure {
    Failure {
        class: FailureClass::Retry,
        code: "crashed".into(),
        message: format!("{crashes} workers vanished while they held it"),
        retry_after: Duration::ZERO,
    }
}

/// Of a page that no worker listed in time.
fn late(within: Duration) -> Failure {
    Failure {
        class: FailureClass::Retry,
        code: "timeout".into(),
        message: format!("no worker has listed the page within {} s", within.as_secs()),
        retry_after: Duration::ZERO,
    }
}
