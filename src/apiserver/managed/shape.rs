//! How a value is owned: in parts or as a whole. Read from the type table, or from a custom kind's schema; where
//! nothing is known, maps are owned in parts and lists as a whole. Source: KEP-555 "Lists", "Maps and Structs".

use std::borrow::Cow;

use serde_json::{Map, Value};
use types::registry::Kind;

use super::set::{Element, Sort};
use crate::custom;
use crate::custom::schema::{Additional, ListType as Lists, Schema, Type as Kinds};
use crate::schema::{self, Container, Field, Item, ListType, Type};

pub type Object = Map<String, Value>;

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

#[derive(Clone, Copy)]
pub enum Shape<'s> {
    /// A scalar, or anything that has one owner.
    Leaf,
    /// A custom object.
    Root(&'s Schema),
    /// A value in a custom object.
    Custom(&'s Schema),
    Struct(&'static Type),
    /// A map, each value of which is an item of the field.
    Map(&'static Field),
    /// A list of different scalars.
    Set,
    /// A list of items told apart by their keys.
    Keyed(&'static Field),
    /// Nothing is known about it.
    Any,
}

/// What an object's member is to the object.
#[derive(Clone, Copy)]
pub enum Member {
    /// A field of a struct.
    Field(&'static Field),
    /// A field that a custom schema names.
    Named,
    /// An entry of a map, or of something unknown.
    Entry,
}

impl Member {
    pub fn is_named(self) -> bool {
        !matches!(self, Member::Entry)
    }
    pub fn is_always_there(self) -> bool {
        matches!(self, Member::Field(field) if always_there(field))
    }
}

impl<'s> Shape<'s> {
    pub fn of_kind(kind: &'s Kind) -> Self {
        if let Some(custom) = custom::of(kind) {
            return Shape::Root(custom.schema());
        }
        schema::type_of(&kind.group, &kind.version, &kind.kind).map_or(Shape::Any, Shape::Struct)
    }

    /// Of a value with a custom schema.
    fn of_custom(schema: &'s Schema) -> Self {
        match schema.type_ {
            Kinds::Object if schema.map_atomic => Shape::Leaf,
            // Nothing is said of what is in it.
            Kinds::Object if schema.properties.is_empty() && matches!(schema.additional, Additional::Unsaid) => {
                Shape::Any
            }
            Kinds::Object | Kinds::Array => Shape::Custom(schema),
            Kinds::Any if schema.preserve_unknown && !schema.int_or_string => Shape::Any,
            _ => Shape::Leaf,
        }
    }

    pub fn of(field: &'static Field) -> Self {
        match field.container {
            Container::Single => match field.message() {
                Some(ty) if !field.atomic => Shape::Struct(ty),
                _ => Shape::Leaf,
            },
            Container::Map if field.atomic => Shape::Leaf,
            Container::Map => Shape::Map(field),
            Container::List => match field.list {
                ListType::Atomic => Shape::Leaf,
                ListType::Set => Shape::Set,
                ListType::Map => Shape::Keyed(field),
            },
        }
    }

    /// Of the items of a list or the values of a map.
    pub fn of_item(field: &'static Field) -> Self {
        match field.message() {
            Some(ty) if !ty.atomic => Shape::Struct(ty),
            _ => Shape::Leaf,
        }
    }

    /// Of a member of an object; `None` for one that a struct does not have.
    pub fn member(self, name: &str) -> Option<(Shape<'s>, Member)> {
        match self {
            Shape::Struct(ty) => ty.field(name).map(|field| (Shape::of(field), Member::Field(field))),
            Shape::Map(field) => Some((Shape::of_item(field), Member::Entry)),
            Shape::Root(_) if name == "metadata" => {
                Some((schema::type_named(OBJECT_META).map_or(Shape::Any, Shape::Struct), Member::Named))
            }
            Shape::Root(_) if matches!(name, "apiVersion" | "kind") => Some((Shape::Leaf, Member::Named)),
            Shape::Root(schema) | Shape::Custom(schema) => match (schema.property(name), &schema.additional) {
                (Some(below), _) => Some((Shape::of_custom(below), Member::Named)),
                (None, Additional::Of(below)) => Some((Shape::of_custom(below), Member::Entry)),
                (None, Additional::Unsaid) if !schema.preserve_unknown => None,
                (None, _) => Some((Shape::Any, Member::Entry)),
            },
            Shape::Any => Some((Shape::Any, Member::Entry)),
            Shape::Leaf | Shape::Set | Shape::Keyed(_) => Some((Shape::Leaf, Member::Entry)),
        }
    }

    /// Of the items of a list.
    pub fn item(self) -> Shape<'s> {
        match self {
            Shape::Keyed(field) => Shape::of_item(field),
            Shape::Custom(schema) => schema.items.as_deref().map_or(Shape::Leaf, Shape::of_custom),
            _ => Shape::Leaf,
        }
    }

    /// Whether the value is looked into: an object or list of this shape that holds something.
    pub fn parts<'v>(self, value: &'v Value) -> Parts<'v> {
        match (self, value) {
            (Shape::Struct(_) | Shape::Map(_) | Shape::Any | Shape::Root(_), Value::Object(object)) => {
                Parts::Object(object)
            }
            (Shape::Custom(schema), Value::Object(object)) if schema.type_ == Kinds::Object => Parts::Object(object),
            (Shape::Custom(schema), Value::Array(items)) if schema.list != Lists::Atomic => Parts::List(items),
            (Shape::Set | Shape::Keyed(_), Value::Array(items)) => Parts::List(items),
            _ => Parts::None,
        }
    }
}

pub enum Parts<'a> {
    None,
    Object(&'a Object),
    List(&'a [Value]),
}

/// Go always writes the field: what is absent is its zero value.
pub fn always_there(field: &Field) -> bool {
    !field.omitempty
        || (field.container == Container::Single && !field.pointer && matches!(field.item, Item::Message(_)))
}

/// Whether the value is what Go writes for a field that nobody has set.
pub fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        // The zero quantity is written out.
        Value::String(s) => s.is_empty() || s == "0",
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
    }
}

/// The element of a list's item.
///
/// Errors: upstream's text for an item that has no place in such a list.
pub fn element<'a>(shape: Shape<'_>, item: &'a Value) -> Result<Element<'a>, String> {
    let field = match shape {
        Shape::Keyed(field) => field,
        Shape::Custom(schema) if schema.list == Lists::Map => return custom_element(schema, item),
        _ => {
            return match item {
                Value::Object(_) => Err("associative list without keys has an element that's a map type".into()),
                Value::Array(_) => Err("not supported: associative list with lists as elements".into()),
                Value::Null => Err("associative list without keys has an element that's an explicit null".into()),
                scalar => Ok(Element::value(scalar)),
            };
        }
    };
    let object = keyed(item)?;
    let keys = field.keys();
    // In order of their names, of which there are four at most.
    let mut names: [&str; 4] = [""; 4];
    let count = keys.len().min(names.len());
    names[..count].copy_from_slice(&keys[..count]);
    names[..count].sort_unstable();
    let mut text = Vec::with_capacity(48);
    for (i, name) in names[..count].iter().enumerate() {
        text.push(if i == 0 { b'{' } else { b',' });
        text.push(b'"');
        text.extend_from_slice(name.as_bytes());
        text.extend_from_slice(b"\":");
        let key = field.message().and_then(|ty| ty.field(name));
        match (object.get(*name), key) {
            (Some(value), _) => serde_json::to_writer(&mut text, value).map_err(|e| e.to_string())?,
            (None, Some(key)) if !key.default().is_empty() => text.extend_from_slice(key.default().as_bytes()),
            (None, Some(key)) if !key.omitempty => text.extend_from_slice(match key.item {
                Item::Int32 | Item::Int64 | Item::Double => b"0",
                Item::Bool => b"false",
                _ => b"\"\"",
            }),
            _ => {
                return Err(omits(name));
            }
        }
    }
    text.push(b'}');
    let text = String::from_utf8(text).map_err(|e| e.to_string())?;
    Ok(Element { sort: Sort::Key, text: Cow::Owned(text) })
}

fn keyed(item: &Value) -> Result<&Object, String> {
    match item {
        Value::Object(object) => Ok(object),
        Value::Null => Err("associative list with keys may not have a null element".into()),
        _ => Err("associative list with keys may not have non-map elements".into()),
    }
}

fn custom_element<'a>(schema: &Schema, item: &'a Value) -> Result<Element<'a>, String> {
    let object = keyed(item)?;
    let mut names: Vec<&str> = schema.keys.iter().map(|key| &**key).collect();
    names.sort_unstable();
    let mut keys = Object::new();
    for name in names {
        let default = || schema.items.as_deref()?.property(name)?.default.as_deref().cloned();
        let value = object.get(name).cloned().or_else(default).ok_or_else(|| omits(name))?;
        keys.insert(name.to_owned(), value);
    }
    Ok(Element { sort: Sort::Key, text: Cow::Owned(Value::Object(keys).to_string()) })
}

/// Upstream's text for an item without one of its keys.
pub fn omits(key: &str) -> String {
    format!("associative list with keys has an element that omits key field {key:?} (and doesn't have default value)")
}

/// The items of a list in the order of their elements. Those that have no place in such a list have no owner.
pub struct Items<'a>(pub Vec<(Element<'a>, &'a Value)>);

impl<'a> Items<'a> {
    pub fn of(shape: Shape<'_>, list: Option<&'a [Value]>) -> Self {
        let list = list.unwrap_or_default();
        let mut items: Vec<_> = list.iter().filter_map(|item| Some((element(shape, item).ok()?, item))).collect();
        items.sort_by(|a, b| a.0.cmp(&b.0));
        Self(items)
    }

    /// Items with the same element together.
    pub fn groups(&self) -> impl Iterator<Item = &[(Element<'a>, &'a Value)]> {
        self.0.chunk_by(|a, b| a.0 == b.0)
    }
}
