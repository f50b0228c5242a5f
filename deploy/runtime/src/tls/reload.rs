//! Keeps the material current while its files are replaced.
//!
//! Looks at the files every now and then instead of being told: what a cluster mounts is replaced by renaming folders that no watch
//! sees. Files that do not hold together change nothing; the next look may find them whole.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    TlsError, TlsSettings,
    material::{Material, Texts},
};

/// Reads the files again when they have changed.
#[derive(Debug)]
pub struct Reloader {
    settings: TlsSettings,
    current: watch::Sender<Arc<Material>>,
    /// What was read last, whether it was of use or not.
    seen: Texts,
    seen_is_used: bool,
    /// What was told last, so that it is told once.
    told: Option<String>,
    /// That a revocation list is overdue was told.
    told_overdue: bool,
    state: Arc<State>,
}

/// What is known of the files besides what is in them.
#[derive(Debug, Default)]
pub(super) struct State {
    is_behind: AtomicBool,
}

/// How the files are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilesState {
    /// What the files hold is used; false while there is something in them that cannot be.
    pub are_current: bool,
    /// When the first of the revocation lists should have been replaced by a newer one; `None` without any.
    pub crl_until: Option<SystemTime>,
}

impl State {
    pub(super) fn are_current(&self) -> bool {
        !self.is_behind.load(Ordering::Relaxed)
    }
}

impl Reloader {
    pub(super) fn open(settings: TlsSettings) -> Result<(Self, watch::Receiver<Arc<Material>>), TlsError> {
        let seen = Texts::read(&settings)?;
        let material = Material::new(&settings, &seen)?;
        let (current, receiver) = watch::channel(Arc::new(material));
        let state = Arc::default();
        let reloader =
            Self { settings, current, seen, seen_is_used: true, told: None, told_overdue: false, state };
        Ok((reloader, receiver))
    }

    pub(super) fn state(&self) -> Arc<State> {
        Arc::clone(&self.state)
    }

    /// Looks at the files each time `every` has passed, until `stop`.
    pub async fn run(mut self, every: Duration, stop: CancellationToken) {
        info!(id = %self.current.borrow().id, "this program has a certificate");
        while stop.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
            self.look();
            #[expect(clippy::disallowed_methods, reason = "the edge: revocation lists end by the calendar")]
            self.look_at_lists(SystemTime::now());
        }
    }

    /// Says once that a revocation list should have been replaced.
    fn look_at_lists(&mut self, now: SystemTime) {
        let until = self.current.borrow().revocations.until();
        let is_overdue = until.is_some_and(|until| until < now);
        if is_overdue && !self.told_overdue {
            let path = self.settings.crl.as_deref().unwrap_or("".as_ref());
            warn!(path = %path.display(), "a revocation list is overdue; it is used until there is a newer one");
        }
        self.told_overdue = is_overdue;
    }

    /// Looks at the files once. True when there is new material. Small files on a local disk: not worth a thread.
    pub fn look(&mut self) -> bool {
        let read = Texts::read(&self.settings);
        let made = match read {
            Ok(texts) if texts == self.seen => {
                self.told = None;
                self.state.is_behind.store(!self.seen_is_used, Ordering::Relaxed);
                return false;
            }
            // Replaced between the first file and the last one: the next look finds them whole.
            Ok(texts) if !Texts::read(&self.settings).is_ok_and(|again| again == texts) => return false,
            Ok(texts) => {
                let made = Material::new(&self.settings, &texts);
                self.seen = texts;
                self.seen_is_used = made.is_ok();
                made
            }
            Err(error) => Err(error),
        };
        match made {
            Ok(material) => {
                info!(id = %material.id, "certificate, key, bundle and revocation lists read anew");
                self.told = None;
                self.state.is_behind.store(false, Ordering::Relaxed);
                self.current.send_replace(Arc::new(material));
                true
            }
            Err(error) => {
                self.state.is_behind.store(true, Ordering::Relaxed);
                let text = with_source(&error);
                if self.told.as_ref() != Some(&text) {
                    error!(
                        error = text,
                        "new certificate, key, bundle or revocation list not used; the old ones are kept"
                    );
                    self.told = Some(text);
                }
                false
            }
        }
    }
}

pub(super) fn with_source(error: &TlsError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
