//! The parts that have to do with rules: the file that is followed, and what makes runs begin.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use backhaul_proto::v1::rule_service_server::RuleServiceServer;
use backhaul_runtime::locations::Locations;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::AppError;
use crate::{
    config::Config,
    grpc::{backup_service::MAX_MESSAGE_BYTES, rule_service::Rules as Service},
    queue::walk::WalkStore,
    rules::{LiveRules, follow::Follower},
    schedule::{Board, Runs, Scheduler, marks::Marks},
};

/// How often to look at the rules file.
const FOLLOW_EVERY: Duration = Duration::from_secs(2);
/// How often to look at runs, at most; more often where leases are short, as in tests.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Rules that are followed.
#[derive(Debug, Default)]
pub(super) struct Ruling {
    live: LiveRules,
    follower: Option<Follower>,
}

/// What makes runs begin.
pub(super) struct Running {
    pub(super) service: RuleServiceServer<Service>,
    pub(super) scheduler: Scheduler,
}

impl Ruling {
    /// Reads the file, where there is one.
    pub(super) fn open(config: &Config, locations: &Arc<Locations>) -> Result<Self, AppError> {
        let Some(path) = config.rules.clone() else { return Ok(Self::default()) };
        let (follower, live) = Follower::open(path, Arc::clone(locations), config.defaults)?;
        Ok(Self { live, follower: Some(follower) })
    }

    /// The rules in force.
    pub(super) fn live(&self) -> LiveRules {
        self.live.clone()
    }

    /// Whether the newest file is not in force.
    pub(super) fn refused(&self) -> Arc<AtomicBool> {
        self.follower.as_ref().map(Follower::refused).unwrap_or_default()
    }

    /// What makes runs begin, of walks that `made` is told of.
    pub(super) fn running(
        &self,
        config: &Config,
        marks: Arc<dyn Marks>,
        walks: Arc<dyn WalkStore>,
        made: Arc<Notify>,
    ) -> Running {
        let (changed, board) = (Arc::default(), Arc::default());
        let runs = Runs { rules: self.live(), marks, walks, made, changed, board };
        let service = RuleServiceServer::new(Service(runs.clone()));
        Running {
            service: service.max_decoding_message_size(MAX_MESSAGE_BYTES),
            scheduler: Scheduler { runs, look_every: LOOK_EVERY.min(config.queue.lease / 3) },
        }
    }

    /// Follows the file until `end`.
    pub(super) async fn follow(self, end: CancellationToken) -> Result<(), AppError> {
        match self.follower {
            Some(follower) => follower.run(FOLLOW_EVERY, end).await,
            None => end.cancelled().await,
        }
        Ok(())
    }
}

impl Running {
    /// What was seen of the rules.
    pub(super) fn board(&self) -> Arc<Board> {
        Arc::clone(&self.scheduler.runs.board)
    }
}

/// Makes runs begin until `end`; only waits where there are none.
pub(super) async fn run(scheduler: Option<Scheduler>, end: CancellationToken) -> Result<(), AppError> {
    match scheduler {
        Some(scheduler) => scheduler.run(end).await,
        None => end.cancelled().await,
    }
    Ok(())
}
