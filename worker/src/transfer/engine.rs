//! The engine: discovers what there is to copy, decides how, and begins again when the source changes under its hands.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use backhaul_runtime::locations::{self, Feature, Location, Locations, Retain};
use tokio::{
    sync::{Notify, OnceCell, watch},
    time::Instant,
};
use tracing::{info, warn};

use super::{
    Copier, CopyReceipt, CopyRequest, ProgressCell, Step, Stop, TransferError, TransferErrorKind,
    VerifyLevel,
    breaker::StoreState,
    capability::Capabilities,
    failure::{Halt, Refusal, Side, failed},
    gate::Gate,
    janitor::{Janitor, Watch},
    job::Job,
    key::{PrefixTooLong, check_prefix},
    large,
    permits::MemoryBudget,
    route::{Route, Site, Target},
    server_side::{self, Inside, Why},
    settings::{EngineSettings, SettingsError},
    sight::TagSight,
    source::{self, Source, TagsWanted},
    upload::{self, Upload},
    whole,
};
use crate::store::{CaBundleError, Clients, CredentialsError, ObjectStore, StoreError};

/// Copies objects between the configured locations.
#[derive(Debug)]
pub struct Engine {
    pub(super) settings: EngineSettings,
    memory: MemoryBudget,
    readback_memory: MemoryBudget,
    pub(super) routes: BTreeMap<String, Route>,
    /// Routes of copies under retention classes, by `LOCATION/CLASS`.
    classes: BTreeMap<String, Route>,
    pub(super) sites: Vec<Arc<Site>>,
    pub(super) janitor: Janitor,
    /// Told when a store goes away or comes back.
    pub(super) changed: Arc<Notify>,
    /// Origins that are better left alone now.
    pub(super) paused: watch::Sender<BTreeSet<String>>,
}

/// What keeps an engine from being built.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A setting cannot work.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A location's credentials cannot be read.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The additional certificates cannot be read.
    #[error(transparent)]
    CaBundle(#[from] CaBundleError),
    /// A backup target's prefix is too long.
    #[error("location `{location}`: {problem}")]
    Prefix {
        /// The origin whose target it is.
        location: String,
        /// How long it is.
        problem: PrefixTooLong,
    },
    /// A location backs up to one that does not exist.
    #[error("location `{location}` backs up to `{target}`, which does not exist")]
    NoSuchTarget {
        /// The origin.
        location: String,
        /// What it names.
        target: String,
    },
}

/// What a location's store is asked now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteLoad {
    /// Name of the location.
    pub name: String,
    /// Requests that may be under way.
    pub allowed: u32,
    /// Requests that are.
    pub in_flight: u32,
    /// Requests that were sent again, since the start.
    pub retries: u64,
    /// Whether it answers.
    pub state: StoreState,
}

/// What was found out about one backup target.
#[derive(Debug)]
pub struct Probe {
    /// Name of the backup location.
    pub location: String,
    /// Bucket.
    pub bucket: String,
    /// What it can do, or why nobody knows yet: then it is found out before the first copy that needs it.
    pub result: Result<Capabilities, StoreError>,
}

impl Engine {
    /// An engine for all locations, which reaches their stores over S3. Connects to nothing yet.
    ///
    /// # Errors
    /// [`SetupError`]: what has to be put right first.
    pub fn new(locations: &Locations, settings: EngineSettings) -> Result<Self, SetupError> {
        Self::wrapped(locations, settings, |_, store| store)
    }

