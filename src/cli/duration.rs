//! Durations as Go writes them: `30s`, `1h30m`, `500ms`; and ages as kubectl shows them.

use std::time::Duration;

/// A plain number counts seconds, as kubectl's `--timeout` and `--since` take it.
pub fn parse(text: &str) -> Result<Duration, String> {
    let bad = || format!("time: invalid duration {text:?}");
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    let mut total = 0.0f64;
    let mut rest = text;
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(bad()),
        };
        total += number * unit;
        rest = &rest[end..];
    }
    Duration::try_from_secs_f64(total).map_err(|_| bad())
}

/// As `parse`; a sign before it means "without limit".
pub fn parse_or_forever(text: &str) -> Result<Duration, String> {
    // Upstream's week.
    if text.starts_with('-') { Ok(Duration::from_secs(168 * 3600)) } else { parse(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, seconds) in
            [("30s", 30.0), ("1h30m", 5400.0), ("500ms", 0.5), ("7", 7.0), ("0s", 0.0), ("1.5m", 90.0)]
        {
            assert_eq!(parse(text).unwrap(), Duration::from_secs_f64(seconds), "{text}");
        }
        for text in ["", "x", "5x", "s", "-5s"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(parse_or_forever("-1s").unwrap(), Duration::from_secs(604_800));
    }
}
