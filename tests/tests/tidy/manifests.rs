//! What every package's manifest has in common.

use crate::tree::{Problem, TextFile, Tree, assert_kept};

fn shares_lints(file: &TextFile) -> Vec<Problem> {
    let inherits = file
        .text
        .split("[lints]")
        .nth(1)
        .is_some_and(|rest| rest.trim_start().starts_with("workspace = true"));
    if inherits { Vec::new() } else { vec![file.problem("does not inherit the workspace's lints")] }
}

fn hides_no_target(file: &TextFile) -> Vec<Problem> {
    let lines =
        file.text.lines().enumerate().filter(|(_, line)| line.trim_start().starts_with("required-features"));
    lines
        .map(|(number, _)| file.problem_at(number, "a test behind a feature is skipped without a word"))
        .collect()
}

fn names_no_version(file: &TextFile) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut in_dependencies = false;
    for (number, line) in file.text.lines().enumerate() {
        if line.starts_with('[') {
            in_dependencies = line.trim_end_matches(']').ends_with("dependencies");
        } else if in_dependencies && (line.contains("= \"") || line.contains("version")) {
            problems.push(file.problem_at(number, "names a version of its own"));
        }
    }
    problems
}

#[test]
fn packages_inherit_lints_and_versions_and_hide_no_tests() {
    let tree = Tree::read();
    let manifests: Vec<_> = tree.files.iter().filter(|f| f.path.ends_with("/Cargo.toml")).collect();
    assert_kept("one set of rules for all code", &manifests, shares_lints);
    assert_kept("a test that is not run protects nothing", &manifests, hides_no_target);
    assert_kept("the root manifest is the one list of versions", &manifests, names_no_version);
}

#[test]
fn a_manifest_that_goes_its_own_way_is_caught() {
    let sample = |text: &str| TextFile::sample("a/Cargo.toml", text);
    assert_eq!(shares_lints(&sample("[package]\nname = \"a\"")).len(), 1);
    assert_eq!(shares_lints(&sample("[lints]\nworkspace = true\n")).len(), 0);
    assert_eq!(hides_no_target(&sample("[[test]]\nname = \"a\"\nrequired-features = [\"b\"]")).len(), 1);
    assert_eq!(
        names_no_version(&sample(
            "[dev-dependencies]\na = \"1\"\nb = { version = \"2\" }\nc.workspace = true"
        ))
        .len(),
        2
    );
    assert_eq!(
        names_no_version(&sample(
            "[package]\nversion = \"1\"\n[dependencies]\na = { workspace = true, features = [\"x\"] }"
        ))
        .len(),
        0
    );
}
