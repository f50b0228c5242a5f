//! What a task costs in Redis' memory.

use std::{collections::BTreeMap, time::Duration};

use redis::AsyncCommands as _;

use super::{Server, options, settings};
use crate::queue::{
    NewTask, ObjectRef, Priority, QueueClock, TaskQueue as _, TaskSpec,
    redis::{RedisQueue, codec},
};

/// A task whose spec takes 200 bytes as it is stored, besides tenant and location.
fn usual_task(n: u32) -> NewTask {
    let spec = TaskSpec {
        tenant: format!("tenant-{}", n % 10),
        object: ObjectRef {
            location: "uploads".into(),
            bucket: "user-content".into(),
            key: format!(
                "photos/2026/11/{:02}/3f2b6c1e-8d4a-4b7e-9c0d-{n:012}/originals/full-resolution/uncropped-copy-IMG_000000000000.jpeg",
                n % 30
            ),
            version: Some(format!("{n:032x}")),
        },
        priority: Priority::Normal,
        max_attempts: 10,
        labels: BTreeMap::from([("source".into(), "upload-service".into())]),
        size_hint_bytes: 3_000_000,
        verify: None,
        processing_timeout: Duration::from_secs(300),
        traceparent: String::new(),
        retention_class: String::new(),
    };
    NewTask { spec, process_at: None }
}

#[tokio::test]
async fn a_pending_task_with_a_spec_of_200_bytes_costs_at_most_600() {
    const TASKS: u32 = 70_000;
    let server = Server::start(&[]);
    let queue = RedisQueue::connect(options(&server, 0), settings(), QueueClock::Server).await.unwrap();
    let task = usual_task(7);
    let named = task.spec.tenant.len() + task.spec.object.location.len();
    let spec_bytes = codec::encode_new(&task).unwrap().body.len() - codec::BODY_HEAD_BYTES - named;
    let before = used_memory(&server).await;
    for first in (0..TASKS).step_by(1_000) {
        let answers = queue.submit((first..first + 1_000).map(usual_task).collect()).await;
        assert!(answers.iter().all(Result::is_ok), "{:?}", answers[0]);
    }
    let bytes = (used_memory(&server).await - before) / u64::from(TASKS);
    println!("{bytes} bytes for a pending task with a spec of {spec_bytes} bytes, all indexes included");
    assert_eq!(spec_bytes, 200);
    assert!(bytes <= 600, "{bytes} bytes");
}

async fn used_memory(server: &Server) -> u64 {
    let mut client = server.client().await;
    let (): () = client.ping().await.unwrap();
    let info: String = redis::cmd("INFO").arg("memory").query_async(&mut client).await.unwrap();
    let line = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
    line.trim().parse().unwrap()
}
