//! Replicas, disruption, stopping and memory: numbers that only make sense together.

use std::time::Duration;

use backhaul_runtime::units::{parse_duration, parse_size};
use serde_json::{Value, json};

use super::{Problems, catches, holds};
use crate::{
    model::{Labels, Workload, selects, typed},
    render::{self, Manifests},
    settings::{PROGRAMS, effective},
};

/// Time that a pod's end may take besides what it is told: closing connections, the kubelet's own delay.
const TO_SPARE: Duration = Duration::from_secs(10);
/// What a worker uses besides the objects in its memory: `design` promises 64 MiB at most, and a limit should not be met.
const BESIDES_OBJECTS: u64 = 192 << 20;

fn disruption(manifests: &Manifests) -> Problems {
    let mut problems = Problems::new();
    for workload in manifests.workloads().iter().filter(|w| w.kind == "Deployment") {
        let is_its = |budget: &&Value| {
            selects(&typed::<Labels>(&budget["spec"]["selector"]["matchLabels"]), &workload.labels)
        };
        let Some(budget) = manifests.of_kind("PodDisruptionBudget").find(is_its) else {
            problems.push(format!("{} has no disruption budget", workload.name));
            continue;
        };
        let replicas = workload.replicas.unwrap_or_else(|| least_replicas(manifests, &workload.name)).into();
        match (budget["spec"]["maxUnavailable"].as_u64(), budget["spec"]["minAvailable"].as_u64()) {
            (Some(0), None) => problems.push(format!("{} can never be moved", workload.name)),
            (Some(most), None) if most >= replicas => {
                problems.push(format!("all {replicas} of {} may go at once", workload.name));
            }
            (None, Some(least)) if least >= replicas => {
                problems.push(format!("{} can never be moved: {least} of {replicas}", workload.name));
            }
            (Some(_), None) | (None, Some(_)) => {}
            _ => problems.push(format!("the budget of {} says neither or both", workload.name)),
        }
    }
    problems
}

/// Where an autoscaler decides on replicas.
fn least_replicas(manifests: &Manifests, name: &str) -> u32 {
    let mut scaled =
        manifests.of_kind("ScaledObject").filter(|s| s["spec"]["scaleTargetRef"]["name"] == name);
    scaled.next().map_or(1, |scaled| typed(&scaled["spec"]["minReplicaCount"]))
}

/// Either replicas are written down, or exactly one autoscaler decides on them.
fn replicas(manifests: &Manifests) -> Problems {
    let mut problems = Problems::new();
    for workload in manifests.workloads() {
        let scalers = manifests.of_kind("ScaledObject").chain(manifests.of_kind("HorizontalPodAutoscaler"));
        let count = scalers.filter(|s| s["spec"]["scaleTargetRef"]["name"] == workload.name.as_str()).count();
        if count + usize::from(workload.replicas.is_some()) != 1 {
            problems
                .push(format!("{}: {count} autoscalers and replicas {:?}", workload.name, workload.replicas));
        }
    }
    let worker = &manifests.running("backhaul-worker").pod.containers[0];
    let holds = effective(manifests, worker).get("BACKHAUL_MAX_TASKS").cloned();
    for scaled in manifests.of_kind("ScaledObject") {
        let counted = scaled["spec"]["triggers"][0]["metadata"]["tasksPerWorker"].as_str().map(str::to_owned);
        if counted != holds {
            problems.push(format!("a worker holds {holds:?} tasks and is counted for {counted:?}"));
        }
    }
    problems
}

fn stopping(manifests: &Manifests) -> Problems {
    let mut problems = Problems::new();
    for program in PROGRAMS {
        let workload = manifests.running(program);
        let container = &workload.pod.containers[0];
        let told = effective(manifests, container).get("BACKHAUL_DRAIN_WITHIN").cloned().unwrap_or_default();
        let Ok(drain) = parse_duration(&told) else {
            problems.push(format!("{program}: how long it drains is not a time: `{told}`"));
            continue;
        };
        let pause = container.lifecycle["preStop"]["sleep"]["seconds"].as_u64().unwrap_or(0);
        if !container.ports.is_empty()
            && manifests.of_kind("Service").any(|s| serves(s, &workload))
            && pause < 2
        {
            problems.push(format!("{program} is stopped while calls still come to it"));
        }
        let needed = Duration::from_secs(pause) + drain + TO_SPARE;
        let grace = Duration::from_secs(workload.pod.termination_grace_period_seconds);
        if grace < needed {
            problems.push(format!("{program} is killed after {grace:?}, before the {needed:?} it may need"));
        }
    }
    problems
}

fn serves(service: &Value, workload: &Workload) -> bool {
    selects(&typed::<Labels>(&service["spec"]["selector"]), &workload.labels)
}

