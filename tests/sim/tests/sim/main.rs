//! Whole-system simulation: real dispatchers and workers in one process, on a network and a clock that obey a seed.
//!
//! Each seed is a history of its own, with kills, restarts, partitions, delays, lost answers and failing stores, and is checked while
//! it happens and at its end. It runs in a process of its own, in which all chance comes from the seed (see `entropy.c`): whoever
//! runs the seed again sees the same history. A failing seed says how.

mod callers;
mod check;
mod copies;
mod history;
mod ledger;
mod net;
mod plan;
mod queue;
mod sabotage;
mod store;
mod stranger;
mod weather;
mod world;

use std::{
    collections::BTreeSet,
    ops::Range,
    process::{Command, Stdio},
    thread,
};

use self::{plan::Plan, sabotage::Sabotage, world::Run};

/// The seed of a child; what `entropy.c` reads too.
const SEED: &str = "BACKHAUL_SIM_SEED";
/// The defect of a child.
const SABOTAGE: &str = "BACKHAUL_SIM_SABOTAGE";
/// Set to see the whole history, and the programs' logs from this level on.
const LOG: &str = "BACKHAUL_SIM_LOG";

/// What a child told.
struct Told {
    seed: u64,
    success: bool,
    output: String,
}

impl Told {
    /// The hash of the history.
    fn history(&self) -> &str {
        self.output.lines().find_map(|line| line.trim().strip_prefix("history ")).unwrap_or("none")
    }

    fn show(&self) -> String {
        let lines: Vec<_> = self.output.lines().filter(|line| !line.trim().is_empty()).collect();
        let end = lines[lines.len().saturating_sub(60)..].join("\n");
        format!(
            "seed {}\n{end}\nto see all of it: {SEED}={} {LOG}=info cargo nextest run -p backhaul-sim --no-capture one_seed",
            self.seed, self.seed
        )
    }
}

/// Runs a seed in a process of its own.
fn child(seed: u64, sabotage: Option<Sabotage>) -> Told {
    let mut command = Command::new(std::env::current_exe().expect("a test knows its program"));
    command.args(["--exact", "one_seed", "--nocapture", "--test-threads=1"]).env(SEED, seed.to_string());
    if let Some(sabotage) = sabotage {
        command.env(SABOTAGE, sabotage.name());
    }
    let output = command.stdin(Stdio::null()).output().expect("a test can run itself");
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    Told { seed, success: output.status.success(), output: text }
}

/// What must have happened in every twenty-five seeds, as the history words it: a run in which nothing goes wrong shows nothing.
const REACHED: [&str; 9] = [
    ": Duplicate",
    ": Fenced",
    ": RunsAgain",
    "(LeaseExpired)",
    "(HandedBack)",
    "(BackingOff)",
    "(CancelledByCaller)",
    "told to hand back",
    "has drained",
];

fn all_hold(seeds: Range<u64>) {
    let (mut failed, mut reached) = (Vec::new(), BTreeSet::new());
    for told in seeds.map(|seed| child(seed, None)) {
        let found = told.output.lines().filter_map(|line| line.trim().strip_prefix("reached "));
        reached.extend(found.map(ToOwned::to_owned));
        if !told.success {
            failed.push(told);
        }
    }
    let shown: Vec<_> = failed.iter().take(3).map(Told::show).collect();
    assert!(failed.is_empty(), "{} seed(s) failed\n{}", failed.len(), shown.join("\n\n"));
    let missed: Vec<_> = REACHED.iter().filter(|what| !reached.contains(what.trim())).collect();
    assert!(missed.is_empty(), "these seeds are too kind: none reached {missed:?}");
}

/// Runs the seed of the environment, or the first.
#[test]
fn one_seed() {
    let Some(seed) = setting(SEED) else {
        let told = child(0, None);
        assert!(told.success, "{}", told.show());
        return;
    };
    let seed = seed.parse().unwrap();
    let sabotage = setting(SABOTAGE).map(|name| Sabotage::named(&name).unwrap());
    if let Some(level) = setting(LOG) {
        tracing_subscriber::fmt().with_env_filter(level).with_ansi(false).without_time().init();
    }
    // A thread of its own, because what hash maps are keyed with is drawn once for each thread.
    let run =
        thread::Builder::new().name("simulation".into()).spawn(move || world::run(Plan::of(seed), sabotage));
    let Run { history, took, copies } = run.unwrap().join().unwrap();
    if setting(LOG).is_some() {
        println!("{}", history.lines().join("\n"));
    }
    let plan = Plan::of(seed);
    println!(
        "\nseed {seed}: {:?}, {} dispatchers, {} workers, {} objects, {copies} copies in {took:?}",
        plan.mood, plan.dispatchers, plan.workers, plan.objects
    );
    println!("history {}", history.hash());
    for what in REACHED.iter().filter(|what| history.lines().iter().any(|line| line.contains(**what))) {
        println!("reached {}", what.trim());
    }
    let violations = history.violations();
    assert!(violations.is_empty(), "{} violation(s)\n{}", violations.len(), violations.join("\n"));
}

#[test]
fn seeds_0_to_24_hold() {
    all_hold(0..25);
}

#[test]
fn seeds_25_to_49_hold() {
    all_hold(25..50);
}

#[test]
fn seeds_50_to_74_hold() {
    all_hold(50..75);
}

#[test]
fn seeds_75_to_99_hold() {
    all_hold(75..100);
}

#[test]
fn seeds_100_to_124_hold() {
    all_hold(100..125);
}

#[test]
fn seeds_125_to_149_hold() {
    all_hold(125..150);
}

#[test]
fn seeds_150_to_174_hold() {
    all_hold(150..175);
}

#[test]
fn seeds_175_to_199_hold() {
    all_hold(175..200);
}

#[test]
fn the_same_seed_gives_the_same_history_and_another_seed_another() {
    for seed in [1, 2, 3, 4] {
        let (one, other) = (child(seed, None), child(seed, None));
        assert!(one.success && other.success, "seed {seed}");
        assert_eq!(one.history(), other.history(), "seed {seed}");
        assert_ne!(one.history(), child(seed + 1000, None).history());
    }
}

/// Some seed fails with the defect.
fn is_caught(sabotage: Sabotage) {
    let caught = (0..40).any(|seed| !child(seed, Some(sabotage)).success);
    assert!(caught, "{sabotage:?} goes unnoticed");
}

#[test]
fn a_queue_without_a_fence_is_caught() {
    is_caught(Sabotage::NoFence);
}

#[test]
fn a_report_that_is_confirmed_and_not_stored_is_caught() {
    is_caught(Sabotage::ConfirmUnstored);
}

#[test]
fn a_task_that_is_accepted_and_forgotten_is_caught() {
    is_caught(Sabotage::ForgetSubmits);
}

#[test]
fn a_lease_that_is_ended_before_its_time_is_caught() {
    is_caught(Sabotage::ShortLeases);
}

#[test]
fn a_lease_that_is_not_given_up_at_a_drain_is_caught() {
    is_caught(Sabotage::KeepHandedBack);
}

#[test]
fn a_store_that_overwrites_is_caught() {
    is_caught(Sabotage::Overwrite);
}

#[test]
fn a_bit_that_is_not_what_it_was_is_caught() {
    is_caught(Sabotage::Rot);
}

#[expect(clippy::disallowed_methods, reason = "a test has no flags")]
fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
