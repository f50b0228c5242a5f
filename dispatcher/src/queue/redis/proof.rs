//! Barriers: what is sent after writes so that their durability is proved, and what the answer proves.

use std::time::Duration;

use redis::{Cmd, RedisError, Value};

use super::{
    check::Barrier,
    error, value,
    writer::{Retired, Written},
};
use crate::queue::QueueError;

/// What a barrier says about the writes before it.
pub(super) enum Proof {
    Met,
    Missed {
        reached: u32,
        wanted: u32,
    },
    Unknown(RedisError),
    /// The server is not the primary any more: whatever it says, it proves nothing.
    Void,
}

impl Proof {
    pub(super) fn apply(&self, outcome: Result<Written, QueueError>) -> Result<Written, QueueError> {
        match (self, outcome) {
            (Self::Met, outcome) | (_, outcome @ Err(_)) => outcome,
            // What was refused has left nothing to be kept.
            (_, Ok(Written::Submit(refused @ [..=-1, _, _]))) => Ok(Written::Submit(refused)),
            (_, Ok(Written::Requeue(refused @ [..=-1, _, _]))) => Ok(Written::Requeue(refused)),
            (_, Ok(Written::Walk(refused @ [..=0, _]))) => Ok(Written::Walk(refused)),
            (_, Ok(written)) => self.result().map(|()| written),
        }
    }

    /// Whether the writes before it may be relied on.
    pub(super) fn result(&self) -> Result<(), QueueError> {
        match self {
            Self::Met => Ok(()),
            Self::Missed { reached, wanted } => {
                Err(QueueError::NotDurable { reached: *reached, wanted: *wanted })
            }
            Self::Unknown(failure) => Err(error::from_redis(failure.clone())),
            Self::Void => Err(QueueError::Unavailable(Box::new(Retired))),
        }
    }
}

/// What to send after writes for a proof that they are durable; `None` where the answer to them is one.
pub(super) fn barrier_command(barrier: Barrier, patience: Duration) -> Option<Cmd> {
    let mut command = match barrier {
        Barrier::Answer => return None,
        Barrier::WaitAof(replicas) => {
            let mut command = redis::cmd("WAITAOF");
            command.arg(1).arg(replicas);
            command
        }
        Barrier::Wait(replicas) => {
            let mut command = redis::cmd("WAIT");
            command.arg(replicas);
            command
        }
    };
    command.arg(super::millis(patience));
    Some(command)
}

/// What the answer to a barrier proves.
pub(super) fn proven(barrier: Barrier, answer: Option<Result<Value, RedisError>>) -> Proof {
    let copies = match answer {
        Some(Ok(answer)) => answer,
        Some(Err(failure)) => return Proof::Unknown(failure),
        None => return Proof::Missed { reached: 0, wanted: 1 },
    };
    // WAIT says how many replicas; WAITAOF whether the server's own disk, and how many replicas.
    let (disk, replicas) = match value::integer(&copies) {
        Some(replicas) => (1, replicas),
        None => {
            let copies: Vec<i64> =
                value::list(copies).unwrap_or_default().iter().filter_map(value::integer).collect();
            (copies.first().copied().unwrap_or(0), copies.get(1).copied().unwrap_or(0))
        }
    };
    let wanted = match barrier {
        Barrier::Answer => 0,
        Barrier::WaitAof(replicas) | Barrier::Wait(replicas) => replicas,
    };
    let reached = u32::try_from(replicas).unwrap_or(0);
    if disk >= 1 && reached >= wanted { Proof::Met } else { Proof::Missed { reached, wanted } }
}
