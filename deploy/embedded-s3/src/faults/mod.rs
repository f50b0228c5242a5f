//! Faults on demand, in front of the store: for tests of clients, and for demonstrations that they recover.
//!
//! A [`FaultPlan`] is a handle on the running store. Its rules name requests and what goes wrong with them; a request
//! meets at most one rule, the first that matches. Without rules a request costs two atomic additions. The plan also
//! counts requests, so that a test can say how many there were.

mod body;
mod layer;
mod operation;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

pub(crate) use layer::FaultLayer;
pub use operation::Operation;

/// A handle on the faults of one store. Clones share everything. See the [module](self).
#[derive(Debug, Clone)]
pub struct FaultPlan {
    shared: Arc<Shared>,
}

/// Which requests fail, and how. Built from [`Rule::new`].
#[derive(Debug, Clone)]
pub struct Rule {
    /// The operation; `None` is any.
    pub operation: Option<Operation>,
    /// The bucket; `None` is any, and requests without one.
    pub bucket: Option<String>,
    /// The exact key; `None` is any, and requests without one.
    pub key: Option<String>,
    /// How many matching requests pass before the first fault.
    pub skip: u32,
    /// How many faults there are; later requests pass.
    pub times: u32,
    /// What goes wrong.
    pub action: Action,
}

/// What goes wrong with a request. Positions are bytes from the beginning of the body, from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Answers with this error instead of carrying the request out.
    Status {
        /// HTTP status, such as 503.
        status: u16,
        /// S3 error code, such as `SlowDown`.
        code: String,
        /// The `Retry-After` header, rounded up to seconds.
        retry_after: Option<Duration>,
    },
    /// Carries the request out after this time.
    Delay(Duration),
    /// Never answers and does not carry the request out.
    Hang,
    /// Closes the connection after this many bytes of the response body, or at its end if it is shorter.
    CutBody {
        /// Bytes that still arrive.
        after: u64,
    },
    /// Sends this many bytes of the response body, then nothing, on an open connection.
    StallBody {
        /// Bytes that still arrive.
        after: u64,
    },
    /// Flips a bit of the response body.
    FlipResponseBit {
        /// The byte that changes.
        at: u64,
    },
    /// Sends one byte more than the object has, with a matching `Content-Length`.
    ExtraByte,
    /// Shifts the `Content-Range` of a partial response by one.
    WrongContentRange,
    /// Ignores the `Range` header and answers 200 with the whole object.
    IgnoreRange,
    /// Carries the request out and closes the connection without an answer.
    LostAnswer,
    /// Answers 200 with an error in the body, as S3 may for CompleteMultipartUpload and copies. Nothing is carried out.
    ErrorInBody {
        /// S3 error code, such as `InternalError`.
        code: String,
    },
    /// Flips a bit of the request body on the way in: a promised checksum or Content-MD5 catches it, otherwise the store
    /// keeps, and describes, the changed body. Works for PutObject and UploadPart, behind the check of the signature.
    FlipRequestBit {
        /// The byte that changes.
        at: u64,
    },
    /// Flips a bit of the request body on its way to the storage, when all checks have seen the right one: the store
    /// holds something else than it says. Works for PutObject and UploadPart.
    CorruptStored {
        /// The byte that changes.
        at: u64,
    },
}

/// Names a rule of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RuleId(u64);

/// Faults that take effect inside the store; travels as a request extension.
#[derive(Debug, Clone, Default)]
pub(crate) struct RequestFault {
    pub(crate) ignore_range: bool,
    pub(crate) flip_before_checks: Option<u64>,
    pub(crate) flip_after_checks: Option<u64>,
}

#[derive(Debug)]
struct Shared {
    requests: [AtomicU64; Operation::COUNT],
    /// How many rules there are, so that a request without faults takes no lock.
    armed: AtomicUsize,
    rules: Mutex<Rules>,
    /// Counts faults; tells those who wait for one.
    fired: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Rules {
    next_id: u64,
    active: Vec<ActiveRule>,
    /// How often cleared rules fired.
    cleared: Vec<(RuleId, u64)>,
}

#[derive(Debug)]
struct ActiveRule {
    id: RuleId,
    rule: Rule,
    seen: u64,
    fired: u64,
}

impl Rule {
    /// A rule for every request of `operation`, once.
    #[must_use]
    pub fn new(operation: Operation, action: Action) -> Self {
        Self { operation: Some(operation), bucket: None, key: None, skip: 0, times: 1, action }
    }

    /// A rule for every request, once.
    #[must_use]
    pub fn any(action: Action) -> Self {
        Self { operation: None, bucket: None, key: None, skip: 0, times: 1, action }
    }

    /// Only requests for this bucket.
    #[must_use]
    pub fn bucket(mut self, bucket: impl Into<String>) -> Self {
        self.bucket = Some(bucket.into());
        self
    }

    /// Only requests for this key.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Lets this many matching requests pass first.
    #[must_use]
    pub fn skip(mut self, skip: u32) -> Self {
        self.skip = skip;
        self
    }

    /// Fails this many requests.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.times = times;
        self
    }

    /// Fails all further requests.
    #[must_use]
    pub fn always(self) -> Self {
        self.times(u32::MAX)
    }

