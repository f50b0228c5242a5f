//! What operators and their tools see from outside: metrics, health, the scaler, traces, and logs that can be changed.

use std::{collections::HashMap, fs};

use anyhow::{Context as _, ensure};
use backhaul_proto::{
    externalscaler::{GetMetricsRequest, ScaledObjectRef, external_scaler_client::ExternalScalerClient},
    v1::{self as pb, TaskState},
};
use backhaul_tests::{
    TestEnv,
    collector::{Collector, Span},
    env::{EnvOptions, object},
    eventually,
    locations::{ORIGIN, ORIGIN_BUCKET, VAULT},
    ops::OpsPort,
};
use tonic::{Code, Request};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

#[tokio::test(flavor = "multi_thread")]
async fn metrics_and_health_of_both_services_follow_a_backup() -> anyhow::Result<()> {
    let (dispatcher, worker) = (OpsPort::lease()?, OpsPort::lease()?);
    let options = EnvOptions::default()
        .dispatcher_flag("ops-listen", &dispatcher.address())
        .worker_flag("ops-listen", &worker.address());
    let env = TestEnv::start(options).await?;
    for port in [&dispatcher, &worker] {
        eventually("it is ready", async || {
            let (status, _) = port.get("/readyz").await?;
            ensure!(status == 200, "status {status}");
            Ok(())
        })
        .await?;
        ensure!(port.get("/livez").await?.0 == 200);
        for service in ["", "liveness", "readiness"] {
            let request = HealthCheckRequest { service: service.into() };
            let answer = HealthClient::new(port.channel()?).check(request).await?.into_inner();
            ensure!(answer.status == 1, "{service:?} is {answer:?}");
        }
    }
    let written = env.uploads().put_random(ORIGIN_BUCKET, "secret-key", 100_000).await?;
    let task = env.until(&env.submit("secret-key").await?.task_id, TaskState::Done).await?;
    env.prove(&task, &written).await?;

    let copied = format!("backhaul_worker_copied_bytes_total{{location=\"{ORIGIN}\"}}");
    ensure!(worker.metric(&copied).await? >= 100_000.0);
    ensure!(
        worker.metric(&format!("backhaul_worker_written_bytes_total{{location=\"{VAULT}\"}}")).await?
            >= 100_000.0
    );
    ensure!(worker.metric("backhaul_worker_ready").await? > 0.0);
    let submits = "backhaul_dispatcher_submits_total{outcome=\"created\"}";
    ensure!(dispatcher.metric(submits).await? >= 1.0);
    ensure!(dispatcher.metric("backhaul_dispatcher_redis_check{state=\"safe\"}").await? > 0.0);
    ensure!(dispatcher.metric("backhaul_dispatcher_streams{state=\"attached\"}").await? >= 1.0);
    ensure!(dispatcher.metric("backhaul_dispatcher_connections").await? >= 1.0);
    // The look at the queues may be some seconds old.
    eventually("the look is a new one", async || {
        ensure!(dispatcher.metric("backhaul_queue_tasks{queue=\"done\"}").await? >= 1.0);
        ensure!(dispatcher.metric("backhaul_queue_moves_total{move=\"done\"}").await? >= 1.0);
        Ok(())
    })
    .await?;
    for port in [&dispatcher, &worker] {
        ensure!(!port.get("/metrics").await?.1.contains("secret"), "a key is on the page");
    }
    env.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scaler_that_asks_another_dispatcher_hears_of_a_submit_and_never_of_nothing_without_redis()
-> anyhow::Result<()> {
    let (first, second) = (OpsPort::lease()?, OpsPort::lease()?);
    let options = EnvOptions::default().workers(0).dispatcher_flag("ops-listen", &first.address());
    let mut env = TestEnv::start(options).await?;
    env.add_dispatcher(&[("ops-listen", &second.address())]).await?;
    let mut scaler = ExternalScalerClient::new(second.channel()?);
    let mut pushed = eventually("the second dispatcher answers", async || {
        Ok(scaler.clone().stream_is_active(ScaledObjectRef::default()).await?.into_inner())
    })
    .await?;
    ensure!(!pushed.message().await?.context("the first answer")?.result, "nothing is to be done");
    env.uploads().put_random(ORIGIN_BUCKET, "photo", 1000).await?;
    env.submit("photo").await?;
    ensure!(pushed.message().await?.context("the change")?.result, "there is something to do");
    let request = || GetMetricsRequest { metric_name: "backhaul-tasks".into(), ..Default::default() };
    eventually("both say the same", async || {
        for port in [&first, &second] {
            let metrics =
                ExternalScalerClient::new(port.channel()?).get_metrics(request()).await?.into_inner();
            ensure!(metrics.metric_values[0].metric_value == 1, "{metrics:?}");
        }
        Ok(())
    })
    .await?;

    env.redis().kill()?;
    eventually("the scaler has noticed", async || {
        let status = scaler.get_metrics(request()).await.err().context("it still gives a number")?;
        ensure!(status.code() == Code::Unavailable, "{status}");
        let status =
            scaler.is_active(ScaledObjectRef::default()).await.err().context("it is still active")?;
        ensure!(status.code() == Code::Unavailable, "{status}");
        Ok(())
    })
    .await?;
    let ended = pushed.message().await.err().context("a stream must not say that nothing is to be done")?;
    ensure!(ended.code() == Code::Unavailable, "{ended}");
    // Alive, not ready: a restart of the dispatcher would not bring Redis back.
    eventually("it is not ready", async || {
        ensure!(second.get("/readyz").await?.0 == 503);
        Ok(())
    })
    .await?;
    ensure!(second.get("/livez").await?.0 == 200);
    env.redis().restart().await?;
    eventually("it counts again", async || {
        let metrics = scaler.get_metrics(request()).await?.into_inner();
        ensure!(metrics.metric_values[0].metric_value == 1, "{metrics:?}");
        Ok(())
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_leads_from_the_caller_through_both_services_to_the_stores() -> anyhow::Result<()> {
    let collector = Collector::start().await?;
    let options = EnvOptions::default()
        .dispatcher_flag("otlp-endpoint", collector.url())
        .dispatcher_flag("trace-share", "0")
        .worker_flag("otlp-endpoint", collector.url())
        .worker_flag("trace-share", "0");
    let env = TestEnv::start(options).await?;
    for key in ["traced", "untraced"] {
        env.uploads().put_random(ORIGIN_BUCKET, key, 1000).await?;
    }
    let untraced = env.submit("untraced").await?;
    let mut request = Request::new(pb::SubmitBackupRequest { object: Some(object("traced")), options: None });
    request.metadata_mut().insert("traceparent", format!("00-{TRACE}-{CALLER}-01").parse()?);
    let traced = env.backups()?.submit_backup(request).await?.into_inner();
    for task in [&untraced, &traced] {
        env.until(&task.task_id, TaskState::Done).await?;
    }
    // What was not sent yet is sent at the end of a program.
    env.finish().await?;

    let spans = collector.spans_of(TRACE);
    ensure!(collector.len() == spans.len(), "what nobody asked to trace was traced");
    let by_id: HashMap<&str, &Span> = spans.iter().map(|span| (span.id.as_str(), span)).collect();
    let named = |name: &str| spans.iter().filter(|span| span.name == name).collect::<Vec<_>>();
    let only = |name: &str| {
        let found = named(name);
        ensure!(found.len() == 1, "{} spans are named {name}: {spans:#?}", found.len());
        Ok(found[0])
    };
    let (call, assign, attempt) = (only("call")?, only("assign")?, only("attempt")?);
    ensure!(call.parent == CALLER && call.service == "backhaul-dispatcher", "{call:?}");
    ensure!(assign.parent == call.id && assign.service == "backhaul-dispatcher", "{assign:?}");
    ensure!(attempt.parent == assign.id && attempt.service == "backhaul-worker", "{attempt:?}");
    ensure!(attempt.attributes.get("task_id") == Some(&traced.task_id), "{attempt:?}");
    let requests = named("request");
    for (location, operation) in [(ORIGIN, "get"), (VAULT, "put")] {
        let made = requests.iter().any(|span| {
            let said = |name: &str| span.attributes.get(name).map(String::as_str);
            said("location") == Some(location) && said("operation") == Some(operation)
        });
        ensure!(made, "no {operation} at {location} is in the trace: {requests:#?}");
    }
    for span in requests {
        ensure!(by_id.get(span.parent.as_str()).is_some_and(|parent| parent.id == attempt.id), "{span:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_logged_changes_with_a_file_and_back() -> anyhow::Result<()> {
    let folder = tempfile::TempDir::new()?;
    let file = folder.path().join("filter");
    let options = EnvOptions::default()
        .workers(0)
        .dispatcher_flag("log", "info")
        .dispatcher_flag("log-filter-file", file.to_str().context("a temporary path is UTF-8")?);
    let mut env = TestEnv::start(options).await?;
    let answered = |env: &mut TestEnv| -> anyhow::Result<usize> {
        Ok(env.dispatcher().log()?.matches("call answered").count())
    };
    env.submit("photo").await?;
    ensure!(answered(&mut env)? == 0, "debug is logged");
    fs::write(&file, "info,backhaul_dispatcher=debug")?;
    eventually("calls are logged", async || {
        env.submit("photo").await?;
        ensure!(answered(&mut env)? > 0);
        Ok(())
    })
    .await?;
    fs::write(&file, "not=a=filter")?;
    eventually("the mistake is told", async || {
        ensure!(env.dispatcher().log()?.contains("is not understood"));
        Ok(())
    })
    .await?;
    fs::remove_file(&file)?;
    eventually("calls are no longer logged", async || {
        let before = answered(&mut env)?;
        env.submit("photo").await?;
        ensure!(answered(&mut env)? == before);
        Ok(())
    })
    .await?;
    env.finish().await
}
