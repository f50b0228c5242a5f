//! Writing the log: one file that only grows, set aside when it is large, and gone on with after a restart or a crash.
//!
//! What was sealed and could not be written is kept and tried again, so that a full disk leaves no gap in the chain. Nothing that is in a file
//! is changed or cut off, not even half a line that a crash left: the next line tells of it. Blocks, so it belongs on a thread of its own.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use super::{
    Fields, Seal,
    line::{Head, Line, MAX_LINE_BYTES},
};

/// How much of a file is looked at for its last line: more than is ever written at a time.
const TAIL_BYTES: u64 = 8 * MAX_LINE_BYTES as u64;
/// Sealed lines are written when there are that many bytes of them.
const WRITE_BYTES: usize = 256 * 1024;
/// Bytes of a line besides what it tells, at most.
const OF_SEAL_BYTES: usize = 200;
/// What the line tells of that comes after one that was cut off.
pub(super) const RECOVERED: &str = "recovered";
/// Digits of the number of its first line in the name of a file that was set aside.
pub(super) const SEQ_DIGITS: usize = 20;

/// When a file is set aside, and how many of those are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileOptions {
    /// A file is set aside before it has more bytes than that.
    pub rotate_at: u64,
    /// Files that are kept beside the one that is written; 0 for all.
    pub keep: usize,
}

/// A log that is open for writing, by this process alone.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    options: FileOptions,
    seal: Seal,
    file: File,
    /// Bytes in the file.
    len: u64,
    /// Number of the first line in it.
    first: u64,
    /// The last line that was sealed.
    head: Head,
    /// Sealed and not yet written, from `written` on.
    buffer: Vec<u8>,
    written: usize,
    /// The file has been set aside, and there is no new one yet.
    is_set_aside: bool,
    is_dirty: bool,
}

/// What was there when the log was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// The last line that is whole.
    pub head: Head,
    /// What stands behind it.
    pub torn: Option<Torn>,
}

/// Bytes behind the last whole line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Torn {
    /// How many.
    pub bytes: u64,
    /// It is more than one line that was cut off: no crash of a process leaves that.
    pub is_damaged: bool,
}

/// Why the log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The system says no.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is a device, a pipe or the like, where no line can be read back.
    #[error("{}: an audit log is a file of its own", .0.display())]
    NoFile(PathBuf),
    /// There is another writer.
    #[error("{}: another process writes this log", .0.display())]
    Locked(PathBuf),
    /// There is no line to go on from.
    #[error("{}: its end is no audit log: look at it, move it away, and start again", .0.display())]
    NoLog(PathBuf),
}

impl LogFile {
    /// Opens the log at `path`, or begins it. `now` is the time in milliseconds since 1970, for what has to be told of the opening.
    ///
    /// # Errors
    /// [`OpenError`]; nothing was written then.
    pub fn open(path: &Path, options: FileOptions, seal: Seal, now: u64) -> Result<(Self, Found), OpenError> {
        let io = |source| OpenError::Io { path: path.to_owned(), source };
        let mut file = create(path).map_err(io)?;
        lock(&file).map_err(|error| match error {
            TryLockError::WouldBlock => OpenError::Locked(path.to_owned()),
            TryLockError::Error(source) => io(source),
        })?;
        let about = file.metadata().map_err(io)?;
        if !about.is_file() {
            return Err(OpenError::NoFile(path.to_owned()));
        }
        let len = about.len();
        let before = match set_aside(path).map_err(io)?.pop() {
            Some((_, last)) => {
                let mut last_file = File::open(&last).map_err(io)?;
                let tail = Tail::read(&mut last_file, None).map_err(io)?;
                tail.map(|tail| tail.head).ok_or(OpenError::NoLog(last))?
            }
            None => Head::START,
        };
        let tail = match Tail::read(&mut file, Some(before)).map_err(io)? {
            Some(tail) => tail,
            None => return Err(OpenError::NoLog(path.to_owned())),
        };
        let mut log = Self {
            path: path.to_owned(),
            options,
            seal,
            file,
            len,
            first: tail.first.unwrap_or(tail.head.seq + 1),
            head: tail.head,
            buffer: Vec::new(),
            written: 0,
            is_set_aside: false,
            is_dirty: false,
        };
        let ending: &[u8] = if tail.is_unended { b"\n" } else { b"" };
        if tail.is_keyed.is_some_and(|keyed| keyed != log.seal.is_keyed()) {
            // A file has one kind of seal, so that it can be verified as a whole.
            log.file.write_all(ending).map_err(io)?;
            log.rotate().map_err(io)?;
        } else {
            log.buffer.extend(ending);
        }
        let torn = tail.torn.as_ref().map(|torn| log.tell_of(torn, now));
        Ok((log, Found { head: tail.head, torn }))
    }

