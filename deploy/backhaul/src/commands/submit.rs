//! `backhaul submit`: asks for backups, in batches, and says for each object what became of the request.

use std::{
    io::{self, BufRead as _},
    thread,
};

use anyhow::{Context as _, bail};
use backhaul_proto::v1::{self, submit_backup_result::Result as Answer};
use serde::Serialize;
use tokio::sync::mpsc;

use super::{Verdict, watch};
use crate::{
    cli::SubmitArgs,
    client::Client,
    instant,
    object::{self, ObjectArg},
    output::Output,
    view,
};

/// Requests in one call. Below the service's 1,000, so that 1 KiB keys fit its 1 MiB too.
const BATCH: usize = 500;

#[derive(Serialize)]
struct Accepted<'a> {
    object: String,
    task_id: &'a str,
    run: u32,
    state: &'static str,
    outcome: &'static str,
}

#[derive(Serialize)]
struct Refused<'a> {
    object: String,
    error: &'a str,
    violations: Vec<String>,
}

/// Submits all objects and, if asked to, follows their tasks.
pub(crate) async fn run(args: SubmitArgs) -> anyhow::Result<Verdict> {
    let options = options(&args)?;
    if args.object_version.is_some() && (args.objects.len() != 1 || args.stdin) {
        bail!("--object-version goes with exactly one object");
    }
    let client = Client::connect(&args.client).await?;
    let output = Output::new(args.client.json);
    let version = args.object_version.as_deref();
    let mut batch = Vec::new();
    let mut submitted = Submitted::default();
    for object in args.objects {
        batch.push(object.into_ref(version));
        submitted.send_if_full(&client, output, &options, &mut batch).await?;
    }
    if args.stdin {
        let mut lines = stdin_lines().context("reading standard input")?;
        while let Some(line) = lines.recv().await {
            let line = line.context("reading standard input")?;
            if line.is_empty() {
                continue;
            }
            let object: ObjectArg = line.parse().with_context(|| format!("{line:?}"))?;
            batch.push(object.into_ref(None));
            submitted.send_if_full(&client, output, &options, &mut batch).await?;
        }
    }
    submitted.send(&client, output, &options, &mut batch).await?;
    if args.watch {
        let watched = watch::follow(&client, output, submitted.tasks).await?;
        return Ok(submitted.verdict.unwrap_or(Verdict::Good).and(watched));
    }
    Ok(submitted.verdict.unwrap_or(Verdict::Good))
}

/// What has been submitted so far.
#[derive(Default)]
struct Submitted {
    tasks: Vec<String>,
    verdict: Option<Verdict>,
}

impl Submitted {
    async fn send_if_full(
        &mut self,
        client: &Client,
        output: Output,
        options: &v1::SubmitOptions,
        batch: &mut Vec<v1::ObjectRef>,
    ) -> anyhow::Result<()> {
        if batch.len() < BATCH { Ok(()) } else { self.send(client, output, options, batch).await }
    }

    async fn send(
        &mut self,
        client: &Client,
        output: Output,
        options: &v1::SubmitOptions,
        batch: &mut Vec<v1::ObjectRef>,
    ) -> anyhow::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let objects = std::mem::take(batch);
        let requests = objects
            .iter()
            .map(|object| v1::SubmitBackupRequest {
                object: Some(object.clone()),
                options: Some(options.clone()),
            })
            .collect();
        let answers = client.submit(v1::SubmitBackupsRequest { requests }).await?;
        for (object, answer) in objects.iter().zip(answers) {
            match answer.result {
                Some(Answer::Accepted(task)) => {
                    print_accepted(output, object, &task)?;
                    self.tasks.push(task.task_id);
                }
                Some(Answer::Error(error)) => {
                    self.verdict = Some(Verdict::Bad);
                    print_refused(output, object, &error)?;
                }
                None => bail!("the dispatcher gave no answer for {}", object::display(object)),
            }
        }
        Ok(())
    }
}

/// Reads standard input on a thread of its own: a read cannot be given up, and a signal must end the command all the same. The thread ends
/// with the input, with whoever reads the lines, or with the process.
fn stdin_lines() -> io::Result<mpsc::Receiver<io::Result<String>>> {
    let (lines, receiver) = mpsc::channel(BATCH);
    thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        for line in io::stdin().lock().lines() {
            if lines.blocking_send(line).is_err() {
                break;
            }
        }
    })?;
    Ok(receiver)
}

fn print_accepted(output: Output, object: &v1::ObjectRef, task: &v1::SubmitBackupResponse) -> io::Result<()> {
    let outcome = view::outcome(task.outcome());
    output.item(
        || Accepted {
            object: object::display(object),
            task_id: &task.task_id,
            run: task.run,
            state: view::state(task.state()),
            outcome,
        },
        || format!("{}  {outcome:<10}  {}", task.task_id, object::display(object)),
    )
}

fn print_refused(output: Output, object: &v1::ObjectRef, error: &v1::SubmitError) -> io::Result<()> {
    let violations =
        || error.violations.iter().map(|v| format!("{}: {}", v.field, v.description)).collect::<Vec<_>>();
    output.item(
        || Refused { object: object::display(object), error: &error.message, violations: violations() },
        || format!("refused  {}  {} {}", object::display(object), error.message, violations().join("; ")),
    )
}

fn options(args: &SubmitArgs) -> anyhow::Result<v1::SubmitOptions> {
    let process_at = args.at.as_deref().map(|at| instant::parse("--at", at)).transpose()?;
    Ok(v1::SubmitOptions { process_at, ..args.task.of_object() })
}
