//! JSON to protobuf, in one pass over the text's index: nothing is made of it but what is sent.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;

use super::wire::Result;
use crate::codec::tape::{self, Shape};
use crate::schema::{Container, Field, Item, TYPES, Type, WireField, type_named};
use cel::library::time::parse_duration;

const JSON_SCHEMA_PROPS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn tag(number: u16, wire_type: u8, out: &mut Vec<u8>) {
    varint(u64::from(number) << 3 | u64::from(wire_type), out);
}

pub fn text(number: u16, value: &str, out: &mut Vec<u8>) {
    bytes(number, value.as_bytes(), out);
}

fn bytes(number: u16, value: &[u8], out: &mut Vec<u8>) {
    tag(number, 2, out);
    varint(value.len() as u64, out);
    out.extend_from_slice(value);
}

/// Negative numbers are carried as their two's complement.
pub fn number(number: u16, value: i64, out: &mut Vec<u8>) {
    tag(number, 0, out);
    varint(value as u64, out);
}

pub fn double(number: u16, value: f64, out: &mut Vec<u8>) {
    tag(number, 1, out);
    out.extend_from_slice(&value.to_le_bytes());
}

/// Writes a field whose length is known only after its contents: they are moved up when the length takes more than the
/// one byte that most messages need.
pub fn nested(number: u16, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> Result<()> {
    tag(number, 2, out);
    let start = out.len() + 1;
    out.push(0);
    write(out)?;
    let length = out.len() - start;
    if length < 0x80 {
        out[start - 1] = length as u8;
        return Ok(());
    }
    let mut prefix = Vec::with_capacity(10);
    varint(length as u64, &mut prefix);
    let extra = prefix.len() - 1;
    out.resize(out.len() + extra, 0);
    out.copy_within(start..start + length, start + extra);
    out[start - 1..start + extra].copy_from_slice(&prefix);
    Ok(())
}

/// `k8s\0` and the `runtime.Unknown` around what `write` writes.
pub fn enveloped(
    api_version: &str,
    kind: &str,
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>) -> Result<()>,
) -> Result<()> {
    out.extend_from_slice(super::MAGIC);
    nested(1, out, |out| {
        text(1, api_version, out);
        text(2, kind, out);
        Ok(())
    })?;
    nested(2, out, write)?;
    text(3, "", out);
    text(4, "", out);
    Ok(())
}

/// What stands before and behind a message of `length` bytes in its envelope; `begin` is its beginning.
pub fn envelope(api_version: &str, kind: &str, length: usize, begin: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut head = super::MAGIC.to_vec();
    let mut meta = Vec::new();
    text(1, api_version, &mut meta);
    text(2, kind, &mut meta);
    bytes(1, &meta, &mut head);
    tag(2, 2, &mut head);
    varint(length as u64, &mut head);
    head.extend_from_slice(begin);
    let mut tail = Vec::new();
    text(3, "", &mut tail);
    text(4, "", &mut tail);
    (head, tail)
}

/// A value in the text that is encoded.
type Json<'t> = tape::Item<'t>;

/// Where the fields of the messages that are open stand in the text: one stretch for each message, the innermost last.
#[derive(Debug, Default)]
pub struct Slots(Vec<u32>);

