//! Alerts and dashboard: what the operators of a cluster get is what stands in the files that everybody else gets.

use std::fs;

use serde_json::Value;

use crate::{
    model::text,
    render::{self, documents, manifests},
};

fn component(name: &str) -> std::path::PathBuf {
    manifests().join("components/monitoring").join(name)
}

#[test]
fn the_prometheus_operator_gets_the_rules_of_the_rule_file() {
    let rules = documents(&component("alerts.yaml"));
    let prod = render::overlay("prod");
    let objects: Vec<_> = prod.of_kind("PrometheusRule").collect();
    assert_eq!(objects.len(), 1);
    assert_eq!(
        objects[0]["spec"], rules[0],
        "run deploy/kubernetes/components/monitoring/prometheus-rule.sh"
    );
    let alerts = rules[0]["groups"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|group| group["rules"].as_array())
        .flatten();
    assert!(
        alerts.filter(|rule| !text(&rule["alert"]).is_empty()).count() > 0,
        "there is nothing to alert on"
    );
}

#[test]
fn grafana_gets_the_dashboard() {
    let prod = render::overlay("prod");
    let is_dashboard = |map: &&Value| map["metadata"]["labels"]["grafana_dashboard"] == "1";
    let map = prod.of_kind("ConfigMap").find(is_dashboard).expect("Grafana finds it by its label");
    let file = fs::read_to_string(component("dashboard.json")).expect("a file of the repository");
    let parse = |json: &str| serde_json::from_str::<Value>(json).expect("a dashboard is JSON");
    assert_eq!(parse(&text(&map["data"]["dashboard.json"])), parse(&file));
    assert!(parse(&file)["panels"].as_array().is_some_and(|panels| !panels.is_empty()));
}
