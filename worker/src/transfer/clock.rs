//! Times of objects as text: fixed width, UTC, sortable. Pure but for [`wall_seconds`], the one place where the engine asks what time it
//! is, for the two things that stores count by the calendar: how long a copy is retained, and how old an upload is.

use std::time::{SystemTime, UNIX_EPOCH};

/// What stands for a time that is not known or does not fit: it sorts first.
const UNKNOWN: &str = "00000000T000000Z";

/// `20261123T101530Z` of seconds since the epoch.
pub(crate) fn compact_utc(seconds: Option<i64>) -> String {
    let Some((year, month, day, second_of_day)) = seconds.and_then(civil) else { return UNKNOWN.to_owned() };
    let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// Seconds since the epoch now.
#[expect(clippy::disallowed_methods, reason = "the edge of the engine to the calendar")]
pub(super) fn wall_seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

pub(crate) fn is_compact_utc(text: &str) -> bool {
    text.len() == UNKNOWN.len()
        && text.bytes().zip(UNKNOWN.bytes()).all(|(b, u)| if u == b'0' { b.is_ascii_digit() } else { b == u })
}

/// Year, month, day and second of the day, for the years 1970 to 9999.
fn civil(seconds: i64) -> Option<(i64, i64, i64, i64)> {
    let days = seconds.div_euclid(86_400);
    if !(0..=2_932_896).contains(&days) {
        return None;
    }
    // Counted from 1 March of a year divisible by 400, so that leap days come last.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    Some((year, month, day, seconds.rem_euclid(86_400)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments_are_written_right() {
        let table = [
            (0, "19700101T000000Z"),
            (951_782_399, "20000228T235959Z"),
            (951_782_400, "20000229T000000Z"),
            (951_868_800, "20000301T000000Z"),
            (1_795_428_930, "20261123T101530Z"),
            (253_402_300_799, "99991231T235959Z"),
            (253_402_300_800, UNKNOWN),
            (-1, UNKNOWN),
            (i64::MAX, UNKNOWN),
        ];
        for (seconds, text) in table {
            assert_eq!(compact_utc(Some(seconds)), text);
            assert!(is_compact_utc(text));
        }
        assert_eq!(compact_utc(None), UNKNOWN);
        assert!(!is_compact_utc("20261123T1015301"));
    }
}
