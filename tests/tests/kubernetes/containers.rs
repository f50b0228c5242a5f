//! The container files: linted, and the one for prebuilt programs making the same images as the one that builds from source.

use std::fs;

use crate::render::{deploy, run, tool};

fn read(name: &str) -> String {
    fs::read_to_string(deploy().join("images").join(name)).expect("a file of the repository")
}

/// Stages that end up in an image, without where their root comes from.
fn images(containerfile: &str) -> Vec<String> {
    let stages = containerfile.split("\nFROM ").filter(|stage| stage.starts_with("scratch"));
    let lines = |stage: &str| {
        stage.lines().filter(|l| !l.is_empty() && !l.starts_with("COPY")).collect::<Vec<_>>().join("\n")
    };
    stages.map(lines).collect()
}

#[test]
fn container_files_pass_the_linter() {
    for name in ["Containerfile", "Containerfile.prebuilt"] {
        let mut hadolint = tool("venv/bin/hadolint");
        let said = run(hadolint
            .args(["--no-color", "--failure-threshold", "style"])
            .arg(deploy().join("images").join(name)));
        assert_eq!(said, Ok(String::new()), "{name}");
    }
    let bad = tempfile::NamedTempFile::new().expect("a temporary file");
    fs::write(bad.path(), "FROM debian\nRUN cd /tmp\n").expect("a temporary file can be written");
    let said = run(tool("venv/bin/hadolint").arg(bad.path()));
    assert!(
        said.is_err_and(|said| said.contains("DL3006") && said.contains("DL3003")),
        "the linter sees nothing"
    );
}

#[test]
fn images_hold_one_program_run_by_nobody_and_are_the_same_both_ways() {
    let (source, prebuilt) = (images(&read("Containerfile")), images(&read("Containerfile.prebuilt")));
    assert_eq!(source.len(), 2, "one image for each program, from scratch");
    assert_eq!(source, prebuilt, "an image must not depend on where its program was built");
    for image in &source {
        assert!(image.contains("\nUSER 65532:65532\n"), "the image's user is the pod's user: {image}");
        assert!(image.contains("\nENTRYPOINT [\"/usr/bin/backhaul-"), "{image}");
        assert!(!image.contains("\nRUN "), "there is nothing in it that could be run: {image}");
    }
}
