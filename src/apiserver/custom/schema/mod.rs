//! A structural schema: the part of OpenAPI v3 that a CustomResourceDefinition may use, read once into a tree that pruning,
//! defaulting, validation and field ownership walk.
//!
//! Nothing here refuses a schema: what a definition may say is `hooks::apiextensions`' to check, and what could not be read
//! is as if it were not there.
//!
//! Source: apiextensions-apiserver `pkg/apiserver/schema/{structural,convert}.go`.

mod default;
mod format;
mod list;
mod meta;
mod number;
pub mod pattern;
mod prune;
pub mod rules;
mod validate;

use serde_json::{Map, Value};

pub use default::default;
pub use format::is_known as is_known_format;
pub use list::duplicates;
pub use meta::{coerce, embedded};
pub use prune::prune;
pub use validate::validate;

use pattern::Pattern;
use rules::Rule;

/// What a value must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Type {
    /// Nothing is said, or something that no value is.
    #[default]
    Any,
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

impl Type {
    fn read(text: &str) -> Self {
        match text {
            "object" => Type::Object,
            "array" => Type::Array,
            "string" => Type::String,
            "integer" => Type::Integer,
            "number" => Type::Number,
            "boolean" => Type::Boolean,
            _ => Type::Any,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Type::Any => "",
            Type::Object => "object",
            Type::Array => "array",
            Type::String => "string",
            Type::Integer => "integer",
            Type::Number => "number",
            Type::Boolean => "boolean",
        }
    }
}

/// How server-side apply and uniqueness see a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ListType {
    #[default]
    Atomic,
    Set,
    Map,
}

/// What fields besides the named ones an object may have.
#[derive(Debug, Default)]
pub enum Additional {
    /// Nothing is said.
    #[default]
    Unsaid,
    /// Any, or none.
    Any(bool),
    Of(Box<Schema>),
}

/// One node. Most nodes have a type and little else, so what few have is behind boxes.
#[derive(Debug, Default)]
pub struct Schema {
    pub type_: Type,
    pub nullable: bool,
    pub int_or_string: bool,
    pub preserve_unknown: bool,
    pub embedded: bool,
    pub list: ListType,
    /// The map is owned as a whole.
    pub map_atomic: bool,
    /// Sorted by name.
    pub properties: Box<[(Box<str>, Schema)]>,
    pub items: Option<Box<Schema>>,
    pub additional: Additional,
    pub keys: Box<[Box<str>]>,
    pub default: Option<Box<Value>>,
    pub checks: Option<Box<Checks>>,
    /// There are rules here or below.
    ruled: bool,
}

/// What values must be besides their type.
#[derive(Debug, Default)]
pub struct Checks {
    /// Empty for one that is not checked.
    pub format: Box<str>,
    pub pattern: Option<Pattern>,
    pub maximum: Option<(f64, bool)>,
    pub minimum: Option<(f64, bool)>,
    pub multiple_of: Option<f64>,
    pub max_length: Option<i64>,
    pub min_length: Option<i64>,
    pub max_items: Option<i64>,
    pub min_items: Option<i64>,
    pub max_properties: Option<i64>,
    pub min_properties: Option<i64>,
    pub unique_items: bool,
    pub required: Box<[Box<str>]>,
    pub choices: Box<[Value]>,
    pub all_of: Box<[Schema]>,
    pub any_of: Box<[Schema]>,
    pub one_of: Box<[Schema]>,
    pub not: Option<Box<Schema>>,
    /// `x-kubernetes-validations`.
    pub rules: Box<[Rule]>,
}

impl Schema {
    /// Reads a `JSONSchemaProps` that is about a part of an object.
    pub fn read(value: &Value) -> Self {
        Self::node(value, false)
    }

    /// Reads the schema of a whole object.
    pub fn root(value: &Value) -> Self {
        Self::node(value, true)
    }

