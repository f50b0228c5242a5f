//! One line of the log: how it is sealed, and how it is read back. Pure.

use std::{fmt, io::Write as _, str::FromStr};

use sha2::{Digest as _, Sha256};

use super::key::Key;

/// Longest line, its end included.
pub(super) const MAX_LINE_BYTES: usize = 1 << 20;
/// Characters of a digest.
const HEX: usize = 64;
const PLAIN: &str = "hash";
const KEYED: &str = "mac";

/// A hash, or a seal under a key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest([u8; 32]);

/// A place in the chain: the number of a line and its digest. Whoever keeps one can tell later whether the chain still has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Number of the line, from 1.
    pub seq: u64,
    /// What it is sealed with.
    pub digest: Digest,
}

/// A text that is not the place of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected the number of a line and its hash, as NUMBER:HASH")]
pub struct InvalidHead;

/// How lines are sealed.
#[derive(Debug, Clone)]
pub enum Seal {
    /// With their hash: who can write the file can make a whole chain anew.
    Plain,
    /// With a key that has to be known for that.
    Keyed(Key),
}

/// A line that has the right form. Nothing says yet that its seal is right.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line<'l> {
    pub(super) seq: u64,
    pub(super) prev: Digest,
    /// What the log tells, without braces.
    pub(super) body: &'l [u8],
    /// All that is sealed.
    sealed: &'l [u8],
    pub(super) digest: Digest,
    pub(super) is_keyed: bool,
}

impl Head {
    /// Before the first line.
    pub const START: Self = Self { seq: 0, digest: Digest([0; 32]) };
}

impl Seal {
    /// Whether there is a key.
    #[must_use]
    pub const fn is_keyed(&self) -> bool {
        match self {
            Self::Plain => false,
            Self::Keyed(_) => true,
        }
    }

    fn of(&self, text: &[u8]) -> Digest {
        match self {
            Self::Plain => Digest(Sha256::digest(text).into()),
            Self::Keyed(key) => Digest(key.seal(text)),
        }
    }

    /// Writes the line after `head` that says `body`, and makes it the head.
    pub(super) fn line(&self, head: &mut Head, body: &str, out: &mut Vec<u8>) {
        let start = out.len();
        let seq = head.seq + 1;
        // Writing to a Vec cannot fail.
        write!(out, "{{\"seq\":{seq},\"prev\":\"{}\",{body}", head.digest).ok();
        let digest = self.of(&out[start..]);
        let name = if self.is_keyed() { KEYED } else { PLAIN };
        writeln!(out, ",\"{name}\":\"{digest}\"}}").ok();
        *head = Head { seq, digest };
    }
}

impl<'l> Line<'l> {
    /// Reads a line without its end; `None` when it has not the form of one.
    pub(super) fn read(text: &'l [u8]) -> Option<Self> {
        if text.len() >= MAX_LINE_BYTES || !text.iter().all(|byte| (b' '..=b'~').contains(byte)) {
            return None;
        }
        let rest = text.strip_prefix(b"{\"seq\":")?;
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let number = std::str::from_utf8(&rest[..digits]).ok()?;
        // A number has one way to be written.
        let seq: u64 = number.parse().ok().filter(|_| !number.starts_with('0'))?;
        let rest = rest[digits..].strip_prefix(b",\"prev\":\"")?;
        let prev = Digest::read(rest.get(..HEX)?)?;
        let rest = rest[HEX..].strip_prefix(b"\",")?;

        let end = text.strip_suffix(b"\"}")?;
        let at = end.len().checked_sub(HEX)?;
        let digest = Digest::read(&end[at..])?;
        let (sealed, is_keyed) = match end[..at].strip_suffix(b",\"hash\":\"") {
            Some(sealed) => (sealed, false),
            None => (end[..at].strip_suffix(b",\"mac\":\"")?, true),
        };
        let start = text.len() - rest.len();
        let body = sealed.get(start..).filter(|body| !body.is_empty())?;
        Some(Self { seq, prev, body, sealed, digest, is_keyed })
    }

    /// Whether that is its seal.
    pub(super) fn is_sealed_by(&self, seal: &Seal) -> bool {
        self.is_keyed == seal.is_keyed() && seal.of(self.sealed) == self.digest
    }

    /// Whether it comes right after `head`.
    pub(super) fn follows(&self, head: Head) -> bool {
        self.seq == head.seq.saturating_add(1) && self.prev == head.digest
    }

    pub(super) const fn head(&self) -> Head {
        Head { seq: self.seq, digest: self.digest }
    }
}

impl Digest {
    fn read(text: &[u8]) -> Option<Self> {
        // One way to write it, as for numbers.
        let is_lower = text.iter().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte));
        let mut bytes = [0; 32];
        (is_lower && hex::decode_to_slice(text, &mut bytes).is_ok()).then_some(Self(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; HEX];
        // The room is twice the bytes, as it has to be.
        hex::encode_to_slice(self.0, &mut text).map_err(|_| fmt::Error)?;
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.seq, self.digest)
    }
}

impl FromStr for Head {
    type Err = InvalidHead;

    fn from_str(text: &str) -> Result<Self, InvalidHead> {
        let (seq, digest) = text.split_once(':').ok_or(InvalidHead)?;
        let seq = seq.parse().map_err(|_| InvalidHead)?;
        Ok(Self { seq, digest: Digest::read(digest.as_bytes()).ok_or(InvalidHead)? })
    }
}
