//! Fields of a JSON object as printable ASCII. Everything else in a text is escaped, so no value can pose as anything but itself.

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime},
};

/// Most bytes that are kept of one text; the rest is replaced by three dots.
const MOST_TEXT_BYTES: usize = 4096;

/// Some fields, in the order in which they were added: `"a":"b","c":1`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields {
    text: String,
}

impl Fields {
    /// No fields.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A text, whatever it holds.
    pub fn text(&mut self, name: &'static str, value: &str) -> &mut Self {
        self.name(name);
        self.quote(value);
        self
    }

    /// A text, unless it is empty.
    pub fn text_if_any(&mut self, name: &'static str, value: &str) -> &mut Self {
        if value.is_empty() { self } else { self.text(name, value) }
    }

    /// Texts.
    pub fn texts<'t>(&mut self, name: &'static str, values: impl IntoIterator<Item = &'t str>) -> &mut Self {
        self.name(name);
        self.text.push('[');
        for value in values {
            if !self.text.ends_with('[') {
                self.text.push(',');
            }
            self.quote(value);
        }
        self.text.push(']');
        self
    }

    /// A number.
    pub fn number(&mut self, name: &'static str, value: u64) -> &mut Self {
        self.name(name);
        // Writing to a String cannot fail.
        write!(self.text, "{value}").ok();
        self
    }

    /// Yes or no.
    pub fn flag(&mut self, name: &'static str, value: bool) -> &mut Self {
        self.name(name);
        self.text.push_str(if value { "true" } else { "false" });
        self
    }

    /// An instant, in milliseconds since 1970, as RFC 3339 has it.
    pub fn instant(&mut self, name: &'static str, unix_ms: u64) -> &mut Self {
        /// The last millisecond of the year 9999, beyond which there is no such text.
        const LAST_MS: u64 = 253_402_300_799_999;
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(unix_ms.min(LAST_MS));
        self.name(name);
        write!(self.text, "\"{}\"", humantime::format_rfc3339_millis(at)).ok();
        self
    }

    /// An object with these fields.
    pub fn object(&mut self, name: &'static str, fields: &Self) -> &mut Self {
        self.name(name);
        self.brace(fields);
        self
    }

    /// Objects.
    pub fn objects<'f>(&mut self, name: &'static str, all: impl IntoIterator<Item = &'f Self>) -> &mut Self {
        self.name(name);
        self.text.push('[');
        for fields in all {
            if !self.text.ends_with('[') {
                self.text.push(',');
            }
            self.brace(fields);
        }
        self.text.push(']');
        self
    }

    /// The fields of another, behind these.
    pub fn all_of(&mut self, other: &Self) -> &mut Self {
        if !self.text.is_empty() && !other.text.is_empty() {
            self.text.push(',');
        }
        self.text.push_str(&other.text);
        self
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// As text, without braces.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The same, without a copy.
    #[must_use]
    pub fn into_text(self) -> String {
        self.text
    }

    fn name(&mut self, name: &'static str) {
        if !self.text.is_empty() {
            self.text.push(',');
        }
        self.text.push('"');
        self.text.push_str(name);
        self.text.push_str("\":");
    }

    fn brace(&mut self, fields: &Self) {
        self.text.push('{');
        self.text.push_str(&fields.text);
        self.text.push('}');
    }

    fn quote(&mut self, value: &str) {
        let kept = value.floor_char_boundary(MOST_TEXT_BYTES);
        self.text.push('"');
        let mut plain = 0;
        for (at, found) in value[..kept].char_indices() {
            if matches!(found, ' '..='~') && found != '"' && found != '\\' {
                continue;
            }
            self.text.push_str(&value[plain..at]);
            plain = at + found.len_utf8();
            for unit in found.encode_utf16(&mut [0; 2]) {
                write!(self.text, "\\u{unit:04x}").ok();
            }
        }
        self.text.push_str(&value[plain..kept]);
        if kept < value.len() {
            self.text.push_str("...");
        }
        self.text.push('"');
    }
}
