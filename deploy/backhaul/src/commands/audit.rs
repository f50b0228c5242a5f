//! `backhaul audit verify`: whether an audit log is as it was written.

use std::fmt::Write as _;

use anyhow::Context as _;
use backhaul_runtime::audit::{Flaw, Key, Report, Verification};
use serde_json::json;

use super::Verdict;
use crate::{
    cli::audit::{AuditCommand, AuditVerifyArgs},
    output::Output,
};

/// Verifies the files.
pub(crate) async fn run(command: AuditCommand) -> anyhow::Result<Verdict> {
    let AuditCommand::Verify(AuditVerifyArgs { files, key_files, partial, anchors, json }) = command;
    let mut keys = Vec::with_capacity(key_files.len());
    for path in key_files {
        keys.push(Key::read(&path).with_context(|| path.display().to_string())?);
    }
    let verification = Verification { files, keys, is_partial: partial, anchors };
    let report = tokio::task::spawn_blocking(|| verification.run()).await??;
    Output::new(json).item(|| view(&report), || text(&report))?;
    Ok(verdict(&report))
}

const fn verdict(report: &Report) -> Verdict {
    match report {
        Report { flaw: Some(_), .. } => Verdict::Bad,
        Report { is_cut_off: true, .. } => Verdict::CutOff,
        Report { .. } => Verdict::Good,
    }
}

fn view(report: &Report) -> serde_json::Value {
    let flaw = |flaw: &Flaw| {
        json!({
            "file": flaw.file.display().to_string(), "line": flaw.line, "offset": flaw.offset,
            "what": flaw.kind.to_string(),
        })
    };
    json!({
        "lines": report.lines,
        "first": report.first,
        "last": report.last.map(|last| last.to_string()),
        "recovered": report.recovered,
        "anchors_before": report.anchors_before,
        "cut_off": report.is_cut_off,
        "flaw": report.flaw.as_ref().map(flaw),
    })
}

fn text(report: &Report) -> String {
    let mut text = match (report.first, report.last) {
        (Some(first), Some(last)) => {
            format!("{} lines from {first} on are as they were written; the last is {last}", report.lines)
        }
        _ => "no line is as it was written".to_owned(),
    };
    for line in &report.recovered {
        write!(text, "\nline {line} tells that a crash had cut off the line before it").ok();
    }
    if report.anchors_before > 0 {
        let count = report.anchors_before;
        write!(text, "\n{count} anchors are before the first line: nothing is known of them").ok();
    }
    match (&report.flaw, report.is_cut_off) {
        (Some(flaw), _) => write!(text, "\nWRONG: {flaw}").ok(),
        (None, true) => {
            write!(text, "\nThe last line is cut off: it is being written, or a crash has cut it off.").ok()
        }
        (None, false) => {
            let seen = "\nWhat may have been cut off behind it shows only against an --anchor.";
            write!(text, "{seen}").ok()
        }
    };
    text
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use backhaul_runtime::audit::{Fields, FileOptions, LogFile, Seal};

    use super::*;

    #[tokio::test]
    async fn what_is_wrong_is_said_with_its_place_and_its_exit_code() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit");
        let options = FileOptions { rotate_at: u64::MAX, keep: 0 };
        let mut body = Fields::new();
        body.text("event", "call");
        let mut bodies: VecDeque<String> = (0..3).map(|_| body.as_str().to_owned()).collect();
        LogFile::open(&path, options, Seal::Plain, 0).unwrap().0.append(&mut bodies).unwrap();
        let verify = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            Verification { files: vec![path.clone()], ..Verification::default() }.run().unwrap()
        };
        let whole = std::fs::read(&path).unwrap();
        let good = verify(&whole);
        assert_eq!(verdict(&good), Verdict::Good);
        assert!(text(&good).starts_with("3 lines from 1 on"), "{}", text(&good));
        let cut = verify(&whole[..whole.len() - 9]);
        assert_eq!(verdict(&cut), Verdict::CutOff);
        assert!(text(&cut).contains("2 lines") && text(&cut).contains("cut off"), "{}", text(&cut));
        let second = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        let bad = verify(&whole[second..]);
        assert_eq!(verdict(&bad), Verdict::Bad);
        assert!(text(&bad).contains("audit:1 (byte 0): line 1 is missing"), "{}", text(&bad));
        assert_eq!(view(&bad)["flaw"]["line"], 1);
    }
}
