//! S3 as AWS has it tells queues of its objects, directly, through SNS and through EventBridge; the dispatcher reads the queues.

use std::{fmt::Write as _, fs};

use anyhow::{Context as _, ensure};
use aws_sdk_s3::types::{
    Event, EventBridgeConfiguration, FilterRule, FilterRuleName, NotificationConfiguration,
    NotificationConfigurationFilter, QueueConfiguration, S3KeyFilter, TopicConfiguration,
};
use backhaul_proto::v1::TaskState;
use backhaul_tests::{
    TestEnv,
    env::{EnvOptions, TENANT},
    eventually,
    locations::{ORIGIN, ORIGIN_BUCKET},
    moto::{MotoServer, REGION, arn},
    programs::program,
};
use serde_json::Value;
use tempfile::TempDir;

/// Queues by the form of what they hold.
const QUEUES: [&str; 3] = ["s3", "sns", "eventbridge"];

fn below(prefix: &str) -> NotificationConfigurationFilter {
    let rule = FilterRule::builder().name(FilterRuleName::Prefix).value(prefix).build();
    NotificationConfigurationFilter::builder().key(S3KeyFilter::builder().filter_rules(rule).build()).build()
}

/// Makes the bucket tell three queues, each of what is below a prefix of its name.
async fn tell_queues(server: &MotoServer) -> anyhow::Result<Vec<String>> {
    let mut urls = Vec::new();
    for name in QUEUES {
        urls.push(server.create_queue(name).await?);
    }
    let topic = server.create_topic_for("uploads", "sns").await?;
    server.create_rule_for("eventbridge/", "eventbridge").await?;
    let all = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"].map(Event::from);
    let queue = QueueConfiguration::builder().queue_arn(arn("sqs", "s3")).filter(below("s3/"));
    let topic = TopicConfiguration::builder().topic_arn(topic).filter(below("sns/"));
    let notifications = NotificationConfiguration::builder()
        .queue_configurations(queue.set_events(Some(all.to_vec())).build()?)
        .topic_configurations(topic.set_events(Some(all.to_vec())).build()?)
        .event_bridge_configuration(EventBridgeConfiguration::builder().build());
    let client = server.client();
    let request = client.sdk().put_bucket_notification_configuration().bucket(ORIGIN_BUCKET);
    request.notification_configuration(notifications.build()).send().await?;
    Ok(urls)
}

fn sources(urls: &[String], folder: &TempDir) -> anyhow::Result<String> {
    let keys = folder.path().join("queue.keys");
    fs::write(&keys, "of-the-dispatcher\nsecret\n")?;
    let mut text = String::new();
    for (form, url) in QUEUES.iter().zip(urls) {
        write!(
            text,
            "[[event_source]]\nname = {form:?}\nform = {form:?}\nlocation = {ORIGIN:?}\ntenant = {TENANT:?}\n\
             sqs = {{ url = {url:?}, region = {REGION:?}, credentials = {{ file = {keys:?} }} }}\n"
        )?;
    }
    let file = folder.path().join("sources.toml");
    fs::write(&file, text)?;
    Ok(file.display().to_string())
}

/// The JSON lines that `backhaul events` prints.
async fn events(env: &TestEnv, arguments: &[&str]) -> anyhow::Result<Vec<Value>> {
    let mut command = program("backhaul")?;
    command.arg("events").args(arguments).args(["--json", "--insecure", "--dispatcher"]);
    command.arg(format!("http://{}", env.dispatcher_address()));
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    ensure!(output.status.success(), "{output:?}");
    let lines = std::str::from_utf8(&output.stdout)?.lines();
    lines.map(|line| serde_json::from_str(line).with_context(|| format!("{line:?}"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_s3_tells_queues_of_is_backed_up_and_what_it_tells_else_can_be_seen() -> anyhow::Result<()> {
    let server = MotoServer::start().await?;
    server.client().create_bucket(ORIGIN_BUCKET).await?;
    let urls = tell_queues(&server).await?;
    let folder = TempDir::with_prefix("backhaul-events-")?;
    let options = EnvOptions::default()
        .origin_at(server.address(), server.credentials().clone())
        .dispatcher_flag("operator", "true")
        .dispatcher_flag("event-sources", &sources(&urls, &folder)?);
    let env = TestEnv::start(options).await?;

    for form in QUEUES {
        let key = format!("{form}/red flower + 50%2F €.jpg");
        let written = env.uploads().put_random(ORIGIN_BUCKET, &key, 50_000).await?;
        let task = eventually("the upload is backed up", async || {
            let done = env.list(&[TaskState::Done]).await?;
            let found = done.into_iter().find(|task| task.object.as_ref().is_some_and(|o| o.key == key));
            found.with_context(|| format!("no done task of {key:?}"))
        })
        .await?;
        env.prove(&task, &written).await?;
        ensure!(task.labels.get("event-source").is_some_and(|name| name == form), "{task:?}");
    }

    env.uploads().delete(ORIGIN_BUCKET, "s3/red flower + 50%2F €.jpg").await?;
    server.send(&urls[0], "nonsense").await?;
    server.send(&urls[0], "nonsense").await?;
    let odd = eventually("what nobody understands is in quarantine", async || {
        let odd = events(&env, &["quarantined"]).await?;
        ensure!(odd.len() == 1 && odd[0]["source"] == "s3", "{odd:?}");
        Ok(odd[0]["id"].as_str().context("an id")?.to_owned())
    })
    .await?;
    ensure!(events(&env, &["show", &odd]).await?[0]["body"] == "nonsense");
    eventually("the removal is noted", async || {
        let removals = events(&env, &["removals"]).await?;
        ensure!(removals.len() == 1 && removals[0]["key"] == "s3/red flower + 50%2F €.jpg", "{removals:?}");
        Ok(())
    })
    .await?;
    ensure!(env.kept().await?.len() == QUEUES.len(), "no copy was removed");
    eventually("all queues are empty", async || {
        for url in &urls {
            let messages = server.messages(url).await?;
            ensure!(messages == 0, "{messages} in {url}");
        }
        Ok(())
    })
    .await?;
    ensure!(events(&env, &["discard", &odd]).await?[0]["outcome"] == "discarded");
    ensure!(events(&env, &["quarantined"]).await?.is_empty());
    env.finish().await
}
