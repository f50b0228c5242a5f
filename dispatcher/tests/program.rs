//! The dispatcher as a program: exit codes, what it prints, and a run against a real redis-server.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a helper of a test fails the test")]

#[path = "program/reshard.rs"]
mod reshard;

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use backhaul_proto::v1::{
    ObjectRef, SubmitBackupRequest, TaskState, backup_service_client::BackupServiceClient,
};
use backhaul_runtime::audit::{FileOptions, LogFile, Seal, Verification};
use serde_json::Value;
use tempfile::TempDir;

const LOCATIONS: &str = r#"
    [location.uploads]
    endpoint = "http://127.0.0.1:1"
    credentials = "anonymous"

    [[location.uploads.read]]
    bucket = "photos"
    tenants = ["*"]

    [location.uploads.backup]
    location = "vault"
    bucket = "backups"

    [location.vault]
    endpoint = "http://127.0.0.1:1"
    credentials = "anonymous"
"#;

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn dispatcher(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_backhaul-dispatcher"));
    command.args(args).stdin(Stdio::null()).env_remove("BACKHAUL_LOCATIONS").env("BACKHAUL_INSECURE", "true");
    command
}

fn ends_with(args: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = dispatcher(args).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn file(dir: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = dir.path().join(name);
    fs::write(&path, text).unwrap();
    path
}

fn redis(dir: &Path, args: &[&str]) -> Running {
    let server = Command::new("redis-server")
        .args(["--port", "0", "--unixsocket", "redis.sock", "--save", ""])
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server on the PATH");
    Running(server)
}

/// Waits until the dispatcher has written its address.
async fn served_at(file: &Path, running: &mut Running) -> String {
    loop {
        if let Ok(text) = fs::read_to_string(file) {
            return text.trim().to_owned();
        }
        assert!(running.0.try_wait().unwrap().is_none(), "ended before it served");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn terminate(running: &Running) {
    let told = Command::new("kill").args(["-TERM", &running.0.id().to_string()]).status().unwrap();
    assert!(told.success());
}

#[test]
fn help_goes_to_standard_output_and_is_no_mistake() {
    let (code, stdout, stderr) = ends_with(&["--help"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    for text in ["--durability <MODE>", "[env: BACKHAUL_LEASE=]", "[default: 30s]"] {
        assert!(stdout.contains(text), "{text} is not in {stdout}");
    }
}

#[test]
fn wrong_settings_end_the_program_with_64_and_a_line_for_each() {
    let (code, stdout, stderr) =
        ends_with(&["--locations", "x", "--shards", "0", "--retry-base", "2h", "--tenant", "*"]);
    assert_eq!((code, stdout.as_str()), (Some(64), ""));
    assert_eq!(stderr.lines().count(), 3, "{stderr}");
    for line in ["--shards: must be 1 to 1024", "--retry-base: must be at most --retry-max"] {
        assert!(stderr.contains(line), "{stderr}");
    }
    for args in [&[][..], &["--locations", "x", "--lease", "30"], &["--locations", "x", "--log", "a=b=c"]] {
        let (code, _, stderr) = ends_with(args);
        assert_eq!((code, stderr.lines().count()), (Some(64), 1), "{stderr}");
    }
}

#[test]
fn a_locations_file_that_is_missing_or_wrong_is_64_too() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing.toml");
    let wrong = file(&dir, "wrong.toml", &LOCATIONS.replace(r#"location = "vault""#, r#"location = "void""#));
    for path in [missing, wrong] {
        let (code, _, stderr) = ends_with(&["--locations", path.to_str().unwrap()]);
        assert_eq!(code, Some(64), "{stderr}");
        assert!(stderr.contains(path.to_str().unwrap()), "{stderr}");
    }
}

#[test]
fn a_redis_that_could_lose_what_was_accepted_is_refused_with_the_setting_to_change() {
    let dir = tempfile::tempdir().unwrap();
    let locations = file(&dir, "locations.toml", LOCATIONS);
    let _redis = redis(dir.path(), &["--appendonly", "no"]);
    let url = format!("redis+unix://{}", dir.path().join("redis.sock").display());
    let (code, _, stderr) = ends_with(&[
        "--locations",
        locations.to_str().unwrap(),
        "--redis-url",
        &url,
        "--listen",
        "127.0.0.1:0",
    ]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("appendonly"), "{stderr}");
}

/// Audits the queue as an operator would: exit code, what it printed.
fn audit(url: &str, flags: &[&str]) -> (Option<i32>, String) {
    let (code, stdout, stderr) = ends_with(&[&["fsck", "--redis-url", url][..], flags].concat());
    (code, stdout + &stderr)
}

/// One counter is wrong, and one key is a stranger's.
fn a_repair_is_on_record_or_not_done(dir: &TempDir, url: &str) {
    let log = dir.path().join("repairs.jsonl");
    let flags = ["--repair", "--json", "--audit-log", log.to_str().unwrap()];
    {
        // As a dispatcher has its own.
        let options = FileOptions { rotate_at: u64::MAX, keep: 0 };
        let _open = LogFile::open(&log, options, Seal::Plain, 0).unwrap();
        let (code, text) = audit(url, &flags);
        assert!(code == Some(64) && text.contains("another process writes this log"), "{text}");
    }
    assert!(audit(url, &[]).1.contains("wrong-counter"), "nothing was repaired");
    let (code, text) = audit(url, &flags);
    assert_eq!(code, Some(1), "{text}");
    let report = Verification { files: vec![log.clone()], ..Verification::default() }.run().unwrap();
    assert!(report.flaw.is_none() && !report.is_cut_off, "{report:?}");
    let lines = fs::read_to_string(&log).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let uid = fs::metadata("/proc/self").unwrap().uid();
    let [begin, end] = lines.as_slice() else { panic!("{lines:?}") };
    for (line, event) in [(begin, "repair"), (end, "repaired")] {
        assert_eq!((&line["event"], &line["uid"]), (&event.into(), &uid.into()));
        assert!(!line["host"].as_str().unwrap().is_empty());
    }
    assert_eq!(end["outcome"], "problems left");
    let repaired = |problem: &str| {
        let problems = end["problems"].as_array().unwrap();
        problems.iter().find(|found| found["problem"] == problem).unwrap()["repaired"].as_u64()
    };
    assert_eq!((repaired("wrong-counter"), repaired("unknown-key")), (Some(1), Some(0)));
    assert!(!audit(url, &[]).1.contains("wrong-counter"));
    assert_eq!(audit(url, &["--audit-log", "x"]).0, Some(64), "without --repair nothing is changed");
}

#[tokio::test]
async fn it_waits_for_redis_serves_and_stops_in_order_at_sigterm_and_leaves_a_clean_queue() {
    let dir = tempfile::tempdir().unwrap();
    let locations = file(&dir, "locations.toml", LOCATIONS);
    let address = dir.path().join("address");
    let url = format!("redis+unix://{}", dir.path().join("redis.sock").display());
    let mut running = Running(
        dispatcher(&["--listen", "127.0.0.1:0", "--redis-url", &url, "--durability", "local"])
            .args([Path::new("--locations"), &locations, Path::new("--address-file"), &address])
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let _redis = redis(dir.path(), &["--appendonly", "yes", "--appendfsync", "always"]);
    let addr = served_at(&address, &mut running).await;
    let channel =
        tonic::transport::Channel::from_shared(format!("http://{addr}")).unwrap().connect().await.unwrap();
    let object = ObjectRef {
        location: "uploads".into(),
        bucket: "photos".into(),
        key: "users/1".into(),
        version: String::new(),
    };
    let request = SubmitBackupRequest { object: Some(object), options: None };
    let task = BackupServiceClient::new(channel).submit_backup(request).await.unwrap().into_inner();
    assert_eq!(task.state(), TaskState::Pending);

    terminate(&running);
    // Not on this thread: the client has to answer the server's goodbye.
    let ended = tokio::task::spawn_blocking(move || running.0.wait()).await.unwrap();
    assert_eq!(ended.unwrap().code(), Some(0));

    let (code, text) = audit(&url, &["--json"]);
    assert_eq!(code, Some(0), "{text}");
    let stranger = ["-s", "redis.sock", "set", "{bh:000}:stranger", "1"];
    assert!(Command::new("redis-cli").args(stranger).current_dir(dir.path()).status().unwrap().success());
    let (code, text) = audit(&url, &["--repair"]);
    assert_eq!(code, Some(1), "what nobody knows is told and left: {text}");
    assert!(text.contains("{bh:000}:stranger"), "{text}");
    let wrong = ["-s", "redis.sock", "hset", "{bh:000}:tenants", "nobody", "000"];
    assert!(Command::new("redis-cli").args(wrong).current_dir(dir.path()).status().unwrap().success());
    a_repair_is_on_record_or_not_done(&dir, &url);
    let (code, text) = audit(&format!("{url}?db=3"), &[]);
    assert_eq!(code, Some(64), "there is no queue: {text}");
    assert_eq!(audit(&url, &["--mend"]).0, Some(64));
    assert!(!address.exists());
}

#[test]
fn a_signal_while_it_waits_for_redis_ends_it_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let locations = file(&dir, "locations.toml", LOCATIONS);
    let url = format!("redis+unix://{}", dir.path().join("redis.sock").display());
    let mut running = Running(
        dispatcher(&["--listen", "127.0.0.1:0", "--redis-url", &url])
            .args([Path::new("--locations"), &locations])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut log = std::io::BufReader::new(running.0.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("waiting for it") {
        line.clear();
        assert_ne!(std::io::BufRead::read_line(&mut log, &mut line).unwrap(), 0, "ended without waiting");
    }
    terminate(&running);
    assert_eq!(running.0.wait().unwrap().code(), Some(0));
}
