//! Random orders of events: whatever happens, credit, tokens and drains hold.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::session::{CloseReason, DrainOrder};

/// One step of a run. Numbers pick tasks among those in question.
#[derive(Debug, Clone)]
enum Step {
    Credit(u32, u64),
    Offer(Vec<u8>),
    Accept(u8),
    Refuse(u8, u8),
    Beat,
    Done(u8),
    Repeat(u8),
    QueueAnswers(bool),
    Read(u8),
    Wait(u32),
    StopCopy(u8),
    WorkerDrains(u16),
    Drain(u16),
    Close(u8),
}

impl Step {
    /// True for what a session no longer hears when it is closed.
    const fn is_of_worker(&self) -> bool {
        match self {
            Self::Credit(..)
            | Self::Accept(_)
            | Self::Refuse(..)
            | Self::Beat
            | Self::Done(_)
            | Self::Repeat(_)
            | Self::WorkerDrains(_) => true,
            Self::Offer(_)
            | Self::QueueAnswers(_)
            | Self::Read(_)
            | Self::Wait(_)
            | Self::StopCopy(_)
            | Self::Drain(_)
            | Self::Close(_) => false,
        }
    }
}

/// What the worker and the queue know, to check the session against.
#[derive(Debug, Default)]
struct Model {
    credit: Credit,
    /// Leases ever offered to the session, and their cost.
    offered: HashMap<LeaseToken, (LeaseKey, u64)>,
    /// Sent to the worker and not confirmed, called off or lost.
    outstanding: HashMap<LeaseToken, u64>,
    sent: HashSet<LeaseToken>,
    sent_at: HashMap<LeaseToken, Instant>,
    /// Accepted or refused by the worker, once.
    answered: HashSet<LeaseToken>,
    accepted: HashSet<LeaseToken>,
    /// Reported by the worker and not confirmed.
    reported: HashSet<LeaseToken>,
    /// Settled by the session, as the queue would see it.
    handed_back: HashSet<LeaseToken>,
    settled_done: HashSet<LeaseToken>,
    drain_told: bool,
    seq: u64,
    asked: Vec<Asked>,
    welcomed: bool,
}

#[derive(Debug)]
enum Asked {
    Renew(RenewFor, Vec<LeaseToken>),
    Settle(Vec<LeaseToken>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..6_u32, 0..200_u64).prop_map(|(tasks, mib)| Step::Credit(tasks, mib)),
        6 => prop::collection::vec(0..120_u8, 1..5).prop_map(Step::Offer),
        6 => any::<u8>().prop_map(Step::Accept),
        1 => (any::<u8>(), 1..4_u8).prop_map(|(pick, why)| Step::Refuse(pick, why)),
        2 => Just(Step::Beat),
        5 => any::<u8>().prop_map(Step::Done),
        1 => any::<u8>().prop_map(Step::Repeat),
        8 => prop::bool::weighted(0.9).prop_map(Step::QueueAnswers),
        8 => any::<u8>().prop_map(Step::Read),
        4 => (0..6_000_u32).prop_map(Step::Wait),
        1 => any::<u8>().prop_map(Step::StopCopy),
        1 => any::<u16>().prop_map(Step::WorkerDrains),
        1 => any::<u16>().prop_map(Step::Drain),
        1 => (0..60_u8).prop_map(Step::Close),
    ]
}

fn pick(tokens: &HashSet<LeaseToken>, index: u8) -> Option<LeaseToken> {
    let mut tokens: Vec<_> = tokens.iter().copied().collect();
    tokens.sort_by_key(|token| *token.as_bytes());
    tokens.get(usize::from(index) % tokens.len().max(1)).copied()
}

struct Run {
    rig: Rig,
    model: Model,
    next_token: u128,
}

impl Run {
    fn new() -> Self {
        let mut rig = Rig::new();
        let credit = Credit { tasks: 3, bytes: 100 * MIB };
        rig.says(hello(credit));
        let mut run = Self { rig, model: Model { credit, ..Model::default() }, next_token: 0 };
        run.collect();
        run
    }

