//! The steps of a random history: what is done to both queues, and the comparison of their answers.

use std::{fmt::Debug, sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    super::harness::{exact, latest},
    Lease, World, told,
};
use crate::queue::{
    CancelOutcome, Failure, FailureClass, LeaseRequest, LeaseToken, LeasedTask, NewTask, Outcome, Priority,
    Progress, RenewOutcome, Renewal, Requeue, RequeueOutcome, SettleOutcome, Settlement, SweepReport, TaskId,
    TaskQueue, TaskState,
};

const LOCATIONS: [&str; 2] = ["uploads", "archive"];

/// How long the answer to a lease request is promised to be remembered.
const MEMO: Duration = Duration::from_secs(60);

impl World {
    pub(super) async fn random_step(&mut self) {
        let step = match self.rng.u32(0..100) {
            0..50 => Duration::from_millis(self.rng.u64(0..500)),
            50..90 => Duration::from_millis(self.rng.u64(0..3_000)),
            90..98 => Duration::from_secs(self.rng.u64(0..15)),
            _ => Duration::from_secs(self.rng.u64(0..100)),
        };
        self.clock.advance(step);
        match self.rng.u32(0..100) {
            0..25 => self.submit().await,
            25..42 => self.lease().await,
            42..46 => self.lease_again().await,
            46..60 => self.renew().await,
            60..82 => self.settle().await,
            82..92 => self.sweep().await,
            92..96 => self.requeue().await,
            _ => self.cancel().await,
        }
    }

    /// True when the answer to a call is to be lost, so that the caller repeats it.
    fn answer_is_lost(&mut self) -> bool {
        self.rng.u32(0..6) == 0
    }

    async fn submit(&mut self) {
        let batch: Vec<_> = (0..self.rng.usize(1..4)).map(|_| self.random_task()).collect();
        let shown: Vec<_> = batch.iter().map(|new| (&new.spec.object.key, new.process_at)).collect();
        self.note(format!("submit {shown:?}"));
        let subject = self.subject.submit(batch.clone()).await;
        if self.answer_is_lost() {
            self.note("submit sent twice".into());
            self.subject.submit(batch.clone()).await;
        }
        let model = self.model.submit(batch).await;
        self.same_list("submit", subject, model, |world, subject, model| {
            let (subject, model) = (told(subject), told(model));
            world.same("submit", &subject, &model);
            if let Ok(submitted) = subject {
                world.known.entry(submitted.id).or_default();
            }
        });
    }

    fn random_task(&mut self) -> NewTask {
        let rng = &mut self.rng;
        let tenant = ["t", "u", "v"][rng.usize(0..3)];
        let object = rng.usize(0..8);
        let key = format!("{tenant}{object}");
        let mut new = if object < 4 { exact(tenant, &key) } else { latest(tenant, &key) };
        new.spec.object.location = LOCATIONS[object % 2].into();
        new.spec.priority = Priority::ALL[rng.usize(0..3)];
        new.spec.max_attempts = rng.u32(1..5);
        new.spec.size_hint_bytes = [0, 1, 1 << 20, 1 << 30][rng.usize(0..4)];
        new.spec.processing_timeout = Duration::from_secs(rng.u64(3..25));
        new.spec.labels.insert("n".into(), rng.u32(..).to_string());
        if rng.u32(0..4) == 0 {
            let ahead = Duration::from_millis(rng.u64(0..30_000));
            new.process_at = Some(self.clock.local_now().plus(ahead));
        }
        new
    }

    async fn lease(&mut self) {
        let n = self.rng.usize(0..self.sessions.len());
        let locations = match self.rng.u32(0..10) {
            0 => &LOCATIONS[..0],
            1 => &LOCATIONS[..1],
            2 => &LOCATIONS[1..],
            _ => &LOCATIONS[..],
        };
        self.sessions[n].requests += 1;
        let magnitude = self.rng.u32(1..40);
        let request = LeaseRequest {
            session: self.sessions[n].name.clone(),
            request: self.sessions[n].requests,
            worker: format!("worker-{}", self.rng.u32(0..4)),
            max_tasks: self.rng.u32(1..6),
            max_bytes: self.rng.u64(0..1 << magnitude),
            locations: locations.iter().copied().map(str::to_owned).collect::<Vec<_>>().into(),
        };
        let given = self.lease_on_both(&request).await;
        if !given.is_empty() {
            self.sessions[n].newest = Some((request, self.clock.local_now()));
        }
        // Some answers never reach a worker.
        if self.rng.u32(0..10) > 0 {
            self.held.extend(given);
        }
    }

