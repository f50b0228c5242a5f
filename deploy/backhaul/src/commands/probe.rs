//! `backhaul probe`: what a store can do, before it is trusted with backups.

use std::{collections::BTreeSet, fmt::Write as _};

use anyhow::{Context as _, bail};
use backhaul_runtime::locations::Locations;
use backhaul_worker::{
    probe::{Answer, ProbeReport, probe},
    store::{ClientSettings, Clients},
};

use super::Verdict;
use crate::{cli::ProbeArgs, output::Output};

/// Tries out each bucket and shows what came of it.
pub(crate) async fn run(args: ProbeArgs) -> anyhow::Result<Verdict> {
    let locations = Locations::load(&args.locations)?;
    let known = || locations.iter().map(|l| l.name.as_str()).collect::<Vec<_>>().join(", ");
    let location = locations
        .get(&args.location)
        .with_context(|| format!("no location `{}`; there are: {}", args.location, known()))?;
    let places: BTreeSet<(&str, &str)> = match &args.bucket {
        Some(bucket) => [(bucket.as_str(), args.prefix.trim_matches('/'))].into(),
        None => {
            let targets = locations.iter().filter_map(|l| l.backup.as_ref());
            let here = targets.filter(|t| t.location == args.location);
            here.map(|t| (t.bucket.as_str(), t.prefix.as_str())).collect()
        }
    };
    if places.is_empty() {
        bail!("no backups go to `{}`: name the bucket to try with --bucket", args.location);
    }
    let store = Clients::new(ClientSettings::default())?.store(location)?;
    let output = Output::new(args.json);
    let mut verdict = Verdict::Good;
    for (bucket, prefix) in places {
        let report = probe(&store, bucket, prefix).await?;
        output.item(|| &report, || text(&report))?;
        if !report.is_usable() {
            verdict = Verdict::Bad;
        }
    }
    Ok(verdict)
}

fn text(report: &ProbeReport) -> String {
    let mut text = format!("location {}, bucket {}\n", report.location, report.bucket);
    for finding in &report.findings {
        let answer = match finding.answer {
            Answer::Yes => "yes",
            Answer::No => "no",
            Answer::Fatal => "NO",
            Answer::Unknown => "?",
        };
        let line = format!("  {answer:<4}{:<22}{}", finding.name, finding.meaning);
        write!(text, "{line}").ok();
        if !finding.remark.is_empty() {
            write!(text, "\n      {:<22}-> {}", "", finding.remark).ok();
        }
        text.push('\n');
    }
    for key in &report.left_behind {
        writeln!(text, "  could not be removed: {key}").ok();
    }
    text.push_str(if report.is_usable() {
        "Backups can be kept there."
    } else {
        "Backups cannot be kept there."
    });
    text
}

#[cfg(test)]
mod tests {
    use backhaul_worker::probe::Finding;

    use super::*;

    #[test]
    fn a_report_says_what_is_not_so_and_what_it_means() {
        let finding = |name, answer, remark: &str| Finding {
            name,
            meaning: "it is so",
            answer,
            remark: remark.to_owned(),
        };
        let mut report = ProbeReport {
            location: "vault".into(),
            bucket: "backups".into(),
            findings: vec![finding("a", Answer::Yes, ""), finding("b", Answer::No, "it costs")],
            left_behind: vec!["p/.backhaul/probe/1".into()],
        };
        let shown = text(&report);
        for part in ["vault", "yes a", "no  b", "-> it costs", "p/.backhaul/probe/1", "can be kept"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        report.findings.push(finding("c", Answer::Fatal, ""));
        assert!(text(&report).contains("cannot be kept"));
    }
}
