//! The writer and what waits for it: nothing is lost unsaid, and where it is required nothing is done unrecorded.

use std::{fs, path::Path};

use backhaul_runtime::audit::{FileOptions, Report, Verification};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    dispatch::testing::new_task,
    queue::{LeaseRequest, QueueError, QueueSettings, TaskQueue, memory::MemoryQueue},
};

/// A log that is written until the test ends it.
struct Running {
    dir: TempDir,
    audit: Audit,
    stop: CancellationToken,
    writer: JoinSet<()>,
}

impl Running {
    fn start(rotate_at: u64, is_required: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::at(dir, rotate_at, is_required)
    }

    fn at(dir: TempDir, rotate_at: u64, is_required: bool) -> Self {
        let settings = AuditSettings {
            path: dir.path().join("audit"),
            key_file: None,
            file: FileOptions { rotate_at, keep: 0 },
            is_required,
        };
        let (audit, writer) = AuditWriter::open(&settings).unwrap();
        let (stop, mut running) = (CancellationToken::new(), JoinSet::new());
        let until = stop.clone();
        running.spawn(async move { writer.run(until).await.unwrap() });
        Self { dir, audit, stop, writer: running }
    }

    /// Stops the writer and gives what is in the files, oldest first.
    async fn ended(mut self) -> (TempDir, Vec<serde_json::Value>) {
        self.stop.cancel();
        self.writer.join_next().await.unwrap().unwrap();
        let lines = lines(self.dir.path());
        (self.dir, lines)
    }

    fn say(&self, event: &'static str) {
        self.audit.record(self.audit.entry(event));
    }

    async fn until(&self, mut holds: impl FnMut(&AuditCounters) -> bool) {
        let counters = self.audit.counters();
        while !holds(&counters) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
}

fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.is_file());
    // The one that is written has the shortest name and comes last.
    files.sort_by_key(|file| (file.extension().is_none(), file.clone()));
    files
}