    /// Gives a request to both queues; returns the new leases.
    async fn lease_on_both(&mut self, request: &LeaseRequest) -> Vec<usize> {
        let LeaseRequest { session, request: number, max_tasks, max_bytes, .. } = request;
        self.note(format!("lease {session}/{number}: {max_tasks} tasks, {max_bytes} bytes"));
        let subject = told(self.subject.lease(request).await);
        if self.answer_is_lost() {
            self.note("lease sent twice".into());
            let again = told(self.subject.lease(request).await);
            self.same("repeated lease", &again, &subject);
        }
        let model = told(self.model.lease(request).await);
        let (Ok(subject), Ok(model)) = (subject, model) else { self.fail("a lease request failed") };
        let mut given = Vec::new();
        self.same_list("lease", subject, model, |world, subject, model| {
            let (ours, theirs) = (subject.lease, model.lease);
            let id = subject.id.clone();
            let unleased = LeaseToken::from_bytes([0; 16]);
            let hide = |task| LeasedTask { lease: unleased, ..task };
            world.same("leased task", &hide(subject), &hide(model));
            world.must(world.token(theirs).is_none(), "a token was given twice", &id);
            world.must(world.state(&id) == Some(TaskState::Pending), "I6: leased what was not pending", &id);
            world.leases.push(Lease { id, subject: ours, model: theirs, bytes_done: 0 });
            given.push(world.leases.len() - 1);
        });
        self.note(format!("  gave {:?}", given.iter().map(|n| &self.leases[*n].id).collect::<Vec<_>>()));
        given
    }

    /// Repeats the newest request of a session, or one before it.
    async fn lease_again(&mut self) {
        let n = self.rng.usize(0..self.sessions.len());
        let Some((request, at)) = self.sessions[n].newest.clone() else { return };
        if self.clock.local_now().since(at) >= MEMO {
            return;
        }
        let older = self.rng.bool();
        let request = LeaseRequest { request: request.request - u64::from(older), ..request };
        self.note(format!("lease {}/{} again", request.session, request.request));
        let subject = told(self.subject.lease(&request).await);
        let model = told(self.model.lease(&request).await);
        let (Ok(subject), Ok(model)) = (subject, model) else { self.fail("a lease request failed") };
        self.same_list("repeated lease", subject, model, |world, subject, model| {
            let expected = LeasedTask { lease: world.token(model.lease).unwrap_or(model.lease), ..model };
            world.same("repeated lease", &subject, &expected);
        });
    }

    /// A lease to say something about: mostly one that is held, sometimes an old one, a foreign token or somebody else's.
    fn some_lease(&mut self) -> Option<(usize, Lease)> {
        if self.leases.is_empty() {
            return None;
        }
        let any = self.rng.usize(0..self.leases.len());
        let held = !self.held.is_empty() && self.rng.u32(0..10) < 8;
        let n = if held { self.held[self.rng.usize(0..self.held.len())] } else { any };
        let mut lease = self.leases[n].clone();
        match self.rng.u32(0..40) {
            0 => {
                let foreign = LeaseToken::from_bytes(self.rng.u128(..).to_le_bytes());
                (lease.subject, lease.model) = (foreign, foreign);
            }
            1 => lease.id = self.leases[any].id.clone(),
            2 => lease.id = TaskId::derive("nobody", &exact("t", "a").spec.object),
            _ => {}
        }
        Some((n, lease))
    }

