//! The parts of Kubernetes' objects that rules look at, typed. That nothing else is in them is the schema's to say.

use std::collections::BTreeMap;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use crate::render::Manifests;

pub(crate) type Labels = BTreeMap<String, String>;

/// What makes pods: a Deployment or a StatefulSet.
#[derive(Debug, Clone)]
pub(crate) struct Workload {
    pub(crate) kind: String,
    pub(crate) name: String,
    /// `None` where an autoscaler decides.
    pub(crate) replicas: Option<u32>,
    pub(crate) selector: Labels,
    pub(crate) labels: Labels,
    pub(crate) pod: Pod,
    pub(crate) claims: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Pod {
    #[serde(default)]
    pub(crate) service_account_name: Option<String>,
    pub(crate) automount_service_account_token: Option<bool>,
    pub(crate) enable_service_links: Option<bool>,
    pub(crate) termination_grace_period_seconds: u64,
    #[serde(default)]
    pub(crate) security_context: Value,
    #[serde(default)]
    pub(crate) topology_spread_constraints: Vec<Value>,
    #[serde(default)]
    pub(crate) init_containers: Vec<Container>,
    pub(crate) containers: Vec<Container>,
    #[serde(default)]
    pub(crate) volumes: Vec<Volume>,
    #[serde(flatten)]
    pub(crate) rest: BTreeMap<String, Value>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Container {
    pub(crate) name: String,
    pub(crate) image: String,
    #[serde(default)]
    pub(crate) args: Vec<String>,
    #[serde(default)]
    pub(crate) env: Vec<Variable>,
    #[serde(default)]
    pub(crate) env_from: Vec<EnvFrom>,
    #[serde(default)]
    pub(crate) ports: Vec<ContainerPort>,
    #[serde(default)]
    pub(crate) resources: Resources,
    #[serde(default)]
    pub(crate) security_context: Value,
    #[serde(default)]
    pub(crate) volume_mounts: Vec<Mount>,
    pub(crate) startup_probe: Option<Probe>,
    pub(crate) liveness_probe: Option<Probe>,
    pub(crate) readiness_probe: Option<Probe>,
    #[serde(default)]
    pub(crate) lifecycle: Value,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Variable {
    pub(crate) name: String,
    pub(crate) value: Option<String>,
    pub(crate) value_from: Option<ValueFrom>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ValueFrom {
    pub(crate) secret_key_ref: Option<KeyRef>,
    pub(crate) config_map_key_ref: Option<KeyRef>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct KeyRef {
    pub(crate) name: String,
    pub(crate) key: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EnvFrom {
    pub(crate) config_map_ref: Option<Named>,
    pub(crate) secret_ref: Option<Named>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Named {
    pub(crate) name: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ContainerPort {
    pub(crate) name: Option<String>,
    pub(crate) container_port: u16,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Resources {
    #[serde(default)]
    pub(crate) requests: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) limits: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Mount {
    pub(crate) name: String,
    pub(crate) mount_path: String,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Probe {
    pub(crate) grpc: Option<Value>,
    pub(crate) http_get: Option<Value>,
    pub(crate) tcp_socket: Option<Value>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Volume {
    pub(crate) name: String,
    pub(crate) config_map: Option<Named>,
    pub(crate) secret: Option<SecretVolume>,
    pub(crate) projected: Option<Value>,
    pub(crate) empty_dir: Option<Value>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SecretVolume {
    pub(crate) secret_name: String,
}

impl Manifests {
    /// All objects of a kind.
    pub(crate) fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.objects.iter().filter(move |object| object["kind"] == kind)
    }

    /// The object of that kind and name.
    pub(crate) fn find(&self, kind: &str, name: &str) -> Option<&Value> {
        self.objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
    }

    /// Everything that makes pods.
    pub(crate) fn workloads(&self) -> Vec<Workload> {
        let makes_pods =
            |object: &&Value| ["Deployment", "StatefulSet"].iter().any(|kind| object["kind"] == *kind);
        self.objects.iter().filter(makes_pods).map(Workload::new).collect()
    }

    /// The workload whose pods run that program of this repository, such as `backhaul-worker`.
    pub(crate) fn running(&self, program: &str) -> Workload {
        let mut all = self.workloads().into_iter();
        all.find(|w| w.pod.containers.iter().any(|c| c.program() == program))
            .unwrap_or_else(|| panic!("{}: nothing runs {program}", self.name))
    }

    /// The entries of a ConfigMap or Secret that is among the manifests.
    pub(crate) fn entries(&self, kind: &str, name: &str) -> Option<Labels> {
        let object = self.find(kind, name)?;
        let mut entries: Labels = typed(object.get("data").unwrap_or(&Value::Object(Default::default())));
        if kind == "Secret" {
            for value in entries.values_mut() {
                *value = decoded(value);
            }
        }
        Some(entries)
    }
}

impl Workload {
    fn new(object: &Value) -> Self {
        let spec = &object["spec"];
        let claims = spec["volumeClaimTemplates"].as_array().into_iter().flatten();
        Self {
            kind: text(&object["kind"]),
            name: text(&object["metadata"]["name"]),
            replicas: spec.get("replicas").map(typed),
            selector: typed(&spec["selector"]["matchLabels"]),
            labels: typed(&spec["template"]["metadata"]["labels"]),
            pod: typed(&spec["template"]["spec"]),
            claims: claims.map(|claim| text(&claim["metadata"]["name"])).collect(),
        }
    }
}

impl Pod {
    pub(crate) fn all_containers(&self) -> impl Iterator<Item = &Container> {
        self.init_containers.iter().chain(&self.containers)
    }
}

impl Container {
    /// Name of the image without registry, tag and digest, which is the program's.
    pub(crate) fn program(&self) -> &str {
        let name = self.image.rsplit('/').next().unwrap_or_default();
        name.split(['@', ':']).next().unwrap_or_default()
    }

    /// The number of a port that is given as a number or a name, if the container declares it.
    pub(crate) fn port(&self, port: &Value) -> Option<u16> {
        let declared = self.ports.iter().find(|p| {
            port.as_u64() == Some(p.container_port.into())
                || (port.is_string() && port.as_str() == p.name.as_deref())
        });
        declared.map(|p| p.container_port)
    }
}

/// Reads a part of an object, which the schema has found to be right.
#[track_caller]
pub(crate) fn typed<T: DeserializeOwned>(value: &Value) -> T {
    T::deserialize(value).unwrap_or_else(|error| panic!("{error}: {value}"))
}

/// A string, or nothing.
pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Whether a selector takes things with these labels.
pub(crate) fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn decoded(text: &str) -> String {
    // Kustomize folds what is long.
    let bytes = BASE64_STANDARD.decode(text.replace('\n', "")).expect("the data of a secret is base64");
    String::from_utf8(bytes).expect("secrets of development are text")
}
