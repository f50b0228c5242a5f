//! Network policies: what must flow does, from both ends, and what must not does not.
//!
//! A small reading of NetworkPolicy, enough for the policies here: pods by label, namespaces by label, blocks of addresses, numbered
//! ports. A named port in a policy is not supported, because not every network does either.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::{Problems, catches, holds, references::locations};
use crate::{
    model::{Labels, selects, text, typed},
    render::{self, Manifests},
    settings::effective,
};

/// One end of a connection.
#[derive(Debug, Clone)]
enum Peer {
    /// A pod of the namespace.
    Pod(Labels),
    /// A pod of another namespace.
    Elsewhere { namespace: Labels, pod: Labels },
    /// An address outside of the cluster.
    Address(Ipv4Addr),
}

fn peer(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// Whether all policies together let `from` open a connection to `to`. Only pods of the namespace are under its policies.
fn flows(manifests: &Manifests, from: &Peer, to: &Peer, port: u16) -> bool {
    allowed(manifests, from, "Egress", to, port) && allowed(manifests, to, "Ingress", from, port)
}

fn allowed(manifests: &Manifests, subject: &Peer, direction: &str, other: &Peer, port: u16) -> bool {
    let Peer::Pod(labels) = subject else { return true };
    let (rules, ends) = if direction == "Egress" { ("egress", "to") } else { ("ingress", "from") };
    let applies = |policy: &&Value| {
        let types: Vec<String> = typed(&policy["spec"]["policyTypes"]);
        types.iter().any(|t| t == direction) && selector(&policy["spec"]["podSelector"], labels)
    };
    let mut policies = manifests.of_kind("NetworkPolicy").filter(applies).peekable();
    policies.peek().is_none()
        || policies.flat_map(|policy| policy["spec"][rules].as_array()).flatten().any(|rule| {
            let ports = rule["ports"].as_array();
            let peers = rule[ends].as_array();
            ports.is_none_or(|list| list.iter().any(|p| p["port"] == port))
                && peers.is_none_or(|list| list.iter().any(|p| is_peer(p, other)))
        })
}

fn is_peer(rule: &Value, peer: &Peer) -> bool {
    match peer {
        Peer::Pod(labels) => {
            rule.get("namespaceSelector").is_none()
                && rule.get("ipBlock").is_none()
                && selector(&rule["podSelector"], labels)
        }
        Peer::Elsewhere { namespace, pod } => {
            rule.get("namespaceSelector").is_some_and(|s| selector(s, namespace))
                && selector(&rule["podSelector"], pod)
        }
        Peer::Address(address) => rule.get("ipBlock").is_some_and(|block| {
            let except = block["except"].as_array().into_iter().flatten();
            in_block(*address, &text(&block["cidr"]))
                && !except.into_iter().any(|cidr| in_block(*address, &text(cidr)))
        }),
    }
}

/// An empty selector, or none, takes everything.
fn selector(selector: &Value, labels: &Labels) -> bool {
    selector.get("matchLabels").is_none_or(|wanted| selects(&typed(wanted), labels))
}

fn in_block(address: Ipv4Addr, cidr: &str) -> bool {
    let Some((network, bits)) = cidr.split_once('/') else { return false };
    let (Ok(network), Ok(bits)) = (network.parse::<Ipv4Addr>(), bits.parse::<u32>()) else { return false };
    let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
    u32::from(address) & mask == u32::from(network) & mask
}

/// The host and port of a URL.
fn host_and_port(url: &str) -> Option<(String, u16)> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split('/').next()?.rsplit('@').next()?;
    let standard = match scheme {
        "https" => 443,
        "http" => 80,
        _ => 6379,
    };
    Some(match authority.rsplit_once(':') {
        Some((host, port)) => (host.to_owned(), port.parse().ok()?),
        None => (authority.to_owned(), standard),
    })
}

/// Whoever answers on that host: the pods of a Service of the namespace, or an address somewhere.
fn behind(manifests: &Manifests, host: &str) -> Peer {
    let Some(service) = manifests.find("Service", host) else {
        return Peer::Address(Ipv4Addr::new(10, 1, 2, 3));
    };
    let chosen: Labels = typed(&service["spec"]["selector"]);
    let workloads = manifests.workloads();
    let workload = workloads.iter().find(|w| selects(&chosen, &w.labels));
    Peer::Pod(workload.map(|w| w.labels.clone()).unwrap_or_default())
}

