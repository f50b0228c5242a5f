//! Whatever happens in whatever order, the link keeps its promises.

use std::collections::HashMap;

use backhaul_proto::v1::{from_worker::Message, task_result::Outcome};
use proptest::prelude::*;
use tokio::time::Instant as Clock;

use super::{super::task::Progress, *};

/// One thing that a dispatcher, a copy, a network or the clock may do.
#[derive(Debug, Clone)]
enum Step {
    Dialled,
    DialFailed,
    StreamEnded,
    Welcome { verdict: u8 },
    Assign { task: u8, token: u8 },
    Answer { back: u64, verdict: u8 },
    Confirm { task: u8, token: u8, settled: bool },
    Cancel { task: u8, token: u8 },
    Move { superseded: bool },
    Finish { nth: usize },
    Drain,
    Speak { messages: usize },
    Pass { ms: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let (task, token) = (0..6_u8, 0..3_u8);
    prop_oneof![
        3 => Just(Step::Dialled),
        1 => Just(Step::DialFailed),
        1 => Just(Step::StreamEnded),
        3 => (0..5_u8).prop_map(|verdict| Step::Welcome { verdict }),
        8 => (task.clone(), token.clone()).prop_map(|(task, token)| Step::Assign { task, token }),
        3 => (0..3_u64, 0..5_u8).prop_map(|(back, verdict)| Step::Answer { back, verdict }),
        4 => (task.clone(), token.clone(), any::<bool>())
            .prop_map(|(task, token, settled)| Step::Confirm { task, token, settled }),
        1 => (task, token).prop_map(|(task, token)| Step::Cancel { task, token }),
        1 => any::<bool>().prop_map(|superseded| Step::Move { superseded }),
        6 => (0..6_usize).prop_map(|nth| Step::Finish { nth }),
        1 => Just(Step::Drain),
        6 => (0..6_usize).prop_map(|messages| Step::Speak { messages }),
        4 => prop_oneof![0..10_u64, 0..1_500_u64, 0..30_000_u64].prop_map(|ms| Step::Pass { ms }),
    ]
}

fn key(task: u8, token: u8) -> LeaseKey {
    LeaseKey::from_wire(&task.to_string(), &[token; 16]).expect("it is well formed")
}

/// What an outside observer knows, from effects and messages alone.
#[derive(Default)]
struct Observer {
    /// Copies that run, and whether each lease was lost.
    running: Vec<LeaseKey>,
    /// Latest end of each lease, had every renewal come back with no delay at all.
    lease_ends: HashMap<LeaseKey, Instant>,
    /// Results handed in and not settled.
    owed: Vec<LeaseKey>,
    hello_at: Option<Instant>,
    beats: HashMap<u64, Instant>,
    dialling: bool,
    open: bool,
    attached: bool,
    said_hello: bool,
    left: bool,
}

const CREDIT: usize = 3;
const LEASE: Duration = Duration::from_secs(30);

fn settings() -> LinkSettings {
    LinkSettings {
        worker: "w".into(),
        instance: [0; 16],
        version: String::new(),
        locations: ["media".to_owned()].into(),
        retention_classes: [].into(),
        credit: CreditLimit { tasks: 3, bytes: 1 << 30 },
        welcome_within: Duration::from_secs(10),
        answer_within: Duration::from_secs(20),
        flush_every: Duration::from_millis(5),
        retry_after: Duration::from_secs(1),
        backoff: Backoff::try_new(Duration::from_millis(100), Duration::from_secs(10))
            .expect("the bounds make sense"),
        stable_after: Duration::from_secs(10),
        seed: 1,
    }
}

fn news(leases: impl Iterator<Item = LeaseKey>, verdict: u8) -> Vec<LeaseNews> {
    let verdict = v1::LeaseVerdict::try_from(i32::from(verdict)).expect("the verdicts are 0 to 4");
    leases.map(|lease| LeaseNews { lease, verdict, lease_for: LEASE }).collect()
}

impl Observer {
    fn event(&mut self, link: &mut Link, now: Instant, event: Event) {
        link.handle_event(now, event);
    }

