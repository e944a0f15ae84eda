//! When a schedule comes next, and which of its times were missed.
//!
//! Where the clock is turned forward, what falls into the hour that is left out does not come; where it is turned back, what
//! falls into the hour that comes twice comes twice.
//!
//! Source: robfig/cron v3 `spec.go` and `constantdelay.go`, kubernetes `pkg/controller/cronjob/utils.go`.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, Timestamp, Zoned};
use types::cron::{Fields, STAR, Schedule};

/// Years that are searched. What does not come within five years never does: the 31st of February.
const YEARS_MAX: i16 = 5;
/// Missed times from which on something must be wrong: a clock, or a cluster that was asleep.
const MANY: i64 = 100;

/// The first time of the schedule after `after`, in whole seconds. `None`: never.
pub fn next(schedule: &Schedule, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    let second = Timestamp::from_second(after.as_second()).ok()?;
    match schedule {
        Schedule::Every(interval) => second.checked_add(*interval).ok(),
        Schedule::Fields(fields) => {
            let from = second.checked_add(SignedDuration::from_secs(1)).ok()?.to_zoned(zone.clone());
            Some(find(fields, from)?.timestamp())
        }
    }
}

fn has(bits: u64, value: i8) -> bool {
    u32::try_from(value).is_ok_and(|value| bits >> value & 1 == 1)
}

fn day_matches(fields: &Fields, date: Date) -> bool {
    let of_month = has(fields.day_of_month, date.day());
    let of_week = has(fields.day_of_week, date.weekday().to_sunday_zero_offset());
    if (fields.day_of_month | fields.day_of_week) & STAR != 0 { of_month && of_week } else { of_month || of_week }
}

/// The first minute of the schedule that does not begin before `at`.
fn find(fields: &Fields, at: Zoned) -> Option<Zoned> {
    let last = at.year() + YEARS_MAX;
    let (minute, hour) = (Span::new().minutes(1), Span::new().hours(1));
    let begin = |date: Date| date.to_zoned(at.time_zone().clone()).ok();
    // The next full minute, by the time that passes and not by the clock's face.
    let seconds = i64::from(at.second());
    let mut at = if seconds > 0 { at.checked_add(Span::new().seconds(60 - seconds)).ok()? } else { at.clone() };
    while at.year() <= last {
        let date = at.date();
        if !has(fields.month, date.month()) {
            at = begin(date.first_of_month().checked_add(Span::new().months(1)).ok()?)?;
        } else if !day_matches(fields, date) {
            at = begin(date.tomorrow().ok()?)?;
        } else if !has(fields.hour, at.hour()) {
            let past = Span::new().minutes(i64::from(at.minute()));
            at = at.checked_sub(past).ok()?.checked_add(hour).ok()?;
        } else if !has(fields.minute, at.minute()) {
            at = at.checked_add(minute).ok()?;
        } else {
            return Some(at);
        }
    }
    None
}

/// The times of a schedule that have come since it was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// The last of them.
    pub last: Option<Timestamp>,
    pub missed: bool,
    /// So many were missed that something is wrong.
    pub many: bool,
}