    /// Seals what stands behind the last whole line by telling of it.
    fn tell_of(&mut self, torn: &TornTail, now: u64) -> Torn {
        let TornTail { bytes, is_damaged, .. } = *torn;
        let mut fields = Fields::new();
        // The first of them says to a verifier what line that is.
        fields.text("event", RECOVERED).number("torn_bytes", bytes).text("torn_sha256", &torn.sha256);
        fields.flag("damaged", is_damaged).instant("at", now);
        self.seal.line(&mut self.head, fields.as_str(), &mut self.buffer);
        Torn { bytes, is_damaged }
    }

    /// Seals and writes lines that say what `bodies` say, in their order, and takes those from it that were sealed. Each is as
    /// [`Fields`] has it.
    ///
    /// # Errors
    /// What the system says. Nothing is lost: another call, with the same or more, goes on where this one ended.
    pub fn append(&mut self, bodies: &mut VecDeque<String>) -> io::Result<()> {
        self.flush()?;
        while let Some(body) = bodies.front() {
            let there = self.len + self.buffer.len() as u64;
            if there > 0 && there + (body.len() + OF_SEAL_BYTES) as u64 > self.options.rotate_at {
                self.flush()?;
                self.rotate()?;
            }
            self.seal.line(&mut self.head, body, &mut self.buffer);
            bodies.pop_front();
            if self.buffer.len() > WRITE_BYTES {
                self.flush()?;
            }
        }
        self.flush()
    }

