//! Where things are, how long files may be and how they open.

use std::{collections::BTreeSet, fs};

use crate::tree::{Problem, TextFile, Tree, assert_kept, top};

const MOST_LINES: usize = 500;

/// Everything that a visitor sees first.
const TOP_LEVEL: [&str; 9] =
    ["Cargo.lock", "Cargo.toml", "Makefile", "README.md", "deploy", "dispatcher", "proto", "tests", "worker"];

fn opens_with_purpose(file: &TextFile) -> Vec<Problem> {
    let purpose =
        file.text.lines().next().and_then(|line| line.strip_prefix("//!")).unwrap_or_default().trim();
    if purpose.is_empty() {
        vec![file.problem("does not open with `//!` and its purpose")]
    } else {
        Vec::new()
    }
}

fn is_short(file: &TextFile) -> Vec<Problem> {
    let lines = file.text.lines().count();
    if lines > MOST_LINES {
        vec![file.problem(format!("{lines} lines, at most {MOST_LINES}: split it by meaning"))]
    } else {
        Vec::new()
    }
}

fn script_opens_with_purpose(file: &TextFile) -> Vec<Problem> {
    let mut lines = file.text.lines().skip_while(|line| line.starts_with("#!"));
    let comment = lines.next().and_then(|line| line.strip_prefix('#')).unwrap_or_default().trim();
    if comment.is_empty() {
        vec![file.problem("does not open with a comment on what it does")]
    } else {
        Vec::new()
    }
}

#[test]
fn every_source_file_says_what_it_is_for() {
    let tree = Tree::read();
    let why = "a reader decides in ten seconds whether to stay: the first line says what the file is";
    assert_kept(why, &tree.with_extension("rs"), opens_with_purpose);
    assert_kept(why, &tree.with_extension("sh"), script_opens_with_purpose);

    assert_eq!(
        opens_with_purpose(&TextFile::sample("a.rs", "use std::{collections::BTreeSet, fs};\n//! Late."))
            .len(),
        1
    );
    assert_eq!(opens_with_purpose(&TextFile::sample("a.rs", "//!\n//! Empty first line.")).len(), 1);
    assert_eq!(opens_with_purpose(&TextFile::sample("a.rs", "")).len(), 1);
    assert_eq!(script_opens_with_purpose(&TextFile::sample("a.sh", "#!/bin/sh\nset -eu\n# Late.")).len(), 1);
}

#[test]
fn no_file_is_too_long_to_read() {
    let tree = Tree::read();
    let files: Vec<_> =
        ["rs", "lua", "sh", "proto", "toml"].iter().flat_map(|e| tree.with_extension(e)).collect();
    assert_kept("nobody splits a file that is already too long, so none becomes it", &files, is_short);

    assert_eq!(is_short(&TextFile::sample("a.rs", &"\n".repeat(MOST_LINES + 1))).len(), 1);
    assert_eq!(is_short(&TextFile::sample("a.rs", &"\n".repeat(MOST_LINES))).len(), 0);
}

#[test]
fn the_top_level_holds_the_four_parts_and_nothing_else() {
    let names = fs::read_dir(top())
        .expect("the repository can be listed")
        .map(|entry| entry.expect("the repository can be listed").file_name().to_string_lossy().into_owned());
    let visible: BTreeSet<String> = names.filter(|name| !name.starts_with('.') && name != "target").collect();
    assert_eq!(
        visible,
        TOP_LEVEL.map(str::to_owned).into(),
        "the first screen is the map: whatever else is needed lives inside proto/, dispatcher/, worker/, deploy/ or tests/"
    );
}
