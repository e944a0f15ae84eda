//! The untyped value to protobuf.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::wire::Result;
use crate::schema::{Container, Field, Item, TYPES, Type, WireField, type_named};

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

pub fn message(ty: &'static Type, value: &Value, out: &mut Vec<u8>) -> Result<()> {
    match value {
        Value::Object(object) => fields(ty, object, out),
        Value::Null => fields(ty, &Map::new(), out),
        other => Err(format!("{} is no {}", crate::codec::gojson::type_of(other), ty.go)),
    }
}

fn fields(ty: &'static Type, object: &Map<String, Value>, out: &mut Vec<u8>) -> Result<()> {
    for wire in ty.wire {
        match wire.field {
            WireField::Inline(id) => nested(wire.number, out, |out| fields(&TYPES[usize::from(id)], object, out))?,
            WireField::Own(index) => {
                let field = &ty.fields[usize::from(index)];
                one(field, wire.number, object.get(field.name).filter(|v| !v.is_null()), out)?;
            }
        }
    }
    Ok(())
}

fn one(field: &'static Field, number: u16, value: Option<&Value>, out: &mut Vec<u8>) -> Result<()> {
    match (field.container, value) {
        (Container::Single, Some(value)) => item(field, number, value, out),
        (Container::Single, None) if !field.pointer => zero(field, number, out),
        (_, None) => Ok(()),
        (Container::List, Some(Value::Array(items))) => {
            items.iter().try_for_each(|value| item(field, number, value, out))
        }
        (Container::Map, Some(Value::Object(entries))) => entries.iter().try_for_each(|(key, value)| {
            nested(number, out, |out| {
                text(1, key, out);
                item(field, 2, value, out)
            })
        }),
        (Container::List | Container::Map, Some(other)) => Err(wrong(field, other)),
    }
}

fn wrong(field: &Field, value: &Value) -> String {
    format!("{} in field {} of type {}", crate::codec::gojson::type_of(value), field.name, field.go)
}

/// What Go writes for a field that is not a pointer and has never been set.
fn zero(field: &'static Field, at: u16, out: &mut Vec<u8>) -> Result<()> {
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
        Item::Quantity => nested(at, out, |out| {
            text(1, "0", out);
            Ok(())
        })?,
        Item::IntOrString => int_or_string(at, &Value::from(0), out)?,
        Item::Message(id) => nested(at, out, |out| fields(&TYPES[usize::from(id)], &Map::new(), out))?,
    }
    Ok(())
}

fn fixed64(number: u16, value: f64, out: &mut Vec<u8>) {
    tag(number, 1, out);
    out.extend_from_slice(&value.to_bits().to_le_bytes());
}

fn item(field: &'static Field, at: u16, value: &Value, out: &mut Vec<u8>) -> Result<()> {
    let error = || wrong(field, value);
    match (field.item, value) {
        (Item::String, Value::String(s)) => text(at, s, out),
        (Item::Int32 | Item::Int64, Value::Number(n)) => number(at, n.as_i64().ok_or_else(error)?, out),
        (Item::Bool, Value::Bool(b)) => number(at, i64::from(*b), out),
        (Item::Double, Value::Number(n)) => fixed64(at, n.as_f64().ok_or_else(error)?, out),
        (Item::Bytes, Value::String(s)) => bytes(at, &STANDARD.decode(s).map_err(|e| e.to_string())?, out),
        (Item::Time | Item::MicroTime, Value::Null) => text(at, "", out),
        (Item::Time | Item::MicroTime, Value::String(s)) => {
            let moment: Timestamp = s.parse().map_err(|_| error())?;
            let micros = field.item == Item::MicroTime;
            nested(at, out, |out| {
                number(1, moment.as_second(), out);
                let nanos = if micros { moment.subsec_nanosecond() / 1000 * 1000 } else { 0 };
                number(2, i64::from(nanos), out);
                Ok(())
            })?;
        }
        (Item::Quantity, Value::String(s)) => nested(at, out, |out| {
            text(1, s, out);
            Ok(())
        })?,
        (Item::IntOrString, value) => int_or_string(at, value, out)?,
        (Item::Raw | Item::FieldsV1 | Item::Json, value) => {
            let json = serde_json::to_vec(value).map_err(|e| e.to_string())?;
            nested(at, out, |out| {
                bytes(1, &json, out);
                Ok(())
            })?;
        }
        (Item::Strings, Value::Array(items)) => nested(at, out, |out| {
            items.iter().try_for_each(|i| {
                text(1, i.as_str().ok_or_else(error)?, out);
                Ok(())
            })
        })?,
        (Item::Strings, Value::Null) => text(at, "", out),
        (Item::SchemaOrArray | Item::SchemaOrBool | Item::SchemaOrStrings, value) => {
            nested(at, out, |out| schema_or(field.item, value, out))?;
        }
        (Item::Message(id), Value::Object(object)) => {
            nested(at, out, |out| fields(&TYPES[usize::from(id)], object, out))?;
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
            | Item::Quantity
            | Item::Strings
            | Item::Message(_),
            _,
        ) => return Err(error()),
    }
    Ok(())
}

fn int_or_string(at: u16, value: &Value, out: &mut Vec<u8>) -> Result<()> {
    let (kind, int, string) = match value {
        Value::String(s) => (1, 0, s.as_str()),
        other => (0, other.as_i64().unwrap_or(0), ""),
    };
    nested(at, out, |out| {
        number(1, kind, out);
        number(2, int, out);
        text(3, string, out);
        Ok(())
    })
}

/// The unions of CRD schemas, which have a message each.
fn schema_or(item: Item, value: &Value, out: &mut Vec<u8>) -> Result<()> {
    let ty = type_named(JSON_SCHEMA_PROPS).ok_or("CRD schemas are not in the type table")?;
    let allows = match value {
        Value::Bool(b) => *b,
        _ => true,
    };
    if item == Item::SchemaOrBool {
        number(1, i64::from(allows), out);
    }
    match value {
        Value::Object(object) => {
            let at = if item == Item::SchemaOrBool { 2 } else { 1 };
            nested(at, out, |out| fields(ty, object, out))
        }
        Value::Array(items) => items.iter().try_for_each(|i| match i {
            Value::String(property) => {
                text(2, property, out);
                Ok(())
            }
            schema => nested(2, out, |out| message(ty, schema, out)),
        }),
        _ => Ok(()),
    }
}
