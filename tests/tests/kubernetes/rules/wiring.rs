//! Selectors select, ports exist, probes ask what is answered.

use serde_json::{Value, json};

use super::{Problems, catches, holds};
use crate::{
    model::{Container, Labels, Probe, Workload, selects, text, typed},
    render::{self, Manifests},
};

/// What a probe may ask of a program of this repository besides whether it lives (the empty service).
const HEALTH_SERVICES: [&str; 2] = ["backhaul.v1.BackupService", "backhaul.v1.WorkerService"];
const LIVENESS_PATH: &str = "/livez";
const READINESS_PATH: &str = "/readyz";

fn selectors(manifests: &Manifests) -> Problems {
    let workloads = manifests.workloads();
    let mut problems = Problems::new();
    for workload in &workloads {
        if !selects(&workload.selector, &workload.labels) {
            problems.push(format!("{} {} does not select its own pods", workload.kind, workload.name));
        }
        for other in workloads.iter().filter(|other| other.name != workload.name) {
            if selects(&workload.selector, &other.labels) {
                problems.push(format!("{} selects the pods of {} too", workload.name, other.name));
            }
        }
        for spread in &workload.pod.topology_spread_constraints {
            if typed::<Labels>(&spread["labelSelector"]["matchLabels"]) != workload.selector {
                problems.push(format!("{} spreads other pods than its own", workload.name));
            }
        }
    }
    for (kind, at) in [
        ("Service", "/spec/selector"),
        ("PodDisruptionBudget", "/spec/selector/matchLabels"),
        ("PodMonitor", "/spec/selector/matchLabels"),
    ] {
        for object in manifests.of_kind(kind) {
            let selector: Labels = object.pointer(at).map(typed).unwrap_or_default();
            let count = workloads.iter().filter(|w| selects(&selector, &w.labels)).count();
            if selector.is_empty() || count != 1 {
                problems.push(format!("{kind} {} selects {count} workloads", object["metadata"]["name"]));
            }
        }
    }
    problems
}

fn ports(manifests: &Manifests) -> Problems {
    let workloads = manifests.workloads();
    let mut problems = Problems::new();
    for service in manifests.of_kind("Service") {
        let selector: Labels = typed(&service["spec"]["selector"]);
        let pods: Vec<&Workload> = workloads.iter().filter(|w| selects(&selector, &w.labels)).collect();
        for port in service["spec"]["ports"].as_array().into_iter().flatten() {
            let target = port.get("targetPort").unwrap_or(&port["port"]);
            let declared = |w: &&Workload| w.pod.containers.iter().any(|c| c.port(target).is_some());
            if !pods.iter().all(declared) {
                problems
                    .push(format!("Service {}: no container has port {target}", service["metadata"]["name"]));
            }
        }
    }
    for monitor in manifests.of_kind("PodMonitor") {
        let selector: Labels = typed(&monitor["spec"]["selector"]["matchLabels"]);
        for endpoint in monitor["spec"]["podMetricsEndpoints"].as_array().into_iter().flatten() {
            let mut pods = workloads.iter().filter(|w| selects(&selector, &w.labels));
            if !pods.any(|w| w.pod.containers.iter().any(|c| c.port(&endpoint["port"]).is_some())) {
                problems
                    .push(format!("PodMonitor {}: no container has that port", monitor["metadata"]["name"]));
            }
        }
    }
    for workload in &workloads {
        for container in workload.pod.all_containers() {
            let mut names: Vec<_> = container.ports.iter().filter_map(|p| p.name.clone()).collect();
            names.sort();
            names.dedup();
            if names.len() != container.ports.len() {
                problems.push(format!("{}: each port needs a name of its own", workload.name));
            }
            if container.ports.iter().any(|p| p.container_port < 1024) {
                problems.push(format!("{}: a port below 1024 needs a capability", workload.name));
            }
            problems.extend(probes(container).into_iter().map(|p| format!("{}: {p}", workload.name)));
        }
    }
    problems
}

