//! How objects of a store are named: how long a key may be, and whether versions have names.
//!
//! S3 takes keys of 1,024 bytes. A store that keeps names in a database may take fewer (Garage in LMDB: 479), and some say then that they are too busy,
//! which is taken at its word everywhere else. Others tell the version of what they write and know nothing of it when it is asked for.

use super::{Kind, Payload, Pin, Prober, Put, Terms, md5};
use crate::{
    store::{Attributes, StoreError},
    transfer::{key::KEY_MAX_BYTES, length::UNDOUBTED_BYTES},
};

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) key_max_bytes: usize,
    pub(super) versions: bool,
}

/// How often a key is refused, and a short one taken right after it, until that is believed to be because of its length.
const DOUBTS: u32 = 3;
/// The last few bytes are not sought: in LMDB Garage takes keys of 472 to 479 bytes and cannot remove them again.
const GRAIN_BYTES: usize = 16;
/// Stores that keep keys as paths of files take no longer segments.
const SEGMENT_BYTES: usize = 200;

impl Prober<'_> {
    pub(super) async fn names(&self, create_only: bool) -> Result<Names, StoreError> {
        self.take_short(create_only).await?;
        let key = self.key("short");
        let versions = match self.pass(self.store.head(self.at(&key), &Pin::default())).await {
            Ok(info) => info.version.is_some(),
            // Who may only write is told by nothing else.
            Err(error) if error.kind == Kind::Denied => true,
            Err(error) => return Err(error),
        };
        Ok(Names { key_max_bytes: self.longest_key(create_only).await?, versions })
    }

    async fn longest_key(&self, create_only: bool) -> Result<usize, StoreError> {
        if self.takes(KEY_MAX_BYTES, create_only).await? {
            return Ok(KEY_MAX_BYTES);
        }
        let (mut taken, mut refused) = (UNDOUBTED_BYTES, KEY_MAX_BYTES);
        while refused - taken > GRAIN_BYTES {
            let length = usize::midpoint(taken, refused);
            // Shorter than what all keys of the probe begin with.
            let is_taken = self.long_key(length).is_none() || self.takes(length, create_only).await?;
            *(if is_taken { &mut taken } else { &mut refused }) = length;
        }
        Ok(taken)
    }

    /// Whether a key of that length is taken. Every start finds the same, so it asks for the same keys.
    async fn takes(&self, length: usize, create_only: bool) -> Result<bool, StoreError> {
        let Some(key) = self.long_key(length) else { return Ok(true) };
        let (body, attributes) = (Payload::default(), Attributes::default());
        let put = Put {
            body: &body,
            proof: md5(&body),
            attributes: &attributes,
            tags: &[],
            terms: Terms::default(),
            create_only,
        };
        for _ in 0..DOUBTS {
            // Past the gate: that such a key is refused says nothing about load.
            match self.store.put(self.at(&key), put).await {
                Ok(_) => return Ok(true),
                Err(error) if error.kind == Kind::PreconditionFailed => return Ok(true),
                Err(error) if matches!(error.kind, Kind::Rejected | Kind::TooLarge) => return Ok(false),
                // Whatever befell it: who takes a short one now is not away, and not busy.
                Err(_) => self.take_short(create_only).await?,
            }
        }
        Ok(false)
    }

    async fn take_short(&self, create_only: bool) -> Result<(), StoreError> {
        let body = Payload::default();
        match self.put("short", &body, md5(&body), &[], create_only).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind == Kind::PreconditionFailed => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn long_key(&self, length: usize) -> Option<String> {
        let mut key = self.key("long-");
        let mut missing = length.checked_sub(key.len())?;
        while missing > 0 {
            let segment = missing.min(SEGMENT_BYTES);
            key.push_str(&"k".repeat(segment));
            missing -= segment;
            // No slash at the end.
            if missing > 1 {
                key.push('/');
                missing -= 1;
            } else if missing == 1 {
                key.push('k');
                missing = 0;
            }
        }
        Some(key)
    }
}
