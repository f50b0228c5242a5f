//! Workers in this process: real links and runners, with copies that only take time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use async_trait::async_trait;
use backhaul_worker::{
    app::{self, AppError},
    config::WorkerSettings,
    link::LinkGauges,
    transfer::{
        Copier, CopyReceipt, CopyRequest, ProgressCell, Step, Stop, TransferError, TransferErrorKind,
        VerifyLevel,
    },
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{PATIENCE, servers::LOCATION};

/// Workers that share what they have seen.
#[derive(Debug)]
pub(crate) struct Crew {
    urls: Vec<String>,
    takes: Duration,
    seen: Arc<Mutex<Seen>>,
    members: Vec<Member>,
}

/// What all of them have done.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Copies begun, by object: by which worker, and when.
    pub(crate) begun: HashMap<String, Vec<(usize, Instant)>>,
    pub(crate) finished: usize,
}

#[derive(Debug)]
struct Member {
    stop: CancellationToken,
    gauges: Arc<LinkGauges>,
    running: JoinSet<Result<(), AppError>>,
}

/// Copies that only take time.
#[derive(Debug)]
struct Sleeper {
    worker: usize,
    takes: Duration,
    seen: Arc<Mutex<Seen>>,
}

impl Crew {
    /// So many workers that know these dispatchers, with a stream each. Each of their copies takes `takes`.
    pub(crate) async fn hire(urls: Vec<String>, count: usize, takes: Duration) -> anyhow::Result<Self> {
        let mut crew = Self { urls, takes, seen: Arc::default(), members: Vec::new() };
        for _ in 0..count {
            crew.join()?;
        }
        let connected = async {
            while !crew.members.iter().all(|member| member.gauges.ready.is_ready()) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, connected).await.context("the workers do not connect")?;
        Ok(crew)
    }

    /// One more.
    pub(crate) fn join(&mut self) -> anyhow::Result<()> {
        let member = self.start(self.members.len())?;
        self.members.push(member);
        Ok(())
    }

    fn start(&self, number: usize) -> anyhow::Result<Member> {
        let settings = WorkerSettings {
            dispatchers: self.urls.iter().map(|url| url.parse()).collect::<Result<_, _>>()?,
            name: format!("worker-{number}"),
            origins: [LOCATION.to_owned()].into(),
            retention_classes: [].into(),
            max_tasks: 10,
            memory_bytes: 512 << 20,
            part_bytes: 16 << 20,
            drain_within: Duration::from_secs(25),
            security: None,
        };
        let copier = Sleeper { worker: number, takes: self.takes, seen: Arc::clone(&self.seen) };
        let (stop, gauges, mut running) =
            (CancellationToken::new(), Arc::<LinkGauges>::default(), JoinSet::new());
        running.spawn(app::run_with(settings, Arc::new(copier), Arc::clone(&gauges), stop.clone()));
        Ok(Member { stop, gauges, running })
    }

    /// How long copies of members that are started from now on take.
    pub(crate) fn set_takes(&mut self, takes: Duration) {
        self.takes = takes;
    }

    /// How many members there are.
    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    /// Streams that each member has had.
    pub(crate) fn welcomes(&self) -> Vec<u64> {
        self.members.iter().map(|member| member.gauges.welcomes.get()).collect()
    }

    /// Drops them as a kill would.
    pub(crate) fn vanish(&mut self) {
        self.members.clear();
    }

    /// Asks one to end, in order, and starts it again.
    pub(crate) async fn restart(&mut self, number: usize) -> anyhow::Result<()> {
        self.members[number].end().await?;
        self.members[number] = self.start(number)?;
        Ok(())
    }

    /// Asks all to end, in order.
    pub(crate) async fn leave(mut self) -> anyhow::Result<()> {
        for member in &mut self.members {
            member.end().await?;
        }
        Ok(())
    }

    /// What has been done so far.
    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until enough has been done.
    pub(crate) async fn until(
        &self,
        what: &'static str,
        enough: impl Fn(&Seen) -> bool,
    ) -> anyhow::Result<()> {
        let reached = async {
            while !enough(&self.seen()) {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, reached).await.with_context(|| format!("not reached: {what}"))
    }
}

impl Seen {
    /// Objects whose copy was begun more than once.
    pub(crate) fn repeated(&self) -> usize {
        self.begun.values().filter(|begun| begun.len() > 1).count()
    }
}

impl Member {
    async fn end(&mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        Ok(self.running.join_next().await.context("it was started")???)
    }
}

#[async_trait]
impl Copier for Sleeper {
    async fn copy(
        &self,
        request: &CopyRequest,
        progress: Arc<ProgressCell>,
        stop: Stop,
    ) -> Result<CopyReceipt, TransferError> {
        let seen = || self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen().begun.entry(request.key.clone()).or_default().push((self.worker, Instant::now()));
        if !self.takes.is_zero() {
            tokio::select! {
                () = sleep(self.takes) => {}
                () = stop.hand_back.cancelled() => {
                    let (kind, message) = (TransferErrorKind::Cancelled, "told to hand back".to_owned());
                    return Err(TransferError { step: Step::Read, kind, message, source: None });
                }
            }
        }
        progress.add_bytes(1);
        seen().finished += 1;
        Ok(CopyReceipt {
            source_version: String::new(),
            source_etag: "e".into(),
            source_modified: None,
            backup_location: "vault".into(),
            backup_bucket: "backups".into(),
            backup_key: format!("{}/{}~v", request.bucket, request.key),
            backup_version: String::new(),
            backup_etag: "e".into(),
            size_bytes: 1,
            crc64nvme: 1,
            sha256: None,
            verified: VerifyLevel::Receipt,
            already_present: false,
            not_kept: Vec::new(),
            parts: 0,
            server_side: false,
            elapsed: self.takes,
        })
    }
}
