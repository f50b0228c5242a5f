//! Signs that servers have changed places: reported by whoever meets one, acted on by the scout.

use std::sync::{Mutex, PoisonError};

use redis::{ErrorKind, RedisError, ServerErrorKind};
use tokio::sync::Notify;

use super::access::Address;

/// Most redirections that wait to be looked at; looking at the map again tells the rest.
const MOST_MOVES: usize = 1_024;

/// What was noticed and not yet acted on.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    noticed: Notify,
    moves: Mutex<Vec<(u16, Address)>>,
}

impl Trouble {
    /// Something is wrong; look at the map again.
    pub(super) fn report(&self) {
        self.noticed.notify_one();
    }

    /// Looks at an error that the server at `from` answered with.
    pub(super) fn note(&self, error: &RedisError, from: &Address) {
        let ErrorKind::Server(kind) = error.kind() else { return };
        if kind == ServerErrorKind::Moved
            && let Some(moved) = destination(error, from)
        {
            let mut moves = self.moves.lock().unwrap_or_else(PoisonError::into_inner);
            if moves.len() < MOST_MOVES {
                moves.push(moved);
            }
        }
        if matches!(
            kind,
            ServerErrorKind::Moved
                | ServerErrorKind::ReadOnly
                | ServerErrorKind::MasterDown
                | ServerErrorKind::ClusterDown
        ) {
            self.report();
        }
    }

    /// Waits until something is noticed.
    pub(super) async fn noticed(&self) {
        self.noticed.notified().await;
    }

    /// Slots that a server said are another's.
    pub(super) fn moves(&self) -> Vec<(u16, Address)> {
        std::mem::take(&mut self.moves.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// True when the server did not execute a command because another has the slot.
pub(super) fn is_moved(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::Moved)
}

fn destination(error: &RedisError, from: &Address) -> Option<(u16, Address)> {
    let (node, slot) = error.redirect_node()?;
    let (host, port) = node.rsplit_once(':')?;
    Some((slot, beside(host, port.parse().ok()?, from)?))
}

/// The address of a node as another one names it: without a host, it is where the other one is.
pub(super) fn beside(host: &str, port: u16, from: &Address) -> Option<Address> {
    match (host, from) {
        ("" | "?", Address::Tcp(host, _)) => Some(Address::Tcp(host.clone(), port)),
        ("" | "?", Address::Unix(_)) => None,
        (host, _) => Some(Address::Tcp(host.trim_start_matches('[').trim_end_matches(']').to_owned(), port)),
    }
}
