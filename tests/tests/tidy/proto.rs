//! Everything in the contract has a comment: messages, fields, arms, enums and their values, services and calls.

use crate::tree::{Problem, TextFile, Tree, assert_kept};

/// What a line declares, if it declares something that callers see.
fn declares(line: &str) -> Option<&str> {
    let code = line.split("//").next().unwrap_or_default().trim();
    let mut words = code.split_whitespace();
    match words.next()? {
        "message" | "enum" | "service" | "rpc" | "oneof" => words.next(),
        "syntax" | "package" | "import" | "option" | "reserved" | "extensions" => None,
        _ => {
            let (left, right) = code.split_once('=')?;
            let number: String = right.trim_start().chars().take_while(char::is_ascii_alphanumeric).collect();
            let is_number = number.parse::<u32>().is_ok() || number.starts_with("0x");
            is_number.then(|| left.split_whitespace().last()).flatten()
        }
    }
}

fn uncommented(file: &TextFile) -> Vec<Problem> {
    let mut above = "";
    let mut problems = Vec::new();
    for (number, line) in file.text.lines().enumerate() {
        if let Some(name) = declares(line)
            && !above.trim_start().starts_with("//")
            && !line.contains("//")
        {
            problems.push(file.problem_at(number, format!("`{name}` has no comment")));
        }
        above = line;
    }
    problems
}

#[test]
fn everything_in_the_contract_is_explained() {
    let tree = Tree::read();
    let why = "strangers build against the contract with nothing else at hand";
    assert_kept(why, &tree.with_extension("proto"), uncommented);
}

#[test]
fn a_bare_declaration_is_caught() {
    let good = "// S.\nservice S {\n  // C.\n  rpc C(A) returns (A);\n}\n// A.\nmessage A {\n  // One of.\n  oneof o {\n    // F.\n    \
                map<string, string> f = 1;\n  }\n  repeated int32 g = 2; // G.\n}\n// E.\nenum E {\n  // Zero.\n  E_ZERO = 0;\n}\n";
    let problems = |text: &str| uncommented(&TextFile::sample("a.proto", text)).len();
    assert_eq!(problems(good), 0);
    for comment in [
        "// S.\n",
        "  // C.\n",
        "// A.\n",
        "  // One of.\n",
        "    // F.\n",
        " // G.",
        "// E.\n",
        "  // Zero.\n",
    ] {
        assert_eq!(problems(&good.replacen(comment, "", 1)), 1, "without {comment:?}");
    }
    assert_eq!(
        problems("syntax = \"proto3\";\npackage a;\nimport \"b.proto\";\noption java_package = \"x\";\n"),
        0
    );
}
