//! Transcripts of a session: what goes in, and what comes out, in short words.
//!
//! Tasks are named by their key and have the lease whose bytes are all the first byte of that key. `renew`, `settle` and
//! `attach` are effects; everything in capitals is a message to the worker. The queue answers only when a test says so.

mod credit;
mod ending;
mod pages;
mod queue;
mod random;
mod rules;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use backhaul_proto::v1::{self as pb, from_dispatcher::Message};
use bytes::Bytes;

use super::{
    super::{
        Answer, Credit, Effect, Event, Held, Hello, LeaseKey, RenewFor, Report, SessionId, StreamSettings,
        TaskName, WorkerInfo,
    },
    Session,
};
use crate::queue::{
    Failure, FailureClass, LeaseToken, LeasedTask, ObjectRef, Outcome, Priority, Progress, QueueError,
    RenewOutcome, SettleOutcome, TaskId, TaskSpec, TaskState,
};

const MIB: u64 = 1024 * 1024;

/// A session with a clock of its own.
#[derive(Debug)]
struct Rig {
    session: Session,
    now: Instant,
    names: HashMap<TaskId, String>,
}

impl Rig {
    /// A stream that has just been opened.
    fn new() -> Self {
        let now = tokio::time::Instant::now().into_std();
        let id = SessionId::random().unwrap();
        let session = Session::new(now, id, Arc::new(settings()), 0.5);
        Self { session, now, names: HashMap::new() }
    }

    /// An attached worker with this credit.
    fn attached(tasks: u32, mib: u64) -> Self {
        let mut rig = Self::new();
        rig.says(hello(Credit { tasks, bytes: mib * MIB }));
        assert_eq!(rig.drain(), ["attach w", "WELCOME"]);
        rig
    }

    /// Something happens.
    fn says(&mut self, event: Event) {
        self.session.handle_event(self.now, event);
    }

