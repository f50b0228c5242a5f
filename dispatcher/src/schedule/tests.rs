//! Runs of rules over walks and marks in memory, in virtual time, with one dispatcher and with several.

use std::time::Duration;

use super::{
    calendar::instant,
    mark::{End, Outcome},
    marks::MemoryMarks,
    *,
};
use crate::{
    queue::{
        QueueClock,
        walk::{WalkState, memory::MemoryWalks},
    },
    rules::{Rules, tests::parse},
};

const RETAIN: Duration = Duration::from_secs(90 * 86_400);
const RULE: &str = "
    [rule.users]
    tenant = 'web'
    location = 'uploads'
    bucket = 'photos'
    prefix = 'users/'
    schedule = '0 3 * * *'
    time_zone = 'Europe/Berlin'
";

/// What several dispatchers share.
struct Rig {
    clock: QueueClock,
    marks: Arc<MemoryMarks>,
    walks: Arc<MemoryWalks>,
    rules: LiveRules,
}

impl Rig {
    fn new(text: &str, start: &str) -> Self {
        let clock = QueueClock::starting_at(instant(start).unwrap());
        Self {
            marks: Arc::new(MemoryMarks::new(clock.clone())),
            walks: Arc::new(MemoryWalks::new(2, RETAIN, clock.clone())),
            rules: rules(text),
            clock,
        }
    }

    /// One more dispatcher's scheduler.
    fn dispatcher(&self) -> Scheduler {
        let runs = Runs {
            rules: self.rules.clone(),
            marks: Arc::<MemoryMarks>::clone(&self.marks),
            walks: Arc::<MemoryWalks>::clone(&self.walks),
            made: Arc::default(),
            changed: Arc::default(),
            board: Arc::default(),
        };
        Scheduler { runs, look_every: Duration::from_secs(10) }
    }

    fn at(&self, now: &str) {
        self.clock.set(instant(now).unwrap());
    }

    /// Names of all runs that were made, in their order.
    async fn made(&self) -> Vec<String> {
        let look = self.walks.look(true).await.unwrap();
        let mut names: Vec<String> =
            look.walks.into_iter().map(|stored| stored.walk.spec.request_id).collect();
        names.sort();
        names
    }

    /// Ends the run of that name.
    async fn end(&self, name: &str, state: WalkState) {
        let id = self.walks.id("web", name);
        let stored = self.walks.load(&id).await.unwrap().unwrap();
        let mut walk = stored.walk;
        walk.state = state;
        walk.finished_at = Some(self.clock.local_now());
        (walk.counts.listed, walk.counts.submitted, walk.counts.rejected) = (100, 3, 1);
        let change = Change {
            id,
            expected: Some(stored.revision),
            walk,
            opened: vec![],
            closed: vec![],
            failures: vec![],
        };
        assert!(matches!(self.walks.save(&change).await.unwrap(), Saved::Yes { .. }));
    }

    async fn mark(&self) -> Mark {
        self.marks.load().await.unwrap().1["users"].mark.clone()
    }
}

fn rules(text: &str) -> LiveRules {
    LiveRules::fixed(parse(text).unwrap())
}

fn none() -> Rules {
    Rules::default()
}

