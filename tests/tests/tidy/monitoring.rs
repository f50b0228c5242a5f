//! Dashboard and alerts ask only for metrics and labels that exist, in expressions that can be read, and each alert says what to do.
//!
//! The metrics are those of `deploy/docs/metrics.md`, which a test of the command line's package compares with the code.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use backhaul_tests::settings::promtool;
use serde_json::Value;

use crate::{
    promql::{Query, parse},
    tree::{Tree, top},
};

const DASHBOARD: &str = "deploy/kubernetes/components/monitoring/dashboard.json";
const ALERTS: &str = "deploy/kubernetes/components/monitoring/alerts.yaml";
const METRICS: &str = "deploy/docs/metrics.md";
const RUNBOOK: &str = "deploy/docs/runbook.md";

/// Labels that Prometheus adds to every sample.
const ADDED: [&str; 2] = ["instance", "job"];

/// What is known of a metric: its kind and its labels.
type Known = BTreeMap<String, (String, BTreeSet<String>)>;

/// An alert, as far as it is checked here.
#[derive(Debug, Default)]
struct Alert {
    name: String,
    expression: String,
    severity: String,
    summary: String,
    runbook: String,
}

fn text(path: &str) -> String {
    Tree::read().get(path).unwrap_or_else(|| panic!("there is no {path}")).text.clone()
}

fn known(document: &str) -> Known {
    let rows = document.lines().filter_map(|line| {
        let cells: Vec<&str> = line.strip_prefix("| `")?.split('|').map(str::trim).collect();
        let &[name, kind, labels, ..] = cells.as_slice() else { return None };
        let labels =
            labels.split(',').map(|l| l.trim().trim_matches('`').to_owned()).filter(|l| !l.is_empty());
        Some((name.trim_matches('`').to_owned(), (kind.to_owned(), labels.collect())))
    });
    rows.collect()
}

/// The rules of the file: `key: value` lines, an alert beginning with its name. Whatever is written in another way is a problem.
fn alerts(text: &str) -> Vec<Alert> {
    let mut alerts: Vec<Alert> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        let Some((key, value)) = line.split_once(": ") else { continue };
        let value = value.trim_matches('\'').to_owned();
        if key == "- alert" {
            alerts.push(Alert { name: value, ..Alert::default() });
            continue;
        }
        let Some(alert) = alerts.last_mut() else { continue };
        match key {
            "expr" => alert.expression = value,
            "severity" => alert.severity = value,
            "summary" => alert.summary = value,
            "runbook" => alert.runbook = value,
            "for" => {}
            other => panic!("{}: `{other}` is not known here", alert.name),
        }
    }
    alerts
}

/// Every expression of the dashboard, with the title of its panel.
fn expressions(dashboard: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for panel in dashboard["panels"].as_array().expect("a dashboard has panels") {
        let title = panel["title"].as_str().expect("a panel has a title").to_owned();
        for target in panel["targets"].as_array().expect("a panel has targets") {
            let expression = target["expr"].as_str().expect("a target has an expression");
            found.push((title.clone(), expression.replace("$__rate_interval", "5m")));
        }
    }
    found
}

/// What is wrong with an expression, given the metrics that there are.
fn problems(expression: &str, known: &Known) -> Vec<String> {
    let Query { selectors, groups } = match parse(expression) {
        Ok(query) => query,
        Err(problem) => return vec![format!("{expression}: {problem}")],
    };
    let mut problems = Vec::new();
    let mut labels: BTreeSet<&str> = ADDED.into();
    for selector in &selectors {
        let base = ["_bucket", "_count", "_sum"].iter().find_map(|end| selector.metric.strip_suffix(end));
        let histogram = base.filter(|base| known.get(*base).is_some_and(|(kind, _)| kind == "histogram"));
        let Some((kind, has)) = known.get(histogram.unwrap_or(&selector.metric)) else {
            problems.push(format!("{expression}: there is no metric {}", selector.metric));
            continue;
        };
        let is_counter = kind == "counter" || histogram.is_some();
        if kind == "histogram" && histogram.is_none() {
            problems.push(format!("{expression}: {} is a histogram", selector.metric));
        }
        if selector.ranged != is_counter {
            problems.push(format!("{expression}: {} is a {kind}", selector.metric));
        }
        labels.extend(has.iter().map(String::as_str));
        labels.extend(histogram.map(|_| "le"));
        for label in selector.labels.iter().filter(|label| !has.contains(*label)) {
            problems.push(format!("{expression}: {} has no label {label}", selector.metric));
        }
    }
    let unknown = groups.iter().filter(|label| !labels.contains(label.as_str()));
    problems.extend(unknown.map(|label| format!("{expression}: nothing has a label {label}")));
    problems
}

