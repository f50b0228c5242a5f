//! Checksums that prove a copy: CRC-64/NVME over every byte, SHA-256 and MD5 where they are wanted.
//!
//! A CRC of a whole object is put together from those of its parts, so parts can move in any order and in parallel. The others cannot;
//! [`InOrder`] lets parts that were read out of order be hashed in order.

use std::sync::{Mutex, PoisonError};

use crc_fast::{CrcAlgorithm, Digest as CrcDigest, checksum_combine};
use md5::{Digest, Md5, digest::Output};
use sha2::Sha256;
use tokio::sync::Notify;

use crate::store::Payload;

/// A CRC-64/NVME of bytes, and how many they were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Crc {
    value: u64,
    length: u64,
}

/// A CRC-64/NVME of bytes as they come.
#[derive(Debug, Clone, Copy)]
pub(super) struct RunningCrc {
    digest: CrcDigest,
    length: u64,
}

/// What is computed over a whole object besides its CRC.
#[derive(Debug, Default)]
pub(super) struct WholeDigests {
    sha256: Option<InOrder<Sha256>>,
    md5: Option<InOrder<Md5>>,
}

/// A digest over parts that may be ready in any order.
#[derive(Debug)]
struct InOrder<D> {
    state: Mutex<(u32, D)>,
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
        let mut running = RunningCrc::new();
        payload.pieces().for_each(|piece| running.update(piece));
        running.finish()
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

/// The MD5 of the object's bytes that an ETag seems to be.
#[must_use]
pub(super) fn md5_in(etag: &str) -> Option<[u8; 16]> {
    let mut md5 = [0; 16];
    hex::decode_to_slice(etag, &mut md5).ok().map(|()| md5)
}

impl RunningCrc {
    /// Of no bytes.
    pub(super) fn new() -> Self {
        Self { digest: CrcDigest::new(CrcAlgorithm::Crc64Nvme), length: 0 }
    }

    /// Goes on with these bytes.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
        self.length += bytes.len() as u64;
    }

    /// Of all bytes so far.
    pub(super) fn finish(self) -> Crc {
        Crc { value: self.digest.finalize(), length: self.length }
    }
}

impl WholeDigests {
    /// Those that are wanted, before part 1.
    pub(super) fn new(sha256: bool, md5: bool) -> Self {
        Self { sha256: sha256.then(InOrder::new), md5: md5.then(InOrder::new) }
    }

    /// Whether none is wanted.
    pub(super) const fn is_empty(&self) -> bool {
        self.sha256.is_none() && self.md5.is_none()
    }

    /// Waits for all parts before `number`, then hashes this one.
    pub(super) async fn add(&self, number: u32, payload: &Payload) {
        if let Some(sha256) = &self.sha256 {
            sha256.add(number, payload).await;
        }
        if let Some(md5) = &self.md5 {
            md5.add(number, payload).await;
        }
    }

    /// SHA-256 and MD5 of all parts added so far.
    pub(super) fn finish(self) -> (Option<[u8; 32]>, Option<[u8; 16]>) {
        (self.sha256.map(|d| d.finish().into()), self.md5.map(|d| d.finish().into()))
    }
}

impl<D: Digest> InOrder<D> {
    fn new() -> Self {
        Self { state: Mutex::new((1, D::new())), turn: Notify::new() }
    }

    async fn add(&self, number: u32, payload: &Payload) {
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

    fn finish(self) -> Output<D> {
        self.state.into_inner().unwrap_or_else(PoisonError::into_inner).1.finalize()
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
        assert_eq!(md5_in(&hex::encode_upper(parts[0])), Some(parts[0]));
        assert_eq!(md5_in(&multipart_etag(parts.iter())), None);
    }

    #[tokio::test]
    async fn parts_read_out_of_order_are_hashed_in_order() {
        let whole = WholeDigests::new(true, true);
        let (first, second, third) = (payload(b"a"), payload(b"b"), payload(b"c"));
        tokio::join!(biased; whole.add(3, &third), whole.add(2, &second), whole.add(1, &first));
        assert_eq!(whole.finish(), (Some(Sha256::digest(b"abc").into()), Some(Md5::digest(b"abc").into())));
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
