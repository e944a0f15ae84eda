//! Values while an expression is evaluated. Objects stay the JSON that they are: a value of one is a borrow, with what is
//! declared of its type beside it, and only the scalars that an expression reads are converted.
//!
//! Source: cel-go `common/types`, apiserver `pkg/cel/common/valuesunstructured.go`.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use serde_json::Value as Json;
use types::quantity::Quantity;

use super::library::authorizer::Authorization;
use super::library::format::NamedFormat;
use super::library::semver::Semver;
use super::library::url::Url;
use super::schema::{Decl, DeclKind, ListType, ObjectDecl};
use super::types::Type;

/// Why an evaluation has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// What an expression may absorb (`false && error` is false).
    #[error("{0}")]
    Fault(Cow<'static, str>),
    /// The budget is used up; nothing absorbs this.
    #[error("operation cancelled: actual cost limit exceeded")]
    OutOfBudget,
}

pub type Answer<'a> = Result<Value<'a>, EvalError>;

pub fn fault<T>(message: impl Into<Cow<'static, str>>) -> Result<T, EvalError> {
    Err(EvalError::Fault(message.into()))
}
/// The arguments have types that nobody serves. [`super::eval`] tries the next implementation of the name.
pub fn no_overload<T>() -> Result<T, EvalError> {
    fault(NO_OVERLOAD)
}
pub const NO_OVERLOAD: &str = "no such overload";

/// A text: borrowed from an object or the expression, or made.
#[derive(Debug, Clone)]
pub enum Text<'a> {
    Borrowed(&'a str),
    Shared(Arc<str>),
}
impl Deref for Text<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        match self {
            Text::Borrowed(text) => text,
            Text::Shared(text) => text,
        }
    }
}

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
    Json { fields: &'a serde_json::Map<String, Json>, shape: Shape<'a> },
    Made(Arc<BTreeMap<Key, Value<'a>>>),
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

/// A message that an expression made: `Object{…}`, `JSONPatch{…}`.
#[derive(Debug)]
pub struct Struct<'a> {
    pub name: Arc<str>,
    pub fields: BTreeMap<Arc<str>, Value<'a>>,
}

