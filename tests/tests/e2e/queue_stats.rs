//! How much is in the queues can be asked for: one's own share by everybody, all of it by operators.

use anyhow::{Context as _, ensure};
use backhaul_proto::v1::{self as pb, Priority, TaskState};
use backhaul_tests::{
    TestEnv,
    env::{EnvOptions, TENANT, object},
    programs::program,
};
use tonic::Code;

async fn stats(env: &TestEnv, all_tenants: bool) -> anyhow::Result<pb::GetQueueStatsResponse> {
    let request = pb::GetQueueStatsRequest { all_tenants, max_tenants: 0 };
    Ok(env.backups()?.get_queue_stats(request).await?.into_inner())
}

async fn fill(env: &TestEnv) -> anyhow::Result<()> {
    for (key, priority) in [("a", Priority::High), ("b", Priority::Normal), ("c", Priority::Normal)] {
        let options = pb::SubmitOptions { priority: priority.into(), ..Default::default() };
        env.submit_with(object(key), options).await?;
    }
    let later = prost_types::Timestamp { seconds: 4_000_000_000, nanos: 0 };
    let created = env.submit("now").await?;
    let now = env.task(&created.task_id).await?.created_at.context("when it was accepted")?;
    let process_at = prost_types::Timestamp { seconds: now.seconds + 3_600, ..later };
    let options = pb::SubmitOptions { process_at: Some(process_at), ..Default::default() };
    env.submit_with(object("later"), options).await?;
    env.cancel(&created.task_id).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_sees_its_own_share_and_nothing_of_others() -> anyhow::Result<()> {
    let env = TestEnv::start(EnvOptions::default().workers(0)).await?;
    fill(&env).await?;
    let own = stats(&env, false).await?;
    let total = own.total.context("a total")?;
    let tasks = |amount: &Option<pb::Amount>| amount.as_ref().map_or(0, |amount| amount.tasks);
    ensure!(tasks(&total.pending_high) == 1 && tasks(&total.pending_normal) == 2, "{total:?}");
    ensure!(tasks(&total.scheduled) == 1 && tasks(&total.working) == 0, "{total:?}");
    ensure!(total.pending_high.is_some_and(|high| high.oldest_age.is_some()), "an age");
    ensure!(own.tenants.is_empty() && own.done == 0, "what is of all tenants is not told");

    let request = pb::GetQueueStatsRequest { all_tenants: true, max_tenants: 0 };
    let refused = env.backups()?.get_queue_stats(request).await.err().context("it is refused")?;
    ensure!(refused.code() == Code::PermissionDenied, "{refused:?}");
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_all_tenants_and_so_does_a_script() -> anyhow::Result<()> {
    let options = EnvOptions::default().workers(0).dispatcher_flag("operator", "true");
    let env = TestEnv::start(options).await?;
    fill(&env).await?;
    let all = stats(&env, true).await?;
    ensure!(all.cancelled == 1 && all.tenants_left_out == 0 && !all.tenants_sampled, "{all:?}");
    ensure!(all.tenants.len() == 1 && all.tenants[0].tenant == TENANT, "{all:?}");
    ensure!(all.tenants[0].backlog == all.total, "the only tenant has everything: {all:?}");
    ensure!(env.list(&[TaskState::Cancelled]).await?.len() == 1, "and it is there");

    let mut command = program("backhaul")?;
    command.args(["stats", "--json", "--all-tenants", "--dispatcher"]);
    command.arg(format!("http://{}", env.dispatcher_address()));
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    ensure!(output.status.success(), "{output:?}");
    let line: serde_json::Value = serde_json::from_slice(&output.stdout).context("one JSON line")?;
    ensure!(line["total"]["pending_normal"]["tasks"] == 2 && line["cancelled"] == 1, "{line}");
    ensure!(line["tenants"][0]["tenant"] == TENANT, "{line}");
    env.finish().await
}
