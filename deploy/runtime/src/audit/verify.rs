//! Reading a log back: whether each line is as it was written, and stands where it was written.
//!
//! Reads line by line, so files of any size take the same memory. It stops at the first line that is wrong and says what is wrong with
//! it. What it cannot see is what was cut off behind the last line: for that there are places in the chain that somebody kept elsewhere.

use std::{
    fmt,
    fs::File,
    io::{self, BufRead, BufReader, Read as _},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use super::{
    file::{RECOVERED, aside_seq},
    key::Key,
    line::{Head, Line, MAX_LINE_BYTES, Seal},
};

/// Bytes that are read from a file at a time.
const READ_BYTES: usize = 256 * 1024;

/// What to verify, and against what.
#[derive(Debug, Default)]
pub struct Verification {
    /// Files of one log. Those that were set aside are read in the order of their names, then the others as they are given.
    pub files: Vec<PathBuf>,
    /// Keys that lines may be sealed with; without any, lines must have no key.
    pub keys: Vec<Key>,
    /// The first files are not here: what was before the first line is not asked.
    pub is_partial: bool,
    /// Places that the chain must have.
    pub anchors: Vec<Head>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Lines that are as they were written.
    pub lines: u64,
    /// Number of the first of them.
    pub first: Option<u64>,
    /// The last of them.
    pub last: Option<Head>,
    /// Numbers of lines that tell of a line before them that a crash had cut off.
    pub recovered: Vec<u64>,
    /// Anchors that are before the first line, so that nothing is known of them.
    pub anchors_before: u64,
    /// The last line is not whole: it is being written, a crash has cut it off, or somebody has.
    pub is_cut_off: bool,
    /// The first line that is wrong; nothing behind it was read.
    pub flaw: Option<Flaw>,
}

/// A line that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flaw {
    /// Its file.
    pub file: PathBuf,
    /// Its place there, from 1.
    pub line: u64,
    /// Bytes before it there.
    pub offset: u64,
    /// What is wrong.
    pub kind: Kind,
}

/// What can be wrong with a line. Numbers are those of lines of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It is no line of a log.
    NotALine {
        /// Number of the line that belongs there.
        expected: u64,
    },
    /// It has the form of one and another content than it was sealed with.
    Changed {
        /// The number that it has.
        seq: u64,
    },
    /// Lines are missing before it.
    Missing {
        /// Number of the first that is missing.
        expected: u64,
        /// Number of this line.
        found: u64,
    },
    /// It and the next have changed places.
    Reordered {
        /// Number of the line that belongs there.
        expected: u64,
        /// Number of the line that stands there.
        found: u64,
    },
    /// It does not belong there: it was inserted, or stands there a second time.
    Inserted {
        /// Number of the line that belongs there.
        expected: u64,
        /// Number of the line that stands there.
        found: u64,
    },
    /// It has the right number and follows another line than the one before it, so one of the two was made by somebody else.
    Replaced {
        /// Its number.
        seq: u64,
    },
    /// It has no seal under a key, and should have one.
    NoKey {
        /// Its number.
        seq: u64,
    },
    /// It was cut off, and what was written after it does not say so.
    CutOff {
        /// Number of the line that belongs there.
        expected: u64,
    },
    /// It tells of a cut-off line before it, and there is none.
    NothingCutOff {
        /// Its number.
        seq: u64,
    },
    /// It is another line than the anchor with its number.
    NotTheAnchor {
        /// Its number.
        seq: u64,
    },
    /// The log ends before an anchor.
    EndsBefore {
        /// Number of the anchor.
        anchor: u64,
    },
}

/// Why files could not be verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Lines are sealed with a key, and none was given.
    #[error("{}: its lines are sealed with a key, which is needed to verify them", .0.display())]
    NeedsKey(PathBuf),
}

impl Verification {
    /// Reads all files.
    ///
    /// # Errors
    /// [`VerifyError`]. That a line is wrong is no error but in the report.
    pub fn run(mut self) -> Result<Report, VerifyError> {
        // Stable: those that are still written come last, in the order given.
        self.files.sort_by_key(|file| aside_seq(file).unwrap_or(u64::MAX));
        self.anchors.sort_by_key(|anchor| anchor.seq);
        let mut chain = self.chain();
        for (at, path) in self.files.iter().enumerate() {
            let io = |source| VerifyError::Io { path: path.clone(), source };
            let mut file = BufReader::with_capacity(READ_BYTES, File::open(path).map_err(io)?);
            if !chain.file(path, &mut file, at + 1 == self.files.len())? {
                return Ok(chain.report);
            }
        }
        chain.end(self.files.last());
        Ok(chain.report)
    }

