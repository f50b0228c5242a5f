//! Logs that nobody can forge: whatever a value holds, an event is one line, and a terminal takes nothing in it for a command.
//!
//! The subscriber's own formats escape some of that in messages and none of it in fields. Text ([`OneLine`]) is escaped field by field, because
//! colours are put around them; JSON ([`JsonLines`]) as a whole, where such characters can only stand in strings.

use std::{
    borrow::Cow,
    fmt::{self, Write as _},
    io,
};

use tracing::field::{Field, Visit};
use tracing_subscriber::{
    field::RecordFields,
    fmt::{FormatFields, MakeWriter, format::Writer},
};

/// Formats fields as text on one line.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct OneLine;

/// Writes lines of JSON to standard error.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct JsonLines;

/// What is written to, with all that is no text for people escaped.
struct Escaped<'w, 'b>(&'w mut Writer<'b>);

struct Fields<'w> {
    writer: Writer<'w>,
    is_first: bool,
    result: fmt::Result,
}

/// Whether a character is to be shown instead of obeyed: controls of both kinds, ends of lines that are none of ASCII, and those that turn
/// the direction of text around.
fn is_command(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

impl fmt::Write for Escaped<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut plain = 0;
        for (at, found) in text.char_indices().filter(|(_, c)| is_command(*c)) {
            self.0.write_str(&text[plain..at])?;
            write!(self.0, "{}", found.escape_unicode())?;
            plain = at + found.len_utf8();
        }
        self.0.write_str(&text[plain..])
    }
}

impl<'w> FormatFields<'w> for OneLine {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut visitor = Fields { writer, is_first: true, result: Ok(()) };
        fields.record(&mut visitor);
        visitor.result
    }
}

impl Fields<'_> {
    fn value(&mut self, name: &str, value: fmt::Arguments<'_>) -> fmt::Result {
        if !std::mem::take(&mut self.is_first) {
            self.writer.write_char(' ')?;
        }
        if name != "message" {
            let name = name.trim_start_matches("r#");
            if self.writer.has_ansi_escapes() {
                write!(self.writer, "\u{1b}[3m{name}\u{1b}[0m\u{1b}[2m=\u{1b}[0m")?;
            } else {
                write!(self.writer, "{name}=")?;
            }
        }
        Escaped(&mut self.writer).write_fmt(value)
    }

    fn put(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        if self.result.is_ok() {
            self.result = self.value(field.name(), value);
        }
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.put(field, format_args!("{value}"));
        } else {
            self.put(field, format_args!("{value:?}"));
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut causes = Vec::new();
        let mut next = value.source();
        while let Some(cause) = next {
            causes.push(cause.to_string());
            next = cause.source();
        }
        if causes.is_empty() {
            self.put(field, format_args!("{value}"));
        } else {
            self.put(field, format_args!("{value} {}.sources={causes:?}", field.name()));
        }
    }
}

impl<'w> MakeWriter<'w> for JsonLines {
    type Writer = Self;

    fn make_writer(&'w self) -> Self {
        *self
    }
}

impl io::Write for JsonLines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        io::stderr().lock().write_all(in_json(&text).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
}

/// A line of JSON, in which such characters are written as JSON can write them.
fn in_json(line: &str) -> Cow<'_, str> {
    let is_hidden = |c: char| c != '\n' && is_command(c);
    if !line.contains(is_hidden) {
        return Cow::Borrowed(line);
    }
    let mut escaped = String::with_capacity(line.len() + 16);
    for found in line.chars() {
        if is_hidden(found) {
            // All of them are below U+10000.
            write!(escaped, "\\u{:04x}", u32::from(found)).ok();
        } else {
            escaped.push(found);
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::{Layer as _, layer::SubscriberExt as _};

    use super::*;

    const HOSTILE: &str = "a\u{1b}[31m\r\nERROR forged\u{7f}\u{9b}2J\u{2028}\u{202e}\u{feff}z";

    #[derive(Debug, thiserror::Error)]
    #[error("outer {text}", text = HOSTILE)]
    struct Outer(#[source] io::Error);

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(ansi: bool) -> String {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let layer = tracing_subscriber::fmt::layer()
            .fmt_fields(OneLine)
            .with_ansi(ansi)
            .with_writer(move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer.boxed()), || {
            let span = tracing::info_span!("call", tenant = %HOSTILE, other = HOSTILE);
            let _entered = span.enter();
            let error = Outer(io::Error::other(HOSTILE));
            tracing::info!(key = %HOSTILE, text = HOSTILE, debug = ?HOSTILE, number = 7, "said {HOSTILE}");
            tracing::warn!(error = &error as &dyn std::error::Error, r#type = "x", "failed");
        });
        let bytes = buffer.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn text_is_one_line_an_event_whatever_values_hold() {
        let text = logged(false);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(!text.contains(|c| c != '\n' && is_command(c)), "{text:?}");
        assert!(text.ends_with('\n') && text.contains(" number=7") && text.contains("type=\"x\""));
        assert!(text.contains("said a\\u{1b}[31m\\u{d}\\u{a}ERROR forged\\u{7f}\\u{9b}2J"), "{text}");
        assert!(text.contains("error.sources="), "{text}");
    }

    #[test]
    fn on_a_terminal_only_the_colours_are_commands() {
        let text = logged(true);
        assert_eq!(text.lines().count(), 2, "{text}");
        for (at, _) in text.match_indices('\u{1b}') {
            let code: String = text[at + 1..].chars().take_while(|c| *c != 'm').collect();
            assert!(["[0", "[2", "[3", "[1", "[32", "[33"].contains(&code.as_str()), "{code:?} in {text:?}");
        }
    }

    #[test]
    fn json_stays_json_and_says_the_same() {
        let line = "{\"a\":\"x\u{7f}\u{9b}\u{2028}\u{202e}\u{fc}\"}\n";
        let escaped = in_json(line);
        assert_eq!(escaped, "{\"a\":\"x\\u007f\\u009b\\u2028\\u202e\u{fc}\"}\n");
        assert!(matches!(in_json("{\"a\":\"plain\"}\n"), Cow::Borrowed(_)));
    }
}