    async fn renew(&mut self) {
        let mut batch = Vec::new();
        for _ in 0..self.rng.usize(1..4) {
            let Some((n, lease)) = self.some_lease() else { return };
            // No worker says two things about a lease in one breath; repeated, the first would be said after the second.
            if batch.iter().any(|(said, ..): &(Lease, _, _, _)| said.subject == lease.subject) {
                continue;
            }
            let grown = [0, 0, 0, 1, 5][self.rng.usize(0..5)];
            self.leases[n].bytes_done += grown;
            let progress = Progress {
                bytes_done: self.leases[n].bytes_done.saturating_sub(u64::from(self.rng.u32(0..8) == 0)),
                bytes_total: self.rng.u64(0..3),
                steps_done: u64::from(self.rng.u32(0..12) == 0),
            };
            let upload_id = ["", "", "one", "two"][self.rng.usize(0..4)].to_owned();
            let session = format!("session-{}", self.rng.u32(0..3));
            batch.push((lease, progress, upload_id, session));
        }
        let renewal =
            |(lease, progress, upload_id, session): &(Lease, Progress, String, String), token| Renewal {
                id: lease.id.clone(),
                lease: token,
                progress: *progress,
                upload_id: upload_id.clone(),
                session: session.clone(),
            };
        self.note(format!("renew {:?}", batch.iter().map(|one| (&one.0.id, one.1)).collect::<Vec<_>>()));
        let of_subject: Vec<_> = batch.iter().map(|one| renewal(one, one.0.subject)).collect();
        let of_model: Vec<_> = batch.iter().map(|one| renewal(one, one.0.model)).collect();
        let subject = self.subject.renew(&of_subject).await;
        if self.answer_is_lost() {
            self.note("renew sent twice".into());
            self.subject.renew(&of_subject).await;
        }
        let model = self.model.renew(&of_model).await;
        let mut said = batch.into_iter();
        self.same_list("renew", subject, model, |world, subject, model| {
            let subject = told(subject);
            world.same("renew", &subject, &told(model));
            let lost = subject == Ok(RenewOutcome::Lost);
            if let Some((lease, ..)) = said.next().filter(|_| lost) {
                world.let_go(lease.subject);
            }
        });
    }

    async fn settle(&mut self) {
        let mut batch = Vec::new();
        for _ in 0..self.rng.usize(1..3) {
            let Some((_, lease)) = self.some_lease() else { return };
            batch.push((lease, self.random_outcome()));
        }
        self.settle_on_both(batch).await;
    }

    async fn settle_on_both(&mut self, batch: Vec<(Lease, Outcome)>) {
        self.note(format!("settle {:?}", batch.iter().map(|one| (&one.0.id, &one.1)).collect::<Vec<_>>()));
        let settlement = |(lease, outcome): &(Lease, Outcome), token| Settlement {
            id: lease.id.clone(),
            lease: token,
            outcome: outcome.clone(),
        };
        let of_subject: Vec<_> = batch.iter().map(|one| settlement(one, one.0.subject)).collect();
        let of_model = batch.iter().map(|one| settlement(one, one.0.model)).collect();
        let subject = self.subject.settle(of_subject.clone()).await;
        if self.answer_is_lost() {
            self.note("settle sent twice".into());
            self.subject.settle(of_subject).await;
        }
        let model = self.model.settle(of_model).await;
        let mut said = batch.into_iter();
        self.same_list("settle", subject, model, |world, subject, model| {
            let subject = told(subject);
            world.same("settle", &subject, &told(model));
            if let Some((lease, _)) = said.next() {
                world.let_go(lease.subject);
                if matches!(subject, Ok(SettleOutcome::Stored(_))) {
                    let first = world.stored.insert(lease.subject);
                    world.must(first, "I5: two reports of one lease were stored", &lease);
                }
            }
        });
    }

    fn random_outcome(&mut self) -> Outcome {
        let rng = &mut self.rng;
        let class = match rng.u32(0..21) {
            0..8 => return Outcome::Done { receipt: Bytes::from(rng.u64(..).to_string()) },
            8..14 => FailureClass::Retry,
            14..16 => FailureClass::Throttled,
            16 => FailureClass::Permanent,
            17 => FailureClass::SourceGone,
            18 => {
                let delay = Duration::from_millis([0, 0, 700, 9000][rng.usize(0..4)]);
                let upload_id = ["", "three"][rng.usize(0..2)].to_owned();
                return Outcome::HandedBack { upload_id, delay };
            }
            19 => return Outcome::NotSent { delay: Duration::from_millis([0, 0, 700][rng.usize(0..3)]) },
            _ => return Outcome::Cancelled,
        };
        let failure = Failure {
            class,
            code: "code".into(),
            message: rng.u32(..).to_string(),
            retry_after: Duration::from_millis([0, 0, 3000, 90_000][rng.usize(0..4)]),
        };
        Outcome::Failed { failure, jitter: rng.f64() }
    }

    fn let_go(&mut self, token: LeaseToken) {
        let leases = &self.leases;
        self.held.retain(|n| leases[*n].subject != token);
    }