    fn node(value: &Value, root: bool) -> Self {
        let Some(props) = value.as_object() else { return Self::default() };
        let flag = |key: &str| props.get(key).and_then(Value::as_bool).unwrap_or(false);
        let text = |key: &str| props.get(key).and_then(Value::as_str).unwrap_or_default();
        let mut properties: Vec<(Box<str>, Schema)> = props
            .get("properties")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .map(|(name, schema)| (name.as_str().into(), Schema::read(schema)))
            .collect();
        properties.sort_by(|a, b| a.0.cmp(&b.0));
        let items = props.get("items").filter(|i| i.is_object()).map(|items| Box::new(Schema::read(items)));
        let additional = match props.get("additionalProperties") {
            None | Some(Value::Null) => Additional::Unsaid,
            Some(Value::Bool(allowed)) => Additional::Any(*allowed),
            Some(schema) => Additional::Of(Box::new(Schema::read(schema))),
        };
        let checks = Checks::read(props, root).map(Box::new);
        let ruled = checks.as_ref().is_some_and(|checks| !checks.rules.is_empty())
            || properties.iter().any(|(_, schema)| schema.ruled)
            || items.as_ref().is_some_and(|items| items.ruled)
            || matches!(&additional, Additional::Of(schema) if schema.ruled);
        Self {
            type_: Type::read(text("type")),
            nullable: flag("nullable"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            list: match text("x-kubernetes-list-type") {
                "set" => ListType::Set,
                "map" => ListType::Map,
                _ => ListType::Atomic,
            },
            map_atomic: text("x-kubernetes-map-type") == "atomic",
            properties: properties.into(),
            items,
            additional,
            keys: texts(props, "x-kubernetes-list-map-keys"),
            default: props.get("default").filter(|d| !d.is_null()).cloned().map(Box::new),
            checks,
            ruled,
        }
    }

    pub fn property(&self, name: &str) -> Option<&Schema> {
        let at = self.properties.binary_search_by(|(n, _)| (**n).cmp(name)).ok()?;
        Some(&self.properties[at].1)
    }

    /// What is known of a field of an object, named or not.
    pub fn member(&self, name: &str) -> Option<&Schema> {
        self.property(name).or(match &self.additional {
            Additional::Of(schema) => Some(schema),
            Additional::Unsaid | Additional::Any(_) => None,
        })
    }

    /// `null` that is as good as absent.
    fn drops_null(&self) -> bool {
        !self.nullable
    }

    /// Whether there are rules anywhere in it.
    pub fn has_rules(&self) -> bool {
        self.ruled
    }

    /// The type in error texts.
    fn type_text(&self) -> &'static str {
        if self.int_or_string { "integer,string" } else { self.type_.as_str() }
    }
}

fn texts(props: &Map<String, Value>, key: &str) -> Box<[Box<str>]> {
    let list = props.get(key).and_then(Value::as_array).into_iter().flatten();
    list.filter_map(|v| v.as_str().map(Into::into)).collect()
}

impl Checks {
    fn read(props: &Map<String, Value>, root: bool) -> Option<Self> {
        const NAMES: &[&str] = &[
            "format",
            "pattern",
            "maximum",
            "minimum",
            "multipleOf",
            "maxLength",
            "minLength",
            "maxItems",
            "minItems",
            "maxProperties",
            "minProperties",
            "uniqueItems",
            "required",
            "enum",
            "allOf",
            "anyOf",
            "oneOf",
            "not",
            "x-kubernetes-validations",
        ];
        if !NAMES.iter().any(|name| props.contains_key(*name)) {
            return None;
        }
        let text = |key: &str| props.get(key).and_then(Value::as_str).unwrap_or_default();
        let flag = |key: &str| props.get(key).and_then(Value::as_bool).unwrap_or(false);
        let number = |key: &str| props.get(key).and_then(Value::as_f64);
        let count = |key: &str| props.get(key).and_then(Value::as_i64);
        let list = |key: &str| props.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let schemas = |key: &str| list(key).iter().map(Schema::read).collect();
        Some(Self {
            format: format::checked(text("type"), text("format"), flag("x-kubernetes-int-or-string")).into(),
            pattern: Some(text("pattern")).filter(|p| !p.is_empty()).map(Pattern::new),
            maximum: number("maximum").map(|n| (n, flag("exclusiveMaximum"))),
            minimum: number("minimum").map(|n| (n, flag("exclusiveMinimum"))),
            multiple_of: number("multipleOf"),
            max_length: count("maxLength"),
            min_length: count("minLength"),
            max_items: count("maxItems"),
            min_items: count("minItems"),
            max_properties: count("maxProperties"),
            min_properties: count("minProperties"),
            unique_items: flag("uniqueItems"),
            required: texts(props, "required"),
            choices: list("enum").into(),
            all_of: schemas("allOf"),
            any_of: schemas("anyOf"),
            one_of: schemas("oneOf"),
            not: props.get("not").filter(|n| n.is_object()).map(|n| Box::new(Schema::read(n))),
            rules: rules::compile(props, root),
        })
    }
}

/// Fields that an object has whatever its schema says.
pub const META_FIELDS: &[&str] = &["apiVersion", "kind", "metadata"];

#[cfg(test)]
mod tests;
