//! The access control list that is shipped: everything that the dispatcher does works under it, and nothing else does.

use std::{collections::BTreeSet, path::Path, time::Duration};

use sha2::{Digest as _, Sha256};

use super::{super::scripts::Script, Server, factory, options, random_history, reshard, settings, task};
use crate::queue::{
    QueueClock, StatsQuery, TaskQueue as _,
    redis::{
        Login, RedisOptions, RedisQueue,
        fsck::{FsckOptions, fsck},
    },
    snapshot::Observe as _,
};

const PASSWORD: &str = "not-a-secret";

/// A server with the shipped file, and besides a user for the test.
fn guarded(dir: &Path) -> Server {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/redis/users.acl");
    let digest: String = Sha256::digest(PASSWORD).iter().map(|byte| format!("{byte:02x}")).collect();
    let text = std::fs::read_to_string(shipped).unwrap();
    assert!(text.contains("user default off"), "who does not log in may do nothing");
    let text = text.replace("PASSWORD_SHA256", &digest) + "user auditor on nopass ~* &* +@all\n";
    let file = dir.join("users.acl");
    std::fs::write(&file, text).unwrap();
    Server::start(&["--aclfile", file.to_str().unwrap()])
}

fn login() -> Login {
    let file = std::env::temp_dir().join(format!("backhaul-acl-password-{}", std::process::id()));
    std::fs::write(&file, PASSWORD).unwrap();
    Login { user: Some("backhaul".into()), password_file: Some(file) }
}

async fn connection(server: &Server, user: &str) -> redis::aio::MultiplexedConnection {
    let url = format!("{}&user={user}&pass={PASSWORD}", server.url(0));
    redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap()
}

#[tokio::test]
async fn everything_that_a_dispatcher_does_is_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let server = guarded(dir.path());
    let mut auditor = connection(&server, "auditor").await;
    let own = RedisOptions { login: login(), ..options(&server, 900) };
    let queue = RedisQueue::connect(own.clone(), settings(), QueueClock::Server).await.unwrap();
    queue.submit(vec![task("t", 1)]).await.remove(0).unwrap();
    queue.check().await.unwrap();
    for digest in ["a", "b"] {
        assert!(queue.keep_body(digest, b"body", "about", 1, 1_024).await.unwrap());
    }
    assert_eq!(queue.kept_bodies().await.unwrap().len(), 1);
    queue.kept_body("b").await.unwrap().unwrap();
    assert!(queue.forget_body("b").await.unwrap());
    queue.note_removals(&["x".into(), "y".into()], 1).await.unwrap();
    assert_eq!(queue.noted_removals(0, 5).await.unwrap().len(), 1);
    assert!(queue.save_rule_mark("rule", "", "1 {}").await.unwrap());
    assert_eq!(queue.rule_marks().await.unwrap().1.len(), 1);
    queue.stats(&StatsQuery::All { tenants: 5 }).await.unwrap();
    queue.stats(&StatsQuery::Tenant("t".into())).await.unwrap();
    queue.depths().await.unwrap();
    queue.snapshot().await.unwrap();
    queue.events(None).await.unwrap();
    for repair in [false, true] {
        let asked = FsckOptions { repair, orphan_grace: Duration::ZERO, examples: 5 };
        let report = fsck(&own, asked).await.unwrap();
        assert!(report.problems.is_empty(), "{report:?}");
    }
    queue.shutdown().await;
    drop(queue);
    let own = RedisOptions { login: login(), ..options(&server, 901) };
    reshard::is_allowed(&own, &mut auditor).await;
    let histories = factory(server, |options| options.login = login());
    for seed in 301..304 {
        random_history(&histories, seed).await;
    }
    let refused: Vec<redis::Value> = redis::cmd("ACL").arg("LOG").query_async(&mut auditor).await.unwrap();
    assert!(refused.is_empty(), "{refused:?}");
}

/// Also what only a rare turn of a script or of the code beside it asks for.
#[tokio::test]
async fn every_command_that_is_spelt_anywhere_is_allowed_by_name() {
    /// Of `@connection`; and an error that is spelt like a command.
    const ALLOWED_OTHERWISE: [&str; 8] =
        ["ping", "wait", "waitaof", "client", "select", "auth", "hello", "readonly"];
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let shipped = std::fs::read_to_string(root.join("../deploy/redis/users.acl")).unwrap();
    let allowed: BTreeSet<_> = shipped.split_whitespace().filter_map(|rule| rule.strip_prefix('+')).collect();
    let mut words = BTreeSet::new();
    for script in Script::ALL {
        let calls = script.text().split("call('").skip(1);
        words.extend(calls.filter_map(|call| call.split('\'').next()).map(str::to_owned));
    }
    let mut folders = vec![root.join("src/queue/redis")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            let is_test = entry.to_str().unwrap().contains("tests");
            if entry.is_dir() && !is_test {
                folders.push(entry);
            } else if entry.extension().is_some_and(|end| end == "rs") && !is_test {
                let text = std::fs::read_to_string(entry).unwrap();
                words.extend(text.split('"').map(str::to_owned));
            }
        }
    }
    words.retain(|word| word.len() > 2 && word.bytes().all(|byte| byte.is_ascii_uppercase()));
    assert!(words.contains("ZADD") && words.contains("HGETALL"), "{words:?}");
    let server = Server::start(&[]);
    let mut client = server.client().await;
    for word in words {
        let known: Vec<Option<redis::Value>> =
            redis::cmd("COMMAND").arg("INFO").arg(&word).query_async(&mut client).await.unwrap();
        let name = word.to_lowercase();
        let is_allowed = allowed.contains(&*name)
            || allowed.iter().any(|rule| rule.strip_prefix(&*name).is_some_and(|rest| rest.starts_with('|')))
            || ALLOWED_OTHERWISE.contains(&&*name);
        assert!(is_allowed || known.iter().all(Option::is_none), "{word}");
    }
}

#[tokio::test]
async fn nothing_else_is() {
    let dir = tempfile::tempdir().unwrap();
    let server = guarded(dir.path());
    let mut backhaul = connection(&server, "backhaul").await;
    for command in [
        "FLUSHALL",
        "FLUSHDB",
        "KEYS *",
        "CONFIG SET appendonly no",
        "CONFIG REWRITE",
        "SHUTDOWN",
        "REPLICAOF NO ONE",
        "ACL LIST",
        "MONITOR",
        "CLIENT LIST",
        "SWAPDB 0 1",
        "SCRIPT FLUSH",
        "MIGRATE 127.0.0.1 1 {bh:000}:meta 0 1",
        "GET other",
        "SET {bh:000} 1",
        "DEL bh:other",
        "PUBLISH other x",
        "SUBSCRIBE other",
    ] {
        let mut words = command.split(' ');
        let mut asked = redis::cmd(words.next().unwrap());
        asked.arg(words.collect::<Vec<_>>());
        let answer: redis::RedisResult<redis::Value> = asked.query_async(&mut backhaul).await;
        let refused = answer.expect_err(command);
        assert_eq!(refused.code(), Some("NOPERM"), "{command}: {refused}");
    }
    let nobody = redis::Client::open(server.url(0)).unwrap();
    let refused = match nobody.get_multiplexed_async_connection().await {
        Ok(mut nobody) => {
            redis::cmd("GET").arg("bh:config").query_async::<redis::Value>(&mut nobody).await.is_err()
        }
        Err(_) => true,
    };
    assert!(refused, "who does not log in is nobody");
}
