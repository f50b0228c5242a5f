//! A log that shows whether somebody has changed it: lines of JSON, each sealed to the line before it.
//!
//! ```text
//! {"seq":7,"prev":"<64 hex digits>",...,"hash":"<64 hex digits>"}
//! ```
//!
//! `hash` is the SHA-256 of all that stands before `,"hash"` in the line, and `prev` the hash of the line before, 64 zeros in the first. With a
//! key the last field is called `mac` and is HMAC-SHA-256 under that key, so that who can write the file but has no key cannot
//! make a chain of their own. A line is printable ASCII and nothing else: whatever a value holds, it cannot end its line, reach a terminal as a
//! command or look like another field.
//!
//! [`LogFile`] writes, goes on where an earlier process ended, and begins a new file when one is large. [`Verification`] reads files of any size
//! and names the first line that is not as it was written. Neither knows what the log tells of.

mod file;
mod json;
mod key;
mod line;
mod verify;

#[cfg(test)]
mod tests;

/// The bytes of a log without a key that tells that, for fuzzing.
#[cfg(any(test, feature = "test-util"))]
#[must_use]
pub fn sealed(bodies: impl IntoIterator<Item = String>) -> Vec<u8> {
    let (mut head, mut bytes) = (Head::START, Vec::new());
    for body in bodies {
        Seal::Plain.line(&mut head, &body, &mut bytes);
    }
    bytes
}

pub use self::{
    file::{FileOptions, Found, LogFile, OpenError, Torn},
    json::Fields,
    key::{Key, KeyError},
    line::{Digest, Head, Seal},
    verify::{Flaw, Kind, Report, Verification, VerifyError},
};
