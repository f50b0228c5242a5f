//! Object bodies: immutable runs of bytes under a number, in memory or one file each.
//!
//! A blob lives as long as something refers to it: the index, a request that is writing it, or a reader. Each of them
//! holds references, the last one to let go deletes the bytes. Bodies stream in and out in pieces; with a directory no
//! body is held in memory. Keys never become file names.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncWriteExt as _, BufWriter};

use crate::model::{BlobId, Content};
use crate::options::StartError;

/// How much of a file is written or read at once, in bytes.
pub(crate) const CHUNK_BYTES: usize = 256 * 1024;

/// Bytes reserved ahead for a body in memory; a client that announces more must send it first.
const RESERVE_BYTES: usize = 64 * 1024 * 1024;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Blobs {
    /// Where the files are; `None` keeps everything in memory.
    directory: Option<PathBuf>,
    live: Mutex<HashMap<BlobId, Live>>,
}

#[derive(Debug)]
struct Live {
    references: u64,
    /// Empty when the blob is a file.
    bytes: Bytes,
}

/// One reference to each blob of a content, returned when dropped.
#[derive(Debug)]
pub(crate) struct Hold {
    blobs: Arc<Blobs>,
    content: Content,
}

/// A blob being written. Dropped before [`BlobWriter::finish`], it leaves nothing.
#[derive(Debug)]
pub(crate) struct BlobWriter {
    hold: Hold,
    sink: Sink,
}

#[derive(Debug)]
enum Sink {
    Memory(BytesMut),
    File(BufWriter<tokio::fs::File>),
}

impl Blobs {
    pub(crate) fn in_memory() -> Self {
        Self { directory: None, live: Mutex::default() }
    }

    /// Opens the bodies in `directory` that `referenced` names, once for each reference, and deletes all others: they
    /// are left over from requests that never finished.
    ///
    /// # Errors
    /// When a body is missing or the directory cannot be used.
    pub(crate) fn open(
        directory: &Path,
        referenced: impl Iterator<Item = BlobId>,
    ) -> Result<Self, StartError> {
        let blobs = Self { directory: Some(directory.to_owned()), live: Mutex::default() };
        let mut missing: HashMap<BlobId, Live> = HashMap::new();
        for id in referenced {
            missing.entry(id).or_insert_with(Live::new).references += 1;
        }
        let mut live = HashMap::with_capacity(missing.len());
        for shard in 0..=u8::MAX {
            let shard = directory.join(format!("{shard:02x}"));
            let failed = |source| StartError::Storage { path: shard.clone(), source };
            std::fs::create_dir_all(&shard).map_err(failed)?;
            for file in std::fs::read_dir(&shard).map_err(failed)? {
                let file = file.map_err(failed)?;
                let id = file.file_name().to_str().and_then(|name| BlobId::from_str_radix(name, 16).ok());
                match id.and_then(|id| missing.remove_entry(&id)) {
                    Some((id, entry)) => drop(live.insert(id, entry)),
                    None => std::fs::remove_file(file.path()).map_err(failed)?,
                }
            }
        }
        if let Some(id) = missing.into_keys().next() {
            return Err(StartError::MissingBody { path: path_of(directory, id) });
        }
        *blobs.live() = live;
        Ok(blobs)
    }