    fn take(&mut self, step: Step) {
        if self.rig.session.close_reason().is_some() && step.is_of_worker() {
            return;
        }
        match step {
            Step::Credit(tasks, mib) => {
                self.model.credit = Credit { tasks, bytes: mib * MIB };
                self.rig.says(Event::Credit(self.model.credit));
            }
            Step::Offer(sizes) => {
                let tasks = sizes.into_iter().map(|mib| self.new_task(u64::from(mib))).collect();
                let request = self.rig.session.standing().offers_seen + 1;
                self.rig.says(Event::Offered { request, tasks });
            }
            Step::Accept(index) => self.answer(index, pb::AcceptRefusal::Unspecified),
            Step::Refuse(index, why) => {
                self.answer(index, pb::AcceptRefusal::try_from(i32::from(why)).unwrap());
            }
            Step::Beat => {
                self.model.seq += 1;
                let held = self.model.accepted.iter().map(|token| self.held(*token)).collect();
                self.rig.says(Event::Heartbeat { seq: self.model.seq, held });
            }
            Step::Done(index) => {
                if let Some(token) = pick(&self.model.accepted, index) {
                    self.model.accepted.remove(&token);
                    self.model.reported.insert(token);
                    self.report(token);
                }
            }
            Step::Repeat(index) => {
                if let Some(token) = pick(&self.model.reported, index) {
                    self.report(token);
                }
            }
            Step::QueueAnswers(works) => self.queue_answers(works),
            Step::Read(count) => self.read(count),
            Step::Wait(ms) => self.rig.wait_ms(u64::from(ms)),
            Step::StopCopy(index) => {
                if let Some(token) = pick(&self.model.sent, index) {
                    self.rig.says(Event::StopCopy(self.model.offered[&token].0.clone()));
                }
            }
            Step::WorkerDrains(ms) => {
                self.rig.says(Event::WorkerDrains { finish_within: Duration::from_millis(ms.into()) });
            }
            Step::Drain(ms) => {
                let within = Duration::from_millis(ms.into());
                let reason = pb::DrainReason::Shutdown;
                self.rig.says(Event::Drain(DrainOrder { reason, within, taken_over: Arc::new([]) }));
            }
            Step::Close(0) => self.rig.says(Event::PeerClosed),
            Step::Close(1) => self.rig.says(Event::PeerLost),
            Step::Close(2) => self.rig.says(Event::Stop),
            Step::Close(_) => {}
        }
        self.collect();
    }

    fn new_task(&mut self, mib: u64) -> LeasedTask {
        self.next_token += 1;
        let mut task = self.rig.task(&format!("k{}:{mib}", self.next_token));
        task.lease = LeaseToken::from_bytes(self.next_token.to_be_bytes());
        let key = LeaseKey { id: task.id.clone(), lease: task.lease };
        let cost = if mib == 0 { 16 * MIB } else { mib * MIB };
        self.model.offered.insert(task.lease, (key, cost));
        task
    }

    fn held(&self, token: LeaseToken) -> Held {
        let task = TaskName::Known(self.model.offered[&token].0.id.clone());
        Held { task, lease: token, progress: Progress::default(), upload_id: String::new() }
    }

    fn answer(&mut self, index: u8, refusal: pb::AcceptRefusal) {
        let open = self.model.sent.difference(&self.model.answered).copied().collect();
        let Some(token) = pick(&open, index) else { return };
        let task = TaskName::Known(self.model.offered[&token].0.id.clone());
        self.model.answered.insert(token);
        if !self.rig.session.leases.contains(token) {
            // Given up before the answer came, which it must have been too late for.
            assert!(self.rig.now - self.model.sent_at[&token] >= settings().accept_within);
        } else if refusal == pb::AcceptRefusal::Unspecified {
            self.model.accepted.insert(token);
        } else {
            self.model.outstanding.remove(&token);
        }
        self.rig.says(Event::Accepts(vec![Answer { task, lease: token, refusal }]));
    }

    fn report(&mut self, token: LeaseToken) {
        let task = TaskName::Known(self.model.offered[&token].0.id.clone());
        let outcome = Outcome::Done { receipt: Bytes::new() };
        self.rig.says(Event::Results(vec![Report { task, lease: token, outcome }]));
    }

    fn queue_answers(&mut self, works: bool) {
        if self.model.asked.is_empty() {
            return;
        }
        match self.model.asked.remove(0) {
            Asked::Renew(what, tokens) => {
                let answers = tokens.iter().map(|token| self.renewed(*token)).map(Ok).collect();
                self.rig.says(Event::Renewed(what, if works { answers } else { Vec::new() }));
            }
            Asked::Settle(tokens) => {
                let stored = |_| Ok(SettleOutcome::Stored(TaskState::Done));
                let answers = if works { tokens.into_iter().map(stored).collect() } else { Vec::new() };
                self.rig.says(Event::Settled(answers));
            }
        }
    }

    fn renewed(&self, token: LeaseToken) -> RenewOutcome {
        if self.model.handed_back.contains(&token) {
            RenewOutcome::Lost
        } else {
            RenewOutcome::Keep(Duration::from_secs(30))
        }
    }

    /// Carries out effects, and checks them.
    fn collect(&mut self) {
        while let Some(effect) = self.rig.session.next_effect() {
            match effect {
                Effect::Attach(..) => {}
                Effect::Listed(..) => panic!("no page was asked for"),
                Effect::Renew(what, renewals) => {
                    let tokens = renewals.iter().map(|renewal| renewal.lease).collect();
                    assert!(
                        !self
                            .model
                            .asked
                            .iter()
                            .any(|asked| matches!(asked, Asked::Renew(same, _) if *same == what)),
                        "one call of a kind at a time"
                    );
                    self.model.asked.push(Asked::Renew(what, tokens));
                }
                Effect::Settle(settlements) => {
                    assert!(!self.model.asked.iter().any(|asked| matches!(asked, Asked::Settle(_))));
                    for settlement in &settlements {
                        self.check_settlement(settlement.lease, &settlement.outcome);
                    }
                    let tokens = settlements.iter().map(|settlement| settlement.lease).collect();
                    self.model.asked.push(Asked::Settle(tokens));
                }
            }
        }
    }