    fn carry_out(&mut self, link: &mut Link, now: Instant) -> Result<(), TestCaseError> {
        while let Some(effect) = link.next_effect() {
            prop_assert!(!self.left, "nothing follows the departure");
            match effect {
                Effect::Dial => {
                    prop_assert!(!self.dialling, "one dial at a time");
                    self.dialling = true;
                }
                Effect::Open => {
                    (self.open, self.attached, self.said_hello) = (true, false, false);
                    (self.hello_at, self.beats) = (None, HashMap::new());
                }
                Effect::Hangup(_) => {
                    prop_assert!(self.open, "only an open stream is given up");
                    (self.open, self.attached) = (false, false);
                }
                Effect::Start(assignment) => {
                    let lease = assignment.lease;
                    prop_assert!(!self.running.contains(&lease), "no lease is started twice");
                    prop_assert!(!self.owed.contains(&lease), "no finished lease is started again");
                    self.lease_ends.insert(lease.clone(), now + LEASE);
                    self.running.push(lease);
                }
                Effect::Stop(lease, StopReason::Lost) => {
                    prop_assert!(self.running.contains(&lease), "what is lost was held");
                    self.running.retain(|l| *l != lease);
                }
                Effect::Stop(lease, StopReason::Cancelled | StopReason::HandBack) => {
                    prop_assert!(self.running.contains(&lease), "what is stopped was held");
                }
                Effect::Drain | Effect::Pause(_) => {}
                Effect::List(_) | Effect::DropPages => panic!("no page was asked for"),
                Effect::Leave(departure) => {
                    self.left = true;
                    prop_assert_eq!(departure.leases, self.running.len());
                    prop_assert_eq!(departure.unconfirmed, self.owed.len());
                }
            }
        }
        Ok(())
    }

    fn hear(&mut self, link: &mut Link, now: Instant) -> Result<bool, TestCaseError> {
        let Some(message) = link.next_message(now, |_| Progress::default()) else { return Ok(false) };
        prop_assert!(self.open && !self.left, "nothing is said without a stream");
        let message = message.message.expect("an arm is always set");
        let greets = matches!(message, Message::Hello(_));
        prop_assert!(
            greets || self.said_hello && self.attached,
            "Hello and Welcome come first: {:?}",
            message
        );
        match message {
            Message::Hello(hello) => {
                prop_assert!(!self.said_hello, "Hello once");
                self.said_hello = true;
                self.hello_at = Some(now);
                prop_assert_eq!(hello.held.len(), self.running.len(), "every lease is resumed");
                prop_assert_eq!(hello.unconfirmed.len(), self.owed.len(), "every result is sent again");
            }
            Message::Heartbeat(beat) => {
                prop_assert_eq!(beat.held.len(), self.running.len());
                self.beats.insert(beat.seq, now);
            }
            Message::Results(results) => {
                for result in results.results {
                    let lease = LeaseKey::from_wire(&result.task_id, &result.lease);
                    prop_assert!(lease.is_some_and(|l| self.owed.contains(&l)), "only what is owed");
                }
            }
            Message::Credit(credit) => prop_assert!(credit.tasks as usize <= CREDIT),
            Message::Accepts(_) | Message::Draining(_) | Message::Paused(_) => {}
            Message::Listed(_) => prop_assert!(false, "no page was asked for"),
        }
        Ok(true)
    }

    fn renewed(&mut self, leases: &[LeaseNews], asked: Instant) {
        for news in leases {
            let ends = asked + news.lease_for;
            let lease = news.lease.clone();
            match news.verdict {
                v1::LeaseVerdict::Keep => drop(self.lease_ends.insert(lease, ends)),
                // Nobody could ask the queue, so nobody else has the task: time to go on, and none is taken away.
                v1::LeaseVerdict::Unknown | v1::LeaseVerdict::Unspecified => {
                    let known = self.lease_ends.entry(lease).or_insert(ends);
                    *known = ends.max(*known);
                }
                v1::LeaseVerdict::Lost | v1::LeaseVerdict::Cancel => {}
            }
        }
    }

