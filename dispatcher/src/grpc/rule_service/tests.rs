//! What operators see of rules and their runs.

use std::sync::Arc;

use super::*;
use crate::{
    queue::{QueueClock, walk::memory::MemoryWalks},
    rules::{LiveRules, tests::parse},
    schedule::{calendar::instant, marks::MemoryMarks},
};

const RULES: &str = "
    [rule.users]
    tenant = 'web'
    location = 'uploads'
    bucket = 'photos'
    prefix = 'users/'
    retention_class = 'long'
    schedule = '0 3 * * *'
    time_zone = 'Europe/Berlin'
    [rule.docs]
    tenant = 'other'
    location = 'uploads'
    bucket = 'docs'
";

fn service() -> Rules {
    let clock = QueueClock::starting_at(instant("2027-01-10T12:00:00Z").unwrap());
    Rules(Runs {
        rules: LiveRules::fixed(parse(RULES).unwrap()),
        marks: Arc::new(MemoryMarks::new(clock.clone())),
        walks: Arc::new(MemoryWalks::new(1, std::time::Duration::from_secs(60), clock)),
        made: Arc::default(),
        changed: Arc::default(),
        board: Arc::default(),
    })
}

#[tokio::test]
async fn rules_of_all_tenants_are_shown_by_name_with_their_next_run() {
    let shown = service().list_rules(Request::new(pb::ListRulesRequest {})).await.unwrap().into_inner().rules;
    let names: Vec<_> = shown.iter().map(|rule| (rule.name.as_str(), rule.tenant.as_str())).collect();
    assert_eq!(names, [("docs", "other"), ("users", "web")]);
    let (docs, users) = (&shown[0], &shown[1]);
    assert_eq!((docs.next_run_at, docs.schedule.as_str(), docs.time_zone.as_str()), (None, "", ""));
    assert_eq!((users.schedule.as_str(), users.time_zone.as_str()), ("0 3 * * *", "Europe/Berlin"));
    let next = present::timestamp(instant("2027-01-11T02:00:00Z").unwrap());
    assert_eq!((users.next_run_at, users.retention_class.as_str()), (Some(next), "long"));
    assert_eq!((users.paused, users.last_run.is_none()), (false, true));
}

#[tokio::test]
async fn a_run_is_begun_once_and_shown_with_its_prefix_backup() {
    let service = service();
    let run = async || {
        let request = Request::new(pb::RunRuleRequest { name: "users".into() });
        service.run_rule(request).await.unwrap().into_inner()
    };
    let first = run().await;
    let rule = first.rule.unwrap();
    let last = rule.last_run.unwrap();
    assert_eq!((first.begun, last.state(), last.asked_for), (true, pb::RuleRunState::Running, true));
    let backup = last.prefix_backup.unwrap();
    assert_eq!(backup.request_id, "rule:users:2027-01-10T12:00:00Z");
    assert_eq!(backup.prefix, rule.prefix);
    assert!(!run().await.begun, "a repeated call begins no other");
}

#[tokio::test]
async fn a_rule_is_paused_and_resumed_and_unknown_ones_are_not_found() {
    let service = service();
    let name = "users".to_owned();
    let paused = service.pause_rule(Request::new(pb::PauseRuleRequest { name: name.clone() })).await.unwrap();
    let rule = paused.into_inner().rule.unwrap();
    assert_eq!((rule.paused, rule.next_run_at), (true, None));
    let resumed = service.resume_rule(Request::new(pb::ResumeRuleRequest { name })).await.unwrap();
    let rule = resumed.into_inner().rule.unwrap();
    assert!(!rule.paused && rule.next_run_at.is_some());
    for (name, code) in [("nobody", tonic::Code::NotFound), ("", tonic::Code::InvalidArgument)] {
        let request = Request::new(pb::PauseRuleRequest { name: name.into() });
        assert_eq!(service.pause_rule(request).await.unwrap_err().code(), code);
    }
}
