//! Timestamps and durations: their texts, parts and arithmetic. Nothing here reads a clock.
//!
//! Source: cel-go `common/types/timestamp.go`, `common/types/duration.go`; Go `time.ParseDuration`.

use jiff::tz::TimeZone;

use crate::signature::Function;
use crate::value::{Answer, Value, fault, no_overload};

/// CEL's timestamps are of the years 1 to 9999.
const SECONDS_MIN: i64 = -62_135_596_800;
const SECONDS_MAX: i64 = 253_402_300_799;

macro_rules! part {
    ($name:literal, $id:literal, $with_zone:literal, $of:expr) => {
        Function {
            run: |args| zoned(args, $of),
            overloads: &[($name, $id, "timestamp.() int"), ($name, $with_zone, "timestamp.(string) int")],
        }
    };
}

pub const FUNCTIONS: &[Function] = &[
    part!("getFullYear", "timestamp_to_year", "timestamp_to_year_with_tz", |t| i64::from(t.year())),
    part!("getMonth", "timestamp_to_month", "timestamp_to_month_with_tz", |t| i64::from(t.month()) - 1),
    part!("getDayOfYear", "timestamp_to_day_of_year", "timestamp_to_day_of_year_with_tz", |t| {
        i64::from(t.day_of_year()) - 1
    }),
    part!("getDayOfMonth", "timestamp_to_day_of_month", "timestamp_to_day_of_month_with_tz", |t| {
        i64::from(t.day()) - 1
    }),
    part!("getDate", "timestamp_to_day_of_month_1_based", "timestamp_to_day_of_month_1_based_with_tz", |t| {
        i64::from(t.day())
    }),
    part!("getDayOfWeek", "timestamp_to_day_of_week", "timestamp_to_day_of_week_with_tz", |t| {
        i64::from(t.weekday().to_sunday_zero_offset())
    }),
    part!("getHours", "timestamp_to_hours", "timestamp_to_hours_tz", |t| i64::from(t.hour())),
    part!("getMinutes", "timestamp_to_minutes", "timestamp_to_minutes_tz", |t| i64::from(t.minute())),
    part!("getSeconds", "timestamp_to_seconds", "timestamp_to_seconds_tz", |t| i64::from(t.second())),
    part!("getMilliseconds", "timestamp_to_milliseconds", "timestamp_to_milliseconds_tz", |t| {
        i64::from(t.millisecond())
    }),
    Function {
        run: |args| whole(args, 3_600_000_000_000),
        overloads: &[("getHours", "duration_to_hours", "duration.() int")],
    },
    Function {
        run: |args| whole(args, 60_000_000_000),
        overloads: &[("getMinutes", "duration_to_minutes", "duration.() int")],
    },
    Function {
        run: |args| whole(args, 1_000_000_000),
        overloads: &[("getSeconds", "duration_to_seconds", "duration.() int")],
    },
    Function {
        run: |args| whole(args, 1_000_000),
        overloads: &[("getMilliseconds", "duration_to_milliseconds", "duration.() int")],
    },
];

fn zoned<'a>(args: &[Value<'a>], part: fn(&jiff::Zoned) -> i64) -> Answer<'a> {
    let (t, zone) = match args {
        [Value::Timestamp(t)] => (t, TimeZone::UTC),
        [Value::Timestamp(t), Value::String(name)] => match zone(name) {
            Some(zone) => (t, zone),
            None => return fault(format!("unknown time zone {}", &**name)),
        },
        _ => return no_overload(),
    };
    Ok(Value::Int(part(&t.to_zoned(zone))))
}
/// A zone by name, or by offset: `+02:00`.
fn zone(name: &str) -> Option<TimeZone> {
    let Some((hours, minutes)) = name.split_once(':') else {
        return if name.is_empty() { Some(TimeZone::UTC) } else { TimeZone::get(name).ok() };
    };
    let negative = hours.starts_with('-');
    let hours: i32 = hours.trim_start_matches(['+', '-']).parse().ok()?;
    let minutes: i32 = minutes.parse().ok()?;
    let seconds = hours.checked_mul(3600)?.checked_add(minutes.checked_mul(60)?)?;
    let offset = jiff::tz::Offset::from_seconds(if negative { -seconds } else { seconds }).ok()?;
    Some(TimeZone::fixed(offset))
}
fn whole<'a>(args: &[Value<'a>], unit: i64) -> Answer<'a> {
    match args {
        [Value::Duration(nanos)] => Ok(Value::Int(nanos / unit)),
        _ => no_overload(),
    }
}

