//! Every metric, with its kind and labels, as `deploy/docs/metrics.md` shows it.

use std::{collections::BTreeSet, fmt::Write as _};

use backhaul_runtime::metrics::{Family, Kind, process};

use super::{cell, check};

fn table(families: &[&Family]) -> String {
    let mut table = "| Metric | Kind | Labels | Meaning |\n|---|---|---|---|\n".to_owned();
    for Family { name, help, kind, labels } in families {
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        let labels = labels.join(", ");
        writeln!(table, "| `{name}` | {} | {labels} | {} |", kind.as_str(), cell(help)).unwrap();
    }
    table
}

fn all() -> Vec<&'static Family> {
    let services = [backhaul_dispatcher::metrics::names::FAMILIES, backhaul_worker::metrics::names::FAMILIES];
    services.into_iter().flatten().chain(&process::FAMILIES).copied().collect()
}

#[test]
fn every_metric_is_documented() {
    check("metrics.md", "dispatcher", &table(backhaul_dispatcher::metrics::names::FAMILIES));
    check("metrics.md", "worker", &table(backhaul_worker::metrics::names::FAMILIES));
    check("metrics.md", "process", &table(&process::FAMILIES));
}

#[test]
fn names_follow_the_conventions_of_prometheus() {
    let mut seen = BTreeSet::new();
    for Family { name, help, kind, labels } in all() {
        assert!(seen.insert(name), "{name} is there twice");
        assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
        assert_eq!(name.ends_with("_duration_seconds"), *kind == Kind::Histogram, "{name}");
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
        assert!(help.ends_with('.') && !help.contains('\n'), "{name}: {help}");
        // What users choose is never a label; what is configured or built in may be.
        for label in *labels {
            assert!(
                !["tenant", "key", "bucket", "task", "task_id", "worker", "object", "version_id"]
                    .contains(label),
                "{name} has a label {label}"
            );
        }
    }
}