fn resources(manifests: &Manifests) -> Problems {
    let mut problems = Problems::new();
    for workload in manifests.workloads() {
        for container in workload.pod.all_containers() {
            let mut say =
                |what: String| problems.push(format!("{} {}: {what}", workload.name, container.name));
            let (requests, limits) = (&container.resources.requests, &container.resources.limits);
            for name in ["cpu", "memory", "ephemeral-storage"] {
                if !requests.contains_key(name) {
                    say(format!("asks for no {name}"));
                }
            }
            if limits.contains_key("cpu") {
                say("is throttled, which stretches heartbeats".to_owned());
            }
            if requests.get("memory") != limits.get("memory") {
                say("is given less memory than it may use".to_owned());
            }
            for (name, limit) in limits {
                let (Some(limit), Some(request)) =
                    (quantity(limit), requests.get(name).and_then(|r| quantity(r)))
                else {
                    say(format!("{name} is no quantity, or only limited"));
                    continue;
                };
                if request > limit {
                    say(format!("asks for more {name} than it may use"));
                }
            }
        }
    }
    let worker = &manifests.running("backhaul-worker").pod.containers[0];
    let objects = effective(manifests, worker).get("BACKHAUL_MEMORY").and_then(|size| parse_size(size).ok());
    let limit = worker.resources.limits.get("memory").and_then(|limit| quantity(limit));
    if let (Some(objects), Some(limit)) = (objects, limit)
        && limit < 1000 * (objects + BESIDES_OBJECTS)
    {
        problems
            .push(format!("a worker that holds {} MiB of objects does not fit its memory", objects >> 20));
    }
    problems
}

/// Thousandths of what a quantity of Kubernetes says.
fn quantity(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 5] =
        [("Ki", 1000 << 10), ("Mi", 1000 << 20), ("Gi", 1000 << 30), ("m", 1), ("", 1000)];
    let (unit, factor) = UNITS.iter().find(|(unit, _)| text.ends_with(unit))?;
    text.strip_suffix(unit)?.parse::<u64>().ok()?.checked_mul(*factor)
}

fn images(manifests: &Manifests) -> Problems {
    let production = manifests.name == "overlays/prod";
    let mut problems = Problems::new();
    for image in manifests.workloads().iter().flat_map(|w| w.pod.all_containers()).map(|c| c.image.clone()) {
        let (_, tag) = image.rsplit_once('/').and_then(|(_, name)| name.split_once(':')).unwrap_or_default();
        if production && !image.contains("@sha256:") {
            problems.push(format!("{image} can change under its name"));
        } else if !image.contains('@') && ["", "latest"].contains(&tag) {
            problems.push(format!("{image} names no version"));
        }
    }
    problems
}

#[test]
fn a_node_can_be_emptied_and_never_takes_all_pods_with_it() {
    holds(disruption);
    catches(
        disruption,
        &render::overlay("dev"),
        &[
            ("Deployment", "backhaul-dispatcher", "/spec/replicas", json!(1)),
            ("PodDisruptionBudget", "backhaul-worker", "/spec/maxUnavailable", json!(2)),
            ("PodDisruptionBudget", "backhaul-worker", "/spec/maxUnavailable", json!(0)),
            ("PodDisruptionBudget", "backhaul-worker", "/spec/minAvailable", json!(1)),
            ("PodDisruptionBudget", "backhaul-worker", "/kind", json!("Other")),
        ],
    );
}

#[test]
fn replicas_have_one_owner() {
    holds(replicas);
    catches(
        replicas,
        &render::overlay("dev"),
        &[("Deployment", "backhaul-worker", "/spec/replicas", Value::Null)],
    );
    catches(
        replicas,
        &render::overlay("prod"),
        &[("Deployment", "backhaul-worker", "/spec/replicas", json!(2))],
    );
}

#[test]
fn a_pod_has_longer_to_end_than_its_longest_drain() {
    holds(stopping);
    catches(
        stopping,
        &render::overlay("dev"),
        &[
            ("ConfigMap", "backhaul-dispatcher", "/data/BACKHAUL_DRAIN_WITHIN", json!("31s")),
            ("ConfigMap", "backhaul-worker", "/data/BACKHAUL_DRAIN_WITHIN", json!("3m")),
            ("ConfigMap", "backhaul-worker", "/data/BACKHAUL_DRAIN_WITHIN", json!("long")),
            ("Deployment", "backhaul-worker", "/spec/template/spec/terminationGracePeriodSeconds", json!(30)),
            ("Deployment", "backhaul-dispatcher", "/spec/template/spec/containers/0/lifecycle", Value::Null),
        ],
    );
}

#[test]
fn a_pod_gets_what_it_needs_and_its_memory_fits() {
    holds(resources);
    let at = "/spec/template/spec/containers/0/resources";
    catches(
        resources,
        &render::overlay("dev"),
        &[
            ("Deployment", "backhaul-worker", &format!("{at}/requests/memory"), json!("1Gi")),
            ("Deployment", "backhaul-worker", &format!("{at}/limits/ephemeral-storage"), json!("1Mi")),
            ("Deployment", "backhaul-worker", &format!("{at}/limits/cpu"), json!("2")),
            ("Deployment", "backhaul-worker", &format!("{at}/requests/cpu"), Value::Null),
            ("ConfigMap", "backhaul-worker", "/data/BACKHAUL_MEMORY", json!("640MiB")),
        ],
    );
    assert_eq!(quantity("1Ki"), Some(1_024_000));
    assert_eq!(quantity("250m"), Some(250));
    assert_eq!(quantity("2"), Some(2000));
    assert_eq!(quantity("much"), None);
}

#[test]
fn an_image_is_named_so_that_it_cannot_change() {
    holds(images);
    let image = "/spec/template/spec/containers/0/image";
    let dev = render::overlay("dev");
    let named = |name: &str| [("Deployment", "backhaul-worker", image, json!(name))];
    catches(images, &dev, &named("localhost/backhaul-worker"));
    catches(images, &dev, &named("localhost/backhaul-worker:latest"));
    catches(images, &render::overlay("prod"), &named("registry.example.com/backhaul-worker:1.0"));
}
