//! What is declared of a value's type: made from OpenAPI schemas, read by the checker (as types), by the evaluator (formats,
//! escaped names, lists that are sets) and by the cost estimate (the most that a value can hold).
//!
//! Source: apiserver `pkg/cel/common/schemas.go`, `pkg/cel/types.go`, `pkg/cel/escaping.go`, `pkg/cel/limits.go`.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::Value as Json;

use super::types::Type;
use types::json;

/// The largest request that is accepted, in bytes: no value can be larger. Source: apiserver `pkg/apis/cel/config.go`.
pub const REQUEST_BYTES_MAX: i64 = 3 << 20;
/// RFC 3339 texts with quotes; Source: apiserver `pkg/cel/limits.go`.
const DATE_TIME_BYTES_MAX: i64 = 32;
const DATE_TIME_BYTES_MIN: i64 = 21;
const DURATION_BYTES_MAX: i64 = 32;
const DURATION_BYTES_MIN: i64 = 3;
const DATE_BYTES: i64 = 12;
/// How deep a schema may nest before the rest of it is not declared; upstream's schemas are trees of finite size, ours may
/// refer to themselves.
const DEPTH_MAX: usize = 32;

/// The declared type of a value.
#[derive(Debug, Clone, PartialEq)]
pub struct Decl {
    pub kind: DeclKind,
    /// The most items, entries or characters; 0 for what has none.
    pub max_elements: i64,
    /// The least bytes of the value as JSON.
    pub min_size: i64,
    pub nullable: bool,
    pub list_type: ListType,
    /// Of a map: what is selected by a name is known to be no larger than the values are.
    pub by_name: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum DeclKind {
    Dyn,
    Scalar(Type),
    List(Arc<Decl>),
    Map(Arc<Decl>),
    Object(Arc<ObjectDecl>),
}

/// How two lists are compared and joined. Source: `x-kubernetes-list-type`.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum ListType {
    #[default]
    Atomic,
    Set,
    /// The keys that identify an item.
    Map(Arc<[String]>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct ObjectDecl {
    /// How errors call the type.
    pub name: Arc<str>,
    /// By the name that expressions use.
    pub fields: BTreeMap<Arc<str>, FieldDecl>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct FieldDecl {
    /// The name in JSON.
    pub name: Arc<str>,
    pub decl: Arc<Decl>,
    pub required: bool,
}

impl DeclKind {
    pub fn type_of(&self) -> Type {
        match self {
            DeclKind::Dyn => Type::Dyn,
            DeclKind::Scalar(scalar) => scalar.clone(),
            DeclKind::List(item) => Type::list(item.kind.type_of()),
            DeclKind::Map(value) => Type::map(Type::String, value.kind.type_of()),
            DeclKind::Object(object) => Type::Object(object.name.clone()),
        }
    }
}

impl Decl {
    fn new(kind: DeclKind, max_elements: i64, min_size: i64) -> Self {
        Self { kind, max_elements, min_size, nullable: false, list_type: ListType::Atomic, by_name: false }
    }
    pub fn dynamic() -> Self {
        Self::new(DeclKind::Dyn, REQUEST_BYTES_MAX - 2, 1)
    }
    /// A value whose inside nobody declares: an authorizer, a quantity.
    pub fn opaque(of: Type) -> Self {
        Self::new(DeclKind::Scalar(of), 0, 1)
    }
    pub fn scalar(scalar: Type) -> Self {
        let (max, min) = match scalar {
            Type::String | Type::Bytes => (REQUEST_BYTES_MAX - 2, 2),
            Type::Bool => (0, 4),
            _ => (0, 1),
        };
        Self::new(DeclKind::Scalar(scalar), max, min)
    }
    pub fn list(item: Decl) -> Self {
        let max = (REQUEST_BYTES_MAX - 2) / (item.min_size + 1);
        Self::new(DeclKind::List(Arc::new(item)), max, 2)
    }
    pub fn map(value: Decl) -> Self {
        let max = (REQUEST_BYTES_MAX - 2) / (value.min_size + 6);
        Self::new(DeclKind::Map(Arc::new(value)), max, 2)
    }
    /// An object of that type name; fields under their names in JSON.
    pub fn object<'f>(name: &str, fields: impl IntoIterator<Item = (&'f str, Decl)>) -> Self {
        let fields = fields.into_iter().map(|(name, decl)| {
            let field = FieldDecl { name: name.into(), decl: Arc::new(decl), required: false };
            (Arc::from(name), field)
        });
        let object = ObjectDecl { name: name.into(), fields: fields.collect() };
        Self::new(DeclKind::Object(Arc::new(object)), 0, 2)
    }
    /// With so many elements at most.
    #[must_use]
    pub fn at_most(mut self, elements: i64) -> Self {
        self.max_elements = elements;
        self
    }
    #[must_use]
    pub fn nullable(mut self) -> Self {
        self.nullable = true;
        self
    }
    pub fn type_of(&self) -> Type {
        self.kind.type_of()
    }

    /// Every object type in it, by name, for the checker.
    pub fn collect_objects(&self, into: &mut HashMap<Arc<str>, Arc<ObjectDecl>>) {
        match &self.kind {
            DeclKind::List(inner) | DeclKind::Map(inner) => inner.collect_objects(into),
            DeclKind::Object(object) if into.insert(object.name.clone(), object.clone()).is_none() => {
                object.fields.values().for_each(|field| field.decl.collect_objects(into));
            }
            _ => {}
        }
    }

    /// What is declared of the value at the end of a path of field names, `@items`, `@values` and `@keys`.
    pub fn at<'d>(&'d self, path: &[Arc<str>]) -> Option<Cow<'d, Decl>> {
        let Some((step, rest)) = path.split_first() else { return Some(Cow::Borrowed(self)) };
        match (&self.kind, &**step) {
            (DeclKind::List(item), "@items") => item.at(rest),
            (DeclKind::Map(value), "@values") => value.at(rest),
            (DeclKind::Map(_), "@keys") if rest.is_empty() => {
                Some(Cow::Owned(Decl::new(DeclKind::Scalar(Type::String), 0, 2)))
            }
            (DeclKind::Object(object), name) => object.fields.get(name)?.decl.at(rest),
            (DeclKind::Map(value), _) if self.by_name => value.at(rest),
            _ => None,
        }
    }
}

