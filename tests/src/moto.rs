//! moto, which speaks as AWS does where no other server here can: S3 that tells SQS, SNS and EventBridge of its objects. It checks
//! no credentials and little else, so nothing about integrity can be shown on it.

use std::process::Command;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    eventually::eventually,
    ports::Port,
    process::Process,
    s3::{Credentials, S3},
    settings,
};

/// Region of everything in it.
pub const REGION: &str = "us-east-1";
/// Account that everything in it belongs to.
pub const ACCOUNT: &str = "123456789012";

/// A server. Dropping it kills it, and its data goes with it.
#[derive(Debug)]
pub struct MotoServer {
    port: Port,
    credentials: Credentials,
    process: Process,
    _folder: TempDir,
}

impl MotoServer {
    /// Starts a server and waits until it answers.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub async fn start() -> anyhow::Result<Self> {
        let folder = TempDir::with_prefix("backhaul-moto-")?;
        let port = Port::lease()?;
        let mut command = Command::new(settings::moto()?);
        command.args(["-H", "127.0.0.1", "-p", &port.number().to_string()]);
        let process = Process::start("moto", &mut command, &folder.path().join("moto.log"))?;
        let mut server = Self { port, credentials: Credentials::random(), process, _folder: folder };
        eventually("moto answers", async || {
            if let Err(ended) = server.process.ensure_running() {
                return Ok(Err(ended));
            }
            TcpStream::connect(server.address()).await?;
            Ok(Ok(()))
        })
        .await??;
        Ok(server)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port.number())
    }

    /// Keys; any would do.
    #[must_use]
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// A client of its S3.
    #[must_use]
    pub fn client(&self) -> S3 {
        S3::connect(&format!("http://{}", self.address()), &self.credentials)
    }

    /// Makes a queue; gives its URL.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn create_queue(&self, name: &str) -> anyhow::Result<String> {
        let made = self.sqs("CreateQueue", json!({ "QueueName": name })).await?;
        Ok(made["QueueUrl"].as_str().with_context(|| format!("no URL in {made}"))?.to_owned())
    }

    /// Makes a topic that a queue is subscribed to, without raw delivery; gives its ARN.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn create_topic_for(&self, name: &str, queue: &str) -> anyhow::Result<String> {
        self.form("sns", &format!("Action=CreateTopic&Name={name}&Version=2010-03-31")).await?;
        let topic = arn("sns", name);
        let form = format!(
            "Action=Subscribe&TopicArn={topic}&Protocol=sqs&Endpoint={}&Version=2010-03-31",
            arn("sqs", queue)
        );
        self.form("sns", &form).await?;
        Ok(topic)
    }

    /// Makes EventBridge deliver events about objects below `prefix` to a queue.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn create_rule_for(&self, prefix: &str, queue: &str) -> anyhow::Result<()> {
        let pattern =
            json!({ "source": ["aws.s3"], "detail": { "object": { "key": [{ "prefix": prefix }] } } });
        let rule = json!({ "Name": queue, "EventPattern": pattern.to_string(), "State": "ENABLED" });
        self.json("events", "AWSEvents.PutRule", "application/x-amz-json-1.1", rule).await?;
        let targets = json!({ "Rule": queue, "Targets": [{ "Id": "1", "Arn": arn("sqs", queue) }] });
        self.json("events", "AWSEvents.PutTargets", "application/x-amz-json-1.1", targets).await?;
        Ok(())
    }

    /// Sends a message.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn send(&self, queue_url: &str, body: &str) -> anyhow::Result<()> {
        self.sqs("SendMessage", json!({ "QueueUrl": queue_url, "MessageBody": body })).await.map(drop)
    }

    /// Messages of a queue that are not deleted, whoever holds them.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn messages(&self, queue_url: &str) -> anyhow::Result<u64> {
        let asked = json!({ "QueueUrl": queue_url, "AttributeNames": ["All"] });
        let told = self.sqs("GetQueueAttributes", asked).await?;
        let count = |name: &str| -> anyhow::Result<u64> {
            let text = told["Attributes"][name].as_str();
            Ok(text.with_context(|| format!("no {name} in {told}"))?.parse()?)
        };
        Ok(count("ApproximateNumberOfMessages")? + count("ApproximateNumberOfMessagesNotVisible")?)
    }

    async fn sqs(&self, action: &str, message: Value) -> anyhow::Result<Value> {
        self.json("sqs", &format!("AmazonSQS.{action}"), "application/x-amz-json-1.0", message).await
    }

    async fn json(&self, service: &str, target: &str, kind: &str, body: Value) -> anyhow::Result<Value> {
        let head = format!("x-amz-target: {target}\r\ncontent-type: {kind}");
        let answer = self.post(service, &head, &body.to_string()).await?;
        Ok(if answer.is_empty() { Value::Null } else { serde_json::from_str(&answer)? })
    }

    async fn form(&self, service: &str, body: &str) -> anyhow::Result<String> {
        self.post(service, "content-type: application/x-www-form-urlencoded", body).await
    }

    async fn post(&self, service: &str, head: &str, body: &str) -> anyhow::Result<String> {
        // It goes by the service that a request says it is signed for, and does not look at the signature.
        let request = format!(
            "POST / HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-length: {}\r\n{head}\r\nauthorization: AWS4-HMAC-SHA256 \
             Credential=any/20260101/{REGION}/{service}/aws4_request, SignedHeaders=host, Signature=0\r\n\r\n{body}",
            self.address(),
            body.len(),
        );
        let mut stream = TcpStream::connect(self.address()).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        ensure!(answer.split(' ').nth(1) == Some("200"), "{service} said to {body}: {answer}");
        Ok(answer.split_once("\r\n\r\n").context("an answer has a head")?.1.to_owned())
    }
}

/// The ARN of a queue or a topic.
#[must_use]
pub fn arn(service: &str, name: &str) -> String {
    format!("arn:aws:{service}:{REGION}:{ACCOUNT}:{name}")
}
