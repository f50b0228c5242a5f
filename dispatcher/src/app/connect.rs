//! Connecting to the queue in Redis at the start.
//!
//! A server that does not answer is waited for: at the start of a cluster nothing says who comes first. A server that answers and
//! is not fit for tasks ends the start with the setting to change: waiting would only hide it.

use std::{sync::Arc, time::Duration};

use tracing::{info, warn};

use super::AppError;
use crate::{
    config::Config,
    queue::{
        QueueClock, QueueError,
        redis::{ConnectError, RedisQueue},
    },
};

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// The queue that the settings name, as soon as its server answers.
///
/// # Errors
/// [`AppError::Connect`], when waiting cannot help.
pub(super) async fn connect(config: &Config) -> Result<Arc<RedisQueue>, AppError> {
    let mut wait = FIRST_WAIT;
    let mut is_told = false;
    loop {
        let mut options = config.redis.options();
        options.durability = config.durability;
        options.durability_timeout = config.durability_timeout;
        match RedisQueue::connect(options, config.queue.clone(), QueueClock::Server).await {
            Ok(queue) => {
                if is_told {
                    info!("redis answers");
                }
                return Ok(Arc::new(queue));
            }
            Err(ConnectError::Server(error @ QueueError::Unavailable(_))) => {
                // Once: it is one state, however often it is tried.
                if !std::mem::replace(&mut is_told, true) {
                    warn!(error = &error as &dyn std::error::Error, "redis does not answer; waiting for it");
                }
            }
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}
