//! From where to where: the stores of the configured locations, and what each backup target can do.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use backhaul_runtime::locations::{Feature, Retain, VerifyLevel};
use tokio::{sync::OnceCell, time::Instant};

use super::{
    capability::Capabilities,
    gate::Gate,
    key::{KEY_MAX_BYTES, Naming},
    sight::TagSight,
};
use crate::store::ObjectStore;

/// One location's store.
#[derive(Debug)]
pub(super) struct Site {
    /// Name of the location.
    pub(super) name: String,
    /// Its store.
    pub(super) store: Arc<dyn ObjectStore>,
    /// Requests under way.
    pub(super) gate: Gate,
    /// What must not be used there.
    pub(super) without: BTreeSet<Feature>,
    /// A bucket there, to see whether the store answers.
    pub(super) pulse_bucket: String,
}

/// A bucket and prefix that copies go to.
#[derive(Debug)]
pub(super) struct Target {
    /// The store.
    pub(super) site: Arc<Site>,
    /// Bucket.
    pub(super) bucket: String,
    /// Prefix of every key, without slashes at its ends; may be empty.
    pub(super) prefix: String,
    /// Storage class to ask for.
    pub(super) storage_class: Option<String>,
    /// Retention to ask for.
    pub(super) retain: Option<Retain>,
    /// What the store can do, once it was found out.
    pub(super) capabilities: OnceCell<Capabilities>,
}

/// An origin and where its copies go.
#[derive(Debug)]
pub(super) struct Route {
    /// Where objects are read.
    pub(super) origin: Arc<Site>,
    /// Where they are written.
    pub(super) target: Arc<Target>,
    /// Proof wanted unless a request asks for another.
    pub(super) verify: VerifyLevel,
    /// SHA-256 over every object besides the CRC.
    pub(super) sha256: bool,
    /// Objects of the origin have ACLs of their own.
    pub(super) acls: bool,
    /// Whether the origin tells of tags.
    pub(super) tags: TagSight,
    /// Both are the same store: it can copy by itself, until it turns out that it cannot.
    pub(super) same_store: AtomicBool,
}

impl Target {
    /// What its keys have in common. Until it is known what the store can do, what S3 would take.
    pub(super) fn naming(&self) -> Naming<'_> {
        let known = self.capabilities.get();
        Naming { prefix: &self.prefix, key_max_bytes: known.map_or(KEY_MAX_BYTES, |c| c.key_max_bytes) }
    }
}

impl Route {
    /// Until when one of the two stores is left alone.
    pub(super) fn away_until(&self) -> Option<Instant> {
        self.origin.gate.closed_until().max(self.target.site.gate.closed_until())
    }

    /// Whether the store may be asked to copy by itself.
    pub(super) fn copies_inside(&self) -> bool {
        self.same_store.load(Ordering::Relaxed)
    }
}
