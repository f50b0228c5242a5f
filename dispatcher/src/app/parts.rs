//! The long-running parts of the process, each in a task that somebody owns and misses when it ends.
//!
//! Must not know what the parts do, and never ends one by force as long as there is time: a part is asked to end by the token it was
//! given.

use std::{collections::HashMap, future::Future};

use tokio::{
    task::{Id, JoinError, JoinSet},
    time::Instant,
};
use tracing::{error, warn};

use super::AppError;

/// The name of a part, for logs and errors.
pub(super) type Part = &'static str;

/// The parts that run. Dropping it ends whatever is left.
#[derive(Debug, Default)]
pub(super) struct Parts {
    tasks: JoinSet<Result<(), AppError>>,
    names: HashMap<Id, Part>,
    /// The first thing that went wrong.
    failure: Option<AppError>,
}

impl Parts {
    /// Runs a part.
    pub(super) fn start<F>(&mut self, part: Part, work: F)
    where
        F: Future<Output = Result<(), AppError>> + Send + 'static,
    {
        let handle = self.tasks.spawn(work);
        self.names.insert(handle.id(), part);
    }

    /// Waits for any part to end, which none may do before it is asked to.
    pub(super) async fn unexpected_end(&mut self) {
        if let Some(part) = self.next_end().await {
            self.failure.get_or_insert(AppError::Ended(part));
        }
    }

    /// Waits until `part` has ended, at most until `deadline`; says whether it has.
    pub(super) async fn wait_for(&mut self, part: Part, deadline: Instant) -> bool {
        let ended = async {
            while self.names.values().any(|running| *running == part) {
                self.next_end().await;
            }
        };
        let in_time = tokio::time::timeout_at(deadline, ended).await.is_ok();
        if !in_time {
            warn!(part, "did not end in time");
        }
        in_time
    }

    /// The first thing that went wrong, if anything did.
    pub(super) fn result(self) -> Result<(), AppError> {
        self.failure.map_or(Ok(()), Err)
    }

    async fn next_end(&mut self) -> Option<Part> {
        let (id, result) = match self.tasks.join_next_with_id().await? {
            Ok((id, result)) => (id, result),
            Err(panic) => (panic.id(), Err(AppError::from_join(panic))),
        };
        let part = self.names.remove(&id).unwrap_or("unknown");
        if let Err(error) = result {
            error!(part, %error, "part of the dispatcher failed");
            self.failure.get_or_insert(error);
        }
        Some(part)
    }
}

impl AppError {
    fn from_join(error: JoinError) -> Self {
        Self::Panicked(error)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio_util::sync::CancellationToken;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[tokio::test]
    async fn a_part_that_ends_by_itself_is_missed_by_name() {
        let mut parts = Parts::default();
        parts.start("sweeper", async { Ok(()) });
        parts.start("server", std::future::pending());
        parts.unexpected_end().await;
        assert!(matches!(parts.result(), Err(AppError::Ended("sweeper"))));
    }

    #[tokio::test]
    async fn a_part_that_panics_is_a_failure_and_is_not_waited_for_again() {
        let mut parts = Parts::default();
        parts.start("server", async { panic!("told to panic") });
        assert!(parts.wait_for("server", soon()).await);
        assert!(parts.wait_for("server", soon()).await);
        assert!(matches!(parts.result(), Err(AppError::Panicked(_))));
    }

    #[tokio::test]
    async fn parts_that_end_when_asked_are_no_failure_in_whatever_order() {
        let mut parts = Parts::default();
        let stop = CancellationToken::new();
        for part in ["a", "b"] {
            let stop = stop.clone();
            parts.start(part, async move {
                stop.cancelled().await;
                Ok(())
            });
        }
        stop.cancel();
        assert!(parts.wait_for("b", soon()).await);
        assert!(parts.wait_for("a", soon()).await);
        assert!(parts.result().is_ok());
    }

    #[tokio::test]
    async fn a_part_that_does_not_end_is_given_up_at_the_deadline() {
        let mut parts = Parts::default();
        parts.start("server", std::future::pending());
        assert!(!parts.wait_for("server", Instant::now()).await);
        assert!(parts.result().is_ok());
    }
}
