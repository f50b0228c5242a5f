//! The command line as people and scripts use it, the standalone program, and the demo.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Command, Output},
};

use anyhow::{Context as _, ensure};
use backhaul_tests::{
    TestEnv,
    env::EnvOptions,
    eventually::eventually,
    locations::ORIGIN_BUCKET,
    process::Process,
    programs::program,
    s3::{Credentials, S3},
};
use serde_json::Value;

/// Runs `backhaul` with these arguments to its end.
async fn run(arguments: &[&str]) -> anyhow::Result<Output> {
    let mut command = program("backhaul")?;
    command.args(arguments);
    finish(command).await
}

async fn finish(mut command: Command) -> anyhow::Result<Output> {
    Ok(tokio::task::spawn_blocking(move || command.output()).await??)
}

/// The JSON lines that it printed, after an end with this exit code.
fn lines(output: &Output, code: i32) -> anyhow::Result<Vec<Value>> {
    ensure!(output.status.code() == Some(code), "{output:?}");
    std::str::from_utf8(&output.stdout)?
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("{line:?} is not JSON")))
        .collect()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_submits_follows_lists_and_reads_receipts() -> anyhow::Result<()> {
    let env = TestEnv::start(EnvOptions::default()).await?;
    let dispatcher = format!("http://{}", env.dispatcher_address());
    let written = env.uploads().put_random(ORIGIN_BUCKET, "a b", 100_000).await?;
    env.uploads().put_random(ORIGIN_BUCKET, "empty", 0).await?;
    let objects = [format!("uploads:{ORIGIN_BUCKET}/a b"), format!("uploads:{ORIGIN_BUCKET}/empty")];

    let submit = ["submit", "--dispatcher", &dispatcher, "--json", "--watch", "--label", "by=script"];
    let printed = lines(&run(&[&submit[..], &[&objects[0], &objects[1]]].concat()).await?, 0)?;
    ensure!(printed.len() == 4, "two accepted, two finished: {printed:?}");
    ensure!(printed[..2].iter().all(|line| line["outcome"] == "created"), "{printed:?}");
    ensure!(printed[2..].iter().all(|line| line["state"] == "done"), "{printed:?}");

    let id = printed[0]["task_id"].as_str().context("it names its task")?;
    let status = &lines(&run(&["status", "--dispatcher", &dispatcher, "--json", id]).await?, 0)?[0];
    ensure!(status["key"] == "a b" && status["labels"]["by"] == "script", "{status}");
    ensure!(status["receipt"]["size_bytes"] == written.size_bytes, "{status}");
    ensure!(status["receipt"]["source_etag"] == written.etag, "{status}");

    let list = ["list", "--dispatcher", &dispatcher, "--json", "--state", "done", "--label", "by=script"];
    ensure!(lines(&run(&list).await?, 0)?.len() == 2, "both are listed");
    let none = lines(&run(&[&list[..], &["--prefix", "nothing"]].concat()).await?, 0)?;
    ensure!(none.is_empty(), "{none:?}");

    // People get the same in words.
    let human = run(&["status", "--dispatcher", &dispatcher, id]).await?;
    let text = String::from_utf8(human.stdout)?;
    ensure!(human.status.success() && text.contains("done") && text.contains("crc64nvme"), "{text}");
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_words_and_exit_codes() -> anyhow::Result<()> {
    let env = TestEnv::start(EnvOptions::default()).await?;
    let dispatcher = format!("http://{}", env.dispatcher_address());
    let at = ["--dispatcher", dispatcher.as_str()];

    let object = format!("uploads:{ORIGIN_BUCKET}/later");
    let output = run(&[&["submit", "--json", "--at", "+1h", &object], &at[..]].concat()).await?;
    let id = lines(&output, 0)?[0]["task_id"].as_str().context("it names its task")?.to_owned();
    let cancelled = &lines(&run(&[&["cancel", "--json", &id], &at[..]].concat()).await?, 0)?[0];
    ensure!(cancelled["state"] == "cancelled" && cancelled["reason"] == "cancelled_by_caller", "{cancelled}");
    let watched = lines(&run(&[&["watch", "--json", &id], &at[..]].concat()).await?, 1)?;
    ensure!(watched[0]["state"] == "cancelled", "what is not backed up is not success: {watched:?}");

    let unknown = "000-00000000000000000000000000000000";
    let output = run(&[&["status", unknown], &at[..]].concat()).await?;
    ensure!(output.status.code() == Some(2) && said(&output).contains("no such task"), "{output:?}");
    let output = run(&[&["submit", "nowhere:bucket/key"], &at[..]].concat()).await?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.code() == Some(1) && text.contains("refused  nowhere:bucket/key"), "{output:?}");
    let output = run(&["status", "--dispatcher", "http://127.0.0.1:1", "--timeout", "2s", unknown]).await?;
    ensure!(output.status.code() == Some(2) && said(&output).contains("http://127.0.0.1:1"), "{output:?}");
    env.finish().await
}

