//! Counts copies: how many were begun for each task, and how many ended with a receipt.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use backhaul_worker::transfer::{
    Copier, CopyReceipt, CopyRequest, Engine, ProgressCell, Stop, TransferError,
};

use crate::{history::History, plan::Host};

/// Copies by task. Clones count together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Copies {
    state: Arc<Mutex<BTreeMap<String, Count>>>,
}

/// Copies of one task.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Count {
    pub(crate) begun: usize,
    pub(crate) finished: usize,
}

/// The engine, counted.
#[derive(Debug)]
pub(crate) struct CountingCopier {
    engine: Engine,
    copies: Copies,
    history: History,
    worker: Host,
}

impl Copies {
    /// Copies that ended with a receipt.
    pub(crate) fn finished(&self) -> usize {
        self.all().values().map(|count| count.finished).sum()
    }

    /// Copies of a task.
    pub(crate) fn of(&self, task: &str) -> Count {
        self.all().get(task).copied().unwrap_or_default()
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Count>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CountingCopier {
    pub(crate) const fn new(engine: Engine, copies: Copies, history: History, worker: Host) -> Self {
        Self { engine, copies, history, worker }
    }
}

#[async_trait]
impl Copier for CountingCopier {
    async fn copy(
        &self,
        request: &CopyRequest,
        progress: Arc<ProgressCell>,
        stop: Stop,
    ) -> Result<CopyReceipt, TransferError> {
        self.copies.all().entry(request.task_id.clone()).or_default().begun += 1;
        self.history.note(self.worker, format_args!("copies {}", request.task_id));
        let copied = self.engine.copy(request, progress, stop).await;
        let how = match &copied {
            Ok(receipt) => {
                self.copies.all().entry(request.task_id.clone()).or_default().finished += 1;
                format!("has copied to {}", receipt.backup_key)
            }
            Err(error) => format!("has not copied: {error}"),
        };
        self.history.note(self.worker, format_args!("{} {how}", request.task_id));
        copied
    }
}
