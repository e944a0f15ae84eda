//! Protobuf to the untyped value.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Number, Value};

use super::wire::{Raw, Reader, Result, open};
use crate::codec::fields::is_zero;
use crate::codec::scalar;
use crate::schema::{self, Container, Field, Item, TYPES, Type, WireField};

/// Deepest nesting of messages. serde_json bounds JSON at the same depth; only CRD schemas and objects within objects can
/// nest at will.
const DEPTH_MAX: u32 = 128;

const JSON_SCHEMA_PROPS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";

pub fn message(ty: &'static Type, bytes: &[u8]) -> Result<Map<String, Value>> {
    nested(ty, bytes, 0)
}

fn nested(ty: &'static Type, bytes: &[u8], depth: u32) -> Result<Map<String, Value>> {
    let mut object = Map::new();
    into(ty, bytes, &mut object, depth)?;
    Ok(object)
}

fn into(ty: &'static Type, bytes: &[u8], object: &mut Map<String, Value>, depth: u32) -> Result<()> {
    if depth > DEPTH_MAX {
        return Err("proto: message is nested too deeply".into());
    }
    let mut reader = Reader::new(bytes);
    while let Some((number, raw)) = reader.next()? {
        match ty.wire(number) {
            None => {} // a newer client's field
            Some(WireField::Inline(id)) => into(&TYPES[usize::from(id)], raw.bytes(ty.go)?, object, depth + 1)?,
            Some(WireField::Own(index)) => field(&ty.fields[usize::from(index)], raw, object, depth + 1)?,
        }
    }
    Ok(())
}

fn field(field: &'static Field, raw: Raw<'_>, object: &mut Map<String, Value>, depth: u32) -> Result<()> {
    match field.container {
        Container::Single => {
            let value = item(field, raw, depth)?;
            if value.is_null() || field.omitempty && !field.pointer && is_zero(field, &value) {
                object.remove(field.name);
            } else {
                object.insert(field.name.to_owned(), value);
            }
        }
        Container::List => {
            let list = object.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
            let Value::Array(items) = list else { return Ok(()) };
            match (field.item, raw) {
                // Numbers may come packed.
                (Item::Int32 | Item::Int64 | Item::Bool, Raw::Bytes(packed)) => {
                    let mut reader = Reader::new(packed);
                    while !reader.is_empty() {
                        items.push(item(field, Raw::Varint(reader.varint()?), depth)?);
                    }
                }
                (_, raw) => items.push(item(field, raw, depth)?),
            }
        }
        Container::Map => {
            let mut entry = Reader::new(raw.bytes(field.name)?);
            let (mut key, mut value) = (String::new(), None);
            while let Some((number, raw)) = entry.next()? {
                match number {
                    1 => key = raw.text("key")?,
                    2 => value = Some(item(field, raw, depth)?),
                    _ => {}
                }
            }
            let entries = object.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(entries) = entries {
                entries.insert(key, value.unwrap_or_else(|| scalar::zero(field.item)));
            }
        }
    }
    Ok(())
}

/// Protobuf carries 32-bit numbers sign-extended to 64 bits; Go truncates them.
fn int32(raw: u64) -> Value {
    Value::from(raw as i32)
}

fn int64(raw: u64) -> i64 {
    raw as i64
}

