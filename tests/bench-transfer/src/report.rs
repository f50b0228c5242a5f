//! Figures, the table for people, and `transfer.json` for programs.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::{Map, Value, json};

use crate::{case::Case, path::Idle, usage::Usage};

/// Who copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tool {
    /// Backhaul's engine alone.
    Engine,
    /// Backhaul from submit to receipts.
    Path,
    /// rclone.
    Rclone,
    /// s5cmd.
    S5cmd,
    /// Bare requests.
    Bound,
}

/// One figure for each round.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rounds: BTreeMap<(usize, Tool), Vec<Usage>>,
    beside: BTreeMap<usize, Vec<[f64; 2]>>,
    idle: Option<Idle>,
}

/// What should hold: case, who, compared with whom, of what, and the bound.
const TARGETS: [(&str, Tool, Tool, Of, &str); 9] = [
    ("small", Tool::Engine, Tool::Rclone, Of::Rate, ">= 1.5"),
    ("small", Tool::Engine, Tool::Rclone, Of::Cpu, "<= 0.4"),
    ("small", Tool::Path, Tool::Engine, Of::Rate, ">= 0.9"),
    ("medium", Tool::Engine, Tool::Rclone, Of::Rate, ">= 1.2, or bound >= 0.9"),
    ("medium", Tool::Engine, Tool::Rclone, Of::Cpu, "<= 1.0"),
    ("large", Tool::Engine, Tool::Rclone, Of::Rate, ">= 1.2, or bound >= 0.9"),
    ("large", Tool::Engine, Tool::Rclone, Of::Cpu, "<= 0.35"),
    ("server_side", Tool::Engine, Tool::S5cmd, Of::Rate, ">= 1"),
    ("server_side", Tool::Engine, Tool::S5cmd, Of::Cpu, ""),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Rate,
    Cpu,
}

impl Tool {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Engine => "engine",
            Self::Path => "path",
            Self::Rclone => "rclone",
            Self::S5cmd => "s5cmd",
            Self::Bound => "bound",
        }
    }
}

impl Report {
    /// Adds what one round of one tool cost.
    pub(crate) fn add(&mut self, case: usize, tool: Tool, usage: Usage) {
        self.rounds.entry((case, tool)).or_default().push(usage);
    }

    /// Adds what the dispatcher and Redis took of the processors beside the worker.
    pub(crate) fn add_beside(&mut self, case: usize, dispatcher_cpu_s: f64, redis_cpu_s: f64) {
        self.beside.entry(case).or_default().push([dispatcher_cpu_s, redis_cpu_s]);
    }

    /// Sets what nothing costs.
    pub(crate) fn set_idle(&mut self, idle: Idle) {
        self.idle = Some(idle);
    }

    /// The table.
    pub(crate) fn table(&self, cases: &[Case]) -> String {
        let mut lines = vec![format!(
            "\n{:<14}{:<8}{:>9}{:>11}{:>9}{:>9}{:>10}{:>14}",
            "case", "tool", "wall s", "objects/s", "MiB/s", "CPU s", "peak MiB", "stores' CPU s"
        )];
        for ((case, tool), rounds) in &self.rounds {
            let (case, usage) = (&cases[*case], medians(rounds));
            lines.push(format!(
                "{:<14}{:<8}{:>9.2}{:>11.0}{:>9.0}{:>9.2}{:>10.0}{:>14.2}",
                case.name,
                tool.name(),
                usage.wall_s,
                case.count as f64 / usage.wall_s,
                case.total_bytes() as f64 / f64::from(1 << 20) / usage.wall_s,
                usage.cpu_s,
                usage.peak_mib,
                usage.stores_cpu_s
            ));
        }
        lines.push(String::new());
        for (name, who, whom, of, target) in TARGETS {
            if let Some(ratio) = self.ratio(cases, name, who, whom, of) {
                let of = if of == Of::Rate { "rate" } else { "CPU" };
                let what = format!("{name}: {of} of {}, of that of {}", who.name(), whom.name());
                lines.push(format!("{what:<50}{ratio:>8.2}  {target}"));
            }
        }
        for case in cases {
            if let Some(ratio) = self.ratio(cases, case.name, Tool::Engine, Tool::Bound, Of::Rate) {
                let what = format!("{}: rate of engine, of that of bare requests", case.name);
                lines.push(format!("{what:<50}{ratio:>8.2}"));
            }
        }
        if let Some(idle) = self.idle {
            for (name, mib, cpu_s, target) in [
                ("worker", idle.worker_mib, idle.worker_cpu_s, 40),
                ("dispatcher", idle.dispatcher_mib, idle.dispatcher_cpu_s, 30),
            ] {
                let what = format!("idle {name}: MiB resident, {cpu_s:.2} CPU s in {} s", idle.seconds);
                lines.push(format!("{what:<50}{mib:>8.1}  <= {target}"));
            }
        }
        lines.join("\n") + "\n"
    }

