//! Free TCP ports for servers that cannot be told to take any.
//!
//! The usual way, binding port 0 and giving the number back, races with every connection that the machine opens, because clients
//! take their ports from the same range. So ports here lie below that range, and a file lock keeps other tests off a port for
//! as long as its [`Port`] lives, also while its server is down between kill and restart.

use std::{
    env,
    fs::{self, File, OpenOptions},
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
};

use anyhow::{Context as _, bail};

/// Below the range that Linux and macOS take client ports from, with room for [`Port::pair`].
const FIRST: u16 = 10_100;
const LAST: u16 = 21_900;

/// What SeaweedFS adds to a port for the gRPC side of the same server.
pub const PAIR_OFFSET: u16 = 10_000;

/// A port of 127.0.0.1 that belongs to one test until this is dropped.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// Held, never read.
    _locks: Vec<File>,
}

impl Port {
    /// A free port.
    ///
    /// # Errors
    /// When none is free, or locks cannot be made in the temporary folder.
    pub fn lease() -> anyhow::Result<Self> {
        Self::search(&[0])
    }

    /// A port that is free together with the one [`PAIR_OFFSET`] above it.
    ///
    /// # Errors
    /// As [`Port::lease`].
    pub fn pair() -> anyhow::Result<Self> {
        Self::search(&[0, PAIR_OFFSET])
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }

    fn search(offsets: &[u16]) -> anyhow::Result<Self> {
        let folder = lock_folder()?;
        for _ in 0..1000 {
            let number = fastrand::u16(FIRST..=LAST);
            let locks: Option<Vec<File>> =
                offsets.iter().map(|offset| take(&folder, number + offset)).collect();
            if let Some(locks) = locks {
                return Ok(Self { number, _locks: locks });
            }
        }
        bail!("no free port between {FIRST} and {LAST}")
    }
}

/// The lock of a port that nobody listens on.
fn take(folder: &std::path::Path, number: u16) -> Option<File> {
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(folder.join(number.to_string()))
        .ok()?;
    lock.try_lock().ok()?;
    TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok().then_some(lock)
}

/// One folder for each user: another user's locks could not be opened.
fn lock_folder() -> anyhow::Result<PathBuf> {
    let user = fs::metadata(env::current_exe()?)?.uid();
    let folder = env::temp_dir().join(format!("backhaul-test-ports-{user}"));
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leased_port_is_nobody_elses_until_it_is_dropped() {
        let port = Port::lease().unwrap();
        let folder = lock_folder().unwrap();
        assert!(take(&folder, port.number()).is_none());
        let number = port.number();
        drop(port);
        assert!(take(&folder, number).is_some());
    }

    #[test]
    fn a_port_that_is_listened_on_is_not_taken() {
        let port = Port::lease().unwrap();
        let number = port.number();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, number)).unwrap();
        drop(port);
        assert!(take(&lock_folder().unwrap(), number).is_none());
        drop(listener);
    }

    #[test]
    fn a_pair_holds_both_ports() {
        let pair = Port::pair().unwrap();
        assert!(take(&lock_folder().unwrap(), pair.number() + PAIR_OFFSET).is_none());
    }
}
