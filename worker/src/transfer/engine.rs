//! The engine: discovers what there is to copy, decides how, and begins again when the source changes under its hands.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use backhaul_runtime::locations::{self, Location, Locations};
use tokio::{sync::OnceCell, time::Instant};
use tracing::{info, warn};

use super::{
    Copier, CopyReceipt, CopyRequest, ProgressCell, Step, Stop, TransferError, TransferErrorKind,
    VerifyLevel,
    capability::Capabilities,
    failure::{Halt, Refusal, Side, failed},
    gate::Gate,
    job::Job,
    key::{PrefixTooLong, check_prefix},
    large,
    permits::MemoryBudget,
    route::{Route, Site, Target},
    server_side::{self, Inside},
    settings::{EngineSettings, SettingsError},
    small,
    source::{self, Source, TagsWanted},
    upload::{self, Upload},
};
use crate::store::{CaBundleError, Clients, CredentialsError, ObjectStore, StoreError};

/// Copies objects between the configured locations.
#[derive(Debug)]
pub struct Engine {
    settings: EngineSettings,
    memory: MemoryBudget,
    readback_memory: MemoryBudget,
    routes: BTreeMap<String, Route>,
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
        let mut sites = BTreeMap::new();
        for location in locations.iter() {
            if let Some(store) = store(location) {
                let gate = Gate::new(settings.requests_per_location);
                let site = Arc::new(Site { name: location.name.clone(), store, gate });
                sites.insert(location.name.as_str(), (location, site));
            }
        }
        let mut targets: BTreeMap<(&str, &str, &str), Arc<Target>> = BTreeMap::new();
        let mut routes = BTreeMap::new();
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
            let place = (backup.location.as_str(), backup.bucket.as_str(), backup.prefix.as_str());
            let target = targets.entry(place).or_insert_with(|| {
                Arc::new(Target {
                    site: Arc::clone(site),
                    bucket: backup.bucket.clone(),
                    prefix: backup.prefix.clone(),
                    capabilities: OnceCell::new(),
                })
            });
            let route = Route {
                origin: Arc::clone(origin),
                target: Arc::clone(target),
                verify: location.verify,
                sha256: location.sha256,
                same_store: AtomicBool::new(same_store(location, other)),
                etag_is_no_md5: AtomicBool::new(false),
            };
            routes.insert(location.name.clone(), route);
        }
        let readback = settings.readback_bytes();
        Ok(Self {
            memory: MemoryBudget::new(settings.memory_bytes - readback),
            readback_memory: MemoryBudget::new(readback),
            settings,
            routes,
        })
    }

    /// Finds out what the backup targets can do. One that cannot be reached now is tried again before the first copy to it.
    pub async fn probe(&self) -> Vec<Probe> {
        let mut targets: Vec<&Arc<Target>> = self.routes.values().map(|r| &r.target).collect();
        targets.sort_by_key(|t| Arc::as_ptr(t));
        targets.dedup_by_key(|t| Arc::as_ptr(t));
        let probes = targets.into_iter().map(|target| async {
            Probe {
                location: target.site.name.clone(),
                bucket: target.bucket.clone(),
                result: target.capabilities().await,
            }
        });
        futures_util::future::join_all(probes).await
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
            SiteLoad { name: site.name.clone(), allowed, in_flight, retries: site.gate.repeated.get() }
        };
        unique.into_values().map(load).collect()
    }

    async fn run(&self, job: &Job<'_>) -> Result<CopyReceipt, TransferError> {
        let mut leftover = upload::leftover(job);
        let mut restarts = 0;
        loop {
            let halt = match Box::pin(once(job, &mut leftover)).await {
                Ok(receipt) => {
                    drop_leftover(job, &mut leftover).await;
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
            drop_leftover(job, &mut leftover).await;
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
        let Some(route) = self.routes.get(&request.location) else {
            let message = format!("no location `{}` that can be backed up", request.location);
            return Err(failed(Step::Discover, TransferErrorKind::Unsupported, message));
        };
        let job = Job {
            settings: &self.settings,
            memory: &self.memory,
            readback_memory: &self.readback_memory,
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
    if job.route.copies_inside() {
        let info = source::look(job).await?;
        // A SHA-256 that the store does not know needs the bytes.
        if !job.sha256 || info.sha256.is_some() || job.verify == VerifyLevel::Readback {
            let tags = if info.size_bytes > job.settings.copy_part_bytes {
                TagsWanted::UnlessCountedNone
            } else {
                TagsWanted::No
            };
            let source = Source::new(job, info, tags).await?;
            match Box::pin(server_side::copy(job, capabilities, source)).await? {
                Inside::Copied(receipt) => return Ok(*receipt),
                Inside::Unable(why) => {
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
    if info.size_bytes <= job.settings.part_bytes {
        let source = Source::new(job, info, TagsWanted::IfCounted).await?;
        return Box::pin(small::copy(job, capabilities, source, response)).await;
    }
    // Its parts are read by ranges; the connection is worth less than reading the first part alone.
    drop(response);
    let source = Source::new(job, info, TagsWanted::IfCounted).await?;
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
    one.endpoint == other.endpoint && one.region == other.region
}
