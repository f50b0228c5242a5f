//! Custom resources, whose schemas no Kubernetes publishes: the fields that the manifests use, each of the right type, and no others.
//!
//! Written from the definitions of KEDA 2.20, cert-manager 1.20 and Prometheus Operator 0.90. A field that is missing here is not
//! forbidden: add it, from the definition, with the manifest that uses it.

use std::collections::BTreeMap;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

type Strings = BTreeMap<String, String>;

/// Kinds that this module knows; a schema must be published for any other.
pub(crate) const KINDS: [&str; 5] = [
    "cert-manager.io/v1/Certificate",
    "cert-manager.io/v1/Issuer",
    "keda.sh/v1alpha1/ScaledObject",
    "monitoring.coreos.com/v1/PodMonitor",
    "monitoring.coreos.com/v1/PrometheusRule",
];

/// Problems of the custom resources among some objects.
pub(crate) fn problems(objects: &[Value]) -> Vec<String> {
    objects.iter().filter_map(|object| check(object).err()).collect()
}

fn check(object: &Value) -> Result<(), String> {
    let kind = format!(
        "{}/{}",
        object["apiVersion"].as_str().unwrap_or_default(),
        object["kind"].as_str().unwrap_or_default()
    );
    match kind.as_str() {
        "cert-manager.io/v1/Certificate" => fits::<Certificate>(object),
        "cert-manager.io/v1/Issuer" => fits::<Issuer>(object),
        "keda.sh/v1alpha1/ScaledObject" => fits::<ScaledObject>(object),
        "monitoring.coreos.com/v1/PodMonitor" => fits::<PodMonitor>(object),
        "monitoring.coreos.com/v1/PrometheusRule" => fits::<PrometheusRule>(object),
        _ => Ok(()),
    }
}

fn fits<T: DeserializeOwned>(object: &Value) -> Result<(), String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Resource<T> {
        #[serde(rename = "apiVersion")]
        _api_version: String,
        #[serde(rename = "kind")]
        _kind: String,
        #[serde(rename = "metadata")]
        _metadata: Metadata,
        #[serde(rename = "spec")]
        _spec: T,
    }
    let found = Resource::<T>::deserialize(object).map(drop);
    found.map_err(|error| format!("{} {}: {error}", object["kind"], object["metadata"]["name"]))
}

/// Structs that are only ever read into: what does not fit is the point.
macro_rules! shapes {
    ($($name:ident { $($(#[$attribute:meta])* $field:ident: $type:ty,)* })*) => {$(
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        #[allow(dead_code, reason = "reading is the check")]
        struct $name { $($(#[$attribute])* $field: $type,)* }
    )*};
}

shapes! {
    Metadata { name: String, namespace: String, labels: Option<Strings>, annotations: Option<Strings>, }
    Selector { match_labels: Strings, }

    Certificate {
        secret_name: String,
        issuer_ref: IssuerRef,
        common_name: Option<String>,
        dns_names: Option<Vec<String>>,
        uris: Option<Vec<String>>,
        #[serde(rename = "isCA")]
        is_ca: Option<bool>,
        usages: Option<Vec<Usage>>,
        duration: String,
        renew_before: Option<String>,
        private_key: PrivateKey,
    }
    IssuerRef { name: String, kind: IssuerKind, group: Option<String>, }
    PrivateKey { algorithm: Algorithm, size: u32, rotation_policy: RotationPolicy, }
    Issuer { self_signed: Option<Empty>, ca: Option<CaIssuer>, }
    CaIssuer { secret_name: String, }
    Empty { }

    ScaledObject {
        scale_target_ref: ScaleTarget,
        min_replica_count: u32,
        max_replica_count: u32,
        polling_interval: u32,
        cooldown_period: u32,
        fallback: Option<Fallback>,
        advanced: Option<Advanced>,
        triggers: Vec<Trigger>,
    }
    ScaleTarget { api_version: Option<String>, kind: Option<String>, name: String, }
    Fallback { failure_threshold: u32, replicas: u32, behavior: Option<FallbackBehavior>, }
    Advanced { horizontal_pod_autoscaler_config: Option<HpaConfig>, }
    HpaConfig { behavior: HpaBehavior, }
    HpaBehavior { scale_up: Option<HpaRules>, scale_down: Option<HpaRules>, }
    HpaRules { stabilization_window_seconds: u32, policies: Option<Vec<HpaPolicy>>, }
    HpaPolicy { r#type: HpaPolicyType, value: u32, period_seconds: u32, }
    Trigger { r#type: TriggerType, metric_type: MetricType, metadata: Strings, authentication_ref: Option<Value>, }

    PodMonitor { selector: Selector, pod_metrics_endpoints: Vec<Endpoint>, namespace_selector: Option<Value>, }
    Endpoint { port: String, path: String, scheme: Option<String>, interval: Option<String>, scrape_timeout: Option<String>, }

    PrometheusRule { groups: Vec<Group>, }
    Group { name: String, interval: Option<String>, rules: Vec<RuleOrRecord>, }
    RuleOrRecord {
        alert: Option<String>,
        record: Option<String>,
        expr: String,
        r#for: Option<String>,
        keep_firing_for: Option<String>,
        labels: Option<Strings>,
        annotations: Option<Strings>,
    }
}

macro_rules! words {
    ($($name:ident { $($word:ident = $text:literal,)* })*) => {$(
        #[derive(Deserialize)]
        enum $name { $(#[serde(rename = $text)] $word,)* }
    )*};
}

words! {
    IssuerKind { Issuer = "Issuer", ClusterIssuer = "ClusterIssuer", }
    Usage { Server = "server auth", Client = "client auth", Signature = "digital signature", CertSign = "cert sign", }
    Algorithm { Ecdsa = "ECDSA", }
    RotationPolicy { Always = "Always", }
    FallbackBehavior { Static = "static", Higher = "currentReplicasIfHigher", Current = "currentReplicas", }
    HpaPolicyType { Pods = "Pods", Percent = "Percent", }
    TriggerType { ExternalPush = "external-push", }
    MetricType { AverageValue = "AverageValue", }
}

#[test]
fn a_field_that_is_misspelt_or_of_a_wrong_type_is_caught() {
    let monitor = |spec: Value| json!({"apiVersion": "monitoring.coreos.com/v1", "kind": "PodMonitor", "metadata": {"name": "a", "namespace": "b"}, "spec": spec});
    let good = json!({"selector": {"matchLabels": {"a": "b"}}, "podMetricsEndpoints": [{"port": "ops", "path": "/metrics"}]});
    assert_eq!(problems(&[monitor(good.clone())]), Vec::<String>::new());
    for (at, value) in [
        ("/podMetricsEndpoints/0/port", json!(9090)),
        ("/podMetricsEndpoints/0", json!({"prot": "ops", "path": "/metrics"})),
        ("/podMetricsEndpoints/0", json!({"port": "ops", "path": "/metrics", "intervall": "30s"})),
        ("/selector", json!({"matchLabel": {"a": "b"}})),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(at).expect("it is there") = value;
        assert_eq!(problems(&[monitor(bad.clone())]).len(), 1, "{bad}");
    }
}
