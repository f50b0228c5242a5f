//! Tests of the settings: defaults hold together, each mistake is blamed on its flag, secrets do not show.

use std::collections::BTreeSet;

use clap::CommandFactory as _;

use super::*;

fn parse(args: &[&str]) -> Result<Config, ConfigError> {
    let fixed = ["backhaul-dispatcher", "--locations", "/etc/backhaul/locations.toml", "--insecure"];
    Config::from_args(fixed.iter().chain(args))
}

/// The settings that are blamed for `args`.
fn blamed(args: &[&str]) -> Vec<&'static str> {
    match parse(args) {
        Err(ConfigError::Problems(problems)) => problems.into_iter().map(|p| p.setting).collect(),
        other => panic!("expected problems for {args:?}, got {other:?}"),
    }
}

#[test]
fn the_defaults_hold_together() {
    let config = parse(&[]).unwrap();
    assert_eq!(config.listen, "127.0.0.1:7400".parse().unwrap());
    assert_eq!(config.durability, Durability::Local);
    assert_eq!(config.caller.tenant(), "default");
    assert_eq!(config.queue.lease, Duration::from_secs(30));
    assert_eq!(config.queue.retain_dead, Duration::from_secs(90 * 24 * 3600));
    assert_eq!(config.queue.outage, Duration::from_secs(10));
    assert_eq!(config.calls.deadline, Duration::from_secs(10));
}

#[test]
fn each_setting_out_of_range_or_in_contradiction_is_blamed() {
    for (args, setting) in [
        (&["--tenant", "*"][..], "--tenant"),
        (&["--tenant", ""], "--tenant"),
        (&["--redis-url", "http://10.0.0.1"], "--redis-url"),
        (&["--shards", "0"], "--shards"),
        (&["--shards", "1025"], "--shards"),
        (&["--max-attempts", "0"], "--max-attempts"),
        (&["--max-attempts", "101"], "--max-attempts"),
        (&["--max-crashes", "0"], "--max-crashes"),
        (&["--max-crashes", "65535"], "--max-crashes"),
        (&["--max-returns", "65535"], "--max-returns"),
        (&["--lease", "14s"], "--accept-within"),
        (&["--lease", "2h"], "--lease"),
        (&["--accept-within", "21s"], "--accept-within"),
        (&["--accept-within", "0s"], "--accept-within"),
        (&["--hello-within", "0s"], "--hello-within"),
        (&["--sweep-every", "30s"], "--sweep-every"),
        (&["--sweep-every", "0s"], "--sweep-every"),
        (&["--retry-floor", "6s"], "--retry-floor"),
        (&["--retry-floor", "0s"], "--retry-floor"),
        (&["--retry-base", "2h"], "--retry-base"),
        (&["--processing-timeout", "999ms"], "--processing-timeout"),
        (&["--processing-timeout", "25h"], "--processing-timeout"),
        (&["--retain-dead", "1000000years"], "--retain-dead"),
        (&["--shard-cap", "10"], "--tenant-cap"),
        (&["--tenant-cap", "0"], "--tenant-cap"),
        (&["--tenant-in-flight-cap", "0"], "--tenant-in-flight-cap"),
        (&["--max-calls", "0"], "--max-calls"),
        (&["--calls-per-second", "0"], "--calls-per-second"),
        (&["--call-deadline", "0s"], "--call-deadline"),
        (&["--max-connections", "0"], "--max-connections"),
        (&["--max-connections-per-address", "0"], "--max-connections-per-address"),
        (&["--max-handshakes", "0"], "--max-handshakes"),
        (&["--handshake-within", "0s"], "--handshake-within"),
        (&["--idle-within", "2h"], "--idle-within"),
        (&["--max-streams", "0"], "--max-streams"),
        (&["--max-streams-per-address", "0"], "--max-streams-per-address"),
        (&["--max-stream-age", "999ms"], "--max-stream-age"),
        (&["--max-stream-age", "31d"], "--max-stream-age"),
        (&["--drain-within", "2h"], "--drain-within"),
        (&["--trust-domain", "prod"], "--insecure"),
    ] {
        assert_eq!(blamed(args), [setting], "{args:?}");
    }
}

#[test]
fn what_passes_the_checks_passes_those_of_the_parts() {
    for args in [
        &[][..],
        &["--lease", "300ms", "--accept-within", "200ms", "--sweep-every", "299ms"],
        &["--lease", "1h", "--accept-within", "40m", "--sweep-every", "1ms"],
        &["--retry-floor", "1ms", "--retry-base", "1ms", "--retry-max", "1ms"],
        &["--drain-within", "1ms", "--hello-within", "1ms", "--max-streams", "1"],
        &["--max-stream-age", "0s", "--max-streams-per-address", "1"],
    ] {
        let config = parse(args).unwrap();
        assert_eq!(config.queue.validate(), Ok(()), "{args:?}");
        assert_eq!(crate::app::stream_settings(&config).check(), Ok(()), "{args:?}");
    }
}

#[test]
fn all_problems_are_told_at_once_one_line_each() {
    let error = parse(&["--shards", "0", "--max-calls", "0", "--tenant", "A b"]).unwrap_err();
    let text = error.to_string();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines.contains(&"--shards: must be 1 to 1024"), "{text}");
}

