//! What the dispatcher counts, and how it is shown.
//!
//! [`Metrics`] is a struct of counters that everybody who counts shares; [`Exposed`] writes them, together with what is only looked
//! at when somebody asks: the roster's sums and the queues. Names are in [`names`], and nowhere else.

mod labels;
mod metered;
pub mod names;
#[cfg(test)]
mod tests;
mod trust;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use backhaul_runtime::{
    metrics::{Counter, Counters, Histograms, Label as _, Page, Source, Table},
    ops::Ready,
};

use self::labels::{Check, Fault, Operation, RenewVerdict, Report, SubmitVerdict, Swept, Verdict};
pub use self::{
    labels::{Code, EventAnswer, EventForm, EventKind, Rpc, TokenOutcome},
    metered::Metered,
    trust::Trust,
};
use crate::{
    audit::AuditCounters,
    dispatch::{Dispatch, SessionCounters},
    prefix::WalkCounters,
    queue::{
        redis::{BarrierStats, ClockStats},
        snapshot::{Snapshot, Watched},
    },
    schedule::{Board, Shown, mark::Mark},
};

/// What is counted while the dispatcher works.
#[derive(Debug, Default)]
pub struct Metrics {
    calls: Table<Rpc, Code>,
    call_time: Histograms<Rpc>,
    pub(crate) tokens: Counters<TokenOutcome>,
    submits: Counters<SubmitVerdict>,
    leases: Counter,
    renewals: Counters<RenewVerdict>,
    settlements: Table<Report, Verdict>,
    swept: Counters<Swept>,
    amnesties: Counter,
    queue_time: Histograms<Operation>,
    queue_errors: Table<Operation, Fault>,
    event_answers: Table<EventForm, EventAnswer>,
    events: Table<EventForm, EventKind>,
    /// Place of the last outcome in [`Check::ALL`]; beyond it before the first look.
    check: AtomicCheck,
    connections: Arc<Connections>,
}

/// Connections that are open, and how many there were.
#[derive(Debug, Default)]
pub struct Connections {
    open: AtomicUsize,
    accepted: Counter,
    refused: Counter,
}

/// One open connection; counted until it is dropped.
#[derive(Debug)]
pub struct OpenConnection(Arc<Connections>);

/// Everything that is shown.
#[derive(Debug)]
pub struct Exposed {
    /// What was counted.
    pub metrics: Arc<Metrics>,
    /// Whether work is wanted.
    pub ready: Ready,
    /// The connected workers.
    pub dispatch: Dispatch,
    /// The queues.
    pub watched: Arc<Watched>,
    /// Barriers, where the queue is in Redis.
    pub barriers: Arc<BarrierStats>,
    /// Clocks, where the queue is in Redis.
    pub clocks: Arc<ClockStats>,
    /// What was done for backups of prefixes.
    pub walked: Arc<WalkCounters>,
    /// Who is trusted.
    pub trust: Trust,
    /// Runs of rules, as they were seen last.
    pub runs: Arc<Board>,
    /// Whether the newest rules file is not in force.
    pub rules_refused: Arc<AtomicBool>,
    /// Of the audit log.
    pub audit: Arc<AuditCounters>,
}

#[derive(Debug)]
struct AtomicCheck(AtomicUsize);

impl Metrics {
    /// A call was answered.
    pub fn call(&self, rpc: Rpc, code: tonic::Code, took: Duration) {
        self.calls.of(rpc, Code::from(code)).inc();
        self.call_time.of(rpc).observe(took);
    }

    /// A token was looked at.
    pub fn token(&self, outcome: TokenOutcome) {
        self.tokens.of(outcome).inc();
    }

    /// A body with events was answered.
    pub fn event_answer(&self, form: EventForm, answer: EventAnswer) {
        self.event_answers.of(form, answer).inc();
    }

    /// So many events of a kind were taken.
    pub fn events(&self, form: EventForm, kind: EventKind, count: u64) {
        self.events.of(form, kind).add(count);
    }

    /// The count of connections.
    #[must_use]
    pub const fn connections(&self) -> &Arc<Connections> {
        &self.connections
    }
}

impl Connections {
    /// One more, until what is given is dropped.
    #[must_use]
    pub fn opened(self: &Arc<Self>) -> OpenConnection {
        self.accepted.inc();
        self.open.fetch_add(1, Ordering::Relaxed);
        OpenConnection(Arc::clone(self))
    }

