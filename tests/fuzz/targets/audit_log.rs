//! The audit log's verifier: whatever is done to a log, it says so.

use backhaul_runtime::audit::{Verification, sealed};

/// More of them make a log longer and show nothing new.
const MOST_EDITS: usize = 16;

/// A log of some lines, and edits of it: the first byte says how many lines, then four bytes an edit (what, where, what with).
pub(crate) fn edited(bytes: &[u8]) {
    let Some((count, edits)) = bytes.split_first() else { return };
    let bodies = (0..usize::from(count % 8)).map(|n| format!("\"event\":\"call\",\"n\":{n}"));
    let log = sealed(bodies);
    let mut changed = log.clone();
    for edit in edits.chunks_exact(4).take(MOST_EDITS) {
        let &[what, high, low, byte] = edit else { continue };
        if changed.is_empty() {
            break;
        }
        let at = usize::from(u16::from_be_bytes([high, low])) % changed.len();
        match what % 6 {
            0 => changed[at] = byte,
            1 => changed.truncate(at),
            2 => changed.insert(at, byte),
            3 => {
                changed.remove(at);
            }
            4 => swap_lines(&mut changed, at, usize::from(byte)),
            _ => repeat_line(&mut changed, at),
        }
    }
    judge(&log, &changed);
    // The bytes themselves are no log, unless they are one.
    let report = verify(bytes);
    assert!(report.0 <= bytes.iter().filter(|byte| **byte == b'\n').count() as u64 + 1);
}

/// Whether the verifier sees what there is to be seen.
fn judge(log: &[u8], changed: &[u8]) {
    let (lines, is_right) = verify(changed);
    let is_start = log.starts_with(changed) && changed.last().is_none_or(|last| *last == b'\n');
    assert_eq!(is_right, is_start, "{}", String::from_utf8_lossy(changed));
    if is_right {
        assert_eq!(lines, changed.iter().filter(|byte| **byte == b'\n').count() as u64);
    }
}

/// Lines that are right, and whether all is.
fn verify(bytes: &[u8]) -> (u64, bool) {
    match Verification::default().run_on(bytes) {
        Ok(report) => (report.lines, report.flaw.is_none() && !report.is_cut_off),
        // It asks for a key.
        Err(_) => (0, false),
    }
}

fn swap_lines(log: &mut Vec<u8>, at: usize, other: usize) {
    let mut lines: Vec<&[u8]> = log.split_inclusive(|byte| *byte == b'\n').collect();
    let count = lines.len();
    lines.swap(at % count, other % count);
    *log = lines.concat();
}

fn repeat_line(log: &mut Vec<u8>, at: usize) {
    let mut lines: Vec<&[u8]> = log.split_inclusive(|byte| *byte == b'\n').collect();
    let line = lines[at % lines.len()];
    lines.insert(at % lines.len(), line);
    *log = lines.concat();
}
