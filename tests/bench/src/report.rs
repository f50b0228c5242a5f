//! Figures, the table for people, and `queue.json` for programs.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::{Value, json};

/// Figures of one column, by the key they have in `queue.json`.
pub(crate) type Figures = BTreeMap<String, f64>;

/// One durability: everything measured with it, beside each other.
#[derive(Debug, Default)]
pub(crate) struct Columns {
    /// Backhaul end to end.
    pub(crate) backhaul: Figures,
    /// BullMQ; empty when it is not installed.
    pub(crate) bullmq: Figures,
    /// The Redis that both ran on.
    pub(crate) redis: Figures,
    /// Backhaul to BullMQ, of what was measured in turns.
    pub(crate) ratios: Figures,
}

/// What was measured in turns, once or more often.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    pub(crate) backhaul: Vec<Figures>,
    pub(crate) bullmq: Vec<Figures>,
    pub(crate) redis: Vec<Figures>,
}

/// A line of the table.
struct Row {
    what: &'static str,
    key: &'static str,
    /// What the ratio of Backhaul to BullMQ should be.
    target: &'static str,
}

const ROWS: [Row; 7] = [
    Row { what: "submit, batches of 1,000 /s", key: "submit_batched_per_s", target: ">= 2" },
    Row { what: "submit, one a call, 100 in flight /s", key: "submit_per_s", target: ">= 0.6" },
    Row { what: "submit to confirmed, batched /s", key: "end_to_end_batched_per_s", target: ">= 3" },
    Row { what: "submit to confirmed, one a call /s", key: "end_to_end_per_s", target: "" },
    Row { what: "Redis bytes per waiting task", key: "bytes_per_pending_task", target: "<= 600 B" },
    Row { what: "Redis CPU, batched us/task", key: "redis_cpu_us_per_task", target: "" },
    Row { what: "dispatcher CPU, batched us/task", key: "dispatcher_cpu_us_per_task", target: "" },
];

/// Figures that Backhaul alone has: what, key, target, digits.
const OWN: [(&str, &str, &str, usize); 29] = [
    ("calls of scripts per task, batched", "script_calls_per_task", "", 3),
    ("call of submit to assignment, p50 ms", "assign_p50_ms", "", 2),
    ("call of submit to assignment, p99 ms", "assign_p99_ms", "", 2),
    ("answer of submit to assignment, p50 ms", "assign_after_answer_p50_ms", "<= 2", 2),
    ("answer of submit to assignment, p99 ms", "assign_after_answer_p99_ms", "<= 10", 2),
    ("many pending: data, GiB", "large_data_gib", "<= 6 at 10 M", 2),
    ("many pending: resident memory of Redis, GiB", "large_resident_gib", "<= 6 at 10 M", 2),
    ("dispatch to confirmed, 10 thousand pending /s", "dispatch_small_per_s", "", 0),
    ("  Redis CPU, us/task", "dispatch_small_redis_cpu_us", "", 1),
    ("dispatch to confirmed, many pending /s", "dispatch_large_per_s", "", 0),
    ("  Redis CPU, us/task", "dispatch_large_redis_cpu_us", "", 1),
    ("nobody watches: submit to confirmed /s", "watched_by_none_per_s", "", 0),
    ("  Redis CPU, us/task", "watched_by_none_redis_cpu_us", "", 1),
    ("  dispatcher CPU, us/task", "watched_by_none_dispatcher_cpu_us", "", 1),
    ("one task is watched /s", "watched_one_per_s", "", 0),
    ("  Redis CPU, us/task", "watched_one_redis_cpu_us", "", 1),
    ("  dispatcher CPU, us/task", "watched_one_dispatcher_cpu_us", "", 1),
    ("all tasks are watched /s", "watched_all_per_s", "", 0),
    ("  Redis CPU, us/task", "watched_all_redis_cpu_us", "", 1),
    ("  dispatcher CPU, us/task", "watched_all_dispatcher_cpu_us", "", 1),
    ("1 shard: submit to confirmed /s", "shards_1_per_s", "", 0),
    ("  Redis CPU, us/task", "shards_1_redis_cpu_us", "", 1),
    ("  dispatcher CPU, us/task", "shards_1_dispatcher_cpu_us", "", 1),
    ("4 shards /s", "shards_4_per_s", "", 0),
    ("  Redis CPU, us/task", "shards_4_redis_cpu_us", "", 1),
    ("  dispatcher CPU, us/task", "shards_4_dispatcher_cpu_us", "", 1),
    ("16 shards /s", "shards_16_per_s", "", 0),
    ("  Redis CPU, us/task", "shards_16_redis_cpu_us", "", 1),
    ("  dispatcher CPU, us/task", "shards_16_dispatcher_cpu_us", "", 1),
];