    /// Reads one file that is in memory, in place of the files that are named.
    ///
    /// # Errors
    /// As [`Verification::run`].
    pub fn run_on(mut self, mut bytes: &[u8]) -> Result<Report, VerifyError> {
        self.anchors.sort_by_key(|anchor| anchor.seq);
        let path = PathBuf::from("memory");
        let mut chain = self.chain();
        if chain.file(&path, &mut bytes, true)? {
            chain.end(Some(&path));
        }
        Ok(chain.report)
    }

    fn chain(&self) -> Chain<'_> {
        let seals = if self.keys.is_empty() {
            vec![Seal::Plain]
        } else {
            self.keys.iter().cloned().map(Seal::Keyed).collect()
        };
        let report = Report {
            lines: 0,
            first: None,
            last: None,
            recovered: Vec::new(),
            anchors_before: 0,
            is_cut_off: false,
            flaw: None,
        };
        let head = (!self.is_partial).then_some(Head::START);
        Chain { seals, anchors: &self.anchors, head, held: None, report }
    }
}

/// The chain as far as it was read.
struct Chain<'a> {
    seals: Vec<Seal>,
    /// Those that are still ahead.
    anchors: &'a [Head],
    /// The line before; `None` when nothing is known of it.
    head: Option<Head>,
    /// A line that is wrong, unless the next one says that a crash has left it so.
    held: Option<Held>,
    report: Report,
}

struct Held {
    flaw: Flaw,
    bytes: u64,
    sha256: String,
}

/// Where a line is.
struct Place<'p> {
    file: &'p Path,
    line: u64,
    offset: u64,
}

impl Chain<'_> {
    /// Reads a file; false when a line is wrong.
    fn file(&mut self, path: &Path, file: &mut impl BufRead, is_last: bool) -> Result<bool, VerifyError> {
        let io = |source| VerifyError::Io { path: path.to_owned(), source };
        let mut place = Place { file: path, line: 0, offset: 0 };
        let mut text = Vec::new();
        loop {
            text.clear();
            file.by_ref().take(MAX_LINE_BYTES as u64).read_until(b'\n', &mut text).map_err(io)?;
            if text.is_empty() {
                return Ok(true);
            }
            place.line += 1;
            let length = text.len() as u64;
            let is_ended = text.last() == Some(&b'\n');
            if is_ended {
                text.pop();
            }
            let is_end = !is_ended && is_last && file.fill_buf().map_err(io)?.is_empty();
            match self.line(&text, &place)? {
                Ok(()) if is_ended || is_end => self.report.is_cut_off = is_end,
                // A file that is not the last one has whole lines.
                Ok(()) => return Ok(self.wrong(&place, Kind::CutOff { expected: self.expected() })),
                Err(_) if is_end && self.held.is_none() => self.report.is_cut_off = true,
                Err(kind) => {
                    if let Some(held) = self.held.take() {
                        self.report.flaw = Some(held.read_on(&text));
                        return Ok(false);
                    }
                    let flaw = place.flaw(kind);
                    let sha256 = hex::encode(Sha256::digest(&text));
                    self.held = Some(Held { flaw, bytes: text.len() as u64, sha256 });
                }
            }
            place.offset += length;
        }
    }

    /// Takes a line in, or says what is wrong with it.
    fn line(&mut self, text: &[u8], place: &Place<'_>) -> Result<Result<(), Kind>, VerifyError> {
        let expected = self.expected();
        let Some(line) = Line::read(text) else { return Ok(Err(Kind::NotALine { expected })) };
        let seq = line.seq;
        if line.is_keyed && self.seals.iter().all(|seal| !seal.is_keyed()) {
            return Err(VerifyError::NeedsKey(place.file.to_owned()));
        }
        if !line.is_keyed && self.seals.iter().all(Seal::is_keyed) {
            return Ok(Err(Kind::NoKey { seq }));
        }
        if !self.seals.iter().any(|seal| line.is_sealed_by(seal)) {
            return Ok(Err(Kind::Changed { seq }));
        }
        if let Some(head) = self.head
            && !line.follows(head)
        {
            return Ok(Err(match seq.cmp(&expected) {
                std::cmp::Ordering::Less => Kind::Inserted { expected, found: seq },
                std::cmp::Ordering::Equal => Kind::Replaced { seq },
                std::cmp::Ordering::Greater => Kind::Missing { expected, found: seq },
            }));
        }
        if self.head.is_none() {
            let before = self.anchors.iter().take_while(|anchor| anchor.seq < seq).count();
            self.report.anchors_before = before as u64;
            self.anchors = &self.anchors[before..];
        }
        while let Some((anchor, rest)) = self.anchors.split_first()
            && anchor.seq <= seq
        {
            if *anchor != line.head() && anchor.seq == seq {
                return Ok(Err(Kind::NotTheAnchor { seq }));
            }
            self.anchors = rest;
        }
        match (self.held.take(), recovered(line.body)) {
            (None, None) => {}
            (Some(held), Some((bytes, sha256))) if held.bytes == bytes && held.sha256 == sha256 => {
                self.report.recovered.push(seq);
            }
            // What was wrong stays wrong.
            (Some(held), _) => {
                self.held = Some(held);
                return Ok(Err(Kind::Changed { seq }));
            }
            // The line that was cut off is in a file that is not here.
            (None, Some(_)) if self.head.is_none() => self.report.recovered.push(seq),
            (None, Some(_)) => return Ok(Err(Kind::NothingCutOff { seq })),
        }
        self.head = Some(line.head());
        self.report.first.get_or_insert(seq);
        self.report.last = Some(line.head());
        self.report.lines += 1;
        Ok(Ok(()))
    }

    fn expected(&self) -> u64 {
        self.head.map_or(1, |head| head.seq.saturating_add(1))
    }

    fn wrong(&mut self, place: &Place<'_>, kind: Kind) -> bool {
        self.report.flaw = Some(place.flaw(kind));
        false
    }

    /// Nothing comes any more.
    fn end(&mut self, last: Option<&PathBuf>) {
        if let Some(held) = self.held.take() {
            self.report.flaw = Some(held.flaw);
        } else if let (Some(anchor), Some(file)) = (self.anchors.last(), last) {
            let kind = Kind::EndsBefore { anchor: anchor.seq };
            self.report.flaw = Some(Flaw { file: file.clone(), line: 0, offset: 0, kind });
        }
    }
}

