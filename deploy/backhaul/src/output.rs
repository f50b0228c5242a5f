//! Standard output: lines for people or JSON lines for programs, chosen once.
//!
//! Only results go here; logs and progress go to standard error.

use std::io::{self, Write as _};

use serde::Serialize;

/// Standard output in one of two forms.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    /// JSON lines, or text.
    pub(crate) const fn new(json: bool) -> Self {
        Self { json }
    }

    /// True when programs read it.
    pub(crate) const fn is_json(self) -> bool {
        self.json
    }

    /// Prints one result: `view` as one JSON line, or `text`.
    pub(crate) fn item<V: Serialize>(
        self,
        view: impl FnOnce() -> V,
        text: impl FnOnce() -> String,
    ) -> io::Result<()> {
        let mut line = if self.json { serde_json::to_string(&view())? } else { text() };
        line.push('\n');
        let mut out = io::stdout().lock();
        out.write_all(line.as_bytes())?;
        out.flush()
    }

    /// Prints a line for people; programs do not get it.
    pub(crate) fn note(self, text: &str) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        writeln!(out, "{text}")?;
        out.flush()
    }
}
