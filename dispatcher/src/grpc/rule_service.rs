//! `RuleService`: what operators see and ask of rules and their runs. Check, ask, present.
//!
//! Operators only, which the table of `access` says at the door: rules are of all tenants. When runs are due and what becomes of them
//! is decided elsewhere.

use async_trait::async_trait;
use backhaul_proto::v1::{self as pb, rule_service_server::RuleService};
use tonic::{Request, Response, Status};

use super::{
    prefix_service::present::presented,
    present,
    status::{ApiError, Whose},
    validate,
};
use crate::{
    audit,
    queue::{
        UnixMs,
        walk::{Stored, WalkState},
    },
    schedule::{
        NotBegun, Runs, Shown,
        mark::{End, Outcome, Run},
    },
};

/// Longest name of a rule.
const MAX_NAME_BYTES: usize = 63;

/// The calls of operators over runs of rules.
#[derive(Debug)]
pub(crate) struct Rules(pub(crate) Runs);

#[async_trait]
impl RuleService for Rules {
    async fn list_rules(
        &self,
        _: Request<pb::ListRulesRequest>,
    ) -> Result<Response<pb::ListRulesResponse>, Status> {
        let shown = self.0.show().await.map_err(ApiError::from)?;
        Ok(Response::new(pb::ListRulesResponse { rules: shown.into_iter().map(rule).collect() }))
    }

    async fn run_rule(
        &self,
        request: Request<pb::RunRuleRequest>,
    ) -> Result<Response<pb::RunRuleResponse>, Status> {
        let name = name(request.into_inner().name)?;
        audit::about("rule", &name);
        let begun = self.0.run(&name).await.map_err(|error| refused(error, &name))?;
        Ok(Response::new(pb::RunRuleResponse { rule: Some(self.shown(&name).await?), begun }))
    }

    async fn pause_rule(
        &self,
        request: Request<pb::PauseRuleRequest>,
    ) -> Result<Response<pb::PauseRuleResponse>, Status> {
        let name = name(request.into_inner().name)?;
        audit::about("rule", &name);
        self.0.set_paused(&name, true).await.map_err(|error| refused(error, &name))?;
        Ok(Response::new(pb::PauseRuleResponse { rule: Some(self.shown(&name).await?) }))
    }

    async fn resume_rule(
        &self,
        request: Request<pb::ResumeRuleRequest>,
    ) -> Result<Response<pb::ResumeRuleResponse>, Status> {
        let name = name(request.into_inner().name)?;
        audit::about("rule", &name);
        self.0.set_paused(&name, false).await.map_err(|error| refused(error, &name))?;
        Ok(Response::new(pb::ResumeRuleResponse { rule: Some(self.shown(&name).await?) }))
    }
}

impl Rules {
    async fn shown(&self, name: &str) -> Result<pb::Rule, ApiError> {
        let shown = self.0.show_one(name).await?;
        shown.map(rule).ok_or_else(|| ApiError::NoSuchRule(name.to_owned()))
    }
}

fn name(told: String) -> Result<String, ApiError> {
    if (1..=MAX_NAME_BYTES).contains(&told.len()) {
        Ok(told)
    } else {
        Err(validate::invalid("name", "must be 1 to 63 bytes"))
    }
}

fn refused(error: NotBegun, name: &str) -> ApiError {
    match error {
        NotBegun::NoRule => ApiError::NoSuchRule(name.to_owned()),
        NotBegun::Busy => ApiError::Overloaded(Whose::All),
        NotBegun::Queue(error) => error.into(),
    }
}

fn rule(shown: Shown) -> pb::Rule {
    let next_run_at = shown.next().map(present::timestamp);
    let Shown { rule, mark, walk, .. } = shown;
    let mark = mark.unwrap_or_default();
    let spec = rule.spec();
    pb::Rule {
        name: rule.name.clone(),
        tenant: spec.tenant.clone(),
        prefix: Some(pb::PrefixRef {
            location: spec.location.clone(),
            bucket: spec.bucket.clone(),
            prefix: spec.prefix.clone(),
        }),
        retention_class: rule.retention_class.clone(),
        schedule: rule.schedule.clone(),
        time_zone: if rule.schedule.is_empty() { String::new() } else { rule.time_zone.clone() },
        paused: mark.paused,
        next_run_at,
        passed_over: mark.passed_over,
        last_run: mark.run.map(|last| run(&last, walk)),
        last_complete_run: mark.complete.map(|last| run(&last, None)),
    }
}

fn run(run: &Run, walk: Option<Stored>) -> pb::RuleRun {
    let is_paused = walk.as_ref().is_some_and(|stored| stored.walk.state == WalkState::Paused);
    let state = match &run.outcome {
        None if is_paused => pb::RuleRunState::Paused,
        None => pb::RuleRunState::Running,
        Some(Outcome { end: End::Done, .. }) => pb::RuleRunState::Done,
        Some(Outcome { end: End::Failed, .. }) => pb::RuleRunState::Failed,
        Some(Outcome { end: End::Cancelled, .. }) => pb::RuleRunState::Cancelled,
        Some(Outcome { end: End::Forgotten, .. }) => pb::RuleRunState::Forgotten,
    };
    let counts = match (&run.outcome, &walk) {
        (Some(outcome), _) => (outcome.listed, outcome.missing, outcome.failed),
        (None, Some(stored)) => {
            let counts = &stored.walk.counts;
            (counts.listed, counts.submitted + counts.rejected, counts.died + counts.rejected)
        }
        (None, None) => (0, 0, 0),
    };
    pb::RuleRun {
        at: Some(present::timestamp(UnixMs(run.at_ms))),
        asked_for: run.asked,
        state: state.into(),
        prefix_backup: walk.map(presented),
        finished_at: run.outcome.as_ref().map(|outcome| present::timestamp(UnixMs(outcome.finished_ms))),
        listed: counts.0,
        missing: counts.1,
        failed: counts.2,
    }
}

#[cfg(test)]
mod tests;
