//! Runs the queue's tests once for each deliberately broken script, and fails when a fault goes unnoticed: `make mutants-queue`.
//!
//! ```text
//! cargo run --locked --package backhaul-dispatcher --example queue_mutants -- cargo nextest run ...
//! ```
//!
//! The arguments are the command that runs the tests. It is run without a fault first, and must succeed then: otherwise a failure
//! would prove nothing. Words in `MUTANTS_ONLY` choose the faults whose names hold them.
#![expect(clippy::print_stdout, reason = "the table is its output")]

#[path = "../src/queue/redis/scripts/mutants.rs"]
mod mutants;

use std::{
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use mutants::Mutant;
use tokio::time::Instant;

fn main() -> anyhow::Result<ExitCode> {
    let command: Vec<String> = std::env::args().skip(1).collect();
    ensure!(!command.is_empty(), "the arguments are the command that runs the tests");
    #[expect(clippy::disallowed_methods, reason = "a setting of a tool for developers")]
    let only = std::env::var("MUTANTS_ONLY").unwrap_or_default();
    let chosen: Vec<&Mutant> = mutants::all().filter(|mutant| mutant.name.contains(&only)).collect();
    ensure!(!chosen.is_empty(), "no mutant's name holds `{only}`");
    for mutant in &chosen {
        check(mutant)?;
    }

    println!("without a fault");
    let (failed, took) = run(&command, None)?;
    ensure!(failed.is_none(), "the tests fail without a fault, so a failure proves nothing: {failed:?}");
    println!("  pass, {} s", took.as_secs());

    let mut survivors = Vec::new();
    for (n, mutant) in chosen.iter().enumerate() {
        let (failed, took) = run(&command, Some(mutant))?;
        let Mutant { name, file, .. } = mutant;
        let verdict = if failed.is_some() { "caught" } else { "SURVIVED" };
        println!("{:3}/{}  {verdict:8} {:4} s  {file:18} {name}", n + 1, chosen.len(), took.as_secs());
        match failed {
            Some(test) => println!("{:18} by {test}", ""),
            None => survivors.push(name),
        }
    }
    if survivors.is_empty() {
        println!("all {} faults are noticed", chosen.len());
        return Ok(ExitCode::SUCCESS);
    }
    println!("{} of {} faults go unnoticed:", survivors.len(), chosen.len());
    for name in survivors {
        println!("  {name}");
    }
    Ok(ExitCode::FAILURE)
}

/// A fault that is not in the script would pass for caught, because the tests refuse to start.
fn check(mutant: &Mutant) -> anyhow::Result<()> {
    let lua = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/queue/redis/lua").join(mutant.file);
    let text = std::fs::read_to_string(&lua).with_context(|| format!("cannot read {}", lua.display()))?;
    ensure!(mutants::applied(mutant, mutant.file, &text).is_some(), "{mutant:?} does not fit its file");
    Ok(())
}

/// The first test that fails with this fault, if any does, and how long it took.
fn run(command: &[String], mutant: Option<&Mutant>) -> anyhow::Result<(Option<String>, Duration)> {
    /// What cargo and cargo-nextest exit with when tests ran and failed.
    const TESTS_FAILED: [i32; 2] = [100, 101];
    let mut run = Command::new(&command[0]);
    run.args(&command[1..]).stdin(Stdio::null()).env_remove(mutants::SWITCH);
    if let Some(mutant) = mutant {
        run.env(mutants::SWITCH, mutant.name);
    }
    let begin = Instant::now();
    let output = run.output().with_context(|| format!("cannot run {}", command[0]))?;
    match output.status.code() {
        Some(0) => Ok((None, begin.elapsed())),
        Some(code) if TESTS_FAILED.contains(&code) => {
            // cargo-nextest reports on one, cargo's own harness on the other.
            let said = [output.stderr, output.stdout].concat();
            Ok((Some(first_failure(&String::from_utf8_lossy(&said))), begin.elapsed()))
        }
        Some(_) | None => bail!(
            "the tests could not be run: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        ),
    }
}

fn first_failure(said: &str) -> String {
    let is_failure = |line: &&str| {
        ["FAIL [", "TIMEOUT [", "SIGABRT ["].iter().any(|start| line.trim_start().starts_with(start))
            || line.starts_with("test ") && line.ends_with("FAILED")
    };
    let line = said.lines().find(is_failure).unwrap_or_default();
    line.split_whitespace().find(|word| word.contains("::")).unwrap_or("an unknown test").to_owned()
}