fn lines(dir: &Path) -> Vec<serde_json::Value> {
    let texts = files(dir).into_iter().map(|file| fs::read_to_string(file).unwrap());
    let lines: Vec<_> = texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn verified(dir: &Path) -> Report {
    Verification { files: files(dir), ..Verification::default() }.run().unwrap()
}

fn events(lines: &[serde_json::Value]) -> Vec<&str> {
    lines.iter().map(|line| line["event"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_log_begins_and_ends_with_words_of_its_own_and_goes_on_after_a_restart() {
    let log = Running::start(u64::MAX, false);
    for _ in 0..3 {
        log.say("call");
    }
    log.until(|counters| counters.written.get() == 4).await;
    assert_eq!(log.audit.counters().seq.load(Ordering::Relaxed), 4);
    let (dir, said) = log.ended().await;
    assert_eq!(events(&said), ["start", "call", "call", "call", "stop"]);
    let (dir, said) = Running::at(dir, u64::MAX, false).ended().await;
    assert_eq!(events(&said)[5..], ["start", "stop"]);
    let report = verified(dir.path());
    assert_eq!((report.lines, report.flaw), (7, None));
}

#[tokio::test]
async fn what_cannot_be_written_waits_and_is_told_as_failing() {
    let log = Running::start(1000, true);
    log.until(|counters| counters.written.get() == 1).await;
    assert!(log.audit.may_go_on());
    // Where the full file should be set aside, something stands.
    let blocker = log.dir.path().join(format!("audit.{:020}", 1));
    fs::create_dir(&blocker).unwrap();
    for _ in 0..20 {
        log.say("call");
    }
    log.until(|counters| counters.failing.load(Ordering::Relaxed)).await;
    assert!(!log.audit.may_go_on(), "nothing is to be done unrecorded");

    let queue = MemoryQueue::new(settings(), QueueClock::starting_at(crate::queue::UnixMs(1)));
    let queue = Audited::around(Arc::new(queue), &log.audit);
    let refused = |error: &QueueError| matches!(error, QueueError::Unfit(_));
    let answers = queue.submit(vec![new_task("a")]).await;
    assert!(answers[0].as_ref().is_err_and(refused), "{answers:?}");
    assert!(queue.check().await.as_ref().is_err_and(refused));
    let request = LeaseRequest {
        session: "s".into(),
        request: 1,
        worker: "w".into(),
        max_tasks: 1,
        max_bytes: 1,
        locations: Arc::new(["uploads".into()]),
    };
    assert!(queue.lease(&request).await.as_ref().is_err_and(refused));
    assert_eq!(queue.depths().await.unwrap().pending, 0, "nothing was done");

    fs::remove_dir(&blocker).unwrap();
    log.until(|counters| !counters.failing.load(Ordering::Relaxed)).await;
    assert!(log.audit.may_go_on() && queue.check().await.is_ok());
    assert!(queue.submit(vec![new_task("a")]).await[0].is_ok());
    assert_eq!(queue.lease(&request).await.unwrap().len(), 1);
    let (dir, said) = log.ended().await;
    assert_eq!(events(&said).iter().filter(|event| **event == "call").count(), 20, "not one is lost");
    let told: Vec<_> = said.iter().filter(|line| line["event"] == "submit").collect();
    assert_eq!(told[0]["tasks"][0]["refused"], "queue unfit");
    assert_eq!(told[1]["tasks"][0]["outcome"], "created");
    assert_eq!(said.iter().filter(|line| line["event"] == "lease").count(), 1);
    assert_eq!(verified(dir.path()).flaw, None);
}

#[tokio::test]
async fn a_log_that_is_not_required_holds_up_nothing() {
    let log = Running::start(1000, false);
    log.until(|counters| counters.written.get() == 1).await;
    fs::create_dir(log.dir.path().join(format!("audit.{:020}", 1))).unwrap();
    for _ in 0..20 {
        log.say("call");
    }
    log.until(|counters| counters.failing.load(Ordering::Relaxed)).await;
    assert!(log.audit.may_go_on());
    let (dir, _) = log.ended().await;
    assert_eq!(verified(dir.path()).flaw, None, "what was written is whole");
}

#[tokio::test]
async fn entries_without_a_place_are_counted_and_the_log_says_how_many() {
    // Nobody takes anything out.
    let shared = Arc::new(Shared::new(true, QueueClock::Server));
    let audit = Audit(Some(Arc::clone(&shared)));
    let fill = || {
        for _ in 0..MOST_WAITING_BYTES / MOST_ENTRY_BYTES / 2 {
            shared.waiting().push("x".repeat(MOST_ENTRY_BYTES), &shared.counters);
        }
    };
    assert!(audit.may_go_on());
    fill();
    assert!(!audit.may_go_on(), "the other half is for what is in progress");
    fill();
    assert_eq!(audit.counters().lost.get(), 0);
    for _ in 0..3 {
        audit.record(audit.entry("call"));
    }
    assert_eq!(audit.counters().lost.get(), 3);
    let told = shared.take(&audit).pop_back().unwrap();
    assert!(told.contains("\"event\":\"lost\",\"entries\":3"), "{told}");
    assert!(audit.may_go_on() && shared.take(&audit).is_empty(), "it is told once");
}

#[tokio::test]
async fn strangers_cannot_fill_the_log() {
    let log = Running::start(u64::MAX, false);
    let flood = 50 * u64::from(MOST_REFUSALS);
    for _ in 0..flood {
        log.audit.record_refusal(Refusal::OfStranger, log.audit.entry("call"));
    }
    // Neither does it hide that somebody known was refused.
    log.audit.record_refusal(Refusal::OfKnown, log.audit.entry("known"));
    let (_, said) = log.ended().await;
    let recorded = events(&said).iter().filter(|event| **event == "call").count() as u64;
    let passed_over = said.iter().filter(|line| line["event"] == "refusals_passed_over");
    let passed_over: u64 = passed_over.map(|line| line["entries"].as_u64().unwrap()).sum();
    assert_eq!(recorded + passed_over, flood);
    assert!(passed_over > 0 && recorded >= u64::from(MOST_REFUSALS), "{recorded} recorded");
    assert!(events(&said).contains(&"known"));
}

#[tokio::test]
async fn connections_that_come_to_nothing_cannot_fill_the_log_or_hide_calls() {
    let log = Running::start(u64::MAX, false);
    let flood = 50 * u64::from(MOST_REFUSALS);
    for _ in 0..flood {
        log.audit.handshake_refused(([127, 0, 0, 1], 9).into(), "no\n\u{1b}[31m certificate");
    }
    let call = Call::begin(&log.audit, "/x", None).unwrap();
    call.end(Told::NotLetIn(&tonic::Status::unauthenticated("")));
    let (_, said) = log.ended().await;
    let recorded: Vec<_> = said.iter().filter(|line| line["event"] == "handshake").collect();
    assert!((u64::from(MOST_REFUSALS)..flood).contains(&(recorded.len() as u64)));
    assert_eq!((&recorded[0]["peer"], &recorded[0]["decision"]), (&"127.0.0.1:9".into(), &"refused".into()));
    assert_eq!(recorded[0]["reason"], "no\n\u{1b}[31m certificate");
    assert!(events(&said).contains(&"call"));
}

#[tokio::test]
async fn who_is_over_a_limit_cannot_fill_the_log_either() {
    let log = Running::start(u64::MAX, false);
    let flood = 50 * u64::from(MOST_REFUSALS);
    for _ in 0..flood {
        let call = Call::begin(&log.audit, "/x", None).unwrap();
        call.end(Told::Answered(tonic::Code::ResourceExhausted, None));
        let opening = Call::begin(&log.audit, "/y", None).unwrap();
        opening.end(Told::NotLetIn(&tonic::Status::resource_exhausted("")));
    }
    let (_, said) = log.ended().await;
    let recorded = events(&said).iter().filter(|event| **event == "call").count() as u64;
    assert!((u64::from(MOST_REFUSALS)..flood).contains(&recorded), "{recorded} recorded");
}

#[tokio::test]
async fn a_call_that_nobody_waits_for_any_more_is_recorded_with_what_it_asked() {
    let log = Running::start(u64::MAX, false);
    let queue: Arc<dyn TaskQueue> =
        Arc::new(crate::grpc::testing::ScriptedQueue { hang: true, ..Default::default() });
    let queue = Audited::around(queue, &log.audit);
    let call = Call::begin(&log.audit, "/x", None).unwrap();
    let work = call.during(async {
        queue.submit(vec![new_task("a\n")]).await;
    });
    tokio::time::timeout(std::time::Duration::from_millis(10), work).await.unwrap_err();
    drop(call);
    let (_, said) = log.ended().await;
    let told = said.iter().find(|line| line["event"] == "call").unwrap();
    assert_eq!(told["decision"], "unknown");
    assert_eq!((&told["tasks"][0]["key"], &told["tasks"][0]["outcome"]), (&"a\n".into(), &"unknown".into()));
}

#[tokio::test]
async fn a_call_with_many_tasks_is_several_lines_of_bounded_length() {
    let log = Running::start(u64::MAX, false);
    let call = Call::begin(&log.audit, "/x", None).unwrap();
    let queue = MemoryQueue::new(settings(), QueueClock::starting_at(crate::queue::UnixMs(1)));
    let queue = Audited::around(Arc::new(queue), &log.audit);
    let tasks = (0..1000).map(|n| new_task(&format!("{n}{}", "\u{fc}".repeat(500)))).collect();
    call.during(queue.submit(tasks)).await;
    call.end(Told::Answered(tonic::Code::Ok, None));
    let (dir, said) = log.ended().await;
    let calls: Vec<_> = said.iter().filter(|line| line["event"] == "call").collect();
    let tasks: usize = calls.iter().map(|line| line["tasks"].as_array().unwrap().len()).sum();
    assert_eq!(tasks, 1000);
    assert!(calls.len() > 10 && calls[0]["part"] == 1 && calls[0]["more"] == true);
    assert_eq!(calls.last().unwrap()["more"], false);
    let text = fs::read_to_string(dir.path().join("audit")).unwrap();
    assert!(text.lines().all(|line| line.len() < 80 * 1024));
    assert_eq!(verified(dir.path()).flaw, None);
}

fn settings() -> QueueSettings {
    crate::config::Config::from_args(["dispatcher", "--insecure", "--locations", "unused"]).unwrap().queue
}
