//! Settings in manifests against what the programs say of themselves with `--help`: a setting that no program has is a mistake, and so
//! is a value that the program would not take.

use std::{collections::BTreeMap, sync::OnceLock};

use backhaul_tests::programs::program;
use serde_json::json;

use crate::{
    model::{Container, Labels},
    render::{self, Manifests, deploy, documents, run},
};

/// The programs that manifests run.
pub(crate) const PROGRAMS: [&str; 2] = ["backhaul-dispatcher", "backhaul-worker"];

/// What a program may be given in its environment besides its settings, because its libraries read it.
const OF_LIBRARIES: [&str; 1] = ["TOKIO_WORKER_THREADS"];

/// One setting of a program.
#[derive(Debug, Clone, Default)]
struct Setting {
    flag: String,
    default: Option<String>,
    takes_value: bool,
}

/// Settings by environment variable.
type Settings = BTreeMap<String, Setting>;

/// What a container's program works with: defaults, then ConfigMaps, then variables, then flags.
pub(crate) fn effective(manifests: &Manifests, container: &Container) -> Labels {
    let known = settings(container.program());
    let defaults = known.iter().filter_map(|(name, setting)| Some((name.clone(), setting.default.clone()?)));
    let mut told: Labels = defaults.collect();
    told.extend(environment(manifests, container));
    for (flag, value) in flags(container) {
        if let Some((name, _)) = known.iter().find(|(_, setting)| setting.flag == flag) {
            told.insert(name.clone(), value.unwrap_or_default());
        }
    }
    told
}

/// Variables of a container whose values are among the manifests.
fn environment(manifests: &Manifests, container: &Container) -> Labels {
    let maps = container.env_from.iter().filter_map(|from| from.config_map_ref.as_ref());
    let mut found: Labels =
        maps.filter_map(|map| manifests.entries("ConfigMap", &map.name)).flatten().collect();
    for variable in &container.env {
        let source = variable.value_from.as_ref().and_then(|from| from.secret_key_ref.as_ref());
        let secret = source.and_then(|key| manifests.entries("Secret", &key.name)?.remove(&key.key));
        found.extend(variable.value.clone().or(secret).map(|value| (variable.name.clone(), value)));
    }
    found
}

fn flags(container: &Container) -> impl Iterator<Item = (String, Option<String>)> {
    container.args.iter().map(|arg| match arg.split_once('=') {
        Some((flag, value)) => (flag.to_owned(), Some(value.to_owned())),
        None => (arg.clone(), None),
    })
}

/// All settings of one of our programs.
fn settings(name: &str) -> &'static Settings {
    static ALL: OnceLock<BTreeMap<&'static str, Settings>> = OnceLock::new();
    let all = ALL.get_or_init(|| PROGRAMS.map(|name| (name, ask(name))).into());
    all.get(name).unwrap_or_else(|| panic!("{name} is not one of our programs"))
}

fn ask(name: &str) -> Settings {
    let mut command = program(name).expect("the programs are built");
    // What a test's environment says is printed beside the variable.
    command.env_remove("BACKHAUL_INSECURE");
    let found = parse(&run(command.arg("--help")).expect("help is given"));
    assert!(found.len() > 5, "the help of {name} was not understood");
    found
}

fn parse(help: &str) -> Settings {
    let mut found = Settings::new();
    let mut setting = Setting::default();
    for line in help.lines().map(str::trim) {
        let bracketed = |start: &str| Some(line.strip_prefix(start)?.strip_suffix(']')?.to_owned());
        if let Some(at) = line.find("--").filter(|at| *at == 0 || line.starts_with("-")) {
            let flag = line[at..].split([' ', '=', '[']).next().unwrap_or_default().to_owned();
            setting = Setting { flag, default: None, takes_value: line.contains('<') };
        } else if let Some(name) = bracketed("[env: ") {
            found.insert(name.trim_end_matches('=').to_owned(), setting.clone());
        } else if let Some(default) = bracketed("[default: ") {
            found
                .values_mut()
                .filter(|s| s.flag == setting.flag)
                .for_each(|s| s.default = Some(default.clone()));
            setting.default = Some(default);
        }
    }
    found
}

