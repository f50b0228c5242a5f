//! `backhaul demo`: the main job on real files, from upload to proof, in a few minutes and without a trace afterwards.
//!
//! A story for a newcomer and a check for the makers: every step uses the real services over their real interfaces, and the demo
//! fails if any copy differs in a byte, a header or a label.

mod files;
mod proof;
mod stores;

use std::{path::Path, time::Duration};

use anyhow::{Context as _, bail, ensure};
use backhaul_embedded_s3::{Action, FaultPlan, Operation, Rule};
use backhaul_proto::v1::{self, submit_backup_result::Result as Answer};
use backhaul_runtime::{telemetry::LogArgs, units::display_size};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tonic::transport::Uri;

use self::{files::DemoFile, stores::Store};
use crate::{
    cli::DemoArgs,
    client::{Client, Security},
    commands::{Verdict, watch},
    object::display,
    output::Output,
    standalone::{self, ORIGIN, Standalone, VAULT},
};

/// The object whose download fails at first.
const UNLUCKY: &str = "reports/2026/quarter 3.csv";
/// Longest time for a failure to be reported.
const FAILS_WITHIN: Duration = Duration::from_secs(120);

/// What the story is told with, while the programs run by themselves.
#[derive(Debug)]
struct Stage {
    origin: Store,
    vault: Store,
    faults: FaultPlan,
    dispatcher: Uri,
    caller: Security,
}

/// Runs the demo in a temporary folder.
pub(crate) async fn run(args: DemoArgs, stop: CancellationToken) -> anyhow::Result<Verdict> {
    standalone::init_log(&LogArgs::text(&args.log))?;
    let folder =
        tempfile::Builder::new().prefix("backhaul-demo-").tempdir().context("making a temporary folder")?;
    let output = Output::new(false);
    output.note("1. Starting redis-server, two S3 stores, a dispatcher and a worker")?;
    let mut standalone = Standalone::start(options(&args, folder.path())).await?;
    let stage = Stage::of(&standalone)?;
    let told = tokio::select! {
        told = story(&args, folder.path(), &stage, output) => told,
        () = stop.cancelled() => Err(anyhow::anyhow!("interrupted")),
        ended = standalone.ended() => ended.and_then(|()| bail!("a service ended before the demo did")),
    };
    let stopped = standalone.stop().await;
    folder.close().context("removing the temporary folder")?;
    told?;
    stopped?;
    output.note("Everything is stopped and removed.")?;
    Ok(Verdict::Good)
}

fn options(args: &DemoArgs, folder: &Path) -> standalone::Options {
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    standalone::Options {
        data: folder.join("data"),
        listen: any,
        origin_listen: any,
        vault_listen: any,
        redis_server: args.redis_server.clone(),
        ops: [None; 2],
        // A person watches: wait a second between attempts, not minutes.
        dispatcher_flags: ["--retry-base=1s", "--retry-floor=500ms", "--retry-max=5s"].map(Into::into).into(),
    }
}

impl Stage {
    fn of(standalone: &Standalone) -> anyhow::Result<Self> {
        Ok(Self {
            origin: Store::connect(&standalone.origin_endpoint(), standalone.origin_keys()),
            vault: Store::connect(&standalone.vault_endpoint(), standalone.vault_keys()),
            faults: standalone.origin_faults().clone(),
            dispatcher: standalone.dispatcher_url().parse()?,
            caller: standalone.caller()?,
        })
    }
}