/// `Null` where Go's JSON would have null or nothing.
fn item(field: &'static Field, raw: Raw<'_>, depth: u32) -> Result<Value> {
    let name = field.name;
    Ok(match field.item {
        Item::String => Value::String(raw.text(name)?),
        Item::Int32 => int32(raw.varint(name)?),
        Item::Int64 => Value::from(int64(raw.varint(name)?)),
        Item::Bool => Value::Bool(raw.varint(name)? != 0),
        Item::Double => Number::from_f64(f64::from_bits(raw.fixed64(name)?)).map_or(Value::Null, Value::Number),
        Item::Bytes => Value::String(STANDARD.encode(raw.bytes(name)?)),
        Item::Time => time(raw.bytes(name)?, false)?,
        Item::MicroTime => time(raw.bytes(name)?, true)?,
        Item::Duration => {
            let (mut nanos, mut reader) = (0, Reader::new(raw.bytes(name)?));
            while let Some((number, raw)) = reader.next()? {
                if number == 1 {
                    nanos = int64(raw.varint("Duration")?);
                }
            }
            Value::String(scalar::duration_text(nanos))
        }
        Item::Quantity => {
            let mut text = String::new();
            let mut reader = Reader::new(raw.bytes(name)?);
            while let Some((number, raw)) = reader.next()? {
                if number == 1 {
                    text = raw.text("String_")?;
                }
            }
            let mut value = Value::String(if text.is_empty() { "0".into() } else { text });
            scalar::canonical_quantity(&mut value)?;
            value
        }
        Item::IntOrString => {
            let (mut is_text, mut number_value, mut text) = (false, Value::from(0), String::new());
            let mut reader = Reader::new(raw.bytes(name)?);
            while let Some((number, raw)) = reader.next()? {
                match number {
                    1 => is_text = raw.varint("Type")? == 1,
                    2 => number_value = int32(raw.varint("IntVal")?),
                    3 => text = raw.text("StrVal")?,
                    _ => {}
                }
            }
            if is_text { Value::String(text) } else { number_value }
        }
        Item::Raw | Item::FieldsV1 | Item::Json => embedded(raw.bytes(name)?, depth)?,
        Item::Strings => {
            let mut items = Vec::new();
            let mut reader = Reader::new(raw.bytes(name)?);
            while let Some((number, raw)) = reader.next()? {
                if number == 1 {
                    items.push(Value::String(raw.text("Items")?));
                }
            }
            Value::Array(items)
        }
        Item::SchemaOrArray | Item::SchemaOrBool | Item::SchemaOrStrings => {
            schema_or(field.item, raw.bytes(name)?, depth)?
        }
        Item::Message(id) => Value::Object(nested(&TYPES[usize::from(id)], raw.bytes(name)?, depth)?),
    })
}

fn time(bytes: &[u8], micros: bool) -> Result<Value> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let (mut seconds, mut nanos) = (0, 0);
    let mut reader = Reader::new(bytes);
    while let Some((number, raw)) = reader.next()? {
        match number {
            1 => seconds = int64(raw.varint("Seconds")?),
            2 => nanos = i32::try_from(int64(raw.varint("Nanos")?)).unwrap_or(0),
            _ => {}
        }
    }
    let at = Timestamp::new(seconds, if micros { nanos } else { 0 }).map_err(|e| e.to_string())?;
    Ok(Value::String(if micros { types::time::rfc3339_micros(at) } else { types::time::rfc3339(at) }))
}

/// A message whose one field holds JSON, or an enveloped object.
fn embedded(bytes: &[u8], depth: u32) -> Result<Value> {
    let mut inner: &[u8] = &[];
    let mut reader = Reader::new(bytes);
    while let Some((number, raw)) = reader.next()? {
        if number == 1 {
            inner = raw.bytes("Raw")?;
        }
    }
    if inner.is_empty() {
        return Ok(Value::Null);
    }
    if !inner.starts_with(super::MAGIC) {
        return serde_json::from_slice(inner).map_err(|e| e.to_string());
    }
    let unknown = open(inner)?;
    let (group, version) = unknown.api_version.split_once('/').unwrap_or(("", unknown.api_version));
    let ty = schema::type_of(group, version, unknown.kind)
        .ok_or_else(|| format!("no kind {:?} is registered for version {:?}", unknown.kind, unknown.api_version))?;
    let mut object = nested(ty, unknown.raw, depth + 1)?;
    object.insert("apiVersion".into(), unknown.api_version.into());
    object.insert("kind".into(), unknown.kind.into());
    Ok(Value::Object(object))
}

/// The unions of CRD schemas, which have a message each.
fn schema_or(item: Item, bytes: &[u8], depth: u32) -> Result<Value> {
    let ty = schema::type_named(JSON_SCHEMA_PROPS).ok_or("CRD schemas are not in the type table")?;
    let (mut schema, mut list, mut allows) = (None, Vec::new(), false);
    let mut reader = Reader::new(bytes);
    while let Some((number, raw)) = reader.next()? {
        match (item, number) {
            (Item::SchemaOrBool, 1) => allows = raw.varint("Allows")? != 0,
            (Item::SchemaOrBool, 2) | (_, 1) => {
                schema = Some(Value::Object(nested(ty, raw.bytes("Schema")?, depth + 1)?));
            }
            (Item::SchemaOrArray, 2) => {
                list.push(Value::Object(nested(ty, raw.bytes("JSONSchemas")?, depth + 1)?));
            }
            (_, 2) => list.push(Value::String(raw.text("Property")?)),
            _ => {}
        }
    }
    Ok(match (schema, item) {
        (Some(schema), _) => schema,
        (None, Item::SchemaOrBool) => Value::Bool(allows),
        (None, _) => Value::Array(list),
    })
}
