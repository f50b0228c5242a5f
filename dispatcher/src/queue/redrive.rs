//! Running dead tasks again: what is asked for, and what comes of it.
//!
//! Plain data. A request names the run that died, so that it means one new run, however often it is sent.

use super::{id::TaskId, task::TaskState};

/// A dead task to run again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requeue {
    /// The task.
    pub id: TaskId,
    /// The run that died.
    pub run: u32,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequeueOutcome {
    /// It is pending, as this run.
    Requeued {
        /// The new run.
        run: u32,
    },
    /// Nothing was changed: the task is at another run. It was requeued before, or its object was submitted again meanwhile.
    OtherRun {
        /// Its run.
        run: u32,
        /// Its state.
        state: TaskState,
    },
    /// Nothing was changed: that run is not dead. Its last lease may have succeeded late.
    NotDead(TaskState),
}
