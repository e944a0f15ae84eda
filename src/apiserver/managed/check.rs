//! Whether an applied configuration is one: upstream's typed reading, in its words.
//!
//! Source: structured-merge-diff `typed/{validate,helpers}.go`.

use std::collections::BTreeSet;
use std::fmt::{Display, Write as _};

use serde_json::Value;

use super::shape::{Shape, element};
use crate::custom::schema::{ListType, Schema, Type as Kinds};
use crate::patch::go_text;
use crate::schema::{Container, Field, Item, Type};

/// What is wrong with a configuration of that type; `None` when nothing is. Custom kinds without a schema take anything.
pub fn problems(shape: Shape<'_>, config: &Value) -> Option<String> {
    let mut walk = Walk::default();
    match shape {
        Shape::Struct(ty) => walk.message(ty, config),
        Shape::Root(_) => walk.custom(shape, config),
        _ => {}
    }
    match walk.found.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        many => Some(many.iter().fold("errors:".to_owned(), |text, one| text + "\n  " + one)),
    }
}

#[derive(Default)]
struct Walk {
    path: String,
    found: Vec<String>,
}

impl Walk {
    fn say(&mut self, why: impl Display) {
        let path = &self.path;
        self.found.push(if path.is_empty() { why.to_string() } else { format!("{path}: {why}") });
    }

    fn at(&mut self, step: impl Display, then: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        let _ = write!(self.path, "{step}");
        then(self);
        self.path.truncate(length);
    }

    fn message(&mut self, ty: &'static Type, value: &Value) {
        let Some(object) = self.map(value) else { return };
        for (name, value) in object {
            self.at(format_args!(".{name}"), |walk| match ty.field(name) {
                Some(field) => walk.field(field, value),
                None => walk.say("field not declared in schema"),
            });
        }
    }

    /// A value of a custom object.
    fn custom(&mut self, shape: Shape<'_>, value: &Value) {
        match shape {
            Shape::Struct(ty) => self.message(ty, value),
            Shape::Root(schema) | Shape::Custom(schema) if schema.type_ != Kinds::Array => {
                let Some(object) = self.map(value) else { return };
                for (name, value) in object {
                    self.at(format_args!(".{name}"), |walk| match shape.member(name) {
                        // What else a leaf must be is validation's to say.
                        Some((Shape::Leaf, _)) => walk.custom_leaf(schema.member(name), value),
                        Some((below, _)) => walk.custom(below, value),
                        None => walk.say("field not declared in schema"),
                    });
                }
            }
            Shape::Custom(schema) => match value {
                Value::Array(items) => {
                    let mut seen = BTreeSet::new();
                    for (i, item) in items.iter().enumerate() {
                        if schema.list == ListType::Atomic {
                            self.at(format_args!("[{i}]"), |walk| match shape.item() {
                                Shape::Leaf => walk.custom_leaf(schema.items.as_deref(), item),
                                below => walk.custom(below, item),
                            });
                            continue;
                        }
                        match element(shape, item) {
                            Err(why) => self.say(format_args!("element {i}: {why}")),
                            Ok(element) => {
                                if seen.contains(&element) {
                                    self.say(format_args!("duplicate entries for key {element}"));
                                }
                                self.at(&element, |walk| walk.custom(shape.item(), item));
                                seen.insert(element);
                            }
                        }
                    }
                }
                Value::Null => {}
                other => self.say(format_args!("expected list, got &{{{}}}", go_text(other))),
            },
            _ => {}
        }
    }

    fn custom_leaf(&mut self, schema: Option<&Schema>, value: &Value) {
        let Some(schema) = schema.filter(|s| !s.int_or_string) else { return };
        let (expected, fits) = match schema.type_ {
            Kinds::String => ("string", value.is_string()),
            Kinds::Integer | Kinds::Number => ("numeric (int or float)", value.is_number()),
            Kinds::Boolean => ("boolean", value.is_boolean()),
            _ => return,
        };
        if !fits && !value.is_null() {
            self.say(format_args!("expected {expected}, got {}", go_type(value)));
        }
    }

    /// The entries of a map; says so when it is none. `null` is an empty one.
    fn map<'v>(&mut self, value: &'v Value) -> Option<&'v serde_json::Map<String, Value>> {
        match value {
            Value::Object(object) => return Some(object),
            Value::Null => {}
            other => self.say(format_args!("expected map, got &{{{}}}", go_text(other))),
        }
        None
    }

    fn field(&mut self, field: &'static Field, value: &Value) {
        match field.container {
            Container::Single => self.item(field, value),
            Container::Map => {
                let Some(object) = self.map(value) else { return };
                for (name, value) in object {
                    self.at(format_args!(".{name}"), |walk| walk.item(field, value));
                }
            }
            Container::List => match value {
                Value::Array(items) => self.list(field, items),
                Value::Null => {}
                other => self.say(format_args!("expected list, got &{{{}}}", go_text(other))),
            },
        }
    }

    fn list(&mut self, field: &'static Field, items: &[Value]) {
        let shape = Shape::of(field);
        let mut seen = BTreeSet::new();
        for (i, item) in items.iter().enumerate() {
            if matches!(shape, Shape::Leaf) {
                self.at(format_args!("[{i}]"), |walk| walk.item(field, item));
                continue;
            }
            match omitted(field, item).map_or_else(|| element(shape, item), Err) {
                Err(why) => self.say(format_args!("element {i}: {why}")),
                Ok(element) => {
                    if seen.contains(&element) {
                        self.say(format_args!("duplicate entries for key {element}"));
                    }
                    self.at(&element, |walk| walk.item(field, item));
                    seen.insert(element);
                }
            }
        }
    }

    fn item(&mut self, field: &'static Field, value: &Value) {
        if let Some(ty) = field.message() {
            self.message(ty, value);
            return;
        }
        let (expected, fits) = match field.item {
            Item::String | Item::Bytes | Item::Time | Item::MicroTime | Item::Duration => ("string", value.is_string()),
            Item::Int32 | Item::Int64 | Item::Double => ("numeric (int or float)", value.is_number()),
            Item::Bool => ("boolean", value.is_boolean()),
            _ => return,
        };
        if fits || value.is_null() {
            return;
        }
        self.say(format_args!("expected {expected}, got {}", go_type(value)));
    }
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "string",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
        Value::Null => "<nil>",
    }
}

/// A key that a configuration must name, though Go would write it empty.
fn omitted(list: &'static Field, item: &Value) -> Option<String> {
    let (object, ty) = (item.as_object()?, list.message()?);
    let missing = |key: &&&str| !object.contains_key(**key) && ty.field(key).is_none_or(|f| f.default().is_empty());
    let key = list.keys().iter().find(missing)?;
    Some(super::shape::omits(key))
}
