//! The policies in `deploy/policies` grant nothing that their purpose does not need, and say what each of their words means.
//!
//! Whether they suffice, and whether anything in them is idle, is tried by the worker's tests on servers that keep to them.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::tree::{Problem, TextFile, Tree, assert_kept};

const FOLDER: &str = "deploy/policies/";

/// What no role of Backhaul may do. Only the operator's probe removes, and only what it wrote itself.
const NEVER: [&str; 9] = [
    "*",
    "s3:Delete",
    "s3:PutBucket",
    "s3:PutLifecycle",
    "s3:PutObjectAcl",
    "s3:PutObjectLegalHold",
    "s3:Bypass",
    "sqs:Purge",
    "sns:Subscribe",
];

fn is_least(file: &TextFile) -> Vec<Problem> {
    let Ok(document) = serde_json::from_str::<Value>(&file.text) else {
        return vec![file.problem("is not JSON")];
    };
    let mut problems = Vec::new();
    if document["Version"] != "2012-10-17" {
        problems.push(file.problem("Version must be 2012-10-17, or conditions mean something else"));
    }
    let statements = document["Statement"].as_array().cloned().unwrap_or_default();
    let sids: BTreeSet<&str> = statements.iter().filter_map(|s| s["Sid"].as_str()).collect();
    if statements.is_empty() || sids.len() != statements.len() {
        problems.push(file.problem("each statement needs a Sid of its own, which says what it is for"));
    }
    let what = statements.iter().flat_map(|statement| wrong(statement, file.path.ends_with("/probe.json")));
    problems.extend(what.map(|what| file.problem(what)));
    problems
}

fn wrong(statement: &Value, is_probe: bool) -> Vec<String> {
    let sid = statement["Sid"].as_str().unwrap_or_default();
    let (actions, resources) = (texts(&statement["Action"]), texts(&statement["Resource"]));
    let conditions = &statement["Condition"];
    let mut wrong = Vec::new();
    match statement["Effect"].as_str() {
        Some("Deny") => return wrong,
        Some("Allow") => {}
        _ => wrong.push(format!("{sid}: neither Allow nor Deny")),
    }
    for action in &actions {
        let removes_own = is_probe
            && action.starts_with("s3:DeleteObject")
            && resources.iter().all(|r| r.ends_with("/.backhaul/probe/*"));
        if action.contains('*') || NEVER.iter().any(|never| action.starts_with(never)) && !removes_own {
            wrong.push(format!("{sid}: {action} is more than anybody here needs"));
        }
    }
    let is_named = |r: &String| {
        let name = r.rsplit(':').next().unwrap_or_default();
        name.starts_with(|c: char| c.is_ascii_uppercase())
    };
    if actions.is_empty() || resources.is_empty() || !resources.iter().all(is_named) {
        wrong.push(format!("{sid}: must name its actions and its resources"));
    }
    let service = statement["Principal"]["Service"].as_str();
    let has = |operator: &str, key: &str| !conditions[operator][key].is_null();
    let is_bound = match service {
        None => statement["Principal"].is_null() && has("StringEquals", "aws:ResourceAccount"),
        // The ARN of a bucket does not say whose it is.
        Some("s3.amazonaws.com") => {
            has("ArnEquals", "aws:SourceArn") && has("StringEquals", "aws:SourceAccount")
        }
        Some(_) => has("ArnEquals", "aws:SourceArn"),
    };
    if !is_bound {
        wrong.push(format!("{sid}: lacks the condition that says whose resource, or which sender, is meant"));
    }
    wrong
}

fn texts(value: &Value) -> Vec<String> {
    let all = value.as_array().map_or_else(|| std::slice::from_ref(value), Vec::as_slice);
    all.iter().filter_map(|v| v.as_str().map(ToOwned::to_owned)).collect()
}

/// Words in capitals, which an operator replaces.
fn words(text: &str) -> BTreeSet<String> {
    let is_word = |c: char| c.is_ascii_uppercase() || c == '_';
    let words = text.split(|c| !is_word(c)).filter(|word| word.len() > 3);
    words.map(ToOwned::to_owned).collect()
}

#[test]
fn policies_grant_nothing_that_nobody_needs() {
    let tree = Tree::read();
    let files: Vec<_> = tree.below(FOLDER).into_iter().filter(|f| f.path.ends_with(".json")).collect();
    assert!(files.len() >= 7, "the policies are in {FOLDER}");
    assert_kept("whoever steals a worker's credentials gets what is in its policies", &files, is_least);

    let bad = |from: &str, to: &str| {
        let good = &tree.get("deploy/policies/backup-write.json").expect("it is there").text;
        assert!(good.contains(from), "{from}");
        is_least(&TextFile::sample("deploy/policies/bad.json", &good.replacen(from, to, 1))).len()
    };
    assert_eq!(bad("s3:PutObject\"", "s3:DeleteObject\""), 1);
    assert_eq!(bad("s3:PutObject\"", "s3:*\""), 1);
    assert_eq!(bad("s3:PutObject\"", "s3:BypassGovernanceRetention\""), 1);
    assert_eq!(bad("arn:aws:s3:::BACKUP_BUCKET/", "arn:aws:s3:::*/"), 1);
    assert_eq!(bad("aws:ResourceAccount", "aws:PrincipalAccount"), 1);
    assert_eq!(bad("2012-10-17", "2008-10-17"), 1);
    assert_eq!(bad("FindCopiesAndUploads", "LockCopies"), 1);
    assert_eq!(bad("{", ""), 1);
    let queue = &tree.get("deploy/policies/events-queue.json").expect("it is there").text;
    let open = queue.replacen("aws:SourceAccount", "aws:PrincipalAccount", 1);
    assert_eq!(is_least(&TextFile::sample("deploy/policies/bad.json", &open)).len(), 1);
}

#[test]
fn policies_and_their_words_are_explained() {
    let tree = Tree::read();
    let guide = &tree.get("deploy/policies/README.md").expect("it is there").text;
    for file in tree.below(FOLDER) {
        let name = file.path.trim_start_matches(FOLDER);
        assert!(guide.contains(name) || name == "README.md", "{name} is not explained");
        if name != "README.md" {
            for word in words(&file.text) {
                assert!(guide.contains(&word), "{word} of {name} is not explained");
            }
        }
    }
}
