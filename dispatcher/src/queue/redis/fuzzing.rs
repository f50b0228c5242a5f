//! What is read back from Redis, for fuzzing: nothing there is trusted, whoever wrote it.

use super::{codec, list, walk_codec};
use crate::queue::{NewTask, TaskId, walk::WalkId};

const SHARDS: u16 = 16;

/// A stored task. What can be read of it can be stored again, and says the same.
pub fn record(bytes: &[u8]) {
    let Ok(id) = TaskId::parse("00f-0123456789abcdef0123456789abcdef") else { return };
    let Ok(record) = codec::decode(&id, bytes) else { return };
    assert_eq!(record.id, id);
    let again = NewTask { spec: record.spec.clone(), process_at: None };
    // Bounds of a submit are narrower than those of the form.
    drop(codec::encode_new(&again));
}

/// A stored listing of a prefix, and a failed object of one.
pub fn walk(bytes: &[u8]) {
    let id = WalkId::derive("web", "nightly", SHARDS);
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
