//! A repair on record: who is about to change the queue, before anything is changed, and what was changed. Both are on the disk before
//! anything else is done.
//!
//! The log is one of its own, because a dispatcher lets nobody else write into its.

use std::{collections::VecDeque, fs, io, os::unix::fs::MetadataExt as _, path::Path};

use backhaul_runtime::{
    audit::{Fields, FileOptions, Key, LogFile, Seal},
    build,
};

use crate::{
    audit::AuditError,
    queue::{
        QueueClock,
        redis::fsck::{FsckError, Report},
    },
};

/// Never set aside: a repair is two lines.
const FILE: FileOptions = FileOptions { rotate_at: u64::MAX, keep: 0 };

/// The log that a repair is recorded in.
#[derive(Debug)]
pub(super) struct Record(LogFile);

impl Record {
    /// Opens the log.
    ///
    /// # Errors
    /// [`AuditError`]; nothing was written then.
    pub(super) fn open(path: &Path, key_file: Option<&Path>) -> Result<Self, AuditError> {
        let seal = match key_file {
            Some(path) => Seal::Keyed(Key::read(path)?),
            None => Seal::Plain,
        };
        let (log, _found) = LogFile::open(path, FILE, seal, now())?;
        Ok(Self(log))
    }

    /// A repair begins.
    pub(super) fn begins(&mut self) -> io::Result<()> {
        let mut entry = entry("repair");
        entry.text("program", "backhaul-dispatcher fsck").text("version", build::text());
        self.write(entry)
    }

    /// It has ended so.
    pub(super) fn ended(&mut self, repaired: &Result<Report, FsckError>) -> io::Result<()> {
        let mut entry = entry("repaired");
        match repaired {
            Ok(report) => {
                let problems = report.problems.iter().map(|(problem, finding)| {
                    let mut fields = Fields::new();
                    fields.text("problem", problem.code());
                    fields.number("found", finding.found).number("repaired", finding.repaired);
                    fields
                });
                let problems: Vec<_> = problems.collect();
                entry.text("outcome", if report.is_clean() { "clean" } else { "problems left" });
                entry.number("records", report.records).objects("problems", &problems);
            }
            // What it had repaired until then stays repaired.
            Err(error) => {
                entry.text("outcome", "unfinished").text("reason", &error.to_string());
            }
        }
        self.write(entry)
    }

    fn write(&mut self, entry: Fields) -> io::Result<()> {
        self.0.append(&mut VecDeque::from([entry.into_text()]))?;
        self.0.sync()
    }
}

/// The first fields of an entry: when, what, and who does it, as far as this machine knows.
fn entry(event: &'static str) -> Fields {
    let mut fields = Fields::new();
    fields.instant("at", now()).text("event", event).text("role", "local operator");
    if let Ok(process) = fs::metadata("/proc/self") {
        fields.number("uid", process.uid().into());
    }
    // Who has logged in, whoever they have become since; the largest number is nobody.
    let logged_in = fs::read_to_string("/proc/self/loginuid").ok();
    let login_uid: Option<u32> = logged_in.and_then(|text| text.trim().parse().ok());
    if let Some(uid) = login_uid.filter(|uid| *uid != u32::MAX) {
        fields.number("login_uid", uid.into());
    }
    if let Ok(host) = fs::read_to_string("/proc/sys/kernel/hostname") {
        fields.text("host", host.trim());
    }
    fields.number("pid", std::process::id().into());
    fields
}

fn now() -> u64 {
    QueueClock::Server.local_now().0
}
