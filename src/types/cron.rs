//! Schedules of CronJobs: five fields, the names of usual schedules, or an interval.
//!
//! Source: `ParseStandard` of robfig/cron v3, whose texts of errors clients see; crontab(5).

use std::time::Duration;

/// A schedule, without its time zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    Fields(Fields),
    Every(Duration),
}

/// Which values of each field are meant: a bit for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fields {
    pub minute: u64,
    pub hour: u64,
    pub day_of_month: u64,
    pub month: u64,
    pub day_of_week: u64,
}

/// Set in a field that was given as `*` or `?`: a day matches both day fields, or either when neither is starred.
pub const STAR: u64 = 1 << 63;

struct Bounds {
    min: u64,
    max: u64,
    /// In the order of their values, from `min` on.
    names: &'static [&'static str],
}

const MINUTES: Bounds = Bounds { min: 0, max: 59, names: &[] };
const HOURS: Bounds = Bounds { min: 0, max: 23, names: &[] };
const DAYS: Bounds = Bounds { min: 1, max: 31, names: &[] };
const MONTHS: Bounds = Bounds {
    min: 1,
    max: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
const WEEKDAYS: Bounds = Bounds { min: 0, max: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] };
const FIELDS: usize = 5;

impl Schedule {
    /// # Errors
    /// What is wrong, in the words of robfig/cron.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("empty spec string".into());
        }
        let text = without_zone(text)?;
        if text.starts_with('@') {
            return named(text);
        }
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minute, hour, day_of_month, month, day_of_week] = fields[..] else {
            let (count, shown) = (fields.len(), fields.join(" "));
            return Err(format!("expected exactly {FIELDS} fields, found {count}: [{shown}]"));
        };
        Ok(Self::Fields(Fields {
            minute: field(minute, &MINUTES)?,
            hour: field(hour, &HOURS)?,
            day_of_month: field(day_of_month, &DAYS)?,
            month: field(month, &MONTHS)?,
            day_of_week: field(day_of_week, &WEEKDAYS)?,
        }))
    }
}

/// The rest behind a `TZ=` or `CRON_TZ=`; the zone itself is another field's matter.
fn without_zone(text: &str) -> Result<&str, String> {
    let zone = text.strip_prefix("TZ=").or_else(|| text.strip_prefix("CRON_TZ="));
    match zone.map(|rest| rest.split_once(' ')) {
        None => Ok(text),
        // the parser upstream panics here, which is made an error
        Some(None) => Err("invalid schedule format: runtime error: slice bounds out of range [:-1]".into()),
        Some(Some((_, rest))) => Ok(rest.trim()),
    }
}

fn named(text: &str) -> Result<Schedule, String> {
    let all = |bounds: &Bounds| bits(bounds.min, bounds.max, 1) | STAR;
    let first = |bounds: &Bounds| 1 << bounds.min;
    let hourly = Fields {
        minute: first(&MINUTES),
        hour: all(&HOURS),
        day_of_month: all(&DAYS),
        month: all(&MONTHS),
        day_of_week: all(&WEEKDAYS),
    };
    let daily = Fields { hour: first(&HOURS), ..hourly };
    Ok(Schedule::Fields(match text {
        "@hourly" => hourly,
        "@daily" | "@midnight" => daily,
        "@weekly" => Fields { day_of_week: first(&WEEKDAYS), ..daily },
        "@monthly" => Fields { day_of_month: first(&DAYS), ..daily },
        "@yearly" | "@annually" => Fields { day_of_month: first(&DAYS), month: first(&MONTHS), ..daily },
        _ => {
            let Some(interval) = text.strip_prefix("@every ") else {
                return Err(format!("unrecognized descriptor: {text}"));
            };
            let interval = duration(interval).map_err(|why| format!("failed to parse duration {text}: {why}"))?;
            return Ok(Schedule::Every(interval));
        }
    }))
}

fn field(text: &str, bounds: &Bounds) -> Result<u64, String> {
    text.split(',').filter(|part| !part.is_empty()).try_fold(0, |found, part| Ok(found | range(part, bounds)?))
}

