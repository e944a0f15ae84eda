//! Lists and maps: those of objects, which are borrowed, and those that an expression makes.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value as Json;

use super::index::{self, Index};
use super::{Answer, EvalError, Text, Value};
use crate::schema::{Decl, ListType, ObjectDecl};

#[derive(Debug, Clone)]
pub enum List<'a> {
    Json { items: &'a [Json], decl: Option<&'a Decl>, kind: &'a ListType },
    Made(Arc<Vec<Value<'a>>>),
}

/// How the values of a JSON object are typed.
#[derive(Debug, Clone, Copy)]
pub enum Shape<'a> {
    Free,
    Values(&'a Decl),
    Object(&'a ObjectDecl),
}

#[derive(Debug, Clone)]
pub enum Map<'a> {
    Json {
        fields: &'a serde_json::Map<String, Json>,
        shape: Shape<'a>,
    },
    Made(Arc<BTreeMap<Key, Value<'a>>>),
    /// Made, and an empty map stands behind every other key: domains of a device's attributes.
    Open(Arc<BTreeMap<Key, Value<'a>>>),
}

/// A key of a map. Integers that are equal are one key, whatever their type.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Bool(bool),
    Int(i128, bool),
    String(Arc<str>),
}
impl Key {
    pub fn of(value: &Value) -> Option<Key> {
        Some(match value {
            Value::Bool(b) => Key::Bool(*b),
            Value::Int(i) => Key::Int(i128::from(*i), false),
            // Whether a key was unsigned is not part of what makes it equal: see `find`.
            Value::Uint(u) => Key::Int(i128::from(*u), true),
            Value::String(text) => Key::String(Arc::from(&**text)),
            _ => return None,
        })
    }
    pub fn value<'a>(&self) -> Value<'a> {
        match self {
            Key::Bool(b) => Value::Bool(*b),
            Key::Int(i, true) => Value::Uint(u64::try_from(*i).unwrap_or_default()),
            Key::Int(i, false) => Value::Int(i64::try_from(*i).unwrap_or_default()),
            Key::String(text) => Value::String(Text::Shared(text.clone())),
        }
    }
}

impl<'a> List<'a> {
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    pub fn len(&self) -> usize {
        match self {
            List::Json { items, .. } => items.len(),
            List::Made(items) => items.len(),
        }
    }
    pub fn get(&self, index: usize) -> Option<Answer<'a>> {
        match self {
            List::Json { items, decl, .. } => Some(read(items.get(index)?, *decl)),
            List::Made(items) => Some(Ok(items.get(index)?.clone())),
        }
    }
    pub fn iter(&self) -> impl Iterator<Item = Answer<'a>> + '_ {
        (0..self.len()).filter_map(|i| self.get(i))
    }
    /// The items as values of their own.
    pub fn into_items(self) -> Result<Vec<Value<'a>>, EvalError> {
        match self {
            List::Made(items) => Ok(Arc::unwrap_or_clone(items)),
            list => list.iter().collect(),
        }
    }
    pub fn contains(&self, wanted: &Value<'a>) -> Result<bool, EvalError> {
        for item in self.iter() {
            if item?.equals(wanted) {
                return Ok(true);
            }
        }
        Ok(false)
    }
    pub(super) fn equals(&self, other: &List<'a>) -> bool {
        if self.len() != other.len() {
            return false;
        }
        if let List::Json { kind, decl, .. } = self
            && !matches!(kind, ListType::Atomic)
        {
            return self.same_items(other, kind, *decl);
        }
        self.iter().zip(other.iter()).all(|pair| matches!(pair, (Ok(a), Ok(b)) if a.equals(&b)))
    }
}

impl<'a> List<'a> {
    /// Whether each item of a set, or of a map by its keys, is among those of another list.
    fn same_items(&self, other: &List<'a>, kind: &ListType, decl: Option<&Decl>) -> bool {
        let mut index = Index::default();
        for (place, item) in other.iter().enumerate() {
            // What cannot be read ends the search for what is not before it.
            let Ok(item) = item else { break };
            index.insert(index::of_item(&item, kind, decl), place);
        }
        self.iter().all(|item| {
            let Ok(item) = item else { return false };
            let places = index.at(index::of_item(&item, kind, decl));
            places.iter().any(|place| matches!(other.get(*place), Some(Ok(known)) if item.equals(&known)))
        })
    }
}

