//! Who programs are: certificates are where they are looked for and name whom the programs expect, on every side of a connection.

use serde_json::{Value, json};

use super::{Problems, catches, holds};
use crate::{
    model::{Labels, Workload, text, typed},
    render::{self, Manifests},
    settings::effective,
};

const FILES: [&str; 3] = ["BACKHAUL_TLS_CERT", "BACKHAUL_TLS_KEY", "BACKHAUL_TLS_BUNDLE"];

fn identities(manifests: &Manifests) -> Problems {
    let mut problems = Problems::new();
    let programs = ["dispatcher", "worker"].map(|name| manifests.running(&format!("backhaul-{name}")));
    let told = [0, 1].map(|n: usize| effective(manifests, &programs[n].pod.containers[0]));
    let secure = [0, 1].map(|n: usize| told[n].get("BACKHAUL_INSECURE").is_some_and(|v| v == "false"));
    let is_secure = secure[0];
    if secure[0] != secure[1] {
        problems.push("one side wants certificates and the other does not".to_owned());
    }
    let scheme = if is_secure { "https://" } else { "http://" };
    if !told[1].get("BACKHAUL_DISPATCHER").is_some_and(|url| url.starts_with(scheme)) {
        problems.push(format!("the worker's way to the dispatcher is not {scheme}"));
    }
    for service in manifests.of_kind("Service").filter(|s| is_of(&programs[0], s)) {
        // The port for operators is plaintext either way.
        let ports = service["spec"]["ports"].as_array().into_iter().flatten();
        for port in ports.filter(|port| port["targetPort"] == "grpc") {
            if (port["appProtocol"] == "kubernetes.io/h2c") == is_secure {
                problems.push(format!("Service {}: the protocol is another", service["metadata"]["name"]));
            }
        }
    }
    if is_secure {
        let worker = told[0].get("BACKHAUL_WORKER_PATH").map_or("", String::as_str);
        for (n, path) in ["/backhaul/dispatcher", worker].into_iter().enumerate() {
            problems.extend(files(&programs[n], &told[n]));
            problems.extend(name(manifests, &programs[n], &told[n], path));
        }
    }
    problems
}

fn is_of(workload: &Workload, service: &Value) -> bool {
    let chosen: Labels = typed(&service["spec"]["selector"]);
    !chosen.is_empty() && crate::model::selects(&chosen, &workload.labels)
}

/// The files are where something is mounted.
fn files(program: &Workload, told: &Labels) -> Problems {
    let mounts = &program.pod.containers[0].volume_mounts;
    let is_mounted = |path: &str| mounts.iter().any(|m| path.starts_with(&format!("{}/", m.mount_path)));
    let missing = FILES.iter().filter(|file| !told.get(**file).is_some_and(|path| is_mounted(path)));
    missing.map(|file| format!("{}: nothing is mounted at {file}", program.name)).collect()
}

/// The certificate that is mounted names who the other side looks for.
fn name(manifests: &Manifests, program: &Workload, told: &Labels, path: &str) -> Option<String> {
    let id = format!("spiffe://{}{path}", told.get("BACKHAUL_TRUST_DOMAIN").map_or("", String::as_str));
    let secrets: Vec<_> = program.pod.volumes.iter().filter_map(|volume| volume.secret.as_ref()).collect();
    let is_issued = manifests.of_kind("Certificate").any(|certificate| {
        let secret = text(&certificate["spec"]["secretName"]);
        secrets.iter().any(|s| s.secret_name == secret) && certificate["spec"]["uris"] == json!([id])
    });
    (!is_issued).then(|| format!("{}: no certificate for {id} is mounted", program.name))
}

#[test]
fn both_sides_prove_who_the_other_expects() {
    holds(identities);
    let prod = render::overlay("prod");
    let data = |name: &'static str, setting: &str, value: &str| {
        catches(identities, &prod, &[("ConfigMap", name, &format!("/data/{setting}"), json!(value))]);
    };
    data("backhaul-worker", "BACKHAUL_INSECURE", "true");
    data("backhaul-dispatcher", "BACKHAUL_INSECURE", "true");
    data("backhaul-worker", "BACKHAUL_DISPATCHER", "http://backhaul-dispatchers:7400");
    data("backhaul-worker", "BACKHAUL_TRUST_DOMAIN", "elsewhere");
    data("backhaul-dispatcher", "BACKHAUL_TLS_KEY", "/etc/ssl/tls.key");
    data("backhaul-dispatcher", "BACKHAUL_TRUST_DOMAIN", "elsewhere");
    let uris = json!(["spiffe://backhaul.internal/backhaul/other"]);
    let volume = "/spec/template/spec/containers/0/volumeMounts";
    let protocol = "/spec/ports/0/appProtocol";
    catches(
        identities,
        &prod,
        &[
            ("Certificate", "backhaul-worker", "/spec/uris", uris.clone()),
            ("Certificate", "backhaul-dispatcher", "/spec/uris", uris),
            ("Deployment", "backhaul-worker", volume, json!([])),
            ("Service", "backhaul-dispatchers", protocol, json!("kubernetes.io/h2c")),
        ],
    );
    let dev = render::overlay("dev");
    catches(identities, &dev, &[("Service", "backhaul-dispatcher", protocol, Value::Null)]);
}
