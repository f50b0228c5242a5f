//! What the tests of events share: locations, sources, and an intake over the reference queue.

use std::{path::Path, sync::Arc, time::Duration};

use backhaul_runtime::locations::Locations;

use super::{
    intake::Intake,
    parse::Form,
    quarantine::{MemoryQuarantine, Quarantine},
    removals::{MemoryRemovals, Removals},
    sources::{EventSource, Sources},
};
use crate::{
    audit::Audit,
    config::Config,
    grpc::{backup_service::SubmitDefaults, testing},
    queue::{ListQuery, QueueClock, TaskQueue, TaskRecord, memory::MemoryQueue},
    rules::LiveRules,
};

/// The token of every source with one.
pub(crate) const TOKEN: &str = "0123456789abcdef0123456789abcdef";
/// The topic of the source `aws`.
pub(crate) const TOPIC: &str = "arn:aws:sns:eu-west-1:111122223333:uploads";

/// An intake and all that it writes to.
pub(crate) struct Kit {
    pub(crate) queue: Arc<dyn TaskQueue>,
    pub(crate) quarantine: Arc<MemoryQuarantine>,
    pub(crate) removals: Arc<MemoryRemovals>,
    pub(crate) intake: Arc<Intake>,
}

impl Kit {
    pub(crate) fn new() -> Self {
        let config = Config::from_args(["dispatcher", "--insecure", "--locations", "unused"]).unwrap();
        Self::over(Arc::new(MemoryQueue::new(config.queue, QueueClock::Server)))
    }

    pub(crate) fn over(queue: Arc<dyn TaskQueue>) -> Self {
        Self::ruled(queue, LiveRules::default())
    }

    /// With these rules in force.
    pub(crate) fn ruled(queue: Arc<dyn TaskQueue>, rules: LiveRules) -> Self {
        let quarantine = Arc::<MemoryQuarantine>::default();
        let removals = Arc::<MemoryRemovals>::default();
        let intake = Intake {
            queue: Arc::clone(&queue),
            locations: locations(),
            defaults: SubmitDefaults { max_attempts: 5, processing_timeout: Duration::from_secs(600) },
            rules,
            quarantine: Arc::<MemoryQuarantine>::clone(&quarantine) as Arc<dyn Quarantine>,
            removals: Arc::<MemoryRemovals>::clone(&removals) as Arc<dyn Removals>,
            metrics: Arc::default(),
            audit: Audit::off(),
        };
        Self { queue, quarantine, removals, intake: Arc::new(intake) }
    }

    /// All tasks that there are.
    pub(crate) async fn tasks(&self) -> Vec<TaskRecord> {
        let mut tasks = Vec::new();
        let mut query = ListQuery {
            tenant: "web".into(),
            states: Vec::new(),
            reasons: Vec::new(),
            location: None,
            bucket: None,
            key_prefix: String::new(),
            labels: std::collections::BTreeMap::new(),
            finished_from: None,
            finished_until: None,
            cursor: None,
            limit: 500,
        };
        loop {
            let page = self.queue.list(&query).await.unwrap();
            tasks.extend(page.tasks);
            query.cursor = page.next;
            if query.cursor.is_none() {
                return tasks;
            }
        }
    }
}

/// `web` may have `users/` of `photos` backed up.
pub(crate) fn locations() -> Arc<Locations> {
    Arc::new(Locations::parse(testing::LOCATIONS, Path::new("test")).unwrap())
}

/// One source for each form with a token, named as the form, and `aws`, which is SNS.
pub(crate) fn sources(token_file: &Path) -> Arc<Sources> {
    let mut text = format!(
        "[[event_source]]\nname = 'aws'\nform = 'sns'\nlocation = 'uploads'\ntenant = 'web'\nsns_topic = '{TOPIC}'\n"
    );
    for form in ["s3", "minio", "ceph", "eventbridge", "seaweedfs"] {
        text += &format!(
            "[[event_source]]\nname = '{form}'\nform = '{form}'\nlocation = 'uploads'\ntenant = 'web'\ntoken_file = '{}'\n",
            token_file.display()
        );
    }
    Arc::new(Sources::parse(&text, Path::new("test"), &locations()).unwrap())
}

/// The source of that form.
pub(crate) fn source(form: Form) -> Arc<EventSource> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, TOKEN).unwrap();
    let sources = sources(&file);
    sources.iter().find(|source| source.form == form).map(Arc::clone).unwrap()
}

/// A record as AWS S3 writes it; `key` is taken as it is.
pub(crate) fn record(event: &str, key: &str) -> String {
    format!(
        r#"{{"eventVersion":"2.1","eventSource":"aws:s3","awsRegion":"eu-west-1","eventTime":"2026-01-01T00:00:00.000Z","eventName":"{event}","userIdentity":{{"principalId":"A"}},"requestParameters":{{"sourceIPAddress":"127.0.0.1"}},"responseElements":{{"x-amz-request-id":"C3D13FE58DE4C810"}},"s3":{{"s3SchemaVersion":"1.0","configurationId":"c","bucket":{{"name":"photos","ownerIdentity":{{"principalId":"A"}},"arn":"arn:aws:s3:::photos"}},"object":{{"key":"{key}","size":1024,"eTag":"d41d8cd98f00b204e9800998ecf8427e","versionId":"v1","sequencer":"0055AED6DCD90281E5"}}}}}}"#
    )
}

/// A body of records.
pub(crate) fn body(records: &[String]) -> Vec<u8> {
    format!("{{\"Records\":[{}]}}", records.join(",")).into_bytes()
}