fn read<'a>(json: &'a Json, decl: Option<&'a Decl>) -> Answer<'a> {
    match decl {
        Some(decl) => Value::typed(json, decl),
        None => Ok(Value::of_json(json)),
    }
}

impl<'a> Map<'a> {
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    pub fn len(&self) -> usize {
        match self {
            Map::Json { fields, .. } => fields.len(),
            Map::Made(entries) | Map::Open(entries) => entries.len(),
        }
    }
    /// The value of a field by its name.
    pub fn field(&self, name: &str) -> Option<Answer<'a>> {
        match self {
            Map::Json { fields, shape: Shape::Free } => fields.get(name).map(|json| Ok(Value::of_json(json))),
            Map::Json { fields, shape: Shape::Values(decl) } => fields.get(name).map(|json| Value::typed(json, decl)),
            Map::Json { fields, shape: Shape::Object(object) } => {
                let field = object.fields.get(name)?;
                let json = fields.get(&*field.name)?;
                // an absent field and a null one are the same, where null means nothing
                if json.is_null() && !field.decl.nullable {
                    return None;
                }
                Some(Value::typed(json, &field.decl))
            }
            Map::Made(entries) => entries.get(&Key::String(name.into())).map(|v| Ok(v.clone())),
            Map::Open(entries) => {
                let found = entries.get(&Key::String(name.into())).cloned();
                Some(Ok(found.unwrap_or_else(|| Value::map(BTreeMap::new()))))
            }
        }
    }
    pub fn find(&self, key: &Value<'a>) -> Option<Answer<'a>> {
        match (self, key) {
            (_, Value::String(name)) => self.field(name),
            (Map::Made(entries), _) => {
                let key = match key {
                    // a whole double finds the integer
                    Value::Double(d) if d.fract() == 0.0 => Key::Int(*d as i128, false),
                    other => Key::of(other)?,
                };
                let found = match key {
                    Key::Int(i, _) => entries.get(&Key::Int(i, false)).or_else(|| entries.get(&Key::Int(i, true))),
                    key => entries.get(&key),
                };
                found.map(|v| Ok(v.clone()))
            }
            (Map::Open(_), _) => Some(Ok(Value::map(BTreeMap::new()))),
            _ => None,
        }
    }
    pub fn contains(&self, key: &Value<'a>) -> bool {
        match self {
            Map::Open(entries) => Key::of(key).is_some_and(|key| entries.contains_key(&key)),
            map => map.find(key).is_some(),
        }
    }
    pub fn keys(&self) -> Vec<Value<'a>> {
        match self {
            Map::Json { fields, shape: Shape::Object(object) } => object
                .fields
                .iter()
                .filter(|(_, field)| fields.contains_key(&*field.name))
                .map(|(name, _)| Value::text(name.clone()))
                .collect(),
            Map::Json { fields, .. } => fields.keys().map(|key| Value::String(Text::Borrowed(key))).collect(),
            Map::Made(entries) | Map::Open(entries) => entries.keys().map(Key::value).collect(),
        }
    }
    pub fn entries(&self) -> impl Iterator<Item = (Value<'a>, Answer<'a>)> + '_ {
        self.keys().into_iter().filter_map(|key| {
            let value = self.find(&key)?;
            Some((key, value))
        })
    }
    pub fn into_entries(self) -> Result<BTreeMap<Key, Value<'a>>, EvalError> {
        match self {
            Map::Made(entries) | Map::Open(entries) => Ok(Arc::unwrap_or_clone(entries)),
            map => {
                let entries = map.entries().filter_map(|(key, value)| Some((Key::of(&key)?, value)));
                entries.map(|(key, value)| Ok((key, value?))).collect()
            }
        }
    }
    pub(super) fn equals(&self, other: &Map<'a>) -> bool {
        self.len() == other.len()
            && self.entries().all(|(key, value)| match (value, other.find(&key)) {
                (Ok(a), Some(Ok(b))) => a.equals(&b),
                _ => false,
            })
    }
}
