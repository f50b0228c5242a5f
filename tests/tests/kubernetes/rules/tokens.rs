//! Callers with tokens: the dispatcher finds what its issuers file names, may do in the cluster what it must and nothing else, and the
//! example of a caller fits the dispatcher.

use serde_json::{Value, json};

use super::{Problems, catches, holds};
use crate::{
    model::{Labels, Pod, text, typed},
    render::{self, Manifests, documents, manifests},
    settings::effective,
};

const ISSUERS: &str = "BACKHAUL_TOKEN_ISSUERS";

fn tokens(manifests: &Manifests) -> Problems {
    let dispatcher = manifests.running("backhaul-dispatcher");
    let told = effective(manifests, &dispatcher.pod.containers[0]);
    let mut problems = rights(manifests);
    let Some(path) = told.get(ISSUERS) else { return problems };
    if told.get("BACKHAUL_INSECURE").is_none_or(|insecure| insecure != "false") {
        problems.push("tokens are taken in plaintext".to_owned());
    }
    match issuers(manifests, &dispatcher.pod, path) {
        Some(file) => {
            let named = file.split('"').filter(|part| part.starts_with('/') && !part.starts_with("//"));
            let missing = named.filter(|path| !is_projected(&dispatcher.pod, path));
            problems
                .extend(missing.map(|path| format!("the issuers file names {path}, which is not mounted")));
        }
        None => problems.push(format!("there is no issuers file at {path}")),
    }
    problems
}

/// The text of the issuers file, from the volume that the setting points into.
fn issuers(manifests: &Manifests, pod: &Pod, path: &str) -> Option<String> {
    let (folder, file) = path.rsplit_once('/')?;
    let mount = pod.containers[0].volume_mounts.iter().find(|mount| mount.mount_path == folder)?;
    let volume = pod.volumes.iter().find(|volume| volume.name == mount.name)?;
    manifests.entries("ConfigMap", &volume.config_map.as_ref()?.name)?.remove(file)
}

/// Whether a projected volume of the pod has that file.
fn is_projected(pod: &Pod, path: &str) -> bool {
    let Some((folder, file)) = path.rsplit_once('/') else { return false };
    let mounts = pod.containers[0].volume_mounts.iter().filter(|mount| mount.mount_path == folder);
    let volumes = mounts.filter_map(|mount| pod.volumes.iter().find(|volume| volume.name == mount.name));
    let sources = volumes.filter_map(|volume| volume.projected.as_ref()?["sources"].as_array()).flatten();
    sources.into_iter().any(|source| {
        let items =
            ["configMap", "secret"].iter().filter_map(|kind| source[*kind]["items"].as_array()).flatten();
        source["serviceAccountToken"]["path"] == file || items.into_iter().any(|item| item["path"] == file)
    })
}

/// Nobody has a right in the cluster but dispatchers, and they only that of reviewing tokens.
fn rights(manifests: &Manifests) -> Problems {
    let mut problems = Problems::new();
    for role in manifests.of_kind("ClusterRole") {
        let only = json!([{"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]}]);
        if role["rules"] != only {
            problems.push(format!("{} gives more than the review of tokens", role["metadata"]["name"]));
        }
    }
    let namespace =
        manifests.of_kind("Namespace").next().map(|namespace| namespace["metadata"]["name"].clone());
    for binding in manifests.of_kind("ClusterRoleBinding") {
        let name = text(&binding["roleRef"]["name"]);
        if manifests.find("ClusterRole", &name).is_none() {
            problems.push(format!("there is no ClusterRole {name}"));
        }
        let only = json!([{"kind": "ServiceAccount", "name": "backhaul-dispatcher", "namespace": namespace}]);
        if binding["subjects"] != only {
            problems.push(format!("{} is given to others than the dispatchers", binding["metadata"]["name"]));
        }
    }
    problems
}

fn component() -> Manifests {
    render::with_component("components/tokens")
}

#[test]
fn what_a_dispatcher_needs_for_tokens_is_there_and_nobody_has_more_rights() {
    holds(tokens);
    let with_tokens = component();
    let dispatcher = "backhaul-dispatcher";
    let sources = "/spec/template/spec/volumes/1/projected/sources";
    catches(
        tokens,
        &with_tokens,
        &[
            ("ConfigMap", dispatcher, "/data/BACKHAUL_INSECURE", json!("true")),
            ("ConfigMap", dispatcher, &format!("/data/{ISSUERS}"), json!("/etc/backhaul/issuers.toml")),
            ("ConfigMap", "backhaul-token-issuers", "/data", json!({"other.toml": ""})),
            ("Deployment", dispatcher, sources, json!([])),
            ("ClusterRole", "backhaul-token-review", "/rules/0/verbs", json!(["*"])),
            (
                "ClusterRole",
                "backhaul-token-review",
                "/rules/0/resources",
                json!(["tokenreviews", "secrets"]),
            ),
            ("ClusterRoleBinding", "backhaul-token-review", "/subjects/0/namespace", json!("default")),
            ("ClusterRoleBinding", "backhaul-token-review", "/subjects/0/name", json!("default")),
            ("ClusterRoleBinding", "backhaul-token-review", "/roleRef/name", json!("cluster-admin")),
        ],
    );
}

#[test]
fn the_example_of_a_caller_fits_the_dispatcher() {
    let objects = documents(&manifests().join("components/tokens/caller.yaml"));
    let of_kind =
        |kind: &str| objects.iter().find(|object| object["kind"] == kind).expect("it is in the example");
    let (account, job) = (of_kind("ServiceAccount"), of_kind("Job"));
    let pod = &job["spec"]["template"]["spec"];
    let name = format!("{}/{}", text(&account["metadata"]["namespace"]), text(&account["metadata"]["name"]));
    assert_eq!(pod["serviceAccountName"], account["metadata"]["name"]);
    assert_eq!(
        (&pod["automountServiceAccountToken"], &account["automountServiceAccountToken"]),
        (&json!(false), &json!(false))
    );

    let with_tokens = component();
    let dispatcher = with_tokens.running("backhaul-dispatcher");
    let told: Labels = effective(&with_tokens, &dispatcher.pod.containers[0]);
    let file = issuers(&with_tokens, &dispatcher.pod, &told[ISSUERS]).expect("there is a file");
    assert!(file.contains(&format!("service_account = \"{name}\"")), "{name} is no caller");
    let sources: Vec<Value> = typed(&pod["volumes"][1]["projected"]["sources"]);
    let token = &sources[0]["serviceAccountToken"];
    assert!(file.contains(&format!("audience = {}", token["audience"])), "{token}");
    let folder = text(&pod["containers"][0]["volumeMounts"][1]["mountPath"]);
    let flag = format!("--token-file={folder}/{}", text(&token["path"]));
    let args: Vec<String> = typed(&pod["containers"][0]["args"]);
    assert!(args.contains(&flag), "{flag}");
    assert!(args.contains(&format!("--trust-domain={}", told["BACKHAUL_TRUST_DOMAIN"])));
}
