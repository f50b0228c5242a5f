//! The command that changes the number of shards, as an operator runs it: refused while a dispatcher is there, killed, and run again.

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use backhaul_proto::v1::{
    GetBackupRequest, ObjectRef, SubmitBackupRequest, SubmitBackupsRequest,
    backup_service_client::BackupServiceClient, submit_backup_result::Result as Answer,
};
use tonic::transport::Channel;

use crate::{LOCATIONS, Running, audit, dispatcher, ends_with, file, redis, served_at, terminate};

const TASKS: u32 = 3_000;

/// A directory with a Redis, and dispatchers on it.
struct Scene {
    dir: tempfile::TempDir,
    locations: PathBuf,
    url: String,
    _redis: Running,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let locations = file(&dir, "locations.toml", LOCATIONS);
        let url = format!("redis+unix://{}", dir.path().join("redis.sock").display());
        let _redis = redis(dir.path(), &["--appendonly", "yes", "--appendfsync", "always"]);
        Self { dir, locations, url, _redis }
    }

    fn command(&self, shards: &str) -> Command {
        let mut command =
            dispatcher(&["--listen", "127.0.0.1:0", "--redis-url", &self.url, "--shards", shards]);
        command.args([Path::new("--locations"), &self.locations]);
        command.args([Path::new("--address-file"), &self.dir.path().join("address")]);
        command
    }

    async fn start(&self, shards: &str) -> (Running, BackupServiceClient<Channel>) {
        let mut running = Running(self.command(shards).stderr(Stdio::null()).spawn().unwrap());
        let address = served_at(&self.dir.path().join("address"), &mut running).await;
        let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        (running, BackupServiceClient::new(channel))
    }

    /// How a dispatcher ends that is not let in.
    fn refused(&self, shards: &str) -> String {
        let output = self.command(shards).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        text
    }

    fn reshard<'a>(&'a self, shards: &'a str) -> Vec<&'a str> {
        vec!["reshard", "--redis-url", &self.url, "--quiet-for", "300ms", "--shards", shards]
    }
}

async fn stop(mut running: Running) {
    terminate(&running);
    // Not on this thread: the client has to answer the server's goodbye.
    let ended = tokio::task::spawn_blocking(move || running.0.wait()).await.unwrap();
    assert_eq!(ended.unwrap().code(), Some(0));
}

async fn submit(client: &mut BackupServiceClient<Channel>) -> Vec<String> {
    let mut ids = Vec::new();
    for batch in (0..TASKS).collect::<Vec<_>>().chunks(1_000) {
        let requests = batch.iter().map(|n| SubmitBackupRequest {
            object: Some(ObjectRef {
                location: "uploads".into(),
                bucket: "photos".into(),
                key: format!("users/{n}"),
                version: String::new(),
            }),
            options: None,
        });
        let request = SubmitBackupsRequest { requests: requests.collect() };
        for answer in client.submit_backups(request).await.unwrap().into_inner().results {
            let Some(Answer::Accepted(accepted)) = answer.result else { panic!("{answer:?}") };
            ids.push(accepted.task_id);
        }
    }
    ids
}

#[tokio::test]
async fn the_number_of_shards_is_changed_by_a_command_that_may_be_killed() {
    let scene = Scene::new();
    let (running, mut client) = scene.start("2").await;
    let ids = submit(&mut client).await;
    let (code, _, stderr) = ends_with(&scene.reshard("5"));
    assert!(code == Some(1) && stderr.contains("stop all of them"), "{stderr}");
    stop(running).await;
    let refused = scene.refused("5");
    assert!(refused.contains("has 2 shards, 5 are configured: use --shards 2"), "{refused}");

    // Killed when it has begun to move, and at other places where a machine is slower or faster.
    let mut command = dispatcher(&scene.reshard("5"));
    let mut killed = Running(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
    let said = BufReader::new(killed.0.stderr.take().unwrap());
    let mut said = said.lines().map_while(Result::ok);
    assert!(said.any(|line| line.contains("keys looked at")), "it says how far it is");
    killed.0.kill().unwrap();
    killed.0.wait().unwrap();
    if ends_with(&["fsck", "--redis-url", &scene.url]).2.contains("is being changed") {
        for shards in ["2", "5"] {
            let refused = scene.refused(shards);
            assert!(refused.contains("`backhaul-dispatcher reshard --shards 5`"), "{refused}");
        }
    }
    // The server may hear a moment later that the one that was killed is gone.
    let (mut code, mut stdout, mut stderr) = ends_with(&scene.reshard("5"));
    while stderr.contains("another reshard") {
        (code, stdout, stderr) = ends_with(&scene.reshard("5"));
    }
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("--shards 5") || stdout.contains("5 shards already"), "{stdout}");
    let (code, text) = audit(&scene.url, &[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains(&format!("{TASKS} records read")), "{text}");

    assert!(scene.refused("2").contains("use --shards 5"));
    let (running, mut client) = scene.start("5").await;
    for id in ids.iter().step_by(100) {
        let request = GetBackupRequest { task_id: id.clone() };
        let found = client.get_backup(request).await.unwrap().into_inner();
        assert_eq!(&found.task_id, id);
    }
    assert_eq!(submit(&mut client).await, ids, "a repeat gives the same tasks");
    stop(running).await;
    let (code, text) = audit(&scene.url, &[]);
    assert!(code == Some(0) && text.contains(&format!("{TASKS} records read")), "{text}");
}