#[derive(Debug, Clone)]
pub enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Text<'a>),
    Bytes(Arc<[u8]>),
    Timestamp(jiff::Timestamp),
    /// Nanoseconds, as Go has them.
    Duration(i64),
    Type(Arc<str>),
    List(List<'a>),
    Map(Map<'a>),
    Optional(Option<Arc<Value<'a>>>),
    Struct(Arc<Struct<'a>>),
    Ip(IpAddr),
    Cidr(IpAddr, u8),
    Quantity(Arc<Quantity>),
    Url(Arc<Url>),
    Semver(Arc<Semver>),
    Format(&'static NamedFormat),
    Authorization(Arc<Authorization<'a>>),
}

impl<'a> Value<'a> {
    pub fn text(text: impl Into<Arc<str>>) -> Self {
        Value::String(Text::Shared(text.into()))
    }
    pub fn list(items: Vec<Value<'a>>) -> Self {
        Value::List(List::Made(Arc::new(items)))
    }
    pub fn map(entries: BTreeMap<Key, Value<'a>>) -> Self {
        Value::Map(Map::Made(Arc::new(entries)))
    }
    pub fn some(value: Value<'a>) -> Self {
        Value::Optional(Some(Arc::new(value)))
    }
    pub fn texts(items: impl IntoIterator<Item = impl Into<Arc<str>>>) -> Self {
        Self::list(items.into_iter().map(Self::text).collect())
    }

    /// A JSON value of no declared type.
    pub fn of_json(json: &'a Json) -> Self {
        match json {
            Json::Null => Value::Null,
            Json::Bool(b) => Value::Bool(*b),
            Json::Number(n) => match n.as_i64() {
                Some(i) => Value::Int(i),
                None => Value::Double(n.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Value::String(Text::Borrowed(text)),
            Json::Array(items) => Value::List(List::Json { items, decl: None, kind: &ListType::Atomic }),
            Json::Object(fields) => Value::Map(Map::Json { fields, shape: Shape::Free }),
        }
    }

    /// A JSON value as its declaration reads it. Errors: what does not fit it.
    pub fn typed(json: &'a Json, decl: &'a Decl) -> Answer<'a> {
        if json.is_null() {
            return if decl.nullable {
                Ok(Value::Null)
            } else {
                fault("invalid data, got null for schema with nullable=false")
            };
        }
        Ok(match (&decl.kind, json) {
            (DeclKind::Dyn, _) => Self::of_json(json),
            (DeclKind::Object(object), Json::Object(fields)) => {
                Value::Map(Map::Json { fields, shape: Shape::Object(object) })
            }
            (DeclKind::Map(values), Json::Object(fields)) => {
                Value::Map(Map::Json { fields, shape: Shape::Values(values) })
            }
            (DeclKind::List(item), Json::Array(items)) => {
                Value::List(List::Json { items, decl: Some(item), kind: &decl.list_type })
            }
            (DeclKind::Scalar(Type::Double), Json::Number(n)) => Value::Double(n.as_f64().unwrap_or(f64::NAN)),
            (DeclKind::Scalar(Type::Int), Json::Number(n)) if n.as_i64().is_none() => {
                match n.as_f64().filter(|f| f.fract() == 0.0) {
                    Some(f) => Value::Int(f as i64),
                    None => return fault(format!("invalid data, expected integer, got {n}")),
                }
            }
            (DeclKind::Scalar(Type::Bytes), Json::String(text)) => {
                use base64::Engine as _;
                match base64::engine::general_purpose::STANDARD.decode(text) {
                    Ok(bytes) => Value::Bytes(bytes.into()),
                    Err(error) => return fault(format!("Invalid byte formatted string {text}: {error}")),
                }
            }
            (DeclKind::Scalar(Type::Duration), Json::String(text)) => {
                match super::library::time::parse_duration(text) {
                    Some(nanos) => Value::Duration(nanos),
                    None => return fault(format!("Invalid duration formatted string {text}")),
                }
            }
            (DeclKind::Scalar(Type::Timestamp), Json::String(text)) => {
                match super::library::time::parse_date_time(text) {
                    Some(timestamp) => Value::Timestamp(timestamp),
                    None => return fault(format!("Invalid date formatted string {text}")),
                }
            }
            (
                DeclKind::Scalar(Type::String | Type::Int | Type::Bool),
                Json::String(_) | Json::Number(_) | Json::Bool(_),
            ) => Self::of_json(json),
            (kind, _) => {
                return fault(format!(
                    "invalid data, expected {}, got {}",
                    kind.type_of(),
                    Self::of_json(json).type_name()
                ));
            }
        })
    }

    pub fn type_of(&self) -> Type {
        match self {
            Value::Null => Type::Null,
            Value::Bool(_) => Type::Bool,
            Value::Int(_) => Type::Int,
            Value::Uint(_) => Type::Uint,
            Value::Double(_) => Type::Double,
            Value::String(_) => Type::String,
            Value::Bytes(_) => Type::Bytes,
            Value::Timestamp(_) => Type::Timestamp,
            Value::Duration(_) => Type::Duration,
            Value::Type(_) => Type::Type(None),
            Value::List(_) => Type::list(Type::Dyn),
            Value::Map(_) => Type::map(Type::Dyn, Type::Dyn),
            Value::Optional(_) => Type::optional(Type::Dyn),
            Value::Struct(made) => Type::Object(made.name.clone()),
            Value::Ip(_) => Type::Opaque("net.IP"),
            Value::Cidr(..) => Type::Opaque("net.CIDR"),
            Value::Quantity(_) => Type::object("kubernetes.Quantity"),
            Value::Url(_) => Type::object("kubernetes.URL"),
            Value::Semver(_) => Type::object("kubernetes.Semver"),
            Value::Format(_) => Type::object("kubernetes.NamedFormat"),
            Value::Authorization(what) => Type::object(what.type_name()),
        }
    }
    pub fn type_name(&self) -> String {
        if let Value::Map(Map::Json { shape: Shape::Object(object), .. }) = self {
            return object.name.to_string();
        }
        self.type_of().runtime_name().to_owned()
    }

    /// What CEL's `size()` says, 1 for what has none: the unit of all costs.
    pub fn size(&self) -> u64 {
        let n = match self {
            Value::String(text) => text.chars().count(),
            Value::Bytes(bytes) => bytes.len(),
            Value::List(list) => list.len(),
            Value::Map(map) => map.len(),
            Value::Ip(IpAddr::V4(_)) => 4,
            Value::Ip(IpAddr::V6(_)) => 16,
            Value::Cidr(_, bits) => usize::from(bits.div_ceil(8)),
            Value::Optional(Some(inner)) => return inner.size(),
            _ => 1,
        };
        n as u64
    }

    /// CEL's equality: numbers by value, what differs in type is not equal.
    pub fn equals(&self, other: &Value<'a>) -> bool {
        match (self, other) {
            (Value::Null, Value::Null) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::String(a), Value::String(b)) => **a == **b,
            (Value::Bytes(a), Value::Bytes(b)) => a == b,
            (Value::Timestamp(a), Value::Timestamp(b)) => a == b,
            (Value::Duration(a), Value::Duration(b)) => a == b,
            (Value::Type(a), Value::Type(b)) => a == b,
            (Value::List(a), Value::List(b)) => a.equals(b),
            (Value::Map(a), Value::Map(b)) => a.equals(b),
            (Value::Optional(a), Value::Optional(b)) => match (a, b) {
                (Some(a), Some(b)) => a.equals(b),
                (a, b) => a.is_none() && b.is_none(),
            },
            (Value::Struct(a), Value::Struct(b)) => {
                a.name == b.name
                    && a.fields.len() == b.fields.len()
                    && a.fields.iter().zip(&b.fields).all(|(a, b)| a.0 == b.0 && a.1.equals(b.1))
            }
            (Value::Ip(a), Value::Ip(b)) => a == b,
            (Value::Cidr(a, x), Value::Cidr(b, y)) => (a, x) == (b, y),
            (Value::Quantity(a), Value::Quantity(b)) => a.partial_cmp(b) == Some(Ordering::Equal),
            (Value::Url(a), Value::Url(b)) => a == b,
            (Value::Semver(a), Value::Semver(b)) => a.precedence(b) == Ordering::Equal,
            (Value::Format(a), Value::Format(b)) => std::ptr::eq(*a, *b),
            _ => numbers(self, other) == Some(Ordering::Equal),
        }
    }

    /// The order of two values, for `<` and its kin. `None`: these have none.
    pub fn compare(&self, other: &Value<'a>) -> Option<Ordering> {
        match (self, other) {
            (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
            (Value::String(a), Value::String(b)) => Some((**a).cmp(&**b)),
            (Value::Bytes(a), Value::Bytes(b)) => Some(a.cmp(b)),
            (Value::Timestamp(a), Value::Timestamp(b)) => Some(a.cmp(b)),
            (Value::Duration(a), Value::Duration(b)) => Some(a.cmp(b)),
            _ => numbers(self, other),
        }
    }

    /// Whether it is what its type begins with: zero, empty, none.
    pub fn is_zero(&self) -> bool {
        match self {
            Value::Null => true,
            Value::Bool(b) => !b,
            Value::Int(i) => *i == 0,
            Value::Uint(u) => *u == 0,
            Value::Double(d) => *d == 0.0,
            Value::String(text) => text.is_empty(),
            Value::Bytes(bytes) => bytes.is_empty(),
            Value::Duration(nanos) => *nanos == 0,
            Value::List(list) => list.is_empty(),
            Value::Map(map) => map.is_empty(),
            Value::Optional(inner) => inner.as_ref().is_none_or(|v| v.is_zero()),
            _ => false,
        }
    }

    /// The value as JSON. Errors: what JSON cannot say, in cel-go's words.
    pub fn to_json(&self) -> Result<Json, EvalError> {
        Ok(match self {
            Value::Null => Json::Null,
            Value::Bool(b) => Json::Bool(*b),
            Value::Int(i) => Json::from(*i),
            Value::Uint(u) => Json::from(*u),
            Value::Double(d) => serde_json::Number::from_f64(*d).map_or(Json::Null, Json::Number),
            Value::String(text) => Json::String(text.to_string()),
            Value::Bytes(bytes) => {
                use base64::Engine as _;
                Json::String(base64::engine::general_purpose::STANDARD.encode(bytes))
            }
            Value::Timestamp(_) | Value::Duration(_) => match super::library::standard::to_text(self)? {
                Value::String(text) => Json::String(text.to_string()),
                _ => Json::Null,
            },
            Value::List(List::Json { items, .. }) => Json::Array(items.to_vec()),
            Value::List(list) => list.iter().map(|item| item?.to_json()).collect::<Result<Vec<_>, _>>()?.into(),
            Value::Map(Map::Json { fields, .. }) => Json::Object((*fields).clone()),
            Value::Map(map) => {
                let mut fields = serde_json::Map::new();
                for (key, value) in map.entries() {
                    let Value::String(name) = super::library::standard::to_text(&key)? else { continue };
                    fields.insert(name.to_string(), value?.to_json()?);
                }
                Json::Object(fields)
            }
            Value::Struct(made) => {
                let fields = made.fields.iter().map(|(name, value)| Ok((name.to_string(), value.to_json()?)));
                Json::Object(fields.collect::<Result<_, EvalError>>()?)
            }
            Value::Quantity(quantity) => Json::String(quantity.to_string()),
            other => {
                return fault(format!("type conversion error from '{}' to 'google.protobuf.Value'", other.type_name()));
            }
        })
    }
}

/// The order of two numbers of any types; `None` when one is none, or not a number.
fn numbers(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (Value::Uint(a), Value::Uint(b)) => Some(a.cmp(b)),
        (Value::Int(a), Value::Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Value::Uint(a), Value::Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Value::Double(a), Value::Double(b)) => a.partial_cmp(b),
        (Value::Double(a), Value::Int(b)) => double(*a, i128::from(*b)),
        (Value::Double(a), Value::Uint(b)) => double(*a, i128::from(*b)),
        (Value::Int(a), Value::Double(b)) => double(*b, i128::from(*a)).map(Ordering::reverse),
        (Value::Uint(a), Value::Double(b)) => double(*b, i128::from(*a)).map(Ordering::reverse),
        _ => None,
    }
}
/// Exact: no integer is rounded to be compared.
fn double(a: f64, b: i128) -> Option<Ordering> {
    if a.is_nan() {
        return None;
    }
    let whole = a.floor();
    // saturates far outside of what 64 bits hold
    Some((whole as i128).cmp(&b).then(if a > whole { Ordering::Greater } else { Ordering::Equal }))
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
    fn equals(&self, other: &List<'a>) -> bool {
        if self.len() != other.len() {
            return false;
        }
        let unordered = matches!(self, List::Json { kind, .. } if !matches!(kind, ListType::Atomic));
        if unordered {
            return self.iter().all(|item| item.is_ok_and(|item| other.contains(&item).unwrap_or(false)));
        }
        self.iter().zip(other.iter()).all(|pair| matches!(pair, (Ok(a), Ok(b)) if a.equals(&b)))
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
            Map::Made(entries) => entries.len(),
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
            _ => None,
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
            Map::Made(entries) => entries.keys().map(Key::value).collect(),
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
            Map::Made(entries) => Ok(Arc::unwrap_or_clone(entries)),
            map => {
                let entries = map.entries().filter_map(|(key, value)| Some((Key::of(&key)?, value)));
                entries.map(|(key, value)| Ok((key, value?))).collect()
            }
        }
    }
    fn equals(&self, other: &Map<'a>) -> bool {
        self.len() == other.len()
            && self.entries().all(|(key, value)| match (value, other.find(&key)) {
                (Ok(a), Some(Ok(b))) => a.equals(&b),
                _ => false,
            })
    }
}