#[test]
fn a_flag_that_cannot_be_read_is_one_line_that_names_it() {
    for (args, flag) in [
        (&["--lease", "30"][..], "--lease"),
        (&["--listen", "here"], "--listen"),
        (&["--durability", "replicas=0"], "--durability"),
        (&["--durability", "replicas=17"], "--durability"),
        (&["--durability", "much"], "--durability"),
        (&["--shards", "-1"], "-1"),
        (&["--no-such-flag"], "--no-such-flag"),
    ] {
        let text = parse(args).unwrap_err().to_string();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains(flag), "{text}");
    }
    let text = Config::from_args(["backhaul-dispatcher"]).unwrap_err().to_string();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("--locations"), "{text}");
}

#[test]
fn durability_modes_are_read() {
    assert_eq!(parse_durability("none"), Ok(Durability::None));
    assert_eq!(parse_durability("local"), Ok(Durability::Local));
    assert_eq!(parse_durability("replicas=2"), Ok(Durability::Replicas(2)));
}

#[test]
fn the_password_of_redis_shows_in_no_error_and_no_debug_output() {
    let config = parse(&["--redis-url", "redis://user:hunter2@10.0.0.1:6379/3"]).unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
    let error = parse(&["--redis-url", "http://user:hunter2@10.0.0.1"]).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hunter2"));
    assert_eq!(config.redis.url.expose(), "redis://user:hunter2@10.0.0.1:6379/3");
}

#[test]
fn help_is_no_mistake_and_names_unit_and_default_of_every_setting() {
    assert!(parse(&["--help"]).unwrap_err().is_help());
    assert!(!parse(&["--shards", "0"]).unwrap_err().is_help());
    for arg in Flags::command().get_arguments() {
        assert!(arg.get_help().is_some(), "{} has no help", arg.get_id());
    }
}

#[test]
fn every_setting_has_its_own_environment_variable() {
    let command = Flags::command();
    let mut seen = BTreeSet::new();
    for arg in command.get_arguments().filter(|a| !matches!(a.get_id().as_str(), "help" | "version")) {
        let flag = arg.get_long().unwrap();
        let variable = arg.get_env().unwrap_or_else(|| panic!("--{flag} has no environment variable"));
        let expected = format!("BACKHAUL_{}", flag.to_uppercase().replace('-', "_"));
        assert_eq!(variable.to_str(), Some(expected.as_str()));
        assert!(seen.insert(variable.to_owned()));
    }
}

#[test]
fn a_port_for_events_needs_sources() {
    let events = ["dispatcher", "--insecure", "--locations", "l", "--events-listen", "127.0.0.1:0"];
    let error = Config::from_args(events).unwrap_err();
    assert!(error.to_string().contains("--event-sources"), "{error}");
    let config = Config::from_args(events.into_iter().chain(["--event-sources", "s"])).unwrap();
    assert!(config.events_listen.is_some() && config.event_sources.is_some());
}

#[test]
fn the_port_for_events_has_certificate_and_key_or_neither() {
    assert!(parse(&["--events-tls-cert", "c"]).unwrap_err().to_string().contains("--events-tls-key"));
    assert!(parse(&["--events-tls-key", "k"]).unwrap_err().to_string().contains("--events-tls-cert"));
    let both = ["--events-tls-cert", "c", "--events-tls-key", "k"];
    assert_eq!(parse(&both).unwrap().events_certificate, Some(("c".into(), "k".into())));
    let error = parse(&[&both[..], &["--events-insecure"]].concat()).unwrap_err();
    assert!(error.to_string().starts_with("--events-insecure: contradicts"), "{error}");
    // Whoever says that all is insecure need not say it twice.
    assert!(parse(&[]).unwrap().events_insecure);
}

#[test]
fn redis_is_one_server_sentinels_or_a_cluster_and_never_two_of_them() {
    use crate::queue::redis::Layout;
    let layout = |args: &[&str]| parse(args).map(|config| config.redis.options().layout);
    assert_eq!(layout(&[]).unwrap(), Layout::Single);
    let two = "rediss://user:hunter2@a:1,b:2";
    assert_eq!(layout(&["--redis-url", two, "--redis-cluster"]).unwrap(), Layout::Cluster);
    let sentinels = layout(&["--redis-url", two, "--redis-sentinel-master", "queues"]).unwrap();
    assert_eq!(sentinels, Layout::Sentinel("queues".into()));
    for (args, setting) in [
        (&["--redis-url", two][..], "--redis-url"),
        (&["--redis-url", "redis://a/1", "--redis-cluster"], "--redis-url"),
        (&["--redis-url", "redis://user:hunter2@a:nine"], "--redis-url"),
        (&["--redis-url", two, "--redis-cluster", "--redis-sentinel-master", "m"], "--redis-cluster"),
        (&["--redis-ca-file", "ca.pem"], "--redis-ca-file"),
        (&["--redis-url", "rediss://a", "--redis-cert-file", "c.pem"], "--redis-cert-file"),
        (&["--redis-timeout", "1ms"], "--redis-timeout"),
    ] {
        let text = parse(args).unwrap_err().to_string();
        assert!(text.starts_with(setting), "{args:?}: {text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}
