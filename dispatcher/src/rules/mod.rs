//! Rules: what operators have said about the objects of a location below a prefix, for whichever way they come to be backed up.
//!
//! A rule gives them a retention class, gives those that an event tells of a priority and a level of proof, and may have the prefix
//! listed again and again, on a schedule. Which rule an object belongs to is decided by its name alone, so that it is the same
//! whoever asks for its backup. Reading the file is [`mod@file`]'s matter, following it [`follow`]'s; nothing here may know tonic or Redis.

pub mod file;
pub mod follow;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use tokio::sync::watch;

use crate::{
    queue::{
        NewTask, ObjectRef, Priority, VerifyLevel,
        walk::{FoundObject, WalkId, WalkSpec},
    },
    schedule::calendar::Calendar,
};

/// What the names of prefix backups begin with that rules make. No caller can use it.
pub const MARK: &str = "rule:";
/// Label of the tasks that a rule has something to say about: its name.
pub const LABEL: &str = "rule";

/// All rules, by name.
#[derive(Debug, Clone, Default)]
pub struct Rules(Vec<Arc<Rule>>);

/// What is said about the objects below a prefix.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Its name: 1 to 63 bytes of [a-z0-9-], starting with a letter.
    pub name: String,
    /// What a run backs up, and how; its `request_id` is only that of an example.
    spec: WalkSpec,
    /// Band of tasks that events ask for; `None` for the ordinary one.
    pub priority: Option<Priority>,
    /// Retention class of copies; empty for none.
    pub retention_class: String,
    /// When runs are due; `None` when none is by itself.
    pub calendar: Option<Calendar>,
    /// The expression, as it was written; empty for none.
    pub schedule: String,
    /// The zone, as it was written.
    pub time_zone: String,
}

/// The rules in force, which may be replaced at any time. Clones are the same.
#[derive(Debug, Clone)]
pub struct LiveRules(watch::Receiver<Arc<Rules>>);

impl Rules {
    /// These; names are different.
    fn new(mut rules: Vec<Arc<Rule>>) -> Self {
        rules.sort_by(|one, other| one.name.cmp(&other.name));
        Self(rules)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.0.iter()
    }

    /// The rule of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Rule>> {
        self.iter().find(|rule| rule.name == name)
    }

    /// The rule that an object of `tenant` belongs to: of those that cover it the one that says most about its name, and of several such
    /// the first by name.
    #[must_use]
    pub fn of_object(&self, tenant: &str, location: &str, bucket: &str, key: &str) -> Option<&Arc<Rule>> {
        let covering = self.0.iter().filter(|rule| rule.covers(tenant, location, bucket, key));
        // The first of the longest: `max_by_key` would give the last.
        covering.rev().max_by_key(|rule| (rule.spec.prefix.len(), rule.spec.filter.suffix.len()))
    }

    /// The retention class of an object of `tenant`; empty for none.
    #[must_use]
    pub fn class_of(&self, tenant: &str, object: &ObjectRef) -> String {
        let rule = self.of_object(tenant, &object.location, &object.bucket, &object.key);
        rule.map(|rule| rule.retention_class.clone()).unwrap_or_default()
    }

    /// The task that backs up an object which a walk has found.
    #[must_use]
    pub fn task(&self, walk: &WalkSpec, id: &WalkId, found: &FoundObject) -> NewTask {
        let mut task = walk.task(id, found);
        task.spec.retention_class = self.class_of(&task.spec.tenant, &task.spec.object);
        task
    }
}

impl Rule {
    /// Whose objects they are.
    #[must_use]
    pub fn tenant(&self) -> &str {
        &self.spec.tenant
    }

    /// Where, and which.
    #[must_use]
    pub const fn spec(&self) -> &WalkSpec {
        &self.spec
    }

    /// Proof wanted; `None` means the location's level.
    #[must_use]
    pub const fn verify(&self) -> Option<VerifyLevel> {
        self.spec.verify
    }

    /// What a run of that name asks for.
    #[must_use]
    pub fn run(&self, request_id: &str) -> WalkSpec {
        WalkSpec { request_id: request_id.to_owned(), ..self.spec.clone() }
    }

    fn covers(&self, tenant: &str, location: &str, bucket: &str, key: &str) -> bool {
        let spec = &self.spec;
        (spec.tenant.as_str(), spec.location.as_str(), spec.bucket.as_str()) == (tenant, location, bucket)
            && key.as_bytes().starts_with(spec.prefix.as_bytes())
            && key.as_bytes().ends_with(spec.filter.suffix.as_bytes())
    }
}

impl LiveRules {
    /// Rules that are never replaced.
    #[must_use]
    pub fn fixed(rules: Rules) -> Self {
        Self(watch::channel(Arc::new(rules)).1)
    }

    /// Those in force now.
    #[must_use]
    pub fn now(&self) -> Arc<Rules> {
        Arc::clone(&self.0.borrow())
    }

    /// Waits until others are in force; for ever when that cannot be.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Default for LiveRules {
    fn default() -> Self {
        Self::fixed(Rules::default())
    }
}