/// Every connection that a program is told to make must be allowed.
fn needed(manifests: &Manifests) -> Problems {
    let mut problems = Problems::new();
    let mut must = |from: &Peer, what: &str, to: &Peer, port: u16| {
        if !flows(manifests, from, to, port) {
            problems.push(format!("{what} is not allowed: {from:?} to {to:?}, port {port}"));
        }
    };
    let (dispatcher, worker) =
        (manifests.running("backhaul-dispatcher"), manifests.running("backhaul-worker"));
    let at = |labels: &Labels| Peer::Pod(labels.clone());
    let dns = Peer::Elsewhere {
        namespace: peer(&[("kubernetes.io/metadata.name", "kube-system")]),
        pod: peer(&[("k8s-app", "kube-dns")]),
    };
    let mut expect = |from: &Labels, what: &str, url: &str| match host_and_port(url) {
        Some((host, port)) => must(&at(from), what, &behind(manifests, &host), port),
        None => must(&at(from), url, &Peer::Pod(Labels::new()), 0),
    };
    let told = effective(manifests, &worker.pod.containers[0]);
    expect(
        &worker.labels,
        "worker to dispatcher",
        told.get("BACKHAUL_DISPATCHER").map_or("", String::as_str),
    );
    let told = effective(manifests, &dispatcher.pod.containers[0]);
    let redis = told.get("BACKHAUL_REDIS_URL").map_or("redis://redis.example.com:6379", String::as_str);
    expect(&dispatcher.labels, "dispatcher to Redis", redis);
    for location in locations(manifests, &worker).iter().flat_map(|all| all.iter()) {
        expect(
            &worker.labels,
            "worker to store",
            location.endpoint.as_deref().unwrap_or("https://aws.example.com"),
        );
    }
    must(&at(&worker.labels), "DNS", &dns, 53);
    must(&at(&dispatcher.labels), "DNS", &dns, 53);
    let callers =
        Peer::Elsewhere { namespace: peer(&[("backhaul.dev/may-call", "true")]), pod: Labels::new() };
    must(&callers, "internal service to dispatcher", &at(&dispatcher.labels), 7400);
    let origins =
        Peer::Elsewhere { namespace: peer(&[("backhaul.dev/may-notify", "true")]), pod: Labels::new() };
    let events = manifests.find("Service", "backhaul-events").map(|s| &s["spec"]["ports"][0]["targetPort"]);
    let events = events.and_then(|port| dispatcher.pod.containers[0].port(port)).unwrap_or_default();
    must(&origins, "origin to dispatcher", &at(&dispatcher.labels), events);
    problems
}

/// What an attacker inside one pod would try next.
fn forbidden(manifests: &Manifests) -> Problems {
    let mut problems = Problems::new();
    let mut must_not = |what: &str, from: &Peer, to: &Peer, port: u16| {
        if flows(manifests, from, to, port) {
            problems.push(format!("{what} is allowed"));
        }
    };
    let dispatcher = Peer::Pod(manifests.running("backhaul-dispatcher").labels);
    let worker = Peer::Pod(manifests.running("backhaul-worker").labels);
    let stranger = Peer::Pod(peer(&[("app", "stranger")]));
    let elsewhere = Peer::Elsewhere {
        namespace: peer(&[("kubernetes.io/metadata.name", "default")]),
        pod: Labels::new(),
    };
    let metadata = Peer::Address(Ipv4Addr::new(169, 254, 169, 254));
    let outside = Peer::Address(Ipv4Addr::new(203, 0, 113, 7));
    must_not("the node's credentials from a worker", &worker, &metadata, 443);
    must_not("the node's credentials from a worker", &worker, &metadata, 80);
    must_not("the internet from a dispatcher", &dispatcher, &outside, 443);
    must_not("plain HTTP to the internet from a worker", &worker, &outside, 80);
    must_not("a dispatcher from any namespace", &elsewhere, &dispatcher, 7400);
    must_not("a dispatcher from any pod", &stranger, &dispatcher, 7400);
    let origins =
        Peer::Elsewhere { namespace: peer(&[("backhaul.dev/may-notify", "true")]), pod: Labels::new() };
    must_not("the port of callers from an origin", &origins, &dispatcher, 7400);
    must_not("the port for operators from an origin", &origins, &dispatcher, 9090);
    must_not("the port for events from any namespace", &elsewhere, &dispatcher, 7480);
    must_not("the port for events from a worker", &worker, &dispatcher, 7480);
    must_not("a worker from a dispatcher", &dispatcher, &worker, 9090);
    must_not("the port for operators from a pod", &worker, &dispatcher, 9090);
    must_not("the port for operators from any namespace", &elsewhere, &dispatcher, 9090);
    must_not("anything from any pod", &stranger, &outside, 443);
    must_not("anything to any pod", &elsewhere, &stranger, 8080);
    for name in ["redis", "store"] {
        if manifests.find("Service", name).is_some() {
            let server = behind(manifests, name);
            let port = if name == "redis" { 6379 } else { 8333 };
            must_not(name, &elsewhere, &server, port);
            must_not(name, &server, &outside, 443);
        }
    }
    // Asked of the server's end alone: that the other end is shut as well must not hide that it is open.
    for (name, from, port) in
        [("redis", &worker, 6379), ("redis", &stranger, 6379), ("store", &dispatcher, 8333)]
    {
        if manifests.find("Service", name).is_some()
            && allowed(manifests, &behind(manifests, name), "Ingress", from, port)
        {
            problems.push(format!("{name} is open to {from:?}"));
        }
    }
    problems
}

