//! Files of settings in TOML: read within a bound, and refused whole with all that is wrong, each named by its setting.
//!
//! It exists so that every such file is told about in one way. What its settings mean is the matter of whoever reads it.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;

/// Why a file was not taken. Nothing of it is in force then.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It could not be read.
    #[error("cannot read the {kind} file {}: {source}", path.display())]
    Read {
        /// What it is called.
        kind: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not TOML, or has a setting that does not exist or is of the wrong type.
    #[error("{}: {source}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// It says something that cannot be: one line each.
    #[error("{}:{}", path.display(), problems.iter().map(|p| format!("\n  {p}")).collect::<String>())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// All that is wrong.
        problems: Vec<Problem>,
    },
}

/// One thing that is wrong with a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Path of the setting, such as `location.uploads.backup.bucket`.
    pub setting: String,
    /// What is wrong with it.
    pub what: String,
}

/// What is wrong with a file so far.
#[derive(Debug, Default)]
pub struct Problems(Vec<Problem>);

/// A file that is followed: looked at every now and then instead of being told about, because what a cluster mounts is replaced by renaming
/// folders that no watch sees. What two looks in a row have found alike counts: half of a file, or none of it yet, is a file as well.
#[derive(Debug)]
pub struct Followed {
    kind: &'static str,
    path: PathBuf,
    max_bytes: u64,
    /// What was taken last, whether it was of use or not.
    seen: Option<Result<String, String>>,
    /// What the last look found, where that was something else.
    coming: Option<Result<String, String>>,
}

/// The text of a file that is called `kind`, of at most `max_bytes`.
///
/// # Errors
/// [`FileError::Read`].
pub fn read(kind: &'static str, path: &Path, max_bytes: u64) -> Result<String, FileError> {
    let failed = |source| FileError::Read { kind, path: path.to_owned(), source };
    if fs::metadata(path).map_err(failed)?.len() > max_bytes {
        return Err(failed(io::Error::other(format!("larger than {} KiB", max_bytes / 1024))));
    }
    fs::read_to_string(path).map_err(failed)
}

/// What the text of a file says; `path` is only for errors.
///
/// # Errors
/// [`FileError::Syntax`].
pub fn parse<T: DeserializeOwned>(text: &str, path: &Path) -> Result<T, FileError> {
    toml::from_str(text)
        .map_err(|source| FileError::Syntax { path: path.to_owned(), source: Box::new(source) })
}

impl Followed {
    /// A file that is called `kind`, of at most `max_bytes`, and what it says now.
    ///
    /// # Errors
    /// [`FileError::Read`].
    pub fn open(kind: &'static str, path: PathBuf, max_bytes: u64) -> Result<(Self, String), FileError> {
        let text = read(kind, &path, max_bytes)?;
        let seen = Some(Ok(text.clone()));
        Ok((Self { kind, path, max_bytes, seen, coming: None }, text))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Looks at the file once. What it says, or why it cannot be read, if that is something new. A small file on a local disk: not worth a
    /// thread.
    pub fn look(&mut self) -> Option<Result<String, FileError>> {
        let text = read(self.kind, &self.path, self.max_bytes);
        let found = Some(text.as_ref().map(Clone::clone).map_err(ToString::to_string));
        if found == self.seen {
            self.coming = None;
            return None;
        }
        if found != self.coming {
            self.coming = found;
            return None;
        }
        self.coming = None;
        self.seen = found;
        Some(text)
    }

    /// Takes what it says for new again: because it could not be used for a reason that may pass.
    pub fn forget(&mut self) {
        self.seen = None;
    }
}

impl Problems {
    /// Notes that something is wrong.
    pub fn add(&mut self, setting: impl Into<String>, what: impl Into<String>) {
        self.0.push(Problem { setting: setting.into(), what: what.into() });
    }

    /// Notes that something is wrong unless it `holds`.
    pub fn require(&mut self, holds: bool, setting: &str, what: &str) {
        if !holds {
            self.add(setting, what);
        }
    }

    /// Whether nothing is wrong so far.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `value`, when nothing is wrong.
    ///
    /// # Errors
    /// [`FileError::Invalid`].
    pub fn unless_any<T>(self, path: &Path, value: T) -> Result<T, FileError> {
        if self.0.is_empty() {
            Ok(value)
        } else {
            Err(FileError::Invalid { path: path.to_owned(), problems: self.0 })
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.setting, self.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_looks_find_alike_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("settings.toml");
        fs::write(&path, "a").unwrap();
        let (mut file, text) = Followed::open("test", path.clone(), 10).unwrap();
        assert_eq!(text, "a");
        let looks = |file: &mut Followed, count: usize| {
            let told = (0..count).filter_map(|_| file.look());
            told.map(|told| told.map_err(|error| error.to_string())).collect::<Vec<_>>()
        };
        assert_eq!(looks(&mut file, 3), []);
        // Half of it, and then all.
        fs::write(&path, "b").unwrap();
        assert_eq!(looks(&mut file, 1), []);
        fs::write(&path, "bc").unwrap();
        assert_eq!(looks(&mut file, 1), []);
        assert_eq!(looks(&mut file, 3), [Ok("bc".to_owned())]);
        // Gone and back between two looks, or for good.
        fs::remove_file(&path).unwrap();
        assert_eq!(looks(&mut file, 1), []);
        fs::write(&path, "bc").unwrap();
        assert_eq!(looks(&mut file, 3), []);
        fs::write(&path, "far too long").unwrap();
        let told = looks(&mut file, 3);
        assert!(matches!(&told[..], [Err(why)] if why.contains("the test file")), "{told:?}");
        file.forget();
        assert_eq!(looks(&mut file, 3).len(), 1, "it is told anew");
    }
}
