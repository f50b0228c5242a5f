//! The index on disk: an append-only file of changes, one JSON line for each transaction.
//!
//! A line is the unit of atomicity: after a crash either all records of a transaction are found or none, because a
//! torn last line is cut off. Nothing is synced to the device; this store promises to survive the end of its process,
//! not of the machine. The journal is rewritten as a snapshot when most of it is history.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::index::{Index, Record, References};
use crate::options::StartError;

/// A journal shorter than this is never rewritten while the store runs.
const COMPACT_MIN_BYTES: u64 = 16 * 1024 * 1024;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    len: u64,
    snapshot_len: u64,
    /// Held for its lock: one store at a time.
    _lock: File,
}

impl Journal {
    /// Locks `directory`, replays its journal into a new index and rewrites it as a snapshot.
    ///
    /// # Errors
    /// When the directory is in use, cannot be written, or holds a line that is not a transaction.
    pub(crate) fn open(directory: &Path) -> Result<(Self, Index), StartError> {
        let lock_path = directory.join("lock");
        let lock = File::create(&lock_path).map_err(|source| storage_error(&lock_path, source))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => StartError::InUse { path: directory.to_owned() },
            TryLockError::Error(source) => storage_error(&lock_path, source),
        })?;
        let path = directory.join("index.jsonl");
        let index = replay(&path)?;
        let (file, len) = write_snapshot(&path, &index).map_err(|source| storage_error(&path, source))?;
        Ok((Self { path, file, len, snapshot_len: len, _lock: lock }, index))
    }

    /// Writes one transaction.
    ///
    /// # Errors
    /// When the file system refuses; the journal is then as before.
    pub(crate) fn append(&mut self, records: &[Record]) -> io::Result<()> {
        let mut line = serde_json::to_vec(records)?;
        line.push(b'\n');
        if let Err(error) = self.file.write_all(&line) {
            self.file.set_len(self.len)?;
            self.file.seek(SeekFrom::Start(self.len))?;
            return Err(error);
        }
        self.len += line.len() as u64;
        Ok(())
    }

    /// Rewrites the journal if it has grown to a multiple of the index that it describes.
    ///
    /// # Errors
    /// When the file system refuses; the journal is then as before.
    pub(crate) fn compact(&mut self, index: &Index) -> io::Result<()> {
        if self.len < COMPACT_MIN_BYTES.max(self.snapshot_len.saturating_mul(4)) {
            return Ok(());
        }
        (self.file, self.len) = write_snapshot(&self.path, index)?;
        self.snapshot_len = self.len;
        Ok(())
    }
}

fn replay(path: &Path) -> Result<Index, StartError> {
    let mut index = Index::default();
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(index),
        Err(source) => return Err(storage_error(path, source)),
    };
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    let mut number = 0;
    loop {
        line.clear();
        reader.read_until(b'\n', &mut line).map_err(|source| storage_error(path, source))?;
        number += 1;
        if line.last() != Some(&b'\n') {
            // The end of the file, or a transaction that was being written when the process died.
            return Ok(index);
        }
        let records: Vec<Record> = serde_json::from_slice(&line).map_err(|source| StartError::Journal {
            path: path.to_owned(),
            line: number,
            source,
        })?;
        // The blobs' references are counted once, from the finished index.
        let mut references = References::default();
        records.into_iter().for_each(|record| index.apply(record, &mut references));
    }
}

fn write_snapshot(path: &Path, index: &Index) -> io::Result<(File, u64)> {
    let new = path.with_extension("jsonl.new");
    let file = OpenOptions::new().create(true).write(true).truncate(true).open(&new)?;
    let mut writer = BufWriter::new(file);
    for record in index.snapshot() {
        serde_json::to_writer(&mut writer, &[record])?;
        writer.write_all(b"\n")?;
    }
    let mut file = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
    let len = file.stream_position()?;
    std::fs::rename(&new, path)?;
    Ok((file, len))
}

fn storage_error(path: &Path, source: io::Error) -> StartError {
    StartError::Storage { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BucketState, Versioning};

    fn bucket(name: &str) -> Record {
        let state = BucketState { created_ms: 1, versioning: Versioning::Off, object_lock: false };
        Record::Bucket { name: name.into(), state }
    }

    fn names(index: &Index) -> Vec<&String> {
        index.buckets().map(|(name, _)| name).collect()
    }

    #[test]
    fn a_torn_last_line_is_cut_off_and_the_rest_is_found() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (mut journal, _) = Journal::open(directory.path()).expect("open");
        journal.append(&[bucket("one"), bucket("two")]).expect("append");
        journal.append(&[bucket("three"), bucket("four")]).expect("append");
        let len = journal.len;
        drop(journal);
        let file = OpenOptions::new().write(true).open(directory.path().join("index.jsonl")).expect("open");
        file.set_len(len - 1).expect("truncate");

        let (mut journal, index) = Journal::open(directory.path()).expect("open again");
        assert_eq!(names(&index), ["one", "two"]);

        journal.append(&[bucket("five")]).expect("append after the repair");
        drop(journal);
        let (_, index) = Journal::open(directory.path()).expect("open a third time");
        assert_eq!(names(&index), ["five", "one", "two"]);
    }

    #[test]
    fn a_broken_line_in_the_middle_stops_the_start() {
        let directory = tempfile::tempdir().expect("temporary directory");
        std::fs::write(directory.path().join("index.jsonl"), b"[]\n{nonsense\n[]\n").expect("write");

        let error = Journal::open(directory.path()).expect_err("the second line is broken");

        assert!(matches!(error, StartError::Journal { line: 2, .. }), "{error:?}");
    }

    #[test]
    fn a_directory_serves_one_store_at_a_time() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let _first = Journal::open(directory.path()).expect("open");

        let error = Journal::open(directory.path()).expect_err("the first one holds the lock");

        assert!(matches!(error, StartError::InUse { .. }), "{error:?}");
    }
}