    /// Time passes, with every timer on the way.
    fn wait(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(at) = self.session.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.session.handle_timeout(self.now);
            let next = self.session.poll_timeout();
            assert_ne!(next, Some(at), "a timer that does not move makes a driver spin");
        }
        self.now = end;
    }

    fn wait_ms(&mut self, ms: u64) {
        self.wait(Duration::from_millis(ms));
    }

    /// Tasks leased for the session: keys, with the size hint in MiB behind a colon.
    fn offers(&mut self, tasks: &str) {
        let tasks = tasks.split_whitespace().map(|task| self.task(task)).collect();
        let request = self.session.standing().offers_seen + 1;
        self.says(Event::Offered { request, tasks });
    }

    /// As [`Rig::offers`], a task under a retention class.
    fn offers_under(&mut self, class: &str, key: &str) {
        let mut task = self.task(key);
        task.spec.retention_class = class.into();
        let request = self.session.standing().offers_seen + 1;
        self.says(Event::Offered { request, tasks: vec![task] });
    }

    fn task(&mut self, text: &str) -> LeasedTask {
        let (key, mib) = text.split_once(':').map_or((text, 0), |(key, mib)| (key, mib.parse().unwrap()));
        let object =
            ObjectRef { location: "uploads".into(), bucket: "b".into(), key: key.into(), version: None };
        let id = TaskId::derive("t", &object);
        self.names.insert(id.clone(), key.to_owned());
        LeasedTask {
            id,
            lease: lease(key),
            spec: TaskSpec {
                tenant: "t".into(),
                object,
                priority: Priority::Normal,
                max_attempts: 3,
                labels: BTreeMap::new(),
                size_hint_bytes: mib * MIB,
                verify: None,
                processing_timeout: Duration::from_secs(600),
                traceparent: String::new(),
                retention_class: String::new(),
            },
            attempts: 0,
            accept_within: Duration::from_secs(15),
            upload_id: String::new(),
        }
    }

    fn key(&mut self, key: &str) -> LeaseKey {
        let task = self.task(key);
        LeaseKey { id: task.id, lease: task.lease }
    }

    fn name(&mut self, key: &str) -> TaskName {
        TaskName::Known(self.key(key).id)
    }

    fn accepts(&mut self, keys: &str) {
        self.answers(keys, pb::AcceptRefusal::Unspecified);
    }

    /// Tasks that the worker has been given and has accepted.
    fn copies(&mut self, keys: &str) {
        self.offers(keys);
        self.drain();
        self.accepts(keys);
    }

    fn answers(&mut self, keys: &str, refusal: pb::AcceptRefusal) {
        let answers = keys
            .split_whitespace()
            .map(|key| Answer { task: self.name(key), lease: lease(key), refusal })
            .collect();
        self.says(Event::Accepts(answers));
    }

    fn held(&mut self, keys: &str) -> Vec<Held> {
        keys.split_whitespace()
            .map(|key| Held {
                task: self.name(key),
                lease: lease(key),
                progress: Progress::default(),
                upload_id: String::new(),
            })
            .collect()
    }

    fn beats(&mut self, seq: u64, keys: &str) {
        let held = self.held(keys);
        self.says(Event::Heartbeat { seq, held });
    }

    fn reports(&mut self, keys: &str) -> Vec<Report> {
        keys.split_whitespace()
            .map(|key| Report {
                task: self.name(key),
                lease: lease(key),
                outcome: Outcome::Done { receipt: Bytes::new() },
            })
            .collect()
    }

    fn done(&mut self, keys: &str) {
        let reports = self.reports(keys);
        self.says(Event::Results(reports));
    }

    /// The queue answers a settle call of `count` items, all stored.
    fn stored(&mut self, count: usize) {
        self.says(Event::Settled((0..count).map(|_| Ok(SettleOutcome::Stored(TaskState::Done))).collect()));
    }

    /// The queue answers a renew call of `count` leases: keep them all.
    fn kept(&mut self, what: RenewFor, count: usize) {
        let keep = RenewOutcome::Keep(Duration::from_secs(30));
        self.says(Event::Renewed(what, (0..count).map(|_| Ok(keep)).collect()));
    }

    /// Everything that comes out now, effects before messages.
    fn drain(&mut self) -> Vec<String> {
        let mut out = self.effects();
        out.extend(self.messages());
        out
    }

    fn effects(&mut self) -> Vec<String> {
        let mut out = Vec::new();
        while let Some(effect) = self.session.next_effect() {
            out.push(match effect {
                Effect::Attach(worker, _) => format!("attach {}", worker.name),
                Effect::Listed(lease, answer) => {
                    let told = answer.map(|answer| answer.map(|found| found.listed).map_err(|f| f.code));
                    format!("listed {} {told:?}", lease.as_bytes()[0])
                }
                Effect::Renew(what, renewals) => {
                    let keys = renewals.iter().map(|renewal| self.called(&renewal.id)).collect::<Vec<_>>();
                    format!("renew {what:?} {}", keys.join(" "))
                }
                Effect::Settle(settlements) => {
                    let items = settlements
                        .iter()
                        .map(|settlement| {
                            format!("{}={}", self.called(&settlement.id), outcome(&settlement.outcome))
                        })
                        .collect::<Vec<_>>();
                    format!("settle {}", items.join(" "))
                }
            });
        }
        out
    }

    fn messages(&mut self) -> Vec<String> {
        let mut out = Vec::new();
        while self.session.has_message() {
            let message = self.session.next_message(self.now).unwrap();
            out.push(self.show(message.message.unwrap()));
        }
        assert_eq!(self.session.next_message(self.now), None);
        out
    }

    fn show(&self, message: Message) -> String {
        let called = |id: &str| TaskId::parse(id).map_or_else(|_| id.to_owned(), |id| self.called(&id));
        let verdicts = |updates: &[pb::LeaseUpdate]| {
            updates
                .iter()
                .map(|update| format!(" {}={:?}", called(&update.task_id), update.verdict()))
                .collect::<String>()
        };
        match message {
            Message::Welcome(welcome) => format!("WELCOME{}", verdicts(&welcome.held)),
            Message::Assign(assign) => {
                let keys = assign.assignments.iter().map(|task| called(&task.task_id)).collect::<Vec<_>>();
                format!("ASSIGN {}", keys.join(" "))
            }
            Message::LeaseUpdates(updates) => format!("LEASES {}{}", updates.seq, verdicts(&updates.updates)),
            Message::Confirms(confirms) => {
                let items = confirms
                    .confirms
                    .iter()
                    .map(|confirm| format!("{}={:?}", called(&confirm.task_id), confirm.verdict()))
                    .collect::<Vec<_>>();
                format!("CONFIRM {}", items.join(" "))
            }
            Message::Cancel(cancel) => {
                let keys = cancel.leases.iter().map(|lease| called(&lease.task_id)).collect::<Vec<_>>();
                format!("CANCEL {}", keys.join(" "))
            }
            Message::List(page) => format!("LIST {:?}", page.prefix.unwrap_or_default().prefix),
            Message::Drain(drain) => format!("DRAIN {:?} {}", drain.reason(), drain.within_ms),
        }
    }

    fn called(&self, id: &TaskId) -> String {
        self.names.get(id).cloned().unwrap_or_else(|| id.to_string())
    }
}

fn settings() -> StreamSettings {
    StreamSettings { rebalance_after: None, ..StreamSettings::default() }
}

fn lease(key: &str) -> LeaseToken {
    LeaseToken::from_bytes([key.as_bytes()[0]; 16])
}

fn hello(credit: Credit) -> Event {
    hello_with(credit, Vec::new(), Vec::new())
}

fn hello_with(credit: Credit, held: Vec<Held>, unconfirmed: Vec<Report>) -> Event {
    let locations: Vec<String> = vec!["archive".into(), "uploads".into()];
    let worker = WorkerInfo {
        instance: [1; 16],
        name: "w".into(),
        version: "1".into(),
        locations: locations.into(),
        lists: true,
        retention_classes: ["uploads/long".to_owned()].into(),
    };
    Event::Hello(Box::new(Hello { worker, paused: Vec::new(), credit, held, unconfirmed }))
}

fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done { .. } => "done".into(),
        Outcome::Failed { .. } => "failed".into(),
        Outcome::HandedBack { delay, .. } if delay.is_zero() => "back".into(),
        Outcome::HandedBack { delay, .. } => format!("back({}s)", delay.as_secs()),
        Outcome::NotSent { delay } if delay.is_zero() => "unsent".into(),
        Outcome::NotSent { delay } => format!("unsent({}s)", delay.as_secs()),
        Outcome::Cancelled => "cancelled".into(),
    }
}

fn unavailable<T>() -> Result<T, QueueError> {
    Err(QueueError::Unavailable("down".into()))
}

fn failure() -> Outcome {
    let failure = Failure {
        class: FailureClass::Retry,
        code: "source_timeout".into(),
        message: String::new(),
        retry_after: Duration::ZERO,
    };
    Outcome::Failed { failure, jitter: 0.5 }
}
