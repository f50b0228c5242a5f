//! Whatever is named exists: settings, secrets, accounts, volumes, credentials of stores.

use std::collections::BTreeMap;

use backhaul_runtime::locations::{Credentials, Locations};
use serde_json::{Value, json};

use super::{Problems, catches, holds};
use crate::{
    model::{Container, Labels, Workload, text, typed},
    render::{self, Manifests},
};

/// Secrets that an overlay without secrets expects to be there, with the keys that are looked for. The README says how to make them.
const EXPECTED_SECRETS: [&str; 2] = ["backhaul-redis", "backhaul-stores"];

/// What the cluster puts into every namespace.
const OF_CLUSTER: (&str, &str) = ("kube-root-ca.crt", "ca.crt");

/// Names of ConfigMaps or Secrets, with their keys where they are known.
type Known = BTreeMap<String, Option<Labels>>;

fn references(manifests: &Manifests) -> Problems {
    let mut maps = known(manifests, "ConfigMap");
    let (map, key) = OF_CLUSTER;
    maps.insert(map.to_owned(), Some([(key.to_owned(), String::new())].into()));
    let mut secrets = known(manifests, "Secret");
    for certificate in manifests.of_kind("Certificate") {
        secrets.insert(text(&certificate["spec"]["secretName"]), None);
    }
    if manifests.of_kind("Secret").next().is_none() {
        secrets.extend(EXPECTED_SECRETS.map(|name| (name.to_owned(), None)));
    }
    let mut problems = Problems::new();
    for workload in manifests.workloads() {
        let mut say = |what: String| problems.push(format!("{}: {what}", workload.name));
        if let Some(account) = &workload.pod.service_account_name
            && manifests.find("ServiceAccount", account).is_none()
        {
            say(format!("there is no ServiceAccount {account}"));
        }
        for (kind, name, key) in named(&workload) {
            let among = if kind == "Secret" { &secrets } else { &maps };
            match among.get(&name) {
                None => say(format!("there is no {kind} {name}")),
                Some(Some(keys)) if key.as_ref().is_some_and(|key| !keys.contains_key(key)) => {
                    say(format!("{kind} {name} has no {key:?}"));
                }
                Some(_) => {}
            }
        }
        let volumes: Vec<_> = workload.pod.volumes.iter().map(|v| &v.name).chain(&workload.claims).collect();
        let mounted: Vec<_> =
            workload.pod.all_containers().flat_map(|c| &c.volume_mounts).map(|m| &m.name).collect();
        mounted
            .iter()
            .filter(|name| !volumes.contains(name))
            .for_each(|name| say(format!("there is no volume {name}")));
        volumes
            .iter()
            .filter(|name| !mounted.contains(name))
            .for_each(|name| say(format!("nobody mounts {name}")));
    }
    for kind in ["ConfigMap", "Secret"] {
        problems.extend(unused(manifests, kind));
    }
    problems
}

fn known(manifests: &Manifests, kind: &str) -> Known {
    let names = manifests.of_kind(kind).map(|object| text(&object["metadata"]["name"]));
    names.map(|name| (name.clone(), manifests.entries(kind, &name))).collect()
}

/// Every ConfigMap and Secret that a workload names, with the key where it names one.
fn named(workload: &Workload) -> Vec<(&'static str, String, Option<String>)> {
    let mut found = Vec::new();
    for container in workload.pod.all_containers() {
        for from in &container.env_from {
            found.extend(from.config_map_ref.iter().map(|r| ("ConfigMap", r.name.clone(), None)));
            found.extend(from.secret_ref.iter().map(|r| ("Secret", r.name.clone(), None)));
        }
        for source in container.env.iter().filter_map(|v| v.value_from.as_ref()) {
            found.extend(
                source.secret_key_ref.iter().map(|r| ("Secret", r.name.clone(), Some(r.key.clone()))),
            );
            found.extend(
                source.config_map_key_ref.iter().map(|r| ("ConfigMap", r.name.clone(), Some(r.key.clone()))),
            );
        }
    }
    for volume in &workload.pod.volumes {
        found.extend(volume.config_map.iter().map(|r| ("ConfigMap", r.name.clone(), None)));
        found.extend(volume.secret.iter().map(|r| ("Secret", r.secret_name.clone(), None)));
        for source in volume.projected.iter().flat_map(|p| p["sources"].as_array()).flatten() {
            for (field, kind) in [("configMap", "ConfigMap"), ("secret", "Secret")] {
                if let Some(reference) = source.get(field) {
                    let name = text(&reference["name"]);
                    let items = reference["items"].as_array().into_iter().flatten();
                    found.extend(items.map(|item| (kind, name.clone(), Some(text(&item["key"])))));
                    found.push((kind, name, None));
                }
            }
        }
    }
    found
}

fn unused(manifests: &Manifests, kind: &str) -> Problems {
    let used: Vec<_> =
        manifests.workloads().iter().flat_map(named).map(|(kind, name, _)| (kind, name)).collect();
    let mut problems = Problems::new();
    for object in manifests.of_kind(kind) {
        let name = text(&object["metadata"]["name"]);
        // Read by Grafana, which finds it by its label.
        let dashboard = object["metadata"]["labels"].get("grafana_dashboard").is_some();
        if !dashboard && !used.iter().any(|(k, n)| *k == kind && *n == name) {
            problems.push(format!("nothing uses {kind} {name}"));
        }
    }
    problems
}