    /// Starts a new blob; `expected_len` in bytes is a hint.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub(crate) async fn create(self: &Arc<Self>, id: BlobId, expected_len: u64) -> io::Result<BlobWriter> {
        self.live().insert(id, Live { references: 1, bytes: Bytes::new() });
        // The length is not known yet; all that counts here is the one reference.
        let hold = Hold { blobs: Arc::clone(self), content: Content::whole(id, 1) };
        let sink = match &self.directory {
            None => {
                let reserve = usize::try_from(expected_len).unwrap_or(RESERVE_BYTES).min(RESERVE_BYTES);
                Sink::Memory(BytesMut::with_capacity(reserve))
            }
            Some(directory) => {
                let file = tokio::fs::File::create_new(path_of(directory, id)).await?;
                Sink::File(BufWriter::with_capacity(CHUNK_BYTES, file))
            }
        };
        Ok(BlobWriter { hold, sink })
    }

    /// Keeps the blobs of `content` until the hold is dropped. `None` if one of them is gone already.
    pub(crate) fn hold(self: &Arc<Self>, content: &Content) -> Option<Hold> {
        let mut live = self.live();
        if !content.blobs().all(|id| live.contains_key(&id)) {
            return None;
        }
        for id in content.blobs() {
            live.entry(id).or_insert_with(Live::new).references += 1;
        }
        Some(Hold { blobs: Arc::clone(self), content: content.clone() })
    }

    /// Counts references gained and lost. Returns what nobody refers to any more, for [`Blobs::delete`].
    #[must_use]
    pub(crate) fn adjust(&self, added: &[BlobId], dropped: &[BlobId]) -> Vec<BlobId> {
        let mut unreferenced = Vec::new();
        let mut live = self.live();
        for id in added {
            live.entry(*id).or_insert_with(Live::new).references += 1;
        }
        for id in dropped {
            if let Entry::Occupied(mut entry) = live.entry(*id) {
                entry.get_mut().references -= 1;
                if entry.get().references == 0 {
                    entry.remove();
                    unreferenced.push(*id);
                }
            }
        }
        unreferenced
    }

    /// Deletes the files of blobs that nobody refers to.
    pub(crate) fn delete(&self, unreferenced: &[BlobId]) {
        let Some(directory) = &self.directory else { return };
        for id in unreferenced {
            let path = path_of(directory, *id);
            // A blob whose file could not be made has none.
            if let Err(error) = std::fs::remove_file(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "cannot delete an object's body");
            }
        }
    }

    fn live(&self) -> MutexGuard<'_, HashMap<BlobId, Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Live {
    fn new() -> Self {
        Self { references: 0, bytes: Bytes::new() }
    }
}

impl Hold {
    pub(crate) fn content(&self) -> &Content {
        &self.content
    }

    /// The bytes of a blob in memory; `None` if it is a file.
    pub(crate) fn bytes(&self, id: BlobId) -> Option<Bytes> {
        match self.blobs.directory {
            None => self.blobs.live().get(&id).map(|live| live.bytes.clone()),
            Some(_) => None,
        }
    }

    /// The file of a blob; `None` if it is in memory.
    pub(crate) fn path(&self, id: BlobId) -> Option<PathBuf> {
        self.blobs.directory.as_deref().map(|directory| path_of(directory, id))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let ids: Vec<BlobId> = self.content.blobs().collect();
        let unreferenced = self.blobs.adjust(&[], &ids);
        self.blobs.delete(&unreferenced);
    }
}

impl BlobWriter {
    /// Adds bytes at the end.
    ///
    /// # Errors
    /// When the file system refuses.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.sink {
            Sink::Memory(buffer) => {
                buffer.extend_from_slice(bytes);
                Ok(())
            }
            Sink::File(file) => file.write_all(bytes).await,
        }
    }

    /// Ends the blob, `len` bytes long. It stays while the hold does, then while the index refers to it.
    ///
    /// # Errors
    /// When the file system refuses.
    pub(crate) async fn finish(mut self, len: u64) -> io::Result<Hold> {
        let id = self.hold.content.0[0].blob;
        match self.sink {
            Sink::Memory(buffer) => {
                let mut live = self.hold.blobs.live();
                live.entry(id).or_insert_with(Live::new).bytes = buffer.freeze();
            }
            Sink::File(mut file) => file.flush().await?,
        }
        if len > 0 {
            self.hold.content = Content::whole(id, len);
            return Ok(self.hold);
        }
        // An empty body has no extents; the blob goes with the hold that made it.
        Ok(Hold { blobs: Arc::clone(&self.hold.blobs), content: Content::default() })
    }
}

fn path_of(directory: &Path, id: BlobId) -> PathBuf {
    // The low byte spreads consecutive numbers evenly.
    directory.join(format!("{:02x}", id & 0xff)).join(format!("{id:016x}"))
}