fn range(text: &str, bounds: &Bounds) -> Result<u64, String> {
    let halves: Vec<&str> = text.split('/').collect();
    let ends: Vec<&str> = halves[0].split('-').collect();
    let mut star = 0;
    let (start, mut end) = match ends[..] {
        ["*" | "?", ..] => {
            star = STAR;
            (bounds.min, bounds.max)
        }
        [one] => {
            let one = number_or_name(one, bounds)?;
            (one, one)
        }
        [low, high] => (number_or_name(low, bounds)?, number_or_name(high, bounds)?),
        _ => return Err(format!("too many hyphens: {text}")),
    };
    let step = match halves[..] {
        [_] => 1,
        [_, step] => {
            let step = number(step)?;
            if ends.len() == 1 {
                end = bounds.max;
            }
            if step > 1 {
                star = 0;
            }
            step
        }
        _ => return Err(format!("too many slashes: {text}")),
    };
    if start < bounds.min {
        return Err(format!("beginning of range ({start}) below minimum ({}): {text}", bounds.min));
    }
    if end > bounds.max {
        return Err(format!("end of range ({end}) above maximum ({}): {text}", bounds.max));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {text}"));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {text}"));
    }
    Ok(bits(start, end, step) | star)
}

fn bits(start: u64, end: u64, step: u64) -> u64 {
    (start..=end).filter(|n| (n - start).is_multiple_of(step)).fold(0, |bits, n| bits | 1 << n)
}

fn number_or_name(text: &str, bounds: &Bounds) -> Result<u64, String> {
    let lower = text.to_lowercase();
    match bounds.names.iter().position(|name| *name == lower) {
        Some(at) => Ok(bounds.min + at as u64),
        None => number(text),
    }
}

fn number(text: &str) -> Result<u64, String> {
    let failed = |why: &str| format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: {why}");
    match text.parse::<i64>() {
        Ok(n) => u64::try_from(n).map_err(|_| format!("negative number ({n}) not allowed: {text}")),
        Err(error) => Err(match error.kind() {
            std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow => failed("value out of range"),
            _ => failed("invalid syntax"),
        }),
    }
}

/// A duration as Go writes it: numbers with units, `1h30m`. At least a second, in whole seconds, as schedules are kept.
fn duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut nanos: f64 = 0.0;
    while !rest.is_empty() && rest != "0" {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (value, tail) = rest.split_at(digits);
        let value: f64 = value.parse().map_err(|_| invalid())?;
        let unit = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        nanos += value
            * match unit {
                "ns" => 1.0,
                "us" | "\u{b5}s" | "\u{3bc}s" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3600e9,
                "" => return Err(format!("time: missing unit in duration {text:?}")),
                other => return Err(format!("time: unknown unit {other:?} in duration {text:?}")),
            };
        rest = tail;
    }
    if nanos > 9_223_372_036_854_775_807.0 {
        return Err(invalid());
    }
    let seconds = if negative { 0.0 } else { (nanos / 1e9).floor() };
    Ok(Duration::from_secs_f64(seconds.max(1.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules() {
        for text in
            ["* * * * *", "*/5 0-6/2 1,15 jan-mar MON-fri", "? 0 L", "@hourly", "@every 1h30m", "TZ=UTC 0 0 * * *"]
        {
            assert_eq!(Schedule::parse(text).is_ok(), text != "? 0 L", "{text}");
        }
        let Ok(Schedule::Fields(fields)) = Schedule::parse("0,30 8-10 * * 1") else { panic!() };
        assert_eq!((fields.minute, fields.hour), (1 | 1 << 30, 0b111 << 8));
        assert_eq!((fields.day_of_week, fields.day_of_month & STAR), (0b10, STAR));
        let Ok(Schedule::Fields(fields)) = Schedule::parse("*/20 5/6 * * *") else { panic!() };
        assert_eq!((fields.minute, fields.hour), (1 | 1 << 20 | 1 << 40, 1 << 5 | 1 << 11 | 1 << 17 | 1 << 23));
        assert_eq!(Schedule::parse("@every 90s"), Ok(Schedule::Every(Duration::from_secs(90))));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, why) in [
            ("", "empty spec string"),
            ("1 2 3", "expected exactly 5 fields, found 3: [1 2 3]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("1/2/3 * * * *", "too many slashes: 1/2/3"),
            ("x * * * *", "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax"),
            ("@never", "unrecognized descriptor: @never"),
            ("@every x", "failed to parse duration @every x: time: invalid duration \"x\""),
            ("@every 5", "failed to parse duration @every 5: time: missing unit in duration \"5\""),
        ] {
            assert_eq!(Schedule::parse(text), Err(why.to_owned()), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[0-9*/,?@a-zA-Z=: .-]{0,30}", other in ".*") {
            let _ = Schedule::parse(&text);
            let _ = Schedule::parse(&other);
        }
    }
}
