//! Redis behind TLS, client certificates and an access control list.
//!
//! The certificates in `tls/` are for 127.0.0.1 only; the key that signed them is gone.

use std::path::{Path, PathBuf};

use super::{Server, patient, settings, task};
use crate::queue::{
    QueueClock, TaskQueue as _,
    redis::{ConnectError, Durability, Login, RedisOptions, RedisQueue, TlsFiles},
};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/queue/redis/tests/tls").join(name)
}

#[tokio::test]
async fn a_queue_logs_in_over_tls_with_a_password_that_may_be_replaced() {
    let [certificate, key, authority] = ["certificate.pem", "key.pem", "authority.pem"].map(file);
    let server = Server::start_on_tls_port(&[
        "--tls-cert-file",
        certificate.to_str().unwrap(),
        "--tls-key-file",
        key.to_str().unwrap(),
        "--tls-ca-cert-file",
        authority.to_str().unwrap(),
        "--tls-auth-clients",
        "yes",
        "--user",
        "backhaul",
        "on",
        ">first",
        "~{bh:*",
        "~bh:config",
        "&bh:ready",
        "+@all",
        "-@admin",
        "-flushall",
    ]);
    let dir = tempfile::tempdir().unwrap();
    let password_file = dir.path().join("password");
    std::fs::write(&password_file, "first\n").unwrap();
    let options = RedisOptions {
        durability: Durability::None,
        login: Login { user: Some("backhaul".into()), password_file: Some(password_file.clone()) },
        tls: TlsFiles { authorities: Some(authority), client: Some((certificate, key)) },
        ..patient(format!("rediss://127.0.0.1:{}", server.port()))
    };
    let connect =
        async |options: RedisOptions| RedisQueue::connect(options, settings(), QueueClock::Server).await;
    let queue = connect(options.clone()).await.unwrap();
    queue.submit(vec![task("t", 1)]).await.remove(0).unwrap();
    queue.check().await.unwrap();

    std::fs::write(&password_file, "wrong\n").unwrap();
    assert!(matches!(connect(options.clone()).await, Err(ConnectError::Server(_))));
    // Those that are connected go on.
    queue.submit(vec![task("t", 2)]).await.remove(0).unwrap();
    std::fs::write(&password_file, "first\n").unwrap();
    let unknown =
        RedisOptions { tls: TlsFiles { authorities: None, ..options.tls.clone() }, ..options.clone() };
    assert!(connect(unknown).await.is_err(), "the authority is not one of the system's");
    let nobody = RedisOptions { tls: TlsFiles { client: None, ..options.tls.clone() }, ..options };
    assert!(connect(nobody).await.is_err(), "the server asks for a certificate");
}
