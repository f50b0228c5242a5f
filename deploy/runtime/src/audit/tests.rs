//! What is written is verified, and whatever is done to it afterwards is found; crashes and full disks leave no gap.

use std::{
    collections::VecDeque,
    fs,
    path::{Path, PathBuf},
};

use proptest::prelude::*;

use super::*;

const NO_LIMIT: FileOptions = FileOptions { rotate_at: u64::MAX, keep: 0 };
const NOW: u64 = 1_800_000_000_123;

fn bodies(count: usize) -> VecDeque<String> {
    let body = |n| {
        let mut fields = Fields::new();
        fields
            .instant("at", NOW)
            .text("event", "call")
            .text("key", &format!("k{n}\n\u{2028}"))
            .number("n", n);
        fields.as_str().to_owned()
    };
    (0..count as u64).map(body).collect()
}

fn key(dir: &Path, fill: char) -> Key {
    let path = dir.join("key");
    fs::write(&path, fill.to_string().repeat(32)).unwrap();
    Key::read(&path).unwrap()
}

fn open(path: &Path, options: FileOptions, seal: &Seal) -> (LogFile, Found) {
    LogFile::open(path, options, seal.clone(), NOW).unwrap()
}

/// Writes so many lines and gives the file's bytes.
fn written(count: usize, seal: &Seal) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit");
    open(&path, NO_LIMIT, seal).0.append(&mut bodies(count)).unwrap();
    fs::read(&path).unwrap()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.file_name().unwrap().to_str().unwrap().starts_with("audit"));
    files.sort();
    files
}

fn verified(dir: &Path) -> Report {
    Verification { files: files(dir), ..Verification::default() }.run().unwrap()
}

fn verify_bytes(bytes: &[u8], keys: &[Key]) -> Result<Report, VerifyError> {
    Verification { keys: keys.to_vec(), ..Verification::default() }.run_on(bytes)
}

fn kind(bytes: &[u8]) -> Option<Kind> {
    verify_bytes(bytes, &[]).unwrap().flaw.map(|flaw| flaw.kind)
}

#[test]
fn lines_are_numbered_chained_printable_json() {
    let bytes = written(3, &Seal::Plain);
    assert!(bytes.iter().all(|byte| (b' '..=b'~').contains(byte) || *byte == b'\n'));
    let lines: Vec<&str> = std::str::from_utf8(&bytes).unwrap().lines().collect();
    assert_eq!(lines.len(), 3);
    assert!(
        lines[0].starts_with(&format!("{{\"seq\":1,\"prev\":\"{}\",\"at\":\"2027-01-15T", "0".repeat(64)))
    );
    for (n, line) in lines.iter().enumerate() {
        assert!(line.contains(&format!("\"seq\":{}", n + 1)), "{line}");
        assert!(line.contains(&format!("\"key\":\"k{n}\\u000a\\u2028\"")), "{line}");
    }
    let hash = |line: &str| line.rsplit('"').nth(1).unwrap().to_owned();
    assert!(lines[1].contains(&format!("\"prev\":\"{}\"", hash(lines[0]))));
    let report = verify_bytes(&bytes, &[]).unwrap();
    assert_eq!((report.lines, report.first, report.is_cut_off, report.flaw), (3, Some(1), false, None));
    assert_eq!(report.last.unwrap().digest.to_string(), hash(lines[2]));
}

#[test]
fn a_hostile_text_is_one_json_string_that_says_the_same() {
    let hostile = "a\"b\\c\r\n\t\0\u{7f}\u{9b}31m\u{1b}[2J\u{2028}\u{202e}\u{1f600}\",\"decision\":\"allowed";
    let mut fields = Fields::new();
    fields.text("key", hostile).texts("all", ["x", hostile]).flag("f", true);
    let text = fields.as_str();
    assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{text}");
    let escaped = text.split("\"all\":").next().unwrap();
    assert_eq!(escaped.matches("\\u").count(), 15 + 2, "each by itself, the emoji as two: {text}");
    let long = "\u{fc}".repeat(5000);
    let mut cut = Fields::new();
    cut.text("long", &long);
    assert_eq!(cut.as_str().matches("\\u00fc").count(), 2048);
    assert!(cut.as_str().ends_with("...\""));
}

#[test]
fn a_restart_goes_on_where_the_last_line_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit");
    for run in 0..3 {
        let (mut log, found) = open(&path, NO_LIMIT, &Seal::Plain);
        assert_eq!((found.head.seq, found.torn), (run * 5, None));
        log.append(&mut bodies(5)).unwrap();
        log.sync().unwrap();
        assert_eq!(log.head().seq, run * 5 + 5);
    }
    let report = verified(dir.path());
    assert_eq!((report.lines, report.flaw), (15, None));
}