impl Rounds {
    /// Medians; of the ratios those of each turn, because what comes and goes on the machine meets both sides of one turn alike.
    pub(crate) fn columns(&self) -> Columns {
        let turns = self.backhaul.iter().zip(&self.bullmq);
        let ratios: Vec<Figures> = turns
            .map(|(ours, theirs)| {
                ours.iter().filter_map(|(key, ours)| Some((key.clone(), ours / theirs.get(key)?))).collect()
            })
            .collect();
        Columns {
            backhaul: medians(&self.backhaul),
            bullmq: medians(&self.bullmq),
            redis: medians(&self.redis),
            ratios: medians(&ratios),
        }
    }
}

/// The median of each figure.
pub(crate) fn medians(rounds: &[Figures]) -> Figures {
    let keys = rounds.first().into_iter().flat_map(|figures| figures.keys());
    keys.map(|key| {
        let mut all: Vec<f64> = rounds.iter().filter_map(|figures| figures.get(key).copied()).collect();
        all.sort_by(f64::total_cmp);
        (key.clone(), all[all.len() / 2])
    })
    .collect()
}

impl Columns {
    /// The table, with a heading.
    pub(crate) fn table(&self, heading: &str) -> String {
        let mut lines = vec![format!(
            "{heading}\n{:<46}{:>12}{:>12}{:>8}  {}",
            "", "Backhaul", "BullMQ", "ratio", "target"
        )];
        for Row { what, key, target } in ROWS {
            let (ours, theirs) = (self.backhaul.get(key), self.bullmq.get(key));
            if ours.is_none() && theirs.is_none() {
                continue;
            }
            let ratio = self.ratios.get(key);
            lines.push(format!(
                "{what:<46}{:>12}{:>12}{:>8}  {target}",
                shown(ours, 0),
                shown(theirs, 0),
                shown(ratio, 2)
            ));
        }
        for (what, key, target, digits) in OWN {
            if let Some(figure) = self.backhaul.get(key) {
                lines.push(format!(
                    "{what:<46}{:>12}{:>12}{:>8}  {target}",
                    shown(Some(figure), digits),
                    "",
                    ""
                ));
            }
        }
        if let (Some(small), Some(large)) =
            (self.backhaul.get("dispatch_small_per_s"), self.backhaul.get("dispatch_large_per_s"))
        {
            lines.push(format!(
                "{:<46}{:>12.2}{:>20}  >= 0.8",
                "  the latter to the former",
                large / small,
                ""
            ));
        }
        if let Some(scripts) = self.redis.get("script_pipelined_per_s") {
            lines.push(format!("{:<46}{scripts:>12.0}", "raw Redis, pipelined scripts of 2 commands /s"));
            if let Some(all) = self.backhaul.get("end_to_end_batched_per_s") {
                lines.push(format!(
                    "{:<46}{:>11.0}%",
                    "  submit to confirmed, batched, is of that",
                    100.0 * all / scripts
                ));
            }
        }
        lines.join("\n") + "\n"
    }

    fn json(&self) -> Value {
        json!({ "backhaul": self.backhaul, "bullmq": self.bullmq, "redis": self.redis, "ratios": self.ratios })
    }
}

/// Writes `queue.json`: the figures of the first durability on top, with those taken once, and each durability's own below `modes`.
pub(crate) fn write(
    path: &Path,
    conditions: &Value,
    modes: &[(&str, Columns)],
    once: &Columns,
) -> anyhow::Result<()> {
    let mut top = json!({ "backhaul": {}, "bullmq": {}, "redis": {}, "ratios": {}, "modes": {}, "conditions": conditions });
    if let Some((durability, columns)) = modes.first() {
        top["durability"] = json!(durability);
        for (name, parts) in [
            ("backhaul", [&columns.backhaul, &once.backhaul]),
            ("bullmq", [&columns.bullmq, &once.bullmq]),
            ("redis", [&columns.redis, &once.redis]),
            ("ratios", [&columns.ratios, &once.ratios]),
        ] {
            for (key, figure) in parts.into_iter().flatten() {
                top[name][key] = json!(figure);
            }
        }
    }
    for (durability, columns) in modes {
        top["modes"][durability] = columns.json();
    }
    Ok(fs::write(path, serde_json::to_string_pretty(&top)? + "\n")?)
}

fn shown(figure: Option<&f64>, digits: usize) -> String {
    figure.map_or_else(|| "-".to_owned(), |figure| format!("{figure:.digits$}"))
}
