//! What is left of a scenario in records: the audit log across a kill, found whole or not by the shipped verifier, and logs in which no name
//! that a caller chose is anything but text.

use std::{fs, path::Path, process::Output};

use anyhow::{Context as _, ensure};
use backhaul_proto::v1::{self as pb, TaskState};
use backhaul_tests::{
    TestEnv,
    env::{EnvOptions, object},
    eventually,
    locations::ORIGIN_BUCKET,
    programs::program,
};
use serde_json::Value;
use tempfile::TempDir;

/// Ends its line, begins another that looks like one of ours, and tells a terminal to do things.
const HOSTILE: &str = "x\r\n{\"seq\":1,\"event\":\"start\"}\n2027-01-01T00:00:00Z ERROR forged: \u{1b}[2J\u{9b}31m\u{7f}\u{2028}\u{202e}z";

fn verify(file: &Path, flags: &[&str]) -> anyhow::Result<Output> {
    Ok(program("backhaul")?.args(["audit", "verify"]).args(flags).arg(file).output()?)
}

fn lines(file: &Path) -> anyhow::Result<Vec<Value>> {
    fs::read_to_string(file)?.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_goes_on_after_a_kill_and_shows_what_is_done_to_it() -> anyhow::Result<()> {
    let folder = TempDir::with_prefix("backhaul-audit-")?;
    let (log, key) = (folder.path().join("audit.jsonl"), folder.path().join("key"));
    fs::write(&key, "k".repeat(40))?;
    let options = EnvOptions::default()
        .dispatcher_flag("audit-log", log.to_str().context("a path of ours")?)
        .dispatcher_flag("audit-key-file", key.to_str().context("a path of ours")?);
    let mut env = TestEnv::start(options).await?;
    for (told, key) in ["first", "second"].into_iter().enumerate() {
        let written = env.uploads().put_random(ORIGIN_BUCKET, key, 1000).await?;
        let task = env.until(&env.submit(key).await?.task_id, TaskState::Done).await?;
        env.prove(&task, &written).await?;
        eventually("its end is in the log", async || {
            ensure!(fs::read_to_string(&log)?.matches("\"report\":\"done\"").count() > told);
            Ok(())
        })
        .await?;
        env.dispatcher().kill()?;
        env.restart_dispatcher().await?;
    }
    env.finish().await?;

    let said = lines(&log)?;
    let count = |event: &str| said.iter().filter(|line| line["event"] == event).count();
    ensure!((count("start"), count("stop")) == (3, 1), "three lives, of which one ended in order");
    let done = said.iter().filter(|line| line["event"] == "report");
    let done: Vec<&Value> =
        done.flat_map(|line| line["tasks"].as_array()).flatten().filter(|t| t["outcome"] == "done").collect();
    ensure!(done.len() == 2 && done.iter().all(|task| task["receipt"]["bytes"] == 1000), "{done:?}");

    let flags = ["--key-file", key.to_str().context("a path of ours")?];
    let good = verify(&log, &flags)?;
    ensure!(good.status.code() == Some(0), "{good:?}");
    ensure!(String::from_utf8_lossy(&good.stdout).contains(&format!("{} lines from 1 on", said.len())));
    ensure!(verify(&log, &[])?.status.code() == Some(2), "it has a key");
    let bytes = fs::read(&log)?;
    let mut changed = bytes.clone();
    let at = String::from_utf8(bytes.clone())?.find("\"second\"").context("the key is in the log")? + 1;
    changed[at] = b'S';
    fs::write(&log, &changed)?;
    let bad = verify(&log, &flags)?;
    let line = 1 + changed[..at].iter().filter(|byte| **byte == b'\n').count();
    let told = String::from_utf8_lossy(&bad.stdout).into_owned();
    ensure!(bad.status.code() == Some(1) && told.contains(&format!("line {line} was changed")), "{told}");
    fs::write(&log, &bytes[..bytes.len() - 3])?;
    ensure!(verify(&log, &flags)?.status.code() == Some(3), "its last line is cut off");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_name_that_a_caller_chose_forges_a_line_of_any_log() -> anyhow::Result<()> {
    for format in ["text", "json"] {
        let folder = TempDir::with_prefix("backhaul-audit-")?;
        let log = folder.path().join("audit.jsonl");
        let options = EnvOptions::default()
            .dispatcher_flag("audit-log", log.to_str().context("a path of ours")?)
            .dispatcher_flag("log-format", format)
            .worker_flag("log-format", format);
        let mut env = TestEnv::start(options).await?;
        let written = env.uploads().put_random(ORIGIN_BUCKET, HOSTILE, 1000).await?;
        let labels = [("label".to_owned(), HOSTILE.chars().take(80).collect())].into();
        let request = |key: &str, labels| pb::SubmitBackupRequest {
            object: Some(object(key)),
            options: Some(pb::SubmitOptions { labels, ..Default::default() }),
        };
        let mut backups = env.backups()?;
        let id = backups.submit_backup(request(HOSTILE, labels)).await?.into_inner().task_id;
        let task = env.until(&id, TaskState::Done).await?;
        env.prove(&task, &written).await?;
        // One that is not there, one that is refused, and ids that are none.
        let absent = format!("absent{HOSTILE}");
        let id = backups.submit_backup(request(&absent, [].into())).await?.into_inner().task_id;
        env.until(&id, TaskState::Cancelled).await?;
        let mut refused = request(HOSTILE, [].into());
        if let Some(object) = &mut refused.object {
            object.location = HOSTILE.into();
        }
        backups.submit_backup(refused).await.err().context("there is no such location")?;
        let request = pb::GetBackupRequest { task_id: HOSTILE.into() };
        backups.get_backup(request).await.err().context("there is no such task")?;
        let logs = [env.dispatcher().log()?, env.worker(0).log()?];
        env.finish().await?;

        for text in logs {
            for line in text.lines() {
                let is_hidden = |c: char| c.is_control() || ['\u{2028}', '\u{202e}'].contains(&c);
                ensure!(!line.contains(is_hidden), "{line:?}");
                if format == "json" {
                    let line: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
                    ensure!(line["level"] != "ERROR", "{line}");
                } else {
                    ensure!(line.starts_with("20") && line.contains(" backhaul"), "{line:?}");
                    ensure!(!line.starts_with("2027-01-01"), "{line:?}");
                }
            }
        }
        let said = lines(&log)?;
        ensure!(fs::read(&log)?.iter().all(|byte| *byte == b'\n' || (b' '..=b'~').contains(byte)));
        ensure!(verify(&log, &[])?.status.code() == Some(0));
        let tasks = || said.iter().filter_map(|line| line["tasks"].as_array()).flatten();
        ensure!(tasks().any(|task| task["key"] == HOSTILE && task["outcome"] == "created"));
        ensure!(tasks().any(|task| task["location"] == HOSTILE && task["refused"] == "invalid fields"));
        ensure!(said.iter().filter(|line| line["event"] == "start").count() == 1, "no line is forged");
    }
    Ok(())
}