impl Held {
    /// The flaw, now that the line behind it is known.
    fn read_on(mut self, next: &[u8]) -> Flaw {
        if let Kind::Missing { expected, found } = self.flaw.kind
            && Line::read(next).is_some_and(|line| line.seq == expected)
        {
            self.flaw.kind = Kind::Reordered { expected, found };
        }
        self.flaw
    }
}

impl Place<'_> {
    fn flaw(&self, kind: Kind) -> Flaw {
        Flaw { file: self.file.to_owned(), line: self.line, offset: self.offset, kind }
    }
}

/// What a line that comes after one that was cut off says of that: how long it was, and its hash. Nothing but a single line is taken for one
/// that a crash has cut off.
fn recovered(body: &[u8]) -> Option<(u64, String)> {
    let start = format!("\"event\":\"{RECOVERED}\",\"torn_bytes\":");
    let rest = std::str::from_utf8(body.strip_prefix(start.as_bytes())?).ok()?;
    let (bytes, rest) = rest.split_once(",\"torn_sha256\":\"")?;
    let (sha256, _) = rest.split_once('"')?;
    Some((bytes.parse().ok()?, sha256.to_owned()))
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        if let Kind::EndsBefore { .. } = self.kind {
            return write!(f, "{file}: {}", self.kind);
        }
        write!(f, "{file}:{} (byte {}): {}", self.line, self.offset, self.kind)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotALine { expected } => {
                write!(f, "this is no line of an audit log; line {expected} belongs here")
            }
            Self::Changed { seq } => write!(f, "line {seq} was changed, or sealed with another key"),
            Self::Missing { expected, found } => {
                write!(f, "line {expected} is missing: line {found} stands in its place")
            }
            Self::Reordered { expected, found } => {
                write!(f, "lines {expected} and {found} stand in the wrong order")
            }
            Self::Inserted { expected, found } => {
                write!(f, "line {expected} belongs here: a line {found} was inserted, or stands here again")
            }
            Self::Replaced { seq } => {
                write!(f, "line {seq} does not follow the line before it: one of the two was replaced")
            }
            Self::NoKey { seq } => write!(f, "line {seq} is not sealed with a key"),
            Self::CutOff { expected } => write!(f, "line {expected} is cut off"),
            Self::NothingCutOff { seq } => {
                write!(f, "line {seq} tells of a line before it that was cut off, and that is not there")
            }
            Self::NotTheAnchor { seq } => write!(f, "line {seq} is another one than the anchor says"),
            Self::EndsBefore { anchor } => write!(f, "the log ends before line {anchor}, which it had"),
        }
    }
}
