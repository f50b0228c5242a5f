//! When a rule is due: a cron expression in a time zone. Pure.
//!
//! The expression is read on the wall clock of the zone, and each of its times happens once: a time that the clock skips in spring comes
//! as much later as the clock was put forward, and of a time that comes twice in autumn the first counts.

use cronexpr::{Crontab, MakeTimestamp};
use jiff::{
    SignedDuration, Timestamp,
    tz::{AmbiguousOffset, TimeZone},
};

use crate::queue::UnixMs;

/// Times that are looked at for the next one: more than there are minutes in what a zone can skip by any change of its clock, a day.
const LOOKS: usize = 4_000;
/// Longer than any change of a clock.
const LONGEST_CHANGE: SignedDuration = SignedDuration::from_hours(25);
/// Times have whole minutes.
const MINUTE_MS: u64 = 60_000;
const START_OF_2025_MS: u64 = 1_735_689_600_000;

/// When something is due.
#[derive(Debug, Clone)]
pub struct Calendar {
    cron: Crontab,
    zone: TimeZone,
    /// Both as they were told.
    text: String,
}

/// Why there is no such calendar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCalendar {
    /// The expression is none.
    #[error("must be five fields, such as `30 2 * * *`{}{}", if .0.is_empty() { "" } else { ": " }, .0)]
    Expression(String),
    /// It has no time at all.
    #[error("never comes")]
    Never,
    /// There is no such zone.
    #[error("is no time zone that is known here, such as `Europe/Berlin`")]
    Zone,
}

impl Calendar {
    /// Reads an expression of five fields and the name of a zone, such as `Europe/Berlin`.
    ///
    /// # Errors
    /// [`InvalidCalendar`].
    pub fn parse(expression: &str, zone: &str) -> Result<Self, InvalidCalendar> {
        if expression.split_whitespace().count() != 5 {
            return Err(InvalidCalendar::Expression(String::new()));
        }
        // The expression is read on a clock without changes; the zone's are made up for afterwards.
        let cron = cronexpr::parse_crontab(&format!("{expression} UTC")).map_err(|error| {
            // Only the first line: what follows draws a picture.
            InvalidCalendar::Expression(error.to_string().lines().next().unwrap_or_default().to_owned())
        })?;
        let text = format!("{expression} {zone}");
        let zone = TimeZone::get(zone).map_err(|_| InvalidCalendar::Zone)?;
        let calendar = Self { cron, zone, text };
        // Four years are searched, and from there they have a leap day.
        match calendar.next_after(UnixMs(START_OF_2025_MS)) {
            Some(_) => Ok(calendar),
            None => Err(InvalidCalendar::Never),
        }
    }

    /// Expression and zone as they were told.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The first time after `at`; `None` when there is none in years.
    #[must_use]
    pub fn next_after(&self, at: UnixMs) -> Option<UnixMs> {
        let at = Timestamp::from_millisecond(i64::try_from(at.0).ok()?).ok()?;
        // Shortly after the clock was put forward, times that it skipped may still come.
        let before = at.checked_sub(LONGEST_CHANGE).unwrap_or(at);
        let offset = self.zone.to_offset(at).min(self.zone.to_offset(before));
        let mut wall = TimeZone::UTC.to_timestamp(offset.to_datetime(at)).ok()?;
        let mut first: Option<Timestamp> = None;
        for _ in 0..LOOKS {
            let Ok(found) = self.cron.find_next(MakeTimestamp(wall)) else { break };
            wall = found.timestamp();
            let time = self.zone.to_ambiguous_timestamp(TimeZone::UTC.to_datetime(wall));
            let is_skipped = matches!(time.offset(), AmbiguousOffset::Gap { .. });
            let Ok(next) = time.compatible() else { break };
            if next <= at {
                continue;
            }
            first = Some(first.map_or(next, |first| first.min(next)));
            // One that is skipped comes later than by its place; others may come before it.
            if !is_skipped {
                break;
            }
        }
        u64::try_from(first?.as_millisecond()).ok().map(UnixMs)
    }

