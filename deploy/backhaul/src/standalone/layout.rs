//! The data folder of a standalone Backhaul: where each part keeps its files, the stores' keys, and the locations file.
//!
//! The folder is readable for its owner only; keys are made once and used again at the next start.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use super::{ORIGIN, VAULT};

/// The folder.
#[derive(Debug)]
pub(crate) struct Layout {
    root: PathBuf,
    origin: Keys,
    vault: Keys,
}

/// Access key id and secret of a store.
pub(crate) struct Keys {
    id: String,
    secret: String,
}

impl Layout {
    /// Makes the folder where it is missing, and the keys.
    pub(crate) fn prepare(root: &Path) -> io::Result<Self> {
        let private = |path: &Path| fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        private(root)?;
        // The locations file needs absolute paths.
        let root = root.canonicalize()?;
        for folder in ["redis", "origin", "vault", "credentials", "tls"] {
            private(&root.join(folder))?;
        }
        let origin = Keys::load_or_make(&root.join("credentials/origin"))?;
        let vault = Keys::load_or_make(&root.join("credentials/vault"))?;
        Ok(Self { root, origin, vault })
    }

    /// The folder itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where Redis keeps its append-only file.
    pub(crate) fn redis(&self) -> PathBuf {
        self.root.join("redis")
    }

    /// Where certificates and their keys are.
    pub(crate) fn certificates(&self) -> PathBuf {
        self.root.join("tls")
    }

    /// Where the origin keeps its objects.
    pub(crate) fn origin_objects(&self) -> PathBuf {
        self.root.join("origin")
    }

    /// Where the backup store keeps its objects.
    pub(crate) fn vault_objects(&self) -> PathBuf {
        self.root.join("vault")
    }

    /// Keys of the origin.
    pub(crate) const fn origin_keys(&self) -> &Keys {
        &self.origin
    }

    /// Keys of the backup store.
    pub(crate) const fn vault_keys(&self) -> &Keys {
        &self.vault
    }

    /// The file with the backup store's keys.
    pub(crate) fn vault_credentials_file(&self) -> PathBuf {
        self.root.join("credentials/vault")
    }

    /// Writes the locations file for stores at these addresses, and says where it is.
    pub(crate) fn write_locations(&self, origin: &str, vault: &str) -> io::Result<PathBuf> {
        let path = self.root.join("locations.toml");
        fs::write(&path, self.locations(origin, vault))?;
        Ok(path)
    }

    fn locations(&self, origin: &str, vault: &str) -> String {
        // TOML's basic strings escape as Rust's Debug does for the paths and URLs that can stand here.
        let credentials = |name: &str| self.root.join("credentials").join(name);
        format!(
            "# Written at each start of `backhaul standalone`; changes are lost.\n\
             \n\
             [location.{origin_name}]\n\
             endpoint = {origin:?}\n\
             path_style = true\n\
             credentials = {{ file = {origin_file:?} }}\n\
             \n\
             [[location.{origin_name}.read]]\n\
             bucket = {origin_bucket:?}\n\
             tenants = [\"*\"]\n\
             \n\
             [location.{origin_name}.backup]\n\
             location = {vault_name:?}\n\
             bucket = {vault_bucket:?}\n\
             \n\
             [location.{vault_name}]\n\
             endpoint = {vault:?}\n\
             path_style = true\n\
             credentials = {{ file = {vault_file:?} }}\n",
            origin_name = ORIGIN.0,
            origin_bucket = ORIGIN.1,
            origin_file = credentials("origin"),
            vault_name = VAULT.0,
            vault_bucket = VAULT.1,
            vault_file = credentials("vault"),
        )
    }
}

impl Keys {
    /// Access key id and secret.
    pub(crate) fn pair(&self) -> (&str, &str) {
        (&self.id, &self.secret)
    }

    fn load_or_make(path: &Path) -> io::Result<Self> {
        match fs::read_to_string(path) {
            Ok(text) => {
                let mut lines = text.lines();
                match (lines.next(), lines.next()) {
                    (Some(id), Some(secret)) => Ok(Self { id: id.to_owned(), secret: secret.to_owned() }),
                    _ => Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("{} is damaged", path.display()),
                    )),
                }
            }
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => {
                let keys = Self { id: random_hex(10)?, secret: random_hex(20)? };
                let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
                write!(file, "{}\n{}\n", keys.id, keys.secret)?;
                Ok(keys)
            }
            Err(other) => Err(other),
        }
    }
}

/// `bytes` bytes from the operating system's random source, in hex.
pub(crate) fn random_hex(bytes: usize) -> io::Result<String> {
    let mut buffer = vec![0; bytes];
    getrandom::fill(&mut buffer).map_err(io::Error::other)?;
    Ok(buffer.iter().map(|b| format!("{b:02x}")).collect())
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use backhaul_runtime::locations::Locations;

    use super::*;

    #[test]
    fn the_locations_file_it_writes_is_one_it_reads() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::prepare(&folder.path().join("with \"quotes\"")).unwrap();
        let path = layout.write_locations("http://127.0.0.1:1", "http://127.0.0.1:2").unwrap();
        let locations = Locations::load(&path).unwrap();
        assert!(locations.authorize("anyone", ORIGIN.0, ORIGIN.1, "any/key").is_ok());
    }

    #[test]
    fn keys_are_made_once_and_only_the_owner_reads_them() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let first = Layout::prepare(folder.path()).unwrap();
        let second = Layout::prepare(folder.path()).unwrap();
        assert_eq!(first.vault_keys().pair(), second.vault_keys().pair());
        assert_ne!(first.vault_keys().pair(), first.origin_keys().pair());
        let mode = fs::metadata(first.vault_credentials_file()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!format!("{first:?}").contains(first.vault_keys().pair().1));
    }
}
