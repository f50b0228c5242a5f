//! Text that must not be left behind, and links that must lead somewhere.

use crate::tree::{Problem, TextFile, Tree, assert_kept, top};

/// Words that say "not finished". Spelt in two halves, so that this file keeps its own rule.
const UNFINISHED: [&str; 6] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("todo", "!"),
    concat!("unimplemented", "!"),
    concat!("#[", "ignore"),
];

/// Starts of paths that exist on one machine only.
const MACHINE_PATHS: [&str; 4] =
    [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/tmp/", "bh"), concat!("/opt/", "bh")];

/// The one reason for which a test may be left out of `make test`: a server that takes too long to build. What runs it picks it by its name.
const LEFT_OUT: &str = "Garage takes ten minutes to build: make stores\"]";
const PICKED_BY: &str = "garage";

fn unfinished(file: &TextFile) -> Vec<Problem> {
    let next = file.text.lines().skip(1).chain([""]);
    let kept = file.text.lines().zip(next).map(|(line, next)| {
        let name = next.split_once("fn ").map_or("", |(_, name)| name);
        if line.ends_with(LEFT_OUT) && name.contains(PICKED_BY) { "" } else { line }
    });
    let rest = TextFile::sample(&file.path, &kept.collect::<Vec<_>>().join("\n"));
    find(&rest, &UNFINISHED, true, "finish it, or write it down where work is planned")
}

fn machine_paths(file: &TextFile) -> Vec<Problem> {
    find(file, &MACHINE_PATHS, false, "exists on one machine only")
}

fn find(file: &TextFile, needles: &[&str], whole_words: bool, what: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (number, line) in file.text.lines().enumerate() {
        for needle in needles {
            let hit = line.match_indices(needle).any(|(at, _)| {
                let word = |c: char| c.is_alphanumeric() || c == '_';
                let end = &line[at + needle.len()..];
                !whole_words
                    || !(line[..at].ends_with(word) || (needle.ends_with(word) && end.starts_with(word)))
            });
            if hit {
                problems.push(file.problem_at(number, format!("`{needle}`: {what}")));
            }
        }
    }
    problems
}

/// Relative link targets of a Markdown file, with the line each stands in.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (number, line) in text.lines().enumerate() {
        fenced ^= line.trim_start().starts_with("```");
        if fenced {
            continue;
        }
        for (at, _) in line.match_indices("](") {
            let target: String = line[at + 2..].chars().take_while(|c| !matches!(c, ')' | ' ')).collect();
            let target = target.split('#').next().unwrap_or_default().to_owned();
            let elsewhere =
                ["http://", "https://", "mailto:"].iter().any(|scheme| target.starts_with(scheme));
            if !target.is_empty() && !elsewhere {
                found.push((number, target));
            }
        }
    }
    found
}

fn broken_links(file: &TextFile) -> Vec<Problem> {
    let here = top().join(&file.path);
    let folder = here.parent().expect("a file is in a folder").to_owned();
    let broken = links(&file.text).into_iter().filter(|(_, target)| !folder.join(target).exists());
    broken
        .map(|(number, target)| file.problem_at(number, format!("links to `{target}`, which is not there")))
        .collect()
}

/// Commands in the fenced blocks of a Markdown file, in order.
fn commands(text: &str) -> Vec<&str> {
    let mut fenced = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if fenced && !line.trim().is_empty() && !line.trim_start().starts_with('#') {
            let command = line.trim().trim_start_matches("$ ");
            found.push(command.split('#').next().unwrap_or_default().trim());
        }
    }
    found
}

#[test]
fn nothing_is_left_unfinished() {
    let tree = Tree::read();
    let files: Vec<_> = tree.files.iter().filter(|f| f.path != "Cargo.lock").collect();
    assert_kept("what is shipped is done; what is not is not in it", &files, unfinished);

    let problems = |text: &str| unfinished(&TextFile::sample("a.rs", text)).len();
    for word in UNFINISHED {
        assert_eq!(problems(&format!("fn f() {{}}\n// {word}: later")), 1, "{word}");
    }
    let ignored =
        |reason: &str, name: &str| problems(&format!("{} = \"{reason}{name}() {{}}", UNFINISHED[5]));
    assert_eq!(ignored(LEFT_OUT, "\n    async fn it_works_on_garage"), 0);
    assert_eq!(ignored(LEFT_OUT, "\n    async fn it_works"), 1, "nothing would ever run it");
    assert_eq!(ignored("slow\"]", "\n    async fn it_works_on_garage"), 1);
    assert_eq!(problems(&format!("mktemp -d a.{0}{0}; {1}s", UNFINISHED[2], UNFINISHED[0])), 0);
}

#[test]
fn what_is_left_out_of_the_tests_is_run_by_something() {
    let tree = Tree::read();
    let makefile = tree.get("Makefile").expect("the repository has a Makefile");
    let runs =
        makefile.text.lines().any(|line| line.contains("--include-ignored") && line.contains(PICKED_BY));
    assert!(runs, "a test that nothing runs protects nothing: `make stores` has to run ignored tests");
}

#[test]
fn no_path_of_somebodys_machine_is_left() {
    let tree = Tree::read();
    let files: Vec<_> = tree.files.iter().collect();
    assert_kept("a path of one machine is a defect on every other", &files, machine_paths);

    for path in MACHINE_PATHS {
        assert_eq!(machine_paths(&TextFile::sample("a.sh", &format!("cd {path}x"))).len(), 1, "{path}");
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    let tree = Tree::read();
    assert_kept("a reader who meets one dead link trusts none", &tree.with_extension("md"), broken_links);

    let text = "[a](gone.md) [b](https://example.com/x) [c](#here) [d](../Cargo.toml#x)\n```\n[e](in-code.md)\n```\n![f](no.png \"t\")";
    let problems = broken_links(&TextFile::sample("tests/x.md", text));
    assert_eq!(problems.len(), 2, "{problems:?}");
}

#[test]
fn the_readme_begins_with_the_demo_and_the_tests() {
    let first = |text: &str| commands(text).into_iter().take(2).map(str::to_owned).collect::<Vec<_>>();
    let tree = Tree::read();
    let readme = tree.get("README.md").expect("the repository has a README.md");
    assert_eq!(
        first(&readme.text),
        ["make demo", "make test"],
        "a stranger sees it work and checks it before reading on: these are the first two commands in code blocks"
    );

    assert_eq!(
        first("# A\n```sh\n$ make demo   # see it\n\nmake test\nmake x\n```"),
        ["make demo", "make test"]
    );
    assert_ne!(first("```\ncargo build\n```\n```\nmake demo\nmake test\n```"), ["make demo", "make test"]);
}