fn probes(container: &Container) -> Problems {
    let mut problems = Problems::new();
    let all = [
        ("startup", &container.startup_probe),
        ("liveness", &container.liveness_probe),
        ("readiness", &container.readiness_probe),
    ];
    for (which, probe) in all {
        let Some(probe) = probe else { continue };
        let asked = [&probe.grpc, &probe.http_get, &probe.tcp_socket].into_iter().flatten();
        for question in asked {
            if container.port(&question["port"]).is_none() {
                problems
                    .push(format!("the {which} probe asks port {}, which is not declared", question["port"]));
            }
        }
        if container.program().starts_with("backhaul-") {
            problems.extend(answered(which, probe));
        }
    }
    if container.liveness_probe.is_some()
        && container.liveness_probe == container.readiness_probe
        && container.program().starts_with("backhaul-")
    {
        problems
            .push("alive and ready are one question: Redis being away would restart every pod".to_owned());
    }
    if !container.ports.is_empty() && container.readiness_probe.is_none() {
        problems.push("it serves, and nobody asks whether it is ready".to_owned());
    }
    problems
}

/// What is wrong with what a probe asks one of our programs.
fn answered(which: &str, probe: &Probe) -> Option<String> {
    let wanted = if which == "readiness" { READINESS_PATH } else { LIVENESS_PATH };
    let service = |question: &Value| text(&question["service"]);
    match probe {
        Probe { grpc: Some(question), .. }
            if which == "readiness" && !HEALTH_SERVICES.contains(&&*service(question)) =>
        {
            Some(format!("the {which} probe asks for `{}`, which is no service", service(question)))
        }
        Probe { grpc: Some(question), .. } if which != "readiness" && !service(question).is_empty() => {
            Some(format!("the {which} probe depends on a service, which depends on Redis"))
        }
        Probe { http_get: Some(question), .. } if question["path"] != wanted => {
            Some(format!("the {which} probe asks {}, not {wanted}", question["path"]))
        }
        Probe { tcp_socket: Some(_), .. } => Some(format!("the {which} probe asks nothing but a connection")),
        _ => None,
    }
}

#[test]
fn selectors_select_the_pods_they_are_meant_for() {
    holds(selectors);
    let label = "/spec/template/metadata/labels/app.kubernetes.io~1component";
    let selector = "/spec/selector/app.kubernetes.io~1component";
    catches(
        selectors,
        &render::overlay("dev"),
        &[
            ("Deployment", "backhaul-worker", label, json!("dispatcher")),
            ("Service", "backhaul-dispatchers", selector, json!("dispatchers")),
            ("Service", "backhaul-dispatchers", selector, Value::Null),
            ("PodDisruptionBudget", "backhaul-worker", "/spec/selector/matchLabels", json!({"a": "b"})),
            (
                "Deployment",
                "backhaul-worker",
                "/spec/template/spec/topologySpreadConstraints/0/labelSelector/matchLabels",
                json!({"app.kubernetes.io/name": "backhaul"}),
            ),
        ],
    );
}

#[test]
fn ports_that_are_named_exist_and_probes_ask_what_is_answered() {
    holds(ports);
    let dev = render::overlay("dev");
    let dispatcher = |rest: &str, value: Value| {
        let at = format!("/spec/template/spec/containers/0/{rest}");
        catches(ports, &dev, &[("Deployment", "backhaul-dispatcher", &at, value)]);
    };
    dispatcher("livenessProbe", json!({"grpc": {"port": 7499}}));
    dispatcher("livenessProbe", json!({"grpc": {"port": 7400, "service": HEALTH_SERVICES[0]}}));
    dispatcher("livenessProbe", json!({"httpGet": {"port": "grpc", "path": READINESS_PATH}}));
    dispatcher("readinessProbe", json!({"grpc": {"port": 7400}}));
    dispatcher("readinessProbe", json!({"tcpSocket": {"port": 7400}}));
    dispatcher("readinessProbe", Value::Null);
    dispatcher("ports", json!([{"name": "grpc", "containerPort": 7400}]));
    dispatcher("ports", json!([{"name": "ops", "containerPort": 9090}]));
    catches(ports, &dev, &[("Service", "redis", "/spec/ports/0/targetPort", json!(99))]);
}
