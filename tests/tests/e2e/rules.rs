//! Rules: what events have missed is found by the next run, of many dispatchers one run comes, what was missed is caught up once, and each
//! object is kept for as long as its rule says, whoever asked for its backup.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, ensure};
use backhaul_proto::v1::{self as pb, PrefixBackupState as State, TaskState};
use backhaul_tests::{
    TestEnv,
    env::{EnvOptions, TENANT, prefix},
    eventually,
    locations::{ORIGIN, ORIGIN_BUCKET, VAULT_BUCKET},
    ops::OpsPort,
    programs::program,
    store::StoreKind,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::events::{Door, body, record};

/// Time of the newest first of January is never far from any test.
const YEARLY: &str = "schedule = \"0 0 1 1 *\"";

/// A rules file in a folder of its own.
struct RulesFile(TempDir);

impl RulesFile {
    fn new(rules: &[(&str, &str, &str)]) -> anyhow::Result<Self> {
        let file = Self(TempDir::with_prefix("backhaul-rules-")?);
        file.write(rules)?;
        Ok(file)
    }

    /// Rules by name, prefix and further settings.
    fn write(&self, rules: &[(&str, &str, &str)]) -> anyhow::Result<()> {
        let rule = |(name, prefix, more): &(&str, &str, &str)| {
            format!(
                "[rule.{name}]\ntenant = {TENANT:?}\nlocation = {ORIGIN:?}\nbucket = {ORIGIN_BUCKET:?}\n\
                 prefix = {prefix:?}\n{more}\n"
            )
        };
        // As a cluster does it: whole, by a rename.
        let whole = self.0.path().join("new");
        fs::write(&whole, rules.iter().map(rule).collect::<String>())?;
        Ok(fs::rename(whole, self.path())?)
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("rules.toml")
    }

    fn options(&self, options: EnvOptions) -> EnvOptions {
        options
            .dispatcher_flag("rules", &self.path().display().to_string())
            .dispatcher_flag("operator", "true")
    }
}

/// Runs `backhaul` with these arguments to its end with this code; gives the JSON lines that it printed.
async fn backhaul(env: &TestEnv, arguments: &[&str], code: i32) -> anyhow::Result<Vec<Value>> {
    let mut command = program("backhaul")?;
    command.args(arguments);
    command.args(["--json", "--dispatcher", &format!("http://{}", env.dispatcher_address())]);
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    ensure!(output.status.code() == Some(code), "{arguments:?}: {output:?}");
    let lines = std::str::from_utf8(&output.stdout)?.lines();
    lines.map(|line| serde_json::from_str(line).with_context(|| format!("{line:?} is not JSON"))).collect()
}

/// All prefix backups that rules have made, by their names.
async fn runs(env: &TestEnv) -> anyhow::Result<Vec<pb::PrefixBackup>> {
    let request = pb::ListPrefixBackupsRequest { only_unfinished: false };
    let mut all = env.prefixes()?.list_prefix_backups(request).await?.into_inner().prefix_backups;
    all.retain(|backup| backup.request_id.starts_with("rule:"));
    all.sort_by(|one, other| one.request_id.cmp(&other.request_id));
    Ok(all)
}

/// A tenth of the events never comes. Two dispatchers have the schedule, and find the run due at about the same time.
#[tokio::test(flavor = "multi_thread")]
async fn what_events_have_missed_is_found_by_the_next_run_of_two_dispatchers() -> anyhow::Result<()> {
    const OBJECTS: usize = 50;
    let (door, ops) = (Door::new()?, OpsPort::lease()?);
    let rules = RulesFile::new(&[("users", "users/", &format!("{YEARLY}\npriority = \"high\""))])?;
    let options = rules.options(door.options()).dispatcher_flag("ops-listen", &ops.address());
    let mut env = TestEnv::start(options.workers(0)).await?;
    let (other_door, other_ops) = (Door::new()?, OpsPort::lease()?);
    let other = [("events-listen", other_door.address()), ("ops-listen", other_ops.address())];
    env.add_dispatcher(&other.each_ref().map(|(name, address)| (*name, address.as_str()))).await?;
    env.add_worker().await?;

    let mut told = Vec::new();
    for number in 0..OBJECTS {
        let key = format!("users/{number}");
        env.uploads().put_random(ORIGIN_BUCKET, &key, 100).await?;
        if number % 10 != 3 {
            told.push(record(&key));
        }
    }
    ensure!(door.deliver(&body(&told)).await?.0 == 200);
    let done = eventually("all that was told is backed up", async || {
        let done = env.list(&[TaskState::Done]).await?;
        ensure!(done.len() >= told.len(), "{} are", done.len());
        Ok(done)
    })
    .await?;
    let of_event =
        done.iter().find(|task| task.labels.contains_key("event-source")).context("an event's task")?;
    ensure!(of_event.labels["rule"] == "users" && of_event.priority() == pb::Priority::High, "{of_event:?}");

    set_back(&mut env, "users", YEARS_AGO).await?;
    let found = eventually("a run is complete", async || {
        let found = runs(&env).await?;
        ensure!(found.iter().any(|run| run.state() == State::Done), "{found:?}");
        Ok(found)
    })
    .await?;
    ensure!(found.len() == 1, "one run of two dispatchers: {found:?}");
    let counts = found[0].counts.as_ref().context("it has counts")?;
    ensure!(counts.already_backed_up == told.len() as u64, "{counts:?}");
    ensure!(counts.submitted == (OBJECTS - told.len()) as u64, "what was not told is found: {counts:?}");
    ensure!(env.kept().await?.len() == OBJECTS, "one copy each");
    for ops in [&ops, &other_ops] {
        eventually("the metrics tell of it", async || {
            let missing = ops.metric("backhaul_rule_missing_objects{rule=\"users\"}").await?;
            let ended = ops.metric("backhaul_rule_complete_timestamp_seconds{rule=\"users\"}").await?;
            let behind = ops.metric("backhaul_rule_behind_seconds{rule=\"users\"}").await?;
            ensure!((missing, behind) == (5.0, 0.0) && ended > 0.0, "{missing} {behind} {ended}");
            Ok(())
        })
        .await?;
    }
    env.finish().await
}

/// As if a rule had last been looked at several of its times ago.
const YEARS_AGO: &str = concat!(
    r#"7 {"since_ms":1,"until_ms":1600000000000,"calendar":"0 0 1 1 * UTC","#,
    r#""paused":false,"passed_over":0,"run":null,"complete":null}"#
);

/// Replaces what is kept of a rule in Redis.
async fn set_back(env: &mut TestEnv, rule: &str, mark: &str) -> anyhow::Result<()> {
    let mut redis = env.redis().connect().await?;
    redis::cmd("HSET").arg("{bh:aside}:rules").arg(rule).arg(mark).query_async::<()>(&mut redis).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn times_that_nobody_was_there_for_are_caught_up_once_whoever_dies() -> anyhow::Result<()> {
    let rules = RulesFile::new(&[("all", "", YEARLY)])?;
    let mut env = TestEnv::start(rules.options(EnvOptions::default())).await?;
    env.uploads().put_random(ORIGIN_BUCKET, "photo", 100).await?;
    let listed = eventually("the rule is known", async || {
        let mut listed = backhaul(&env, &["schedule", "list"], 0).await?;
        let rule = listed.pop().context("it is listed")?;
        ensure!(rule["next_run_at"].is_string(), "{rule}");
        Ok(rule)
    })
    .await?;
    ensure!(listed["rule"] == "all" && listed["last_run"].is_null(), "{listed}");
    ensure!(runs(&env).await?.is_empty(), "what was due before anybody knew the rule was not missed");

    // Five of its times have passed while nobody was there.
    env.dispatcher().kill()?;
    set_back(&mut env, "all", YEARS_AGO).await?;
    env.restart_dispatcher().await?;
    let made = eventually("one run is made", async || {
        let runs = runs(&env).await?;
        ensure!(runs.len() == 1, "{runs:?}");
        Ok(runs)
    })
    .await?;
    let (name, id) = (made[0].request_id.clone(), made[0].prefix_backup_id.clone());
    ensure!(name.ends_with("-01-01T00:00:00Z"), "{name}");

    // Killed where the run was decided and nobody knows whether it was made.
    env.dispatcher().kill()?;
    let at = time_of(&name)?;
    let decided = format!(
        r#"9 {{"since_ms":1,"until_ms":{at},"calendar":"0 0 1 1 * UTC","paused":false,"passed_over":0,"run":{{"at_ms":{at},"asked":false,"made":false,"outcome":null}},"complete":null}}"#
    );
    set_back(&mut env, "all", &decided).await?;
    env.restart_dispatcher().await?;
    env.until_prefix(&id, "the run ends", |shown, _| shown.state() == State::Done).await?;
    let rule = eventually("its end is noted", async || {
        let rule = backhaul(&env, &["schedule", "list"], 0).await?.pop().context("it is listed")?;
        ensure!(rule["last_complete_run"]["state"] == "done", "{rule}");
        Ok(rule)
    })
    .await?;
    ensure!(
        rule["last_complete_run"]["missing"] == 1 && rule["last_run"]["prefix_backup_id"] == id,
        "{rule}"
    );
    ensure!(runs(&env).await?.len() == 1 && env.kept().await?.len() == 1, "one run, one copy");
    env.finish().await
}

/// The instant in a run's name, in milliseconds.
fn time_of(name: &str) -> anyhow::Result<i64> {
    let text = name.rsplit("all:").next().context("a name has a time")?;
    let at: prost_types::Timestamp = text.parse()?;
    Ok(at.seconds * 1_000)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_runs_pauses_and_resumes_a_rule_and_replaced_rules_come_into_force() -> anyhow::Result<()> {
    let rules = RulesFile::new(&[("all", "a/", YEARLY)])?;
    let ops = OpsPort::lease()?;
    let options = rules.options(EnvOptions::default()).dispatcher_flag("ops-listen", &ops.address());
    let env = TestEnv::start(options).await?;
    for key in ["a/1", "a/2", "b/1"] {
        env.uploads().put_random(ORIGIN_BUCKET, key, 100).await?;
    }
    let paused = &backhaul(&env, &["schedule", "pause", "all"], 0).await?[0];
    ensure!(paused["paused"] == true && paused["next_run_at"].is_null(), "{paused}");
    let run = backhaul(&env, &["schedule", "run", "all", "--watch"], 0).await?;
    let last = &run[run.len() - 1]["last_run"];
    ensure!(last["state"] == "done" && last["missing"] == 2 && last["asked_for"] == true, "{last}");
    let resumed = &backhaul(&env, &["schedule", "resume", "all"], 0).await?[0];
    ensure!(resumed["paused"] == false && resumed["next_run_at"].is_string(), "{resumed}");
    backhaul(&env, &["schedule", "run", "nobody"], 2).await?;
    // Names of runs are theirs alone.
    let refused = env.submit_prefix(prefix("rule:all:2027-01-01T00:00:00Z", "a/")).await;
    ensure!(refused.is_err(), "a caller has named a run");

    rules.write(&[("wrong", "a/", "schedule = \"never\"")])?;
    eventually("it is said that the file is wrong", async || {
        let refused = ops.metric("backhaul_dispatcher_rules_refused").await?;
        ensure!(refused == 1.0, "{refused}");
        Ok(())
    })
    .await?;
    ensure!(backhaul(&env, &["schedule", "list"], 0).await?[0]["rule"] == "all", "the old rule is in force");
    rules.write(&[("other", "b/", "")])?;
    eventually("the new rule is in force", async || {
        let listed = backhaul(&env, &["schedule", "list"], 0).await?;
        ensure!(listed.len() == 1 && listed[0]["rule"] == "other", "{listed:?}");
        Ok(())
    })
    .await?;
    let run = backhaul(&env, &["schedule", "run", "other", "--watch"], 0).await?;
    ensure!(run[run.len() - 1]["last_run"]["missing"] == 1, "{run:?}");
    ensure!(env.kept().await?.len() == 3, "one copy each");
    env.finish().await
}

/// On a real store that locks: by events' tasks or a caller's, by a listing, and without a rule.
#[tokio::test(flavor = "multi_thread")]
async fn copies_are_locked_for_as_long_as_their_rule_says() -> anyhow::Result<()> {
    let rules = RulesFile::new(&[
        ("all", "", "retention_class = \"short\""),
        ("kept", "kept/", "retention_class = \"long\""),
    ])?;
    let terms = "retain = { mode = \"governance\", days = 1 }\n\
                 retention_class.short = { mode = \"governance\", days = 2 }\n\
                 retention_class.long = { mode = \"governance\", days = 30 }";
    let options = EnvOptions {
        locks: true,
        terms: terms.to_owned(),
        vault: Some(StoreKind::Weed),
        ..EnvOptions::default()
    };
    let env = TestEnv::start(rules.options(options)).await?;
    for key in ["kept/listed", "kept/asked", "other"] {
        env.uploads().put_random(ORIGIN_BUCKET, key, 1_000).await?;
    }
    let asked = env.until(&env.submit("kept/asked").await?.task_id, TaskState::Done).await?;
    ensure!(asked.retention_class == "long", "{asked:?}");
    let run = backhaul(&env, &["schedule", "run", "all", "--watch"], 0).await?;
    ensure!(run[run.len() - 1]["last_run"]["missing"] == 2, "{run:?}");
    let kept = env.kept().await?;
    ensure!(kept.len() == 3, "{kept:?}");
    for key in kept {
        let head = env.copies().head(VAULT_BUCKET, &key).await?.context("the copy is there")?;
        let until = head.object_lock_retain_until_date().context("a lock has an end")?.secs();
        let written = head.last_modified().context("a copy has a time")?.secs();
        let days = Duration::from_secs(u64::try_from(until - written)?).as_secs_f64() / 86_400.0;
        let expected = if key.contains("/kept/") { 30.0 } else { 2.0 };
        ensure!((days - expected).abs() < 0.1, "{key} is locked for {days} days");
    }
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rules_file_that_cannot_be_used_ends_the_start_and_names_rule_and_setting() -> anyhow::Result<()> {
    let rules = RulesFile::new(&[("all", "", "schedule = \"0 3 * *\"\nretention_class = \"none\"")])?;
    let env = TestEnv::start(EnvOptions::default().workers(0)).await?;
    let mut command = program("backhaul-dispatcher")?;
    command.args(["--listen", "127.0.0.1:0", "--insecure"]);
    command.args([Path::new("--locations"), env.locations_file(), Path::new("--rules"), &rules.path()]);
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(64), "{output:?}");
    for setting in ["rule.all.schedule: ", "rule.all.retention_class: "] {
        ensure!(said.contains(setting), "{said}");
    }
    env.finish().await
}
