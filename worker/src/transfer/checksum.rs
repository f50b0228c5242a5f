//! Checksums that prove a copy: CRC-64/NVME over every byte, SHA-256 and MD5 where they are wanted.
//!
//! A CRC of a whole object is put together from those of its parts, so parts can move in any order and in parallel. SHA-256 cannot;
//! [`OrderedSha256`] lets parts that were read out of order be hashed in order.

use std::sync::{Mutex, PoisonError};

use crc_fast::{CrcAlgorithm, Digest as CrcDigest, checksum_combine};
use md5::{Digest as _, Md5};
use sha2::Sha256;
use tokio::sync::Notify;

use crate::store::Payload;

/// A CRC-64/NVME of bytes, and how many they were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Crc {
    value: u64,
    length: u64,
}

/// SHA-256 over parts that may be ready in any order.
#[derive(Debug)]
pub(super) struct OrderedSha256 {
    state: Mutex<(u32, Sha256)>,
    turn: Notify,
}

impl Crc {
    /// Of no bytes.
    pub(super) const EMPTY: Self = Self { value: 0, length: 0 };

    /// A CRC that a store reports about `length` bytes.
    #[must_use]
    pub(super) const fn reported(value: u64, length: u64) -> Self {
        Self { value, length }
    }

    /// Of a body.
    #[must_use]
    pub(super) fn of(payload: &Payload) -> Self {
        let mut digest = CrcDigest::new(CrcAlgorithm::Crc64Nvme);
        for piece in payload.pieces() {
            digest.update(piece);
        }
        Self { value: digest.finalize(), length: payload.len() }
    }

    /// Of these bytes followed by those of `next`.
    #[must_use]
    pub(super) fn followed_by(self, next: Self) -> Self {
        let value = if next.length == 0 {
            self.value
        } else if self.length == 0 {
            next.value
        } else {
            checksum_combine(CrcAlgorithm::Crc64Nvme, self.value, next.value, next.length)
        };
        Self { value, length: self.length + next.length }
    }

    /// The checksum.
    #[must_use]
    pub(super) const fn value(self) -> u64 {
        self.value
    }

    /// How many bytes it covers.
    #[must_use]
    pub(super) const fn length(self) -> u64 {
        self.length
    }
}

/// MD5 of a body.
#[must_use]
pub(super) fn md5_of(payload: &Payload) -> [u8; 16] {
    let mut digest = Md5::new();
    for piece in payload.pieces() {
        digest.update(piece);
    }
    digest.finalize().into()
}

/// The ETag that S3 gives an object of several parts: the MD5 of their MD5s, and their number.
#[must_use]
pub(super) fn multipart_etag<'a>(parts: impl Iterator<Item = &'a [u8; 16]>) -> String {
    let mut digest = Md5::new();
    let mut count = 0_u32;
    for part in parts {
        digest.update(part);
        count += 1;
    }
    format!("{}-{count}", hex::encode(digest.finalize()))
}

/// Whether an ETag can be the MD5 of the object's bytes.
#[must_use]
pub(super) fn looks_like_md5(etag: &str) -> bool {
    etag.len() == 32 && etag.bytes().all(|b| b.is_ascii_hexdigit())
}

impl OrderedSha256 {
    /// Before part 1.
    #[must_use]
    pub(super) fn new() -> Self {
        Self { state: Mutex::new((1, Sha256::new())), turn: Notify::new() }
    }

    /// Waits for all parts before `number`, then hashes this one.
    pub(super) async fn add(&self, number: u32, payload: &Payload) {
        loop {
            // Registered before looking, so that a part that is hashed in between is not missed.
            let turn = self.turn.notified();
            tokio::pin!(turn);
            turn.as_mut().enable();
            {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                if state.0 == number {
                    for piece in payload.pieces() {
                        state.1.update(piece);
                    }
                    state.0 += 1;
                    self.turn.notify_waiters();
                    return;
                }
            }
            turn.await;
        }
    }

    /// Of all parts added so far.
    #[must_use]
    pub(super) fn finish(self) -> [u8; 32] {
        self.state.into_inner().unwrap_or_else(PoisonError::into_inner).1.finalize().into()
    }
}

impl Default for OrderedSha256 {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn payload(bytes: &[u8]) -> Payload {
        Payload::from(Bytes::copy_from_slice(bytes))
    }

    #[test]
    fn the_check_value_of_the_standard_comes_out() {
        assert_eq!(Crc::of(&payload(b"123456789")).value(), 0xae8b_1486_0a79_9888);
        assert_eq!(Crc::of(&payload(b"")), Crc::EMPTY);
    }

    #[test]
    fn a_multipart_etag_is_the_one_that_stores_compute() {
        let parts = [md5_of(&payload(b"hello ")), md5_of(&payload(b"world"))];
        let joined = payload(&parts.concat());
        assert_eq!(multipart_etag(parts.iter()), format!("{}-2", hex::encode(md5_of(&joined))));
        assert!(looks_like_md5(&hex::encode(parts[0])));
        assert!(!looks_like_md5(&multipart_etag(parts.iter())));
    }

    #[tokio::test]
    async fn parts_read_out_of_order_are_hashed_in_order() {
        let sha = OrderedSha256::new();
        let (first, second, third) = (payload(b"a"), payload(b"b"), payload(b"c"));
        tokio::join!(biased; sha.add(3, &third), sha.add(2, &second), sha.add(1, &first));
        assert_eq!(sha.finish()[..], Sha256::digest(b"abc")[..]);
    }

    proptest! {
        #[test]
        fn a_crc_put_together_equals_the_crc_of_the_whole(
            bytes in proptest::collection::vec(any::<u8>(), 0..2_000),
            cuts in proptest::collection::vec(0_usize..2_000, 0..6),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let combined = cuts
                .windows(2)
                .map(|w| Crc::of(&payload(&bytes[w[0]..w[1]])))
                .fold(Crc::EMPTY, Crc::followed_by);
            prop_assert_eq!(combined, Crc::of(&payload(&bytes)));
        }
    }
}