impl Slots {
    /// Forgets what an encoding that failed has left.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// The field is not in the text.
const ABSENT: u32 = u32::MAX;

pub fn message(ty: &'static Type, value: Json<'_>, slots: &mut Slots, out: &mut Vec<u8>) -> Result<()> {
    match value.shape() {
        Shape::Object => fields(ty, Some(value), slots, out),
        Shape::Null => fields(ty, None, slots, out),
        other => Err(format!("{} is no {}", other.name(), ty.go)),
    }
}

fn fields(ty: &'static Type, object: Option<Json<'_>>, slots: &mut Slots, out: &mut Vec<u8>) -> Result<()> {
    let base = slots.0.len();
    slots.0.resize(base + ty.fields.len(), ABSENT);
    if let Some(object) = object {
        locate(ty, object, &mut slots.0[base..]);
    }
    for wire in ty.wire {
        match wire.field {
            WireField::Inline(id) => {
                nested(wire.number, out, |out| fields(&TYPES[usize::from(id)], object, slots, out))?;
            }
            WireField::Own(index) => {
                let place = slots.0[base + usize::from(index)];
                let value = object.and_then(|o| o.place(place)).filter(|v| !v.is_null());
                one(&ty.fields[usize::from(index)], wire.number, value, slots, out)?;
            }
        }
    }
    slots.0.truncate(base);
    Ok(())
}

/// Finds the type's fields in an object. Both are in order of their names, most often: then it is one walk over each.
fn locate(ty: &'static Type, object: Json<'_>, slots: &mut [u32]) {
    let mut at = 0;
    let mut before: &[u8] = b"";
    for (key, value) in object.entries() {
        let name = key.quoted();
        if name < before {
            at = 0;
        }
        before = name;
        while ty.fields.get(at).is_some_and(|field| field.name.as_bytes() < name) {
            at += 1;
        }
        if ty.fields.get(at).is_some_and(|field| field.name.as_bytes() == name) {
            slots[at] = value.index();
        }
    }
}

fn one(
    field: &'static Field,
    number: u16,
    value: Option<Json<'_>>,
    slots: &mut Slots,
    out: &mut Vec<u8>,
) -> Result<()> {
    match (field.container, value) {
        (Container::Single, Some(value)) => item(field, number, value, slots, out),
        (Container::Single, None) if !field.pointer => zero(field, number, slots, out),
        (_, None) => Ok(()),
        (Container::List, Some(list)) if list.shape() == Shape::Array => {
            list.elements().try_for_each(|value| item(field, number, value, slots, out))
        }
        (Container::Map, Some(map)) if map.shape() == Shape::Object => map.entries().try_for_each(|(key, value)| {
            nested(number, out, |out| {
                bytes(1, &key.bytes().unwrap_or_default(), out);
                item(field, 2, value, slots, out)
            })
        }),
        (Container::List | Container::Map, Some(other)) => Err(wrong(field, other)),
    }
}

fn wrong(field: &Field, value: Json<'_>) -> String {
    format!("{} in field {} of type {}", value.shape().name(), field.name, field.go)
}

/// What Go writes for a field that is not a pointer and has never been set.
fn zero(field: &'static Field, at: u16, slots: &mut Slots, out: &mut Vec<u8>) -> Result<()> {
    match field.item {
        Item::String => text(at, "", out),
        Item::Int32 | Item::Int64 | Item::Bool => number(at, 0, out),
        Item::Double => fixed64(at, 0.0, out),
        Item::Bytes | Item::Strings => {}
        Item::Time | Item::MicroTime | Item::Raw | Item::FieldsV1 | Item::Json => text(at, "", out),
        Item::SchemaOrArray | Item::SchemaOrStrings => text(at, "", out),
        Item::SchemaOrBool => nested(at, out, |out| {
            number(1, 0, out);
            Ok(())
        })?,
        Item::Duration => nested(at, out, |out| {
            number(1, 0, out);
            Ok(())
        })?,
        Item::Quantity => nested(at, out, |out| {
            text(1, "0", out);
            Ok(())
        })?,
        Item::IntOrString => int_or_string(at, (0, 0, b""), out)?,
        Item::Message(id) => nested(at, out, |out| fields(&TYPES[usize::from(id)], None, slots, out))?,
    }
    Ok(())
}

fn fixed64(number: u16, value: f64, out: &mut Vec<u8>) {
    tag(number, 1, out);
    out.extend_from_slice(&value.to_bits().to_le_bytes());
}

fn item(field: &'static Field, at: u16, value: Json<'_>, slots: &mut Slots, out: &mut Vec<u8>) -> Result<()> {
    let error = || wrong(field, value);
    match (field.item, value.shape()) {
        (Item::String, Shape::String) => bytes(at, &value.bytes().ok_or_else(error)?, out),
        (Item::Int32 | Item::Int64, Shape::Number) => number(at, value.as_i64().ok_or_else(error)?, out),
        (Item::Bool, Shape::Bool) => number(at, i64::from(value.as_bool().unwrap_or_default()), out),
        (Item::Double, Shape::Number) => fixed64(at, value.as_f64().ok_or_else(error)?, out),
        (Item::Bytes, Shape::String) => {
            let decoded = STANDARD.decode(value.bytes().ok_or_else(error)?).map_err(|e| e.to_string())?;
            bytes(at, &decoded, out);
        }
        (Item::Time | Item::MicroTime, Shape::Null) => text(at, "", out),
        (Item::Time | Item::MicroTime, Shape::String) => {
            let (seconds, nanoseconds) = moment(value.quoted()).ok_or_else(error)?;
            nested(at, out, |out| {
                number(1, seconds, out);
                // Whole seconds, or microseconds, is all that the types keep.
                let nanoseconds = if field.item == Item::MicroTime { nanoseconds / 1000 * 1000 } else { 0 };
                number(2, nanoseconds, out);
                Ok(())
            })?;
        }
        (Item::Duration, Shape::String) => {
            let text = value.bytes().ok_or_else(error)?;
            let nanos = std::str::from_utf8(&text).ok().and_then(parse_duration).ok_or_else(error)?;
            nested(at, out, |out| {
                number(1, nanos, out);
                Ok(())
            })?;
        }
        (Item::Quantity, Shape::String) => {
            let text = value.bytes().ok_or_else(error)?;
            nested(at, out, |out| {
                bytes(1, &text, out);
                Ok(())
            })?;
        }
        (Item::IntOrString, Shape::String) => {
            int_or_string(at, (1, 0, &value.bytes().ok_or_else(error)?), out)?;
        }
        (Item::IntOrString, _) => int_or_string(at, (0, value.as_i64().unwrap_or(0), b""), out)?,
        (Item::Raw | Item::FieldsV1 | Item::Json, _) => nested(at, out, |out| {
            bytes(1, &compact(value), out);
            Ok(())
        })?,
        (Item::Strings, Shape::Array) => nested(at, out, |out| {
            value.elements().try_for_each(|element| {
                bytes(1, &element.bytes().ok_or_else(error)?, out);
                Ok(())
            })
        })?,
        (Item::Strings, Shape::Null) => text(at, "", out),
        (Item::SchemaOrArray | Item::SchemaOrBool | Item::SchemaOrStrings, _) => {
            nested(at, out, |out| schema_or(field.item, value, slots, out))?;
        }
        (Item::Message(id), Shape::Object) => {
            nested(at, out, |out| fields(&TYPES[usize::from(id)], Some(value), slots, out))?;
        }
        (
            Item::String
            | Item::Int32
            | Item::Int64
            | Item::Bool
            | Item::Double
            | Item::Bytes
            | Item::Time
            | Item::MicroTime
            | Item::Duration
            | Item::Quantity
            | Item::Strings
            | Item::Message(_),
            _,
        ) => return Err(error()),
    }
    Ok(())
}

/// The JSON without spaces between its tokens: what is stored has none.
fn compact(value: Json<'_>) -> std::borrow::Cow<'_, [u8]> {
    let raw = value.raw();
    let spaced = raw.iter().any(|b| b.is_ascii_whitespace());
    let rewritten = spaced.then(|| serde_json::from_slice::<serde_json::Value>(raw).ok()).flatten();
    rewritten.map_or(raw.into(), |value| value.to_string().into_bytes().into())
}

/// Seconds since 1970 and nanoseconds of an RFC 3339 time. Those that the server writes itself, `2006-01-02T15:04:05Z`, are
/// read by hand.
fn moment(text: &[u8]) -> Option<(i64, i64)> {
    let digits = |from: usize, count: usize| {
        text[from..from + count].iter().try_fold(0i64, |n, b| b.is_ascii_digit().then(|| n * 10 + i64::from(b - b'0')))
    };
    let plain = text.len() == 20
        && [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':'), (19, b'Z')].iter().all(|(at, b)| text[*at] == *b);
    if plain {
        let (year, month, day) = (digits(0, 4)?, digits(5, 2)?, digits(8, 2)?);
        let (hour, minute, second) = (digits(11, 2)?, digits(14, 2)?, digits(17, 2)?);
        // A day that is in every month, a second that is in every minute; others are left to those who know.
        if (1..=12).contains(&month) && (1..=28).contains(&day) && hour < 24 && minute < 60 && second < 60 {
            return Some((days(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second, 0));
        }
    }
    let moment: Timestamp = std::str::from_utf8(text).ok()?.parse().ok()?;
    Some((moment.as_second(), i64::from(moment.subsec_nanosecond())))
}

/// Days from 1970-01-01 in the Gregorian calendar, counted in years that begin in March.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let of_years = 365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    of_years + (153 * month + 2) / 5 + day - 1 - 719_468
}

fn int_or_string(at: u16, (kind, int, string): (i64, i64, &[u8]), out: &mut Vec<u8>) -> Result<()> {
    nested(at, out, |out| {
        number(1, kind, out);
        number(2, int, out);
        bytes(3, string, out);
        Ok(())
    })
}

/// The unions of CRD schemas, which have a message each.
fn schema_or(item: Item, value: Json<'_>, slots: &mut Slots, out: &mut Vec<u8>) -> Result<()> {
    let ty = type_named(JSON_SCHEMA_PROPS).ok_or("CRD schemas are not in the type table")?;
    if item == Item::SchemaOrBool {
        number(1, i64::from(value.as_bool().unwrap_or(true)), out);
    }
    match value.shape() {
        Shape::Object => {
            let at = if item == Item::SchemaOrBool { 2 } else { 1 };
            nested(at, out, |out| fields(ty, Some(value), slots, out))
        }
        Shape::Array => value.elements().try_for_each(|element| match element.bytes() {
            Some(property) => {
                bytes(2, &property, out);
                Ok(())
            }
            None => nested(2, out, |out| message(ty, element, slots, out)),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        for text in [
            "1970-01-01T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "2000-02-28T12:34:56Z",
            "2024-02-29T00:00:00Z",
            "2024-03-01T00:00:00Z",
            "2026-11-29T23:59:59Z",
            "2026-12-31T00:00:00Z",
            "9999-12-28T23:59:59Z",
            "2026-01-01T00:00:00.123456Z",
            "2026-01-01T02:00:00+02:00",
        ] {
            let expected: Timestamp = text.parse().unwrap();
            let found = moment(text.as_bytes());
            assert_eq!(found, Some((expected.as_second(), i64::from(expected.subsec_nanosecond()))), "{text}");
        }
        for wrong in
            ["", "2026-13-01T00:00:00Z", "2026-01-01T24:00:00Z", "2026-02-30T00:00:00Z", "20x6-01-01T00:00:00Z"]
        {
            assert_eq!(moment(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
