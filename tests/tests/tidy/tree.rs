//! The files of the repository, and how problems found in them are told. Must know no rule.

use std::{
    fmt,
    fs::{self, DirEntry},
    path::{Path, PathBuf},
};

/// Everything in the repository that is text, apart from build output.
pub(crate) struct Tree {
    /// Sorted by path.
    pub(crate) files: Vec<TextFile>,
}

/// One file.
#[derive(Clone)]
pub(crate) struct TextFile {
    /// From the top of the repository, with slashes.
    pub(crate) path: String,
    /// All of it.
    pub(crate) text: String,
}

/// One breach of a rule.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// File and, where it is known, line.
    at: String,
    what: String,
}

impl Tree {
    /// Reads the repository that this package belongs to.
    pub(crate) fn read() -> Self {
        let mut files = Vec::new();
        collect(&top(), "", &mut files);
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Self { files }
    }

    /// Files whose name ends in a dot and `extension`.
    pub(crate) fn with_extension(&self, extension: &str) -> Vec<&TextFile> {
        self.files.iter().filter(|f| f.extension() == extension).collect()
    }

    /// Files below `folder`, which ends with a slash, or the file of that path.
    pub(crate) fn below(&self, folder: &str) -> Vec<&TextFile> {
        self.files.iter().filter(|f| f.path.starts_with(folder)).collect()
    }

    /// The file of that path.
    pub(crate) fn get(&self, path: &str) -> Option<&TextFile> {
        self.files.iter().find(|f| f.path == path)
    }
}

impl TextFile {
    /// A sample for the test of a rule.
    pub(crate) fn sample(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    /// Part of the name after the last dot; empty when there is none.
    pub(crate) fn extension(&self) -> &str {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        name.rsplit_once('.').map_or("", |(_, extension)| extension)
    }

    /// A breach by the whole file.
    pub(crate) fn problem(&self, what: impl Into<String>) -> Problem {
        Problem { at: self.path.clone(), what: what.into() }
    }

    /// A breach in a line, counted from 0.
    pub(crate) fn problem_at(&self, line: usize, what: impl Into<String>) -> Problem {
        Problem { at: format!("{}:{}", self.path, line + 1), what: what.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.what)
    }
}

/// The repository's folder.
pub(crate) fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the package is a folder of the repository")
        .to_owned()
}

/// Fails with all problems, or with `nothing seen` when the rule had no file to look at.
#[track_caller]
pub(crate) fn assert_kept(why: &str, files: &[&TextFile], rule: impl Fn(&TextFile) -> Vec<Problem>) {
    assert!(!files.is_empty(), "the rule saw no file, so it proves nothing: {why}");
    assert_none(why, files.iter().flat_map(|file| rule(file)).collect());
}

/// Fails with all problems and the reason for the rule.
#[track_caller]
pub(crate) fn assert_none(why: &str, problems: Vec<Problem>) {
    let list: Vec<String> = problems.iter().map(|problem| format!("  {problem}")).collect();
    assert!(list.is_empty(), "{} breach(es) of a house rule\n{}\nWhy: {why}", list.len(), list.join("\n"));
}

fn collect(folder: &Path, prefix: &str, files: &mut Vec<TextFile>) {
    let entries = fs::read_dir(folder).expect("a folder of the repository can be listed");
    for entry in entries {
        let entry = entry.expect("a folder of the repository can be listed");
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        if is_output(&path, &entry) {
            continue;
        }
        let kind = entry.file_type().expect("the kind of a file is known on Unix");
        if kind.is_dir() {
            collect(&entry.path(), &format!("{path}/"), files);
        } else if kind.is_file()
            && let Ok(text) = fs::read_to_string(entry.path())
        {
            files.push(TextFile { path, text });
        }
    }
}

/// What git or cargo put there.
fn is_output(path: &str, entry: &DirEntry) -> bool {
    path == ".git" || path == "target" || entry.path().join("CACHEDIR.TAG").exists()
}

mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "saw no file")]
    fn a_rule_without_files_fails() {
        assert_kept("any", &[], |_| Vec::new());
    }

    #[test]
    #[should_panic(expected = "a.rs:3: bad")]
    fn a_problem_is_told_with_its_place() {
        let file = TextFile::sample("a.rs", "");
        assert_kept("any", &[&file], |f| vec![f.problem_at(2, "bad")]);
    }

    #[test]
    fn the_repository_is_found() {
        let tree = Tree::read();
        assert!(tree.get("Cargo.toml").is_some() && tree.get("tests/tests/tidy/tree.rs").is_some());
        assert!(tree.below("target/").is_empty(), "build output is not the repository");
    }
}
