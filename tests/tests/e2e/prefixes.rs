//! Backups of prefixes: everything below is found, once, whatever happens meanwhile.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use backhaul_embedded_s3::{Action, Operation, Rule};
use backhaul_proto::v1::{self as pb, PrefixBackupState as State, TaskState};
use backhaul_tests::{
    TestEnv,
    env::{EnvOptions, prefix},
    garage,
    locations::{ORIGIN_BUCKET, Read},
    programs::program,
    store::StoreKind,
};
use serde_json::Value;

/// Keys that something on the way likes to change, and one of the most bytes that the store takes.
fn hostile(most: usize) -> Vec<String> {
    let mut keys: Vec<String> =
        ["sp ace", "pl+us", "a b+c%20%2B", "😀/ü", "\u{1}\u{7f}", "line\nbreak", "a\\b\"<&>", "x//y", "~!"]
            .iter()
            .map(|key| format!("h/{key}"))
            .collect();
    keys.push(format!("h/{}", "k".repeat(most - 2)));
    keys
}

#[tokio::test(flavor = "multi_thread")]
async fn every_object_below_a_prefix_is_backed_up_once_whatever_its_key() -> anyhow::Result<()> {
    all_below_a_prefix_is_backed_up(StoreKind::Embedded, 1024).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "Garage takes ten minutes to build: make stores"]
async fn every_object_below_a_prefix_is_backed_up_once_on_garage() -> anyhow::Result<()> {
    all_below_a_prefix_is_backed_up(StoreKind::Garage, garage::KEY_MAX_BYTES).await
}