/// Scrapers and the autoscaler come from other namespaces.
fn operators(manifests: &Manifests) -> Problems {
    let mut problems = Problems::new();
    let mut must = |what: &str, namespace: &str, to: &Labels, port: Option<u16>| {
        let from = Peer::Elsewhere {
            namespace: peer(&[("kubernetes.io/metadata.name", namespace)]),
            pod: Labels::new(),
        };
        if !port.is_some_and(|port| flows(manifests, &from, &Peer::Pod(to.clone()), port)) {
            problems.push(format!("{what} does not reach port {port:?} of {to:?}"));
        }
    };
    let workloads = manifests.workloads();
    for monitor in manifests.of_kind("PodMonitor") {
        let chosen: Labels = typed(&monitor["spec"]["selector"]["matchLabels"]);
        for workload in workloads.iter().filter(|w| selects(&chosen, &w.labels)) {
            let port = &monitor["spec"]["podMetricsEndpoints"][0]["port"];
            must("Prometheus", "monitoring", &workload.labels, workload.pod.containers[0].port(port));
        }
    }
    for scaled in manifests.of_kind("ScaledObject") {
        let address = text(&scaled["spec"]["triggers"][0]["metadata"]["scalerAddress"]);
        let namespace = text(&scaled["metadata"]["namespace"]);
        let (host, port) = address.rsplit_once(':').unwrap_or_default();
        let service = host.strip_suffix(&format!(".{namespace}.svc")).unwrap_or_default();
        let served = manifests.find("Service", service).is_some_and(|s| {
            s["spec"]["ports"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|p| p["port"].as_u64() == port.parse().ok())
        });
        if let (true, Peer::Pod(labels)) = (served, behind(manifests, service)) {
            must("KEDA", "keda", &labels, port.parse().ok());
        } else {
            must(&format!("KEDA's address {address}"), "keda", &Labels::new(), None);
        }
    }
    problems
}

#[test]
fn what_the_programs_are_told_to_reach_can_be_reached() {
    holds(needed);
    catches(
        needed,
        &render::overlay("dev"),
        &[
            ("NetworkPolicy", "worker", "/spec/egress/0/ports/0/port", json!(9090)),
            ("NetworkPolicy", "dispatcher", "/spec/ingress", json!([])),
            ("NetworkPolicy", "dispatcher", "/spec/ingress/1/ports/0/port", json!(7400)),
            ("Service", "backhaul-events", "/spec/ports/0/targetPort", json!("ops")),
            (
                "NetworkPolicy",
                "dispatcher-to-redis",
                "/spec/egress/0/to/0/podSelector/matchLabels",
                json!({"a": "b"}),
            ),
            ("NetworkPolicy", "redis", "/spec/ingress/0/from/0/podSelector/matchLabels", json!({"a": "b"})),
            ("NetworkPolicy", "store", "/kind", json!("Other")),
            ("NetworkPolicy", "dns", "/spec/egress", json!([])),
            (
                "ConfigMap",
                "backhaul-worker",
                "/data/BACKHAUL_DISPATCHER",
                json!("http://backhaul-dispatchers:7499"),
            ),
            ("ConfigMap", "backhaul-worker", "/data/BACKHAUL_DISPATCHER", json!("http://elsewhere:7400")),
        ],
    );
    catches(
        needed,
        &render::overlay("prod"),
        &[
            ("NetworkPolicy", "dispatcher-to-redis", "/spec/egress/0/ports/0/port", json!(6380)),
            ("NetworkPolicy", "worker", "/spec/egress/1/ports/0/port", json!(80)),
        ],
    );
}

#[test]
fn nothing_else_can_be_reached() {
    holds(forbidden);
    catches(
        forbidden,
        &render::overlay("dev"),
        &[
            ("NetworkPolicy", "default-deny", "/spec/policyTypes", json!(["Egress"])),
            ("NetworkPolicy", "default-deny", "/spec/podSelector", json!({"matchLabels": {"a": "b"}})),
            ("NetworkPolicy", "worker", "/spec/egress/1/to/0/ipBlock/except", json!([])),
            ("NetworkPolicy", "worker", "/spec/egress/1/ports", Value::Null),
            ("NetworkPolicy", "dispatcher", "/spec/ingress/0/from/1/namespaceSelector", json!({})),
            ("NetworkPolicy", "dispatcher", "/spec/ingress/0/from", Value::Null),
            ("NetworkPolicy", "dispatcher", "/spec/ingress/1/from/0/namespaceSelector", json!({})),
            ("NetworkPolicy", "dispatcher", "/spec/ingress/1/ports", Value::Null),
            ("NetworkPolicy", "redis", "/spec/ingress/0/from/0/podSelector", json!({})),
        ],
    );
}

#[test]
fn operators_reach_what_they_watch() {
    holds(operators);
    catches(
        operators,
        &render::overlay("prod"),
        &[
            ("NetworkPolicy", "keda", "/spec/ingress", json!([])),
            ("NetworkPolicy", "prometheus", "/spec/ingress", json!([])),
            (
                "ScaledObject",
                "backhaul-worker",
                "/spec/triggers/0/metadata/scalerAddress",
                json!("gone.backhaul.svc:7400"),
            ),
        ],
    );
}