    /// The newest time after `after` that is not later than `now`.
    #[must_use]
    pub fn newest(&self, after: UnixMs, now: UnixMs) -> Option<UnixMs> {
        let is_due = |at: UnixMs| self.next_after(at).filter(|next| *next <= now);
        let mut newest = is_due(after)?;
        // Between there and here may be millions: halve instead of counting.
        let mut none_after = now;
        while none_after.0.saturating_sub(newest.0) > MINUTE_MS {
            let middle = UnixMs(newest.0 + (none_after.0 - newest.0) / 2);
            match is_due(middle) {
                Some(later) => newest = later,
                None => none_after = middle,
            }
        }
        Some(is_due(newest).unwrap_or(newest))
    }
}

/// A time for names and for people: `2027-01-31T09:00:00Z`.
#[must_use]
pub fn text(at: UnixMs) -> String {
    let at = i64::try_from(at.0).ok().and_then(|at| Timestamp::from_millisecond(at).ok());
    at.map(|at| at.to_string()).unwrap_or_default()
}

/// The instant that a text such as `2027-01-31T09:00:00Z` names.
#[must_use]
pub fn instant(text: &str) -> Option<UnixMs> {
    u64::try_from(text.parse::<Timestamp>().ok()?.as_millisecond()).ok().map(UnixMs)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(at: &str) -> UnixMs {
        instant(at).unwrap()
    }

    /// The times of an expression in a zone from then on.
    fn times_in(zone: &str, expression: &str, from: &str, count: usize) -> Vec<String> {
        let calendar = Calendar::parse(expression, zone).unwrap();
        let mut at = ms(from);
        let mut next = || {
            at = calendar.next_after(at).unwrap();
            text(at)
        };
        (0..count).map(|_| next()).collect()
    }

    fn times(expression: &str, from: &str, count: usize) -> Vec<String> {
        times_in("Europe/Berlin", expression, from, count)
    }

    #[test]
    fn a_time_is_one_of_the_wall_clock() {
        assert_eq!(
            times("0 3 * * *", "2027-01-10T00:00:00Z", 2),
            ["2027-01-10T02:00:00Z", "2027-01-11T02:00:00Z"]
        );
        assert_eq!(times("0 3 * * *", "2027-07-10T00:00:00Z", 1), ["2027-07-10T01:00:00Z"]);
        // Strictly after: the time itself is over.
        assert_eq!(times("0 3 * * *", "2027-01-10T02:00:00Z", 1), ["2027-01-11T02:00:00Z"]);
        assert_eq!(times("0 3 * * *", "2027-01-10T01:59:59.999Z", 1), ["2027-01-10T02:00:00Z"]);
    }

    #[test]
    fn a_time_that_the_clock_skips_comes_as_much_later_and_once() {
        // On 28 March 2027 at 02:00 it is 03:00.
        let daily = times("30 2 * * *", "2027-03-27T12:00:00Z", 2);
        assert_eq!(daily, ["2027-03-28T01:30:00Z", "2027-03-29T00:30:00Z"]);
        let hourly = times("0 * * * *", "2027-03-28T00:00:00Z", 3);
        assert_eq!(hourly, ["2027-03-28T01:00:00Z", "2027-03-28T02:00:00Z", "2027-03-28T03:00:00Z"]);
        // A time that is skipped may come behind one that is not: here 02:00 to 02:30 is missing, on 3 October 2027.
        let both = times_in("Australia/Lord_Howe", "10,35 2 * * *", "2027-10-02T15:00:00Z", 3);
        assert_eq!(both, ["2027-10-02T15:35:00Z", "2027-10-02T15:40:00Z", "2027-10-03T15:10:00Z"]);
    }

    #[test]
    fn a_day_that_a_country_skips_is_made_up_for() {
        // Samoa had no 30 December 2011.
        let times = times_in("Pacific/Apia", "0 12 * * *", "2011-12-29T00:00:00Z", 3);
        assert_eq!(times, ["2011-12-29T22:00:00Z", "2011-12-30T22:00:00Z", "2011-12-31T22:00:00Z"]);
    }

    #[test]
    fn of_a_time_that_comes_twice_the_first_counts() {
        // On 31 October 2027 at 03:00 it is 02:00 again.
        let daily = times("30 2 * * *", "2027-10-30T12:00:00Z", 2);
        assert_eq!(daily, ["2027-10-31T00:30:00Z", "2027-11-01T01:30:00Z"]);
        let hourly = times("0 * * * *", "2027-10-30T23:00:00Z", 3);
        assert_eq!(hourly, ["2027-10-31T00:00:00Z", "2027-10-31T02:00:00Z", "2027-10-31T03:00:00Z"]);
        // Asked for in the middle of the second hour, it does not go back.
        assert_eq!(times("*/15 * * * *", "2027-10-31T01:20:00Z", 1), ["2027-10-31T02:00:00Z"]);
    }

    #[test]
    fn the_newest_of_many_times_is_found_without_counting_them() {
        let newest = |expression: &str, after: &str, now: &str| {
            Calendar::parse(expression, "Europe/Berlin").unwrap().newest(ms(after), ms(now)).map(text)
        };
        let at = |text: &str| Some(text.to_owned());
        assert_eq!(
            newest("* * * * *", "2020-01-01T00:00:00Z", "2027-05-05T05:05:05Z"),
            at("2027-05-05T05:05:00Z")
        );
        assert_eq!(
            newest("* * * 1 *", "2026-01-01T00:00:00Z", "2026-12-31T12:00:00Z"),
            at("2026-01-31T22:59:00Z")
        );
        assert_eq!(newest("0 3 * * *", "2027-01-10T02:00:00Z", "2027-01-11T01:59:59Z"), None);
        assert_eq!(
            newest("0 3 * * *", "2027-01-10T02:00:00Z", "2027-01-11T02:00:00Z"),
            at("2027-01-11T02:00:00Z")
        );
        assert_eq!(
            newest("0 3 * * *", "2027-01-10T02:00:00Z", "2027-01-09T00:00:00Z"),
            None,
            "a clock went back"
        );
    }

    /// Changes of clocks, forward and back.
    const CHANGES: [(&str, &str); 6] = [
        ("Europe/Berlin", "2027-03-28T01:00:00Z"),
        ("Europe/Berlin", "2027-10-31T01:00:00Z"),
        ("America/New_York", "2027-03-14T07:00:00Z"),
        ("America/New_York", "2027-11-07T06:00:00Z"),
        ("Australia/Lord_Howe", "2027-04-03T15:00:00Z"),
        ("Australia/Lord_Howe", "2027-10-02T15:30:00Z"),
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// From wherever one looks around a change, the next time is later than the place and not before what came next from earlier ones.
        #[test]
        fn times_come_in_order_from_wherever_one_looks(
            minute in 0_u32..60, hour in 0_u32..24, step in 1_u64..180, change in 0_usize..6, lead in 0_u64..2_160,
        ) {
            let (zone, at) = CHANGES[change];
            for expression in [format!("{minute} {hour} * * *"), format!("{minute},{} 1,2 * * *", (minute + 17) % 60)] {
                let calendar = Calendar::parse(&expression, zone).unwrap();
                let begin = ms(at).0 - lead * MINUTE_MS;
                let mut before = calendar.next_after(UnixMs(begin)).unwrap();
                for look in 1..30 {
                    let at = UnixMs(begin + look * step * MINUTE_MS);
                    let next = calendar.next_after(at).unwrap();
                    prop_assert!(next > at && next >= before, "{expression} {zone} {at}: {next} after {before}");
                    before = next;
                    // What is due between two looks is found, and is the newest.
                    if look % 10 == 0
                        && let Some(newest) = calendar.newest(UnixMs(begin), at)
                    {
                        prop_assert!(newest <= at && calendar.next_after(newest).unwrap() > at);
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_no_calendar_is_told() {
        for expression in ["", "0 3 * *", "0 3 * * * *", "61 3 * * *", "0 3 * * * Europe/Berlin", "x 3 * * *"]
        {
            let problem = Calendar::parse(expression, "UTC").unwrap_err();
            assert!(matches!(problem, InvalidCalendar::Expression(_)), "{expression}: {problem}");
        }
        for zone in ["Europe/Atlantis", ""] {
            assert_eq!(Calendar::parse("0 3 * * *", zone).unwrap_err(), InvalidCalendar::Zone);
        }
        assert_eq!(Calendar::parse("0 0 30 2 *", "UTC").unwrap_err(), InvalidCalendar::Never);
        assert!(Calendar::parse("0 0 29 2 *", "UTC").is_ok());
    }
}
