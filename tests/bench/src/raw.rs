//! The ceiling: what this Redis can do when nobody asks for more than two commands a script.

use anyhow::ensure;
use tokio::{task::JoinSet, time::Instant};

use crate::servers::RedisServer;

const CONNECTIONS: u64 = 4;
const PIPELINE: u64 = 100;
const SCRIPT: &str = "redis.call('HSET', KEYS[1], 's', ARGV[1], 'a', ARGV[2], 'f', ARGV[3])
return redis.call('ZADD', KEYS[2], ARGV[2], ARGV[4])";

/// Two-command scripts a second, 100 in a pipeline on each of 4 connections; `count` in all.
pub(crate) async fn scripts_per_second(redis: &RedisServer, count: u64) -> anyhow::Result<f64> {
    redis.clear().await?;
    let sha: String =
        redis::cmd("SCRIPT").arg("LOAD").arg(SCRIPT).query_async(&mut redis.connect().await?).await?;
    let rounds = count / CONNECTIONS / PIPELINE;
    let mut set = JoinSet::new();
    let begin = Instant::now();
    for connection_number in 0..CONNECTIONS {
        let (mut connection, sha) = (redis.connect().await?, sha.clone());
        set.spawn(async move {
            for round in 0..rounds {
                let mut pipeline = redis::Pipeline::with_capacity(usize::try_from(PIPELINE)?);
                for n in 0..PIPELINE {
                    let id = (connection_number * rounds + round) * PIPELINE + n;
                    let command = pipeline.cmd("EVALSHA").arg(&sha).arg(2);
                    command.arg(format!("t:{id:012}")).arg("pending").arg("P").arg(id).arg(1).arg(id);
                }
                let added: Vec<u64> = pipeline.query_async(&mut connection).await?;
                ensure!(added.iter().all(|added| *added == 1), "a script added nothing");
            }
            Ok(())
        });
    }
    while let Some(ended) = set.join_next().await {
        ended??;
    }
    Ok((rounds * PIPELINE * CONNECTIONS) as f64 / begin.elapsed().as_secs_f64())
}