#[tokio::test]
async fn a_run_begins_at_each_time_and_its_end_is_noted() {
    let rig = Rig::new(RULE, "2027-01-10T12:00:00Z");
    let dispatcher = rig.dispatcher();
    // A rule that nobody knew before has missed nothing.
    assert_eq!(dispatcher.look().await.unwrap(), Duration::from_secs(10));
    rig.at("2027-01-11T01:59:55Z");
    assert_eq!(dispatcher.look().await.unwrap(), Duration::from_secs(5), "it wakes for what is due");
    assert!(rig.made().await.is_empty());
    rig.at("2027-01-11T02:00:00Z");
    dispatcher.look().await.unwrap();
    assert_eq!(rig.made().await, ["rule:users:2027-01-11T02:00:00Z"]);
    let shown = dispatcher.runs.board.shown();
    assert_eq!(shown[0].next(), instant("2027-01-12T02:00:00Z"));
    assert_eq!(shown[0].behind_since(), instant("2027-01-11T02:00:00Z"), "it is not complete yet");
    assert!(shown[0].walk.as_ref().is_some_and(|stored| stored.walk.spec.prefix == "users/"));

    rig.at("2027-01-11T02:30:00Z");
    rig.end("rule:users:2027-01-11T02:00:00Z", WalkState::Done).await;
    dispatcher.look().await.unwrap();
    let complete = rig.mark().await.complete.unwrap();
    let outcome = Outcome {
        end: End::Done,
        finished_ms: instant("2027-01-11T02:30:00Z").unwrap().0,
        listed: 100,
        missing: 4,
        failed: 1,
    };
    assert_eq!(
        (complete.at_ms, complete.outcome),
        (instant("2027-01-11T02:00:00Z").unwrap().0, Some(outcome))
    );
    assert_eq!(dispatcher.runs.board.shown()[0].behind_since(), None);

    // One that fails is the last, and not the last complete one.
    rig.at("2027-01-12T02:00:01Z");
    dispatcher.look().await.unwrap();
    rig.end("rule:users:2027-01-12T02:00:00Z", WalkState::Failed).await;
    dispatcher.look().await.unwrap();
    let mark = rig.mark().await;
    assert_eq!(mark.run.unwrap().outcome.unwrap().end, End::Failed);
    assert_eq!(mark.complete.unwrap().at_ms, complete.at_ms);
    rig.at("2027-01-12T06:00:00Z");
    dispatcher.look().await.unwrap();
    assert_eq!(dispatcher.runs.board.shown()[0].behind_since(), instant("2027-01-12T02:00:00Z"));
}

#[tokio::test]
async fn what_was_missed_is_caught_up_once_and_not_once_for_each_time() {
    let rig = Rig::new(RULE, "2027-01-10T12:00:00Z");
    rig.dispatcher().look().await.unwrap();
    // Nobody is there for ten days.
    rig.at("2027-01-20T12:00:00Z");
    let dispatcher = rig.dispatcher();
    for _ in 0..3 {
        dispatcher.look().await.unwrap();
    }
    assert_eq!(rig.made().await, ["rule:users:2027-01-20T02:00:00Z"]);
    rig.end("rule:users:2027-01-20T02:00:00Z", WalkState::Done).await;
    dispatcher.look().await.unwrap();
    rig.at("2027-01-21T02:00:00Z");
    dispatcher.look().await.unwrap();
    assert_eq!(rig.made().await.len(), 2, "and then it goes on as ever");
}

#[tokio::test]
async fn another_calendar_begins_anew_and_owes_nothing_of_the_time_before() {
    let rig = Rig::new(&RULE.replace("0 3 * * *", "0 0 1 1 *"), "2026-12-01T12:00:00Z");
    rig.dispatcher().look().await.unwrap();
    rig.at("2027-01-01T00:00:00Z");
    rig.dispatcher().look().await.unwrap();
    let yearly = rig.made().await;
    assert_eq!(yearly, ["rule:users:2026-12-31T23:00:00Z"]);
    rig.end(&yearly[0], WalkState::Done).await;
    // Half a year later it is to be nightly.
    rig.at("2027-07-05T10:00:00Z");
    let nightly = Rig { rules: rules(RULE), ..rig };
    let dispatcher = nightly.dispatcher();
    for _ in 0..3 {
        dispatcher.look().await.unwrap();
    }
    assert!(
        nightly.made().await.is_empty(),
        "no run in the middle of the day, and the yearly one is long forgotten"
    );
    let shown = dispatcher.runs.board.shown();
    assert_eq!((shown[0].behind_since(), shown[0].next()), (None, instant("2027-07-06T01:00:00Z")));
    nightly.at("2027-07-06T01:00:00Z");
    dispatcher.look().await.unwrap();
    assert_eq!(nightly.made().await, ["rule:users:2027-07-06T01:00:00Z"]);
}

/// Marks of which one cannot be read. Counts the attempts to write it.
#[derive(Debug, Default)]
struct Damaged(std::sync::atomic::AtomicUsize);

#[async_trait::async_trait]
impl Marks for Damaged {
    async fn load(&self) -> Result<(UnixMs, std::collections::BTreeMap<String, Kept>), QueueError> {
        Ok((instant("2027-01-10T12:00:00Z").unwrap(), std::collections::BTreeMap::new()))
    }

