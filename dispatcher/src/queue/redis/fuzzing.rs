//! What is read back from Redis, for fuzzing: nothing there is trusted, whoever wrote it.

use super::{codec, list, walk_codec};
use crate::queue::{NewTask, TaskId, TaskState, walk::WalkId};

const SHARDS: u16 = 16;

/// A stored task. What can be read of it and has a place in a new record says the same there.
pub fn record(bytes: &[u8]) {
    let Ok(id) = TaskId::parse("def-0123456789abcdef0123456789abcdef") else { return };
    let Ok(record) = codec::decode(&id, bytes) else { return };
    let again = NewTask { spec: record.spec.clone(), process_at: None };
    // Bounds of a submit are narrower than those of the form, and a head holds seven weeks.
    let Ok(new) = codec::encode_new(&again) else { return };
    if u32::try_from(again.spec.processing_timeout.as_millis()).is_err() {
        return;
    }
    // A pending task that nothing has happened to.
    let mut stored = vec![codec::VERSION, codec::state_code(TaskState::Pending)];
    stored.resize(codec::HEAD_BYTES - codec::BODY_HEAD_BYTES, 0);
    stored.extend(new.body);
    assert_eq!(codec::decode(&id, &stored).map(|read| read.spec).ok(), Some(again.spec));
}

/// A stored listing of a prefix, and a failed object of one.
pub fn walk(bytes: &[u8]) {
    let id = WalkId::derive("web", "nightly");
    if let Ok((revision, walk)) = walk_codec::decode(&id, bytes)
        && let Ok(stored) = walk_codec::encode(revision, &walk)
    {
        let again = walk_codec::decode(&id, &stored);
        assert!(again.is_ok_and(|(number, read)| number == revision && read == walk), "{walk:?}");
    }
    drop(walk_codec::decode_failure(&id, bytes));
}

/// The place of a listing, which came back from a caller.
pub fn cursor(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(place) = list::read_again(text, SHARDS) {
        assert_eq!(list::read_again(&place, SHARDS), Some(place.clone()), "{text:?}");
        assert!(place.len() <= 256);
    }
}