#[test]
fn only_one_process_writes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit");
    let first = open(&path, NO_LIMIT, &Seal::Plain);
    let second = LogFile::open(&path, NO_LIMIT, Seal::Plain, NOW);
    assert!(matches!(second, Err(OpenError::Locked(_))), "{second:?}");
    drop(first);
    open(&path, NO_LIMIT, &Seal::Plain);
}

#[test]
fn a_line_that_a_crash_cut_off_stays_and_is_told_of() {
    let whole = written(4, &Seal::Plain);
    for cut in 1..whole.len() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit");
        fs::write(&path, &whole[..cut]).unwrap();
        let (mut log, found) = open(&path, NO_LIMIT, &Seal::Plain);
        let lines = whole[..cut].iter().filter(|byte| **byte == b'\n').count() as u64;
        let is_whole_but_for_its_end = whole[cut] == b'\n';
        let is_torn = whole[cut - 1] != b'\n' && !is_whole_but_for_its_end;
        assert_eq!(found.torn.is_some(), is_torn, "{cut}");
        log.append(&mut bodies(2)).unwrap();
        let report = verified(dir.path());
        let good = lines + u64::from(is_whole_but_for_its_end) + u64::from(is_torn) + 2;
        assert_eq!((report.lines, report.flaw, report.is_cut_off), (good, None, false), "{cut}");
        assert_eq!(report.recovered.len(), usize::from(is_torn));
        assert!(fs::read(&path).unwrap().starts_with(&whole[..cut]), "what was there is there");
    }
}

#[test]
fn more_than_a_cut_off_line_is_never_passed_over_by_a_restart() {
    let mut bytes = written(6, &Seal::Plain);
    let text = String::from_utf8(bytes.clone()).unwrap();
    bytes[text.find("\"key\":\"k2").unwrap() + 8] = b'9';
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit");
    fs::write(&path, &bytes).unwrap();
    let (mut log, found) = open(&path, NO_LIMIT, &Seal::Plain);
    assert!(found.torn.unwrap().is_damaged);
    log.append(&mut bodies(2)).unwrap();
    assert!(matches!(verified(dir.path()).flaw.unwrap().kind, Kind::Changed { seq: 3 }));
}

#[test]
fn what_is_no_log_is_not_written_to() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit");
    for text in ["root:x:0:0\nother\n", "some words", "\n"] {
        fs::write(&path, text).unwrap();
        let opened = LogFile::open(&path, NO_LIMIT, Seal::Plain, NOW);
        assert!(matches!(opened, Err(OpenError::NoLog(_))), "{opened:?}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
    for device in ["/dev/null", "/dev/full"] {
        let opened = LogFile::open(Path::new(device), NO_LIMIT, Seal::Plain, NOW);
        assert!(matches!(opened, Err(OpenError::NoFile(_))), "{opened:?}");
    }
    let gone = LogFile::open(&dir.path().join("none/audit"), NO_LIMIT, Seal::Plain, NOW);
    assert!(matches!(gone, Err(OpenError::Io { .. })));
}

#[test]
fn the_chain_goes_on_across_files_and_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit");
    let options = FileOptions { rotate_at: 1000, keep: 0 };
    for _ in 0..4 {
        open(&path, options, &Seal::Plain).0.append(&mut bodies(7)).unwrap();
    }
    let files = files(dir.path());
    assert!(files.len() > 5, "{files:?}");
    for file in &files {
        assert!(fs::metadata(file).unwrap().len() <= 1000);
    }
    assert_eq!((verified(dir.path()).lines, verified(dir.path()).flaw), (28, None));
    // With the current file gone, or empty, the newest of the others is gone on from.
    fs::remove_file(&path).unwrap();
    let left = verified(dir.path()).last.unwrap();
    let (mut log, found) = open(&path, options, &Seal::Plain);
    assert_eq!(found.head, left);
    log.append(&mut bodies(1)).unwrap();
    assert_eq!(verified(dir.path()).flaw, None);
    // Any file that is missing is missed.
    let middle = &self::files(dir.path())[2];
    fs::remove_file(middle).unwrap();
    assert!(matches!(verified(dir.path()).flaw.unwrap().kind, Kind::Missing { .. }));
}

#[test]
fn old_files_go_when_they_are_told_to_and_the_rest_is_verified_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit");
    let options = FileOptions { rotate_at: 1000, keep: 2 };
    open(&path, options, &Seal::Plain).0.append(&mut bodies(30)).unwrap();
    let left = files(dir.path());
    assert_eq!(left.len(), 3);
    assert!(matches!(verified(dir.path()).flaw.unwrap().kind, Kind::Missing { expected: 1, .. }));
    let partial = || Verification { files: left.clone(), is_partial: true, ..Verification::default() };
    let report = partial().run().unwrap();
    assert_eq!((report.flaw, report.last.unwrap().seq), (None, 30));
    let old = Head { seq: 1, ..Head::START };
    let report = Verification { anchors: vec![old], ..partial() }.run().unwrap();
    assert_eq!((report.flaw, report.anchors_before), (None, 1));
    // A restart does not need them either.
    open(&path, options, &Seal::Plain).0.append(&mut bodies(1)).unwrap();
    assert_eq!(partial().run().unwrap().flaw, None);
}

