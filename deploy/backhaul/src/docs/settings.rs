//! Every flag of the services, with its environment variable and default, as `deploy/docs/settings.md` shows it.

use std::fmt::Write as _;

use clap::{Arg, Command, CommandFactory as _};

use super::{cell, check};

fn table(command: &Command) -> String {
    let mut table = "| Flag | Environment | Default | Meaning |\n|---|---|---|---|\n".to_owned();
    for argument in command.get_arguments().filter(|a| !matches!(a.get_id().as_str(), "help" | "version")) {
        writeln!(table, "{}", row(argument)).unwrap();
    }
    table
}

fn row(argument: &Arg) -> String {
    let long = argument.get_long().expect("every setting is a long flag");
    let variable = argument.get_env().map_or(String::new(), |name| format!("`{}`", name.to_string_lossy()));
    let defaults = argument.get_default_values();
    let default = match (defaults.first(), argument.is_required_set()) {
        (Some(default), _) => format!("`{}`", default.to_string_lossy()),
        (None, true) => "required".to_owned(),
        (None, false) => String::new(),
    };
    let help = argument.get_long_help().or_else(|| argument.get_help()).expect("every setting is explained");
    format!("| `--{long}` | {variable} | {default} | {} |", cell(&help.to_string()))
}

#[test]
fn the_dispatchers_settings_are_documented() {
    check("settings.md", "dispatcher", &table(&backhaul_dispatcher::config::Flags::command()));
}

#[test]
fn the_workers_settings_are_documented() {
    check("settings.md", "worker", &table(&backhaul_worker::config::Args::command()));
}

#[test]
fn every_setting_of_a_service_can_come_from_the_environment() {
    for command in [backhaul_dispatcher::config::Flags::command(), backhaul_worker::config::Args::command()] {
        for argument in command.get_arguments() {
            let id = argument.get_id().as_str();
            let variable = argument.get_env().map(|name| name.to_string_lossy().into_owned());
            assert!(variable.is_some_and(|name| name.starts_with("BACKHAUL_")), "{id}");
        }
    }
}