/// The locations file of a container, as it would find it: from the volume that its setting points into.
pub(super) fn locations(manifests: &Manifests, workload: &Workload) -> Result<Locations, String> {
    let path = "/etc/backhaul/locations/locations.toml";
    let (folder, file) = path.rsplit_once('/').ok_or("no folder")?;
    let container = &workload.pod.containers[0];
    let mount =
        container.volume_mounts.iter().find(|m| m.mount_path == folder).ok_or("locations are not mounted")?;
    let volume =
        workload.pod.volumes.iter().find(|v| v.name == mount.name).ok_or("there is no such volume")?;
    let map = &volume.config_map.as_ref().ok_or("locations are not in a ConfigMap")?.name;
    let entries = manifests.entries("ConfigMap", map).ok_or("there is no such ConfigMap")?;
    let text = entries.get(file).ok_or("the ConfigMap has no locations.toml")?;
    Locations::parse(text, path.as_ref()).map_err(|error| error.to_string())
}

/// The file that a location takes its keys from must be in a Secret that is mounted there.
fn stores(manifests: &Manifests) -> Problems {
    let mut problems = Problems::new();
    for program in ["backhaul-dispatcher", "backhaul-worker"] {
        let workload = manifests.running(program);
        let locations = match locations(manifests, &workload) {
            Ok(locations) => locations,
            Err(problem) => {
                problems.push(format!("{program}: {problem}"));
                continue;
            }
        };
        if program == "backhaul-dispatcher" {
            continue;
        }
        for location in locations.iter() {
            let Credentials::File(path) = &location.credentials else { continue };
            let file = path.display().to_string();
            if !is_mounted(manifests, &workload, &workload.pod.containers[0], &file) {
                problems.push(format!("location {}: {file} is not mounted", location.name));
            }
        }
    }
    let holders = manifests.running("backhaul-dispatcher").pod.volumes;
    if holders.iter().any(|v| v.secret.as_ref().is_some_and(|s| s.secret_name.starts_with("backhaul-stores")))
    {
        problems.push("dispatchers must not have the stores' credentials".to_owned());
    }
    problems
}

fn is_mounted(manifests: &Manifests, workload: &Workload, container: &Container, file: &str) -> bool {
    let Some((folder, name)) = file.rsplit_once('/') else { return false };
    let mount = container.volume_mounts.iter().find(|mount| mount.mount_path == folder);
    let volume = mount.and_then(|mount| workload.pod.volumes.iter().find(|v| v.name == mount.name));
    let Some(secret) = volume.and_then(|volume| volume.secret.as_ref()) else { return false };
    manifests.entries("Secret", &secret.secret_name).is_none_or(|keys| keys.contains_key(name))
}

#[test]
fn everything_that_is_named_exists_and_everything_that_exists_is_named() {
    holds(references);
    let pod = "/spec/template/spec";
    let container = "/spec/template/spec/containers/0";
    catches(
        references,
        &render::overlay("dev"),
        &[
            ("Deployment", "backhaul-worker", &format!("{pod}/serviceAccountName"), json!("nobody")),
            ("Deployment", "backhaul-worker", &format!("{pod}/volumes/1/secret/secretName"), json!("gone")),
            ("Deployment", "backhaul-worker", &format!("{container}/volumeMounts/0/name"), json!("gone")),
            ("Deployment", "backhaul-worker", &format!("{container}/volumeMounts"), Value::Null),
            (
                "Deployment",
                "backhaul-dispatcher",
                &format!("{container}/envFrom"),
                json!([{"configMapRef": {"name": "gone"}}]),
            ),
            (
                "Deployment",
                "backhaul-dispatcher",
                &format!("{container}/env/0/valueFrom/secretKeyRef/key"),
                json!("uri"),
            ),
            (
                "StatefulSet",
                "redis",
                &format!("{pod}/volumes/0/projected/sources/1/secret/items/0/key"),
                json!("gone"),
            ),
            ("ConfigMap", "redis", "/metadata/name", json!("renamed")),
        ],
    );
}

#[test]
fn locations_can_be_read_and_their_keys_are_mounted_where_they_are_looked_for() {
    holds(stores);
    let dev = render::overlay("dev");
    let toml = |from: &str, to: &str| {
        let map = dev
            .of_kind("ConfigMap")
            .find(|m| m["data"].get("locations.toml").is_some())
            .expect("there is one");
        let text: String = typed(&map["data"]["locations.toml"]);
        assert!(text.contains(from), "{text}");
        catches(
            stores,
            &dev,
            &[("ConfigMap", "backhaul-locations", "/data/locations.toml", json!(text.replace(from, to)))],
        );
    };
    toml("path_style", "path-style");
    toml("stores/store.keys", "stores/other.keys");
    toml("/etc/backhaul/stores", "/etc/backhaul/keys");
}
