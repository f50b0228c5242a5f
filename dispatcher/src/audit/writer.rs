//! The one writer of the audit log: takes what waits, seals it, writes it, and says when that does not work.
//!
//! Entries are written in batches, some milliseconds after the first of a batch, and brought to the disk once a second. While writing fails
//! they wait in memory; when there is no more room they are counted, and the log tells how many as soon as it can be written again.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use backhaul_runtime::{
    audit::{FileOptions, Found, Key, KeyError, LogFile, OpenError, Seal},
    build,
};
use tokio::{
    task::{JoinError, spawn_blocking},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{Audit, Shared};
use crate::queue::QueueClock;

/// What comes within this time after an entry is written with it.
const GATHER: Duration = Duration::from_millis(20);
/// How often what was written is brought to the disk.
const SYNC_EVERY: Duration = Duration::from_secs(1);
/// First and longest wait before writing is tried again.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// How long the last entries are tried to be written at the end.
const END_WITHIN: Duration = Duration::from_secs(3);

/// Where the log is and how it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditSettings {
    /// The file.
    pub path: PathBuf,
    /// File with the key that lines are sealed with.
    pub key_file: Option<PathBuf>,
    /// When a file is set aside, and how many of those are kept.
    pub file: FileOptions,
    /// Nothing is done that cannot be recorded.
    pub is_required: bool,
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The key cannot be used.
    #[error("--audit-key-file: {0}")]
    Key(#[from] KeyError),
    /// The log cannot be written.
    #[error("--audit-log: {0}")]
    Open(#[from] OpenError),
}

/// Writes the log. To be run once.
#[derive(Debug)]
pub struct AuditWriter {
    log: LogFile,
    found: Found,
    shared: Arc<Shared>,
    path: PathBuf,
}

/// The log, and what is on its way into it.
struct Writing {
    log: LogFile,
    /// Taken and not yet sealed.
    bodies: VecDeque<String>,
    /// Entries that were taken since all was written.
    taken: u64,
    /// When what was written has to be brought to the disk.
    sync_at: Option<Instant>,
    /// Until the next try, while writing fails.
    wait: Duration,
    path: PathBuf,
}

impl AuditWriter {
    /// Opens the log, and gives what to record with. Blocks for a moment.
    ///
    /// # Errors
    /// [`AuditError`]; nothing was written then.
    pub fn open(settings: &AuditSettings) -> Result<(Audit, Self), AuditError> {
        let seal = match &settings.key_file {
            Some(path) => Seal::Keyed(Key::read(path)?),
            None => Seal::Plain,
        };
        let clock = QueueClock::Server;
        let (log, found) = LogFile::open(&settings.path, settings.file, seal, clock.local_now().0)?;
        let shared = Arc::new(Shared::new(settings.is_required, clock));
        let audit = Audit(Some(Arc::clone(&shared)));
        // Before anything else can be.
        let mut start = audit.entry("start");
        start.text("program", "backhaul-dispatcher").text("version", build::text());
        start.number("pid", std::process::id().into()).flag("required", shared.is_required);
        audit.record(start);
        Ok((audit, Self { log, found, shared, path: settings.path.clone() }))
    }

    /// Writes until `stop`, and then what is left.
    ///
    /// # Errors
    /// When the writing thread panicked.
    pub async fn run(self, stop: CancellationToken) -> Result<(), JoinError> {
        let Self { log, found, shared, path } = self;
        let audit = Audit(Some(Arc::clone(&shared)));
        info!(path = %path.display(), head = %log.head(), "the audit log is written");
        if let Some(torn) = found.torn {
            let (bytes, damaged) = (torn.bytes, torn.is_damaged);
            warn!(path = %path.display(), bytes, damaged, "the audit log did not end with a whole line: what is there stays, and the log tells of it");
        }
        let mut writing =
            Writing { log, bodies: VecDeque::new(), taken: 0, sync_at: None, wait: FIRST_WAIT, path };
        while stop.run_until_cancelled(writing.pause(&shared)).await.is_some() {
            writing = writing.turn(&audit, &shared, false).await?;
        }
        audit.record(audit.entry("stop"));
        let deadline = Instant::now() + END_WITHIN;
        loop {
            writing = writing.turn(&audit, &shared, true).await?;
            if writing.is_done(&shared) || Instant::now() >= deadline {
                break;
            }
            sleep(FIRST_WAIT).await;
        }
        let is_whole = writing.is_done(&shared);
        info!(path = %writing.path.display(), head = %writing.log.head(), is_whole, "the audit log has ended");
        Ok(())
    }
}

impl Writing {
    /// Waits until there is something to do.
    async fn pause(&self, shared: &Shared) {
        // Also when all is in the log's own buffer: what is there has to be tried again, whether or not anything more comes.
        if shared.counters.failing.load(Ordering::Relaxed) {
            return sleep(self.wait).await;
        }
        if shared.waiting().is_empty() {
            tokio::select! {
                () = shared.wake.notified() => {}
                () = sleep_until(self.sync_at.unwrap_or_else(Instant::now)), if self.sync_at.is_some() => return,
            }
        }
        sleep(GATHER).await;
    }

    /// Writes what waits. While that fails, what was taken before is tried again, and nothing more is taken.
    async fn turn(mut self, audit: &Audit, shared: &Shared, is_last: bool) -> Result<Self, JoinError> {
        if self.bodies.is_empty() {
            self.bodies = shared.take(audit);
            self.taken += self.bodies.len() as u64;
        }
        let is_due = is_last || self.sync_at.is_some_and(|at| at <= Instant::now());
        let (mut log, mut bodies) = (self.log, self.bodies);
        // Not cancelled in between: it has the log.
        let write = move || {
            let written = log.append(&mut bodies).and_then(|()| if is_due { log.sync() } else { Ok(()) });
            (log, bodies, written)
        };
        let (log, bodies, written) = spawn_blocking(write).await?;
        (self.log, self.bodies) = (log, bodies);
        let counters = &shared.counters;
        match written {
            Ok(()) => {
                counters.written.add(std::mem::take(&mut self.taken));
                counters.seq.store(self.log.head().seq, Ordering::Relaxed);
                let next = Instant::now() + SYNC_EVERY;
                self.sync_at = if is_due { None } else { Some(self.sync_at.unwrap_or(next)) };
                self.wait = FIRST_WAIT;
                if counters.failing.swap(false, Ordering::Relaxed) {
                    info!(path = %self.path.display(), "the audit log is written again");
                }
            }
            Err(fault) => {
                self.wait = (self.wait * 2).min(LONGEST_WAIT);
                if !counters.failing.swap(true, Ordering::Relaxed) {
                    error!(path = %self.path.display(), error = %fault, "the audit log cannot be written");
                }
            }
        }
        Ok(self)
    }

    fn is_done(&self, shared: &Shared) -> bool {
        self.taken == 0 && shared.waiting().is_empty()
    }
}

impl Shared {
    /// All that waits, and then what has to be said of what is not there.
    pub(super) fn take(&self, audit: &Audit) -> VecDeque<String> {
        let mut waiting = self.waiting();
        let mut bodies = std::mem::take(&mut waiting.bodies);
        waiting.bytes = 0;
        for (event, count) in [
            ("lost", std::mem::take(&mut waiting.lost)),
            ("refusals_passed_over", std::mem::take(&mut waiting.passed_over)),
        ] {
            if count > 0 {
                let mut told = audit.entry(event);
                told.number("entries", count);
                bodies.push_back(told.into_text());
            }
        }
        bodies
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A disk that is full takes the bytes out of no buffer: nothing waits here then, and nobody has to come by.
    #[tokio::test(start_paused = true)]
    async fn after_a_failure_it_tries_again_after_a_wait_whoever_comes_or_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = FileOptions { rotate_at: 1 << 20, keep: 0 };
        let settings = AuditSettings {
            path: folder.path().join("audit.jsonl"),
            key_file: None,
            file,
            is_required: true,
        };
        let (audit, AuditWriter { log, shared, path, .. }) = AuditWriter::open(&settings).unwrap();
        let wait = Duration::from_secs(3);
        let mut writing = Writing { log, bodies: VecDeque::new(), taken: 0, sync_at: None, wait, path };
        // What the start has said is taken.
        drop(shared.take(&audit));
        shared.counters.failing.store(true, Ordering::Relaxed);
        for sync_at in [None, Some(Instant::now())] {
            writing.sync_at = sync_at;
            let begin = Instant::now();
            tokio::time::timeout(Duration::from_secs(60), writing.pause(&shared)).await.unwrap();
            assert_eq!(begin.elapsed(), wait, "{sync_at:?}");
        }
    }
}
