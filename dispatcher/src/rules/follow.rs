//! Follows the rules file: replaced rules come into force, and what cannot be used changes nothing.
//!
//! Looks at the file every now and then instead of being told: what a cluster mounts is replaced by renaming folders that no watch sees.
//! What two looks in a row have found alike counts: half of a file, or none of it yet, is a rules file as well.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use backhaul_runtime::{locations::Locations, settings_file::FileError};
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{LiveRules, Rules, file::read};
use crate::grpc::backup_service::SubmitDefaults;

/// The file, and the rules of it that are in force.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    locations: Arc<Locations>,
    defaults: SubmitDefaults,
    current: watch::Sender<Arc<Rules>>,
    /// What was taken last, whether it was of use or not.
    seen: Result<String, String>,
    /// What the last look found, where that was something else.
    coming: Option<Result<String, String>>,
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
        let text = read(&path)?;
        let rules = Rules::parse(&text, &path, &locations, defaults)?;
        let (current, receiver) = watch::channel(Arc::new(rules));
        let refused = Arc::default();
        Ok((
            Self { path, locations, defaults, current, seen: Ok(text), coming: None, refused },
            LiveRules(receiver),
        ))
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

    /// Looks at the file once. A small file on a local disk: not worth a thread.
    pub fn look(&mut self) {
        let text = read(&self.path);
        let seen = text.as_ref().map(Clone::clone).map_err(ToString::to_string);
        if seen == self.seen {
            self.coming = None;
            return;
        }
        if self.coming.as_ref() != Some(&seen) {
            self.coming = Some(seen);
            return;
        }
        self.coming = None;
        self.seen = seen;
        let made = text.and_then(|text| Rules::parse(&text, &self.path, &self.locations, self.defaults));
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
