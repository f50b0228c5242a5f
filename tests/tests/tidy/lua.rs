//! Every script of the queue states its contract in its header, and the contract names exactly what the script uses.

use std::collections::BTreeSet;

use crate::tree::{Problem, TextFile, Tree, assert_kept};

/// Where the scripts are.
const SCRIPTS: &str = "dispatcher/src/queue/redis";

/// Comment lines that open the file.
fn header(text: &str) -> String {
    // The first line may be Redis' own: `#!lua flags=...`.
    let text = text.lines().skip_while(|line| line.starts_with("#!"));
    text.take_while(|line| line.starts_with("--")).collect::<Vec<_>>().join("\n")
}

/// `KEYS[1]`, `ARGV[12]`, and `ARGV[n]` for an index that is computed.
fn parameters(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for name in ["KEYS[", "ARGV["] {
        for (at, _) in text.match_indices(name) {
            let index: String = text[at + name.len()..].chars().take_while(|c| *c != ']').collect();
            let index = if index.trim().parse::<u32>().is_ok() { index.trim() } else { "n" };
            found.insert(format!("{name}{index}]"));
        }
    }
    found
}

fn contract_problems(file: &TextFile) -> Vec<Problem> {
    let header = header(&file.text);
    if header.is_empty() {
        return vec![file.problem("has no header comment")];
    }
    let body: Vec<&str> =
        file.text.lines().skip_while(|line| line.starts_with("#!") || line.starts_with("--")).collect();
    let code: Vec<&str> = body.iter().map(|line| line.split("--").next().unwrap_or_default()).collect();
    let used = parameters(&code.join("\n"));
    let documented = parameters(&header);
    let undocumented = used
        .difference(&documented)
        .map(|p| file.problem(format!("uses {p} and its header does not say what it is")));
    // Fragments that every script begins with read the first of each.
    let shared = ["KEYS[1]", "ARGV[1]"];
    let unused = documented
        .difference(&used)
        .filter(|p| !shared.contains(&p.as_str()) && !p.ends_with("[n]") && !covered_by_loop(p, &used));
    let unused = unused.map(|p| file.problem(format!("documents {p} and does not use it")));
    let mut problems: Vec<Problem> = undocumented.chain(unused).collect();
    let is_fragment = file.path.rsplit('/').next().is_some_and(|name| name.starts_with('_'));
    if !is_fragment && !header.contains("Returns") {
        problems.push(file.problem("its header does not say what it Returns"));
    }
    problems
}

/// A parameter that is named in the header may be read through a computed index.
fn covered_by_loop(parameter: &str, used: &BTreeSet<String>) -> bool {
    used.contains(&format!("{}n]", &parameter[..5]))
}

#[test]
fn every_script_documents_its_parameters_and_answers() {
    let tree = Tree::read();
    if tree.below(SCRIPTS).is_empty() {
        return;
    }
    let why = "a script is called by position: its header is the only type that its callers have";
    assert_kept(why, &tree.with_extension("lua"), contract_problems);
}

#[test]
fn a_script_with_a_gap_in_its_contract_is_caught() {
    let problems = |name: &str, text: &str| contract_problems(&TextFile::sample(name, text)).len();
    let good = "-- Does it.\n-- KEYS[1] pending\n-- ARGV[1] id\n-- Returns 1.\nreturn redis.call('ZADD', KEYS[1], 0, ARGV[1])";
    assert_eq!(problems("good.lua", good), 0);
    assert_eq!(problems("bare.lua", "return 1"), 1);
    assert_eq!(problems("silent.lua", "-- Does it.\nreturn 1"), 1);
    assert_eq!(problems("_part.lua", "-- A part of others.\nlocal x = 1"), 0);
    assert_eq!(problems("gap.lua", &good.replace("-- ARGV[1] id\n", "")), 1);
    assert_eq!(problems("stale.lua", &good.replace("-- Returns", "-- ARGV[2] unused\n-- Returns")), 1);
    assert_eq!(problems("loop.lua", &good.replace("ARGV[1])", "ARGV[i + 1])")), 1);
    assert_eq!(
        problems(
            "loop.lua",
            &good.replace("ARGV[1])", "ARGV[i])").replace("ARGV[1] id", "ARGV[1], ARGV[n] ids")
        ),
        0
    );
}