/// Finds the schema that a `$ref` names.
pub type Resolve<'a> = &'a dyn Fn(&str) -> Option<&'a Json>;

/// Makes a declaration from an OpenAPI v3 schema. `root`: it is a whole object, which has `apiVersion`, `kind` and
/// `metadata` whether it says so or not. `name`: how errors call its type. `None`: nothing is declared of its type.
pub fn of_schema(schema: &Json, root: bool, name: &str, resolve: Resolve) -> Option<Decl> {
    Builder { resolve }.decl(schema, root, name, 0)
}

struct Builder<'a> {
    resolve: Resolve<'a>,
}

fn limit(schema: &Json, key: &str) -> Option<i64> {
    json::int(schema, key).map(|n| n.max(0))
}
fn flag(schema: &Json, key: &str) -> bool {
    json::boolean(schema, key)
}

impl Builder<'_> {
    fn decl(&self, schema: &Json, root: bool, name: &str, depth: usize) -> Option<Decl> {
        if depth > DEPTH_MAX {
            return None;
        }
        let schema = self.referred(schema)?;
        let mut decl = self.bare(schema, root, name, depth)?;
        decl.nullable = flag(schema, "nullable");
        Some(decl)
    }
    /// The schema that is meant: behind `$ref`, or the only one of `allOf`, as built-in kinds' documents have it.
    fn referred<'s>(&'s self, schema: &'s Json) -> Option<&'s Json> {
        let mut schema = schema;
        for _ in 0..DEPTH_MAX {
            if let Some(only) = schema.get("allOf").and_then(Json::as_array).filter(|a| a.len() == 1)
                && !schema.get("type").is_some_and(Json::is_string)
            {
                schema = &only[0];
            } else if let Some(name) = schema.get("$ref").and_then(Json::as_str) {
                schema = (self.resolve)(name)?;
            } else {
                return Some(schema);
            }
        }
        None
    }

    fn bare(&self, schema: &Json, root: bool, name: &str, depth: usize) -> Option<Decl> {
        let max_length = limit(schema, "maxLength");
        let int_or_string =
            flag(schema, "x-kubernetes-int-or-string") || json::text(schema, "format") == "int-or-string";
        if int_or_string {
            let max = max_length.map_or(REQUEST_BYTES_MAX - 2, |n| n.saturating_mul(4));
            return Some(Decl::new(DeclKind::Dyn, max, 1));
        }
        match json::text(schema, "type") {
            "array" => {
                let items = schema.get("items")?;
                let embedded = flag(items, "x-kubernetes-embedded-resource");
                let item = self.decl(items, embedded, &format!("{name}.@idx"), depth + 1)?;
                let mut list = Decl::list(item);
                if let Some(max) = limit(schema, "maxItems") {
                    list.max_elements = max;
                }
                list.list_type = match json::text(schema, "x-kubernetes-list-type") {
                    "set" => ListType::Set,
                    "map" => {
                        ListType::Map(json::texts(schema, "x-kubernetes-list-map-keys").map(str::to_owned).collect())
                    }
                    _ => ListType::Atomic,
                };
                Some(list)
            }
            "object" => match schema.get("additionalProperties").filter(|a| a.is_object()) {
                Some(values) => {
                    let embedded = flag(values, "x-kubernetes-embedded-resource");
                    let value = self.decl(values, embedded, &format!("{name}.@elem"), depth + 1)?;
                    let mut map = Decl::map(value);
                    if let Some(max) = limit(schema, "maxProperties") {
                        map.max_elements = max;
                    }
                    Some(map)
                }
                None => Some(self.object(schema, root, name, depth)),
            },
            "string" => Some(string(schema, max_length)),
            "boolean" => Some(Decl::scalar(Type::Bool)),
            "number" => Some(Decl::scalar(Type::Double)),
            "integer" => Some(Decl::scalar(Type::Int)),
            _ => None,
        }
    }

    fn object(&self, schema: &Json, root: bool, name: &str, depth: usize) -> Decl {
        let mut fields: BTreeMap<Arc<str>, FieldDecl> = BTreeMap::new();
        let mut min_size = 2;
        for (field, property) in json::map(schema, "properties") {
            let embedded = flag(property, "x-kubernetes-embedded-resource");
            let Some(decl) = self.decl(property, embedded, &format!("{name}.{field}"), depth + 1) else { continue };
            let required = json::texts(schema, "required").any(|r| r == field);
            if required && !json::has(property, "default") {
                min_size += i64::try_from(field.len()).unwrap_or(0) + decl.min_size + 4;
            }
            if let Some(escaped) = escape(field) {
                let declared = FieldDecl { name: field.as_str().into(), decl: Arc::new(decl), required };
                fields.insert(escaped.into(), declared);
            }
        }
        let declared = |path: &str| fields.get(path).is_some_and(|f| matches!(f.decl.kind, DeclKind::Object(_)));
        if root && !(fields.contains_key("kind") && fields.contains_key("apiVersion") && declared("metadata")) {
            let text = || Decl::scalar(Type::String);
            let metadata = Decl::object(&format!("{name}.metadata"), [("name", text()), ("generateName", text())]);
            for (field, decl) in [("kind", text()), ("apiVersion", text()), ("metadata", metadata)] {
                let declared = FieldDecl { name: field.into(), decl: Arc::new(decl), required: false };
                fields.insert(field.into(), declared);
            }
        }
        let object = ObjectDecl { name: name.into(), fields };
        Decl::new(DeclKind::Object(Arc::new(object)), 0, min_size)
    }
}