#[test]
fn the_dashboard_asks_for_what_there_is() {
    let known = known(&text(METRICS));
    let dashboard: Value = serde_json::from_str(&text(DASHBOARD)).expect("the dashboard is JSON");
    let expressions = expressions(&dashboard);
    assert!(known.len() > 30 && expressions.len() > 20, "the rule saw too little");
    let problems: Vec<String> = expressions
        .iter()
        .flat_map(|(title, expression)| {
            problems(expression, &known).into_iter().map(move |p| format!("{title}: {p}"))
        })
        .collect();
    assert!(problems.is_empty(), "panels that would stay empty:\n{}", problems.join("\n"));
}

#[test]
fn every_alert_can_fire_and_says_what_to_do() {
    let (known, runbook) = (known(&text(METRICS)), text(RUNBOOK));
    let alerts = alerts(&text(ALERTS));
    assert!(alerts.len() >= 6, "the rule saw too little");
    let mut names = BTreeSet::new();
    for Alert { name, expression, severity, summary, runbook: link } in &alerts {
        assert!(names.insert(name.as_str()), "{name} is there twice");
        let problems = problems(expression, &known);
        assert!(problems.is_empty(), "{name} would never fire:\n{}", problems.join("\n"));
        assert!(["warning", "critical"].contains(&severity.as_str()), "{name}: {severity}");
        assert!(!summary.is_empty(), "{name} has no summary");
        assert_eq!(*link, format!("{RUNBOOK}#{}", name.to_lowercase()), "{name} links elsewhere");
        let section = runbook.split("\n## ").find(|section| section.lines().next() == Some(name));
        let body = section.unwrap_or_else(|| panic!("{RUNBOOK} has no section {name}")).trim();
        assert!(body.len() > name.len() + 100, "{RUNBOOK} says too little about {name}");
    }
    let described = runbook.lines().filter_map(|line| line.strip_prefix("## "));
    let gone: Vec<&str> = described.filter(|name| !names.contains(name)).collect();
    assert!(gone.is_empty(), "{RUNBOOK} speaks of alerts that are not there: {gone:?}");
}

#[test]
fn an_expression_that_would_stay_empty_is_caught() {
    let known = known(
        "| `a_total` | counter | `x`, `y` | A. |\n| `b` | gauge |  | B. |\n| `c_seconds` | histogram | `x` | C. |",
    );
    assert_eq!(known.len(), 3);
    let count = |expression: &str| problems(expression, &known).len();
    for good in [
        "sum by (x) (rate(a_total{y=\"1\"}[5m])) > 0",
        "max(b) == 1",
        "histogram_quantile(0.9, sum by (le, x) (rate(c_seconds_bucket[5m])))",
    ] {
        assert_eq!(count(good), 0, "{good}: {:?}", problems(good, &known));
    }
    for bad in [
        "a_totl",
        "a_total > 0",
        "rate(b[5m])",
        "rate(a_total{z=\"1\"}[5m])",
        "sum by (z) (b)",
        "c_seconds",
        "sum(",
    ] {
        assert!(count(bad) >= 1, "{bad} is taken");
    }
}

#[test]
fn promtool_reads_the_alerts_where_there_is_one() {
    let Some(promtool) = promtool() else {
        println!("not run: there is no promtool on this machine");
        return;
    };
    let output = Command::new(promtool).args(["check", "rules"]).arg(top().join(ALERTS)).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}
