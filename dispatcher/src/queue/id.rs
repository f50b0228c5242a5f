//! Names of a task and of the right to work on it: [`TaskId`], derived from what is backed up, and [`LeaseToken`], from chance.
//!
//! They exist so that a repeated request finds its task without an index, and so that only the newest lease can finish it.
//! Nothing here may know Redis or protobuf.

use std::{cmp::Ordering, fmt};

use sha2::{Digest as _, Sha256};

use super::task::ObjectRef;

/// Most shards.
pub const MAX_SHARDS: u16 = 1024;

/// Digits of the group, of the hash, and of the part of the hash that says the shard.
const GROUP_DIGITS: usize = 3;
const HASH_DIGITS: usize = 32;
const SHARD_DIGITS: usize = 7;

/// Identity of a task: `<group>-<hash>`, hash in 32 hex digits (128 bits of SHA-256), and as its group the last three of them once more.
///
/// Derived from tenant and object, so it routes itself and needs no second key to recognise a repeated request. The end of the hash says
/// where the task is among any number of shards, so an id stays what it is when the number changes. Ids are in the order of their hashes,
/// as in the indexes of a store.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TaskId(Box<str>);

/// A text that is not a task id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a task id is 32 hex digits behind a dash and the last three of them")]
pub struct InvalidTaskId;

/// The right of one worker to finish one task: 128 random bits, unguessable.
///
/// `Debug` shows only the first two bytes: who reads logs must not be able to finish tasks.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseToken([u8; 16]);

impl TaskId {
    /// The id of the task that backs up `object` for `tenant`.
    ///
    /// Each field goes into the hash with its length, so that no two identities share an encoding.
    #[must_use]
    pub fn derive(tenant: &str, object: &ObjectRef) -> Self {
        let mut hash = Sha256::new();
        for field in [tenant, &object.location, &object.bucket, &object.key] {
            hash.update((field.len() as u64).to_be_bytes());
            hash.update(field);
        }
        // "No version" and a version are told apart by the presence of the field, not by a reserved word.
        if let Some(version) = &object.version {
            hash.update((version.len() as u64).to_be_bytes());
            hash.update(version.as_bytes());
        }
        let digest: [u8; 32] = hash.finalize().into();
        Self::of(&hex::encode(&digest[..HASH_DIGITS / 2]))
    }

    /// The id with a hash that has the form of one.
    fn of(hash: &str) -> Self {
        Self(format!("{}-{hash}", &hash[HASH_DIGITS - GROUP_DIGITS..]).into_boxed_str())
    }

    /// The id with this hash.
    ///
    /// # Errors
    /// [`InvalidTaskId`] unless it is 32 hex digits in lower case.
    pub fn from_hash(hash: &str) -> Result<Self, InvalidTaskId> {
        if is_hex(hash) { Ok(Self::of(hash)) } else { Err(InvalidTaskId) }
    }

    /// Reads an id.
    ///
    /// # Errors
    /// [`InvalidTaskId`] unless `text` is exactly what [`TaskId::as_str`] gives: a task must not have two names.
    pub fn parse(text: &str) -> Result<Self, InvalidTaskId> {
        let (group, hash) = text.split_once('-').ok_or(InvalidTaskId)?;
        if is_hex(hash) && group == &hash[HASH_DIGITS - GROUP_DIGITS..] {
            Ok(Self(text.into()))
        } else {
            Err(InvalidTaskId)
        }
    }

    /// Which of `shards` shards (1 to [`MAX_SHARDS`]) keeps the task.
    #[must_use]
    pub fn shard(&self, shards: u16) -> u16 {
        // More digits than the group's, or a number that does not divide 4096 would spread tasks unevenly.
        let end = &self.0[self.0.len() - SHARD_DIGITS..];
        let number =
            u32::from_str_radix(end, 16).unwrap_or_default() % u32::from(shards.clamp(1, MAX_SHARDS));
        u16::try_from(number).unwrap_or_default()
    }