/// The times after `since`, up to `now`.
///
/// # Errors
/// The schedule's times are not a second apart: it has none.
pub fn due(schedule: &Schedule, since: Timestamp, now: Timestamp, zone: &TimeZone) -> Result<Due, &'static str> {
    let never = "time difference between two schedules is less than 1 second";
    let none = Due { last: None, missed: false, many: false };
    let first = next(schedule, since, zone).ok_or(never)?;
    if now < first {
        return Ok(none);
    }
    let second = next(schedule, first, zone).ok_or(never)?;
    if now < second {
        return Ok(Due { last: Some(first), ..none });
    }
    let apart = second.duration_since(first).as_secs();
    if apart < 1 {
        return Err(never);
    }
    // As if all were as far apart as the first two; from a little before the last of them they are looked up one by one.
    let missed = now.duration_since(first).as_secs() / apart + 1;
    let near = first.checked_add(SignedDuration::from_secs((missed - 2).saturating_mul(apart))).unwrap_or(first);
    let (mut last, mut at) = (None, near);
    while let Some(time) = next(schedule, at, zone).filter(|time| *time <= now) {
        (last, at) = (Some(time), time);
    }
    Ok(Due { last, missed: missed > 0, many: missed > MANY })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn zone(name: &str) -> TimeZone {
        TimeZone::get(name).unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// The following times, as a clock in the zone shows them.
    fn following(schedule: &str, name: &str, after: &str, count: usize) -> Vec<String> {
        let (schedule, zone) = (Schedule::parse(schedule).unwrap(), zone(name));
        let mut at = at(after);
        let mut shown = Vec::new();
        for _ in 0..count {
            let Some(time) = next(&schedule, at, &zone) else { break };
            shown.push(time.to_zoned(zone.clone()).strftime("%m-%d %H:%M %z").to_string());
            at = time;
        }
        shown
    }

    #[test]
    fn times() {
        for (schedule, zone, after, expected) in [
            ("* * * * *", "UTC", "2026-01-01T00:00:00Z", ["01-01 00:01 +0000", "01-01 00:02 +0000"]),
            ("* * * * *", "UTC", "2026-01-01T00:00:59.5Z", ["01-01 00:01 +0000", "01-01 00:02 +0000"]),
            ("*/15 3 * * *", "UTC", "2026-01-01T03:40:00Z", ["01-01 03:45 +0000", "01-02 03:00 +0000"]),
            ("0 0 1 * *", "UTC", "2026-01-01T00:00:00Z", ["02-01 00:00 +0000", "03-01 00:00 +0000"]),
            ("0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z", ["02-29 00:00 +0000", "02-29 00:00 +0000"]),
            ("30 12 * * MON", "UTC", "2026-01-01T00:00:00Z", ["01-05 12:30 +0000", "01-12 12:30 +0000"]),
            // A day of the month or one of the week.
            ("0 0 13 * FRI", "UTC", "2026-01-01T00:00:00Z", ["01-02 00:00 +0000", "01-09 00:00 +0000"]),
            ("0 9 * * *", "Asia/Tokyo", "2026-01-01T00:00:00Z", ["01-02 09:00 +0900", "01-03 09:00 +0900"]),
            ("@hourly", "Asia/Kolkata", "2026-01-01T00:00:00Z", ["01-01 06:00 +0530", "01-01 07:00 +0530"]),
            // The clock goes forward: this time is left out once.
            ("30 2 * * *", "Europe/Berlin", "2026-03-28T00:00:00Z", ["03-28 02:30 +0100", "03-30 02:30 +0200"]),
            ("0 * * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", ["03-29 03:00 +0200", "03-29 04:00 +0200"]),
            // And back: it comes twice.
            ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", ["10-25 02:30 +0200", "10-25 02:30 +0100"]),
            // There was no midnight that day.
            ("0 1 4 11 *", "America/Sao_Paulo", "2018-11-01T00:00:00Z", ["11-04 01:00 -0200", "11-04 01:00 -0300"]),
            ("@every 90m", "UTC", "2026-01-01T00:10:00.7Z", ["01-01 01:40 +0000", "01-01 03:10 +0000"]),
        ] {
            assert_eq!(following(schedule, zone, after, 2), expected, "{schedule} in {zone}");
        }
        assert_eq!(following("59 23 31 2 *", "UTC", "2026-01-01T00:00:00Z", 2), Vec::<String>::new());
    }

    #[test]
    fn what_is_due() {
        let hourly = Schedule::parse("0 * * * *").unwrap();
        let since = at("2026-01-01T00:30:00Z");
        for (now, last, missed, many) in [
            ("2026-01-01T00:59:59Z", None, false, false),
            ("2026-01-01T01:00:00Z", Some("2026-01-01T01:00:00Z"), false, false),
            ("2026-01-01T01:59:59Z", Some("2026-01-01T01:00:00Z"), false, false),
            ("2026-01-01T02:00:00Z", Some("2026-01-01T02:00:00Z"), true, false),
            ("2026-01-05T04:30:00Z", Some("2026-01-05T04:00:00Z"), true, false),
            ("2026-01-05T05:00:00Z", Some("2026-01-05T05:00:00Z"), true, true),
        ] {
            let expected = Due { last: last.map(at), missed, many };
            assert_eq!(due(&hourly, since, at(now), &TimeZone::UTC), Ok(expected), "{now}");
        }
        // Times that are not equally far apart.
        let odd = Schedule::parse("30 6-16/4 * * 1-5").unwrap();
        let found = due(&odd, at("2026-01-02T05:00:00Z"), at("2026-01-05T13:00:00Z"), &TimeZone::UTC).unwrap();
        assert_eq!(found.last, Some(at("2026-01-05T10:30:00Z")));
        let never = Schedule::parse("59 23 31 2 *").unwrap();
        assert!(due(&never, since, since, &TimeZone::UTC).is_err());
    }

    fn field(min: u32, max: u32) -> impl Strategy<Value = String> {
        prop_oneof![
            3 => Just("*".to_owned()),
            2 => (min..=max).prop_map(|n| n.to_string()),
            1 => (1..=max).prop_map(|n| format!("*/{n}")),
            1 => (min..=max, min..=max).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))),
        ]
    }

    proptest! {
        /// Against looking at every minute.
        #[test]
        fn it_is_the_next_minute_that_matches(
            minute in field(0, 59), hour in field(0, 23), day in field(1, 31), month in field(1, 12), week in field(0, 6),
            after in 1_760_000_000i64..1_800_000_000, name in prop_oneof![Just("UTC"), Just("Europe/Berlin"), Just("America/New_York"), Just("Asia/Kathmandu")],
        ) {
            let schedule = Schedule::parse(&format!("{minute} {hour} {day} {month} {week}")).unwrap();
            let Schedule::Fields(fields) = schedule else { unreachable!() };
            let (zone, after) = (zone(name), Timestamp::from_second(after).unwrap());
            let matches = |at: &Zoned| has(fields.month, at.month()) && day_matches(&fields, at.date())
                && has(fields.hour, at.hour()) && has(fields.minute, at.minute());
            let found = next(&schedule, after, &zone);
            if let Some(found) = found {
                prop_assert!(found > after && found.as_second() % 60 == 0);
                prop_assert!(matches(&found.to_zoned(zone.clone())));
            }
            // Nothing before it within two days.
            let mut minute = after.as_second() / 60 * 60 + 60;
            let end = found.map_or(i64::MAX, Timestamp::as_second).min(minute + 2 * 86_400);
            while minute < end {
                prop_assert!(!matches(&Timestamp::from_second(minute).unwrap().to_zoned(zone.clone())), "{minute}");
                minute += 60;
            }
        }
    }
}