#[test]
fn a_log_with_a_key_is_verified_with_it_and_not_made_anew_without() {
    let dir = tempfile::tempdir().unwrap();
    let (own, other) = (key(dir.path(), 'k'), key(dir.path(), 'o'));
    let bytes = written(3, &Seal::Keyed(own.clone()));
    assert!(String::from_utf8_lossy(&bytes).contains(",\"mac\":\""));
    assert_eq!(verify_bytes(&bytes, &[other.clone(), own.clone()]).unwrap().flaw, None);
    assert!(matches!(verify_bytes(&bytes, &[]), Err(VerifyError::NeedsKey(_))));
    let with_other = verify_bytes(&bytes, &[other]).unwrap().flaw.unwrap();
    assert_eq!(with_other.kind, Kind::Changed { seq: 1 });
    let anew = verify_bytes(&written(3, &Seal::Plain), &[own]).unwrap().flaw.unwrap();
    assert_eq!(anew.kind, Kind::NoKey { seq: 1 });
}

#[test]
fn a_file_has_one_kind_of_seal() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit");
    let keyed = Seal::Keyed(key(dir.path(), 'k'));
    open(&path, NO_LIMIT, &Seal::Plain).0.append(&mut bodies(3)).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes.truncate(bytes.len() - 5);
    fs::write(&path, &bytes).unwrap();
    open(&path, NO_LIMIT, &keyed).0.append(&mut bodies(2)).unwrap();
    let files = files(dir.path());
    assert_eq!(files.len(), 2, "{files:?}");
    let Seal::Keyed(key) = keyed else { unreachable!() };
    let plain = Verification { files: vec![files[1].clone()], ..Verification::default() };
    assert!(matches!(plain.run().unwrap().flaw.unwrap().kind, Kind::NotALine { expected: 3 }));
    let rest = Verification {
        files: vec![files[0].clone()],
        keys: vec![key],
        is_partial: true,
        ..Verification::default()
    };
    let report = rest.run().unwrap();
    assert_eq!((report.first, report.lines, report.flaw), (Some(3), 3, None));
    assert_eq!(report.recovered, [3]);
}

