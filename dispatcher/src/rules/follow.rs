//! Follows the rules file: replaced rules come into force, and what cannot be used changes nothing.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use backhaul_runtime::{
    locations::Locations,
    settings_file::{FileError, Followed},
};
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{LiveRules, Rules, file::MAX_FILE_BYTES};
use crate::grpc::backup_service::SubmitDefaults;

/// The file, and the rules of it that are in force.
#[derive(Debug)]
pub struct Follower {
    file: Followed,
    locations: Arc<Locations>,
    defaults: SubmitDefaults,
    current: watch::Sender<Arc<Rules>>,
    refused: Arc<AtomicBool>,
}

impl Follower {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// [`FileError`], naming each rule and setting that is wrong.
    pub fn open(
        path: PathBuf,
        locations: Arc<Locations>,
        defaults: SubmitDefaults,
    ) -> Result<(Self, LiveRules), FileError> {
        let (file, text) = Followed::open("rules", path, MAX_FILE_BYTES)?;
        let rules = Rules::parse(&text, file.path(), &locations, defaults)?;
        let (current, receiver) = watch::channel(Arc::new(rules));
        let refused = Arc::default();
        Ok((Self { file, locations, defaults, current, refused }, LiveRules(receiver)))
    }

    /// Whether what is in the file now is not in force, because it cannot be used.
    #[must_use]
    pub fn refused(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.refused)
    }

    /// Looks at the file each time `every` has passed, until `stop`.
    pub async fn run(mut self, every: Duration, stop: CancellationToken) {
        info!(rules = self.current.borrow().iter().count(), "rules are in force");
        while stop.run_until_cancelled(sleep(every)).await.is_some() {
            self.look();
        }
    }

    /// Looks at the file once.
    pub fn look(&mut self) {
        let Some(text) = self.file.look() else { return };
        let made =
            text.and_then(|text| Rules::parse(&text, self.file.path(), &self.locations, self.defaults));
        self.refused.store(made.is_err(), Ordering::Relaxed);
        match made {
            Ok(rules) => {
                info!(rules = rules.iter().count(), "rules replaced");
                self.current.send_replace(Arc::new(rules));
            }
            Err(error) => {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "new rules not used; those before stay in force"
                );
            }
        }
    }
}
