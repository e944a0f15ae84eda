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
use super::schema::{Decl, DeclKind, ListType};
use super::types::Type;

mod containers;
pub mod index;

pub use containers::{Key, List, Map, Shape};

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

/// The longest list that an expression makes, in items, and the longest text, in bytes. cel-go joins lists without copying
/// and prices a replacement by what it reads, so that costs alone bound neither; nobody could look at more within a budget.
pub const ITEMS_MAX: usize = 1 << 20;
pub const TEXT_BYTES_MAX: usize = 16 << 20;

/// What is more than anybody could look at ends the evaluation as the budget does.
pub fn bounded(size: usize, most: usize) -> Result<(), EvalError> {
    if size > most { Err(EvalError::OutOfBudget) } else { Ok(()) }
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
            Value::Timestamp(_) | Value::Duration(_) => match super::library::conversions::to_text(self)? {
                Value::String(text) => Json::String(text.to_string()),
                _ => Json::Null,
            },
            Value::List(List::Json { items, .. }) => Json::Array(items.to_vec()),
            Value::List(list) => list.iter().map(|item| item?.to_json()).collect::<Result<Vec<_>, _>>()?.into(),
            Value::Map(Map::Json { fields, .. }) => Json::Object((*fields).clone()),
            Value::Map(map) => {
                let mut fields = serde_json::Map::new();
                for (key, value) in map.entries() {
                    let Value::String(name) = super::library::conversions::to_text(&key)? else { continue };
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
