//! When a rule is due: a cron expression in a time zone. Pure.
//!
//! The expression is read on the wall clock of the zone, and each of its times happens once: a time that the clock skips in spring comes
//! as much later as the clock was put forward, and of a time that comes twice in autumn the first counts.

use backhaul_runtime::locations::Problem;
use cronexpr::{Crontab, MakeTimestamp};
use jiff::{Timestamp, tz::TimeZone};

use crate::queue::UnixMs;

/// Times that are looked at for the next one. More than a zone can skip by any change of its clock.
const LOOKS: usize = 200;

/// When something is due.
#[derive(Debug, Clone)]
pub struct Schedule {
    cron: Crontab,
    zone: TimeZone,
}

impl Schedule {
    /// Reads an expression of five fields and the name of a zone, such as `Europe/Berlin`.
    ///
    /// # Errors
    /// What is wrong, and with which of the two.
    pub fn parse(expression: &str, zone: &str) -> Result<Self, Problem> {
        let problem = |setting: &str, what: String| Problem { setting: setting.to_owned(), what };
        if expression.split_whitespace().count() != 5 {
            return Err(problem("schedule", "must be five fields, such as `30 2 * * *`".to_owned()));
        }
        // The expression is read on a clock without changes; the zone's are made up for afterwards.
        let cron = cronexpr::parse_crontab(&format!("{expression} UTC"))
            .map_err(|error| problem("schedule", error.to_string()))?;
        let zone = TimeZone::get(zone)
            .map_err(|_| problem("time_zone", "is no zone that is known here".to_owned()))?;
        Ok(Self { cron, zone })
    }

    /// The first time after `at`; `None` when there is none in this age of the world.
    #[must_use]
    pub fn next_after(&self, at: UnixMs) -> Option<UnixMs> {
        let at = Timestamp::from_millisecond(i64::try_from(at.0).ok()?).ok()?;
        let mut wall = TimeZone::UTC.to_timestamp(self.zone.to_datetime(at)).ok()?;
        for _ in 0..LOOKS {
            wall = self.cron.find_next(MakeTimestamp(wall)).ok()?.timestamp();
            let next = self.zone.to_timestamp(TimeZone::UTC.to_datetime(wall)).ok()?;
            if next > at {
                return u64::try_from(next.as_millisecond()).ok().map(UnixMs);
            }
        }
        None
    }
}

/// A time for names and for people: `2027-01-31T09:00:00Z`.
#[must_use]
pub fn text(at: UnixMs) -> String {
    let at = i64::try_from(at.0).ok().and_then(|at| Timestamp::from_millisecond(at).ok());
    at.map(|at| at.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(at: &str) -> UnixMs {
        UnixMs(u64::try_from(at.parse::<Timestamp>().unwrap().as_millisecond()).unwrap())
    }

    /// The times of an expression in Berlin from then on.
    fn times(expression: &str, from: &str, count: usize) -> Vec<String> {
        let schedule = Schedule::parse(expression, "Europe/Berlin").unwrap();
        let mut at = ms(from);
        let mut next = || {
            at = schedule.next_after(at).unwrap();
            text(at)
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn a_time_is_one_of_the_wall_clock() {
        assert_eq!(times("0 3 * * *", "2027-01-10T00:00:00Z", 2), ["2027-01-10T02:00:00Z", "2027-01-11T02:00:00Z"]);
        assert_eq!(times("0 3 * * *", "2027-07-10T00:00:00Z", 1), ["2027-07-10T01:00:00Z"]);
        // Strictly after: the time itself is over.
        assert_eq!(times("0 3 * * *", "2027-01-10T02:00:00Z", 1), ["2027-01-11T02:00:00Z"]);
        assert_eq!(times("0 3 * * *", "2027-01-10T01:59:59.999Z", 1), ["2027-01-10T02:00:00Z"]);
    }

    #[test]
    fn a_time_that_the_clock_skips_comes_as_much_later_and_once() {
        // On 28 March 2027 at 02:00 it is 03:00.
        let times = times("30 2 * * *", "2027-03-27T12:00:00Z", 2);
        assert_eq!(times, ["2027-03-28T01:30:00Z", "2027-03-29T00:30:00Z"]);
    }

    #[test]
    fn times_of_every_hour_go_on_in_spring_without_a_double() {
        let times = times("0 * * * *", "2027-03-28T00:00:00Z", 3);
        assert_eq!(times, ["2027-03-28T01:00:00Z", "2027-03-28T02:00:00Z", "2027-03-28T03:00:00Z"]);
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
    fn what_is_no_schedule_is_told() {
        for (expression, zone, setting) in [
            ("", "UTC", "schedule"),
            ("0 3 * *", "UTC", "schedule"),
            ("0 3 * * * *", "UTC", "schedule"),
            ("61 3 * * *", "UTC", "schedule"),
            ("0 3 * * * Europe/Berlin", "UTC", "schedule"),
            ("0 3 * * *", "Europe/Atlantis", "time_zone"),
            ("0 3 * * *", "", "time_zone"),
        ] {
            let problem = Schedule::parse(expression, zone).unwrap_err();
            assert_eq!(problem.setting, setting, "{expression} {zone}: {problem:?}");
        }
        let never = Schedule::parse("0 0 30 2 *", "UTC").unwrap();
        assert_eq!(never.next_after(ms("2027-01-01T00:00:00Z")), None);
    }
}
