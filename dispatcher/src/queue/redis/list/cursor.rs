//! Where a listing goes on: a text that only this queue reads.
//!
//! It holds all that is needed, so that any dispatcher can serve the next page. It comes back from callers: whatever it says is
//! checked, and it never names a key.

use super::Place;
use crate::queue::{ListCursor, QueueError, TaskId, TaskState, UnixMs, redis::codec};

/// A place in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cursor {
    /// After this task, in a state that is read whole.
    Ordered {
        /// The state.
        state: TaskState,
        /// When the last task shown was created.
        created_at: UnixMs,
        /// The last task shown.
        id: TaskId,
    },
    /// After this entry of a shard, in a state that is walked.
    Indexed {
        /// The state.
        state: TaskState,
        /// The shard.
        shard: u16,
        /// Of how many: with another number, tasks of shards to come may be in those that are behind.
        shards: u16,
        /// The last entry shown.
        place: Place,
    },
}

/// A text that is not a cursor of this queue.
#[derive(Debug, thiserror::Error)]
#[error("not a cursor of this queue")]
struct InvalidCursor;

impl Cursor {
    /// Reads a cursor for a queue of `shards` shards.
    ///
    /// # Errors
    /// [`QueueError::Rejected`] for anything that [`Cursor::format`] does not give.
    pub(super) fn parse(text: &str, shards: u16) -> Result<Self, QueueError> {
        read(text, shards).ok_or_else(|| QueueError::Rejected(Box::new(InvalidCursor)))
    }

    /// The state that the listing has come to.
    pub(super) const fn state(&self) -> TaskState {
        match self {
            Self::Ordered { state, .. } | Self::Indexed { state, .. } => *state,
        }
    }

    /// As text.
    pub(super) fn format(&self) -> ListCursor {
        ListCursor(match self {
            Self::Ordered { state, created_at, id } => {
                format!("o:{}:{created_at}:{id}", codec::state_code(*state))
            }
            Self::Indexed { state, shard, shards, place } => {
                format!("i:{}:{shard}:{shards}:{}:{}", codec::state_code(*state), place.score, place.hash)
            }
        })
    }
}

fn read(text: &str, shards: u16) -> Option<Cursor> {
    let mut parts = text.split(':');
    let mut next = || parts.next();
    let kind = next()?;
    let state = codec::state_of(next()?.parse().ok()?)?;
    let cursor = match kind {
        "o" => Cursor::Ordered {
            state,
            created_at: UnixMs(next()?.parse().ok()?),
            id: TaskId::parse(next()?).ok()?,
        },
        "i" => {
            let shard = next()?.parse().ok().filter(|shard| *shard < shards)?;
            if next()?.parse::<u16>().ok() != Some(shards) {
                return None;
            }
            let (score, hash) = (next()?.parse().ok()?, next()?.to_owned());
            TaskId::from_hash(&hash).ok()?;
            Cursor::Indexed { state, shard, shards, place: Place { score, hash } }
        }
        _ => return None,
    };
    next().is_none().then_some(cursor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_as_it_was_given_and_nothing_else_is_one() {
        let id = TaskId::parse("def-0123456789abcdef0123456789abcdef").unwrap();
        let place = Place { score: 7, hash: "0123456789abcdef0123456789abcdef".into() };
        let cursors = [
            Cursor::Ordered { state: TaskState::Dead, created_at: UnixMs(5), id },
            Cursor::Indexed { state: TaskState::Pending, shard: 15, shards: 16, place },
        ];
        for cursor in cursors {
            let text = cursor.format().0;
            assert_eq!(Cursor::parse(&text, 16).unwrap(), cursor);
            assert!(Cursor::parse(&format!("{text}:"), 16).is_err());
            assert!(Cursor::parse(&text[1..], 16).is_err());
        }
        for bad in [
            "",
            "o",
            "o:9:1:x",
            "i:2:16:16:7:0123456789abcdef0123456789abcdef",
            "i:2:1:8:7:0123456789abcdef0123456789abcdef",
            "i:2:1:16:7:{x}:pending",
            "x:1",
        ] {
            assert!(Cursor::parse(bad, 16).is_err(), "{bad}");
        }
    }
}
