//! Small translations of stored data into S3's XML shapes that several operations need.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::dto::{EncodingType, Owner};
use s3s::{S3Result, s3_error};

use crate::store::OWNER_ID;

/// What `encoding-type=url` leaves alone.
const LISTING_SET: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/').remove(b'*');

/// Fills the `checksum_*` field of a shape that has one for each algorithm.
macro_rules! checksum_fields {
    ($shape:expr, $checksum:expr) => {{
        let checksum: &$crate::checksums::Checksum = $checksum;
        let value = Some(checksum.value.clone());
        match checksum.algorithm {
            $crate::checksums::Algorithm::Crc32 => $shape.checksum_crc32 = value,
            $crate::checksums::Algorithm::Crc32c => $shape.checksum_crc32c = value,
            $crate::checksums::Algorithm::Crc64Nvme => $shape.checksum_crc64nvme = value,
            $crate::checksums::Algorithm::Sha1 => $shape.checksum_sha1 = value,
            $crate::checksums::Algorithm::Sha256 => $shape.checksum_sha256 = value,
        }
    }};
}
pub(crate) use checksum_fields;

/// How a listing writes keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyEncoding {
    /// As they are. XML cannot carry every control character.
    Plain,
    /// Percent-encoded: every key survives.
    Url,
}

impl KeyEncoding {
    /// # Errors
    /// `InvalidArgument` for anything but `url`.
    pub(crate) fn new(requested: Option<&EncodingType>) -> S3Result<Self> {
        match requested.map(EncodingType::as_str) {
            None | Some("") => Ok(Self::Plain),
            Some("url") => Ok(Self::Url),
            Some(_) => Err(s3_error!(InvalidArgument, "Invalid Encoding Method specified in Request")),
        }
    }

    pub(crate) fn encode(self, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Url => utf8_percent_encode(text, LISTING_SET).to_string(),
        }
    }

    /// The element that tells the client.
    pub(crate) fn shown(self) -> Option<EncodingType> {
        match self {
            Self::Plain => None,
            Self::Url => Some(EncodingType::from_static(EncodingType::URL)),
        }
    }
}

/// The only owner there is.
pub(crate) fn owner() -> Owner {
    Owner { display_name: Some("backhaul".to_owned()), id: Some(OWNER_ID.to_owned()) }
}

/// A page size from a request.
///
/// # Errors
/// `InvalidArgument` for a negative one.
pub(crate) fn page_size(name: &str, requested: Option<i32>) -> S3Result<usize> {
    const MAX: usize = 1000;
    let Some(requested) = requested else { return Ok(MAX) };
    let requested = usize::try_from(requested)
        .map_err(|error| s3_error!(error, InvalidArgument, "{name} is negative"))?;
    Ok(requested.min(MAX))
}

/// A number of things as S3's shapes carry it.
pub(crate) fn count(len: usize) -> Option<i32> {
    i32::try_from(len).ok()
}

/// A number of bytes as S3's shapes carry it.
pub(crate) fn size(bytes: u64) -> Option<i64> {
    i64::try_from(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_encoding_keeps_slashes_and_nothing_that_xml_could_lose() {
        assert_eq!(KeyEncoding::Url.encode("a/b c+\u{1}\n<é>%"), "a/b%20c%2B%01%0A%3C%C3%A9%3E%25");
        assert_eq!(KeyEncoding::Plain.encode("a b"), "a b");
    }

    #[test]
    fn page_sizes_are_capped() {
        assert_eq!(page_size("max-keys", None).expect("default"), 1000);
        assert_eq!(page_size("max-keys", Some(5000)).expect("capped"), 1000);
        assert_eq!(page_size("max-keys", Some(0)).expect("zero is allowed"), 0);
        assert!(page_size("max-keys", Some(-1)).is_err());
    }
}
