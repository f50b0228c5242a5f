//! How an object is written on the command line: `LOCATION:BUCKET/KEY`.
//!
//! Splits at the first colon and the first slash after it and leaves the key alone: keys may hold anything.

use std::{fmt, str::FromStr};

use backhaul_proto::v1;

/// An object as written on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ObjectArg {
    location: String,
    bucket: String,
    key: String,
}

/// A prefix as written on the command line: `LOCATION:BUCKET/PREFIX`, or without a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PrefixArg(v1::PrefixRef);

/// A text that names no object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InvalidObject;

impl ObjectArg {
    /// The object, at its latest version or the given one.
    pub(crate) fn into_ref(self, version: Option<&str>) -> v1::ObjectRef {
        v1::ObjectRef {
            location: self.location,
            bucket: self.bucket,
            key: self.key,
            version: version.unwrap_or_default().to_owned(),
        }
    }
}

/// An object as the command line would take it.
pub(crate) fn display(object: &v1::ObjectRef) -> String {
    let version = if object.version.is_empty() {
        String::new()
    } else {
        format!(" (version {})", object.version.escape_debug())
    };
    format!("{}:{}/{}{version}", object.location, object.bucket, object.key.escape_debug())
}

impl FromStr for ObjectArg {
    type Err = InvalidObject;

    fn from_str(text: &str) -> Result<Self, InvalidObject> {
        let (location, rest) = text.split_once(':').ok_or(InvalidObject)?;
        let (bucket, key) = rest.split_once('/').ok_or(InvalidObject)?;
        if location.is_empty() || bucket.is_empty() || key.is_empty() {
            return Err(InvalidObject);
        }
        Ok(Self { location: location.to_owned(), bucket: bucket.to_owned(), key: key.to_owned() })
    }
}

impl PrefixArg {
    pub(crate) fn into_ref(self) -> v1::PrefixRef {
        self.0
    }
}

impl FromStr for PrefixArg {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expected = "expected LOCATION:BUCKET or LOCATION:BUCKET/PREFIX";
        let (location, rest) = text.split_once(':').ok_or(expected)?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if location.is_empty() || bucket.is_empty() {
            return Err(expected);
        }
        Ok(Self(v1::PrefixRef {
            location: location.to_owned(),
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
        }))
    }
}

impl std::error::Error for InvalidObject {}

impl fmt::Display for InvalidObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected LOCATION:BUCKET/KEY")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_all_after_the_first_slash() {
        let object: ObjectArg = "uploads:photos/a:b//c/".parse().unwrap();
        assert_eq!(
            object,
            ObjectArg { location: "uploads".into(), bucket: "photos".into(), key: "a:b//c/".into() }
        );
        assert_eq!("uploads:photos//".parse::<ObjectArg>().unwrap().key, "/");
    }

    #[test]
    fn every_part_is_needed() {
        for bad in ["", "uploads", "uploads:", "uploads:photos", "uploads:photos/", ":photos/a", "uploads:/a"]
        {
            assert_eq!(bad.parse::<ObjectArg>(), Err(InvalidObject), "{bad}");
        }
    }

    #[test]
    fn a_prefix_may_be_empty_and_is_all_after_the_first_slash() {
        let parts = |text: &str| text.parse::<PrefixArg>().map(|arg| (arg.0.bucket, arg.0.prefix));
        assert_eq!(parts("uploads:photos"), Ok(("photos".into(), String::new())));
        assert_eq!(parts("uploads:photos/"), Ok(("photos".into(), String::new())));
        assert_eq!(parts("uploads:photos//a:b/"), Ok(("photos".into(), "/a:b/".into())));
        for bad in ["", "uploads", "uploads:", ":photos", "uploads:/a"] {
            assert!(parts(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn control_characters_of_a_key_do_not_reach_the_terminal() {
        let object = v1::ObjectRef {
            location: "l".into(),
            bucket: "bkt".into(),
            key: "a\u{1b}[2J".into(),
            version: "v\u{1b}[2J".into(),
        };
        assert!(!display(&object).contains('\u{1b}'));
    }
}
