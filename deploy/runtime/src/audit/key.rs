//! The key of a sealed log: read from a file, shown to nobody, wiped when it is not needed any more.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

/// Fewer bytes could be guessed.
const LEAST_BYTES: usize = 32;
/// More is not a key but the wrong file.
const MOST_BYTES: usize = 1024;

/// A secret that seals are made with.
#[derive(Clone)]
pub struct Key(Zeroizing<Vec<u8>>);

/// Why a file is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It cannot be read.
    #[error("the key file cannot be read: {0}")]
    Read(#[from] io::Error),
    /// It is too short or too long.
    #[error("a key is a line of {LEAST_BYTES} to {MOST_BYTES} bytes, such as `openssl rand -hex 32` gives")]
    Size,
}

impl Key {
    /// Reads a key: all bytes of a file but the line feed at its end.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(MOST_BYTES + 2));
        File::open(path)?.take(MOST_BYTES as u64 + 2).read_to_end(&mut bytes)?;
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        Self::new(bytes)
    }

    fn new(bytes: Zeroizing<Vec<u8>>) -> Result<Self, KeyError> {
        if (LEAST_BYTES..=MOST_BYTES).contains(&bytes.len()) { Ok(Self(bytes)) } else { Err(KeyError::Size) }
    }

    /// HMAC-SHA-256.
    pub(super) fn seal(&self, text: &[u8]) -> [u8; 32] {
        // The type takes keys of any length.
        Hmac::<Sha256>::new_from_slice(&self.0)
            .map_or([0; 32], |hmac| hmac.chain_update(text).finalize().into_bytes().into())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_32_bytes_or_more_and_shows_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Key::read(&path)
        };
        let secret = "0123456789abcdef0123456789abcdef";
        let (key, same) = (read(&format!("{secret}\n")).unwrap(), read(secret).unwrap());
        assert_eq!(key.seal(b"x"), same.seal(b"x"), "the line feed is not part of it");
        assert_ne!(key.seal(b"x"), read(&format!("{secret}0")).unwrap().seal(b"x"));
        assert!(!format!("{key:?}").contains("0123"));
        for bad in ["", "\n", &secret[1..], &"k".repeat(MOST_BYTES + 1), &"k".repeat(5000)] {
            assert!(matches!(read(bad), Err(KeyError::Size)), "{bad}");
        }
        assert!(matches!(Key::read(dir.path().join("none").as_path()), Err(KeyError::Read(_))));
    }

    /// Test case 2 and 3 of RFC 4231 have short keys; case 6 has a long one.
    #[test]
    fn seals_are_hmac_sha_256() {
        let key = Key::new(Zeroizing::new(vec![0xaa; 131])).unwrap();
        let sealed = key.seal(b"Test Using Larger Than Block-Size Key - Hash Key First");
        assert_eq!(hex::encode(sealed), "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
    }
}
