//! Values of settings that carry a unit: durations such as `30s` and sizes such as `64MiB`.
//!
//! For clap's `value_parser`. A bare number is refused: whoever writes `30` means one unit and gets another.

use std::time::Duration;

/// A text that is not a value with a unit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a duration.
    #[error("expected a duration such as 500ms, 30s, 10m or 7d")]
    Duration,
    /// Not a size.
    #[error("expected a size such as 512KiB, 64MiB or 2GiB")]
    Size,
}

/// Reads a duration: numbers with units, as `humantime` has them (`1h 30m`). `0s` is a duration; what it means is the setting's
/// matter.
///
/// # Errors
/// [`UnitError::Duration`].
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    humantime::parse_duration(text).map_err(|_| UnitError::Duration)
}

/// Reads a size in bytes: a whole number with one of `B`, `KiB`, `MiB`, `GiB`, `TiB`.
///
/// # Errors
/// [`UnitError::Size`], also when the size does not fit 64 bits.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim_start() {
        "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return Err(UnitError::Size),
    };
    let number: u64 = number.parse().map_err(|_| UnitError::Size)?;
    number.checked_mul(1 << shift).ok_or(UnitError::Size)
}

/// A size for people: `1.5 MiB`.
#[must_use]
pub fn display_size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // At most 2^64 = 16 EiB: the loss of precision in a float is far below the one digit shown.
    #[expect(clippy::cast_precision_loss, reason = "one digit after the point is shown")]
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_need_a_unit_and_must_fit() {
        assert_eq!(parse_size("0B"), Ok(0));
        assert_eq!(parse_size("64MiB"), Ok(64 << 20));
        assert_eq!(parse_size("2 GiB"), Ok(2 << 30));
        for bad in ["", "64", "MiB", "64MB", "-1B", "1.5GiB", "99999999TiB", "64MiB "] {
            assert_eq!(parse_size(bad), Err(UnitError::Size), "{bad:?}");
        }
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("1h 30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        for bad in ["", "30", "-1s", "soon"] {
            assert_eq!(parse_duration(bad), Err(UnitError::Duration), "{bad:?}");
        }
    }

    #[test]
    fn sizes_are_shown_with_one_digit() {
        assert_eq!(display_size(0), "0 B");
        assert_eq!(display_size(1023), "1023 B");
        assert_eq!(display_size(1536), "1.5 KiB");
        assert_eq!(display_size(300 << 20), "300.0 MiB");
        assert_eq!(display_size(u64::MAX), "16384.0 PiB");
    }
}
