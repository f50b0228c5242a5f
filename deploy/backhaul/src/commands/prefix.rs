//! `backhaul prefix`: backs up all objects below a prefix, and shows how far that is.

mod view;

use std::{io, time::Duration};

use backhaul_proto::v1::{self, PrefixBackupState as State};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::sleep;

use self::view::{FailedView, PrefixView, failed_line, line};
use super::Verdict;
use crate::{
    cli::prefix::{
        PrefixCommand, PrefixIdArgs, PrefixListArgs, PrefixStatusArgs, PrefixSubmitArgs, VersionsArg,
    },
    client::Client,
    instant,
    output::Output,
};

/// Between two looks at one that is followed.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Failures of one call, as many as the service gives.
const PAGE: u32 = 1_000;

/// Does what was asked for.
pub(crate) async fn run(command: PrefixCommand) -> anyhow::Result<Verdict> {
    match command {
        PrefixCommand::Submit(args) => submit(*args).await,
        PrefixCommand::Status(args) => status(args).await,
        PrefixCommand::List(args) => list(args).await,
        PrefixCommand::Pause(PrefixIdArgs { client, id }) => {
            shown(Output::new(client.json), &Client::connect(&client).await?.pause_prefix(&id).await?)
        }
        PrefixCommand::Resume(PrefixIdArgs { client, id }) => {
            shown(Output::new(client.json), &Client::connect(&client).await?.resume_prefix(&id).await?)
        }
        PrefixCommand::Cancel(PrefixIdArgs { client, id }) => {
            shown(Output::new(client.json), &Client::connect(&client).await?.cancel_prefix(&id).await?)
        }
        PrefixCommand::Failed(args) => failed(args).await,
    }
}

async fn submit(args: PrefixSubmitArgs) -> anyhow::Result<Verdict> {
    let since = args.modified_since.as_deref().map(|text| instant::parse("--modified-since", text));
    let filter = v1::ObjectFilter {
        suffix: args.suffix.unwrap_or_default(),
        min_size_bytes: args.min_size.unwrap_or_default(),
        max_size_bytes: args.max_size,
        modified_since: since.transpose()?,
    };
    let versions = match args.versions {
        VersionsArg::Current => v1::ObjectVersions::Current,
        VersionsArg::All => v1::ObjectVersions::All,
    };
    let random = || getrandom::u64().map(|number| format!("cli-{number:016x}"));
    let request = v1::SubmitPrefixBackupRequest {
        request_id: match args.request_id {
            Some(name) => name,
            None => random()?,
        },
        prefix: Some(args.prefix.into_ref()),
        filter: Some(filter),
        versions: versions.into(),
        options: Some(args.task.of_prefix()),
    };
    let client = Client::connect(&args.client).await?;
    let output = Output::new(args.client.json);
    let accepted = client.submit_prefix(&request).await?;
    if args.watch { follow(&client, output, accepted).await } else { shown(output, &accepted) }
}

async fn status(args: PrefixStatusArgs) -> anyhow::Result<Verdict> {
    let client = Client::connect(&args.client).await?;
    let output = Output::new(args.client.json);
    let now = client.get_prefix(&args.id).await?;
    if args.watch { follow(&client, output, now).await } else { shown(output, &now) }
}

async fn list(args: PrefixListArgs) -> anyhow::Result<Verdict> {
    let client = Client::connect(&args.client).await?;
    let output = Output::new(args.client.json);
    let answer = client.list_prefixes(args.unfinished).await?;
    for one in &answer.prefix_backups {
        shown(output, one)?;
    }
    if answer.incomplete {
        output.note("(a part of the queue could not be asked: some may be missing)")?;
        return Ok(Verdict::Bad);
    }
    Ok(Verdict::Good)
}

async fn failed(args: PrefixIdArgs) -> anyhow::Result<Verdict> {
    let client = Client::connect(&args.client).await?;
    let output = Output::new(args.client.json);
    let mut page_token = String::new();
    loop {
        let page = client.prefix_failures(&args.id, PAGE, &page_token).await?;
        for failure in &page.failures {
            output.item(|| FailedView::from(failure), || failed_line(failure))?;
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(Verdict::Good);
        }
    }
}

/// Looks at it until it is finished, and says on the way how far it is.
async fn follow(client: &Client, output: Output, mut now: v1::PrefixBackup) -> anyhow::Result<Verdict> {
    let bar = (!output.is_json() && io::IsTerminal::is_terminal(&io::stderr())).then(bar);
    while !is_finished(&now) {
        if let Some(bar) = &bar {
            bar.set_message(line(&now));
            bar.tick();
        }
        sleep(LOOK_EVERY).await;
        now = client.get_prefix(&now.prefix_backup_id).await?;
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    shown(output, &now)?;
    let failed = now.counts.as_ref().is_some_and(|counts| counts.failed > 0);
    Ok(if now.state() == State::Done && !failed { Verdict::Good } else { Verdict::Bad })
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(4));
    bar.set_style(
        ProgressStyle::with_template("{spinner} {wide_msg}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner()),
    );
    bar
}

fn shown(output: Output, one: &v1::PrefixBackup) -> anyhow::Result<Verdict> {
    output.item(|| PrefixView::from(one), || line(one))?;
    Ok(Verdict::Good)
}

fn is_finished(one: &v1::PrefixBackup) -> bool {
    matches!(one.state(), State::Done | State::Failed | State::Cancelled)
}
