//! What a scenario may ask for. The defaults are the shortest times at which nothing happens by accident on a slow machine.

use std::sync::Arc;

use crate::{
    certificates::Certificates,
    locations::{ORIGIN_BUCKET, Read},
    redis::RedisOptions,
    store::StoreKind,
    weed::Webhook,
};

/// What a scenario needs to differ from the ordinary.
#[derive(Debug, Clone)]
pub struct EnvOptions {
    /// The Redis; the machine's own, with every write on disk before it is answered, when not set.
    /// A flag `redis-url` of the dispatcher leaves it unused.
    pub redis: Option<RedisOptions>,
    /// Store that objects are uploaded to.
    pub origin: StoreKind,
    /// Where the origin, which is a SeaweedFS then, posts word of every change to.
    pub webhook: Option<Webhook>,
    /// Store that backups go to; the origin itself when not set.
    pub vault: Option<StoreKind>,
    /// What may be backed up.
    pub reads: Vec<Read>,
    /// What the programs and the test's own calls prove themselves with; plaintext when not set.
    pub certificates: Option<Arc<Certificates>>,
    /// Workers at the start.
    pub workers: usize,
    /// Flags of the dispatcher besides those that say where everything is: name without dashes, value.
    pub dispatcher_flags: Vec<(String, String)>,
    /// Flags of each worker, likewise.
    pub worker_flags: Vec<(String, String)>,
}

impl Default for EnvOptions {
    /// Two embedded stores, one dispatcher, one worker, times short enough for a test.
    fn default() -> Self {
        let flag = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let dispatcher = [
            ("lease", "3s"),
            ("accept-within", "1s"),
            ("sweep-every", "100ms"),
            ("retry-base", "200ms"),
            ("retry-floor", "20ms"),
            ("retry-max", "2s"),
            ("processing-timeout", "30s"),
            ("drain-within", "5s"),
            ("shards", "2"),
        ];
        Self {
            redis: None,
            origin: StoreKind::Embedded,
            webhook: None,
            vault: Some(StoreKind::Embedded),
            reads: vec![Read::all_of(ORIGIN_BUCKET)],
            certificates: None,
            workers: 1,
            dispatcher_flags: dispatcher.map(flag).to_vec(),
            worker_flags: vec![flag(("drain-within", "5s"))],
        }
    }
}

impl EnvOptions {
    /// Sets a flag of the dispatcher.
    #[must_use]
    pub fn dispatcher_flag(mut self, name: &str, value: &str) -> Self {
        set(&mut self.dispatcher_flags, name, value);
        self
    }

    /// Sets a flag of every worker.
    #[must_use]
    pub fn worker_flag(mut self, name: &str, value: &str) -> Self {
        set(&mut self.worker_flags, name, value);
        self
    }

    /// Sets how many workers there are at the start.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// Has everybody prove who they are.
    #[must_use]
    pub fn secured(mut self, certificates: &Arc<Certificates>) -> Self {
        self.certificates = Some(Arc::clone(certificates));
        self
    }

    /// Sets the kind of both stores.
    #[must_use]
    pub fn stores(mut self, kind: StoreKind) -> Self {
        self.origin = kind;
        self.vault = Some(kind);
        self
    }

    /// Makes the origin a SeaweedFS that posts word of every change.
    #[must_use]
    pub fn webhook(mut self, webhook: Webhook) -> Self {
        self.webhook = Some(webhook);
        self
    }

    /// Sets the Redis.
    #[must_use]
    pub fn redis(mut self, redis: RedisOptions) -> Self {
        self.redis = Some(redis);
        self
    }
}

/// Sets a flag, whatever it was.
pub(super) fn set(flags: &mut Vec<(String, String)>, name: &str, value: &str) {
    flags.retain(|(given, _)| given != name);
    flags.push((name.to_owned(), value.to_owned()));
}
