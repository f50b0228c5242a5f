//! JSON from strangers: bounds before it is read, and values that may be of any type without failing their neighbours.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::{MAX_BODY_BYTES, MAX_DEPTH, MAX_RECORDS, Malformed};

/// What the reader says of a list that is too long; told apart from other errors by this text.
const TOO_MANY: &str = "too many records";

/// A text, or empty where there is none or something else.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Text(pub(super) String);

/// A whole number, where there is one.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Number(pub(super) Option<u64>);

/// The body as text, if it is within the bounds.
///
/// # Errors
/// [`Malformed`], but whether it is JSON is not looked at.
pub(super) fn checked(body: &[u8]) -> Result<&str, Malformed> {
    if body.len() > MAX_BODY_BYTES {
        return Err(Malformed::TooLarge);
    }
    let text = std::str::from_utf8(body).map_err(|_| Malformed::NotUtf8)?;
    if depth(text) > MAX_DEPTH { Err(Malformed::TooDeep) } else { Ok(text) }
}

/// Reads a value.
///
/// # Errors
/// [`Malformed`].
pub(super) fn read<T: DeserializeOwned>(text: &str) -> Result<T, Malformed> {
    serde_json::from_str(text).map_err(|error| {
        if error.to_string().starts_with(TOO_MANY) { Malformed::TooMany } else { Malformed::NotTheForm }
    })
}

/// Reads a list of at most [`MAX_RECORDS`], and no more of it: three bytes could else become hundreds, for millions of records.
///
/// # Errors
/// What the list's own reader says, or that there are too many.
pub(super) fn records<'de, D, T>(deserializer: D) -> Result<Option<Vec<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct List<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
        type Value = Option<Vec<T>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of records")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut records = Vec::new();
            while let Some(record) = list.next_element()? {
                if records.len() == MAX_RECORDS {
                    return Err(A::Error::custom(TOO_MANY));
                }
                records.push(record);
            }
            Ok(Some(records))
        }
    }
    deserializer.deserialize_seq(List(PhantomData))
}

/// Deepest nesting, by counting brackets outside of texts. The same as a parser's for all that is JSON.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_text, mut escaped) = (false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Takes a value of any type, and keeps what `Keep` keeps.
struct Any<T>(PhantomData<T>);

trait Keep: Default {
    fn text(_: &str) -> Self {
        Self::default()
    }
    fn number(_: u64) -> Self {
        Self::default()
    }
}

impl Keep for Text {
    fn text(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl Keep for Number {
    fn number(number: u64) -> Self {
        Self(Some(number))
    }
}

impl<'de, T: Keep> Visitor<'de> for Any<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_str<E>(self, text: &str) -> Result<T, E> {
        Ok(T::text(text))
    }

    fn visit_u64<E>(self, number: u64) -> Result<T, E> {
        Ok(T::number(number))
    }

    fn visit_i64<E>(self, _: i64) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_f64<E>(self, _: f64) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_bool<E>(self, _: bool) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_unit<E>(self) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<T, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(T::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(T::default())
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any(PhantomData))
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any(PhantomData))
    }
}
