//! How long a call may take: what its caller says in `grpc-timeout`, at most what the configuration says.
//!
//! Pure: headers in, duration out.

use std::time::Duration;

use http::HeaderMap;

/// Digits of a timeout, as the gRPC protocol has it.
const MAX_DIGITS: usize = 8;

/// The time for a call with these headers. A timeout that cannot be read counts as none.
///
/// A fiftieth of the caller's time is kept back (at most 50 ms), so that our answer, with its details, gets ahead of the
/// caller's own timer and of tonic's, which would answer CANCELLED.
pub(crate) fn of_call(headers: &HeaderMap, most: Duration) -> Duration {
    let asked = headers.get("grpc-timeout").and_then(|value| parse(value.to_str().ok()?));
    asked.map_or(most, |asked| (asked - (asked / 50).min(Duration::from_millis(50))).min(most))
}

/// Reads `<1 to 8 digits><unit>`.
fn parse(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if !(1..=MAX_DIGITS).contains(&number.len()) || !number.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_secs(10);

    fn of(timeout: &str) -> Duration {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", timeout.parse().unwrap());
        of_call(&headers, MOST)
    }

    #[test]
    fn the_shorter_of_the_callers_time_and_the_configured_one_counts() {
        assert_eq!(of_call(&HeaderMap::new(), MOST), MOST);
        assert_eq!(of("1S"), Duration::from_millis(980));
        assert_eq!(of("5000m"), Duration::from_millis(4950));
        assert_eq!(of("100u"), Duration::from_micros(98));
        assert_eq!(of("50n"), Duration::from_nanos(49));
        assert_eq!(of("0S"), Duration::ZERO);
        for long in ["11S", "99999999H", "1M", "99999999S"] {
            assert_eq!(of(long), MOST, "{long}");
        }
    }

    #[test]
    fn a_timeout_that_cannot_be_read_counts_as_none() {
        for bad in ["", "S", "1", "1s", "-1S", "+1S", "1.5S", "123456789S", " 1S", "1 S"] {
            assert_eq!(of(bad), MOST, "{bad:?}");
        }
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", http::HeaderValue::from_bytes(b"1\xff").unwrap());
        assert_eq!(of_call(&headers, MOST), MOST);
    }
}
