//! How long a request may take: what its `timeout` parameter asks for, within the server's own limit. Watches and streams
//! are not asked.
//!
//! Source: apiserver `pkg/endpoints/filters/request_deadline.go`, Go `time.ParseDuration`.

use std::time::Duration;

use types::status::Status;

use super::query::Query;

/// kube-apiserver `--request-timeout`.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The time for a request that is no stream.
///
/// # Errors
/// 400 for a duration that is none.
pub fn of(query: &Query) -> Result<Duration, Status> {
    let Some(text) = query.text("timeout") else { return Ok(LIMIT) };
    let wrong = |why| Status::bad_request(format!("invalid timeout specified in the request URL - {why}"));
    let asked = parse(text).map_err(wrong)?;
    // Nothing, or less, asks for no limit of its own.
    Ok(if asked > 0.0 && asked < LIMIT.as_secs_f64() { Duration::from_secs_f64(asked) } else { LIMIT })
}

/// Seconds of a Go duration; the error is Go's.
fn parse(text: &str) -> Result<f64, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0.0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..end].parse().map_err(|_| invalid())?;
        rest = &rest[end..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "" => return Err(format!("time: missing unit in duration {text:?}")),
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" | "μs" => 1e-6,
            "ns" => 1e-9,
            unit => return Err(format!("time: unknown unit {unit:?} in duration {text:?}")),
        };
        total += number * unit;
        rest = &rest[end..];
    }
    Ok(sign * total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts() {
        for (query, expected) in [
            ("", Ok(60.0)),
            ("timeout=", Ok(60.0)),
            ("timeout=1m30s", Ok(60.0)),
            ("timeout=0s", Ok(60.0)),
            ("timeout=-5s", Ok(60.0)),
            ("timeout=34s", Ok(34.0)),
            ("timeout=1.5s", Ok(1.5)),
            ("timeout=250ms", Ok(0.25)),
            ("timeout=5", Err("time: missing unit in duration \"5\"")),
            ("timeout=5x", Err("time: unknown unit \"x\" in duration \"5x\"")),
            ("timeout=soon", Err("time: invalid duration \"soon\"")),
        ] {
            let found = of(&Query::parse(Some(query))).map(|d| d.as_secs_f64()).map_err(|s| s.message);
            let expected = expected.map_err(|why| format!("invalid timeout specified in the request URL - {why}"));
            assert_eq!(found, expected, "{query}");
        }
    }
}
