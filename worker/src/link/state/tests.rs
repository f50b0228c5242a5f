//! Transcripts: what the link says and does, rule by rule. Here is the bench they run on.

use backhaul_proto::v1::{AcceptRefusal, LeaseVerdict, from_worker::Message, task_result::Outcome};
use tokio::time::Instant as Clock;

use super::{super::task::Progress, *};

mod connecting;
mod draining;
mod leases;
mod pages;
mod reporting;

const LEASE: Duration = Duration::from_secs(30);
const BEAT: Duration = Duration::from_secs(10);

/// A link, the time, and what it said and did since the last look.
struct Bench {
    link: Link,
    now: Instant,
}

fn settings() -> LinkSettings {
    LinkSettings {
        worker: "worker".into(),
        instance: [3; 16],
        version: "1".into(),
        locations: ["media".to_owned(), "papers".to_owned()].into(),
        retention_classes: ["media/long".to_owned()].into(),
        credit: CreditLimit { tasks: 3, bytes: 64 << 20 },
        welcome_within: Duration::from_secs(10),
        answer_within: Duration::from_secs(20),
        flush_every: Duration::from_millis(5),
        retry_after: Duration::from_secs(1),
        backoff: Backoff::try_new(Duration::from_millis(100), Duration::from_secs(10))
            .expect("the bounds make sense"),
        stable_after: Duration::from_secs(10),
        seed: 7,
    }
}

fn key(task: &str, token: u8) -> LeaseKey {
    LeaseKey::from_wire(task, &[token; 16]).expect("it is well formed")
}

fn assignment(lease: &LeaseKey, location: &str) -> Assignment {
    Assignment {
        lease: lease.clone(),
        lease_for: LEASE,
        object: v1::ObjectRef { location: location.into(), ..Default::default() },
        tenant: "tenant".into(),
        attempt: 1,
        verify: v1::VerifyLevel::Unspecified,
        size_hint_bytes: Some(1),
        resume_upload_id: String::new(),
        retention_class: String::new(),
        traceparent: String::new(),
        priority: v1::Priority::Normal,
    }
}

fn news(lease: &LeaseKey, verdict: LeaseVerdict) -> LeaseNews {
    LeaseNews { lease: lease.clone(), verdict, lease_for: LEASE }
}

fn finished(lease: &LeaseKey) -> Event {
    let outcome = Box::new(Outcome::Receipt(v1::Receipt::default()));
    Event::Finished(Finished { lease: lease.clone(), outcome })
}

fn confirmed(lease: &LeaseKey, settled: bool) -> Event {
    Event::Confirmed(vec![Confirmation { lease: lease.clone(), settled }])
}

impl Bench {
    fn new() -> Self {
        Self::with(settings())
    }

    fn with(settings: LinkSettings) -> Self {
        Self { link: Link::new(settings), now: Clock::now().into_std() }
    }

    /// A link that has said Hello, was welcomed, and holds these leases.
    fn attached(leases: &[&LeaseKey]) -> Self {
        let mut bench = Self::new();
        bench.greet();
        bench.welcome(vec![]);
        for lease in leases {
            bench.event(Event::Assigned(vec![assignment(lease, "media")]));
        }
        bench.effects();
        bench.said();
        bench
    }

    fn greet(&mut self) -> v1::Hello {
        self.event(Event::Dialled);
        self.effects();
        match self.said().pop() {
            Some(Message::Hello(hello)) => hello,
            other => panic!("{other:?} is no Hello"),
        }
    }

    fn welcome(&mut self, held: Vec<LeaseNews>) {
        let session = "session".into();
        self.event(Event::Welcome(Welcomed { session, heartbeat_every: BEAT, held }));
    }

    fn event(&mut self, event: Event) {
        self.link.handle_event(self.now, event);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.link.handle_timeout(self.now);
    }

    fn effects(&mut self) -> Vec<Effect> {
        std::iter::from_fn(|| self.link.next_effect()).collect()
    }

    fn said(&mut self) -> Vec<Message> {
        let progress =
            |_: &LeaseKey| Progress { bytes_done: 5, upload_id: "u".into(), ..Progress::default() };
        std::iter::from_fn(|| self.link.next_message(self.now, progress)).filter_map(|m| m.message).collect()
    }

    /// The refusals of the only Accepts that was said.
    fn refusals(&mut self) -> Vec<AcceptRefusal> {
        match self.said().as_slice() {
            [Message::Accepts(accepts)] => accepts.accepts.iter().map(v1::Accept::refusal).collect(),
            other => panic!("{other:?} is not one Accepts"),
        }
    }

    /// Passes time until the link dials again.
    fn dials(&mut self) {
        let at = self.link.poll_timeout().expect("it waits for something");
        self.pass(at.saturating_duration_since(self.now));
        assert_eq!(self.effects(), [Effect::Dial]);
    }
}