    /// Writes `transfer.json`.
    pub(crate) fn write(&self, path: &Path, cases: &[Case], conditions: &Value) -> anyhow::Result<()> {
        let mut rows = Vec::new();
        for ((number, tool), rounds) in &self.rounds {
            let (case, usage) = (&cases[*number], medians(rounds));
            let each: Vec<Value> = rounds
                .iter()
                .map(|u| json!({ "wall_s": u.wall_s, "cpu_s": u.cpu_s, "peak_mib": u.peak_mib, "stores_cpu_s": u.stores_cpu_s }))
                .collect();
            let mut row = json!({
                "case": case.name,
                "tool": tool.name(),
                "wall_s": usage.wall_s,
                "cpu_s": usage.cpu_s,
                "peak_mib": usage.peak_mib,
                "stores_cpu_s": usage.stores_cpu_s,
                "objects_per_s": case.count as f64 / usage.wall_s,
                "bytes_per_s": case.total_bytes() as f64 / usage.wall_s,
                "rounds": each,
            });
            if let (Tool::Path, Some(beside)) = (*tool, self.beside.get(number)) {
                row["dispatcher_cpu_s"] = json!(median(beside.iter().map(|b| b[0])));
                row["redis_cpu_s"] = json!(median(beside.iter().map(|b| b[1])));
            }
            rows.push(row);
        }
        let mut ratios = Map::new();
        for (name, who, whom, of, target) in TARGETS {
            if let Some(ratio) = self.ratio(cases, name, who, whom, of) {
                let of = if of == Of::Rate { "rate" } else { "cpu" };
                let key = format!("{name}_{of}_{}_to_{}", who.name(), whom.name());
                ratios.insert(key, json!({ "ratio": ratio, "target": target }));
            }
        }
        let idle = self.idle.map(|idle| {
            json!({
                "seconds": idle.seconds,
                "worker_mib": idle.worker_mib,
                "worker_cpu_s": idle.worker_cpu_s,
                "dispatcher_mib": idle.dispatcher_mib,
                "dispatcher_cpu_s": idle.dispatcher_cpu_s,
            })
        });
        let all = json!({ "rows": rows, "ratios": ratios, "idle": idle, "conditions": conditions });
        Ok(fs::write(path, serde_json::to_string_pretty(&all)? + "\n")?)
    }

    /// The median of what it was in each round: a shared machine is another one from minute to minute, and in a round two tools are a few
    /// seconds apart. The rate is the inverse of the time.
    fn ratio(&self, cases: &[Case], name: &str, who: Tool, whom: Tool, of: Of) -> Option<f64> {
        let case = cases.iter().position(|case| case.name == name)?;
        let (who, whom) = (self.rounds.get(&(case, who))?, self.rounds.get(&(case, whom))?);
        let of_round = |(who, whom): (&Usage, &Usage)| match of {
            Of::Rate => whom.wall_s / who.wall_s,
            Of::Cpu => who.cpu_s / whom.cpu_s,
        };
        Some(median(who.iter().zip(whom).map(of_round)))
    }
}

fn medians(rounds: &[Usage]) -> Usage {
    Usage {
        wall_s: median(rounds.iter().map(|u| u.wall_s)),
        cpu_s: median(rounds.iter().map(|u| u.cpu_s)),
        peak_mib: median(rounds.iter().map(|u| u.peak_mib)),
        stores_cpu_s: median(rounds.iter().map(|u| u.stores_cpu_s)),
    }
}

fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = figures.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
