//! The file that says where this process serves, for whoever started it with port 0.
//!
//! It is there, whole, from when calls are answered until the end: written beside its place and moved there, so that a reader never sees
//! half an address.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use tokio::fs;
use tracing::warn;

/// A file that was written and is to be removed.
#[derive(Debug)]
pub(super) struct AddressFile {
    path: PathBuf,
    text: String,
}

impl AddressFile {
    /// Writes `addr` and a line feed to `path`, in place of whatever is there.
    pub(super) async fn write(path: &Path, addr: SocketAddr) -> io::Result<Self> {
        let text = format!("{addr}\n");
        let mut beside = path.as_os_str().to_owned();
        // The process id keeps two processes with the same path from writing into each other's draft.
        beside.push(format!(".{}.new", std::process::id()));
        fs::write(&beside, &text).await?;
        fs::rename(&beside, path).await?;
        Ok(Self { path: path.to_owned(), text })
    }

    /// Removes the file, unless a later process has put its own address there.
    pub(super) async fn remove(self) {
        let result = match fs::read_to_string(&self.path).await {
            Ok(text) if text == self.text => fs::remove_file(&self.path).await,
            Ok(_others) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            warn!(path = %self.path.display(), %error, "address file is left behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_file_is_written_whole_replaces_an_old_one_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("address");
        std::fs::write(&path, "old and long, much longer than an address").unwrap();
        let file = AddressFile::write(&path, "127.0.0.1:7400".parse().unwrap()).await.unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "127.0.0.1:7400\n");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        file.remove().await;
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn the_address_of_a_later_process_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("address");
        let old = AddressFile::write(&path, "127.0.0.1:1".parse().unwrap()).await.unwrap();
        let new = AddressFile::write(&path, "127.0.0.1:2".parse().unwrap()).await.unwrap();
        old.remove().await;
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "127.0.0.1:2\n");
        new.remove().await;
        assert!(!path.exists());
    }
}
