//! The values that Go types read and write by rules of their own: times, quantities, bytes, int-or-string.

use jiff::Timestamp;
use serde_json::{Map, Value};
use types::quantity::Quantity;

use crate::schema::Item;

/// Why a value could not be read.
#[derive(Debug, PartialEq, Eq)]
pub enum Wrong {
    /// JSON of another type; Go names what it saw and what it wanted.
    Type { what: String, go: &'static str },
    /// The text of the type's own decoder.
    Text(String),
}

impl From<Wrong> for String {
    /// Without the place, for those who do not know it.
    fn from(wrong: Wrong) -> String {
        match wrong {
            Wrong::Type { what, go } => format!("json: cannot unmarshal {what} into Go value of type {go}"),
            Wrong::Text(text) => text,
        }
    }
}

/// The zero value of an element, as `null` in a list or map becomes.
pub fn zero(item: Item) -> Value {
    match item {
        Item::String | Item::Bytes => Value::String(String::new()),
        Item::Int32 | Item::Int64 | Item::Double | Item::IntOrString => Value::from(0),
        Item::Bool => Value::Bool(false),
        Item::Quantity => Value::String("0".into()),
        Item::Duration => Value::String("0s".into()),
        Item::Message(_) => Value::Object(Map::new()),
        Item::Time
        | Item::MicroTime
        | Item::Raw
        | Item::FieldsV1
        | Item::Json
        | Item::Strings
        | Item::SchemaOrArray
        | Item::SchemaOrBool
        | Item::SchemaOrStrings => Value::Null,
    }
}

/// Nanoseconds as Go writes a duration. Source: Go's `time.Duration.String`.
pub fn duration_text(nanos: i64) -> String {
    let (sign, all) = (if nanos < 0 { "-" } else { "" }, nanos.unsigned_abs());
    let decimal = |whole: u64, rest: u64, digits: usize, unit: &str| {
        let fraction = format!("{rest:0digits$}");
        let fraction = fraction.trim_end_matches('0');
        if fraction.is_empty() { format!("{whole}{unit}") } else { format!("{whole}.{fraction}{unit}") }
    };
    let text = match all {
        0 => "0s".to_owned(),
        1..1_000 => format!("{all}ns"),
        1_000..1_000_000 => decimal(all / 1_000, all % 1_000, 3, "µs"),
        1_000_000..1_000_000_000 => decimal(all / 1_000_000, all % 1_000_000, 6, "ms"),
        _ => {
            let (seconds, rest) = (all / 1_000_000_000, all % 1_000_000_000);
            let last = decimal(seconds % 60, rest, 9, "s");
            match (seconds / 3600, seconds / 60 % 60) {
                (0, 0) => last,
                (0, minutes) => format!("{minutes}m{last}"),
                (hours, minutes) => format!("{hours}h{minutes}m{last}"),
            }
        }
    };
    format!("{sign}{text}")
}

/// `2006-01-02T15:04:05Z` is kept, another RFC 3339 time is written so.
pub fn canonical_time(value: &mut Value) -> Result<(), Wrong> {
    canonical(value, "0000-00-00T00:00:00Z", "2006-01-02T15:04:05Z07:00", types::time::rfc3339)
}

/// As [`canonical_time`], with microseconds.
pub fn canonical_micro_time(value: &mut Value) -> Result<(), Wrong> {
    canonical(value, "0000-00-00T00:00:00.000000Z", "2006-01-02T15:04:05.000000Z07:00", types::time::rfc3339_micros)
}

fn canonical(value: &mut Value, form: &str, layout: &str, write: fn(Timestamp) -> String) -> Result<(), Wrong> {
    let Value::String(text) = value else {
        return Err(Wrong::Type { what: super::gojson::type_of(value).into(), go: "string" });
    };
    let parsed: Timestamp = text.parse().map_err(|_| {
        Wrong::Text(format!("parsing time {text:?} as {layout:?}: cannot parse {text:?} as {:?}", &layout[..4]))
    })?;
    let canonical = text.len() == form.len()
        && text.bytes().zip(form.bytes()).all(|(t, f)| if f == b'0' { t.is_ascii_digit() } else { t == f });
    if !canonical {
        *text = write(parsed);
    }
    Ok(())
}

/// Strings and plain numbers are read; the canonical text is written.
pub fn canonical_quantity(value: &mut Value) -> Result<(), Wrong> {
    let number;
    let text = match &*value {
        Value::String(text) => text.trim(),
        other => {
            number = other.to_string();
            &number
        }
    };
    let quantity: Quantity = text.parse().map_err(|e: types::quantity::ParseError| Wrong::Text(e.to_string()))?;
    let canonical = quantity.to_string();
    if value.as_str() != Some(&canonical) {
        *value = Value::String(canonical);
    }
    Ok(())
}

pub fn check_int_or_string(value: &Value) -> Result<(), Wrong> {
    match value {
        Value::String(_) => Ok(()),
        Value::Number(n) if n.as_i64().is_some_and(|i| i32::try_from(i).is_ok()) => Ok(()),
        Value::Number(n) => Err(Wrong::Type { what: format!("number {n}"), go: "int32" }),
        other => Err(Wrong::Type { what: super::gojson::type_of(other).into(), go: "int32" }),
    }
}

/// Padded standard base64, line breaks allowed as Go allows them; those are dropped.
pub fn check_base64(text: &mut String) -> Result<(), Wrong> {
    if text.bytes().any(|b| matches!(b, b'\r' | b'\n')) {
        text.retain(|c| !matches!(c, '\r' | '\n'));
    }
    let bytes = text.as_bytes();
    let padding = bytes.iter().rev().take(2).take_while(|b| **b == b'=').count();
    let body = &bytes[..bytes.len() - padding];
    let illegal = |at: usize| Err(Wrong::Text(format!("illegal base64 data at input byte {at}")));
    if let Some(at) = body.iter().position(|b| !matches!(b, b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/')) {
        return illegal(at);
    }
    if !bytes.len().is_multiple_of(4) {
        // Go names the start of the last, incomplete group.
        return illegal(bytes.len() / 4 * 4);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64() {
        for (text, ok) in [("", true), ("YQ==", true), ("YWI=", true), ("Y\nQ==", true), ("YQ", false), ("Y!==", false)]
        {
            assert_eq!(check_base64(&mut text.to_owned()).is_ok(), ok, "{text:?}");
        }
        assert_eq!(
            String::from(check_base64(&mut "not base64".into()).unwrap_err()),
            "illegal base64 data at input byte 3"
        );
    }

    #[test]
    fn times() {
        let mut at = Value::from("2024-05-06T07:08:09.5+00:00");
        canonical_micro_time(&mut at).unwrap();
        assert_eq!(at, "2024-05-06T07:08:09.500000Z");
        assert_eq!(
            String::from(canonical_time(&mut Value::from("soon")).unwrap_err()),
            r#"parsing time "soon" as "2006-01-02T15:04:05Z07:00": cannot parse "soon" as "2006""#
        );
    }

    #[test]
    fn durations_are_written_as_go_does() {
        for (nanos, text) in [
            (0, "0s"),
            (7, "7ns"),
            (1_500, "1.5µs"),
            (20_000_000, "20ms"),
            (15_034_000_000, "15.034s"),
            (60_500_000_000, "1m0.5s"),
            (-3_600_000_000_000, "-1h0m0s"),
        ] {
            assert_eq!(super::duration_text(nanos), text);
            assert_eq!(cel::library::time::parse_duration(text), Some(nanos), "{text}");
        }
    }
}