    async fn save(&self, _: &str, _: Option<u64>, _: &Mark) -> Result<bool, QueueError> {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(false)
    }
}

#[tokio::test]
async fn a_mark_that_cannot_be_read_is_tried_once_a_look() {
    let rig = Rig::new(RULE, "2027-01-10T12:00:00Z");
    let marks = Arc::new(Damaged::default());
    let Scheduler { runs, look_every } = rig.dispatcher();
    let dispatcher = Scheduler { runs: Runs { marks: Arc::<Damaged>::clone(&marks), ..runs }, look_every };
    dispatcher.look().await.unwrap();
    assert_eq!(marks.0.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_time_that_comes_while_a_run_goes_on_is_passed_over_and_said() {
    let rig = Rig::new(RULE, "2027-01-10T12:00:00Z");
    let dispatcher = rig.dispatcher();
    dispatcher.look().await.unwrap();
    for day in ["11", "12", "13"] {
        rig.at(&format!("2027-01-{day}T02:00:00Z"));
        dispatcher.look().await.unwrap();
        dispatcher.look().await.unwrap();
    }
    assert_eq!(rig.made().await, ["rule:users:2027-01-11T02:00:00Z"]);
    assert_eq!(rig.mark().await.passed_over, 2);
    rig.at("2027-01-13T10:00:00Z");
    rig.end("rule:users:2027-01-11T02:00:00Z", WalkState::Done).await;
    dispatcher.look().await.unwrap();
    assert_eq!(rig.made().await.len(), 1, "what was passed over is not made up for");
    rig.at("2027-01-14T02:00:00Z");
    dispatcher.look().await.unwrap();
    assert_eq!((rig.made().await.len(), rig.mark().await.passed_over), (2, 0));
}

#[tokio::test]
async fn of_many_dispatchers_one_run_comes() {
    let rig = Rig::new(RULE, "2027-01-10T12:00:00Z");
    let dispatchers: Vec<Scheduler> = (0..8).map(|_| rig.dispatcher()).collect();
    for day in 10..40 {
        // In February it goes on.
        let start = instant("2027-01-01T12:00:00Z").unwrap();
        rig.clock.set(start.plus(Duration::from_secs(day * 86_400)));
        let looks = dispatchers.iter().map(Scheduler::look);
        for look in futures_util::future::join_all(looks).await {
            look.unwrap();
        }
        for name in rig.made().await {
            let stored = rig.walks.load(&rig.walks.id("web", &name)).await.unwrap().unwrap();
            if !stored.walk.state.is_finished() {
                rig.end(&name, WalkState::Done).await;
            }
        }
    }
    let made = rig.made().await;
    assert_eq!(made.len(), 29, "{made:?}");
    assert!(rig.mark().await.passed_over <= 1);
}

#[tokio::test]
async fn a_dispatcher_that_dies_between_deciding_and_making_leaves_it_to_the_next() {
    let rig = Rig::new(RULE, "2027-01-10T12:00:00Z");
    rig.dispatcher().look().await.unwrap();
    rig.at("2027-01-11T02:00:00Z");
    // It has decided, and no more.
    let kept = rig.marks.load().await.unwrap().1["users"].clone();
    let begun = kept.mark.begun(instant("2027-01-11T02:00:00Z").unwrap(), false);
    assert!(rig.marks.save("users", Some(kept.revision), &begun).await.unwrap());
    assert!(rig.made().await.is_empty());
    rig.at("2027-01-11T02:00:30Z");
    rig.dispatcher().look().await.unwrap();
    assert_eq!(rig.made().await, ["rule:users:2027-01-11T02:00:00Z"]);
    assert!(rig.mark().await.run.unwrap().made);
    // Or it has made it, and not said so.
    let kept = rig.marks.load().await.unwrap().1["users"].clone();
    let mut mark = kept.mark;
    mark.run.as_mut().unwrap().made = false;
    rig.marks.save("users", Some(kept.revision), &mark).await.unwrap();
    rig.dispatcher().look().await.unwrap();
    rig.end("rule:users:2027-01-11T02:00:00Z", WalkState::Done).await;
    rig.dispatcher().look().await.unwrap();
    assert_eq!((rig.made().await.len(), rig.mark().await.goes_on()), (1, false));
}

#[tokio::test]
async fn a_paused_rule_rests_and_makes_nothing_up_when_it_is_resumed() {
    let rig = Rig::new(RULE, "2027-01-10T12:00:00Z");
    let dispatcher = rig.dispatcher();
    dispatcher.runs.set_paused("users", true).await.unwrap();
    dispatcher.runs.set_paused("users", true).await.unwrap();
    rig.at("2027-01-15T12:00:00Z");
    dispatcher.look().await.unwrap();
    let shown = &dispatcher.runs.board.shown()[0];
    assert_eq!((shown.next(), rig.made().await.len()), (None, 0));
    // Asked for, it runs all the same.
    assert!(dispatcher.runs.run("users").await.unwrap());
    assert!(!dispatcher.runs.run("users").await.unwrap(), "one at a time");
    assert_eq!(rig.made().await, ["rule:users:2027-01-15T12:00:00Z"]);
    rig.end("rule:users:2027-01-15T12:00:00Z", WalkState::Done).await;
    dispatcher.runs.set_paused("users", false).await.unwrap();
    dispatcher.look().await.unwrap();
    let shown = &dispatcher.runs.board.shown()[0];
    assert_eq!((shown.next(), shown.behind_since()), (instant("2027-01-16T02:00:00Z"), None));
    assert_eq!(rig.made().await.len(), 1);
    rig.at("2027-01-16T02:00:00Z");
    dispatcher.look().await.unwrap();
    assert_eq!(rig.made().await.len(), 2);
}

#[tokio::test]
async fn a_rule_without_schedule_runs_when_it_is_asked_to() {
    let text = RULE.replace("schedule = '0 3 * * *'", "").replace("time_zone = 'Europe/Berlin'", "");
    let rig = Rig::new(&text, "2027-01-10T12:00:00Z");
    let dispatcher = rig.dispatcher();
    assert_eq!(dispatcher.look().await.unwrap(), Duration::from_secs(10));
    assert!(rig.marks.load().await.unwrap().1.is_empty(), "there is nothing to keep");
    assert!(dispatcher.runs.run("users").await.unwrap());
    rig.at("2027-01-10T13:00:00.123Z");
    rig.end("rule:users:2027-01-10T12:00:00Z", WalkState::Cancelled).await;
    // Nobody has looked meanwhile, and still the next one begins.
    assert!(dispatcher.runs.run("users").await.unwrap());
    assert_eq!(rig.made().await.len(), 2);
    assert!(matches!(dispatcher.runs.run("nobody").await, Err(NotBegun::NoRule)));
    assert!(matches!(dispatcher.runs.set_paused("nobody", true).await, Err(NotBegun::NoRule)));
}

#[tokio::test]
async fn a_run_that_is_forgotten_holds_up_no_other() {
    let rig = Rig::new(RULE, "2027-01-10T12:00:00Z");
    let dispatcher = rig.dispatcher();
    dispatcher.look().await.unwrap();
    rig.at("2027-01-11T02:00:00Z");
    dispatcher.look().await.unwrap();
    rig.end("rule:users:2027-01-11T02:00:00Z", WalkState::Done).await;
    // Nobody looks until it is forgotten.
    rig.at("2027-06-11T02:00:00Z");
    dispatcher.look().await.unwrap();
    let mark = rig.mark().await;
    assert_eq!((rig.made().await.len(), mark.goes_on(), mark.complete), (1, true, None));
    let text = rig.made().await;
    assert_eq!(text, ["rule:users:2027-06-11T01:00:00Z"]);
}

#[tokio::test]
async fn a_rule_that_is_gone_begins_nothing_and_its_run_goes_on() {
    let rig = Rig::new(RULE, "2027-01-10T12:00:00Z");
    rig.dispatcher().look().await.unwrap();
    rig.at("2027-01-11T02:00:00Z");
    rig.dispatcher().look().await.unwrap();
    let mut later = rig.dispatcher();
    later.runs.rules = LiveRules::fixed(none());
    rig.at("2027-01-12T02:00:00Z");
    assert_eq!(later.look().await.unwrap(), Duration::from_secs(10));
    assert_eq!(rig.made().await.len(), 1);
    assert!(later.runs.board.shown().is_empty());
}
