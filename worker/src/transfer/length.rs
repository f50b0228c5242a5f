//! Whether a store fails because a key is too long for it.
//!
//! Some stores answer to a key that their database cannot hold as if they were too busy. At the origin anybody may ask for such a key, and nobody
//! can try it out before: so a task would come back for ever, and enough of them would have the location taken for one that is away.

use std::time::Duration;

use super::{
    TransferError, TransferErrorKind,
    failure::{Side, failed},
    route::Site,
};
use crate::store::{ObjectPath, Pin};

/// Keys of so many bytes are not doubted.
pub(super) const UNDOUBTED_BYTES: usize = 255;

/// What a failure is where the store answers about the same key, cut short, right afterwards: one that costs an attempt, so that it has an end.
/// It is not called hopeless: the store may have been busy after all.
pub(super) async fn blame_the_length(
    site: &Site,
    side: Side,
    at: ObjectPath<'_>,
    error: TransferError,
) -> TransferError {
    // Who says how long to wait knows why.
    if error.kind.passing() != Some(Duration::ZERO) || at.key.len() <= UNDOUBTED_BYTES {
        return error;
    }
    let shorter = &at.key[..at.key.floor_char_boundary(UNDOUBTED_BYTES)];
    let shorter = ObjectPath { key: shorter, ..at };
    let latest = Pin::default();
    match site.gate.pass(site.store.head(shorter, &latest)).await {
        Err(other) if other.kind.is_transient() => error,
        Ok(_) | Err(_) => {
            let (length, name) = (at.key.len(), &site.name);
            let message = format!(
                "{side} `{name}` answers shorter keys and not this one of {length} bytes, perhaps because of its length: {}",
                error.message
            );
            failed(error.step, TransferErrorKind::Io, message)
        }
    }
}
