//! The buffers that bytes of objects are held in: of one size, and used again.
//!
//! They exist because an allocator keeps what is freed apart for each thread, and a copy may be read by one thread and written by another:
//! a worker that moved large objects held a sixth more than its permits count. Kept here, buffers are anybody's. They must not be a cache:
//! never more lie idle than are in use, so a worker without copies keeps none.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;

/// Large enough that a buffer costs nothing beside its bytes, small enough to be given back in little steps.
pub(super) const BUFFER_BYTES: usize = 256 * 1024;

/// Where buffers come from.
#[derive(Debug, Clone, Default)]
pub(super) struct Buffers {
    shelf: Arc<Shelf>,
}

/// A buffer that is being filled; given back when it, or the bytes made of it, are dropped.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Box<[u8]>,
    filled: usize,
    /// Where it goes; smaller ones are not kept.
    shelf: Option<Arc<Shelf>>,
}

#[derive(Debug, Default)]
struct Shelf {
    idle: Mutex<Vec<Box<[u8]>>>,
    in_use: AtomicUsize,
}

impl Buffers {
    /// One of `bytes`, and of [`BUFFER_BYTES`] at most.
    pub(super) fn take(&self, bytes: usize) -> Buffer {
        if bytes < BUFFER_BYTES {
            return Buffer { bytes: vec![0; bytes].into(), filled: 0, shelf: None };
        }
        self.shelf.in_use.fetch_add(1, Ordering::Relaxed);
        let idle = self.shelf.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let bytes = idle.unwrap_or_else(|| vec![0; BUFFER_BYTES].into());
        Buffer { bytes, filled: 0, shelf: Some(Arc::clone(&self.shelf)) }
    }
}

impl Buffer {
    /// Takes as many of `bytes` as there is room for, and answers how many.
    pub(super) fn add(&mut self, bytes: &[u8]) -> usize {
        let room = &mut self.bytes[self.filled..];
        let count = room.len().min(bytes.len());
        room[..count].copy_from_slice(&bytes[..count]);
        self.filled += count;
        count
    }

    pub(super) const fn is_full(&self) -> bool {
        self.filled == self.bytes.len()
    }

    /// What it was filled with.
    pub(super) fn freeze(self) -> Bytes {
        if self.filled == 0 { Bytes::new() } else { Bytes::from_owner(self) }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(shelf) = &self.shelf else { return };
        let mut idle = shelf.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let in_use = shelf.in_use.fetch_sub(1, Ordering::Relaxed) - 1;
        idle.push(std::mem::take(&mut self.bytes));
        idle.truncate(in_use);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idle(buffers: &Buffers) -> usize {
        buffers.shelf.idle.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn filled(buffers: &Buffers, byte: u8) -> Bytes {
        let mut buffer = buffers.take(BUFFER_BYTES);
        assert_eq!(buffer.add(&[byte; BUFFER_BYTES + 1]), BUFFER_BYTES);
        assert!(buffer.is_full());
        buffer.freeze()
    }

    #[test]
    fn a_buffer_is_used_again_and_shows_nothing_of_what_it_held() {
        let buffers = Buffers::default();
        let (kept, given_back) = (filled(&buffers, 1), filled(&buffers, 2));
        let place = given_back.as_ptr();
        drop(given_back);
        let mut again = buffers.take(BUFFER_BYTES);
        assert_eq!(again.add(b"new"), 3);
        let again = again.freeze();
        assert_eq!((again.as_ptr(), &*again), (place, &b"new"[..]));
        assert!(kept.iter().all(|byte| *byte == 1));
    }

    #[test]
    fn no_more_lie_idle_than_are_in_use() {
        let buffers = Buffers::default();
        let mut used: Vec<Bytes> = (0..8).map(|n| filled(&buffers, n)).collect();
        // A view of a part holds the whole.
        let part = used[0].slice(1..2);
        let most = (0..8).map(|_| {
            used.pop();
            idle(&buffers)
        });
        assert_eq!(most.collect::<Vec<_>>(), [1, 2, 3, 4, 3, 2, 1, 1]);
        drop(part);
        assert_eq!(idle(&buffers), 0);
    }

    #[test]
    fn a_small_one_takes_what_it_needs_and_is_not_kept() {
        let buffers = Buffers::default();
        let one = buffers.take(BUFFER_BYTES);
        let mut small = buffers.take(3);
        assert_eq!(
            (small.add(b"ab"), small.is_full(), small.add(b"cd"), small.is_full()),
            (2, false, 1, true)
        );
        assert_eq!(small.freeze(), "abc");
        assert_eq!(idle(&buffers), 0);
        assert_eq!(buffers.take(0).freeze(), "");
        drop(one);
    }
}