    /// An engine as [`Engine::new`] makes one, which asks stores through what `wrap` makes of them.
    ///
    /// # Errors
    /// [`SetupError`], as [`Engine::new`].
    pub fn wrapped(
        locations: &Locations,
        settings: EngineSettings,
        wrap: impl Fn(&str, Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore>,
    ) -> Result<Self, SetupError> {
        settings.check()?;
        let clients = Clients::new(settings.client)?;
        let mut stores: BTreeMap<String, Arc<dyn ObjectStore>> = BTreeMap::new();
        for location in locations.iter() {
            stores.insert(location.name.clone(), wrap(&location.name, Arc::new(clients.store(location)?)));
        }
        Self::with_stores(locations, settings, |location| stores.get(&location.name).cloned())
    }

    /// An engine over stores that are already there.
    ///
    /// # Errors
    /// [`SetupError`], as [`Engine::new`]; a location without a store counts as one that does not exist.
    pub fn with_stores(
        locations: &Locations,
        settings: EngineSettings,
        store: impl Fn(&Location) -> Option<Arc<dyn ObjectStore>>,
    ) -> Result<Self, SetupError> {
        settings.check()?;
        let changed = Arc::new(Notify::new());
        let mut sites = BTreeMap::new();
        for location in locations.iter() {
            if let Some(store) = store(location) {
                let gate = Gate::new(settings.requests_per_location, location.limits, Arc::clone(&changed));
                let site = Arc::new(Site {
                    name: location.name.clone(),
                    store,
                    gate,
                    without: location.without.clone(),
                    pulse_bucket: some_bucket(locations, location),
                });
                sites.insert(location.name.as_str(), (location, site));
            }
        }
        let mut targets = BTreeMap::new();
        let (mut routes, mut classes) = (BTreeMap::new(), BTreeMap::new());
        for location in locations.iter() {
            let Some(backup) = &location.backup else { continue };
            let missing = |target: &str| SetupError::NoSuchTarget {
                location: location.name.clone(),
                target: target.to_owned(),
            };
            let (_, origin) = sites.get(location.name.as_str()).ok_or_else(|| missing(&location.name))?;
            let (other, site) =
                sites.get(backup.location.as_str()).ok_or_else(|| missing(&backup.location))?;
            check_prefix(&backup.prefix)
                .map_err(|problem| SetupError::Prefix { location: location.name.clone(), problem })?;
            let mut route = |retain: Option<Retain>| {
                let terms = (&backup.storage_class, retain.map(|r| (r.compliance, r.days)));
                let place = (&backup.location, &backup.bucket, &backup.prefix, terms);
                let target = targets.entry(place).or_insert_with(|| {
                    Arc::new(Target {
                        site: Arc::clone(site),
                        bucket: backup.bucket.clone(),
                        prefix: backup.prefix.clone(),
                        storage_class: backup.storage_class.clone(),
                        retain,
                        capabilities: OnceCell::new(),
                    })
                });
                Route {
                    origin: Arc::clone(origin),
                    target: Arc::clone(target),
                    verify: location.verify,
                    sha256: location.sha256,
                    acls: location.acls,
                    tags: TagSight::default(),
                    same_store: AtomicBool::new(same_store(location, other)),
                }
            };
            routes.insert(location.name.clone(), route(backup.retain));
            for (class, retain) in &backup.classes {
                classes.insert(format!("{}/{class}", location.name), route(Some(*retain)));
            }
        }
        Ok(Self {
            memory: MemoryBudget::new(settings.copying_bytes()),
            readback_memory: MemoryBudget::new(settings.readback_bytes()),
            settings,
            sites: sites.into_values().map(|(_, site)| site).collect(),
            routes,
            classes,
            janitor: Janitor::default(),
            changed,
            paused: watch::Sender::default(),
        })
    }

    /// Finds out what the backup targets can do. One that cannot be reached now is tried again before the first copy to it.
    pub async fn probe(&self) -> Vec<Probe> {
        let probes = self.targets().into_iter().map(|target| async {
            Probe {
                location: target.site.name.clone(),
                bucket: target.bucket.clone(),
                result: target.capabilities().await,
            }
        });
        futures_util::future::join_all(probes).await
    }

    /// Each backup target once.
    pub(super) fn targets(&self) -> Vec<&Arc<Target>> {
        let routes = self.routes.values().chain(self.classes.values());
        let mut targets: Vec<&Arc<Target>> = routes.map(|r| &r.target).collect();
        targets.sort_by_key(|t| Arc::as_ptr(t));
        targets.dedup_by_key(|t| Arc::as_ptr(t));
        targets
    }

    /// The most bytes of objects that were in memory at one time, and the most that may be.
    #[must_use]
    pub fn memory_high_water(&self) -> (u64, u64) {
        (
            self.memory.high_water_bytes() + self.readback_memory.high_water_bytes(),
            self.memory.total_bytes() + self.readback_memory.total_bytes(),
        )
    }

    /// What the stores of origins and backup targets are asked now, by name.
    #[must_use]
    pub fn sites(&self) -> Vec<SiteLoad> {
        let sites = self.routes.values().flat_map(|route| [&route.origin, &route.target.site]);
        let unique: BTreeMap<&str, &Arc<Site>> = sites.map(|site| (site.name.as_str(), site)).collect();
        let load = |site: &Arc<Site>| {
            let (allowed, in_flight) = site.gate.load();
            let (retries, state) = (site.gate.repeated.get(), site.gate.store_state());
            SiteLoad { name: site.name.clone(), allowed, in_flight, retries, state }
        };
        unique.into_values().map(load).collect()
    }

    async fn run(&self, job: &Job<'_>) -> Result<CopyReceipt, TransferError> {
        let mut leftover = upload::leftover(job);
        let watch = leftover.as_ref().map(|upload| Watch::new(job, &upload.key, Some(&upload.id)));
        let ended = self.run_with(job, &mut leftover).await;
        if let Some(watch) = watch {
            watch.end();
        }
        ended.map_err(|error| blame_the_store(job, error))
    }

    async fn run_with(
        &self,
        job: &Job<'_>,
        leftover: &mut Option<Upload>,
    ) -> Result<CopyReceipt, TransferError> {
        let mut restarts = 0;
        loop {
            let halt = match Box::pin(once(job, leftover)).await {
                Ok(receipt) => {
                    drop_leftover(job, leftover).await;
                    return Ok(receipt);
                }
                Err(halt) => halt,
            };
            let error = match halt {
                Halt::Aborted => failed(Step::Write, TransferErrorKind::Cancelled, "told to stop"),
                Halt::HandedBack => {
                    // An upload that this attempt has not even looked at is left as it was.
                    if leftover.take().is_some() {
                        job.progress.set_upload_id(&job.request.resume_upload_id);
                    }
                    failed(Step::Write, TransferErrorKind::Cancelled, "told to hand back")
                }
                Halt::Changed if restarts < job.settings.restarts => {
                    restarts += 1;
                    continue;
                }
                Halt::Changed => {
                    let message = format!("the source changed {} times during the copy", restarts + 1);
                    failed(Step::Read, TransferErrorKind::SourceChanged, message)
                }
                Halt::Redo(error) if restarts < job.settings.restarts => {
                    warn!(task.id = %job.request.task_id, %error, "copy begins again");
                    restarts += 1;
                    continue;
                }
                Halt::Redo(error) | Halt::Failed(error) => error,
            };
            drop_leftover(job, leftover).await;
            return Err(error);
        }
    }
}

#[async_trait]
impl Copier for Engine {
    async fn copy(
        &self,
        request: &CopyRequest,
        progress: Arc<ProgressCell>,
        stop: Stop,
    ) -> Result<CopyReceipt, TransferError> {
        let route = match &request.retention_class {
            None => self.routes.get(&request.location),
            Some(class) => self.classes.get(&format!("{}/{class}", request.location)),
        };
        let Some(route) = route else {
            let class =
                request.retention_class.as_ref().map(|class| format!(" with a retention class `{class}`"));
            let class = class.unwrap_or_default();
            let message = format!("no location `{}`{class} that can be backed up", request.location);
            return Err(failed(Step::Discover, TransferErrorKind::Unsupported, message));
        };
        let job = Job {
            settings: &self.settings,
            memory: &self.memory,
            readback_memory: &self.readback_memory,
            janitor: &self.janitor,
            route,
            request,
            progress: &progress,
            stop: &stop,
            verify: request.verify.unwrap_or(match route.verify {
                locations::VerifyLevel::Receipt => VerifyLevel::Receipt,
                locations::VerifyLevel::Head => VerifyLevel::Head,
                locations::VerifyLevel::Readback => VerifyLevel::Readback,
            }),
            sha256: route.sha256,
            started: Instant::now(),
            started_wall: super::clock::wall_seconds(),
        };
        self.run(&job).await
    }
}

/// One copy of what is there now.
async fn once(job: &Job<'_>, leftover: &mut Option<Upload>) -> Result<CopyReceipt, Halt> {
    let capabilities = job.unless_stopped(job.route.target.capabilities()).await;
    let capabilities = match capabilities {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => return Err(job.halt(Refusal::Store(error), Side::Backup, Step::Discover)),
        Err(refusal) => return Err(job.halt(refusal, Side::Backup, Step::Discover)),
    };
    // As the source of a copy, such a key loses its slash in some stores: another object, or none.
    if job.route.copies_inside() && !job.request.key.starts_with('/') {
        let info = source::look(job).await?;
        // A SHA-256 that the store does not know needs the bytes.
        let hashes = !job.sha256 || info.sha256.is_some() || job.verify == VerifyLevel::Readback;
        // One that is copied in parts is written as any other is.
        let terms = capabilities.copy_terms || info.size_bytes > job.settings.copy_part_bytes;
        if hashes && terms {
            let tags =
                if info.size_bytes > job.settings.copy_part_bytes { TagsWanted::Yes } else { TagsWanted::No };
            let source = Source::new(job, info, tags).await?;
            match Box::pin(server_side::copy(job, capabilities, source)).await? {
                Inside::Copied(receipt) => return Ok(*receipt),
                Inside::Not(Why::Unseen) => {}
                Inside::Not(Why::Unable(why)) => {
                    job.route.same_store.store(false, Ordering::Relaxed);
                    info!(
                        location = %job.route.origin.name,
                        target = %job.route.target.site.name,
                        why,
                        "the store cannot copy by itself; bytes pass through the worker"
                    );
                }
            }
        }
    }
    let response = source::open(job).await?;
    let info = response.info.clone();
    if info.size_bytes <= job.settings.whole_bytes {
        let source = Source::new(job, info, TagsWanted::Yes).await?;
        return Box::pin(whole::copy(job, capabilities, source, response)).await;
    }
    // Its parts are read by ranges; the connection is worth less than reading the first part alone.
    drop(response);
    let source = Source::new(job, info, TagsWanted::Yes).await?;
    Box::pin(large::copy(job, capabilities, source, leftover)).await
}

/// Aborts the upload of an earlier attempt that nobody goes on with.
async fn drop_leftover(job: &Job<'_>, leftover: &mut Option<Upload>) {
    if let Some(upload) = leftover.take() {
        upload::abort(job, &upload).await;
    }
}

/// Whether one store serves both locations, so that it can be asked to copy by itself. It is asked with the credentials of the backup
/// location; where these may not read the origin, the bytes pass through the worker.
fn same_store(one: &Location, other: &Location) -> bool {
    let able = |location: &Location| !location.without.contains(&Feature::ServerSideCopy);
    one.endpoint == other.endpoint && one.region == other.region && able(one) && able(other)
}

/// A bucket of a location: one that is read there, or one that backups go to.
fn some_bucket(locations: &Locations, location: &Location) -> String {
    let written = || locations.iter().filter_map(|l| l.backup.as_ref()).find(|b| b.location == location.name);
    let read = location.read.first().map(|rule| rule.bucket.clone());
    read.or_else(|| Some(written()?.bucket.clone())).unwrap_or_else(|| "backhaul".to_owned())
}

/// A copy that failed because a store is away has not failed by itself: its task goes back without the cost of an attempt, until the
/// store is asked again.
fn blame_the_store(job: &Job<'_>, error: TransferError) -> TransferError {
    let Some((asked, until)) = error.kind.passing().zip(job.route.away_until()) else { return error };
    let retry_after = until.saturating_duration_since(Instant::now()).max(asked);
    TransferError { kind: TransferErrorKind::Throttled { retry_after }, ..error }
}