    async fn cancel(&mut self) {
        let ids: Vec<_> = self.known.keys().cloned().collect();
        let Some(id) = self.rng.choice(&ids) else { return };
        self.note(format!("cancel {id}"));
        let subject = told(self.subject.cancel(id).await);
        if self.answer_is_lost() {
            self.note("cancel sent twice".into());
            let again = told(self.subject.cancel(id).await);
            self.same("repeated cancel", &again, &subject);
        }
        let model = told(self.model.cancel(id).await).map(|outcome| match outcome {
            CancelOutcome::Stopping { lease, session } => {
                CancelOutcome::Stopping { lease: self.token(lease).unwrap_or(lease), session }
            }
            CancelOutcome::Cancelled | CancelOutcome::Finished(_) => outcome,
        });
        self.same("cancel", &subject, &model);
    }

    /// Dead tasks for the most part, sometimes another task or another run.
    async fn requeue(&mut self) {
        let is_dead = |id: &TaskId| self.state(id) == Some(TaskState::Dead);
        let (dead, others): (Vec<TaskId>, Vec<TaskId>) = self.known.keys().cloned().partition(is_dead);
        let mut wanted = Vec::new();
        for _ in 0..self.rng.usize(1..4) {
            let from = if self.rng.u32(0..5) == 0 || dead.is_empty() { &others } else { &dead };
            let Some(id) = self.rng.choice(from).cloned() else { return };
            let run = self.known.get(&id).and_then(Option::as_ref).map_or(1, |record| record.run);
            wanted.push(Requeue { id, run: run + u32::from(self.rng.u32(0..12) == 0) });
        }
        self.note(format!("requeue {wanted:?}"));
        let subject = self.subject.requeue(wanted.clone()).await;
        if self.answer_is_lost() {
            self.note("requeue sent twice".into());
            let again = self.subject.requeue(wanted.clone()).await;
            let twice = again.iter().any(|one| matches!(one, Ok(RequeueOutcome::Requeued { .. })));
            // What was refused for want of room may find some.
            let room = subject.iter().any(Result::is_err);
            self.must(room || !twice, "I3: a repeated requeue began a run", &again);
        }
        let model = self.model.requeue(wanted).await;
        self.same_list("requeue", subject, model, |world, subject, model| {
            world.same("requeue", &told(subject), &told(model));
        });
    }

    /// Sweeps both until nothing is left to do now: how much fits in one pass is nobody's business.
    pub(super) async fn sweep(&mut self) {
        let subject = sweep_all(&*self.subject).await;
        let model = sweep_all(&self.model).await;
        self.note(format!("sweep {model:?}"));
        self.same("sweep", &subject, &model);
    }

    /// Takes whatever there is and finishes it.
    pub(super) async fn lease_and_finish(&mut self) {
        self.sessions[0].requests += 1;
        let request = LeaseRequest {
            session: self.sessions[0].name.clone(),
            request: self.sessions[0].requests,
            worker: "last".into(),
            max_tasks: 100,
            max_bytes: u64::MAX,
            locations: Arc::new(LOCATIONS.map(str::to_owned)),
        };
        let given = self.lease_on_both(&request).await;
        let done = || Outcome::Done { receipt: Bytes::from_static(b"at last") };
        let finish = given.into_iter().map(|n| (self.leases[n].clone(), done())).collect();
        self.held.clear();
        self.settle_on_both(finish).await;
    }

    /// Compares two lists of answers item by item.
    fn same_list<T: Debug>(
        &mut self,
        what: &str,
        subject: Vec<T>,
        model: Vec<T>,
        mut compare: impl FnMut(&mut Self, T, T),
    ) {
        if subject.len() != model.len() {
            self.fail(&format!("{what} differs\n  subject:   {subject:?}\n  reference: {model:?}"));
        }
        for (subject, model) in subject.into_iter().zip(model) {
            compare(self, subject, model);
        }
    }
}

async fn sweep_all(queue: &dyn TaskQueue) -> Result<SweepReport, String> {
    let mut all = SweepReport::default();
    loop {
        let one = told(queue.sweep().await)?;
        all = SweepReport {
            expired: all.expired + one.expired,
            unaccepted: all.unaccepted + one.unaccepted,
            promoted: all.promoted + one.promoted,
            reaped: all.reaped + one.reaped,
            fixed: all.fixed + one.fixed,
            more: false,
            next_due: one.next_due,
            amnesty: all.amnesty || one.amnesty,
            unswept: all.unswept + one.unswept,
        };
        if !one.more {
            return Ok(all);
        }
    }
}
