//! Follows the file of issuers: who is removed there is not believed any more, who is added is, and a file that cannot be used changes nothing.
//!
//! New issuers come into force once their keys were tried to be read, so that nobody is refused in between who was let in before and will be after.
//! Owns the tasks that keep keys current.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use backhaul_runtime::settings_file::{FileError, Followed};
use tokio::{
    sync::watch,
    task::{JoinError, JoinSet},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::issuers::{Issuers, KeyKeeper, MAX_FILE_BYTES};

/// How long keys of new issuers may take before they come into force without. Whoever is removed by the same file has as long.
const KEYS_WITHIN: Duration = Duration::from_secs(5);

/// The issuers that are believed now. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LiveIssuers(watch::Receiver<Arc<Issuers>>);

/// The file, and the issuers of it that are in force.
#[derive(Debug)]
pub struct Follower {
    file: Followed,
    current: watch::Sender<Arc<Issuers>>,
    /// Those that do not run yet.
    keepers: Vec<KeyKeeper>,
    /// What was told last, so that it is told once.
    told: Option<String>,
    refused: Arc<AtomicBool>,
}

impl LiveIssuers {
    /// Issuers that are never replaced.
    #[cfg(test)]
    pub(super) fn fixed(issuers: Issuers) -> Self {
        Self(watch::channel(Arc::new(issuers)).1)
    }

    /// Those in force now.
    #[must_use]
    pub fn now(&self) -> Arc<Issuers> {
        Arc::clone(&self.0.borrow())
    }

    /// Whether these are they.
    pub(super) fn are(&self, issuers: &Arc<Issuers>) -> bool {
        Arc::ptr_eq(&self.0.borrow(), issuers)
    }
}

impl Follower {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// [`FileError`], naming each setting that is wrong.
    pub fn open(path: PathBuf) -> Result<(Self, LiveIssuers), FileError> {
        let (file, text) = Followed::open("token issuers", path, MAX_FILE_BYTES)?;
        let (issuers, keepers) = Issuers::parse(&text, file.path())?;
        let (current, receiver) = watch::channel(Arc::new(issuers));
        let refused = Arc::default();
        Ok((Self { file, current, keepers, told: None, refused }, LiveIssuers(receiver)))
    }

    /// Whether what is in the file now is not in force, because it cannot be used.
    #[must_use]
    pub fn refused(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.refused)
    }

    /// Keeps keys current, and looks at the file each time `every` has passed, until `stop`.
    ///
    /// # Errors
    /// When what keeps keys current has panicked.
    pub async fn run(mut self, every: Duration, stop: CancellationToken) -> Result<(), JoinError> {
        let mut keeping = JoinSet::new();
        self.keep(&mut keeping, &stop);
        while stop.run_until_cancelled(sleep(every)).await.is_some() {
            // Those whose keys nobody has any more.
            while let Some(ended) = keeping.try_join_next() {
                ended?;
            }
            if let Some(issuers) = self.look() {
                self.keep(&mut keeping, &stop);
                stop.run_until_cancelled(timeout(KEYS_WITHIN, issuers.tried())).await;
                self.put_in_force(issuers);
            }
        }
        while let Some(ended) = keeping.join_next().await {
            ended?;
        }
        Ok(())
    }

    fn keep(&mut self, keeping: &mut JoinSet<()>, stop: &CancellationToken) {
        for keeper in self.keepers.drain(..) {
            keeping.spawn(keeper.run(stop.clone()));
        }
    }

    /// Looks at the file once. The issuers that it names, if that is something new and of use.
    pub(super) fn look(&mut self) -> Option<Issuers> {
        let text = self.file.look()?;
        let current = Arc::clone(&self.current.borrow());
        let made = text.and_then(|text| current.replaced(&text, self.file.path()));
        self.refused.store(made.is_err(), Ordering::Relaxed);
        match made {
            Ok((issuers, keepers)) => {
                self.told = None;
                self.keepers = keepers;
                Some(issuers)
            }
            Err(error) => {
                // It may be for a file that is named there and comes later.
                self.file.forget();
                let text = Some(error.to_string());
                if self.told != text {
                    warn!(
                        error = &error as &dyn std::error::Error,
                        "new token issuers not used; those before stay in force"
                    );
                    self.told = text;
                }
                None
            }
        }
    }

    /// From now on these are believed, and streams of those who were let in by others end.
    pub(super) fn put_in_force(&self, issuers: Issuers) {
        let issuers = Arc::new(issuers);
        let before = self.current.send_replace(Arc::clone(&issuers));
        let withdrawn = before.withdraw_but(&issuers);
        info!(issuers = issuers.len(), withdrawn, "token issuers replaced");
    }
}