/// A standalone program on free ports, and what it says of itself.
struct Standalone {
    process: Process,
    /// What a caller says to reach it.
    at: Vec<String>,
    origin: S3,
}

impl Standalone {
    async fn start(folder: &Path) -> anyhow::Result<Self> {
        let log = folder.join(format!("log-{}", fastrand::u64(..)));
        let mut command = program("backhaul")?;
        command.arg("standalone").arg("--data").arg(folder.join("data"));
        for flag in ["--listen", "--origin-listen", "--vault-listen"] {
            command.arg(flag).arg(SocketAddr::from(([127, 0, 0, 1], 0)).to_string());
        }
        let mut process = Process::start("standalone", &mut command, &log)?;
        let text = eventually("it says how to use it", async || {
            process.ensure_running()?;
            let text = process.log()?;
            ensure!(text.contains("The backups are in"), "{text}");
            Ok(text)
        })
        .await?;
        let word = |after: &str| {
            let rest = text.split_once(after).with_context(|| format!("it says no {after}"))?.1;
            anyhow::Ok(rest.split_whitespace().next().unwrap_or_default().to_owned())
        };
        let credentials = Credentials {
            access_key: word("AWS_ACCESS_KEY_ID=")?,
            secret_key: word("AWS_SECRET_ACCESS_KEY=")?,
        };
        let origin = S3::connect(&word("--endpoint-url ")?, &credentials);
        let mut at = vec![format!("--dispatcher={}", word("--dispatcher ")?)];
        for flag in ["tls-cert", "tls-key", "tls-bundle", "trust-domain", "insecure"] {
            at.push(format!("--{flag}={}", word(&format!("--{flag}="))?));
        }
        Ok(Self { at, origin, process })
    }

    /// Runs a command of a caller to its end.
    async fn run(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let at: Vec<&str> = self.at.iter().map(String::as_str).collect();
        run(&[arguments, &at].concat()).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_backhaul_runs_in_one_process_and_finds_its_data_again() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut first = Standalone::start(folder.path()).await?;
    first.origin.put_random("uploads", "photo.jpg", 3_000_000).await?;
    let submit = ["submit", "--json", "--watch", "uploads:uploads/photo.jpg"];
    let printed = lines(&first.run(&submit).await?, 0)?;
    let id = printed[0]["task_id"].as_str().context("it names its task")?;
    ensure!(printed[1]["state"] == "done", "{printed:?}");
    ensure!(first.process.stop().await?.success(), "{}", first.process.log()?);

    let mut second = Standalone::start(folder.path()).await?;
    let status = &lines(&second.run(&["status", "--json", id]).await?, 0)?[0];
    ensure!(status["state"] == "done", "{status}");
    let port = second.at[0].trim_start_matches("--dispatcher=https://").to_owned();
    let plain = run(&["status", id, "--dispatcher", &format!("http://{port}"), "--timeout", "2s"]).await?;
    ensure!(plain.status.code() == Some(2), "nobody is let in without a certificate: {plain:?}");
    ensure!(second.origin.head("uploads", "photo.jpg").await?.is_some(), "the origin kept it");
    ensure!(second.process.stop().await?.success(), "{}", second.process.log()?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_proves_its_copies_and_leaves_nothing_behind() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut command = program("backhaul")?;
    command.args(["demo", "--large", "1"]).env("TMPDIR", folder.path());
    let output = finish(command).await?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{text}\n{}", said(&output));
    ensure!(text.contains("every byte, type, header and label as uploaded; 1 failed attempt"), "{text}");
    let left: Vec<_> = std::fs::read_dir(folder.path())?.collect::<Result<_, _>>()?;
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}