    /// One of them came to nothing before its first call.
    pub fn handshake_refused(&self) {
        self.refused.inc();
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl AtomicCheck {
    fn set(&self, check: Check) {
        self.0.store(check.index(), Ordering::Relaxed);
    }

    fn get(&self) -> Option<Check> {
        Check::ALL.get(self.0.load(Ordering::Relaxed)).copied()
    }
}

impl Default for AtomicCheck {
    fn default() -> Self {
        Self(AtomicUsize::new(usize::MAX))
    }
}

#[async_trait]
impl Source for Exposed {
    async fn write(&self, page: &mut Page) {
        // The queue first: it may take a moment, and what follows should be of now.
        let snapshot = self.watched.snapshot().await.ok();
        write_queue(page, snapshot.as_deref());
        page.value(&names::READY, u8::from(self.ready.is_ready()));
        self.write_counted(page);
        page.family(&names::BARRIER_TIME).histogram(&[], &self.barriers.took);
        page.value(&names::BARRIER_MISSED, self.barriers.missed.get());
        self.write_clocks(page);
        self.write_streams(page);
        self.write_walked(page);
        #[expect(clippy::disallowed_methods, reason = "the edge: revocation lists end by the calendar")]
        self.trust.write(page, SystemTime::now());
        page.value(&names::RULES_REFUSED, u8::from(self.rules_refused.load(Ordering::Relaxed)));
        write_rules(page, &self.runs.shown());
        self.write_audited(page);
    }
}

impl Exposed {
    fn write_counted(&self, page: &mut Page) {
        let metrics = &self.metrics;
        let check = metrics.check.get();
        let mut states = page.family(&names::CHECK);
        for state in Check::ALL {
            states.value(&[state.as_str()], u8::from(check == Some(*state)));
        }
        page.value(&names::CONNECTIONS, metrics.connections.open.load(Ordering::Relaxed));
        page.value(&names::ACCEPTED, metrics.connections.accepted.get());
        page.value(&names::HANDSHAKES_REFUSED, metrics.connections.refused.get());
        page.table(&names::CALLS, &metrics.calls);
        page.histograms(&names::CALL_TIME, &metrics.call_time);
        page.counters(&names::TOKENS, &metrics.tokens);
        page.counters(&names::SUBMITS, &metrics.submits);
        page.value(&names::LEASES, metrics.leases.get());
        page.counters(&names::RENEWALS, &metrics.renewals);
        page.table(&names::SETTLEMENTS, &metrics.settlements);
        page.counters(&names::SWEPT, &metrics.swept);
        page.value(&names::AMNESTIES, metrics.amnesties.get());
        page.histograms(&names::QUEUE_TIME, &metrics.queue_time);
        page.table(&names::QUEUE_ERRORS, &metrics.queue_errors);
        page.table(&names::EVENT_ANSWERS, &metrics.event_answers);
        page.table(&names::EVENTS, &metrics.events);
    }

    fn write_clocks(&self, page: &mut Page) {
        let clocks = &self.clocks;
        let mut jumps = page.family(&names::CLOCK_JUMPS);
        jumps.value(&["ahead"], clocks.ahead.get());
        jumps.value(&["back"], clocks.back.get());
        page.value(&names::CLOCK_SKEW, clocks.skew_s());
    }

    fn write_audited(&self, page: &mut Page) {
        let audit = &self.audit;
        let mut entries = page.family(&names::AUDIT_ENTRIES);
        entries.value(&["written"], audit.written.get());
        entries.value(&["lost"], audit.lost.get());
        page.value(&names::AUDIT_LINE, audit.seq.load(Ordering::Relaxed));
        page.value(&names::AUDIT_FAILING, u8::from(audit.failing.load(Ordering::Relaxed)));
    }

    fn write_walked(&self, page: &mut Page) {
        let walked = &self.walked;
        let mut pages = page.family(&names::PAGES);
        pages.value(&["listed"], walked.pages.get());
        pages.value(&["failed"], walked.failed_pages.get());
        let mut objects = page.family(&names::OBJECTS);
        objects.value(&["submitted"], walked.submitted.get());
        objects.value(&["backed_up"], walked.backed_up.get());
        objects.value(&["skipped"], walked.skipped.get());
        objects.value(&["rejected"], walked.rejected.get());
    }

    fn write_streams(&self, page: &mut Page) {
        let stats = self.dispatch.stats();
        let mut streams = page.family(&names::STREAMS);
        streams.value(&["attached"], stats.sessions);
        streams.value(&["draining"], stats.draining);
        let mut tasks = page.family(&names::CREDIT_TASKS);
        tasks.value(&["free"], stats.free_tasks);
        tasks.value(&["held"], stats.outstanding_tasks);
        let mut bytes = page.family(&names::CREDIT_BYTES);
        bytes.value(&["free"], stats.free_bytes);
        bytes.value(&["held"], stats.outstanding_bytes);
        let SessionCounters { assigned, accepted, refused, returned, confirmed, postponed, ignored } =
            stats.counters;
        let mut assignments = page.family(&names::ASSIGNMENTS);
        for (step, count) in
            [("sent", assigned), ("accepted", accepted), ("refused", refused), ("returned", returned)]
        {
            assignments.value(&[step], count);
        }
        let mut results = page.family(&names::RESULTS);
        results.value(&["confirmed"], confirmed);
        results.value(&["postponed"], postponed);
        page.value(&names::IGNORED, ignored);
    }
}

/// Names of rules are the operators', and few.
fn write_rules(page: &mut Page, shown: &[Shown]) {
    let complete = || {
        shown.iter().filter_map(|shown| {
            let outcome = shown.mark.as_ref()?.complete.as_ref()?.outcome.as_ref()?;
            Some((shown.rule.name.as_str(), outcome))
        })
    };
    let mut missing = page.family(&names::RULE_MISSING);
    for (rule, outcome) in complete() {
        missing.value(&[rule], outcome.missing);
    }
    let mut ended = page.family(&names::RULE_COMPLETE);
    for (rule, outcome) in complete() {
        ended.value(&[rule], outcome.finished_ms / 1_000);
    }
    let mut behind = page.family(&names::RULE_BEHIND);
    for shown in shown.iter().filter(|shown| shown.rule.calendar.is_some()) {
        let since = shown.behind_since().map(|since| shown.now.since(since).as_secs());
        behind.value(&[&shown.rule.name], since.unwrap_or_default());
    }
    let mut running = page.family(&names::RULE_RUNNING);
    for shown in shown {
        let goes_on = shown.mark.as_ref().is_some_and(Mark::goes_on);
        running.value(&[&shown.rule.name], u8::from(goes_on));
    }
}

fn write_queue(page: &mut Page, snapshot: Option<&Snapshot>) {
    page.value(&names::QUEUE_VISIBLE, u8::from(snapshot.is_some()));
    let mut tasks = page.family(&names::QUEUE_TASKS);
    if let Some(Snapshot { depths, .. }) = snapshot {
        for (queue, count) in [
            ("pending", depths.pending),
            ("working", depths.working),
            ("scheduled", depths.scheduled),
            ("delayed", depths.delayed),
            ("done", depths.done),
            ("dead", depths.dead),
            ("cancelled", depths.cancelled),
        ] {
            tasks.value(&[queue], count);
        }
    }
    let mut kept = page.family(&names::EVENTS_KEPT);
    if let Some(aside) = snapshot.and_then(|snapshot| snapshot.aside) {
        kept.value(&["quarantined"], aside.quarantined);
        kept.value(&["removals"], aside.removals);
    }
    let mut ages = page.family(&names::QUEUE_OLDEST);
    if let Some(Snapshot { oldest, .. }) = snapshot {
        for (queue, age) in
            [("pending", oldest.pending), ("working", oldest.working), ("delayed", oldest.delayed)]
        {
            ages.value(&[queue], age.unwrap_or_default().as_secs_f64());
        }
    }
    let mut moves = page.family(&names::QUEUE_MOVES);
    // Scripts name moves with words of their own; a word that somebody else put there is not shown.
    for (name, count) in snapshot.iter().flat_map(|snapshot| &snapshot.moves) {
        if labels::MOVES.contains(&name.as_str()) {
            moves.value(&[name], count);
        }
    }
    let mut swept = page.family(&names::QUEUE_SWEPT);
    if let Some(ago) = snapshot.and_then(|snapshot| snapshot.swept_ago) {
        swept.value(&[], ago.as_secs_f64());
    }
    let mut ahead = page.family(&names::QUEUE_CLOCK_AHEAD);
    if let Some(by) = snapshot.and_then(|snapshot| snapshot.clock_ahead) {
        ahead.value(&[], by.as_secs_f64());
    }
}