    /// What tells the task from all others: the id without the group.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.0[GROUP_DIGITS + 1..]
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_hex(hash: &str) -> bool {
    hash.len() == HASH_DIGITS && hash.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

impl PartialOrd for TaskId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for TaskId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.hash().cmp(other.hash())
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl LeaseToken {
    /// Bytes of a token.
    pub const LEN: usize = 16;

    /// A token with the given bytes: from the wire, or from the operating system's random source.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// Reads a token; `None` unless it has exactly 16 bytes.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// A new token from the operating system's random source.
    ///
    /// # Errors
    /// When that source fails, which leaves no safe way to go on.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; Self::LEN];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// The bytes to put on the wire.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Debug for LeaseToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeaseToken({:02x}{:02x}..)", self.0[0], self.0[1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(key: &str, version: Option<&str>) -> ObjectRef {
        ObjectRef {
            location: "uploads".into(),
            bucket: "photos".into(),
            key: key.into(),
            version: version.map(Into::into),
        }
    }

    #[test]
    fn the_same_object_always_has_the_same_id_whatever_the_number_of_shards() {
        let id = TaskId::derive("t", &object("a", None));
        assert_eq!(id, TaskId::derive("t", &object("a", None)));
        assert_eq!(TaskId::parse(id.as_str()), Ok(id.clone()));
        assert_eq!(TaskId::from_hash(id.hash()), Ok(id.clone()));
        for shards in [1, 2, 3, 16, 1000, MAX_SHARDS] {
            assert!(id.shard(shards) < shards);
        }
        // A number of shards that is twice another splits each of them in two.
        assert_eq!(id.shard(16), id.shard(32) % 16);
        assert_eq!((id.shard(0), id.shard(1)), (0, 0));
    }

    #[test]
    fn ids_are_in_the_order_of_their_hashes() {
        let id = |hash: &str| TaskId::from_hash(hash).unwrap();
        let (first, last) = (id(&format!("{}fff", "0".repeat(29))), id(&format!("1{}", "0".repeat(31))));
        assert!(first < last && first.as_str() > last.as_str());
    }

    #[test]
    fn tasks_spread_evenly_over_any_number_of_shards() {
        for shards in [3_u16, 16, 1000] {
            let mut counts = vec![0_u32; usize::from(shards)];
            for n in 0..u32::from(shards) * 100 {
                counts[usize::from(TaskId::derive("t", &object(&n.to_string(), None)).shard(shards))] += 1;
            }
            assert!(counts.iter().all(|count| (50..170).contains(count)), "{counts:?}");
        }
    }

    #[test]
    fn tenant_key_and_version_all_tell_tasks_apart() {
        let ids = [
            TaskId::derive("t", &object("a", None)),
            TaskId::derive("u", &object("a", None)),
            TaskId::derive("t", &object("b", None)),
            TaskId::derive("t", &object("a", Some("1"))),
            TaskId::derive("t", &object("a", Some(""))),
            TaskId::derive("t", &object("a", Some("latest"))),
        ];
        let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len());
    }

    #[test]
    fn only_the_exact_form_is_an_id() {
        let good = "def-0123456789abcdef0123456789abcdef";
        assert!(TaskId::parse(good).is_ok());
        let other_group = good.replacen("def", "dee", 1);
        for bad in [
            "",
            "-",
            "def",
            &good[4..],
            &good[1..],
            &good.to_uppercase(),
            &format!("{good}0"),
            &good.replace('-', ":"),
            &other_group,
        ] {
            assert_eq!(TaskId::parse(bad), Err(InvalidTaskId), "{bad}");
        }
    }

    #[test]
    fn a_token_does_not_show_itself_in_logs() {
        let token = LeaseToken::from_bytes([0xab; 16]);
        assert_eq!(format!("{token:?}"), "LeaseToken(abab..)");
        assert_eq!(LeaseToken::from_slice(&[0; 15]), None);
    }
}
