//! Reading a server's answer as the one thing that it must be.
//!
//! The client library's value has a variant for everything that any server may say; each command has one or two that make sense.

use redis::Value;

/// An integer.
pub(super) fn integer(value: &Value) -> Option<i64> {
    if let Value::Int(number) = value { Some(*number) } else { None }
}

/// A text of any bytes.
pub(super) fn bytes(value: Value) -> Option<Vec<u8>> {
    if let Value::BulkString(bytes) = value { Some(bytes) } else { None }
}

/// A list.
pub(super) fn list(value: Value) -> Option<Vec<Value>> {
    if let Value::Array(values) = value { Some(values) } else { None }
}

/// A text for people, however the server wraps it; empty for anything else.
pub(super) fn text(value: &Value) -> String {
    if let Value::BulkString(bytes) = value {
        String::from_utf8_lossy(bytes).into_owned()
    } else if let Value::VerbatimString { text, .. } | Value::SimpleString(text) = value {
        text.clone()
    } else {
        String::new()
    }
}