async fn story(args: &DemoArgs, folder: &Path, stage: &Stage, output: Output) -> anyhow::Result<()> {
    let files =
        files::write(&folder.join("files"), args.large).await.context("writing the files of the demo")?;
    let bytes: u64 = files.iter().map(|f| f.size_bytes).sum();
    output.note(&format!(
        "2. Uploading {} files, {} in all, to the origin",
        files.len(),
        display_size(bytes)
    ))?;
    for file in &files {
        stage.origin.upload(ORIGIN.1, file).await.with_context(|| format!("uploading {:?}", file.key))?;
    }

    output.note(&format!("3. Making the origin fail for {UNLUCKY:?}, to see what a failure does"))?;
    stage.faults.add(
        Rule::new(
            Operation::GetObject,
            Action::Status { status: 500, code: "InternalError".into(), retry_after: None },
        )
        .key(UNLUCKY)
        .always(),
    );

    let client =
        Client::connect_to(&stage.dispatcher, Some(stage.caller.clone()), Duration::from_secs(30)).await?;
    let tasks = submit(&client, &files).await?;
    output.note(&format!("4. SubmitBackups: {} tasks accepted", tasks.len()))?;

    let unlucky = files.iter().position(|f| f.key == UNLUCKY).context("the unlucky file is one of them")?;
    let failed = wait_for_failure(&client, &tasks[unlucky]).await?;
    let failure = failed.last_failure.clone().unwrap_or_default();
    let repeated = submit(&client, &files[unlucky..=unlucky]).await?;
    ensure!(repeated == tasks[unlucky..=unlucky], "the repeated request made a new task");
    output.note(&format!(
        "5. {UNLUCKY:?} failed ({}: {}) and waits in delay. A nervous caller asks for it again and gets the same task. \
         The origin gets well",
        failure.code, failure.message
    ))?;
    stage.faults.clear();

    output.note("6. Following all tasks to their end")?;
    let started = Instant::now();
    let verdict = watch::follow(&client, output, tasks.clone()).await?;
    ensure!(verdict == Verdict::Good, "not every task was done");
    output.note(&format!("   all done {} ms later", started.elapsed().as_millis()))?;

    output.note("7. Proving every copy against its file")?;
    let mut retried = 0;
    for (file, task) in files.iter().zip(&tasks) {
        let task = client.get(task).await?;
        let receipt = task.receipt.clone().with_context(|| format!("{:?} has no receipt", file.key))?;
        retried += task.attempts;
        proof::check(&stage.vault, VAULT.1, file, &receipt)
            .await
            .with_context(|| format!("the copy of {:?}", file.key))?;
    }
    // Asked for again while a second attempt was under way, it has a new run, which counts from zero.
    let retried = retried.max(failed.attempts);
    ensure!(retried >= 1, "the failure that was made left no attempt behind");
    show_receipt(&client, &tasks[unlucky], output).await?;
    output.note(&format!(
        "   {} copies, {}: every byte, type, header and label as uploaded; {retried} failed attempt(s) on the way",
        files.len(),
        display_size(bytes)
    ))?;
    Ok(())
}

async fn submit(client: &Client, files: &[DemoFile]) -> anyhow::Result<Vec<String>> {
    let requests = files
        .iter()
        .map(|file| v1::SubmitBackupRequest {
            object: Some(v1::ObjectRef {
                location: ORIGIN.0.into(),
                bucket: ORIGIN.1.into(),
                key: file.key.clone(),
                version: String::new(),
            }),
            options: Some(v1::SubmitOptions {
                labels: [("demo".to_owned(), "yes".to_owned())].into(),
                size_hint_bytes: file.size_bytes,
                ..v1::SubmitOptions::default()
            }),
        })
        .collect();
    let answers = client.submit(v1::SubmitBackupsRequest { requests }).await?;
    ensure!(answers.len() == files.len(), "{} answers for {} requests", answers.len(), files.len());
    answers
        .into_iter()
        .zip(files)
        .map(|(answer, file)| match answer.result {
            Some(Answer::Accepted(task)) => Ok(task.task_id),
            Some(Answer::Error(error)) => bail!("{:?} was refused: {}", file.key, error.message),
            None => bail!("no answer for {:?}", file.key),
        })
        .collect()
}

async fn wait_for_failure(client: &Client, task: &str) -> anyhow::Result<v1::Backup> {
    let deadline = Instant::now() + FAILS_WITHIN;
    loop {
        let task = client.get(task).await?;
        if task.attempts > 0 {
            return Ok(task);
        }
        ensure!(
            Instant::now() < deadline,
            "no failure was reported: {}",
            display(&task.object.unwrap_or_default())
        );
        sleep(Duration::from_millis(100)).await;
    }
}

async fn show_receipt(client: &Client, task: &str, output: Output) -> anyhow::Result<()> {
    let task = client.get(task).await?;
    output.note("   The receipt of the one that failed first:")?;
    for line in crate::view::full(&task).lines() {
        output.note(&format!("     {line}"))?;
    }
    Ok(())
}