fn string(schema: &Json, max_length: Option<i64>) -> Decl {
    let sized = |scalar, max, min| Decl::new(DeclKind::Scalar(scalar), max, min);
    match json::text(schema, "format") {
        "byte" => sized(Type::Bytes, max_length.unwrap_or(REQUEST_BYTES_MAX - 2), 2),
        "duration" => sized(Type::Duration, DURATION_BYTES_MAX, DURATION_BYTES_MIN),
        "date" => sized(Type::Timestamp, DATE_BYTES, DATE_BYTES),
        "date-time" => sized(Type::Timestamp, DATE_TIME_BYTES_MAX, DATE_TIME_BYTES_MIN),
        _ => {
            let max = match max_length {
                // a character is at most four bytes
                Some(n) => n.saturating_mul(4),
                None => {
                    let longest = json::texts(schema, "enum").map(str::len).max();
                    longest.map_or(REQUEST_BYTES_MAX - 2, |n| i64::try_from(n).unwrap_or(i64::MAX))
                }
            };
            sized(Type::String, max, 2)
        }
    }
}

/// A field's name as expressions write it; `None` when they cannot name it.
pub fn escape(name: &str) -> Option<String> {
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    if crate::parser::RESERVED.contains(&name) {
        return Some(format!("__{name}__"));
    }
    let mut out = String::with_capacity(name.len());
    let mut chars = name.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '_' if chars.peek() == Some(&'_') => {
                chars.next();
                out.push_str("__underscores__");
            }
            '.' => out.push_str("__dot__"),
            '-' => out.push_str("__dash__"),
            '/' => out.push_str("__slash__"),
            c if c.is_ascii_alphanumeric() || c == '_' => out.push(c),
            _ => return None,
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_are_escaped() {
        for (name, escaped) in [
            ("a", Some("a")),
            ("namespace", Some("__namespace__")),
            ("a.b-c/d", Some("a__dot__b__dash__c__slash__d")),
            ("a__b", Some("a__underscores__b")),
            ("a_b", Some("a_b")),
            ("1a", None),
            ("a b", None),
            ("", None),
        ] {
            assert_eq!(escape(name).as_deref(), escaped, "{name}");
        }
    }

    #[test]
    fn schemas_become_declarations() {
        let schema = json!({"type": "object", "properties": {
            "replicas": {"type": "integer"},
            "port": {"x-kubernetes-int-or-string": true},
            "at": {"type": "string", "format": "date-time"},
            "tags": {"type": "array", "maxItems": 5, "x-kubernetes-list-type": "set", "items": {"type": "string", "maxLength": 10}},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "any": {"x-kubernetes-preserve-unknown-fields": true}
        }});
        let decl = of_schema(&schema, true, "self", &|_| None).unwrap();
        let DeclKind::Object(object) = &decl.kind else { panic!() };
        let types: Vec<String> = object.fields.iter().map(|(n, f)| format!("{n}: {}", f.decl.type_of())).collect();
        assert_eq!(
            types,
            [
                "apiVersion: string",
                "at: timestamp",
                "free: self.free",
                "kind: string",
                "labels: map(string, string)",
                "metadata: self.metadata",
                "port: dyn",
                "replicas: int",
                "tags: list(string)"
            ]
        );
        let tags = decl.at(&["tags".into()]).unwrap();
        assert_eq!((tags.max_elements, &tags.list_type), (5, &ListType::Set));
        assert_eq!(decl.at(&["tags".into(), "@items".into()]).unwrap().max_elements, 40);
        assert_eq!(decl.at(&["labels".into()]).unwrap().max_elements, (REQUEST_BYTES_MAX - 2) / 8);
    }
}