    fn take(&mut self, link: &mut Link, now: &mut Instant, step: Step) -> Result<(), TestCaseError> {
        let at = *now;
        match step {
            Step::Dialled | Step::DialFailed if !self.dialling => {}
            Step::Dialled => {
                self.dialling = false;
                self.event(link, at, Event::Dialled);
            }
            Step::DialFailed => {
                self.dialling = false;
                self.event(link, at, Event::DialFailed);
            }
            Step::StreamEnded if self.open => {
                (self.open, self.attached) = (false, false);
                self.event(link, at, Event::StreamEnded);
            }
            Step::Welcome { verdict } if self.open => {
                let held = news(self.running.iter().cloned(), verdict);
                if let (Some(asked), false) = (self.hello_at, self.attached) {
                    self.renewed(&held, asked);
                    self.attached = true;
                }
                let session = String::new();
                let heartbeat_every = Duration::from_secs(10);
                self.event(link, at, Event::Welcome(Welcomed { session, heartbeat_every, held }));
            }
            Step::Assign { task, token } if self.open => {
                let assignment = Assignment {
                    lease: key(task, token),
                    lease_for: LEASE,
                    object: v1::ObjectRef { location: "media".into(), ..Default::default() },
                    tenant: String::new(),
                    attempt: 1,
                    verify: v1::VerifyLevel::Unspecified,
                    size_hint_bytes: None,
                    resume_upload_id: String::new(),
                    retention_class: String::new(),
                    traceparent: String::new(),
                    priority: v1::Priority::Normal,
                };
                self.event(link, at, Event::Assigned(vec![assignment]));
            }
            Step::Answer { back, verdict } if self.open => {
                let newest = self.beats.keys().max().copied().unwrap_or(0);
                let seq = newest.saturating_sub(back);
                let updates = news(self.running.iter().cloned(), verdict);
                // An answer that comes twice, or after a newer one, renews nothing.
                if let Some(asked) = self.beats.remove(&seq) {
                    self.beats.retain(|s, _| *s > seq);
                    self.renewed(&updates, asked);
                }
                self.event(link, at, Event::LeaseUpdates { seq, updates });
            }
            Step::Confirm { task, token, settled } if self.open => {
                let lease = key(task, token);
                if settled && self.attached {
                    self.owed.retain(|l| *l != lease);
                }
                self.event(link, at, Event::Confirmed(vec![Confirmation { lease, settled }]));
            }
            Step::Cancel { task, token } if self.open => {
                self.event(link, at, Event::CancelAsked(vec![key(task, token)]));
            }
            Step::Move { superseded } if self.open => self.event(link, at, Event::MoveAsked { superseded }),
            Step::Finish { nth } if nth < self.running.len() && !self.left => {
                let lease = self.running.remove(nth);
                self.owed.push(lease.clone());
                let outcome = Box::new(Outcome::Receipt(v1::Receipt::default()));
                self.event(link, at, Event::Finished(Finished { lease, outcome }));
            }
            Step::Drain => self.event(link, at, Event::DrainAsked { within: Duration::from_secs(25) }),
            Step::Speak { messages } => {
                for _ in 0..messages {
                    if !self.hear(link, at)? {
                        break;
                    }
                }
            }
            Step::Pass { ms } => {
                // As a driver does: no timer is slept through.
                let until = at + Duration::from_millis(ms);
                while let Some(timer) = link.poll_timeout().filter(|t| *t <= until) {
                    *now = timer.max(*now);
                    link.handle_timeout(*now);
                    prop_assert!(link.poll_timeout().is_none_or(|t| t > *now), "a handled timer is gone");
                    self.carry_out(link, *now)?;
                }
                *now = until;
            }
            Step::StreamEnded
            | Step::Welcome { .. }
            | Step::Assign { .. }
            | Step::Answer { .. }
            | Step::Confirm { .. }
            | Step::Cancel { .. }
            | Step::Move { .. }
            | Step::Finish { .. } => {}
        }
        self.carry_out(link, *now)
    }

    fn check(&self, link: &Link, now: Instant) -> Result<(), TestCaseError> {
        if self.left {
            return Ok(());
        }
        prop_assert_eq!(link.held(), self.running.len(), "leases held are copies that run");
        prop_assert_eq!(link.unconfirmed(), self.owed.len(), "a result is kept until it is settled");
        prop_assert!(self.running.len() <= CREDIT, "never more leases than credit");
        prop_assert!(self.running.len() + self.owed.len() <= 2 * CREDIT, "and with results twice that");
        for lease in &self.running {
            prop_assert!(now < self.lease_ends[lease], "a lease that is over is not used");
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn no_order_of_events_breaks_a_promise(steps in proptest::collection::vec(step(), 1..200)) {
        let mut now = Clock::now().into_std();
        let mut link = Link::new(settings());
        let mut observer = Observer::default();
        observer.carry_out(&mut link, now)?;
        for step in steps {
            observer.take(&mut link, &mut now, step)?;
            observer.check(&link, now)?;
        }
    }
}