pub fn duration<'a>(nanos: Option<i64>) -> Answer<'a> {
    nanos.map_or_else(|| fault("duration overflow"), |n| Ok(Value::Duration(n)))
}
pub fn in_range<'a>(t: jiff::Timestamp) -> Answer<'a> {
    if (SECONDS_MIN..=SECONDS_MAX).contains(&t.as_second()) {
        Ok(Value::Timestamp(t))
    } else {
        fault("timestamp overflow")
    }
}
pub fn moved<'a>(t: jiff::Timestamp, nanos: i64) -> Answer<'a> {
    match t.checked_add(jiff::SignedDuration::from_nanos(nanos)) {
        Ok(t) => in_range(t),
        Err(_) => fault("timestamp overflow"),
    }
}

/// An RFC 3339 timestamp with its zone.
pub fn parse_timestamp(text: &str) -> Option<jiff::Timestamp> {
    // jiff also reads other forms; RFC 3339 has a T and a zone behind the time
    let bytes = text.as_bytes();
    let separated = bytes.len() >= 20 && matches!(bytes[10], b'T' | b't') && bytes[4] == b'-' && bytes[13] == b':';
    if !separated || text.contains('[') {
        return None;
    }
    text.parse().ok()
}
/// What a `date` or `date-time` field holds.
pub fn parse_date_time(text: &str) -> Option<jiff::Timestamp> {
    if text.len() == 10 {
        let date: jiff::civil::Date = text.parse().ok()?;
        return date.to_zoned(TimeZone::UTC).ok().map(|z| z.timestamp());
    }
    parse_timestamp(text)
}

/// A Go duration: `1h30m`, `-1.5s`, `0`. Nanoseconds.
pub fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let whole: i128 = if digits > 0 { rest[..digits].parse().ok()? } else { 0 };
        rest = &rest[digits..];
        let mut fraction = "";
        if let Some(behind) = rest.strip_prefix('.') {
            let length = behind.find(|c: char| !c.is_ascii_digit()).unwrap_or(behind.len());
            fraction = &behind[..length];
            rest = &behind[length..];
        }
        if digits == 0 && fraction.is_empty() {
            return None;
        }
        let length = rest.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(rest.len());
        let unit: i128 = match &rest[..length] {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        rest = &rest[length..];
        total = total.checked_add(whole.checked_mul(unit)?)?;
        let fraction = &fraction[..fraction.len().min(18)];
        if !fraction.is_empty() {
            let digits: i128 = fraction.parse().ok()?;
            total += digits * unit / 10i128.pow(u32::try_from(fraction.len()).ok()?);
        }
    }
    i64::try_from(if negative { -total } else { total }).ok()
}
/// Seconds with their fraction: `5400s`, `0.25s`.
pub fn duration_text(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let (seconds, rest) = (nanos.unsigned_abs() / 1_000_000_000, nanos.unsigned_abs() % 1_000_000_000);
    if rest == 0 {
        return format!("{sign}{seconds}s");
    }
    let fraction = format!("{rest:09}");
    format!("{sign}{seconds}.{}s", fraction.trim_end_matches('0'))
}
/// RFC 3339 with as many digits of the second as there are.
pub fn timestamp_text(t: jiff::Timestamp) -> String {
    t.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, nanos) in [
            ("1h30m", Some(5_400_000_000_000)),
            ("-1.5s", Some(-1_500_000_000)),
            ("0", Some(0)),
            ("2ms3us", Some(2_003_000)),
            (".5s", Some(500_000_000)),
            ("1", None),
            ("s", None),
            ("", None),
            ("1x", None),
            ("9999999999h", None),
        ] {
            assert_eq!(parse_duration(text), nanos, "{text}");
        }
        assert_eq!(duration_text(-1_500_000_000), "-1.5s");
        assert_eq!(duration_text(5_400_000_000_000), "5400s");
    }

    #[test]
    fn timestamps() {
        let t = parse_timestamp("2024-02-29T10:00:00.5+02:00").unwrap();
        assert_eq!(timestamp_text(t), "2024-02-29T08:00:00.5Z");
        for bad in ["2024-02-29", "2024-02-30T10:00:00Z", "2024-02-29 10:00:00Z", "2024-02-29T10:00:00"] {
            assert!(parse_timestamp(bad).is_none(), "{bad}");
        }
    }
}