async fn all_below_a_prefix_is_backed_up(kind: StoreKind, most: usize) -> anyhow::Result<()> {
    let env = TestEnv::start(EnvOptions::default().stores(kind)).await?;
    let mut written = Vec::new();
    for key in hostile(most) {
        written.push((key.clone(), env.uploads().put(ORIGIN_BUCKET, &key, key.clone().into()).await?));
    }
    env.uploads().put_random(ORIGIN_BUCKET, "elsewhere", 10).await?;
    let id = env.submit_prefix(prefix("first", "h/")).await?;
    ensure!(env.submit_prefix(prefix("first", "h/")).await? == id, "a repeat is the same");
    let (_, counts) = env.until_prefix(&id, "it is done", |shown, _| shown.state() == State::Done).await?;
    let all = written.len() as u64;
    ensure!(counts.listed == all && counts.submitted == all && counts.done == all, "{counts:?}");
    for (key, written) in &written {
        let task = env.submit(key).await?.task_id;
        let task = env.until(&task, TaskState::Done).await?;
        env.prove(&task, written).await?;
    }
    let manifests = |keys: &[String]| keys.iter().filter(|key| key.ends_with("~manifest.json")).count();
    let kept = env.kept().await?;
    ensure!(kept.len() - manifests(&kept) == written.len(), "one copy each: {kept:?}");

    // Now all is there, so that nothing is submitted.
    let second = env.submit_prefix(prefix("second", "h/")).await?;
    let (_, counts) =
        env.until_prefix(&second, "it is done", |shown, _| shown.state() == State::Done).await?;
    ensure!(counts.already_backed_up == all && counts.submitted == 0, "{counts:?}");
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_events_have_missed_is_found() -> anyhow::Result<()> {
    const OBJECTS: usize = 60;
    let env = TestEnv::start(EnvOptions::default()).await?;
    let mut told = Vec::new();
    for number in 0..OBJECTS {
        let key = format!("up/{number}");
        env.uploads().put_random(ORIGIN_BUCKET, &key, 100).await?;
        // Of one upload in ten nobody hears.
        if number % 10 != 3 {
            told.push(env.submit(&key).await?.task_id);
        }
    }
    for id in &told {
        env.until(id, TaskState::Done).await?;
    }
    // And one is newer than its backup.
    env.uploads().put_random(ORIGIN_BUCKET, "up/0", 101).await?;
    let id = env.submit_prefix(prefix("all", "up/")).await?;
    let (_, counts) = env.until_prefix(&id, "it is done", |shown, _| shown.state() == State::Done).await?;
    ensure!(counts.already_backed_up == told.len() as u64 - 1, "{counts:?}");
    ensure!(counts.submitted == (OBJECTS - told.len()) as u64 + 1, "{counts:?}");
    ensure!(env.kept().await?.len() == OBJECTS + 1, "each has its copy, and one an older one");
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_keys_survive_two_kills_of_the_dispatcher() -> anyhow::Result<()> {
    const KEYS: u64 = 100_000;
    let origin = StoreKind::Synthetic { keys: 100_000, gone: false };
    let options = EnvOptions { origin, ..EnvOptions::default() }
        .dispatcher_flag("prefix-high-mark", "1000000")
        // What is listed is not to be copied here: one at a time, and that one waits for its origin.
        .dispatcher_flag("tenant-in-flight-cap", "1")
        .dispatcher_flag("operator", "true");
    let mut env = TestEnv::start(options).await?;
    let id = env.submit_prefix(prefix("all", "k/")).await?;
    for pages in [20, 60] {
        let what = format!("{pages} pages are listed");
        env.until_prefix(&id, &what, |_, counts| counts.pages >= pages).await?;
        env.dispatcher().kill()?;
        env.restart_dispatcher().await?;
    }
    let (_, counts) = env.until_prefix(&id, "all is listed", |shown, _| shown.listed_all).await?;
    ensure!((counts.pages, counts.listed, counts.submitted) == (100, KEYS, KEYS), "{counts:?}");

    // One task each, and no other.
    let request = pb::GetQueueStatsRequest { all_tenants: true, max_tenants: 0 };
    let stats = env.backups()?.get_queue_stats(request).await?.into_inner();
    let total = stats.total.context("a total")?;
    let unfinished = [total.pending_low, total.working, total.delayed, total.dead];
    let tasks: u64 = unfinished.into_iter().flatten().map(|amount| amount.tasks).sum();
    ensure!(tasks + stats.done + stats.cancelled == KEYS, "{stats:?}");

    // Nothing was listed anew but the page that each kill fell into.
    let begins = env.page_begins()?;
    let different: BTreeSet<&String> = begins.iter().collect();
    ensure!(different.len() == 100 && begins.len() <= 102, "{} pages were asked for", begins.len());
    ensure!(begins.iter().filter(|begin| begin.is_empty()).count() == 1, "not from the start again");
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_rests_when_too_much_is_to_do_and_obeys_pause_and_cancel() -> anyhow::Result<()> {
    let origin = StoreKind::Synthetic { keys: 20_000, gone: true };
    let options = EnvOptions { origin, ..EnvOptions::default() }
        .dispatcher_flag("prefix-high-mark", "1500")
        .dispatcher_flag("tenant-in-flight-cap", "100");
    let env = TestEnv::start(options).await?;
    let id = env.submit_prefix(prefix("all", "k/")).await?;
    let (_, resting) = env.until_prefix(&id, "it rests", |shown, _| shown.waits_for_room).await?;
    ensure!(resting.pages >= 2 && resting.unfinished <= 2_500, "{resting:?}");
    // It goes on by itself when enough of its tasks have ended.
    let (_, later) =
        env.until_prefix(&id, "it has gone on", |_, counts| counts.pages > resting.pages).await?;
    ensure!(later.unfinished <= 2_500, "{later:?}");

    let told = backhaul(&env, &["pause", &id], 0)?;
    ensure!(told[0]["state"] == "paused" && told[0]["prefix_backup_id"] == id, "{told:?}");
    // What is under way may still come; then nothing more, and its tasks end.
    let (paused, counts) = env.until_prefix(&id, "its tasks end", |_, counts| counts.unfinished == 0).await?;
    ensure!(paused.state() == State::Paused && counts.cancelled == counts.submitted, "{paused:?}");
    ensure!(env.prefix(&id).await?.1.pages == counts.pages, "nothing is listed any more");

    let told = backhaul(&env, &["resume", &id], 0)?;
    ensure!(told[0]["state"] == "running", "{told:?}");
    env.until_prefix(&id, "it goes on", |_, now| now.pages > counts.pages).await?;
    let cancel = pb::CancelPrefixBackupRequest { prefix_backup_id: id.clone() };
    let cancelled = env.prefixes()?.cancel_prefix_backup(cancel).await?.into_inner();
    ensure!(cancelled.state() == State::Cancelled && cancelled.finished_at.is_some(), "{cancelled:?}");
    let begun = env.page_begins()?.len();
    let other = env.submit_prefix(prefix("other", "k/")).await?;
    env.until_prefix(&other, "another one is listed", |_, counts| counts.pages >= 1).await?;
    let (still, counts) = env.prefix(&id).await?;
    ensure!(still.state() == State::Cancelled && counts.pages < 20, "{still:?}");
    ensure!(env.page_begins()?.len() <= begun + 4, "only the other one is listed");
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_and_filters_choose_what_is_backed_up() -> anyhow::Result<()> {
    let env = TestEnv::start(EnvOptions::default()).await?;
    env.uploads().keep_versions(ORIGIN_BUCKET).await?;
    let mut versions = BTreeSet::new();
    for (key, size) in
        [("v/a.jpg", 10), ("v/a.jpg", 20), ("v/b.jpg", 30), ("v/c.txt", 10), ("v/d.jpg", 5_000)]
    {
        let written = env.uploads().put_random(ORIGIN_BUCKET, key, size).await?;
        versions.insert((key.to_owned(), written.version));
    }
    env.uploads().put_random(ORIGIN_BUCKET, "v/gone.jpg", 10).await?;
    env.uploads().delete(ORIGIN_BUCKET, "v/gone.jpg").await?;
    let filter = pb::ObjectFilter {
        suffix: ".jpg".to_owned(),
        min_size_bytes: 15,
        max_size_bytes: Some(4_999),
        modified_since: None,
    };
    let request = pb::SubmitPrefixBackupRequest { filter: Some(filter), ..prefix("some", "v/") };
    let id = env.submit_prefix(request).await?;
    let (_, counts) = env.until_prefix(&id, "it is done", |shown, _| shown.state() == State::Done).await?;
    ensure!((counts.listed, counts.skipped, counts.done) == (4, 2, 2), "{counts:?}");

    let all =
        pb::SubmitPrefixBackupRequest { versions: pb::ObjectVersions::All.into(), ..prefix("all", "v/") };
    let id = env.submit_prefix(all).await?;
    let (_, counts) = env.until_prefix(&id, "it is done", |shown, _| shown.state() == State::Done).await?;
    // The deleted one too: what a deletion leaves is a version like any other. Two have their copies already.
    ensure!((counts.listed, counts.already_backed_up, counts.done) == (6, 2, 4), "{counts:?}");
    ensure!(env.kept().await?.len() == 6, "one copy each: {:?}", env.kept().await?);
    let future = prost_types::Timestamp { seconds: 4_000_000_000, nanos: 0 };
    let filter = pb::ObjectFilter { modified_since: Some(future), ..Default::default() };
    let request = pb::SubmitPrefixBackupRequest { filter: Some(filter), ..prefix("new", "v/") };
    let id = env.submit_prefix(request).await?;
    let (_, counts) = env.until_prefix(&id, "it is done", |shown, _| shown.state() == State::Done).await?;
    ensure!((counts.listed, counts.skipped) == (4, 4), "{counts:?}");
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_listed_fails_in_the_open_and_failed_keys_can_be_read() -> anyhow::Result<()> {
    let options = EnvOptions {
        reads: vec![Read::all_of(ORIGIN_BUCKET), Read::all_of("no-such-bucket")],
        ..EnvOptions::default()
    };
    let env = TestEnv::start(options).await?;
    let mut nowhere = prefix("nowhere", "");
    nowhere.prefix.as_mut().context("it names a bucket")?.bucket = "no-such-bucket".to_owned();
    let id = env.submit_prefix(nowhere).await?;
    let (failed, _) =
        env.until_prefix(&id, "it has failed", |shown, _| shown.state() == State::Failed).await?;
    let why = failed.last_failure.context("why")?;
    ensure!(why.code == "no_such_bucket" && why.class() == pb::FailureClass::Permanent, "{why:?}");

    let deny = |operation| {
        let denied = Action::Status { status: 403, code: "AccessDenied".to_owned(), retry_after: None };
        Rule::new(operation, denied).bucket(ORIGIN_BUCKET).always()
    };
    let denied = env.origin_faults()?.add(deny(Operation::ListObjectsV2));
    let id = env.submit_prefix(prefix("denied", "f/")).await?;
    let (failed, _) =
        env.until_prefix(&id, "it has failed", |shown, _| shown.state() == State::Failed).await?;
    ensure!(failed.last_failure.is_some_and(|why| why.code == "denied"), "it says why");
    env.origin_faults()?.remove(denied);

    for key in ["f/a", "f/b", "f/c"] {
        env.uploads().put_random(ORIGIN_BUCKET, key, 100).await?;
    }
    let denied = env.origin_faults()?.add(deny(Operation::GetObject));
    let options = pb::PrefixBackupOptions { max_attempts: 1, ..Default::default() };
    let request = pb::SubmitPrefixBackupRequest { options: Some(options), ..prefix("failing", "f/") };
    let id = env.submit_prefix(request).await?;
    let (_, counts) = env.until_prefix(&id, "it is done", |shown, _| shown.state() == State::Done).await?;
    ensure!((counts.failed, counts.done) == (3, 0), "{counts:?}");
    env.origin_faults()?.remove(denied);
    let printed = backhaul(&env, &["failed", &id], 0)?;
    let keys: BTreeSet<&str> = printed.iter().filter_map(|line| line["key"].as_str()).collect();
    ensure!(keys == BTreeSet::from(["f/a", "f/b", "f/c"]), "{printed:?}");
    ensure!(
        printed.iter().all(|line| line["code"] == "denied" && line["task_id"].is_string()),
        "{printed:?}"
    );
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_backs_up_a_prefix_and_follows_it() -> anyhow::Result<()> {
    let env = TestEnv::start(EnvOptions::default()).await?;
    for number in 0..5 {
        env.uploads().put_random(ORIGIN_BUCKET, &format!("p/{number}.jpg"), 1_000).await?;
    }
    env.uploads().put_random(ORIGIN_BUCKET, "p/other.txt", 1_000).await?;
    let at = format!("uploads:{ORIGIN_BUCKET}/p/");
    let submit = ["submit", "--watch", "--suffix", ".jpg", "--label", "by=script", "--request-id", "x", &at];
    let done = backhaul(&env, &submit, 0)?.pop().context("it prints the end")?;
    ensure!(done["state"] == "done" && done["done"] == 5 && done["skipped"] == 1, "{done}");
    let id = done["prefix_backup_id"].as_str().context("it has an id")?;
    ensure!(backhaul(&env, &["status", id], 0)?[0] == done, "the same");
    ensure!(
        backhaul(&env, &["list"], 0)?.len() == 1 && backhaul(&env, &["list", "--unfinished"], 0)?.is_empty(),
        "listed"
    );
    // It is finished: too late.
    backhaul(&env, &["cancel", id], 2)?;
    ensure!(env.kept().await?.len() == 5, "one copy each");
    env.finish().await
}

/// Runs `backhaul prefix` with these arguments to its end with this code; gives the JSON lines that it printed.
fn backhaul(env: &TestEnv, arguments: &[&str], code: i32) -> anyhow::Result<Vec<Value>> {
    let mut command = program("backhaul")?;
    command.arg("prefix").args(arguments);
    command.args(["--json", "--dispatcher", &format!("http://{}", env.dispatcher_address())]);
    let output = tokio::task::block_in_place(|| command.output())?;
    ensure!(output.status.code() == Some(code), "{arguments:?}: {output:?}");
    let lines = std::str::from_utf8(&output.stdout)?.lines();
    lines.map(|line| serde_json::from_str(line).with_context(|| format!("{line:?} is not JSON"))).collect()
}
