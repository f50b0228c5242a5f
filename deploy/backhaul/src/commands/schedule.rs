//! `backhaul schedule`: shows rules and their runs, and has runs begin or rest.

mod view;

use std::time::Duration;

use anyhow::{Context as _, bail};
use backhaul_proto::v1::{self, RuleRunState as State};
use tokio::time::sleep;

use self::view::{RuleView, line};
use super::Verdict;
use crate::{
    cli::schedule::{ScheduleCommand, ScheduleListArgs, ScheduleNameArgs, ScheduleRunArgs},
    client::{Client, ClientError},
    output::Output,
};

/// Between two looks at a run that is followed.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Does what was asked for.
pub(crate) async fn run(command: ScheduleCommand) -> anyhow::Result<Verdict> {
    match command {
        ScheduleCommand::List(ScheduleListArgs { client }) => {
            let output = Output::new(client.json);
            for rule in &list(&Client::connect(&client).await?).await? {
                shown(output, rule)?;
            }
            Ok(Verdict::Good)
        }
        ScheduleCommand::Run(args) => begin(args).await,
        ScheduleCommand::Pause(ScheduleNameArgs { client, rule: name }) => {
            let service = Client::connect(&client).await?;
            let paused = service.rules(|mut service| {
                let request = v1::PauseRuleRequest { name: name.clone() };
                async move { service.pause_rule(request).await }
            });
            shown(Output::new(client.json), &paused.await?.rule.unwrap_or_default())
        }
        ScheduleCommand::Resume(ScheduleNameArgs { client, rule: name }) => {
            let service = Client::connect(&client).await?;
            let resumed = service.rules(|mut service| {
                let request = v1::ResumeRuleRequest { name: name.clone() };
                async move { service.resume_rule(request).await }
            });
            shown(Output::new(client.json), &resumed.await?.rule.unwrap_or_default())
        }
    }
}

async fn begin(args: ScheduleRunArgs) -> anyhow::Result<Verdict> {
    let client = Client::connect(&args.client).await?;
    let output = Output::new(args.client.json);
    let answer = client.rules(|mut service| {
        let request = v1::RunRuleRequest { name: args.rule.clone() };
        async move { service.run_rule(request).await }
    });
    let answer = answer.await?;
    let rule = answer.rule.unwrap_or_default();
    if !answer.begun {
        output.note("(a run goes on already)")?;
    }
    if args.watch { follow(&client, output, rule).await } else { shown(output, &rule) }
}

/// Looks at the newest run until it has ended.
async fn follow(client: &Client, output: Output, first: v1::Rule) -> anyhow::Result<Verdict> {
    let begun = first.last_run.as_ref().and_then(|run| run.at);
    let mut now = first;
    loop {
        let run = now.last_run.as_ref().context("the dispatcher shows no run")?;
        if run.at != begun {
            bail!("another run of rule {} has begun meanwhile", now.name);
        }
        if !matches!(run.state(), State::Running | State::Paused) {
            let good = run.state() == State::Done && run.failed == 0;
            shown(output, &now)?;
            return Ok(if good { Verdict::Good } else { Verdict::Bad });
        }
        sleep(LOOK_EVERY).await;
        let rules = list(client).await?;
        let found = rules.into_iter().find(|rule| rule.name == now.name);
        now = found.with_context(|| format!("rule {} is gone", now.name))?;
    }
}

async fn list(client: &Client) -> Result<Vec<v1::Rule>, ClientError> {
    let request = v1::ListRulesRequest {};
    Ok(client.rules(|mut service| async move { service.list_rules(request).await }).await?.rules)
}

fn shown(output: Output, rule: &v1::Rule) -> anyhow::Result<Verdict> {
    output.item(|| RuleView::from(rule), || line(rule))?;
    Ok(Verdict::Good)
}