    fn check_settlement(&mut self, token: LeaseToken, outcome: &Outcome) {
        match outcome {
            Outcome::HandedBack { .. } | Outcome::NotSent { .. } => {
                assert!(
                    !self.model.accepted.contains(&token),
                    "an accepted lease was handed back: {token:?}"
                );
                assert!(!self.model.reported.contains(&token), "a reported lease was handed back: {token:?}");
                assert!(self.model.handed_back.insert(token), "handed back twice: {token:?}");
            }
            Outcome::Done { .. } => {
                self.model.settled_done.insert(token);
            }
            Outcome::Failed { .. } | Outcome::Cancelled => panic!("nobody reported that"),
        }
    }

    /// The worker reads some messages, and checks them.
    fn read(&mut self, count: u8) {
        for _ in 0..=count % 4 {
            if !self.rig.session.has_message() {
                return;
            }
            let message = self.rig.session.next_message(self.rig.now).unwrap().message.unwrap();
            assert!(self.model.welcomed || matches!(message, Message::Welcome(_)), "Welcome comes first");
            match message {
                Message::Welcome(_) => assert!(!std::mem::replace(&mut self.model.welcomed, true)),
                Message::Assign(assign) => {
                    assign.assignments.iter().for_each(|task| self.check_assignment(task))
                }
                Message::LeaseUpdates(updates) => {
                    for update in updates.updates {
                        if update.verdict() == pb::LeaseVerdict::Lost {
                            let token = LeaseToken::from_slice(&update.lease).unwrap();
                            self.model.accepted.remove(&token);
                            self.model.outstanding.remove(&token);
                        }
                    }
                }
                Message::Confirms(confirms) => {
                    for confirm in confirms.confirms {
                        let token = LeaseToken::from_slice(&confirm.lease).unwrap();
                        assert!(
                            self.model.settled_done.contains(&token),
                            "a Confirm before the queue was asked"
                        );
                        if confirm.verdict() != pb::ConfirmVerdict::TryAgain {
                            self.model.reported.remove(&token);
                            self.model.outstanding.remove(&token);
                        }
                    }
                }
                Message::Cancel(cancel) => {
                    for lease in cancel.leases {
                        let token = LeaseToken::from_slice(&lease.lease).unwrap();
                        assert!(self.model.sent.contains(&token), "a Cancel for what was never sent");
                        if !self.rig.session.leases.contains(token) {
                            // Called off: the worker is not counted on for it any more.
                            self.model.accepted.remove(&token);
                            self.model.outstanding.remove(&token);
                        }
                    }
                }
                Message::Drain(_) => self.model.drain_told = true,
                Message::List(_) => panic!("no page was asked for"),
            }
        }
    }

    fn check_assignment(&mut self, task: &pb::Assignment) {
        let token = LeaseToken::from_slice(&task.lease).unwrap();
        let (key, cost) = self.model.offered[&token].clone();
        assert_eq!(task.task_id, key.id.as_str(), "a token of another task");
        assert!(self.model.sent.insert(token), "sent twice: {token:?}");
        assert!(!self.model.handed_back.contains(&token), "sent after it was handed back: {token:?}");
        assert!(!self.model.drain_told, "a task after Drain");
        // What the worker has read by now is all it can go by: every call-off and Confirm comes before the task that needs it.
        let held = &self.model.outstanding;
        let limit = self.model.credit;
        assert!(held.len() < limit.tasks as usize, "more tasks than the credit");
        assert!(
            held.is_empty() || held.values().sum::<u64>() + cost <= limit.bytes,
            "more bytes than the credit"
        );
        self.model.outstanding.insert(token, cost);
        self.model.sent_at.insert(token, self.rig.now);
    }

    /// Ends the stream, and checks that nothing is left behind.
    fn finish(&mut self) {
        self.rig.says(Event::PeerLost);
        self.collect();
        while !self.model.asked.is_empty() {
            self.queue_answers(true);
            self.collect();
        }
        assert!(self.rig.session.is_over());
        assert!(self.rig.session.close_reason().is_some());
        for token in self.model.offered.keys() {
            let went_back = self.model.handed_back.contains(token);
            let was_sent = self.model.sent.contains(token);
            assert!(went_back || was_sent, "lost without a word: {token:?}");
        }
        for token in &self.model.sent {
            let is_settled =
                self.model.handed_back.contains(token) || self.model.settled_done.contains(token);
            assert!(
                is_settled || self.model.accepted.contains(token),
                "neither accepted nor handed back: {token:?}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_order_of_events_breaks_credit_tokens_or_drains(steps in prop::collection::vec(step(), 1..120)) {
        let mut run = Run::new();
        for step in steps {
            run.take(step);
            if matches!(run.rig.session.close_reason(), Some(CloseReason::Broken(_))) {
                panic!("an honest worker was accused: {:?}", run.rig.session.close_reason());
            }
        }
        run.finish();
    }
}