    /// Makes sure that what was written survives the machine.
    ///
    /// # Errors
    /// What the system says.
    pub fn sync(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.is_dirty) {
            self.file.sync_data().inspect_err(|_| self.is_dirty = true)?;
        }
        Ok(())
    }

    /// The last line that was sealed.
    #[must_use]
    pub const fn head(&self) -> Head {
        self.head
    }

    /// Writes what is sealed.
    fn flush(&mut self) -> io::Result<()> {
        if self.is_set_aside {
            self.rotate()?;
        }
        while self.written < self.buffer.len() {
            match self.file.write(&self.buffer[self.written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.written += count;
                    self.len += count as u64;
                    self.is_dirty = true;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.buffer.clear();
        self.written = 0;
        Ok(())
    }

    /// Sets the file aside and begins another. May be called again when it failed.
    fn rotate(&mut self) -> io::Result<()> {
        if !self.is_set_aside {
            self.sync()?;
            let aside = aside_name(&self.path, self.first);
            if aside.exists() {
                let what = format!("{} is there already", aside.display());
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
            }
            fs::rename(&self.path, &aside)?;
            self.is_set_aside = true;
        }
        let file = create(&self.path)?;
        lock(&file).map_err(io::Error::from)?;
        self.len = file.metadata()?.len();
        self.file = file;
        self.first = self.head.seq + 1;
        self.is_set_aside = false;
        // The names survive the machine, too.
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
        self.prune()
    }

    /// Removes the oldest of the files that were set aside, where there is a bound.
    fn prune(&self) -> io::Result<()> {
        if self.options.keep > 0 {
            let aside = set_aside(&self.path)?;
            for (_, old) in aside.iter().rev().skip(self.options.keep) {
                fs::remove_file(old)?;
            }
        }
        Ok(())
    }
}

/// The end of a file.
struct Tail {
    head: Head,
    /// Number of the first line in the file, if there is one.
    first: Option<u64>,
    /// How its lines are sealed, if there are any.
    is_keyed: Option<bool>,
    torn: Option<TornTail>,
    /// The last byte is not the end of a line.
    is_unended: bool,
}

struct TornTail {
    bytes: u64,
    sha256: String,
    is_damaged: bool,
}

impl Tail {
    /// Looks at the end of a file. `before` is the line before its first one, where it need not have one. `None` when there is no line
    /// to go on from.
    fn read(file: &mut File, before: Option<Head>) -> io::Result<Option<Self>> {
        let len = file.metadata()?.len();
        let start = len.saturating_sub(TAIL_BYTES);
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(start))?;
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        let mut rest = bytes.as_slice();
        if start > 0 {
            // The first line there is cut.
            let Some(end) = rest.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
            rest = &rest[end + 1..];
        }
        let mut head: Option<Head> = None;
        let mut is_keyed = None;
        let mut is_unended = false;
        while !rest.is_empty() {
            let end = rest.iter().position(|byte| *byte == b'\n');
            let Some(line) = Line::read(&rest[..end.unwrap_or(rest.len())]) else { break };
            let follows = head.is_none_or(|head| line.follows(head));
            if !follows || !(line.is_keyed || line.is_sealed_by(&Seal::Plain)) {
                break;
            }
            head = Some(line.head());
            is_keyed = Some(line.is_keyed);
            rest = end.map_or(&[][..], |end| &rest[end + 1..]);
            is_unended = end.is_none();
        }
        let is_damaged = rest.contains(&b'\n');
        let head = match (head, before) {
            (Some(head), _) => head,
            // The very first line was cut off, or there is none.
            (None, Some(before)) if start == 0 && !is_damaged && could_be_line(rest) => before,
            (None, _) => return Ok(None),
        };
        let torn = (!rest.is_empty()).then(|| TornTail {
            bytes: rest.len() as u64,
            sha256: hex::encode(Sha256::digest(rest)),
            is_damaged,
        });
        let is_unended = is_unended || rest.last().is_some_and(|byte| *byte != b'\n');
        let first = first_seq(file)?;
        Ok(Some(Self { head, first, is_keyed, torn, is_unended }))
    }
}

/// Whether a line could begin so.
fn could_be_line(text: &[u8]) -> bool {
    const START: &[u8] = b"{\"seq\":";
    let shorter = text.len().min(START.len());
    text[..shorter] == START[..shorter]
}

/// The number of the first line in a file.
fn first_seq(file: &mut File) -> io::Result<Option<u64>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(MAX_LINE_BYTES as u64).read_to_end(&mut bytes)?;
    let line = bytes.split(|byte| *byte == b'\n').next().and_then(Line::read);
    Ok(line.map(|line| line.seq))
}

/// Opens a file to read it and to write behind its end.
fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(path)
}

/// Keeps other processes from writing.
fn lock(file: &File) -> Result<(), TryLockError> {
    file.try_lock()
}

fn aside_name(path: &Path, first: u64) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{first:0SEQ_DIGITS$}"));
    name.into()
}

/// The files that were set aside, in their order.
fn set_aside(path: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let file = entry?.path();
        if let Some(first) = aside_seq(&file)
            && aside_name(path, first).file_name() == file.file_name()
        {
            found.push((first, file));
        }
    }
    found.sort();
    Ok(found)
}

/// The number of the first line of a file that was set aside, by its name.
pub(super) fn aside_seq(file: &Path) -> Option<u64> {
    let digits = file.extension()?.to_str()?;
    (digits.len() == SEQ_DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| digits.parse().ok())?
}
