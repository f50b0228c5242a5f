//! Milliseconds since 1970 as S3's timestamps.
//!
//! S3 shows whole seconds for an object's times, so this store does too.

use std::time::{Duration, UNIX_EPOCH};

use s3s::dto::{Timestamp, TimestampFormat};

/// A time of an object, cut to whole seconds.
pub(crate) fn timestamp(ms: u64) -> Timestamp {
    exact_timestamp(ms / 1000 * 1000)
}

/// A time that keeps its milliseconds: retention dates come from the client.
pub(crate) fn exact_timestamp(ms: u64) -> Timestamp {
    // The year 9999 is the last that has a date; a retention beyond it is as good as for ever.
    const LAST_MS: u64 = 253_402_300_799_000;
    Timestamp::from(UNIX_EPOCH + Duration::from_millis(ms.min(LAST_MS)))
}

/// The form of `Last-Modified`.
pub(crate) fn http_date(ms: u64) -> String {
    format(&timestamp(ms), TimestampFormat::HttpDate)
}

/// The form of XML and of the object lock headers.
pub(crate) fn datetime(ms: u64) -> String {
    format(&exact_timestamp(ms), TimestampFormat::DateTime)
}

fn format(timestamp: &Timestamp, format: TimestampFormat) -> String {
    let mut text = Vec::new();
    // Years 1970 to 9999 have both forms.
    if timestamp.format(format, &mut text).is_err() {
        text.clear();
    }
    String::from_utf8(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_the_forms_of_s3() {
        assert_eq!(http_date(1_700_000_000_999), "Tue, 14 Nov 2023 22:13:20 GMT");
        assert_eq!(datetime(1_700_000_000_500), "2023-11-14T22:13:20.500Z");
        assert_eq!(datetime(u64::MAX), "9999-12-31T23:59:59.000Z");
    }
}