#[test]
fn an_anchor_tells_of_lines_that_were_cut_off() {
    let bytes = written(5, &Seal::Plain);
    let anchor = verify_bytes(&bytes, &[]).unwrap().last.unwrap();
    assert_eq!(anchor.to_string().parse(), Ok(anchor));
    for bad in ["", "5", "5:", ":00", &format!("x:{}", "0".repeat(64)), &format!("1:{}", "A".repeat(64))] {
        assert!(bad.parse::<Head>().is_err(), "{bad}");
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit");
    let against = |bytes: &[u8], anchor: Head| {
        fs::write(&path, bytes).unwrap();
        let verification =
            Verification { files: vec![path.clone()], anchors: vec![anchor], ..Verification::default() };
        verification.run().unwrap().flaw.map(|flaw| flaw.kind)
    };
    assert_eq!(against(&bytes, anchor), None);
    let shorter = bytes[..bytes.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    assert_eq!(kind(&bytes[..shorter]), None, "the chain alone cannot know");
    assert_eq!(against(&bytes[..shorter], anchor), Some(Kind::EndsBefore { anchor: 5 }));
    let other = Head { digest: Head::START.digest, ..anchor };
    assert_eq!(against(&bytes, other), Some(Kind::NotTheAnchor { seq: 5 }));
}

#[test]
fn what_could_not_be_written_is_written_later_without_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit");
    let options = FileOptions { rotate_at: 1500, keep: 0 };
    let (mut log, _) = open(&path, options, &Seal::Plain);
    log.append(&mut bodies(2)).unwrap();
    // Where the next file should be set aside, something stands that cannot be replaced.
    let mut more = bodies(40);
    let blocker = dir.path().join(format!("audit.{:020}", 1));
    fs::create_dir(&blocker).unwrap();
    for _ in 0..3 {
        log.append(&mut more).unwrap_err();
    }
    fs::remove_dir(&blocker).unwrap();
    log.append(&mut more).unwrap();
    assert!(more.is_empty());
    assert_eq!((verified(dir.path()).lines, verified(dir.path()).flaw), (42, None));
}

/// Starts of the lines, and the end.
fn starts(bytes: &[u8]) -> Vec<usize> {
    let ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
    std::iter::once(0).chain(ends).collect()
}

#[test]
fn every_change_of_a_single_byte_is_found_and_its_line_named() {
    let bytes = written(4, &Seal::Plain);
    let starts = starts(&bytes);
    for at in 0..bytes.len() {
        for change in [0x01, 0x20, 0x80, 0xff] {
            let mut changed = bytes.clone();
            changed[at] ^= change;
            let line = starts.partition_point(|start| *start <= at);
            let report = verify_bytes(&changed, &[]).unwrap();
            if at + 1 == bytes.len() {
                assert!(report.is_cut_off, "the last line has no end any more");
                continue;
            }
            let flaw = report.flaw.unwrap_or_else(|| panic!("byte {at} of line {line} xor {change:#x}"));
            let place = (line as u64, starts[line - 1] as u64);
            assert_eq!((flaw.line, flaw.offset), place, "{flaw}");
        }
    }
}

#[test]
fn what_is_done_to_lines_is_named() {
    let bytes = written(5, &Seal::Plain);
    let starts = starts(&bytes);
    let line = |n: usize| &bytes[starts[n - 1]..starts[n]];
    let of = |lines: &[usize]| lines.iter().flat_map(|n| line(*n)).copied().collect::<Vec<u8>>();
    assert_eq!(kind(&of(&[1, 2, 3, 4, 5])), None);
    assert_eq!(kind(&of(&[1, 2, 4, 5])), Some(Kind::Missing { expected: 3, found: 4 }));
    assert_eq!(kind(&of(&[2, 3, 4, 5])), Some(Kind::Missing { expected: 1, found: 2 }));
    assert_eq!(kind(&of(&[1, 3, 2, 4, 5])), Some(Kind::Reordered { expected: 2, found: 3 }));
    assert_eq!(kind(&of(&[1, 2, 3, 4, 3, 5])), Some(Kind::Inserted { expected: 5, found: 3 }));
    // A line of another chain, well sealed, with the right number.
    let mut other = bodies(5);
    other[2] = "\"event\":\"other\"".to_owned();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit");
    open(&path, NO_LIMIT, &Seal::Plain).0.append(&mut other).unwrap();
    let others = fs::read(&path).unwrap();
    let third = others.split_inclusive(|byte| *byte == b'\n').nth(2).unwrap();
    let replaced = [&of(&[1, 2]), third, &of(&[4, 5])].concat();
    assert_eq!(kind(&replaced), Some(Kind::Replaced { seq: 4 }));
    // The end of a file in the middle of the log.
    let (first, second) = (dir.path().join("a"), dir.path().join("b"));
    fs::write(&first, &of(&[1, 2, 3])[..starts[3] - 1]).unwrap();
    fs::write(&second, of(&[4, 5])).unwrap();
    let report = Verification { files: vec![first, second], ..Verification::default() }.run().unwrap();
    assert_eq!(report.flaw.unwrap().kind, Kind::CutOff { expected: 4 });
    // A recovery of nothing.
    let recovered = "\"event\":\"recovered\",\"torn_bytes\":3,\"torn_sha256\":\"00\"".to_owned();
    let path = dir.path().join("c");
    open(&path, NO_LIMIT, &Seal::Plain).0.append(&mut VecDeque::from([recovered])).unwrap();
    assert_eq!(kind(&fs::read(&path).unwrap()), Some(Kind::NothingCutOff { seq: 1 }));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_tampering_passes(
        count in 1..12_usize,
        edit in 0..5_u8,
        from in any::<prop::sample::Index>(),
        to in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let bytes = written(count, &Seal::Plain);
        let mut edited = bytes.clone();
        let (a, b) = (from.index(bytes.len()), to.index(bytes.len()));
        let (a, b) = (a.min(b), a.max(b));
        match edit {
            0 => edited[a] = byte,
            1 => drop(edited.drain(a..=b)),
            2 => edited.insert(a, byte),
            3 => edited.swap(a, b),
            _ => edited.truncate(a),
        }
        let report = verify_bytes(&edited, &[]).unwrap();
        // What is cut off at the end of a line is all that nobody can see; the report says how far it reaches.
        let is_shorter = bytes.starts_with(&edited) && edited.last().is_none_or(|last| *last == b'\n');
        if is_shorter {
            prop_assert!(report.flaw.is_none() && !report.is_cut_off);
            let ends = edited.iter().filter(|byte| **byte == b'\n').count();
            prop_assert_eq!(report.lines, ends as u64);
        } else {
            prop_assert!(report.flaw.is_some() || report.is_cut_off);
        }
    }

    #[test]
    fn a_verifier_takes_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let report = verify_bytes(&bytes, &[]).unwrap();
        prop_assert!(bytes.is_empty() || report.flaw.is_some() || report.is_cut_off);
    }
}