/// What is wrong with the settings of every container that runs a program of this repository.
fn problems(manifests: &Manifests) -> Vec<String> {
    let workloads = manifests.workloads();
    let containers =
        workloads.iter().flat_map(|w| w.pod.all_containers()).filter(|c| PROGRAMS.contains(&c.program()));
    containers.flat_map(|container| of_container(manifests, container)).collect()
}

fn of_container(manifests: &Manifests, container: &Container) -> Vec<String> {
    let name = container.program();
    let known = settings(name);
    let mut problems = Vec::new();
    let mut command = program(name).expect("the programs are built");
    let maps = container.env_from.iter().filter_map(|from| from.config_map_ref.as_ref());
    let from_maps =
        maps.filter_map(|map| manifests.entries("ConfigMap", &map.name)).flatten().map(|(name, _)| name);
    let mut values = environment(manifests, container);
    for variable in container.env.iter().map(|v| v.name.clone()).chain(from_maps) {
        match known.get(&variable) {
            Some(setting) => {
                // As a flag, because a program reads its environment only when it does not stop at `--help`.
                let value = values.remove(&variable);
                command.args(value.map(|value| {
                    if setting.takes_value {
                        format!("{}={value}", setting.flag)
                    } else {
                        setting.flag.clone()
                    }
                }));
            }
            None if OF_LIBRARIES.contains(&&*variable) => {}
            None => problems.push(format!("{name} has no setting {variable}")),
        }
    }
    let said = run(command.args(&container.args).arg("--help"));
    problems.extend(said.err().map(|said| format!("{name} does not take its settings: {said}")));
    problems
}

#[test]
fn every_setting_is_one_that_the_program_has_and_takes() {
    let mut all = render::all();
    let single = deploy().join("single-machine/backhaul.yaml");
    all.push(Manifests {
        name: "single machine".to_owned(),
        yaml: String::new(),
        objects: documents(&single),
    });
    for manifests in all {
        assert_eq!(problems(&manifests), Vec::<String>::new(), "{}", manifests.name);
    }
}

#[test]
fn a_setting_that_no_program_has_is_caught() {
    let dev = render::overlay("dev");
    assert_eq!(problems(&dev), Vec::<String>::new());
    let with = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut broken = dev.clone();
        let is_worker = |o: &&mut serde_json::Value| {
            o["kind"] == "Deployment" && o["metadata"]["name"] == "backhaul-worker"
        };
        let worker = broken.objects.iter_mut().find(is_worker).expect("there is a worker");
        change(&mut worker["spec"]["template"]["spec"]["containers"][0]);
        problems(&broken)
    };
    for (variable, value) in
        [("BACKHAUL_MEMROY", "1GiB"), ("BACKHAUL_MEMORY", "much"), ("BACKHAUL_LEASE", "30s")]
    {
        let found = with(&|container| container["env"] = json!([{"name": variable, "value": value}]));
        assert_eq!(found.len(), 1, "{variable}={value}: {found:?}");
    }
    for flag in ["--memroy=1GiB", "--memory=much", "surplus"] {
        let found = with(&|container| container["args"] = json!([flag]));
        assert_eq!(found.len(), 1, "{flag}: {found:?}");
    }
}

#[test]
fn help_is_read_as_it_is_written() {
    let help = "Does it.\n\nOptions:\n      --listen <ADDR>\n          Where. Port 0 takes one.\n          \n          [env: A_LISTEN=]\n          [default: 127.0.0.1:1]\n\n      --fast\n          [env: A_FAST=]\n\n  -h, --help\n          Print help";
    let found = parse(help);
    let seen: Vec<_> = found
        .iter()
        .map(|(n, s)| (n.as_str(), s.flag.as_str(), s.default.as_deref(), s.takes_value))
        .collect();
    assert_eq!(
        seen,
        [("A_FAST", "--fast", None, false), ("A_LISTEN", "--listen", Some("127.0.0.1:1"), true)]
    );
}