    fn matches(&self, operation: Operation, bucket: Option<&str>, key: Option<&str>) -> bool {
        self.operation.is_none_or(|wanted| wanted == operation)
            && self.bucket.as_deref().is_none_or(|wanted| bucket == Some(wanted))
            && self.key.as_deref().is_none_or(|wanted| key == Some(wanted))
    }
}

impl FaultPlan {
    pub(crate) fn new() -> Self {
        let shared = Shared {
            requests: std::array::from_fn(|_| AtomicU64::new(0)),
            armed: AtomicUsize::new(0),
            rules: Mutex::default(),
            fired: watch::Sender::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Adds a rule behind the others.
    pub fn add(&self, rule: Rule) -> RuleId {
        let mut rules = self.rules();
        let id = RuleId(rules.next_id);
        rules.next_id += 1;
        rules.active.push(ActiveRule { id, rule, seen: 0, fired: 0 });
        self.shared.armed.store(rules.active.len(), Ordering::Release);
        id
    }

    /// Removes one rule. What it holds up already stays so.
    pub fn remove(&self, id: RuleId) {
        self.retire(|active| active.id == id);
    }

    /// Removes all rules.
    pub fn clear(&self) {
        self.retire(|_| true);
    }

    /// How often a rule fired, also after its removal.
    #[must_use]
    pub fn fired(&self, id: RuleId) -> u64 {
        let rules = self.rules();
        let active = rules.active.iter().map(|active| (active.id, active.fired));
        active
            .chain(rules.cleared.iter().copied())
            .find(|(known, _)| *known == id)
            .map_or(0, |(_, fired)| fired)
    }

    /// Waits until a rule has fired `times` times. Returns at once if it has.
    pub async fn wait_fired(&self, id: RuleId, times: u64) {
        let mut changes = self.shared.fired.subscribe();
        while self.fired(id) < times {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// How many requests for `operation` arrived, those with faults and those refused included.
    #[must_use]
    pub fn requests(&self, operation: Operation) -> u64 {
        self.shared.requests[operation.index()].load(Ordering::Relaxed)
    }

    /// How many requests arrived in all.
    #[must_use]
    pub fn total_requests(&self) -> u64 {
        self.shared.requests.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Sets all request counts to zero.
    pub fn reset_requests(&self) {
        self.shared.requests.iter().for_each(|count| count.store(0, Ordering::Relaxed));
    }

    /// Counts a request and finds what goes wrong with it.
    fn meet(&self, operation: Operation, bucket: Option<&str>, key: Option<&str>) -> Option<Action> {
        self.shared.requests[operation.index()].fetch_add(1, Ordering::Relaxed);
        if self.shared.armed.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut rules = self.rules();
        for active in rules.active.iter_mut().filter(|active| active.rule.matches(operation, bucket, key)) {
            active.seen += 1;
            if active.seen > u64::from(active.rule.skip) && active.fired < u64::from(active.rule.times) {
                active.fired += 1;
                let action = active.rule.action.clone();
                drop(rules);
                self.shared.fired.send_modify(|count| *count += 1);
                return Some(action);
            }
        }
        None
    }

    fn retire(&self, which: impl Fn(&ActiveRule) -> bool) {
        let mut rules = self.rules();
        let Rules { active, cleared, .. } = &mut *rules;
        cleared.extend(active.extract_if(.., |active| which(active)).map(|active| (active.id, active.fired)));
        self.shared.armed.store(active.len(), Ordering::Release);
    }

    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.shared.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meets(plan: &FaultPlan, key: &str) -> bool {
        plan.meet(Operation::GetObject, Some("b"), Some(key)).is_some()
    }

    #[test]
    fn a_rule_skips_then_fires_then_rests() {
        let plan = FaultPlan::new();
        let id = plan.add(Rule::new(Operation::GetObject, Action::Hang).key("k").skip(1).times(2));

        assert!(!meets(&plan, "other"));
        let outcomes: Vec<bool> = (0..5).map(|_| meets(&plan, "k")).collect();

        assert_eq!(outcomes, [false, true, true, false, false]);
        assert_eq!(plan.fired(id), 2);
        assert_eq!(plan.requests(Operation::GetObject), 6);
        assert_eq!(plan.requests(Operation::PutObject), 0);
    }

    #[test]
    fn a_cleared_rule_fires_no_more_but_remembers() {
        let plan = FaultPlan::new();
        let id = plan.add(Rule::any(Action::Hang).always());
        assert!(meets(&plan, "k"));
        plan.clear();
        assert!(!meets(&plan, "k"));
        assert_eq!(plan.fired(id), 1);
    }

    #[test]
    fn the_first_matching_rule_wins() {
        let plan = FaultPlan::new();
        plan.add(Rule::any(Action::LostAnswer).bucket("other"));
        plan.add(Rule::new(Operation::GetObject, Action::Hang));
        plan.add(Rule::any(Action::ExtraByte));
        let first = plan.meet(Operation::GetObject, Some("b"), Some("k"));
        let second = plan.meet(Operation::GetObject, Some("b"), Some("k"));
        assert_eq!((first, second), (Some(Action::Hang), Some(Action::ExtraByte)));
    }

    #[tokio::test]
    async fn a_wait_ends_when_the_rule_fires() {
        let plan = FaultPlan::new();
        let id = plan.add(Rule::any(Action::Hang));
        let wait = plan.wait_fired(id, 1);
        let fire = async { assert!(meets(&plan, "k")) };
        tokio::join!(wait, fire);
    }
}
