//! Keeps the material current while its files are replaced.
//!
//! Looks at the files every now and then instead of being told: what a cluster mounts is replaced by renaming folders that no watch
//! sees. Files that do not hold together change nothing; the next look may find them whole.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

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
    /// What was told last, so that it is told once.
    told: Option<String>,
}

impl Reloader {
    pub(super) fn open(settings: TlsSettings) -> Result<(Self, watch::Receiver<Arc<Material>>), TlsError> {
        let seen = Texts::read(&settings)?;
        let material = Material::new(&settings, &seen)?;
        let (current, receiver) = watch::channel(Arc::new(material));
        Ok((Self { settings, current, seen, told: None }, receiver))
    }

    /// Looks at the files each time `every` has passed, until `stop`.
    pub async fn run(mut self, every: Duration, stop: CancellationToken) {
        info!(id = %self.current.borrow().id, "this program has a certificate");
        while stop.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
            self.look();
        }
    }

    /// Looks at the files once. True when there is new material. Small files on a local disk: not worth a thread.
    pub fn look(&mut self) -> bool {
        let read = Texts::read(&self.settings);
        let made = match read {
            Ok(texts) if texts == self.seen => {
                self.told = None;
                return false;
            }
            // Replaced between the first file and the last one: the next look finds them whole.
            Ok(texts) if !Texts::read(&self.settings).is_ok_and(|again| again == texts) => return false,
            Ok(texts) => {
                let made = Material::new(&self.settings, &texts);
                self.seen = texts;
                made
            }
            Err(error) => Err(error),
        };
        match made {
            Ok(material) => {
                info!(id = %material.id, "certificate, key and bundle replaced");
                self.told = None;
                self.current.send_replace(Arc::new(material));
                true
            }
            Err(error) => {
                let text = with_source(&error);
                if self.told.as_ref() != Some(&text) {
                    error!(error = text, "new certificate, key or bundle not used; the old ones are kept");
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
