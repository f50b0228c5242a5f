//! What a pod may do: as little as the strictest pod security standard allows, and less where that is silent.

use serde_json::{Value, json};

use super::{Problems, catches, holds};
use crate::{
    model::{Container, Pod},
    render::{self, Manifests},
};

fn pods(manifests: &Manifests) -> Problems {
    let mut problems = Problems::new();
    for workload in manifests.workloads() {
        let found = pod(&workload.pod).into_iter().chain(workload.pod.all_containers().flat_map(container));
        problems.extend(found.map(|what| format!("{}: {what}", workload.name)));
    }
    problems
}

fn pod(pod: &Pod) -> Vec<&'static str> {
    let context = &pod.security_context;
    let host = ["hostNetwork", "hostPID", "hostIPC", "hostUsers"];
    let rules = [
        (pod.automount_service_account_token == Some(false), "has a token for Kubernetes"),
        (pod.enable_service_links == Some(false), "takes variables about services for settings"),
        (context["runAsNonRoot"] == true, "may run as root"),
        (context["runAsUser"].as_u64().is_some_and(|id| id > 0), "runs as whom the image says"),
        (context["runAsGroup"].as_u64().is_some_and(|id| id > 0), "runs in root's group"),
        (context["fsGroup"].as_u64() == context["runAsGroup"].as_u64(), "cannot read its own files"),
        (context["seccompProfile"]["type"] == "RuntimeDefault", "may make any system call"),
        (!host.iter().any(|field| pod.rest.contains_key(*field)), "shares something with its node"),
        (
            !pod.volumes.iter().any(|v| v.empty_dir.as_ref().is_some_and(|d| d.get("sizeLimit").is_none())),
            "may fill the node's disk",
        ),
    ];
    rules.into_iter().filter(|(kept, _)| !kept).map(|(_, what)| what).collect()
}

fn container(container: &Container) -> Vec<&'static str> {
    let context = &container.security_context;
    let rules = [
        (context["allowPrivilegeEscalation"] == false, "may gain privileges"),
        (context["readOnlyRootFilesystem"] == true, "may write to its image"),
        (context["capabilities"] == json!({"drop": ["ALL"]}), "keeps capabilities"),
        (context.get("privileged").is_none(), "may be privileged"),
        (context.get("runAsUser").is_none(), "runs as another user than its pod"),
    ];
    rules.into_iter().filter(|(kept, _)| !kept).map(|(_, what)| what).collect()
}

/// The namespace enforces the standard, everything that can be in a namespace is in that one, and no account has a token.
fn namespaces(manifests: &Manifests) -> Problems {
    let mut problems = Problems::new();
    let found: Vec<&Value> = manifests.of_kind("Namespace").collect();
    let [namespace] = found[..] else { return vec![format!("{} namespaces", found.len())] };
    let name = &namespace["metadata"]["name"];
    for mode in ["enforce", "warn", "audit"] {
        if namespace["metadata"]["labels"][format!("pod-security.kubernetes.io/{mode}")] != "restricted" {
            problems.push(format!("{name} does not {mode} pod security"));
        }
    }
    // Rights over what is no namespace's; who has them is checked where they are used.
    let is_of_cluster = |object: &Value| {
        ["Namespace", "ClusterRole", "ClusterRoleBinding"].iter().any(|kind| object["kind"] == *kind)
    };
    for object in manifests.objects.iter().filter(|object| !is_of_cluster(object)) {
        if object["metadata"]["namespace"] != *name {
            problems.push(format!("{} {} is not in {name}", object["kind"], object["metadata"]["name"]));
        }
    }
    for account in manifests.of_kind("ServiceAccount") {
        if account["automountServiceAccountToken"] != false {
            problems.push(format!("pods get the token of {}", account["metadata"]["name"]));
        }
    }
    problems
}

#[test]
fn a_pod_may_do_nothing_that_it_does_not_need() {
    holds(pods);
    let pod = "/spec/template/spec";
    let container = format!("{pod}/containers/0/securityContext");
    let dev = render::overlay("dev");
    let pod = |field: &str| format!("{pod}/{field}");
    let container = |field: &str| format!("{container}/{field}");
    for (at, value) in [
        (pod("automountServiceAccountToken"), Value::Null),
        (pod("enableServiceLinks"), Value::Null),
        (pod("securityContext/runAsNonRoot"), json!(false)),
        (pod("securityContext/runAsUser"), json!(0)),
        (pod("securityContext/runAsGroup"), json!(0)),
        (pod("securityContext/fsGroup"), Value::Null),
        (pod("securityContext/seccompProfile"), json!({"type": "Unconfined"})),
        (pod("hostNetwork"), json!(true)),
        (pod("volumes"), json!([{"name": "tmp", "emptyDir": {}}])),
        (container("allowPrivilegeEscalation"), json!(true)),
        (container("readOnlyRootFilesystem"), Value::Null),
        (container("capabilities"), json!({"drop": ["ALL"], "add": ["NET_ADMIN"]})),
        (container("privileged"), json!(true)),
        (container("runAsUser"), json!(0)),
    ] {
        catches(pods, &dev, &[("Deployment", "backhaul-worker", &at, value)]);
    }
}

#[test]
fn the_namespace_enforces_it_and_holds_everything() {
    holds(namespaces);
    catches(
        namespaces,
        &render::overlay("dev"),
        &[
            (
                "Namespace",
                "backhaul-dev",
                "/metadata/labels/pod-security.kubernetes.io~1enforce",
                json!("baseline"),
            ),
            ("Service", "redis", "/metadata/namespace", json!("default")),
            ("ServiceAccount", "backhaul-worker", "/automountServiceAccountToken", json!(true)),
        ],
    );
}
